//! A result meets its row, or makes it.

use super::super::StoreError;
use super::super::rows::{self, Before};
use super::{Group, clip};
use crate::projection::result::{Known, ResultRow, RowChange, row_change};

impl Group<'_> {
    /// Writes a result's row: a new one, or its own columns over those of its start event. Returns what was known of it, and
    /// what a finished row says besides.
    pub(super) fn enter_row(
        &mut self,
        row: &ResultRow<'_>,
    ) -> Result<(Known, Option<rows::Row>), StoreError> {
        let launched = row.result.exec_id.is_some();
        let mut before = None;
        // Looking costs less than an insert in vain, and nothing is gained by it when that succeeds: it is expected to go as
        // with the last one.
        if launched && self.context.starts_come_first && self.has_no_foreign_triggers() {
            before = rows::before(self.tx, row)?;
        }
        if before.is_none() {
            if rows::insert_result(&mut self.insert_result, row).map_err(cannot_write(row))? {
                self.context.starts_come_first &= !launched;
                return Ok((Known::Absent, None));
            }
            before = rows::before(self.tx, row)?;
            self.context.starts_come_first |= launched;
        }
        let Some(before) = before else {
            return Ok((Known::Absent, None));
        };
        let known = before.known;
        let after = match row_change(known) {
            RowChange::Finish => Some(self.finish_row(row, before)?),
            RowChange::Insert | RowChange::Nothing => None,
        };
        Ok((known, after))
    }

    /// Whether no trigger of others sees what is tried: then the ledgers are ours to write, or it is a scratch, where none fires.
    fn has_no_foreign_triggers(&self) -> bool {
        self.ledger.is_some() || self.context.scratch_ledgers.is_some()
    }

    /// Writes a result over its start event. What that has told already is not written again: SQLite would take each index
    /// entry away and put the same one back. Triggers that are not ours may wait for just these columns.
    pub(super) fn finish_row(&self, row: &ResultRow<'_>, before: Before) -> Result<rows::Row, StoreError> {
        if before.stays && self.has_no_foreign_triggers() {
            rows::finish_alone(self.tx, &before, row).map_err(cannot_write(row))?;
            return Ok(before.row);
        }
        rows::finish(self.tx, row).map_err(cannot_write(row))
    }
}

/// Its words are made only once there is an error: this stands in the way of every row.
pub(super) fn cannot_write(row: &ResultRow<'_>) -> impl FnOnce(rusqlite::Error) -> StoreError {
    move |error| StoreError::sqlite(format_args!("write result {:?}", clip(&row.result_id)))(error)
}
