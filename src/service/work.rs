//! What reaches the writer: items of the streams in their order, late attempts at outputs, questions.

use bytestring::ByteString;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::projection::result::ResultMessage;
use crate::source::flow::{Delivery, Item, Read, ReaderStanding};
use crate::store::Lines;
use crate::store::dead_letters::LetterId;
use crate::store::derive::{DuePair, OwnedPair};
use crate::store::output_book::{Owed, Repair};
use crate::wire::inventory::Snapshot;
use crate::wire::kv::StreamName;
use crate::wire::output::Attempt;
use crate::wire::result::Field;
use crate::wire::started::EventStarted;
use crate::wire::time::Timestamp;

/// What the writer is asked to do.
#[derive(Debug)]
pub enum Work {
    /// What joins a group.
    Unit(Unit),
    /// A reader rests, and asks where its stream stands once every older item is dealt with.
    Rest {
        /// The stream.
        stream: StreamName,
        /// The answer.
        reply: oneshot::Sender<Option<ReaderStanding>>,
    },
    /// Pairs that are due, with what they are derived from.
    Derive(Vec<DuePair>),
    /// Other manifests are in force now.
    Manifests,
    /// Answered once no pair is left to be derived anew or released.
    WhenDerived(oneshot::Sender<()>),
    /// The end of a load: once this is answered others can read what was written, beside the writer, and each group stands by
    /// itself. `Err`: it could not be committed, and nothing of it is there.
    LoadIsOver(oneshot::Sender<Result<(), String>>),
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

impl Work {
    /// What comes of a stream.
    #[must_use]
    pub fn of(item: Resolved) -> Self {
        match item {
            Item {
                stream,
                read: Read::Rest(reply),
                ..
            } => Self::Rest { stream, reply },
            item => Self::Unit(Unit::Item(item)),
        }
    }
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

/// What an operator wants done with a dead letter.
#[derive(Debug)]
pub struct LetterWork {
    /// Which one.
    pub place: LetterId,
    /// What is to be done.
    pub order: LetterOrder,
    /// Bytes of its objects.
    pub permit: Option<OwnedSemaphorePermit>,
    /// Told what became of it when that is committed.
    pub done: oneshot::Sender<LetterOutcome>,
    /// What will be told.
    pub(super) outcome: LetterOutcome,
}

impl LetterWork {
    /// An order that nobody has looked at yet.
    #[must_use]
    pub fn new(place: LetterId, order: LetterOrder, done: oneshot::Sender<LetterOutcome>) -> Self {
        Self {
            place,
            order,
            permit: None,
            done,
            outcome: LetterOutcome::NotThere,
        }
    }
}

/// See [`LetterWork`].
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "boxed where it is kept")]
pub enum LetterOrder {
    /// Project it, if it can be projected now.
    Project {
        /// When the server stored it.
        published: Timestamp,
        /// As it is decoded now.
        content: Message,
        /// For the message that its row is made of.
        lines: Lines,
    },
    /// Give it up.
    Discard,
}

/// What became of a dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LetterOutcome {
    /// Projected; it is no dead letter any more.
    Projected,
    /// It still cannot be projected: why.
    Kept(String),
    /// Given up.
    Discarded,
    /// There is none in the book.
    NotThere,
}

/// An item of a stream, its message resolved.
pub type Resolved = Item<Box<Envelope>>;

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
    /// A result.
    Result(ResultMessage),
    /// A start event.
    Started(EventStarted<ByteString>),
    /// A snapshot of the stream INVENTORY.
    Snapshot(Snapshot),
    /// Not ours by rule: counted, nothing else (I3).
    Ignored,
    /// It cannot be projected: why.
    Dead(String),
}

impl Message {
    fn object_bytes(&self) -> usize {
        let Self::Result(result) = self else {
            return 0;
        };
        [&result.stdout, &result.stderr]
            .into_iter()
            .flatten()
            .map(|output| match &output.attempt {
                Attempt::Fetched { content, .. } => content.len(),
                _ => 0,
            })
            .sum()
    }

    /// Whether a pointer of its could not be followed yet.
    pub(super) fn owes_outputs(&self) -> bool {
        let Self::Result(result) = self else {
            return false;
        };
        [&result.stdout, &result.stderr]
            .into_iter()
            .flatten()
            .any(|output| matches!(output.attempt, Attempt::Pending(_)))
    }
}

/// One item of a group.
#[derive(Debug)]
pub enum Unit {
    /// Of a stream, in its place in the order.
    Item(Resolved),
    /// A late attempt at an owed output.
    Repair(Box<RepairWork>),
    /// A dead letter, tried again or given up by hand.
    Letter(Box<LetterWork>),
    /// A due pair, to be derived anew.
    Derive(DuePair),
    /// A pair of which more waits than one transaction should apply.
    Release(OwnedPair),
}

impl Unit {
    /// The message, if it is one.
    pub(super) fn message(&self) -> Option<&Envelope> {
        match self {
            Self::Item(Item {
                read: Read::Message(envelope),
                ..
            }) => Some(envelope),
            _ => None,
        }
    }

    /// Payload and objects, for the limit of a group.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Item(Item {
                read: Read::Message(envelope),
                ..
            }) => envelope.delivery.payload.len() + envelope.content.object_bytes(),
            Self::Letter(work) => match &work.order {
                LetterOrder::Project { content, .. } => content.object_bytes(),
                LetterOrder::Discard => 0,
            },
            Self::Item(_) | Self::Derive(_) | Self::Release(_) => 0,
            Self::Repair(work) => match &work.repair.output.attempt {
                Attempt::Fetched { content, .. } => content.len(),
                _ => 0,
            },
        }
    }
}
