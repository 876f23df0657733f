//! The book of issues: parts of good messages that could not be projected (contract D5). Per pair and part the newest;
//! a part that succeeds again is none any more.

use rusqlite::{Connection, params};
use serde::Serialize;

use super::super::StoreError;
use super::{Evidence, Pair};
use crate::projection::issue::IssueCode;

const DELETE: &str = "DELETE FROM projector_issues WHERE job_id = ?1 AND pc_id = ?2 AND part = ?3";

/// One issue, for `status`.
#[derive(Clone, Debug, Serialize)]
pub struct Listed {
    /// The job.
    pub job_id: String,
    /// The host.
    pub pc_id: String,
    /// Which part of the job's hints.
    pub part: String,
    /// See [`IssueCode`].
    pub code: String,
    /// Of the result's message.
    pub stream: String,
    /// Of the result's message.
    pub incarnation: u64,
    /// Of the result's message.
    pub stream_seq: u64,
    /// The result's row.
    pub result_id: String,
    /// What is wrong.
    pub reason: String,
}

/// Replaces what is reported of a part. Sets `any` when something is reported.
pub(super) fn replace(
    conn: &Connection,
    any: &mut bool,
    evidence: &Evidence<'_>,
    part: &str,
    report: &[(IssueCode, String)],
) -> Result<(), StoreError> {
    let Evidence { pair, .. } = evidence;
    *any |= !report.is_empty();
    let write = || -> Result<(), rusqlite::Error> {
        conn.prepare_cached(DELETE)?
            .execute([pair.job_id, pair.pc_id, part])?;
        for (code, reason) in report {
            let reason: String = reason.chars().take(500).collect();
            conn.prepare_cached(
                "INSERT INTO projector_issues (job_id, pc_id, part, code, stream, incarnation, stream_seq, result_id,
                     reason)
                 VALUES (?1, ?2, ?3, ?4, 'RESULTS', ?5, ?6, ?7, ?8)",
            )?
            .execute(params![
                pair.job_id,
                pair.pc_id,
                part,
                code.as_str(),
                evidence.incarnation,
                evidence.seq.0,
                evidence.result_id,
                reason,
            ])?;
        }
        Ok(())
    };
    write().map_err(StoreError::sqlite(format_args!("report an issue of {pair}")))
}

/// Forgets a pair's issues of parts that are none any more: `named` are those of the manifest in force. Returns whether the
/// pair had any.
pub(super) fn keep(
    conn: &Connection,
    pair: Pair<'_>,
    named: impl FnOnce() -> Vec<String>,
) -> Result<bool, StoreError> {
    let write = || -> Result<bool, rusqlite::Error> {
        let reported: Vec<String> = conn
            .prepare_cached("SELECT part FROM projector_issues WHERE job_id = ?1 AND pc_id = ?2")?
            .query_map([pair.job_id, pair.pc_id], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        if reported.is_empty() {
            return Ok(false);
        }
        let named = named();
        for part in reported.iter().filter(|part| !named.contains(part)) {
            conn.prepare_cached(DELETE)?
                .execute([pair.job_id, pair.pc_id, part])?;
        }
        Ok(true)
    };
    write().map_err(StoreError::sqlite(format_args!("look at the issues of {pair}")))
}

/// Whether there are any at all.
pub(in super::super) fn any(conn: &Connection) -> Result<bool, StoreError> {
    conn.prepare_cached("SELECT EXISTS (SELECT 1 FROM projector_issues)")
        .and_then(|mut select| select.query_row([], |row| row.get(0)))
        .map_err(StoreError::sqlite("look at projector_issues"))
}

/// Forgets a pair's issues, before it is derived anew.
pub(super) fn forget(conn: &Connection, pair: Pair<'_>) -> Result<(), StoreError> {
    conn.prepare_cached("DELETE FROM projector_issues WHERE job_id = ?1 AND pc_id = ?2")
        .and_then(|mut delete| delete.execute([pair.job_id, pair.pc_id]))
        .map_err(StoreError::sqlite(format_args!("derive {pair} anew")))?;
    Ok(())
}

/// The issues, by job, PC and part: so many at most (-1: all).
///
/// # Errors
/// SQLite's.
pub(in super::super) fn list(conn: &Connection, limit: i64) -> Result<Vec<Listed>, StoreError> {
    let read = || -> Result<Vec<Listed>, rusqlite::Error> {
        conn.prepare(
            "SELECT job_id, pc_id, part, code, stream, incarnation, stream_seq, result_id, reason
             FROM projector_issues ORDER BY job_id, pc_id, part, code LIMIT ?1",
        )?
        .query_map([limit], |row| {
            Ok(Listed {
                job_id: row.get(0)?,
                pc_id: row.get(1)?,
                part: row.get(2)?,
                code: row.get(3)?,
                stream: row.get(4)?,
                incarnation: row.get(5)?,
                stream_seq: row.get(6)?,
                result_id: row.get(7)?,
                reason: row.get(8)?,
            })
        })?
        .collect()
    };
    read().map_err(StoreError::sqlite("read projector_issues"))
}
