//! What a stream holds, looked at before it is loaded; and whether it is still the one that a database has read.

use std::time::Duration;

use async_nats::jetstream::stream::Info;

use super::asking::{AskError, Js};
use super::flow::ReaderStanding;
use super::leader::Leader;
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

async fn count(js: &Js, name: &str) -> Result<Option<Census>, AskError> {
    Ok(js.stream_info(name).await?.as_ref().map(Census::of))
}

impl Census {
    pub(super) fn of(info: &Info) -> Self {
        let (config, state) = (&info.config, &info.state);
        Self {
            // A stream that never had a message says 0.
            first: StreamSeq(state.first_sequence.max(1)),
            last: StreamSeq(state.last_sequence),
            messages: state.messages,
            bytes: state.bytes,
            // -1 for no limit.
            bytes_max: u64::try_from(config.max_bytes).ok().filter(|bytes| *bytes > 0),
            max_age: Some(config.max_age).filter(|age| !age.is_zero()),
            oldest: (state.messages > 0).then(|| Timestamp::from(state.first_timestamp)),
        }
    }
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
pub async fn shared(leader: &Leader, standing: &ReaderStanding) -> Result<Shared, Unsaid> {
    let mut suspected = None;
    loop {
        let found = Found {
            stream: leader.state().await?,
            durable: None,
            known: Some(leader.known(standing.position, &standing.marks).await?),
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
pub async fn first_since(leader: &Leader, census: &Census, since: Timestamp) -> Result<StreamSeq, AskError> {
    // Publish times rise with sequences: halving finds the place.
    let (mut low, mut high) = (census.first.0, census.last.0 + 1);
    while low < high {
        let middle = low + (high - low) / 2;
        match leader.at_or_after(StreamSeq(middle)).await? {
            Some(found) if found.published < since => low = found.seq + 1,
            _ => high = middle,
        }
    }
    Ok(StreamSeq(low))
}
