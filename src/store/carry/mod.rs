//! What only the database that is there can know, carried into a scratch that was loaded from the streams (DESIGN §8.1):
//! after it the scratch says what the database should say. One connection sees both: `main` is the scratch, `old` the
//! database.

mod books;
mod hand;
mod known;
mod late;
mod letters;
mod outputs;
mod rows;
mod starts;

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use serde::Serialize;

use super::open::{self, file_bytes, percent_encoded, wal_path};
use super::{FileIdentity, StoreError};
use crate::projection::manifests::Manifests;

pub use books::Brought;
pub use known::Foreknowledge;

/// SQLite's page cache for each of the two files, KiB: keys are met in no order.
const CACHE_KIB: i64 = 128 << 10;

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

/// Completes a scratch with what only the database knows; for a rebuild also with the rows and books that only it has.
/// Nothing else may write the scratch meanwhile.
///
/// # Errors
/// SQLite's; [`StoreError::Unusable`] when the two do not end at the same messages.
pub fn carry_over(
    scratch: &Path,
    old: &Path,
    manifests: &Manifests,
    purpose: Purpose,
) -> Result<(Vouched, Brought), StoreError> {
    let mut conn = connect(scratch)?;
    attach(&conn, old, true)?;
    // One transaction: one state of the database.
    let tx = conn
        .transaction()
        .map_err(StoreError::sqlite("begin a transaction"))?;
    hand::prepare(&tx)?;
    let complete = hand::complete(&tx)?;
    let mut vouched = Vouched {
        complete,
        ..Vouched::default()
    };
    rows::settle_rows(&tx, manifests, purpose, &mut vouched)?;
    let brought = match purpose {
        Purpose::Rebuild => books::bring(&tx, complete)?,
        Purpose::Replay | Purpose::Verify => Brought::new(),
    };
    tx.commit().map_err(StoreError::sqlite("commit"))?;
    Ok((vouched, brought))
}

/// A connection to a scratch, to which [`attach`] can attach the database.
pub(crate) fn connect(scratch: &Path) -> Result<Connection, StoreError> {
    let what = || format!("open the scratch file {}", scratch.display());
    let flags =
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    let uri = format!("file:{}?mode=rw", percent_encoded(scratch));
    let open = || -> Result<Connection, rusqlite::Error> {
        let conn = Connection::open_with_flags(uri, flags)?;
        conn.busy_timeout(open::BUSY_TIMEOUT)?;
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
        conn.pragma_update(None, "mmap_size", 0)?;
        conn.pragma_update(None, "cache_size", -CACHE_KIB)?;
        // As many lines as the streams have messages: more than memory is for.
        conn.pragma_update(None, "temp_store", "FILE")?;
        Ok(conn)
    };
    open().map_err(StoreError::sqlite(what()))
}

/// Attaches the database that is there as `old`. The connection must be one of [`connect`]'s.
pub(crate) fn attach(conn: &Connection, old: &Path, read_only: bool) -> Result<(), StoreError> {
    let what = || format!("open the database {}", old.display());
    FileIdentity::of(old).map_err(|source| open::cannot_open(old, source))?;
    let attach = |mode: &str| -> Result<(), rusqlite::Error> {
        let uri = format!("file:{}?{mode}", percent_encoded(old));
        conn.execute("ATTACH ?1 AS old", [uri])?;
        conn.pragma_update(Some("old"), "cache_size", -CACHE_KIB)?;
        let looked = conn.query_row("SELECT count(*) FROM old.sqlite_schema", [], |_| Ok(()));
        if looked.is_err() {
            conn.execute_batch("DETACH old")?;
        }
        looked
    };
    match attach(if read_only { "mode=ro" } else { "mode=rw" }) {
        // As in [`open::read_only`]: no log to read, and none can be made.
        Err(rusqlite::Error::SqliteFailure(failure, _))
            if read_only
                && failure.code == rusqlite::ErrorCode::CannotOpen
                && file_bytes(&wal_path(old)) == 0 =>
        {
            attach("immutable=1")
        }
        outcome => outcome,
    }
    .map_err(StoreError::sqlite(what()))
}
