//! Pairs beside the streams: what waited is applied, and what is due is derived anew.

use super::super::StoreError;
use super::super::derive::{DuePair, OwnedPair};
use super::Group;

impl Group<'_> {
    /// Applies more of what waits of a pair.
    ///
    /// # Errors
    /// SQLite's.
    pub fn release(&mut self, pair: &OwnedPair) -> Result<(), StoreError> {
        if self.deriver().release(pair)? {
            self.left.more_waiting.push(pair.clone());
        }
        Ok(())
    }

    /// Derives a due pair anew.
    ///
    /// # Errors
    /// SQLite's.
    pub fn rederive(&mut self, due: &DuePair) -> Result<(), StoreError> {
        self.deriver().rederive(due)
    }

    /// Reports why a due pair cannot be derived anew; it stays due.
    ///
    /// # Errors
    /// SQLite's.
    pub fn report_due(&mut self, due: &DuePair, reason: String) -> Result<(), StoreError> {
        self.deriver().report(due, reason)
    }
}
