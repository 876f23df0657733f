//! The completion ledgers: made from the scratch's rows, then the greater of both. Losing a key runs jobs again on the
//! fleet.

use rusqlite::Connection;

use super::super::StoreError;
use super::super::completions::Ledger;
use super::super::names::listed;
use super::{Basis, Vouched, any, run};
use crate::projection::result::Completion;

pub(super) struct Table {
    pub(super) name: &'static str,
    key: &'static str,
    write: fn(&mut Ledger, &Connection) -> Result<(), rusqlite::Error>,
}

static TABLES: [Table; 2] = [
    Table {
        name: "job_completions",
        key: "job_id, pc_id",
        write: Ledger::write_jobs,
    },
    Table {
        name: "job_version_completions",
        key: "job_id, version, pc_id",
        write: Ledger::write_versions,
    },
];

/// Notes at most before they are written: who has as many keys as rows would hold them all in memory. Few in tests, which
/// have few.
const NOTES_MAX: usize = if cfg!(test) { 3 } else { 100_000 };

/// What the scratch's rows say, written part by part into those ledgers that the file has. The greater text stays.
pub(super) struct Making<'c> {
    conn: &'c Connection,
    there: Vec<&'static Table>,
    notes: Ledger,
    noted: usize,
}

impl<'c> Making<'c> {
    pub(super) fn new(conn: &'c Connection) -> Result<Self, StoreError> {
        Ok(Self {
            conn,
            there: there(conn, "main")?,
            notes: Ledger::default(),
            noted: 0,
        })
    }

    pub(super) fn note(
        &mut self,
        completion: &Completion<'_>,
        finished_at: &str,
    ) -> Result<(), rusqlite::Error> {
        self.notes.note(completion, finished_at);
        self.noted += 1;
        if self.noted >= NOTES_MAX {
            self.write()?;
        }
        Ok(())
    }

    /// Writes the last of it.
    pub(super) fn write(&mut self) -> Result<(), rusqlite::Error> {
        for table in &self.there {
            (table.write)(&mut self.notes, self.conn)?;
        }
        // With those of a ledger that is not there.
        self.notes = Ledger::default();
        self.noted = 0;
        Ok(())
    }
}

/// Those ledgers that a file has; the backend's may not have them yet (contract §6.8).
pub(super) fn there(conn: &Connection, schema: &str) -> Result<Vec<&'static Table>, StoreError> {
    let mut there = Vec::new();
    for table in &TABLES {
        if exists(conn, schema, table.name)? {
            there.push(table);
        }
    }
    Ok(there)
}

/// Merges the ledgers that were made from the scratch's rows with the database's.
pub(super) fn settle(conn: &Connection, basis: &Basis, vouched: &mut Vouched) -> Result<(), StoreError> {
    let strict = basis.is_strict();
    if strict {
        list_explained(conn)?;
    }
    for table in there(conn, "main")? {
        if exists(conn, "old", table.name)? {
            let kept = table.merge(conn, strict)?;
            vouched.add("completions", kept);
        }
    }
    run(conn, "clear up", "DROP TABLE IF EXISTS temp.carry_explained", [])?;
    Ok(())
}

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
        let columns = listed(key.split(", "), "was.");
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

#[cfg(test)]
mod tests {
    use super::super::Purpose;
    use super::*;

    const JOBS: &str = "CREATE TABLE job_completions (job_id TEXT, pc_id TEXT, last_success_at TEXT,
        PRIMARY KEY (job_id, pc_id))";
    const VERSIONS: &str = "CREATE TABLE job_version_completions (job_id TEXT, version TEXT, pc_id TEXT,
        last_success_at TEXT, PRIMARY KEY (job_id, version, pc_id))";

    fn settled(schema: &str) -> (Vec<String>, Vec<String>) {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch("ATTACH ':memory:' AS old").unwrap();
        conn.execute_batch(schema).unwrap();
        for sql in [JOBS, VERSIONS] {
            conn.execute_batch(&sql.replace("TABLE ", "TABLE old.")).unwrap();
        }
        conn.execute_batch(
            "INSERT INTO old.job_completions VALUES ('job', 'PC-1', '9'), ('job', 'PC-2', '3'), ('job', 'PC-8', '1');
             INSERT INTO old.job_version_completions VALUES ('job', '1.0', 'PC-8', '1')",
        )
        .unwrap();
        let mut making = Making::new(&conn).unwrap();
        for (pc_id, at) in [
            ("PC-1", "2"),
            ("PC-2", "5"),
            ("PC-2", "4"),
            ("PC-2", "3"),
            ("PC-1", "1"),
        ] {
            let completion = Completion {
                job_id: "job",
                pc_id,
                version: Some("1.0"),
            };
            making.note(&completion, at).unwrap();
        }
        making.write().unwrap();
        let basis = Basis {
            purpose: Purpose::Rebuild,
            adopted: false,
            all_at_hand: false,
        };
        settle(&conn, &basis, &mut Vouched::default()).unwrap();
        let rows = |table: &str| -> Vec<String> {
            if !exists(&conn, "main", table).unwrap() {
                return Vec::new();
            }
            let sql = format!("SELECT pc_id || ' ' || last_success_at FROM main.{table} ORDER BY 1");
            let mut select = conn.prepare(&sql).unwrap();
            let rows = select.query_map([], |row| row.get(0)).unwrap();
            rows.map(Result::unwrap).collect()
        };
        (rows("job_completions"), rows("job_version_completions"))
    }

    #[test]
    fn each_ledger_is_made_whether_or_not_the_file_has_the_other() {
        let jobs = ["PC-1 9", "PC-2 5", "PC-8 1"].map(str::to_owned).to_vec();
        let versions = ["PC-1 2", "PC-2 5", "PC-8 1"].map(str::to_owned).to_vec();
        let none = Vec::new;
        assert_eq!(
            settled(&format!("{JOBS}; {VERSIONS}")),
            (jobs.clone(), versions.clone())
        );
        assert_eq!(settled(JOBS), (jobs, none()));
        assert_eq!(settled(VERSIONS), (none(), versions));
        assert_eq!(settled(""), (none(), none()));
    }
}
