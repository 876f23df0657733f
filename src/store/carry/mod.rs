//! What only the database that is there can know, carried into a scratch that was loaded from the streams (DESIGN §8.1):
//! after it the scratch says what the database should say. One connection sees both: `main` is the scratch, `old` the
//! database.

mod books;
mod checks;
mod derived;
mod executions;
mod exploded;
mod hand;
mod job;
mod known;
mod late;
mod ledgers;
mod letters;
mod oldest;
mod outputs;
mod pairs;
mod rows;
mod starts;

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::{Connection, Params, Transaction, TransactionBehavior};
use serde::Serialize;

use super::file::{file_bytes, percent_encoded, wal_path};
use super::{FileIdentity, StoreError};
use crate::projection::manifests::Manifests;
use crate::wire::time::Timestamp;

pub use books::Brought;
pub(super) use job::take_job;
pub use known::Foreknowledge;

/// What a scratch is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// It takes the database's place.
    Rebuild,
    /// What differs in the database is mended by it.
    Replay,
    /// It was loaded from a part of the streams, and what differs there is mended by it.
    ReplayPart,
    /// What differs in the database is named.
    Verify,
}

/// What was taken from the database, since nothing else knows it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Vouched {
    /// The streams hold everything that was ever projected: what only the database has is wrong.
    #[serde(rename = "complete")]
    pub all_at_hand: bool,
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
    pub carried: Brought,
}

/// What settling goes by.
struct Basis {
    purpose: Purpose,
    /// The database is the backend's own file: others have written older rows.
    adopted: bool,
    /// Nothing older exists than the scratch was loaded from.
    all_at_hand: bool,
}

impl Basis {
    /// What only the database has is wrong. Never for a rebuild, which must not know less than the database did.
    fn is_strict(&self) -> bool {
        self.all_at_hand && self.purpose != Purpose::Rebuild
    }
}

/// Completes a scratch with what only the database knows; for a rebuild also with the rows and books that only it has.
/// Nothing else may write the scratch meanwhile. `now` goes into `_wall` columns, and tells what the backend's
/// cleanup may have deleted.
pub(super) fn complete(
    conn: &Connection,
    manifests: &Manifests,
    purpose: Purpose,
    now: Timestamp,
) -> Result<Completed, StoreError> {
    // One transaction: one state of the database, and one of the scratch. It may have begun with a snapshot.
    let begun = conn
        .is_autocommit()
        .then(|| Transaction::new_unchecked(conn, TransactionBehavior::Deferred))
        .transpose()
        .map_err(StoreError::sqlite("begin to complete the scratch"))?;
    hand::prepare(conn)?;
    let adopted = hand::is_adopted(conn)?;
    let basis = Basis {
        purpose,
        adopted,
        all_at_hand: !adopted && hand::all_at_hand(conn)?,
    };
    let mut vouched = Vouched {
        all_at_hand: basis.all_at_hand,
        ..Vouched::default()
    };
    rows::settle_rows(conn, manifests, &basis, &mut vouched)?;
    derived::settle_derived(conn, manifests, &basis, &mut vouched)?;
    let carried = match purpose {
        Purpose::Rebuild => books::bring(conn, &basis)?,
        Purpose::Replay | Purpose::ReplayPart | Purpose::Verify => Brought::new(),
    };
    executions::settle_ledgers_and_executions(conn, &basis, now, &mut vouched)?;
    if let Some(begun) = begun {
        begun
            .commit()
            .map_err(StoreError::sqlite("complete the scratch"))?;
    }
    Ok(Completed { vouched, carried })
}

/// Attaches the database that is there under a name. The connection must take URIs.
pub(super) fn attach(
    conn: &Connection,
    database: &Path,
    name: &str,
    read_only: bool,
) -> Result<(), StoreError> {
    let what = || format!("open the database {}", database.display());
    FileIdentity::of(database).map_err(|source| StoreError::no_file(database, source))?;
    let attach = |mode: &str| -> Result<(), rusqlite::Error> {
        let uri = format!("file:{}?{mode}", percent_encoded(database));
        conn.execute(&format!("ATTACH ?1 AS {name}"), [uri])?;
        let looked = conn.query_row(&format!("SELECT count(*) FROM {name}.sqlite_schema"), [], |_| {
            Ok(())
        });
        if looked.is_err() {
            conn.execute_batch(&format!("DETACH {name}"))?;
        }
        looked
    };
    match attach(if read_only { "mode=ro" } else { "mode=rw" }) {
        // As in [`read_only`](super::read_only): no log to read, and none can be made.
        Err(rusqlite::Error::SqliteFailure(failure, _))
            if read_only
                && failure.code == rusqlite::ErrorCode::CannotOpen
                && file_bytes(&wal_path(database)) == 0 =>
        {
            attach("immutable=1")
        }
        outcome => outcome,
    }
    .map_err(StoreError::sqlite(what()))
}

/// In the place of a database: an empty one under the name `old`, with the completions of the one named here.
pub(super) fn attach_nothing(conn: &Connection, completions_of: Option<&Path>) -> Result<(), StoreError> {
    let attach_empty = || -> Result<(), rusqlite::Error> {
        conn.execute_batch("ATTACH ':memory:' AS old")?;
        let tables: Vec<String> = conn
            .prepare("SELECT sql FROM main.sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'")?
            .query_map([], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        for sql in tables {
            conn.execute_batch(&sql.replacen("CREATE TABLE ", "CREATE TABLE old.", 1))?;
        }
        Ok(())
    };
    attach_empty().map_err(StoreError::sqlite("stand in for a database"))?;
    let Some(database) = completions_of else {
        return Ok(());
    };
    attach(conn, database, "completions", true)?;
    let keep = "keep the completions";
    for ledger in ledgers::there(conn, "completions")? {
        let copy = format!("INSERT INTO old.{0} SELECT * FROM completions.{0}", ledger.name);
        run(conn, keep, &copy, [])?;
    }
    run(conn, keep, "DETACH completions", [])?;
    Ok(())
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

#[cfg(test)]
mod tests;
