//! A dead letter that became a result after all, and the result that it may take a row from (contract §7.2): their pairs
//! are derived anew, in the order of the messages.

use super::super::StoreError;
use super::evidence::{Pair, Stored};
use super::pairs::{PairState, begin, set_job_due, set_state, state, wait};
use super::{Deriver, Hints};

impl Deriver<'_> {
    /// A result that was entered out of its order. Returns whether its pair is due now.
    pub(in super::super) fn retried(&mut self, entry: i64) -> Result<bool, StoreError> {
        let Some(stored) = Stored::load(self.conn, entry)? else {
            return Ok(false);
        };
        let evidence = stored.evidence();
        let pair = evidence.pair;
        let Some(hints) = self.manifests.hints(pair.job_id) else {
            return Ok(false);
        };
        if evidence.needs(hints).is_none() {
            return Ok(false);
        }
        if state(self.conn, pair)?.is_none() {
            let first = if self.adopted { 0 } else { entry };
            begin(self.conn, pair, &hints.hash, first)?;
        }
        set_state(self.conn, pair, PairState::Due)?;
        // The pair may have been due already, with its results read before this one was there.
        wait(self.conn, pair, entry)?;
        Ok(true)
    }

    /// A result whose row is now another message's. Deriving anew replaces facts and history; a check and feeds go by
    /// publish time, so what this one has left there is taken away. Returns whether a pair is due now.
    pub(in super::super) fn withdrawn(
        &mut self,
        pair: Pair<'_>,
        published: &str,
    ) -> Result<bool, StoreError> {
        let manifests = self.manifests;
        let Some(hints) = manifests.hints(pair.job_id) else {
            return Ok(false);
        };
        if state(self.conn, pair)?.is_none() {
            return Ok(false);
        }
        set_state(self.conn, pair, PairState::Due)?;
        if self.forget_newest(pair, hints, published)? {
            set_job_due(self.conn, pair.job_id)?;
        }
        Ok(true)
    }

    /// Returns whether a feed must be filled again, from the results of all PCs.
    fn forget_newest(&self, pair: Pair<'_>, hints: &Hints, published: &str) -> Result<bool, StoreError> {
        let mut any_feed = false;
        let mut forget = || -> Result<(), rusqlite::Error> {
            if let Some(check) = &hints.check {
                self.conn
                    .prepare_cached(
                        "DELETE FROM check_status WHERE pc_id = ?1 AND check_name = ?2 AND recorded_at = ?3",
                    )?
                    .execute([pair.pc_id, &check.name, published])?;
            }
            for feed in &hints.feeds {
                let id = feed.id.as_str();
                let was_newest = self
                    .conn
                    .prepare_cached("DELETE FROM feed_meta WHERE feed_id = ?1 AND recorded_at = ?2")?
                    .execute([id, published])?;
                if was_newest > 0 {
                    self.conn
                        .prepare_cached("DELETE FROM feeds WHERE feed_id = ?1")?
                        .execute([id])?;
                    any_feed = true;
                }
            }
            Ok(())
        };
        forget().map_err(StoreError::sqlite(format_args!("withdraw a result of {pair}")))?;
        Ok(any_feed)
    }
}
