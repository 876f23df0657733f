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

/// A new file for a live loop: no trigger fires, since completions are written once a group.
pub fn open(db: &Path, schema: &str) -> Connection {
    let conn = Connection::open(db).unwrap();
    conn.execute_batch(
        "PRAGMA page_size=8192; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA temp_store=MEMORY;
         PRAGMA cache_size=-262144; PRAGMA wal_autocheckpoint=50000;",
    )
    .unwrap();
    conn.execute_batch(schema).unwrap();
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)
        .unwrap();
    conn
}

pub struct Bare {
    conn: Connection,
}

impl Bare {
    pub fn create(db: &Path) -> Self {
        Self {
            conn: open(db, READ_MODEL),
        }
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
