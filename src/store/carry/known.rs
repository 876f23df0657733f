//! What a load must know of the database that is there before it projects anything (DESIGN §8.1): the streams and the
//! object store forget sooner than the database does.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytestring::ByteString;
use rusqlite::{Connection, OptionalExtension, params};
use sha2::{Digest, Sha256};

use super::super::kind::is_adopted;
use super::super::{StoreError, open};
use super::outputs::is_fetched;
use crate::wire::hex::unhex;
use crate::wire::kv::StreamName;
use crate::wire::output::{Attempt, Content, State};
use crate::wire::result::Field;
use crate::wire::sequence::StreamSeq;
use crate::wire::time::Timestamp;

/// Read from the database that is there, for a load beside it.
#[derive(Debug)]
pub struct Foreknowledge {
    old: Connection,
    adopted: bool,
    /// Messages of RESULTS that were duplicates of one that may be gone by now: sequence, and publish time in nanoseconds.
    duplicates: HashSet<(u64, i64)>,
    /// Stream, sequence and publish time of what an operator has given up, with its reason.
    discarded: BTreeMap<(StreamName, u64, String), String>,
    last_entry: i64,
    carried_outputs: Arc<AtomicU64>,
}

impl Foreknowledge {
    /// Reads what a load that begins at `starts` must know. The database may be in use meanwhile.
    ///
    /// # Errors
    /// As [`open::read_only`]; SQLite's.
    pub fn read(old: &Path, starts: &BTreeMap<StreamName, StreamSeq>) -> Result<Self, StoreError> {
        let conn = open::read_only(old)?;
        let adopted = is_adopted(&conn)?;
        let start = starts.get(&StreamName::Results).copied();
        let duplicates = start.map_or_else(|| Ok(HashSet::new()), |start| duplicates(&conn, start, adopted));
        let duplicates =
            duplicates.map_err(StoreError::sqlite("read the duplicates in projector_results"))?;
        let last_entry = conn
            .query_row(
                "SELECT coalesce(max(entry), 0) FROM projector_results",
                [],
                |row| row.get(0),
            )
            .map_err(StoreError::sqlite("read the end of projector_results"))?;
        let discarded = discarded(&conn, starts).map_err(StoreError::sqlite(
            "read what was discarded of projector_dead_letters",
        ))?;
        Ok(Self {
            old: conn,
            adopted,
            duplicates,
            discarded,
            last_entry,
            carried_outputs: Arc::default(),
        })
    }

    /// How many outputs were taken from the database, the object store having them no more.
    #[must_use]
    pub fn carried_outputs(&self) -> u64 {
        self.carried_outputs.load(Ordering::Relaxed)
    }

    /// Counts them in `counter`: a load takes place in several parts, and each ends with its store.
    #[must_use]
    pub fn counting_in(mut self, counter: &Arc<AtomicU64>) -> Self {
        self.carried_outputs = counter.clone();
        self
    }

    pub(in super::super) fn add_carried_outputs(&self, count: u64) {
        self.carried_outputs.fetch_add(count, Ordering::Relaxed);
    }

    /// The number of the last line in the database's `projector_results`: the load's lines follow it, so that those that
    /// are brought over keep theirs.
    pub(in super::super) fn last_entry(&self) -> i64 {
        self.last_entry
    }

    /// Whether this message was a duplicate when it was first projected. Where its first message is at hand that would
    /// be found again; where it is gone, only the database tells.
    pub(in super::super) fn is_duplicate(&self, seq: StreamSeq, published: Timestamp) -> bool {
        !self.duplicates.is_empty()
            && published
                .unix_nanos()
                .is_some_and(|nanos| self.duplicates.contains(&(seq.0, nanos)))
    }

    /// Why a message was discarded, if it was.
    pub(in super::super) fn discarded(
        &self,
        stream: StreamName,
        seq: StreamSeq,
        published: Timestamp,
    ) -> Option<&str> {
        if self.discarded.is_empty() {
            return None;
        }
        self.discarded
            .get(&(stream, seq.0, published.stored()))
            .map(String::as_str)
    }

    /// An output as the database holds it, as if it had been fetched; `None` when it has none either.
    pub(in super::super) fn output(
        &self,
        result_id: &str,
        field: Field,
        object: &str,
    ) -> Result<Option<Attempt>, StoreError> {
        let what = || format!("look for {field} of result {result_id:?} in the database that is there");
        let found: Option<Held> = self
            .old
            .prepare_cached(&format!(
                "SELECT book.state, book.object, book.size_bytes, book.sha256, book.reason IS NULL,
                     CASE WHEN book.state IS NULL OR book.state = 'fetched' THEN row.{field} ELSE '' END
                 FROM execution_results row
                     LEFT JOIN projector_outputs book ON book.result_id = row.result_id AND book.field = ?2
                 WHERE row.result_id = ?1 AND row.finished_at IS NOT NULL AND row.reaped = 0"
            ))
            .and_then(|mut select| {
                select
                    .query_row(params![result_id, field.as_str()], Held::read)
                    .optional()
            })
            .map_err(StoreError::sqlite(what()))?;
        Ok(found.and_then(|held| held.attempt(self.adopted, field, object)))
    }
}

/// A row's text and what the book says of it.
struct Held {
    state: Option<String>,
    object: Option<String>,
    size_bytes: Option<usize>,
    sha256: Option<String>,
    verified: bool,
    text: String,
}

impl Held {
    fn read(row: &rusqlite::Row<'_>) -> Result<Self, rusqlite::Error> {
        Ok(Self {
            state: row.get(0)?,
            object: row.get(1)?,
            size_bytes: row.get(2)?,
            sha256: row.get(3)?,
            verified: row.get(4)?,
            text: row.get(5)?,
        })
    }

    fn attempt(self, adopted: bool, field: Field, object: &str) -> Option<Attempt> {
        let (size, sha256, verified) = match self.state.as_deref().map(State::parse) {
            Some(Some(State::Fetched)) if self.object.as_deref() == Some(object) => {
                (self.size_bytes?, unhex(self.sha256.as_deref()?)?, self.verified)
            }
            None if adopted && is_fetched(&self.text, field, object) => {
                (self.text.len(), Sha256::digest(&self.text).into(), false)
            }
            _ => return None,
        };
        // Never an empty text for a pointer to something.
        if self.text.is_empty() && size > 0 {
            return None;
        }
        Some(Attempt::Fetched {
            content: Content::Kept {
                text: ByteString::from(self.text),
                size,
            },
            sha256,
            verified,
        })
    }
}

/// The messages from `start` on that were duplicates of another one. They are few; what is looked through to find them
/// stays on SQLite's side.
fn duplicates(
    conn: &Connection,
    start: StreamSeq,
    adopted: bool,
) -> Result<HashSet<(u64, i64)>, rusqlite::Error> {
    conn.execute_batch(
        "CREATE TEMP TABLE copies (result_id TEXT, stream_seq INTEGER, published_ns INTEGER,
             PRIMARY KEY (result_id, stream_seq, published_ns)) WITHOUT ROWID;
         CREATE TEMP TABLE origins (result_id TEXT PRIMARY KEY, stream_seq INTEGER, published_ns INTEGER) WITHOUT ROWID",
    )?;
    conn.execute(
        "INSERT OR IGNORE INTO temp.copies
         SELECT result_id, stream_seq, published_ns FROM main.projector_results WHERE NOT counts AND stream_seq >= ?1",
        [start.0],
    )?;
    // The one that made the row: the last, since rows may be deleted and made once more.
    conn.execute(
        "INSERT OR REPLACE INTO temp.origins
         SELECT result_id, stream_seq, published_ns FROM main.projector_results
         WHERE counts AND result_id IN (SELECT result_id FROM temp.copies) ORDER BY entry",
        [],
    )?;
    if adopted {
        // The backend's projector made the row, from the first.
        conn.execute(
            "INSERT OR IGNORE INTO temp.origins
             SELECT result_id, stream_seq, published_ns FROM main.projector_results
             WHERE result_id IN (SELECT result_id FROM temp.copies) ORDER BY entry",
            [],
        )?;
    }
    let duplicates = conn
        .prepare(
            "SELECT copy.stream_seq, copy.published_ns FROM temp.copies copy JOIN temp.origins origin USING (result_id)
             WHERE (copy.stream_seq, copy.published_ns) IS NOT (origin.stream_seq, origin.published_ns)",
        )?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect();
    conn.execute_batch("DROP TABLE temp.copies; DROP TABLE temp.origins")?;
    duplicates
}

fn discarded(
    conn: &Connection,
    starts: &BTreeMap<StreamName, StreamSeq>,
) -> Result<BTreeMap<(StreamName, u64, String), String>, rusqlite::Error> {
    let mut discarded = BTreeMap::new();
    for (stream, start) in starts {
        let mut select = conn.prepare(
            "SELECT stream_seq, published_at, reason FROM projector_dead_letters
             WHERE stream = ?1 AND stream_seq >= ?2 AND state = 'discarded'",
        )?;
        let mut rows = select.query(params![stream.as_str(), start.0])?;
        while let Some(row) = rows.next()? {
            discarded.insert((*stream, row.get(0)?, row.get(1)?), row.get(2)?);
        }
    }
    Ok(discarded)
}
