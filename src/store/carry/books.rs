//! What only the database has, brought into the scratch that takes its place: rows, and the books of all of it. After it
//! the scratch stands exactly where the database stood (DESIGN §8.1).

use std::collections::BTreeMap;

use rusqlite::{Connection, params};

use super::super::names::listed;
use super::super::{StoreError, columns};
use super::Basis;
use super::letters::Letters;
use super::outputs::{self, entry_here};

/// A line of `projector_results`.
pub(super) const LINE: &str =
    "entry, incarnation, stream_seq, published_ns, result_id, pc_id, job_id, counts, evidence";

/// How many rows were brought, by table.
pub type Brought = BTreeMap<&'static str, u64>;

/// Brings it all. The scratch must be settled; its lines in `projector_results` must have greater numbers than the
/// database's.
pub(super) fn bring(conn: &Connection, basis: &Basis) -> Result<Brought, StoreError> {
    let mut brought = Brought::new();
    let letters = (|| -> Result<Letters, rusqlite::Error> {
        relabel(conn)?;
        let mut note = |table: &'static str, rows: usize| {
            brought.insert(table, u64::try_from(rows).unwrap_or(u64::MAX));
        };
        note("execution_results", bring_rows(conn, basis)?);
        note("projector_results", bring_lines(conn)?);
        note(
            "projector_outputs",
            outputs::bring(conn, "SELECT result_id FROM temp.brought_rows")?,
        );
        // Issues first: they ask which pairs the scratch knows by itself.
        note("projector_issues", bring_issues(conn)?);
        let (pairs, waiting) = bring_pairs(conn)?;
        note("projector_derivations", pairs);
        note("projector_waiting", waiting);
        let letters = Letters::bring(conn)?;
        note("projector_dead_letters", letters.brought());
        note("projector_gaps", bring_gaps(conn)?);
        note("projector_unsettled", bring_unsettled(conn)?);
        Ok(letters)
    })()
    .map_err(StoreError::sqlite("bring the books of the database over"))?;
    (|| -> Result<(), rusqlite::Error> {
        bring_positions(conn)?;
        letters.adjust_counts(conn)?;
        conn.execute(
            "INSERT OR REPLACE INTO main.projector_meta (key, value)
             SELECT key, value FROM old.projector_meta WHERE key = 'database_id' OR key LIKE 'retention.%'",
            [],
        )?;
        Ok(())
    })()
    .map_err(StoreError::sqlite("bring the positions of the database over"))?;
    brought.retain(|_, rows| *rows > 0);
    Ok(brought)
}

/// The life of a stream's sequences that a sequence belongs to: the newest that begins at or before it. Both in full,
/// since it asks a table with such columns.
pub(super) fn life(stream: &str, seq: &str) -> String {
    format!(
        "coalesce((SELECT max(life.incarnation) FROM old.projector_position AS life
             WHERE life.stream = {stream} AND life.first <= {seq}),
         (SELECT min(life.incarnation) FROM old.projector_position AS life WHERE life.stream = {stream}))"
    )
}

/// The scratch's one life of each stream becomes the database's lives. Before anything of the database is in it.
fn relabel(conn: &Connection) -> Result<(), rusqlite::Error> {
    for (table, stream) in [
        ("projector_results", "'RESULTS'"),
        ("projector_dead_letters", "mine.stream"),
        ("projector_issues", "mine.stream"),
    ] {
        let life = life(stream, "mine.stream_seq");
        conn.execute(
            &format!("UPDATE main.{table} AS mine SET incarnation = {life} WHERE incarnation <> {life}"),
            [],
        )?;
    }
    Ok(())
}

fn bring_rows(conn: &Connection, basis: &Basis) -> Result<usize, rusqlite::Error> {
    let columns = columns::RESULT.join(", ");
    conn.execute_batch(
        "DROP TABLE IF EXISTS temp.brought_rows;
         CREATE TEMP TABLE brought_rows (result_id TEXT PRIMARY KEY) WITHOUT ROWID",
    )?;
    // A row that no message explains is none to bring.
    if basis.all_at_hand {
        return Ok(0);
    }
    conn.execute(
        "INSERT INTO temp.brought_rows SELECT result_id FROM old.execution_results AS o
         WHERE NOT EXISTS (SELECT 1 FROM main.execution_results AS s WHERE s.result_id = o.result_id)",
        [],
    )?;
    conn.execute(
        &format!(
            "INSERT INTO main.execution_results ({columns})
             SELECT {columns} FROM old.execution_results CROSS JOIN temp.brought_rows USING (result_id)"
        ),
        [],
    )
}

/// Lines of messages that are gone, as long as their row is there, or a copy of the message: that is a duplicate, and
/// nothing else will tell once retention has taken the row.
fn bring_lines(conn: &Connection) -> Result<usize, rusqlite::Error> {
    conn.execute_batch(
        "DROP TABLE IF EXISTS temp.copied;
         CREATE TEMP TABLE copied (result_id TEXT PRIMARY KEY) WITHOUT ROWID;
         INSERT OR IGNORE INTO temp.copied SELECT result_id FROM main.projector_results WHERE NOT counts",
    )?;
    conn.execute(
        &format!(
            "INSERT INTO main.projector_results ({LINE}) SELECT {}
             FROM temp.not_at_hand AS missing CROSS JOIN old.projector_results AS line ON line.entry = missing.entry
             WHERE EXISTS (SELECT 1 FROM main.execution_results AS row WHERE row.result_id = line.result_id)
                 OR line.result_id IN (SELECT result_id FROM temp.copied)
             ORDER BY missing.entry",
            listed(LINE.split(", "), "line.")
        ),
        [],
    )
}

/// What was reported of pairs that the scratch does not know, about results that are gone.
fn bring_issues(conn: &Connection) -> Result<usize, rusqlite::Error> {
    conn.execute(
        "INSERT OR IGNORE INTO main.projector_issues (job_id, pc_id, part, code, stream, incarnation, stream_seq,
             result_id, reason)
         SELECT job_id, pc_id, part, code, stream, incarnation, stream_seq, result_id, reason
         FROM old.projector_issues AS issue
         WHERE EXISTS (SELECT 1 FROM temp.not_at_hand AS line WHERE line.result_id = issue.result_id)
             AND NOT EXISTS (SELECT 1 FROM main.projector_derivations AS pair
                 WHERE pair.job_id = issue.job_id AND pair.pc_id = issue.pc_id)",
        [],
    )
}

/// Pairs, and what waits of those that the scratch does not know.
fn bring_pairs(conn: &Connection) -> Result<(usize, usize), rusqlite::Error> {
    // What waited for an output of a result that is gone waits still, and is derived in its place once it is settled.
    conn.execute(
        "UPDATE main.projector_derivations AS s SET state = 'due'
         WHERE EXISTS (SELECT 1 FROM old.projector_derivations AS o
             WHERE o.job_id = s.job_id AND o.pc_id = s.pc_id AND (
                 o.state = 'due' AND EXISTS (SELECT 1 FROM temp.not_at_hand AS line
                     WHERE line.job_id = o.job_id AND line.pc_id = o.pc_id AND line.counts)
                 OR o.state = 'waiting' AND EXISTS (SELECT 1 FROM old.projector_waiting AS waiting
                     JOIN temp.not_at_hand AS line ON line.entry = waiting.entry
                     WHERE waiting.job_id = o.job_id AND waiting.pc_id = o.pc_id)))",
        [],
    )?;
    conn.execute_batch(
        "DROP TABLE IF EXISTS temp.brought_pairs;
         CREATE TEMP TABLE brought_pairs (job_id TEXT, pc_id TEXT, PRIMARY KEY (job_id, pc_id)) WITHOUT ROWID;
         INSERT INTO temp.brought_pairs SELECT job_id, pc_id FROM old.projector_derivations AS o
             WHERE NOT EXISTS (SELECT 1 FROM main.projector_derivations AS s
                 WHERE s.job_id = o.job_id AND s.pc_id = o.pc_id)",
    )?;
    let pairs = conn.execute(
        &format!(
            "INSERT INTO main.projector_derivations (job_id, pc_id, hints_hash, first_entry, state)
             SELECT job_id, pc_id, hints_hash, {}, state
             FROM temp.brought_pairs CROSS JOIN old.projector_derivations AS o USING (job_id, pc_id)",
            entry_here("o.first_entry")
        ),
        [],
    )?;
    let waiting = conn.execute(
        &format!(
            "INSERT OR IGNORE INTO main.projector_waiting (job_id, pc_id, entry)
             SELECT job_id, pc_id, {}
             FROM temp.brought_pairs CROSS JOIN old.projector_waiting AS o USING (job_id, pc_id)",
            entry_here("o.entry")
        ),
        [],
    )?;
    Ok((pairs, waiting))
}

/// A message that the database has projected is no gap though it is gone by now; one that it never saw stays one.
fn bring_gaps(conn: &Connection) -> Result<usize, rusqlite::Error> {
    conn.execute(
        "DELETE FROM main.projector_gaps WHERE stream IN (SELECT stream FROM old.projector_position)",
        [],
    )?;
    conn.execute(
        "INSERT INTO main.projector_gaps (stream, incarnation, first_seq, last_seq, reason)
         SELECT stream, incarnation, first_seq, last_seq, reason FROM old.projector_gaps",
        [],
    )
}

/// The load itself remembers none.
fn bring_unsettled(conn: &Connection) -> Result<usize, rusqlite::Error> {
    conn.execute(
        "INSERT OR REPLACE INTO main.projector_unsettled (exec_id, since_wall)
         SELECT exec_id, since_wall FROM old.projector_unsettled",
        [],
    )
}

/// Where the database stands, with all lives and kept marks: loading goes on from there as the service would. A stream
/// that it never read keeps the scratch's place.
fn bring_positions(conn: &Connection) -> Result<(), rusqlite::Error> {
    const COLUMNS: &str =
        "stream, incarnation, first, position, published_at, subject_hash, projected, dead, ignored,
         gap, past";
    conn.execute(
        "DELETE FROM main.projector_position WHERE stream IN (SELECT stream FROM old.projector_position)",
        params![],
    )?;
    conn.execute(
        &format!(
            "INSERT INTO main.projector_position ({COLUMNS}) SELECT {COLUMNS} FROM old.projector_position"
        ),
        [],
    )?;
    Ok(())
}
