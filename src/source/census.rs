//! What a stream holds, looked at before it is loaded; and whether it is still the one that a database has read.

use std::time::Duration;

use async_nats::{HeaderMap, Subject};
use bytes::Bytes;

use super::asking::{AskError, Js, Which};
use super::flow::Standing;
use super::opening::Desk;
use super::reconcile::{Found, Plan, Refusal, reconcile};
use crate::wire::kv::{OBJECT_RESULT_OUTPUT, StreamName};
use crate::wire::object::stream_name;
use crate::wire::sequence::StreamSeq;
use crate::wire::time::Timestamp;

/// A stream, counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Census {
    /// First sequence; `last + 1` when empty.
    pub first: StreamSeq,
    /// Last sequence ever given.
    pub last: StreamSeq,
    /// Messages it holds.
    pub messages: u64,
    /// Bytes they take.
    pub bytes: u64,
    /// Bytes that it may hold; `None`: no limit.
    pub bytes_max: Option<u64>,
    /// How long it keeps a message; `None`: for ever.
    pub max_age: Option<Duration>,
    /// Publish time of the oldest; `None` when it is empty.
    pub oldest: Option<Timestamp>,
}

/// Counts a stream; `None` when there is no such stream.
///
/// # Errors
/// When the leader does not answer.
pub async fn census(js: &Js, stream: StreamName) -> Result<Option<Census>, AskError> {
    count(js, stream.as_str()).await
}

/// Counts the object store of outputs: chunks and metadata alike.
///
/// # Errors
/// When the leader does not answer.
pub async fn census_of_outputs(js: &Js) -> Result<Option<Census>, AskError> {
    count(js, &stream_name(OBJECT_RESULT_OUTPUT)).await
}

/// The server says -1 for no limit.
pub(super) fn bytes_max(info: &async_nats::jetstream::stream::Info) -> Option<u64> {
    u64::try_from(info.config.max_bytes)
        .ok()
        .filter(|bytes| *bytes > 0)
}

async fn count(js: &Js, name: &str) -> Result<Option<Census>, AskError> {
    let info = js.stream_info(name).await?;
    Ok(info.map(|info| Census {
        first: StreamSeq(info.state.first_sequence.max(1)),
        last: StreamSeq(info.state.last_sequence),
        messages: info.state.messages,
        bytes: info.state.bytes,
        bytes_max: bytes_max(&info),
        max_age: Some(info.config.max_age).filter(|age| !age.is_zero()),
        oldest: (info.state.messages > 0).then(|| Timestamp::from(info.state.first_timestamp)),
    }))
}

/// A message as the stream holds it.
#[derive(Clone, Debug)]
pub struct Held {
    /// As published.
    pub subject: Subject,
    /// When the server stored it.
    pub published: Timestamp,
    /// As published; empty without any.
    pub headers: HeaderMap,
    /// As published.
    pub payload: Bytes,
}

/// One message, asked of the stream's leader; `None` when the stream does not hold it (any more).
///
/// # Errors
/// When the leader does not answer.
pub async fn message_at(js: &Js, stream: StreamName, seq: StreamSeq) -> Result<Option<Held>, AskError> {
    let which = Which {
        seq: Some(seq.0),
        ..Which::default()
    };
    let found = js
        .message(stream.as_str(), &which)
        .await
        .map_err(|error| AskError::new(format!("ask for message {seq} of {stream}"), error))?;
    Ok(found.map(|message| Held {
        subject: message.subject.into(),
        published: message.published,
        headers: message.headers,
        payload: message.payload,
    }))
}

/// How far a stream's messages are those that a database has read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shared {
    /// Up to its position: the same stream.
    All,
    /// Up to this message: what comes after it stands for others now.
    Until(StreamSeq),
    /// None of them.
    Nothing,
}

/// Why it cannot be said.
#[derive(Debug, thiserror::Error)]
pub enum Unsaid {
    /// The server.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// The stream is none that may be read.
    #[error("{0}")]
    Refused(Refusal),
}

/// Compares a stream with what a database remembers of it, as an opening does (DESIGN §3).
///
/// # Errors
/// When the leader does not answer, or the stream is none that may be read.
pub async fn shared(desk: &Desk, standing: &Standing) -> Result<Shared, Unsaid> {
    let mut suspected = None;
    loop {
        let found = Found {
            stream: desk.stream_state().await?,
            durable: None,
            known: Some(desk.known(standing.position, &standing.marks).await?),
            opened: None,
            watched: Duration::ZERO,
            watch_limit: Duration::ZERO,
            take_over: false,
            suspected,
        };
        match reconcile(&found) {
            Plan::WaitForStream => return Ok(Shared::Nothing),
            Plan::Refuse(refusal) => return Err(Unsaid::Refused(refusal)),
            Plan::LookAgain {
                after,
                suspected: now,
                ..
            } => {
                suspected = now;
                tokio::time::sleep(after).await;
            }
            Plan::Open(opening) => {
                return Ok(match opening.incarnation {
                    None => Shared::All,
                    Some(incarnation) => incarnation
                        .common
                        .map_or(Shared::Nothing, |common| Shared::Until(common.seq)),
                });
            }
        }
    }
}

/// The first message at or after a publish time; the stream's end + 1 when there is none.
///
/// # Errors
/// When the leader does not answer.
pub async fn first_since(desk: &Desk, census: &Census, since: Timestamp) -> Result<StreamSeq, AskError> {
    // Publish times rise with sequences: halving finds the place.
    let (mut low, mut high) = (census.first.0, census.last.0 + 1);
    while low < high {
        let middle = low + (high - low) / 2;
        match desk.next_at_or_after(StreamSeq(middle)).await? {
            Some((seq, published)) if published < since => low = seq.0 + 1,
            _ => high = middle,
        }
    }
    Ok(StreamSeq(low))
}
