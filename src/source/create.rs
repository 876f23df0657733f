//! What the backend makes when it starts, made as it would, when the operator asks for it.

use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::stream::StorageType;

use super::asking::{AskError, Js};
use super::connect::Connection;
use crate::wire::backend::{StoreSpec, StreamSpec};
use crate::wire::kv::{self, StreamName};
use crate::wire::object;

/// Creates a stream (contract §2.3).
pub(super) async fn create_stream(js: &Js, stream: StreamName) -> Result<(), AskError> {
    let spec = StreamSpec::of(stream);
    let config = jetstream::stream::Config {
        name: spec.name.to_owned(),
        subjects: vec![spec.subjects.to_owned()],
        max_age: Duration::from_secs(spec.max_age_seconds),
        max_bytes: i64::try_from(spec.max_bytes).unwrap_or(i64::MAX),
        storage: StorageType::File,
        ..jetstream::stream::Config::default()
    };
    js.answer(
        &format!("STREAM.CREATE.{stream}"),
        || format!("create the stream {stream}"),
        js.create_stream(config),
    )
    .await
    .map(|_| ())
}

/// Creates the object store of outputs as the backend would (contract §2.4), unless it is there.
///
/// # Errors
/// The server's.
pub async fn create_output_store(connection: &Connection) -> Result<(), AskError> {
    let js = connection.js();
    let stream = object::stream_name(kv::OBJECT_RESULT_OUTPUT);
    if js.stream_info(&stream).await?.is_some() {
        return Ok(());
    }
    let config = jetstream::object_store::Config {
        bucket: kv::OBJECT_RESULT_OUTPUT.to_owned(),
        max_age: Duration::from_secs(StoreSpec::OUTPUTS.max_age_seconds.unwrap_or(0)),
        max_bytes: i64::try_from(StoreSpec::OUTPUTS.max_bytes).unwrap_or(i64::MAX),
        ..jetstream::object_store::Config::default()
    };
    js.answer(
        &format!("STREAM.CREATE.{stream}"),
        || format!("create the object store {}", kv::OBJECT_RESULT_OUTPUT),
        js.create_object_store(config),
    )
    .await
    .map(|_| ())
}
