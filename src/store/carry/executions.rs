//! Executions: the backend makes the rows, so they are the database's; the counters are counted again where every result
//! that they may stand for is known.

use rusqlite::{Connection, OptionalExtension, params};

use super::super::StoreError;
use super::pairs::{Basis, list_backend_lines};
use super::{Purpose, Vouched, ledgers, run};
use crate::wire::time::Timestamp;

const COLUMNS: &str = "exec_id, job_id, version, initiated_by, initiated_at, target_count, success_count, failure_count, status";

/// Makes ledgers and executions in the scratch. The rows are settled by then and, for a rebuild, those that only the
/// database has were brought.
///
/// # Errors
/// SQLite's.
pub(super) fn settle_ledgers_and_executions(
    conn: &Connection,
    purpose: Purpose,
    complete: bool,
    vouched: &mut Vouched,
) -> Result<(), StoreError> {
    ledgers::settle(conn, purpose, complete, vouched)?;
    let basis = Basis::of(conn, purpose, complete)?;
    let what = "carry executions";
    let all = run(
        conn,
        what,
        &format!("INSERT INTO main.executions ({COLUMNS}) SELECT {COLUMNS} FROM old.executions"),
        [],
    )?;
    let counted = recount(conn, &basis, counted_from(conn, &basis)?)?;
    vouched.add("executions", all.saturating_sub(counted));
    Ok(())
}

/// Remembers the executions of rows whose own row has not come, as a group does. `now`: wall clock.
pub(super) fn remember(conn: &Connection, now: Timestamp) -> Result<(), StoreError> {
    run(
        conn,
        "remember executions without a row",
        "INSERT OR IGNORE INTO main.projector_unsettled (exec_id, since_wall)
         SELECT DISTINCT exec_id, ?1 FROM main.execution_results AS row WHERE exec_id IS NOT NULL
             AND NOT EXISTS (SELECT 1 FROM main.executions WHERE exec_id = row.exec_id)",
        [now.stored()],
    )
    .map(|_| ())
}

/// From which publish time on all results are known: at hand, or by their row. `None`: all that ever were.
fn counted_from(conn: &Connection, basis: &Basis) -> Result<Option<String>, StoreError> {
    let what = || StoreError::sqlite("find out which executions can be counted");
    if basis.strict {
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
fn recount(conn: &Connection, basis: &Basis, from: Option<String>) -> Result<u64, StoreError> {
    let what = "count executions";
    let count = |schema: &str, which: &str| {
        run(
            conn,
            what,
            &format!(
                "INSERT INTO temp.carry_counts
                 SELECT exec_id, finished_at IS NOT NULL AND exit_code IS 0,
                     finished_at IS NOT NULL AND exit_code IS NOT 0
                 FROM {schema}.execution_results was WHERE exec_id IS NOT NULL {which}
                 ON CONFLICT DO UPDATE SET success = success + excluded.success, failure = failure + excluded.failure"
            ),
            [],
        )
    };
    run(
        conn,
        what,
        "CREATE TEMP TABLE carry_counts (exec_id TEXT PRIMARY KEY, success INTEGER NOT NULL, failure INTEGER NOT NULL)
         WITHOUT ROWID",
        [],
    )?;
    count("main", "")?;
    if basis.purpose != Purpose::Rebuild && !basis.strict {
        // Rows that only the database has count there.
        count(
            "old",
            "AND NOT EXISTS (SELECT 1 FROM main.execution_results row WHERE row.result_id = was.result_id)",
        )?;
    }
    // What the service has not settled yet is no difference.
    let unsettled = match basis.purpose {
        Purpose::Verify => "AND execution.exec_id NOT IN (SELECT exec_id FROM old.projector_unsettled)",
        Purpose::Rebuild | Purpose::Replay => "",
    };
    let counted = run(
        conn,
        what,
        &format!(
            "UPDATE main.executions SET success_count = rows.success, failure_count = rows.failure,
                 status = CASE WHEN rows.success + rows.failure = 0
                         THEN CASE WHEN rows.started AND status = 'pending' THEN 'running' ELSE status END
                     WHEN rows.success + rows.failure >= target_count THEN 'completed' ELSE 'running' END
             FROM (SELECT execution.exec_id, coalesce(counts.success, 0) AS success,
                       coalesce(counts.failure, 0) AS failure, counts.exec_id IS NOT NULL AS started
                   FROM main.executions execution
                   LEFT JOIN temp.carry_counts counts ON counts.exec_id = execution.exec_id
                   -- An hour for the clocks: the backend's wrote one time, the server's the other.
                   WHERE (?1 IS NULL OR julianday(execution.initiated_at) >= julianday(?1) + 1.0 / 24) {unsettled}) rows
             WHERE rows.exec_id = executions.exec_id"
        ),
        params![from],
    )?;
    run(conn, what, "DROP TABLE temp.carry_counts", [])?;
    Ok(counted)
}
