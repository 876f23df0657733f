//! Which lines of `old.projector_results` are *at hand*: the scratch has the same message, by sequence and publish time.
//! And whether the streams hold all that was ever projected.

use rusqlite::types::Value;
use rusqlite::{Connection, params};

use super::super::{StoreError, adopt};
use super::{any, run};
use crate::wire::kv::StreamName;
use crate::wire::time::Timestamp;

const LOOKING: &str = "find out which messages are at hand";

/// Makes `temp.at_hand` and `temp.not_at_hand`, which everything here asks.
pub(super) fn prepare(conn: &Connection) -> Result<(), StoreError> {
    let make = || -> Result<(), rusqlite::Error> {
        // Their own tables rather than an index: the scratch may become the database, whose lines have none.
        conn.execute_batch(
            "DROP TABLE IF EXISTS temp.at_hand;
             DROP TABLE IF EXISTS temp.not_at_hand;
             CREATE TEMP TABLE at_hand (stream_seq INTEGER, published_ns INTEGER, entry INTEGER,
                 PRIMARY KEY (stream_seq, published_ns)) WITHOUT ROWID;
             INSERT OR IGNORE INTO temp.at_hand
                 SELECT stream_seq, published_ns, entry FROM main.projector_results
                 -- Of a database that has read nothing, nothing is asked.
                 WHERE EXISTS (SELECT 1 FROM old.projector_position) ORDER BY entry;
             CREATE TEMP TABLE not_at_hand (entry INTEGER PRIMARY KEY, result_id TEXT, job_id TEXT, pc_id TEXT,
                 published TEXT, counts INTEGER)",
        )?;
        let mut missing = conn.prepare(
            "SELECT entry, published_ns, result_id, job_id, pc_id, counts FROM old.projector_results AS line
             WHERE NOT EXISTS (SELECT 1 FROM temp.at_hand AS here
                 WHERE here.stream_seq = line.stream_seq AND here.published_ns = line.published_ns)
             ORDER BY entry",
        )?;
        let mut insert = conn.prepare("INSERT INTO temp.not_at_hand VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?;
        let mut lines = missing.query([])?;
        while let Some(line) = lines.next()? {
            insert.execute(params![
                line.get::<_, Value>(0)?,
                line.get::<_, Value>(2)?,
                line.get::<_, Value>(3)?,
                line.get::<_, Value>(4)?,
                Timestamp::from_unix_nanos(line.get(1)?).stored(),
                line.get::<_, Value>(5)?,
            ])?;
        }
        conn.execute_batch(
            "CREATE INDEX temp.not_at_hand_pair ON not_at_hand (job_id, pc_id);
             CREATE INDEX temp.not_at_hand_result ON not_at_hand (result_id)",
        )
    };
    make().map_err(StoreError::sqlite(LOOKING))
}

/// Whether nothing older exists than the scratch was loaded from. Then everything in the read model must follow from the
/// messages. Not to be asked of an adopted file.
pub(super) fn all_at_hand(conn: &Connection) -> Result<bool, StoreError> {
    if any(conn, LOOKING, "SELECT 1 FROM temp.not_at_hand", [])? {
        return Ok(false);
    }
    for stream in StreamName::ALL {
        if !is_whole(conn, stream)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether every message of a stream that the database has projected was loaded too.
pub(super) fn is_whole(conn: &Connection, stream: StreamName) -> Result<bool, StoreError> {
    let older: bool = conn
        .query_row(
            // From an earlier message on; or all of it, where none was there to be loaded.
            "SELECT EXISTS (SELECT 1 FROM old.projector_position AS o
                 LEFT JOIN main.projector_position AS s ON s.stream = o.stream
                 WHERE o.stream = ?1 AND o.position >= o.first AND (s.first IS NULL OR o.first < s.first))",
            [stream.as_str()],
            |row| row.get(0),
        )
        .map_err(StoreError::sqlite(format_args!(
            "compare what there is of {stream}"
        )))?;
    Ok(!older && !has_holes(conn, stream)?)
}

/// Whether messages may be missing between those that were loaded: with the end of an earlier life of the stream, or as a
/// gap that was none when the database met it.
pub(super) fn has_holes(conn: &Connection, stream: StreamName) -> Result<bool, StoreError> {
    conn.query_row(
        "SELECT (SELECT count(*) FROM old.projector_position WHERE stream = ?1) > 1
             OR EXISTS (SELECT 1 FROM main.projector_gaps AS s WHERE s.stream = ?1
                 AND s.last_seq - s.first_seq + 1 > (
                     SELECT coalesce(sum(min(o.last_seq, s.last_seq) - max(o.first_seq, s.first_seq) + 1), 0)
                     FROM old.projector_gaps AS o
                     WHERE o.stream = ?1 AND o.first_seq <= s.last_seq AND o.last_seq >= s.first_seq))",
        [stream.as_str()],
        |row| row.get(0),
    )
    .map_err(StoreError::sqlite(format_args!(
        "compare what there is of {stream}"
    )))
}

/// Whether the database is the backend's own file: others have written older rows.
pub(super) fn is_adopted(conn: &Connection) -> Result<bool, StoreError> {
    any(
        conn,
        "look at the tables",
        "SELECT 1 FROM old.sqlite_schema WHERE type = 'table' AND name = ?1",
        [adopt::MIGRATIONS],
    )
}

/// The lines of results whose row the backend's own projector has written: duplicates of no line that counts, and
/// those whose empty text was filled.
pub(super) fn list_backend_lines(conn: &Connection) -> Result<(), StoreError> {
    let what = "find what the backend's projector has written";
    if any(
        conn,
        what,
        "SELECT 1 FROM temp.sqlite_schema WHERE name = 'carry_backend'",
        [],
    )? {
        return Ok(());
    }
    for sql in [
        "CREATE TEMP TABLE carry_backend (result_id TEXT PRIMARY KEY, job_id TEXT, pc_id TEXT, published_ns INTEGER)
         WITHOUT ROWID",
        "INSERT INTO temp.carry_backend SELECT result_id, job_id, pc_id, published_ns FROM old.projector_results
         WHERE NOT counts ORDER BY entry ON CONFLICT DO NOTHING",
        "DELETE FROM temp.carry_backend
         WHERE result_id IN (SELECT result_id FROM old.projector_results WHERE counts)",
        "INSERT INTO temp.carry_backend SELECT line.result_id, line.job_id, line.pc_id, line.published_ns
         FROM old.projector_outputs output JOIN old.projector_results line ON line.entry = output.entry
         WHERE output.mended ON CONFLICT DO NOTHING",
    ] {
        run(conn, what, sql, [])?;
    }
    Ok(())
}
