//! `inventory_history`: events in the order in which they were found (contract §7.4, D2).

use rusqlite::{Connection, params};

use super::super::StoreError;
use super::Evidence;
use crate::projection::history::Event;

/// Appends events, observed when the message was published.
pub(super) fn enter(
    conn: &Connection,
    evidence: &Evidence<'_>,
    events: impl IntoIterator<Item = Event>,
) -> Result<(), StoreError> {
    let Evidence { pair, published, .. } = evidence;
    let write = move || -> Result<(), rusqlite::Error> {
        let mut insert = conn.prepare_cached(
            "INSERT INTO inventory_history (pc_id, job_id, field_path, identity_json, change_kind, before_json,
                 after_json, observed_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?;
        for event in events {
            insert.execute(params![
                pair.pc_id,
                pair.job_id,
                event.field_path,
                event.identity_json,
                event.kind.as_str(),
                event.before_json,
                event.after_json,
                published,
            ])?;
        }
        Ok(())
    };
    write().map_err(StoreError::sqlite(format_args!("write the history of {pair}")))
}

/// Forgets a pair's events from a publish time on; all of them without one.
pub(super) fn forget(
    conn: &Connection,
    pc_id: &str,
    job_id: &str,
    from: Option<&str>,
) -> Result<(), StoreError> {
    conn.prepare_cached(
        "DELETE FROM inventory_history WHERE pc_id = ?1 AND job_id = ?2 AND (?3 IS NULL OR observed_at >= ?3)",
    )
    .and_then(|mut delete| delete.execute(params![pc_id, job_id, from]))
    .map_err(StoreError::sqlite(format_args!("remake the history of {pc_id}, {job_id}")))?;
    Ok(())
}
