//! The server's side: streams and stores as the backend makes them, messages as agents publish them.

use std::time::Duration;

use async_nats::jetstream::{self, kv, object_store, stream};
use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};

use super::Planned;

/// Stores the objects of some messages.
pub async fn store_objects(js: &jetstream::Context, planned: &[Planned]) -> Result<(), async_nats::Error> {
    if planned.iter().all(|planned| planned.objects.is_empty()) {
        return Ok(());
    }
    let store = js.get_object_store("result_output").await?;
    let all: Vec<(String, Bytes)> = planned
        .iter()
        .flat_map(|planned| planned.objects.clone())
        .collect();
    let mut puts = FuturesUnordered::new();
    for (name, bytes) in all {
        let store = store.clone();
        puts.push(async move { store.put(name.as_str(), &mut &bytes[..]).await });
        if puts.len() >= 4
            && let Some(put) = puts.next().await
        {
            put?;
        }
    }
    while let Some(put) = puts.next().await {
        put?;
    }
    Ok(())
}

/// Publishes messages in their order, many acknowledgements under way at once.
pub async fn publish_messages(js: &jetstream::Context, planned: &[Planned]) -> Result<(), async_nats::Error> {
    let mut acks = FuturesUnordered::new();
    for planned in planned {
        let ack = js
            .publish(planned.subject.clone(), planned.payload.clone())
            .await?;
        acks.push(async move { ack.await });
        while acks.len() >= 200 {
            if let Some(ack) = acks.next().await {
                ack?;
            }
        }
    }
    while let Some(ack) = acks.next().await {
        ack?;
    }
    Ok(())
}

/// Publishes as agents do: what overflows first, then the messages.
pub async fn publish(js: &jetstream::Context, planned: &[Planned]) -> Result<(), async_nats::Error> {
    store_objects(js, planned).await?;
    publish_messages(js, planned).await
}

/// Creates the streams and stores that kanade's backend creates (contract §2.3, §2.4). `max_bytes` replaces its byte
/// limits: a test must not lose messages to them unless it means to.
pub async fn create_streams(
    js: &jetstream::Context,
    max_bytes: Option<i64>,
) -> Result<(), async_nats::Error> {
    create_replicated(js, max_bytes, 1).await
}

/// The same in a cluster, each with so many replicas.
pub async fn create_replicated(
    js: &jetstream::Context,
    max_bytes: Option<i64>,
    replicas: usize,
) -> Result<(), async_nats::Error> {
    const DAY: Duration = Duration::from_secs(86_400);
    for (name, subjects, days, mebibytes) in [
        ("RESULTS", "results.>", 30, 2_048),
        ("EVENTS", "events.>", 7, 256),
        ("INVENTORY", "inventory.>", 90, 1_024),
    ] {
        js.create_or_update_stream(stream::Config {
            name: name.into(),
            subjects: vec![subjects.into()],
            max_age: DAY * days,
            max_bytes: max_bytes.unwrap_or(mebibytes << 20),
            storage: stream::StorageType::File,
            num_replicas: replicas,
            ..Default::default()
        })
        .await?;
    }
    js.create_or_update_key_value(kv::Config {
        bucket: "jobs".into(),
        history: 5,
        num_replicas: replicas,
        ..Default::default()
    })
    .await?;
    output_store(js, max_bytes, replicas).await
}

/// Creates the object store of outputs.
pub async fn create_output_store(
    js: &jetstream::Context,
    max_bytes: Option<i64>,
) -> Result<(), async_nats::Error> {
    output_store(js, max_bytes, 1).await
}

async fn output_store(
    js: &jetstream::Context,
    max_bytes: Option<i64>,
    replicas: usize,
) -> Result<(), async_nats::Error> {
    js.create_object_store(object_store::Config {
        bucket: "result_output".into(),
        max_age: Duration::from_secs(7 * 86_400),
        max_bytes: max_bytes.unwrap_or(1 << 30),
        num_replicas: replicas,
        ..Default::default()
    })
    .await?;
    Ok(())
}
