//! A bare loop into the contract's schema (§6.4): no books, no position, nothing but rows and completions, with the
//! settings that were measured to be best.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use results_projector::projection::explode::Cell;
use results_projector::projection::history::Event;
use results_projector::wire::result::ExecResult;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, Statement, TransactionBehavior, params};

use bytestring::ByteString;

const READ_MODEL: &str = include_str!("../../migrations/read_model/0001_results.sql");
const INSERT: &str =
    "INSERT INTO execution_results (result_id, request_id, exec_id, pc_id, exit_code, stdout, stderr,
         started_at, finished_at, recorded_at, job_id, parent_result_id, skipped)
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)
     ON CONFLICT (result_id) DO NOTHING";

/// Inserts one row; returns its end as stored.
fn insert_row(insert: &mut Statement<'_>, result: &ExecResult<ByteString>) -> String {
    let finished = result.finished_at.stored();
    insert
        .execute(params![
            result.row_key(),
            &*result.request_id,
            result.exec_id.as_deref(),
            &*result.pc_id,
            result.exit_code,
            &*result.stdout,
            &*result.stderr,
            result.started_at.stored(),
            finished,
            finished,
            result.manifest_id.as_deref(),
            result.parent_result_id.as_deref(),
            result.skipped_column(),
        ])
        .unwrap();
    finished
}

/// Fills a new file in bulk: rows appended with nothing but their key, in one transaction without a journal; then
/// completions by one statement each, the indexes, the check, a log, and all of it on disk under its name. Returns the
/// seconds of each phase.
pub fn bulk(db: &Path, results: &[ExecResult<ByteString>]) -> Vec<(&'static str, f64)> {
    let mut phases = Vec::new();
    let mut since = Instant::now();
    let mut phase = |name: &'static str| {
        phases.push((name, since.elapsed().as_secs_f64()));
        since = Instant::now();
    };
    let side = db.with_extension("side");
    let mut conn = Connection::open(&side).unwrap();
    conn.execute_batch(
        "PRAGMA page_size=16384; PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-262144;
         PRAGMA mmap_size=1099511627776;",
    )
    .unwrap();
    let (tables, others): (Vec<&str>, Vec<&str>) = READ_MODEL
        .split_inclusive(";\n")
        .partition(|statement| statement.contains("CREATE TABLE"));
    conn.execute_batch(&tables.concat()).unwrap();
    let tx = conn.transaction().unwrap();
    {
        let mut insert = tx.prepare_cached(INSERT).unwrap();
        for result in results {
            insert_row(&mut insert, result);
        }
    }
    tx.commit().unwrap();
    phase("load");
    conn.execute_batch(
        "INSERT INTO job_completions SELECT job_id, pc_id, max(finished_at) FROM execution_results
             WHERE job_id IS NOT NULL AND exit_code = 0 AND finished_at IS NOT NULL GROUP BY 1, 2",
    )
    .unwrap();
    phase("completions");
    conn.execute_batch(&others.concat()).unwrap();
    phase("indexes");
    let sound: String = conn
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .unwrap();
    assert_eq!(sound, "ok");
    phase("check");
    conn.query_row("PRAGMA journal_mode=WAL", [], |_| Ok(())).unwrap();
    conn.close().unwrap();
    std::fs::File::open(&side).unwrap().sync_all().unwrap();
    std::fs::rename(&side, db).unwrap();
    std::fs::File::open(db.parent().unwrap())
        .unwrap()
        .sync_all()
        .unwrap();
    phase("sync");
    phases
}

pub struct Bare {
    conn: Connection,
}

/// What one scan writes, known beforehand.
pub struct ScanRows {
    pub result: ExecResult<ByteString>,
    /// `None`: it is broken, and only its row is written.
    pub facts: Option<String>,
    /// Of each table that it fills: its name and all rows.
    pub tables: Vec<(String, Vec<Vec<Cell>>)>,
    pub events: Vec<Event>,
}

impl Bare {
    pub fn create(db: &Path) -> Self {
        Self::with_schema(db, READ_MODEL)
    }

    pub fn with_schema(db: &Path, schema: &str) -> Self {
        let conn = Connection::open(db).unwrap();
        conn.execute_batch("PRAGMA page_size=8192; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA temp_store=MEMORY; PRAGMA cache_size=-262144; PRAGMA wal_autocheckpoint=50000;").unwrap();
        conn.execute_batch(schema).unwrap();
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)
            .unwrap();
        Self { conn }
    }

    /// Inserts results, so many a transaction; returns each commit's seconds.
    pub fn insert(&mut self, results: &[ExecResult<ByteString>], rows: usize) -> Vec<f64> {
        let mut commits = Vec::new();
        for group in results.chunks(rows) {
            let tx = self
                .conn
                .transaction_with_behavior(TransactionBehavior::Immediate)
                .unwrap();
            let mut completions: BTreeMap<(&str, &str), String> = BTreeMap::new();
            {
                let mut insert = tx.prepare_cached(INSERT).unwrap();
                for result in group {
                    let finished = insert_row(&mut insert, result);
                    if let (0, Some(job)) = (result.exit_code, &result.manifest_id) {
                        let kept = completions.entry((job, &result.pc_id)).or_default();
                        if finished > *kept {
                            *kept = finished;
                        }
                    }
                }
                let mut complete = tx
                    .prepare_cached(
                        "INSERT INTO job_completions (job_id, pc_id, last_success_at) VALUES (?1, ?2, ?3)
                         ON CONFLICT (job_id, pc_id) DO UPDATE SET last_success_at = max(last_success_at, excluded.last_success_at)",
                    )
                    .unwrap();
                for ((job, pc), at) in completions {
                    complete.execute(params![job, pc, at]).unwrap();
                }
            }
            let committing = Instant::now();
            tx.commit().unwrap();
            commits.push(committing.elapsed().as_secs_f64());
        }
        commits
    }

    /// Writes scans, so many a transaction: each pair's rows anew, nothing read and nothing compared.
    pub fn scans(&mut self, scans: &[ScanRows], rows: usize) {
        for group in scans.chunks(rows) {
            let tx = self
                .conn
                .transaction_with_behavior(TransactionBehavior::Immediate)
                .unwrap();
            for scan in group {
                let result = &scan.result;
                let at = insert_row(&mut tx.prepare_cached(INSERT).unwrap(), result);
                let (pc, job) = (&*result.pc_id, result.manifest_id.as_deref());
                let Some(facts) = &scan.facts else { continue };
                tx.prepare_cached(
                    "INSERT INTO inventory_facts (pc_id, job_id, facts_json, collected_at, recorded_at)
                     VALUES (?1, ?2, ?3, ?4, ?4)
                     ON CONFLICT (pc_id, job_id) DO UPDATE SET facts_json = excluded.facts_json,
                         collected_at = excluded.collected_at, recorded_at = excluded.recorded_at",
                )
                .unwrap()
                .execute(params![pc, job, facts, at])
                .unwrap();
                for (table, rows) in &scan.tables {
                    tx.prepare_cached(&format!("DELETE FROM {table} WHERE pc_id = ?1 AND job_id = ?2"))
                        .unwrap()
                        .execute(params![pc, job])
                        .unwrap();
                    let marks = vec!["?"; 3 + rows.first().map_or(0, Vec::len)].join(", ");
                    let mut insert = tx
                        .prepare_cached(&format!("INSERT INTO {table} VALUES ({marks})"))
                        .unwrap();
                    for row in rows {
                        for (number, text) in [Some(pc), job, Some(&at)].into_iter().enumerate() {
                            insert.raw_bind_parameter(number + 1, text).unwrap();
                        }
                        for (number, cell) in row.iter().enumerate() {
                            match cell {
                                Cell::Null => insert.raw_bind_parameter(number + 4, None::<i64>),
                                Cell::Integer(value) => insert.raw_bind_parameter(number + 4, value),
                                Cell::Real(value) => insert.raw_bind_parameter(number + 4, value),
                                Cell::Text(value) => insert.raw_bind_parameter(number + 4, value),
                            }
                            .unwrap();
                        }
                        insert.raw_execute().unwrap();
                    }
                }
                let mut enter = tx
                    .prepare_cached(
                        "INSERT INTO inventory_history (pc_id, job_id, field_path, identity_json, change_kind,
                             before_json, after_json, observed_at)
                         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                    )
                    .unwrap();
                for event in &scan.events {
                    enter
                        .execute(params![
                            pc,
                            job,
                            event.field_path,
                            event.identity_json,
                            event.kind.as_str(),
                            event.before_json,
                            event.after_json,
                            at
                        ])
                        .unwrap();
                }
            }
            tx.commit().unwrap();
        }
    }

    /// Copies the log into the file: part of the work.
    pub fn close(self) {
        self.conn.close().unwrap();
    }
}
