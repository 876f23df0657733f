//! A bare loop into the contract's schema (§6.4): no books, no position, nothing but rows and completions, with the
//! settings that were measured to be best.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

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

impl Bare {
    pub fn create(db: &Path) -> Self {
        let conn = Connection::open(db).unwrap();
        conn.execute_batch("PRAGMA page_size=8192; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA temp_store=MEMORY; PRAGMA cache_size=-262144; PRAGMA wal_autocheckpoint=50000;").unwrap();
        conn.execute_batch(READ_MODEL).unwrap();
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

    /// Copies the log into the file: part of the work.
    pub fn close(self) {
        self.conn.close().unwrap();
    }
}
