//! What a survey finds at the server, as plain data. Nothing here is judged.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use super::super::monitor::{Health, SyncPolicy};
use super::permissions::Need;
use crate::wire::time::Timestamp;

/// The answer to one question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Look<T> {
    /// It is there.
    Seen(T),
    /// It is not there.
    Missing,
    /// This login may not ask; the subject that would have to be allowed.
    NotAllowed(String),
    /// No usable answer came; why.
    Failed(String),
}

impl<T> Look<T> {
    /// What was seen.
    #[must_use]
    pub fn seen(&self) -> Option<&T> {
        match self {
            Self::Seen(found) => Some(found),
            _ => None,
        }
    }

    /// The same answer, about something made of what was seen.
    pub(super) fn map<U>(self, make: impl FnOnce(T) -> U) -> Look<U> {
        match self {
            Self::Seen(found) => Look::Seen(make(found)),
            Self::Missing => Look::Missing,
            Self::NotAllowed(subject) => Look::NotAllowed(subject),
            Self::Failed(why) => Look::Failed(why),
        }
    }
}

/// A stream: what it is, and what it holds. Limits of numbers that are 0 or negative are none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamFacts {
    /// What it takes.
    pub subjects: Vec<String>,
    /// `limits`, `interest` or `workqueue`.
    pub retention: String,
    /// `old` or `new`.
    pub discard: String,
    /// `file` or `memory`.
    pub storage: String,
    /// Oldest message; zero: no limit.
    pub max_age: Duration,
    /// Most bytes; `None`: no limit.
    pub max_bytes: Option<u64>,
    /// Most messages.
    pub max_messages: i64,
    /// Most messages of a subject.
    pub max_per_subject: i64,
    /// Any copy may answer for a single message.
    pub allow_direct: bool,
    /// Bytes it holds.
    pub bytes: u64,
    /// Messages it holds.
    pub messages: u64,
    /// First sequence.
    pub first: u64,
    /// Last sequence ever given.
    pub last: u64,
    /// Subjects that it holds messages of.
    pub subject_count: u64,
}

impl StreamFacts {
    /// Percent of its bytes that are taken; `None`: no limit.
    #[must_use]
    pub fn percent_full(&self) -> Option<u128> {
        let max = self.max_bytes?;
        (u128::from(self.bytes) * 100).checked_div(u128::from(max))
    }
}

/// The keys of a bucket, among them those that were deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys {
    /// Their names.
    pub names: Vec<String>,
    /// There are so many in all, where not every one was told.
    pub cut_of: Option<u64>,
}

/// What a key of a bucket holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The document.
    pub value: Bytes,
    /// When it was written, by the server's clock.
    pub changed: Timestamp,
}

/// What keys of a bucket hold, deleted ones left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// By key.
    pub entries: BTreeMap<String, Entry>,
    /// So many keys were not asked: there were too many, or it took too long.
    pub unasked: usize,
}

/// A durable consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DurableFacts {
    /// Pulls that wait on it.
    pub waiting: usize,
    /// Messages still to be delivered.
    pub pending: u64,
    /// Paused for so long still; `None`: not paused.
    pub paused: Option<Duration>,
    /// Deliveries of one message; negative: no limit.
    pub max_deliver: i64,
    /// Between two looks it delivered something.
    pub moved: bool,
}

/// The server's clock against ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// Milliseconds by which it is ahead; negative: behind.
    pub ahead_millis: i64,
    /// Milliseconds by which that may be wrong: half the way there and back.
    pub uncertain_millis: i64,
}

/// The server itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerFacts {
    /// Its version.
    pub version: String,
    /// Bytes of its longest message.
    pub max_payload: usize,
}

/// What the monitoring port says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MonitorFacts {
    /// `/healthz`, or why it says nothing.
    pub health: Result<Health, String>,
    /// `/varz`, or why it says nothing.
    pub sync: Result<SyncPolicy, String>,
}

/// Everything that a survey found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The server.
    pub server: ServerFacts,
    /// Its clock; `None` when no stream could be asked.
    pub clock: Option<Clock>,
    /// Streams by name; of buckets and object stores the streams behind them (`KV_…`, `OBJ_…`).
    pub streams: BTreeMap<String, Look<StreamFacts>>,
    /// Keys by bucket.
    pub keys: BTreeMap<&'static str, Look<Keys>>,
    /// Contents by bucket.
    pub contents: BTreeMap<&'static str, Look<Contents>>,
    /// Durables by stream and name: the backend's, then ours.
    pub durables: BTreeMap<(&'static str, String), Look<DurableFacts>>,
    /// What the service needs, and whether it is allowed; or why that is not known.
    pub permissions: Result<Vec<(Need, bool)>, String>,
}

impl Default for Facts {
    /// Nothing was found.
    fn default() -> Self {
        Self {
            server: ServerFacts::default(),
            clock: None,
            streams: BTreeMap::new(),
            keys: BTreeMap::new(),
            contents: BTreeMap::new(),
            durables: BTreeMap::new(),
            permissions: Ok(Vec::new()),
        }
    }
}
