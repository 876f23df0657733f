//! The questions that the object store's stream is asked: metadata by name, chunks in order, the time.
//!
//! Direct gets: the client's own `get` leaves a consumer on the server for each object, and
//! the server allows a thousand. Where nobody answers direct gets (the bucket forbids them) the leader is asked.

use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::response::Response;
use async_nats::jetstream::stream::{DirectGetError, DirectGetErrorKind, Stream};
use async_nats::{StatusCode, Subscriber};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::super::asking::{Js, Raw, Which};
use crate::wire::kv::{self, StreamName};
use crate::wire::object;
use crate::wire::time::Timestamp;

/// Who is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Via {
    /// Any replica.
    Anybody,
    /// The stream's leader.
    Leader,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum AskFailed {
    /// The one that was asked has no such message.
    NotFound,
    /// Time-out, no responders, no such store, nonsense.
    Unreachable(String),
}

/// An object's metadata, as far as a reader needs it. Fields that are zero are not sent.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Meta {
    pub(super) name: String,
    #[serde(default)]
    pub(super) nuid: String,
    #[serde(default)]
    pub(super) size: u64,
    #[serde(default)]
    pub(super) chunks: u64,
    #[serde(default)]
    pub(super) digest: Option<String>,
    #[serde(default)]
    pub(super) deleted: bool,
    #[serde(default)]
    options: Option<Options>,
}

#[derive(Clone, Debug, Deserialize)]
struct Options {
    #[serde(default)]
    link: Option<serde::de::IgnoredAny>,
}

impl Meta {
    pub(super) fn is_link(&self) -> bool {
        self.options
            .as_ref()
            .is_some_and(|options| options.link.is_some())
    }
}

#[derive(Clone, Debug)]
pub(super) struct Bucket {
    pub(super) js: Js,
    handle: Stream<()>,
    stream: String,
}

/// The part of `STREAM.INFO` that tells the server's time.
#[derive(Deserialize)]
struct Clock {
    ts: Timestamp,
}

impl Bucket {
    pub(super) async fn new(js: Js) -> Result<Self, String> {
        let stream = object::stream_name(kv::OBJECT_RESULT_OUTPUT);
        let handle = js
            .get_stream_no_info(&stream)
            .await
            .map_err(|error| error.to_string())?;
        Ok(Self { js, handle, stream })
    }

    /// The newest metadata under a name.
    pub(super) async fn meta(&self, name: &str, via: Via) -> Result<Meta, AskFailed> {
        let subject = object::meta_subject(kv::OBJECT_RESULT_OUTPUT, name);
        let direct = match via {
            Via::Leader => None,
            Via::Anybody => {
                let question = format!("DIRECT.GET.{}.{subject}", self.stream);
                let answer = self.handle.direct_get_last_for_subject(&subject);
                self.direct(&question, answer).await?
            }
        };
        let payload = match direct {
            Some(message) => message.payload,
            None => self.leader(Which::last(&subject)).await?.payload,
        };
        let meta: Meta = serde_json::from_slice(&payload)
            .map_err(|error| AskFailed::Unreachable(format!("its metadata cannot be read: {error}")))?;
        if meta.name != name {
            return Err(AskFailed::Unreachable(
                "its metadata carries another name".to_owned(),
            ));
        }
        // A wildcard would ask for the chunks of other objects.
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if meta.chunks > 0 && (meta.nuid.is_empty() || !meta.nuid.chars().all(plain)) {
            return Err(AskFailed::Unreachable(
                "its metadata names no chunks of its own".to_owned(),
            ));
        }
        Ok(meta)
    }

    /// What chunks are asked by.
    pub(super) fn question(&self) -> String {
        format!("DIRECT.GET.{}", self.stream)
    }

    /// Asks what has several answers.
    pub(super) async fn ask_many(&self, question: &str, body: &impl Serialize) -> Result<Subscriber, String> {
        let body = serde_json::to_vec(body).map_err(|error| error.to_string())?;
        self.js
            .ask_many(question, body.into())
            .await
            .map_err(|error| error.to_string())
    }

    /// The first message of a subject after a sequence of the bucket's stream: its sequence and bytes.
    pub(super) async fn chunk_after(
        &self,
        subject: &str,
        after: u64,
        via: Via,
    ) -> Result<(u64, Bytes), AskFailed> {
        if via == Via::Anybody {
            let answer = self
                .handle
                .direct_get_next_for_subject(subject, Some(after.saturating_add(1)));
            if let Some(message) = self.direct(&self.question(), answer).await? {
                return Ok((message.sequence, message.payload));
            }
        }
        let message = self.leader(Which::from(after.saturating_add(1), subject)).await?;
        Ok((message.seq, message.payload))
    }

    /// A direct get; `None` where nobody answers them.
    async fn direct(
        &self,
        question: &str,
        answer: impl Future<Output = Result<StreamMessage, DirectGetError>>,
    ) -> Result<Option<StreamMessage>, AskFailed> {
        match self.js.ask(question, answer).await {
            Ok(Ok(message)) => Ok(Some(message)),
            Ok(Err(error)) if nobody_answers_direct_gets(&error) => Ok(None),
            Ok(Err(error)) => Err(direct_failed(error)),
            Err(denied) => Err(AskFailed::Unreachable(denied.to_string())),
        }
    }

    async fn leader(&self, which: Which<'_>) -> Result<Raw, AskFailed> {
        match self.js.message(&self.stream, &which).await {
            Ok(Some(message)) => Ok(message),
            Ok(None) => Err(AskFailed::NotFound),
            Err(error) => Err(AskFailed::Unreachable(error)),
        }
    }

    /// The time by the clock of the bucket's leader.
    pub(super) async fn server_time(&self) -> Result<Timestamp, AskFailed> {
        self.time_of(&self.stream, "the object store").await
    }

    /// The time by the clock of the leader of RESULTS, which is there when the bucket is not.
    pub(super) async fn results_time(&self) -> Result<Timestamp, AskFailed> {
        let results = StreamName::Results;
        self.time_of(results.as_str(), "the stream RESULTS").await
    }

    async fn time_of(&self, stream: &str, what: &str) -> Result<Timestamp, AskFailed> {
        let question = format!("STREAM.INFO.{stream}");
        let answer = self.js.request(question.clone(), &());
        let response: Response<Clock> = self
            .js
            .ask(&question, answer)
            .await
            .map_err(|denied| AskFailed::Unreachable(denied.to_string()))?
            .map_err(|error| AskFailed::Unreachable(format!("{what} does not answer: {error}")))?;
        match response {
            Response::Ok(clock) => Ok(clock.ts),
            Response::Err { error } => Err(AskFailed::Unreachable(format!("{what} is missing: {error}"))),
        }
    }
}

fn nobody_answers_direct_gets(error: &DirectGetError) -> bool {
    matches!(
        error.kind(),
        DirectGetErrorKind::ErrorResponse(StatusCode::NO_RESPONDERS, _)
    )
}

fn direct_failed(error: DirectGetError) -> AskFailed {
    match error.kind() {
        DirectGetErrorKind::NotFound => AskFailed::NotFound,
        _ => AskFailed::Unreachable(format!("the object store does not answer: {error}")),
    }
}
