//! What only the database that is there can know, carried into a scratch that was loaded from the streams (DESIGN §8.1):
//! after it the scratch says what the database should say. One connection sees both: `main` is the scratch, `old` the
//! database.

mod known;

use std::collections::BTreeMap;

use serde::Serialize;

pub use known::Foreknowledge;

/// What a scratch is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// It takes the database's place.
    Rebuild,
    /// What differs in the database is mended by it.
    Replay,
    /// What differs in the database is named.
    Verify,
}

/// What was taken from the database, since nothing else knows it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Vouched {
    /// The streams hold everything that was ever projected: what only the database has is wrong.
    pub complete: bool,
    /// By kind: how many.
    pub counts: BTreeMap<&'static str, u64>,
    /// Not compared, by reason: how many.
    pub not_compared: BTreeMap<&'static str, u64>,
}

impl Vouched {
    /// Counts some of a kind.
    pub fn add(&mut self, kind: &'static str, count: u64) {
        if count > 0 {
            *self.counts.entry(kind).or_default() += count;
        }
    }

    /// Counts some that are not compared.
    pub fn leave_out(&mut self, reason: &'static str, count: u64) {
        if count > 0 {
            *self.not_compared.entry(reason).or_default() += count;
        }
    }
}
