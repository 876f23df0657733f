//! `execution_results` as the database should have it: the scratch's rows, completed with what no message at hand tells.

use rusqlite::Connection;

use super::super::StoreError;
use super::{Basis, Vouched, hand, outputs, starts};
use crate::projection::manifests::Manifests;
use crate::wire::kv::StreamName;

/// Completes the scratch's rows from the database's, row by row. `temp.not_at_hand` must be there; leaves
/// `temp.carried_results`, the results whose own part is the database's.
pub(super) fn settle_rows(
    conn: &Connection,
    manifests: &Manifests,
    basis: &Basis,
    vouched: &mut Vouched,
) -> Result<(), StoreError> {
    let holes = hand::has_holes(conn, StreamName::Events)?;
    let events_whole = !basis.adopted && hand::is_whole(conn, StreamName::Events)?;
    (|| -> Result<(), rusqlite::Error> {
        enter_manifest_times(conn, manifests)?;
        find_unlike(conn, events_whole)?;
        starts::mark_older(conn, manifests, holes)?;
        // In this order: a row's own start is looked at before anything of it is changed.
        vouched.add("deadlines", take_deadlines(conn)?);
        vouched.add("starts", take_starts(conn)?);
        drop_deleted(conn)?;
        find_results(conn, basis.adopted)?;
        vouched.add("results", take_results(conn)?);
        Ok(())
    })()
    .map_err(StoreError::sqlite("complete execution_results"))?;
    outputs::settle(conn, basis, vouched)
}

/// `temp.manifest_times`: since when each job's manifest is what it is; '' where that is not known, which believes it.
fn enter_manifest_times(conn: &Connection, manifests: &Manifests) -> Result<(), rusqlite::Error> {
    conn.execute_batch(
        "DROP TABLE IF EXISTS temp.manifest_times;
         CREATE TEMP TABLE manifest_times (job_id TEXT PRIMARY KEY, changed TEXT NOT NULL) WITHOUT ROWID",
    )?;
    let mut insert = conn.prepare("INSERT INTO temp.manifest_times VALUES (?1, ?2)")?;
    for (job_id, job) in manifests.iter() {
        let changed = job.changed.map(|changed| changed.stored()).unwrap_or_default();
        insert.execute([job_id, changed.as_str()])?;
    }
    Ok(())
}

/// `temp.unlike`: the rows of both that may need something of the database. One scan, since large texts lie before the
/// columns that are compared.
fn find_unlike(conn: &Connection, events_whole: bool) -> Result<(), rusqlite::Error> {
    conn.execute_batch(
        "DROP TABLE IF EXISTS temp.unlike;
         CREATE TEMP TABLE unlike (result_id TEXT PRIMARY KEY, start INTEGER, earlier INTEGER, ended INTEGER,
             deadline INTEGER) WITHOUT ROWID",
    )?;
    conn.execute(
        // A manifest that was changed after the start event (published at `recorded_at` or later) is not the one that the
        // deadline came from.
        "INSERT INTO temp.unlike
         SELECT s.result_id,
             NOT ?1 AND s.version IS NULL AND o.version IS NOT NULL AS start,
             NOT ?1 AND s.version IS NOT NULL AND o.version IS NOT NULL AND o.recorded_at <= s.recorded_at
                 AND (o.recorded_at < s.recorded_at OR o.expires_at < s.expires_at) AS earlier,
             s.finished_at IS NULL AND o.finished_at IS NOT NULL AS ended,
             s.version IS NOT NULL AND o.version IS NOT NULL AND s.expires_at IS NOT o.expires_at
                 AND NOT EXISTS (SELECT 1 FROM temp.manifest_times AS manifest
                     WHERE manifest.job_id = s.job_id AND manifest.changed <= s.recorded_at) AS deadline
         FROM main.execution_results AS s JOIN old.execution_results AS o ON o.result_id = s.result_id
         WHERE EXISTS (SELECT 1 FROM old.execution_results) AND (start OR earlier OR ended OR deadline)",
        [events_whole],
    )?;
    Ok(())
}

fn take_deadlines(conn: &Connection) -> Result<u64, rusqlite::Error> {
    let taken = conn.execute(
        "UPDATE main.execution_results AS s SET expires_at =
             (SELECT o.expires_at FROM old.execution_results AS o WHERE o.result_id = s.result_id)
         WHERE s.result_id IN (SELECT result_id FROM temp.unlike WHERE deadline)",
        [],
    )?;
    Ok(count(taken))
}

/// EVENTS no longer holds the start.
fn take_starts(conn: &Connection) -> Result<u64, rusqlite::Error> {
    let taken = conn.execute(
        "UPDATE main.execution_results AS s
         SET (exec_id, pc_id, started_at, recorded_at, job_id, version, expires_at) =
             (SELECT o.exec_id, o.pc_id, o.started_at, min(s.recorded_at, o.recorded_at),
                  coalesce(s.job_id, o.job_id), o.version, o.expires_at
              FROM old.execution_results AS o WHERE o.result_id = s.result_id)
         WHERE s.result_id IN (SELECT result_id FROM temp.unlike WHERE start)",
        [],
    )?;
    Ok(count(taken))
}

/// A run whose result is gone, and whose row the database has no more: it is not in flight, it was deleted.
fn drop_deleted(conn: &Connection) -> Result<(), rusqlite::Error> {
    conn.execute(
        "DELETE FROM main.execution_results WHERE result_id IN (
             SELECT line.result_id FROM temp.not_at_hand AS line
             WHERE line.counts
                 AND NOT EXISTS (SELECT 1 FROM old.execution_results AS o WHERE o.result_id = line.result_id))
             AND finished_at IS NULL",
        [],
    )?;
    Ok(())
}

/// `temp.carried_results`: results whose own part no message at hand tells, or not the one that counts.
fn find_results(conn: &Connection, adopted: bool) -> Result<(), rusqlite::Error> {
    conn.execute_batch(
        "DROP TABLE IF EXISTS temp.carried_results;
         CREATE TEMP TABLE carried_results (result_id TEXT PRIMARY KEY) WITHOUT ROWID;
         DROP TABLE IF EXISTS temp.origins;
         CREATE TEMP TABLE origins (result_id TEXT PRIMARY KEY, entry INTEGER) WITHOUT ROWID",
    )?;
    // Ended by a message that is gone, or by the backend's reaper. An end that nothing explains is no knowledge.
    conn.execute(
        "INSERT INTO temp.carried_results
         SELECT u.result_id FROM temp.unlike AS u JOIN old.execution_results AS o ON o.result_id = u.result_id
         WHERE u.ended AND (?1 OR o.reaped
             OR EXISTS (SELECT 1 FROM temp.not_at_hand AS line WHERE line.result_id = u.result_id))",
        [adopted],
    )?;
    // Ended by a later copy, while the message that made the database's row is gone.
    conn.execute(
        "INSERT OR IGNORE INTO temp.origins
         SELECT line.result_id, -1 FROM temp.not_at_hand AS line
             JOIN main.execution_results AS s ON s.result_id = line.result_id
             JOIN old.execution_results AS o ON o.result_id = line.result_id
         WHERE s.finished_at IS NOT NULL AND o.finished_at IS NOT NULL AND NOT o.reaped",
        [],
    )?;
    if !conn.prepare("SELECT 1 FROM temp.origins")?.exists([])? {
        return Ok(());
    }
    // The last that counts, since rows may be deleted and made once more.
    conn.execute(
        "INSERT OR REPLACE INTO temp.origins
         SELECT result_id, entry FROM old.projector_results
         WHERE counts AND result_id IN (SELECT result_id FROM temp.origins) ORDER BY entry",
        [],
    )?;
    if adopted {
        // The backend's projector made the row, from the first.
        conn.execute(
            "UPDATE temp.origins SET entry =
                 (SELECT min(line.entry) FROM temp.not_at_hand AS line WHERE line.result_id = origins.result_id)
             WHERE entry = -1",
            [],
        )?;
    }
    conn.execute(
        "INSERT OR IGNORE INTO temp.carried_results
         SELECT result_id FROM temp.origins WHERE entry IN (SELECT entry FROM temp.not_at_hand)",
        [],
    )?;
    Ok(())
}

/// The result's own columns; the start's too where none is known (contract §5.3).
fn take_results(conn: &Connection) -> Result<u64, rusqlite::Error> {
    // A message that the database knows as a duplicate is one, whatever the scratch made of it.
    let copies = "SELECT result_id FROM main.execution_results
                  WHERE finished_at IS NOT NULL AND result_id IN (SELECT result_id FROM temp.carried_results)";
    if conn.prepare(copies)?.exists([])? {
        conn.execute(
            &format!("UPDATE main.projector_results SET counts = 0 WHERE counts AND result_id IN ({copies})"),
            [],
        )?;
    }
    let taken = conn.execute(
        "UPDATE main.execution_results AS s
         SET (finished_at, exit_code, stdout, stderr, parent_result_id, skipped, reaped, request_id, job_id, recorded_at,
              exec_id, pc_id, started_at) =
             (SELECT o.finished_at, o.exit_code, o.stdout, o.stderr, o.parent_result_id, o.skipped, o.reaped,
                  o.request_id, o.job_id, min(s.recorded_at, o.recorded_at),
                  iif(s.version IS NULL, o.exec_id, s.exec_id), iif(s.version IS NULL, o.pc_id, s.pc_id),
                  iif(s.version IS NULL, o.started_at, s.started_at)
              FROM old.execution_results AS o WHERE o.result_id = s.result_id)
         WHERE s.result_id IN (SELECT result_id FROM temp.carried_results)",
        [],
    )?;
    Ok(count(taken))
}

fn count(rows: usize) -> u64 {
    u64::try_from(rows).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::super::migrate;
    use super::super::super::rows::tests::{insert, message, start_of, stored};
    use super::*;
    use crate::wire::result::tests::whole;

    #[test]
    fn a_result_that_no_message_at_hand_tells_is_taken_whole() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("old.db");
        {
            let mut old = Connection::open(&database).unwrap();
            migrate::run(&mut old, true).unwrap();
            insert(&old, &message(whole()));
        }
        let mut conn = Connection::open_in_memory().unwrap();
        migrate::run(&mut conn, true).unwrap();
        start_of(&conn, &whole());
        conn.execute("ATTACH ?1 AS old", [database.to_str().unwrap()])
            .unwrap();
        conn.execute_batch("CREATE TEMP TABLE carried_results AS SELECT 'r1' AS result_id")
            .unwrap();
        assert_eq!(take_results(&conn).unwrap(), 1);
        assert_eq!(stored(&conn, "main"), stored(&conn, "old"));
    }
}
