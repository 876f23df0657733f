//! The completion ledgers (contract §6.5), once per group and key instead of once per row by trigger.
//!
//! The triggers stay in the file for its other writers. SQLite switches all of a connection's triggers or none, so they
//! are off on ours only while those on the tables we write are exactly the two we know: any other trigger is somebody's
//! intention and must fire.

use std::collections::BTreeMap;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, params};

use super::StoreError;
use super::columns::is_written;
use crate::projection::result::Completion;
use crate::projection::spec::is_taken;

const TRIGGERS: &str = include_str!("../../migrations/read_model/0001_results.sql");

/// The greatest end of one group's successes, by job and PC, and by job, version and PC. Nested, so that noting a key
/// that is there already copies nothing; ordered, since neighbours share index pages.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    jobs: BTreeMap<String, BTreeMap<String, String>>,
    versions: BTreeMap<(String, String), BTreeMap<String, String>>,
}

impl Ledger {
    /// Notes a success. `finished_at`: a stored time; the greater text wins.
    pub(super) fn note(&mut self, completion: &Completion<'_>, finished_at: &str) {
        let Completion {
            job_id,
            pc_id,
            version,
        } = *completion;
        match self.jobs.get_mut(job_id) {
            Some(pcs) => keep_greater(pcs, pc_id, finished_at),
            None => keep_greater(
                self.jobs.entry(job_id.to_owned()).or_default(),
                pc_id,
                finished_at,
            ),
        }
        if let Some(version) = version {
            let pcs = self
                .versions
                .entry((job_id.to_owned(), version.to_owned()))
                .or_default();
            keep_greater(pcs, pc_id, finished_at);
        }
    }

    /// Writes what the triggers would have written.
    pub(super) fn write(&mut self, conn: &Connection) -> Result<(), StoreError> {
        self.write_jobs(conn)
            .and_then(|()| self.write_versions(conn))
            .map_err(StoreError::sqlite("write the completion ledgers"))
    }

    /// As [`Self::write`], only `job_completions`.
    pub(super) fn write_jobs(&mut self, conn: &Connection) -> Result<(), rusqlite::Error> {
        let mut job = conn.prepare_cached(
            "INSERT INTO job_completions (job_id, pc_id, last_success_at) VALUES (?1, ?2, ?3)
                 ON CONFLICT (job_id, pc_id) DO UPDATE SET last_success_at = excluded.last_success_at
                 WHERE excluded.last_success_at > last_success_at",
        )?;
        for (job_id, pcs) in &self.jobs {
            for (pc_id, at) in pcs {
                job.execute(params![job_id, pc_id, at])?;
            }
        }
        self.jobs.clear();
        Ok(())
    }

    /// As [`Self::write`], only `job_version_completions`.
    pub(super) fn write_versions(&mut self, conn: &Connection) -> Result<(), rusqlite::Error> {
        let mut version = conn.prepare_cached(
                "INSERT INTO job_version_completions (job_id, version, pc_id, last_success_at) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (job_id, version, pc_id) DO UPDATE SET last_success_at = excluded.last_success_at
                 WHERE excluded.last_success_at > last_success_at",
            )?;
        for ((job_id, version_text), pcs) in &self.versions {
            for (pc_id, at) in pcs {
                version.execute(params![job_id, version_text, pc_id, at])?;
            }
        }
        self.versions.clear();
        Ok(())
    }
}

fn keep_greater(pcs: &mut BTreeMap<String, String>, pc_id: &str, text: &str) {
    match pcs.get_mut(pc_id) {
        Some(kept) if text > kept.as_str() => text.clone_into(kept),
        Some(_) => {}
        None => drop(pcs.insert(pc_id.to_owned(), text.to_owned())),
    }
}

/// Whether the ledgers are ours to write, looked at again whenever the schema has changed.
#[derive(Debug, Default)]
pub(super) struct TriggerWatch {
    seen: Option<(i64, bool)>,
    /// Those that were told of.
    told: Vec<(String, String)>,
}

impl TriggerWatch {
    /// Looks at the triggers on all tables that we may write, inside the caller's transaction; switches them off on this
    /// connection when they are exactly the known two. Returns whether they are off.
    pub(super) fn look(&mut self, conn: &Connection) -> Result<bool, StoreError> {
        let version: i64 = conn
            .prepare_cached("PRAGMA schema_version")
            .and_then(|mut statement| statement.query_row([], |row| row.get(0)))
            .map_err(StoreError::sqlite("read the schema's version"))?;
        if let Some((seen, off)) = self.seen
            && seen == version
        {
            return Ok(off);
        }
        let triggers = || -> Result<Vec<(String, String)>, rusqlite::Error> {
            conn.prepare("SELECT tbl_name, sql FROM sqlite_schema WHERE type = 'trigger' ORDER BY name")?
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect()
        };
        let mut found = triggers().map_err(StoreError::sqlite("read the triggers"))?;
        found.retain(|(table, _)| !is_never_written(table));
        let off = found.iter().map(|(_, sql)| words(sql)).eq(known_triggers());
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, !off)
            .map_err(StoreError::sqlite("switch triggers"))?;
        // None at all: a backend without ledgers yet. The schema also changes for other reasons.
        if !off && !found.is_empty() && found != self.told {
            tracing::warn!(
                triggers = found.len(),
                "the triggers on the tables that are written are not the two known ones; they stay on"
            );
        }
        self.told = found;
        self.seen = Some((version, off));
        Ok(off)
    }
}

/// Tables of the backend's whose triggers are no business of ours: neither the read model nor exploded.
fn is_never_written(table: &str) -> bool {
    is_taken(table) && !is_written(table)
}

/// The two triggers of our own migration, in name order.
fn known_triggers() -> impl Iterator<Item = String> {
    TRIGGERS
        .split("CREATE TRIGGER ")
        .skip(1)
        .filter_map(|text| text.split_inclusive("END;").next())
        .map(|text| words(&format!("CREATE TRIGGER {}", text.trim_end_matches(';'))))
}

/// A statement's words: the same whatever the blanks between them.
fn words(sql: &str) -> String {
    sql.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database() -> Connection {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(TRIGGERS).unwrap();
        conn
    }

    #[test]
    fn a_trigger_on_any_table_that_we_may_write_keeps_all_triggers_on() {
        for (table, off) in [
            ("inventory_facts", false),
            ("Feeds", false),
            ("an_exploded_table", false),
            ("obs_events", true),
            ("users", true),
        ] {
            let conn = database();
            conn.execute_batch(&format!(
                "CREATE TABLE IF NOT EXISTS {table} (x);
                 CREATE TRIGGER somebody AFTER INSERT ON {table} BEGIN SELECT 1; END"
            ))
            .unwrap();
            assert_eq!(TriggerWatch::default().look(&conn).unwrap(), off, "{table}");
        }
    }

    #[test]
    fn the_known_triggers_are_switched_off_and_any_other_keeps_all_on() {
        let conn = database();
        let mut watch = TriggerWatch::default();
        assert!(watch.look(&conn).unwrap());
        conn.execute_batch(
            "CREATE TRIGGER somebody AFTER INSERT ON execution_results BEGIN SELECT raise(IGNORE); END",
        )
        .unwrap();
        assert!(!watch.look(&conn).unwrap());
        conn.execute_batch("DROP TRIGGER somebody").unwrap();
        assert!(watch.look(&conn).unwrap());
    }

    #[test]
    fn the_ledger_leaves_what_the_triggers_would_have_left() {
        let rows = [
            ("r1", "job", "PC-1", Some("1.0"), 0, "2026-06-01T00:00:05+00:00"),
            ("r2", "job", "PC-1", Some("1.0"), 0, "2026-06-01T00:00:04+00:00"),
            ("r3", "job", "PC-2", None, 0, "2026-06-01T00:00:06+00:00"),
            ("r4", "job", "PC-3", None, 1, "2026-06-01T00:00:06+00:00"),
            ("r5", "job", "PC-2", None, 0, "2026-06-01T00:00:07+00:00"),
            ("r6", "job", "PC-1", Some("1.0"), 0, "2026-06-01T00:00:03+00:00"),
        ];
        let dump = |conn: &Connection| -> Vec<String> {
            ["SELECT job_id || pc_id || last_success_at FROM job_completions ORDER BY 1",
             "SELECT job_id || version || pc_id || last_success_at FROM job_version_completions ORDER BY 1"]
            .iter()
            .flat_map(|sql| {
                let mut statement = conn.prepare(sql).unwrap();
                statement.query_map([], |row| row.get::<_, String>(0)).unwrap().map(Result::unwrap).collect::<Vec<_>>()
            })
            .collect()
        };
        // However the rows come together in groups.
        for group in 1..=rows.len() {
            let (by_trigger, by_ledger) = (database(), database());
            by_ledger
                .set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)
                .unwrap();
            let mut ledger = Ledger::default();
            for rows in rows.chunks(group) {
                for (id, job, pc, version, exit, at) in rows {
                    for conn in [&by_trigger, &by_ledger] {
                        conn.execute(
                            "INSERT INTO execution_results (result_id, request_id, pc_id, started_at, finished_at,
                                 job_id, version, exit_code) VALUES (?1, 'q', ?2, ?3, ?3, ?4, ?5, ?6)",
                            params![id, pc, at, job, version, exit],
                        )
                        .unwrap();
                    }
                    if let Some(completion) =
                        crate::projection::result::completion(Some(job), pc, *version, *exit)
                    {
                        ledger.note(&completion, at);
                    }
                }
                ledger.write(&by_ledger).unwrap();
            }
            assert_eq!(dump(&by_trigger), dump(&by_ledger), "{group} rows a group");
            assert_eq!(dump(&by_ledger).len(), 3);
        }
    }
}
