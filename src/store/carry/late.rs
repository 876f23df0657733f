//! An output that the database got repaired while the scratch was loaded: the scratch takes it, and what is derived from
//! it, the way a repair does.

use std::sync::Arc;

use rusqlite::{OptionalExtension, params};

use super::super::{Left, Store, StoreError};
use crate::projection::manifests::Manifests;
use crate::wire::result::Field;
use crate::wire::time::Timestamp;

/// Outputs that are taken in one transaction.
const GROUP_MAX: usize = 100;

impl Store {
    /// Takes the outputs that the database beside it has by now (see [`Store::set_foreknown`]), and derives anew what
    /// they change. Returns how many.
    ///
    /// # Errors
    /// SQLite's.
    pub fn take_late_outputs(
        &mut self,
        manifests: &Arc<Manifests>,
        now_wall: Timestamp,
    ) -> Result<u64, StoreError> {
        let before = self.carried_outputs();
        let mut all = Left::default();
        let mut after = (String::new(), String::new());
        loop {
            let missing = self.missing_after(&after)?;
            let Some((result_id, field, _)) = missing.last() else {
                break;
            };
            after = (result_id.clone(), field.clone());
            let mut group = self.begin(manifests, now_wall)?;
            for (result_id, field, object) in &missing {
                if let Some(field) = Field::parse(field) {
                    group.take_kept(result_id, field, object)?;
                }
            }
            let (_, left) = group.commit()?;
            all.more_waiting.extend(left.more_waiting);
            all.due |= left.due;
        }
        let taken = self.carried_outputs() - before;
        while let Some(pair) = all.more_waiting.pop() {
            let mut group = self.begin(manifests, now_wall)?;
            group.release(&pair)?;
            all.more_waiting.extend(group.commit()?.1.more_waiting);
        }
        if all.due {
            self.rederive_due(manifests, now_wall)?;
        }
        Ok(taken)
    }

    fn carried_outputs(&self) -> u64 {
        self.foreknown().map_or(0, super::Foreknowledge::carried_outputs)
    }

    /// Result, field and pointer of what is not there, in key order after `key`.
    fn missing_after(&self, key: &(String, String)) -> Result<Vec<(String, String, String)>, StoreError> {
        let missing = || -> Result<Vec<_>, rusqlite::Error> {
            let any = "SELECT 1 FROM projector_outputs WHERE state <> 'fetched' LIMIT 1";
            if self.conn.query_row(any, [], |_| Ok(())).optional()?.is_none() {
                return Ok(Vec::new());
            }
            self.conn
                .prepare_cached(
                    "SELECT result_id, field, object FROM projector_outputs
                     WHERE (result_id, field) > (?1, ?2) AND state <> 'fetched' ORDER BY result_id, field LIMIT ?3",
                )?
                .query_map(params![key.0, key.1, GROUP_MAX], |row| {
                    Ok((row.get(0)?, row.get(1)?, row.get(2)?))
                })?
                .collect()
        };
        missing().map_err(StoreError::sqlite("read the missing outputs of what was loaded"))
    }
}
