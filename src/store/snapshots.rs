//! Snapshots of the stream INVENTORY: the newest per PC and category (contract §4.2, D13). No history, no explode.

use rusqlite::{Connection, params};

use super::StoreError;
use crate::wire::inventory::Snapshot;
use crate::wire::time::Timestamp;

/// Writes a snapshot unless a newer one is there; an equal one replaces.
pub(super) fn write(conn: &Connection, snapshot: &Snapshot, published: Timestamp) -> Result<(), StoreError> {
    conn.prepare_cached(
        "INSERT INTO inventory_facts (pc_id, job_id, facts_json, display_json, summary_json, collected_at,
             recorded_at)
         VALUES (?1, ?2, ?3, ?4, NULL, ?5, ?6)
         ON CONFLICT (pc_id, job_id) DO UPDATE SET facts_json = excluded.facts_json,
             display_json = excluded.display_json, summary_json = NULL, collected_at = excluded.collected_at,
             recorded_at = excluded.recorded_at
         WHERE recorded_at <= excluded.recorded_at",
    )
    .and_then(|mut upsert| {
        upsert.execute(params![
            &*snapshot.pc_id,
            &*snapshot.job_id,
            &*snapshot.facts_json,
            snapshot.display_json,
            snapshot.collected_at.map(|at| at.stored()),
            published.stored(),
        ])
    })
    .map_err(StoreError::sqlite(format_args!(
        "write the snapshot {:?} of {:?}",
        snapshot.job_id, snapshot.pc_id
    )))?;
    Ok(())
}
