//! What reaches the writer: items of the streams in their order, late attempts at outputs, questions.

use bytestring::ByteString;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::projection::result::ResultMessage;
use crate::source::flow::{Delivery, Standing};
use crate::source::reconcile::Incarnation;
use crate::store::derive::{DuePair, OwnedPair};
use crate::store::output_book::{Owed, Repair};
use crate::wire::inventory::Snapshot;
use crate::wire::kv::StreamName;
use crate::wire::output::Attempt;
use crate::wire::result::Field;
use crate::wire::sequence::StreamSeq;
use crate::wire::started::EventStarted;

/// What the writer is asked to do.
#[derive(Debug)]
pub enum Work {
    /// An item of a stream, in its place in the order.
    Entry(Entry),
    /// A late attempt at an owed output.
    Repair(Box<RepairWork>),
    /// Pairs that are due, with what they are derived from.
    Derive(Vec<DuePair>),
    /// Other manifests are in force now.
    Manifests,
    /// Answered once no pair is left to be derived anew or released.
    WhenDerived(oneshot::Sender<()>),
    /// Which outputs are owed?
    Owed {
        /// Past their time only, or all that are pending, after this one.
        ask: OwedQuestion,
        /// The answer.
        reply: oneshot::Sender<Vec<Owed>>,
    },
    /// Finish the group in hand and end.
    Shutdown,
}

/// Which owed outputs are asked for.
#[derive(Clone, Debug)]
pub enum OwedQuestion {
    /// Those whose next attempt is due.
    Due,
    /// All that are pending, in key order, after this key.
    PendingAfter(Option<(String, Field)>),
}

/// One attempt at an owed output, and what it holds.
#[derive(Debug)]
pub struct RepairWork {
    /// For the store.
    pub repair: Repair,
    /// Bytes of the object.
    pub permit: Option<OwnedSemaphorePermit>,
    /// Told when it is committed.
    pub done: oneshot::Sender<()>,
}

/// An item with its opening.
#[derive(Debug)]
pub struct Entry {
    /// The stream.
    pub stream: StreamName,
    /// The opening.
    pub generation: u64,
    /// What it carries.
    pub cargo: Cargo,
}

/// What an entry carries.
#[derive(Debug)]
pub enum Cargo {
    /// A new life of the stream's sequences, or its first.
    Incarnation {
        /// Why, and from where.
        incarnation: Incarnation,
        /// The stream's last sequence when it was looked at.
        last: StreamSeq,
    },
    /// Sequences that no longer exist.
    Gap {
        /// First missing sequence.
        first: StreamSeq,
        /// Last missing sequence.
        last: StreamSeq,
        /// How it was found.
        reason: &'static str,
    },
    /// A message.
    Message(Box<Envelope>),
    /// The reader rests and asks where the stream stands.
    Rest(oneshot::Sender<Option<Standing>>),
}

/// A message with what was made of it.
#[derive(Debug)]
pub struct Envelope {
    /// As received.
    pub delivery: Delivery,
    /// Decoded.
    pub content: Message,
    /// Bytes of its objects.
    pub object_permit: Option<OwnedSemaphorePermit>,
}

/// What a message turned out to be.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly every message is a result, and its envelope is boxed"
)]
pub enum Message {
    /// A result, its pointers followed.
    Result {
        /// For the rules.
        result: ResultMessage,
    },
    /// A start event.
    Started(EventStarted<ByteString>),
    /// A snapshot of the stream INVENTORY.
    Snapshot(Snapshot),
    /// Not ours by rule: counted, nothing else (I3).
    Ignored,
    /// It cannot be projected: why.
    Dead(String),
}

/// One item of a group.
#[derive(Debug)]
pub(super) enum Unit {
    Entry(Entry),
    Repair(Box<RepairWork>),
    /// A due pair, to be derived anew.
    Derive(DuePair),
    /// A pair of which more waits than one transaction should apply.
    Release(OwnedPair),
}

impl Unit {
    /// Payload and objects, for the limit of a group.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Entry(Entry {
                cargo: Cargo::Message(envelope),
                ..
            }) => {
                let objects = match &envelope.content {
                    Message::Result { result } => [&result.stdout, &result.stderr]
                        .into_iter()
                        .flatten()
                        .map(|output| match &output.attempt {
                            Attempt::Fetched { content, .. } => content.len(),
                            _ => 0,
                        })
                        .sum(),
                    _ => 0,
                };
                envelope.delivery.payload.len() + objects
            }
            Self::Entry(_) | Self::Derive(_) | Self::Release(_) => 0,
            Self::Repair(work) => match &work.repair.output.attempt {
                Attempt::Fetched { content, .. } => content.len(),
                _ => 0,
            },
        }
    }
}
