//! What flows between a reader and the rest: deliveries with their permits, the items they travel in, feedback.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{HeaderMap, Subject};
use bytes::Bytes;
use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

use super::connect::ConnectionState;
use super::reconcile::{Incarnation, Refusal, StreamFound};
use crate::wire::kv::StreamName;
use crate::wire::sequence::{Mark, StreamSeq, SubjectHash};
use crate::wire::time::Timestamp;

/// What one message in flight costs besides its bytes, estimated from peak memory under a backlog: the handles of its
/// texts, its place in a queue, the allocator's share.
const ITEM_OVERHEAD_BYTES: usize = 2_048;

/// A budget for what lies between the server and its commit (I6): for messages, and another for objects.
#[derive(Clone, Debug)]
pub struct Budget {
    pub(super) permits: Arc<Semaphore>,
    bytes_max: u32,
}

impl Budget {
    /// A budget of so many bytes.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        let bytes_max = u32::try_from(bytes).unwrap_or(u32::MAX);
        let permits = usize::try_from(bytes_max).unwrap_or(Semaphore::MAX_PERMITS);
        Self {
            permits: Arc::new(Semaphore::new(permits)),
            bytes_max,
        }
    }

    /// Reserves bytes, clamped to the whole budget: what is larger passes alone. First come, first served.
    pub async fn reserve(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.bytes_max);
        self.permits.clone().acquire_many_owned(bytes).await.ok()
    }

    /// What a message costs: its payload twice, for the bytes as they came and for the texts that JSON's escapes make it copy;
    /// never more than the whole budget, or it could never pass.
    pub(super) fn charge(&self, message: &async_nats::Message) -> u32 {
        let bytes = message.payload.len() * 2 + message.length.saturating_sub(message.payload.len());
        u32::try_from(bytes + ITEM_OVERHEAD_BYTES)
            .unwrap_or(u32::MAX)
            .min(self.bytes_max)
    }

    /// Messages that can be in flight at most, however small they are.
    #[must_use]
    pub fn messages_max(&self) -> usize {
        usize::try_from(self.bytes_max).unwrap_or(usize::MAX) / ITEM_OVERHEAD_BYTES + 1
    }

    /// Bytes taken now.
    #[must_use]
    pub fn taken_bytes(&self) -> u64 {
        u64::from(self.bytes_max).saturating_sub(self.permits.available_permits() as u64)
    }
}

/// One message as received, with the permit for its bytes: backpressure is the permit.
#[derive(Debug)]
pub struct Delivery {
    /// Its number in the stream.
    pub seq: StreamSeq,
    /// When the server stored it.
    pub published: Timestamp,
    /// As published.
    pub subject: Subject,
    /// Where an ack of it goes; `None` where nobody waits for one.
    pub reply: Option<Subject>,
    /// As published.
    pub headers: Option<HeaderMap>,
    /// As published.
    pub payload: Bytes,
    /// Whether the server had more behind it when it delivered it: something comes next.
    pub more_follows: bool,
    /// Held until it is committed.
    pub permit: OwnedSemaphorePermit,
}

impl Delivery {
    /// What identifies it in its stream.
    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark {
            seq: self.seq,
            published: self.published,
            subject: SubjectHash::of(&self.subject),
        }
    }
}

/// What a reader hands on, in stream order; `M`: a message, as received or as resolved.
#[derive(Debug)]
pub enum Read<M = Delivery> {
    /// A new life of the stream's sequences begins, or its first.
    Incarnation {
        /// Why, and from where.
        incarnation: Incarnation,
        /// The stream's last sequence when it was looked at.
        last: StreamSeq,
    },
    /// A message.
    Message(M),
    /// Sequences that no longer exist, in their place in the order.
    Gap {
        /// First missing sequence.
        first: StreamSeq,
        /// Last missing sequence.
        last: StreamSeq,
        /// How it was found.
        reason: &'static str,
    },
    /// The reader rests: once every older item is dealt with, it wants to know where the stream stands.
    Rest(oneshot::Sender<Option<ReaderStanding>>),
}

/// What was read, with its opening.
#[derive(Debug)]
pub struct Item<M = Delivery> {
    /// The stream.
    pub stream: StreamName,
    /// Counts the openings; items of older ones are dropped.
    pub generation: u64,
    /// What was read.
    pub read: Read<M>,
}

impl<M> Item<M> {
    /// The same item with another message in its place.
    pub fn map<N>(self, make: impl FnOnce(M) -> N) -> Item<N> {
        Item {
            stream: self.stream,
            generation: self.generation,
            read: match self.read {
                Read::Message(message) => Read::Message(make(message)),
                Read::Incarnation { incarnation, last } => Read::Incarnation { incarnation, last },
                Read::Gap { first, last, reason } => Read::Gap { first, last, reason },
                Read::Rest(reply) => Read::Rest(reply),
            },
        }
    }
}

/// Where a stream stands in the database, as far as the reader needs it.
#[derive(Clone, Debug)]
pub struct ReaderStanding {
    /// The committed position.
    pub position: StreamSeq,
    /// The message at the position (if one stands there) and kept ones, newest first.
    pub marks: Vec<Mark>,
}

/// What comes back from the writer: only the newest matters.
#[derive(Clone, Debug, Default)]
pub struct Feedback {
    /// The last commit that can be acked.
    pub ack: Option<Ack>,
    /// Set to a generation when its items were refused: open anew.
    pub reopen: Option<u64>,
}

impl Feedback {
    /// The last commit, if it can be acked in this generation (see [`Ack::generation`]).
    pub(super) fn ack_in(&self, generation: u64) -> Option<Ack> {
        self.ack.clone().filter(|ack| ack.generation == generation)
    }
}

/// How a reader behaves.
#[derive(Clone, Copy, Debug)]
pub struct ReaderSettings {
    /// Between two checks of a running reader.
    pub check_interval: Duration,
    /// How long another process's pulls are watched before its durable counts as in use.
    pub watch_limit: Duration,
    /// `--take-over-consumers`.
    pub take_over: bool,
    /// `--create-missing`.
    pub create_missing: bool,
    /// Which part of the stream is read.
    pub bounds: Bounds,
}

/// The part of a stream that is read; all of it by default.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bounds {
    /// Nothing before this, when the stream is read for the first time.
    pub from: Option<StreamSeq>,
    /// Nothing after this.
    pub until: Option<StreamSeq>,
}

impl Bounds {
    /// Whether a sequence comes after all that is read.
    pub(super) fn is_beyond(self, seq: StreamSeq) -> bool {
        self.until.is_some_and(|until| seq > until)
    }

    /// The last sequence that is handed on of those up to `last`.
    pub(super) fn end(self, last: StreamSeq) -> StreamSeq {
        self.until.map_or(last, |until| last.min(until))
    }
}

/// A committed sequence and where its ack goes.
#[derive(Clone, Debug)]
pub struct Ack {
    /// The opening it belongs to: acks of older ones are never sent: one late ack can
    /// silence a new consumer of the same name for good.
    pub generation: u64,
    /// The last committed sequence.
    pub seq: StreamSeq,
    /// Where the server listens for it; `None` where no delivery carried it (a gap).
    pub reply: Option<Subject>,
}

/// What a reader is doing, for people and for `--until-caught-up`.
#[derive(Clone, Debug, Default)]
pub struct ReaderState {
    /// The stream's last sequence at the first opening.
    pub first_last: Option<StreamSeq>,
    /// The stream's last sequence when last seen.
    pub last: Option<StreamSeq>,
    /// Why it is not reading; `None` while it reads.
    pub not_reading: Option<String>,
    /// The stream does not exist.
    pub missing: bool,
    /// Openings after the first.
    pub reopens: u64,
    /// Bytes that the stream holds, when last seen.
    pub bytes: u64,
    /// Bytes that it may hold, when last seen; `None`: no limit.
    pub bytes_max: Option<u64>,
    /// Stream sequence up to which the server knew of our acks when last seen.
    pub ack_floor: Option<StreamSeq>,
}

impl ReaderState {
    /// What the stream's leader has said.
    pub(super) fn look(&mut self, stream: &StreamFound) {
        self.last = Some(stream.last);
        self.bytes = stream.bytes;
        self.bytes_max = stream.bytes_max;
    }
}

/// The reader stops and the process with it: exit code 2.
#[derive(Debug, Error)]
#[error("cannot read the stream {stream}: {refusal}")]
pub struct Refused {
    /// The stream.
    pub stream: StreamName,
    /// Why, and the way out.
    pub refusal: Refusal,
}

/// Everything a reader is connected to.
#[derive(Debug)]
pub struct Wiring {
    /// Where items go. Unbounded: the permits bound it.
    pub items: mpsc::UnboundedSender<Item>,
    /// The current generation, for everybody who holds items.
    pub generation: watch::Sender<u64>,
    /// From the writer.
    pub feedback: watch::Receiver<Feedback>,
    /// The connection's ups and downs.
    pub connection: watch::Receiver<ConnectionState>,
    /// What this reader is doing.
    pub state: watch::Sender<ReaderState>,
    /// Turns true once.
    pub shutdown: watch::Receiver<bool>,
    /// Bytes in flight.
    pub budget: Budget,
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn only_what_was_committed_in_this_opening_is_acked() {
        let mut feedback = Feedback::default();
        assert!(feedback.ack_in(0).is_none());
        feedback.ack = Some(Ack {
            generation: 7,
            seq: StreamSeq(40),
            reply: Some("reply".into()),
        });
        for other in [0, 6, 8] {
            assert!(feedback.ack_in(other).is_none(), "generation {other}");
        }
        assert_eq!(feedback.ack_in(7).map(|ack| ack.seq), Some(StreamSeq(40)));
    }

    #[test]
    fn a_message_is_charged_for_its_payload_twice_and_never_for_more_than_there_is() {
        let message = |payload: usize, length: usize| async_nats::Message {
            subject: "results.q".into(),
            reply: None,
            payload: Bytes::from(vec![0; payload]),
            headers: None,
            status: None,
            description: None,
            length,
        };
        let budget = Budget::new(10_000);
        assert_eq!(budget.charge(&message(0, 0)), 2_048);
        assert_eq!(budget.charge(&message(1_000, 1_100)), 2_000 + 100 + 2_048);
        assert_eq!(budget.charge(&message(1 << 20, 1 << 20)), 10_000);
        assert_eq!(budget.messages_max(), 5);
        let held = budget.permits.clone().try_acquire_many_owned(4_000).unwrap();
        assert_eq!(budget.taken_bytes(), 4_000);
        drop(held);
        assert_eq!(budget.taken_bytes(), 0);
    }

    #[tokio::test]
    async fn objects_take_no_more_bytes_than_the_budget_has_and_a_larger_one_passes_alone() {
        let budget = Budget::new(100);
        let first = budget.reserve(60).await.unwrap();
        assert_eq!(first.num_permits(), 60);
        assert!(budget.reserve(50).now_or_never().is_none(), "50 of 40 bytes");
        let second = budget.reserve(40).now_or_never().unwrap();
        assert!(
            budget.reserve(1_000).now_or_never().is_none(),
            "a large one passes alone"
        );
        drop((first, second));
        let alone = budget.reserve(1_000).await.unwrap();
        assert_eq!(alone.num_permits(), 100);
        assert!(budget.reserve(1).now_or_never().is_none());
    }
}
