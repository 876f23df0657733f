//! The counters of `executions` (contract §7.3): moved once a group and execution, by the transitions of its rows. An
//! execution whose row is not there yet is remembered and settled by counting as soon as it is.

use std::collections::BTreeMap;

use chrono::TimeDelta;
use rusqlite::{Connection, params};

use super::StoreError;
use crate::projection::execution::Delta;
use crate::wire::time::Timestamp;

/// An execution whose row has not come for so long is forgotten (contract §7.3).
const FORGOTTEN_AFTER_DAYS: i64 = 90;

/// What one group does to executions.
#[derive(Debug, Default)]
pub(super) struct Tally {
    moves: BTreeMap<String, Move>,
}

#[derive(Debug, Default)]
struct Move {
    delta: Delta,
    /// A row has ended, or moved here: the status follows the counters.
    ended: bool,
}

impl Tally {
    /// A row of this execution has started; nothing else is known of it.
    pub(super) fn started(&mut self, exec_id: &str) {
        self.entry(exec_id, |_| {});
    }

    /// The counters of an execution move.
    pub(super) fn moved(&mut self, exec_id: &str, delta: Delta) {
        self.entry(exec_id, |to| {
            to.delta.success += delta.success;
            to.delta.failure += delta.failure;
            to.ended = true;
        });
    }

    fn entry(&mut self, exec_id: &str, change: impl FnOnce(&mut Move)) {
        match self.moves.get_mut(exec_id) {
            Some(to) => change(to),
            None => change(self.moves.entry(exec_id.to_owned()).or_default()),
        }
    }

    /// Writes the group's moves. Returns whether one was remembered for later.
    pub(super) fn write(&mut self, conn: &Connection, now: Timestamp) -> Result<bool, StoreError> {
        let moves = std::mem::take(&mut self.moves);
        if moves.is_empty() {
            return Ok(false);
        }
        // Without a single unsettled execution, none of these can be one.
        let any_unsettled = any_unsettled(conn)?;
        let mut remembered = false;
        let mut write = || -> Result<(), rusqlite::Error> {
            for (exec_id, Move { delta, ended }) in &moves {
                let there = exists(conn, exec_id)?;
                if !there {
                    conn.prepare_cached(
                        "INSERT INTO projector_unsettled (exec_id, since_wall) VALUES (?1, ?2)
                         ON CONFLICT (exec_id) DO NOTHING",
                    )?
                    .execute(params![exec_id, now.stored()])?;
                    remembered = true;
                } else if any_unsettled && forget(conn, exec_id)? {
                    settle(conn, exec_id)?;
                } else if *ended {
                    conn.prepare_cached(
                        "UPDATE executions SET success_count = success_count + ?2, failure_count = failure_count + ?3,
                             status = CASE WHEN success_count + ?2 + failure_count + ?3 >= target_count
                                 THEN 'completed' ELSE 'running' END
                         WHERE exec_id = ?1",
                    )?
                    .execute(params![exec_id, delta.success, delta.failure])?;
                } else {
                    conn.prepare_cached(
                        "UPDATE executions SET status = 'running' WHERE exec_id = ?1 AND status = 'pending'",
                    )?
                    .execute([exec_id])?;
                }
            }
            Ok(())
        };
        write().map_err(StoreError::sqlite("move the counters of executions"))?;
        Ok(remembered)
    }
}

fn exists(conn: &Connection, exec_id: &str) -> Result<bool, rusqlite::Error> {
    conn.prepare_cached("SELECT EXISTS (SELECT 1 FROM executions WHERE exec_id = ?1)")?
        .query_row([exec_id], |row| row.get(0))
}

fn forget(conn: &Connection, exec_id: &str) -> Result<bool, rusqlite::Error> {
    let forgotten = conn
        .prepare_cached("DELETE FROM projector_unsettled WHERE exec_id = ?1")?
        .execute([exec_id])?;
    Ok(forgotten > 0)
}

/// Counters and status as `rows` say (`success`, `failure`, and whether any has `started`). Only in-flight rows: `running`.
pub(super) const BY_ROWS: &str = "success_count = rows.success, failure_count = rows.failure,
     status = CASE WHEN rows.success + rows.failure = 0
             THEN CASE WHEN rows.started AND status = 'pending' THEN 'running' ELSE status END
         WHEN rows.success + rows.failure >= target_count THEN 'completed' ELSE 'running' END";

/// Sets the counters to what the rows say.
fn settle(conn: &Connection, exec_id: &str) -> Result<(), rusqlite::Error> {
    conn.prepare_cached(&format!(
        "UPDATE executions SET {BY_ROWS}
         FROM (SELECT count(*) FILTER (WHERE finished_at IS NOT NULL AND exit_code = 0) AS success,
                      count(*) FILTER (WHERE finished_at IS NOT NULL AND exit_code IS NOT 0) AS failure,
                      count(*) > 0 AS started
               FROM execution_results WHERE exec_id = ?1) AS rows
         WHERE exec_id = ?1",
    ))?
    .execute([exec_id])?;
    Ok(())
}

/// Settles every remembered execution whose row has appeared, and forgets those that waited too long.
pub(super) fn settle_all(conn: &Connection, now: Timestamp) -> Result<(), StoreError> {
    let work = || -> Result<(), rusqlite::Error> {
        let appeared: Vec<String> = conn
            .prepare_cached(
                "SELECT exec_id FROM projector_unsettled WHERE exec_id IN (SELECT exec_id FROM executions)",
            )?
            .query_map([], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        for exec_id in &appeared {
            settle(conn, exec_id)?;
            forget(conn, exec_id)?;
        }
        conn.prepare_cached("DELETE FROM projector_unsettled WHERE since_wall < ?1")?
            .execute([forgotten_before(now)])?;
        Ok(())
    };
    work().map_err(StoreError::sqlite("settle executions"))
}

/// `None` sorts before every time: nothing is forgotten.
fn forgotten_before(now: Timestamp) -> Option<String> {
    let before = now.checked_add(TimeDelta::days(-FORGOTTEN_AFTER_DAYS));
    before.map(|before| before.stored())
}

/// Whether [`settle_all`] has anything to do.
pub(super) fn any_to_settle(conn: &Connection, now: Timestamp) -> Result<bool, StoreError> {
    conn.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM projector_unsettled
         WHERE exec_id IN (SELECT exec_id FROM executions) OR since_wall < ?1)",
    )
    .and_then(|mut select| select.query_row([forgotten_before(now)], |row| row.get(0)))
    .map_err(StoreError::sqlite("look at projector_unsettled"))
}

/// Whether there is anything to settle.
pub(super) fn any_unsettled(conn: &Connection) -> Result<bool, StoreError> {
    conn.prepare_cached("SELECT EXISTS (SELECT 1 FROM projector_unsettled)")
        .and_then(|mut select| select.query_row([], |row| row.get(0)))
        .map_err(StoreError::sqlite("look at projector_unsettled"))
}
