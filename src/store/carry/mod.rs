//! What only the database that is there can know, carried into a scratch that was loaded from the streams (DESIGN §8.1):
//! after it the scratch says what the database should say. One connection sees both: `main` is the scratch, `old` the
//! database.

mod checks;
mod derived;
mod executions;
mod exploded;
mod ledgers;
mod oldest;
mod pairs;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use rusqlite::{Connection, Params};
use serde::Serialize;

use super::StoreError;

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

/// One statement; returns the rows it wrote.
fn run(conn: &Connection, what: &str, sql: &str, params: impl Params) -> Result<u64, StoreError> {
    conn.prepare(sql)
        .and_then(|mut statement| statement.execute(params))
        .map(|rows| u64::try_from(rows).unwrap_or(u64::MAX))
        .map_err(StoreError::sqlite(what))
}

/// Whether a query finds anything.
fn any(conn: &Connection, what: &str, sql: &str, params: impl Params) -> Result<bool, StoreError> {
    conn.prepare(sql)
        .and_then(|mut select| select.exists(params))
        .map_err(StoreError::sqlite(what))
}
