//! Pairs beside the streams: what waited is applied, and what is due is derived anew.

use tracing::warn;

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

    /// Derives a due pair anew. Somebody's constraint may keep what is derived from being taken away, which is no reason for
    /// others to wait: that is an issue, and the pair stays due.
    ///
    /// # Errors
    /// SQLite's.
    pub fn rederive(&mut self, due: &DuePair) -> Result<(), StoreError> {
        if let Err(error) = self.isolated(|group| group.deriver().rederive(due))? {
            warn!(job_id = due.pair.job_id, pc_id = due.pair.pc_id, %error, "a pair cannot be derived anew; it stays due");
            self.deriver().report(due, error.to_string())?;
        }
        Ok(())
    }
}
