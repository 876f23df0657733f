//! Executions: the backend makes the rows, so they are the database's; the counters are counted again where every result
//! that they may stand for is known.

use std::collections::BTreeMap;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, params};

use super::super::StoreError;
use super::super::executions::BY_ROWS;
use super::super::retention::{Horizons, Retained};
use super::hand::list_backend_lines;
use super::ledgers::Making;
use super::{Basis, Purpose, Vouched, ledgers, run};
use crate::projection::result::Completion;
use crate::wire::time::Timestamp;

const COLUMNS: &str = "exec_id, job_id, version, initiated_by, initiated_at, target_count, success_count, failure_count, status";

/// Makes ledgers and executions in the scratch. The rows are settled by then and, for a rebuild, those that only the
/// database has were brought. `now` goes into `_wall` columns, and tells what the backend's cleanup may have deleted.
///
/// # Errors
/// SQLite's.
pub(super) fn settle_ledgers_and_executions(
    conn: &Connection,
    basis: &Basis,
    now: Timestamp,
    vouched: &mut Vouched,
) -> Result<(), StoreError> {
    let counts = read_rows(conn)?;
    ledgers::settle(conn, basis, vouched)?;
    let what = "carry executions";
    let all = run(
        conn,
        what,
        &format!("INSERT INTO main.executions ({COLUMNS}) SELECT {COLUMNS} FROM old.executions"),
        [],
    )?;
    let counted = recount(conn, basis, &counts, counted_from(conn, basis)?, now)?;
    vouched.add("executions", all.saturating_sub(counted));
    match basis.purpose {
        Purpose::Rebuild => remember(conn, counts.keys(), now),
        Purpose::Replay | Purpose::ReplayPart | Purpose::Verify => Ok(()),
    }
}

/// Remembers the executions of rows whose own row has not come, as a group does.
fn remember<'a>(
    conn: &Connection,
    exec_ids: impl Iterator<Item = &'a String>,
    now: Timestamp,
) -> Result<(), StoreError> {
    let now = now.stored();
    let remember = || -> Result<(), rusqlite::Error> {
        let mut insert = conn.prepare(
            "INSERT INTO main.projector_unsettled (exec_id, since_wall)
             SELECT ?1, ?2 WHERE NOT EXISTS (SELECT 1 FROM main.executions WHERE exec_id = ?1)
             ON CONFLICT (exec_id) DO NOTHING",
        )?;
        for exec_id in exec_ids {
            insert.execute([exec_id, &now])?;
        }
        Ok(())
    };
    remember().map_err(StoreError::sqlite("remember executions without a row"))
}

/// Successes and failures by execution.
type Counts = BTreeMap<String, (i64, i64)>;

/// What the scratch's rows say to ledgers and counters: in one scan, since what is read here lies behind the outputs. The
/// ledgers are written meanwhile.
fn read_rows(conn: &Connection) -> Result<Counts, StoreError> {
    let (mut ledgers, mut counts) = (Making::new(conn)?, Counts::new());
    let mut read = || -> Result<(), rusqlite::Error> {
        let mut scan = conn.prepare(
            "SELECT exec_id, pc_id, exit_code, finished_at, job_id, version FROM main.execution_results",
        )?;
        let mut rows = scan.query([])?;
        while let Some(row) = rows.next()? {
            // A cell that somebody has made another kind of value is no reason to stop.
            let text = |index| {
                Ok::<_, rusqlite::Error>(match row.get_ref(index)? {
                    ValueRef::Text(text) => std::str::from_utf8(text).ok(),
                    _ => None,
                })
            };
            let ended = row.get_ref(3)? != ValueRef::Null;
            let finished_at = text(3)?;
            let succeeded = matches!(row.get_ref(2)?, ValueRef::Integer(0));
            if let Some(exec_id) = text(0)? {
                let counted = match counts.get_mut(exec_id) {
                    Some(counted) => counted,
                    None => counts.entry(exec_id.to_owned()).or_default(),
                };
                match (ended, succeeded) {
                    (false, _) => {}
                    (true, true) => counted.0 += 1,
                    (true, false) => counted.1 += 1,
                }
            }
            if let (Some(finished_at), true, Some(job_id), Some(pc_id)) =
                (finished_at, succeeded, text(4)?, text(1)?)
            {
                let completion = Completion {
                    job_id,
                    pc_id,
                    version: text(5)?,
                };
                ledgers.note(&completion, finished_at)?;
            }
        }
        ledgers.write()
    };
    read().map_err(StoreError::sqlite("count the rows of executions"))?;
    Ok(counts)
}

/// From which publish time on all results are known: at hand, or by their row. `None`: all that ever were.
fn counted_from(conn: &Connection, basis: &Basis) -> Result<Option<String>, StoreError> {
    let what = || StoreError::sqlite("find out which executions can be counted");
    if basis.is_strict() {
        return Ok(None);
    }
    // Whose row is gone as well is counted nowhere but in the database's counters. The newest of them is the last.
    let rowless: Option<String> = conn
        .query_row(
            "SELECT line.published FROM temp.not_at_hand line
             WHERE line.counts
                 AND NOT EXISTS (SELECT 1 FROM old.execution_results row WHERE row.result_id = line.result_id)
                 AND NOT EXISTS (SELECT 1 FROM main.execution_results row WHERE row.result_id = line.result_id)
             ORDER BY line.entry DESC LIMIT 1",
            [],
            |row| row.get(0),
        )
        .optional()
        .map_err(what())?;
    let text = |ns: Option<i64>| ns.map(|ns| Timestamp::from_unix_nanos(ns).stored());
    // The book of lines begins with the first that was ever projected, unless somebody else was there before.
    let from_the_start: bool = conn
        .query_row(
            "SELECT coalesce(min(entry), 1) <= 1 FROM old.projector_results",
            [],
            |row| row.get(0),
        )
        .map_err(what())?;
    let at_hand: Option<String> = if from_the_start && !basis.adopted {
        None
    } else {
        let first = conn
            .query_row(
                "SELECT published_ns FROM main.projector_results ORDER BY entry LIMIT 1",
                [],
                |row| row.get(0),
            )
            .optional()
            .map_err(what())?;
        // Nothing at hand: nothing can be said of any time.
        Some(text(first).unwrap_or_else(|| "9999-12-31T00:00:00+00:00".to_owned()))
    };
    let by_backend = if basis.adopted && basis.purpose != Purpose::Rebuild {
        list_backend_lines(conn)?;
        let newest = conn
            .query_row("SELECT max(published_ns) FROM temp.carry_backend", [], |row| {
                row.get(0)
            })
            .map_err(what())?;
        run(conn, "clear up", "DROP TABLE temp.carry_backend", [])?;
        text(newest)
    } else {
        None
    };
    Ok(rowless.into_iter().chain(at_hand).chain(by_backend).max())
}

/// Counts the rows of executions that began long enough after `from` and sets their counters. Returns how many.
fn recount(
    conn: &Connection,
    basis: &Basis,
    counts: &Counts,
    from: Option<String>,
    now: Timestamp,
) -> Result<u64, StoreError> {
    let what = "count executions";
    run(
        conn,
        what,
        "CREATE TEMP TABLE carry_counts (exec_id TEXT PRIMARY KEY, success INTEGER NOT NULL, failure INTEGER NOT NULL)
         WITHOUT ROWID",
        [],
    )?;
    let write = || -> Result<(), rusqlite::Error> {
        let mut insert = conn.prepare("INSERT INTO temp.carry_counts VALUES (?1, ?2, ?3)")?;
        for (exec_id, (success, failure)) in counts {
            insert.execute(params![exec_id, success, failure])?;
        }
        Ok(())
    };
    write().map_err(StoreError::sqlite(what))?;
    if basis.purpose != Purpose::Rebuild && !basis.is_strict() {
        // Rows that only the database has count there.
        run(
            conn,
            what,
            "INSERT INTO temp.carry_counts
             SELECT exec_id, finished_at IS NOT NULL AND exit_code IS 0,
                 finished_at IS NOT NULL AND exit_code IS NOT 0
             FROM old.execution_results was
             WHERE exec_id IS NOT NULL
                 AND NOT EXISTS (SELECT 1 FROM main.execution_results row WHERE row.result_id = was.result_id)
             ON CONFLICT DO UPDATE SET success = success + excluded.success, failure = failure + excluded.failure",
            [],
        )?;
    }
    let others = match basis.purpose {
        // What the service has not settled yet is no difference.
        Purpose::Verify => "AND execution.exec_id NOT IN (SELECT exec_id FROM old.projector_unsettled)",
        // Nothing is said of those with results outside.
        Purpose::ReplayPart => {
            "AND execution.exec_id NOT IN (SELECT exec_id FROM old.execution_results was WHERE exec_id IS NOT NULL
                 AND (result_id IN (SELECT result_id FROM temp.carried_results)
                     OR NOT EXISTS (SELECT 1 FROM main.execution_results row WHERE row.result_id = was.result_id)))"
        }
        Purpose::Rebuild | Purpose::Replay => "",
    };
    // A run that never ended may have been reaped, and its row cleaned up since: it stays counted.
    let cleaned = match basis.purpose {
        Purpose::Rebuild => None,
        Purpose::Replay | Purpose::ReplayPart | Purpose::Verify => {
            let horizons = Horizons::read(conn, "old", now)?;
            horizons.of(Retained::Results.table()).map(str::to_owned)
        }
    };
    let counted = run(
        conn,
        what,
        &format!(
            "UPDATE main.executions SET {BY_ROWS}
             FROM (SELECT execution.exec_id, coalesce(counts.success, 0) AS success,
                       coalesce(counts.failure, 0) AS failure, counts.exec_id IS NOT NULL AS started
                   FROM main.executions execution
                   LEFT JOIN temp.carry_counts counts ON counts.exec_id = execution.exec_id
                   -- An hour for the clocks: the backend's wrote one time, the server's the other.
                   WHERE (?1 IS NULL OR julianday(execution.initiated_at) >= julianday(?1) + 1.0 / 24) {others}
                       AND (?2 IS NULL OR execution.exec_id NOT IN (SELECT exec_id FROM main.execution_results row
                           WHERE finished_at IS NULL AND exec_id IS NOT NULL AND recorded_at < ?2
                               AND NOT EXISTS (SELECT 1 FROM old.execution_results was
                                   WHERE was.result_id = row.result_id)))) rows
             WHERE rows.exec_id = executions.exec_id"
        ),
        params![from, cleaned],
    )?;
    run(conn, what, "DROP TABLE temp.carry_counts", [])?;
    Ok(counted)
}
