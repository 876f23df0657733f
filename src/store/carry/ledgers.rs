//! The completion ledgers: made from the scratch's rows, then the greater of both. Losing a key runs jobs again on the
//! fleet.

use rusqlite::Connection;

use super::super::StoreError;
use super::super::completions::Ledger;
use super::{Purpose, Vouched, any, run};

struct Table {
    name: &'static str,
    key: &'static str,
}

const TABLES: [Table; 2] = [
    Table {
        name: "job_completions",
        key: "job_id, pc_id",
    },
    Table {
        name: "job_version_completions",
        key: "job_id, version, pc_id",
    },
];

/// Merges the ledgers that were made from the scratch's rows with the database's.
pub(super) fn settle(
    conn: &Connection,
    made: &mut Ledger,
    purpose: Purpose,
    complete: bool,
    vouched: &mut Vouched,
) -> Result<(), StoreError> {
    for table in TABLES {
        if !exists(conn, "main", table.name)? {
            return Ok(());
        }
    }
    made.write(conn)?;
    let strict = complete && purpose != Purpose::Rebuild;
    if strict {
        list_explained(conn)?;
    }
    for table in TABLES {
        if exists(conn, "old", table.name)? {
            let kept = table.merge(conn, strict)?;
            vouched.add("completions", kept);
        }
    }
    run(conn, "clear up", "DROP TABLE IF EXISTS temp.carry_explained", [])?;
    Ok(())
}

/// The backend's file may not have them yet (contract §6.8).
fn exists(conn: &Connection, schema: &str, table: &str) -> Result<bool, StoreError> {
    any(
        conn,
        "look for the completion ledgers",
        &format!("SELECT 1 FROM {schema}.sqlite_schema WHERE type = 'table' AND name = ?1"),
        [table],
    )
}

/// What the triggers wrote for rows that name another pair by now: a start event may have changed that.
fn list_explained(conn: &Connection) -> Result<(), StoreError> {
    let what = "look for completions that rows do not show any more";
    for sql in [
        "DROP TABLE IF EXISTS temp.carry_explained",
        "CREATE TEMP TABLE carry_explained (job_id TEXT, pc_id TEXT, finished_at TEXT, PRIMARY KEY (job_id, pc_id))
         WITHOUT ROWID",
        "INSERT INTO temp.carry_explained SELECT line.job_id, line.pc_id, row.finished_at
         FROM main.projector_results line CROSS JOIN main.execution_results row ON row.result_id = line.result_id
         WHERE line.counts AND line.job_id IS NOT NULL AND row.exit_code = 0 AND row.finished_at IS NOT NULL
             AND (line.job_id, line.pc_id) IS NOT (row.job_id, row.pc_id)
         ON CONFLICT DO UPDATE SET finished_at = max(finished_at, excluded.finished_at)",
    ] {
        run(conn, what, sql, [])?;
    }
    Ok(())
}

impl Table {
    /// The greater of both; where everything is at hand, only what the messages explain. Returns what was taken.
    fn merge(&self, conn: &Connection, strict: bool) -> Result<u64, StoreError> {
        let (table, key) = (self.name, self.key);
        let columns = key
            .split(", ")
            .map(|column| format!("was.{column}"))
            .collect::<Vec<_>>()
            .join(", ");
        let explained = if strict {
            "EXISTS (SELECT 1 FROM temp.carry_explained line WHERE line.job_id = was.job_id
                 AND line.pc_id = was.pc_id AND line.finished_at >= was.last_success_at)"
        } else {
            "true"
        };
        run(
            conn,
            &format!("carry {table}"),
            &format!(
                "INSERT INTO main.{table} ({key}, last_success_at) SELECT {columns}, was.last_success_at
                 FROM old.{table} was WHERE {explained}
                 ON CONFLICT ({key}) DO UPDATE SET last_success_at = excluded.last_success_at
                     WHERE excluded.last_success_at > last_success_at"
            ),
            [],
        )
    }
}
