//! What only the database that is there can know, carried into a scratch that was loaded from the streams (DESIGN §8.1):
//! after it the scratch says what the database should say. One connection sees both: `main` is the scratch, `old` the
//! database.

mod known;

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::Connection;
use serde::Serialize;

use super::StoreError;
use crate::projection::manifests::Manifests;
use crate::wire::time::Timestamp;

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

/// How a scratch was completed.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Completed {
    /// What the database alone knows.
    pub vouched: Vouched,
    /// By table: rows that were brought over whole.
    pub carried: BTreeMap<&'static str, u64>,
}

pub(super) fn attach(conn: &Connection, database: &Path, read_only: bool) -> Result<(), StoreError> {
    attach_as(conn, database, "old", read_only)
}

pub(super) fn attach_as(
    conn: &Connection,
    database: &Path,
    name: &str,
    read_only: bool,
) -> Result<(), StoreError> {
    let mode = if read_only { "?mode=ro" } else { "" };
    let uri = format!("file:{}{mode}", super::open::percent_encoded(database));
    conn.execute(&format!("ATTACH ?1 AS {name}"), [uri])
        .map(|_| ())
        .map_err(StoreError::sqlite(format_args!(
            "open {} beside the scratch",
            database.display()
        )))
}

pub(super) fn complete(
    conn: &Connection,
    _manifests: &Manifests,
    _purpose: Purpose,
    _now: Timestamp,
) -> Result<Completed, StoreError> {
    conn.execute_batch(
        "INSERT INTO main.job_completions SELECT job_id, pc_id, max(finished_at) FROM main.execution_results WHERE exit_code = 0 AND job_id IS NOT NULL AND finished_at IS NOT NULL GROUP BY 1, 2;
         INSERT INTO main.job_version_completions SELECT job_id, pc_id, version, max(finished_at) FROM main.execution_results WHERE exit_code = 0 AND job_id IS NOT NULL AND finished_at IS NOT NULL AND version IS NOT NULL GROUP BY 1, 2, 3"
    ).map_err(StoreError::sqlite("ledgers"))?;
    Ok(Completed::default())
}
