//! A due pair, derived anew from its results at hand (DESIGN §5).

use std::collections::BTreeSet;

use super::super::StoreError;
use super::evidence::{Pair, Stored};
use super::pairs::{
    DuePair, PairState, first_entry, forget_waiting, in_message_order, is_at_hand, set_state, state, wait,
    waiting,
};
use super::{DERIVATION, Deriver, Mode, explode, history, issues};
use crate::projection::issue::IssueCode;
use crate::projection::manifests::{Hints, SpecState};

impl Deriver<'_> {
    /// Derives a pair anew from its results at hand, in the order of their messages (DESIGN §5).
    pub(in super::super) fn rederive(&mut self, due: &DuePair) -> Result<(), StoreError> {
        let pair = due.pair.borrow();
        if state(self.conn, pair)? != Some(PairState::Due) {
            return Ok(());
        }
        let manifests = self.manifests;
        let Some(hints) = manifests.hints(pair.job_id) else {
            forget_waiting(self.conn, pair)?;
            return set_state(self.conn, pair, PairState::Settled);
        };
        // What came after the entries were read waits, since the pair is due.
        let mut entries: BTreeSet<i64> = due.entries.iter().copied().collect();
        entries.extend(waiting(self.conn, pair, usize::MAX)?);
        // Those before the first were projected under no hints.
        let first = first_entry(self.conn, pair)?;
        entries.retain(|entry| *entry >= first);
        let entries = in_message_order(self.conn, entries)?;
        let start = match self.start(hints, first, &entries)? {
            Some(start) => start,
            // The oldest evidence is not certain yet: due until it is.
            None => return Ok(()),
        };
        forget_waiting(self.conn, pair)?;
        issues::forget(self.conn, pair)?;
        self.clear(pair, hints, &start)?;
        let mut state = PairState::Settled;
        let mut entries = entries.into_iter();
        for entry in entries.by_ref() {
            let Some(stored) = Stored::load(self.conn, entry)? else {
                continue;
            };
            let evidence = stored.evidence();
            if evidence.waits(hints) {
                state = PairState::Waiting;
                wait(self.conn, pair, entry)?;
                break;
            }
            let mode = match start {
                Start::After { oldest, .. } if oldest == entry => Mode::StateOnly,
                _ => Mode::WithHistory,
            };
            self.parts(mode, true).apply(hints, &evidence, None)?;
        }
        for entry in entries {
            wait(self.conn, pair, entry)?;
        }
        self.conn
            .prepare_cached(
                "UPDATE projector_derivations SET hints_hash = ?3, state = ?4 WHERE job_id = ?1 AND pc_id = ?2",
            )
            .and_then(|mut update| {
                update.execute([pair.job_id, pair.pc_id, hints.hash.as_str(), state.as_str()])
            })
            .map_err(StoreError::sqlite(format_args!("derive {pair} anew")))?;
        Ok(())
    }

    /// Reports that the database does not let a due pair be derived anew; it stays due.
    pub(in super::super) fn report(&mut self, due: &DuePair, reason: String) -> Result<(), StoreError> {
        let report = [(IssueCode::NotStored, reason)];
        for entry in due.entries.iter().rev() {
            if let Some(stored) = Stored::load(self.conn, *entry)? {
                return issues::replace(
                    self.conn,
                    self.any_issues,
                    &stored.evidence(),
                    DERIVATION,
                    &report,
                );
            }
        }
        Ok(())
    }

    /// From where a pair is made anew. `None`: that cannot be said yet.
    fn start(&self, hints: &Hints, first: i64, entries: &[i64]) -> Result<Option<Start>, StoreError> {
        if hints.inventory.is_none() {
            // Checks and feeds go by publish time: applying them again in any order gives the same.
            return Ok(Some(Start::AsIs));
        }
        if is_at_hand(self.conn, first)? {
            return Ok(Some(Start::Nothing));
        }
        let mut oldest = None;
        for entry in entries {
            let Some(stored) = Stored::load(self.conn, *entry)? else {
                continue;
            };
            let evidence = stored.evidence();
            if oldest.is_none() && evidence.waits(hints) {
                return Ok(None);
            }
            if evidence.is_inventory() {
                match oldest {
                    None => oldest = Some(*entry),
                    Some(oldest) => {
                        let next = Some(evidence.published.to_owned());
                        return Ok(Some(Start::After { oldest, next }));
                    }
                }
            }
        }
        Ok(Some(match oldest {
            Some(oldest) => Start::After { oldest, next: None },
            None => Start::AsIs,
        }))
    }

    /// Takes away what will be made anew.
    fn clear(&mut self, pair: Pair<'_>, hints: &Hints, start: &Start) -> Result<(), StoreError> {
        match start {
            Start::AsIs => return Ok(()),
            Start::Nothing => history::forget(self.conn, pair.pc_id, pair.job_id, None)?,
            Start::After { next: Some(next), .. } => {
                history::forget(self.conn, pair.pc_id, pair.job_id, Some(next))?;
            }
            Start::After { next: None, .. } => {}
        }
        self.conn
            .prepare_cached("DELETE FROM inventory_facts WHERE pc_id = ?1 AND job_id = ?2")
            .and_then(|mut delete| delete.execute([pair.pc_id, pair.job_id]))
            .map_err(StoreError::sqlite(format_args!("derive {pair} anew")))?;
        for spec in hints.inventory.iter().flat_map(|hint| &hint.specs) {
            if let SpecState::Valid(spec) = spec {
                explode::clear(self.conn, self.shapes, spec, pair.pc_id, pair.job_id)?;
            }
        }
        Ok(())
    }
}

/// From where a pair's inventory is made anew.
#[derive(Debug)]
enum Start {
    /// Its first result ever is at hand: from nothing.
    Nothing,
    /// Older results are gone. What was recorded up to the oldest evidence at hand stays; the state is set from that, and
    /// events are made from the next one (published at `next`) on.
    After { oldest: i64, next: Option<String> },
    /// Nothing at hand gives evidence: what there is stays.
    AsIs,
}
