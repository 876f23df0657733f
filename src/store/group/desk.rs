//! What a transaction needs of the store besides its connection.

use super::super::carry::Foreknowledge;
use super::super::completions::TriggerWatch;
use super::super::derive::{Orphans, Shapes};
use super::super::written::Written;
use crate::wire::sequence::StreamSeq;

/// See the module's words.
#[derive(Debug)]
pub(in super::super) struct Desk {
    pub(in super::super) triggers: TriggerWatch,
    pub(in super::super) letters: LetterRoom,
    pub(in super::super) shapes: Shapes,
    pub(in super::super) orphans: Orphans,
    /// The backend's own file.
    pub(in super::super) adopted: bool,
    /// In a scratch, where no trigger fires: whether the ledgers are written with each group.
    pub(in super::super) scratch_ledgers: Option<bool>,
    /// A scratch whose ledgers and counters are made of its rows afterwards.
    pub(in super::super) deferred: bool,
    /// In a scratch: groups share one transaction, which ends when the load does; no longer once one has failed, since that
    /// takes back all of them.
    pub(in super::super) shares_transaction: bool,
    /// The last launched result had a row, from its start event.
    pub(in super::super) starts_come_first: bool,
    /// See [`first_pass::until`](super::super::first_pass::until).
    pub(in super::super) first_pass: Option<StreamSeq>,
    /// Of the database that is there, in a load beside it.
    pub(in super::super) foreknown: Option<Foreknowledge>,
    /// What the connection has written.
    pub(in super::super) written: Written,
}

/// How many bytes of payloads and headers the dead-letter book may still take.
#[derive(Debug)]
pub(in super::super) struct LetterRoom {
    pub(in super::super) bytes: u64,
    pub(in super::super) bytes_max: u64,
    /// Whether it has been said that there is no room.
    pub(in super::super) overflowed: bool,
}
