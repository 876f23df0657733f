//! The first pass over an adopted file, as a transaction takes part in it (contract §7.2).

use super::super::{StoreError, first_pass};
use super::Group;
use crate::wire::sequence::StreamSeq;

impl Group<'_> {
    pub(super) fn is_first_pass(&self, incarnation: u64, seq: StreamSeq) -> bool {
        incarnation == 1 && self.context.first_pass.is_some_and(|last| seq <= last)
    }

    /// Begins the first pass over the rows that the backend's own projector has written: from `first` up to `last` of
    /// RESULTS. Nothing in a file of our own, nor over an empty stream.
    ///
    /// # Errors
    /// SQLite's.
    pub fn begin_first_pass(&mut self, first: StreamSeq, last: StreamSeq) -> Result<(), StoreError> {
        if self.context.adopted && first <= last {
            first_pass::begin(self.tx, last)?;
            self.context.first_pass = Some(last);
        }
        Ok(())
    }

    pub(super) fn end_first_pass(&mut self) -> Result<(), StoreError> {
        if self.context.first_pass.is_some() && !self.first_pass_ends {
            first_pass::end(self.tx)?;
            self.first_pass_ends = true;
            // The pairs whose texts were filled have waited for this.
            self.left.due = true;
        }
        Ok(())
    }
}
