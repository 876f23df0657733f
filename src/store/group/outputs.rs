//! Outputs behind pointers, as a transaction meets them: with a row of the backend's, late, or as hints see them.

use super::super::StoreError;
use super::super::derive::{Presence, Released};
use super::super::output_book::{self, OutputOf, Repair};
use super::Group;
use crate::projection::result::{ResultMessage, ResultRow};
use crate::wire::output::{Attempt, State};
use crate::wire::result::Field;
use crate::wire::time::Timestamp;

impl Group<'_> {
    /// A row of the backend's own projector stands, but an empty text whose message has a pointer is that projector's
    /// failure: the text is filled, now or once it can be fetched, and the pair derived anew (contract §7.2).
    pub(super) fn mend(
        &mut self,
        row: &ResultRow<'_>,
        message: &ResultMessage,
        entry: i64,
        published: Timestamp,
    ) -> Result<(), StoreError> {
        for field in [Field::Stdout, Field::Stderr] {
            let Some(output) = message.output(field) else {
                continue;
            };
            if !output_book::fill_empty(self.tx, &row.result_id, field, output)? {
                continue;
            }
            let place = OutputOf {
                result_id: &row.result_id,
                field,
                entry,
                mended: true,
            };
            output_book::enter(self.tx, &place, output, published, self.now_wall)?;
            if matches!(output.attempt, Attempt::Fetched { .. }) {
                let due = self.deriver().came_back(entry, field)?;
                self.left.due |= due;
            }
        }
        Ok(())
    }

    /// Enters what became of a message's pointers, whose row this is now.
    pub(super) fn enter_outputs(
        &self,
        result_id: &str,
        message: &ResultMessage,
        entry: i64,
        published: Timestamp,
    ) -> Result<(), StoreError> {
        for field in [Field::Stdout, Field::Stderr] {
            if let Some(output) = message.output(field) {
                let place = OutputOf {
                    result_id,
                    field,
                    entry,
                    mended: false,
                };
                output_book::enter(self.tx, &place, output, published, self.now_wall)?;
            }
        }
        Ok(())
    }

    /// Applies a late attempt at an owed output, and what its coming or its end means for hints (DESIGN §4).
    ///
    /// # Errors
    /// SQLite's.
    pub fn repair(&mut self, repair: &Repair) -> Result<(), StoreError> {
        let Some(repaired) = output_book::repair(self.tx, repair, self.now_wall)? else {
            return Ok(());
        };
        match (repaired.from, repaired.to) {
            (from, to) if from == to => {}
            (State::Pending, to) => {
                // A row of the backend's projector: its pair went on without it.
                let late = repaired.mended && to == State::Fetched;
                match self.deriver().released(repaired.entry)? {
                    Released::Nothing => {}
                    Released::More(pair) => self.left.more_waiting.push(pair),
                    Released::StillDue => self.left.due = true,
                }
                if late {
                    let due = self.deriver().came_back(repaired.entry, repair.field)?;
                    self.left.due |= due;
                }
            }
            (_, State::Fetched) => {
                let due = self.deriver().came_back(repaired.entry, repair.field)?;
                self.left.due |= due;
            }
            _ => {}
        }
        Ok(())
    }
}

/// An output of a message, as hints see it.
pub(super) fn presence(message: &ResultMessage, field: Field) -> Presence<'_> {
    let state = message.output(field).map(|output| output.attempt.state());
    Presence::of(state, message.column(field))
}
