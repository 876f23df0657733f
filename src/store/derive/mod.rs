//! Derived tables, pair by pair (a pair: a PC and a job). What they hold depends on the pair's results in stream order
//! and on the hints they were derived under, on nothing else (DESIGN §4, §5; contract D12):
//!
//! - while a result waits for an output that its hints need, the hints of all later results of its pair wait with it;
//! - what comes out of that order (an output back after it was given up) makes the pair *due*: it is derived anew from
//!   the results at hand, and until then its hints wait as well.

mod anew;
mod evidence;
mod explode;
mod history;
pub mod issues;
mod pairs;
mod parts;
mod shape;
mod withdraw;

use rusqlite::Connection;

use self::evidence::Stored;
use self::pairs::{
    PairState, begin, pair_of, remove_waiting, set_state, state, state_under, under, under_several, wait,
    waiting,
};
use self::parts::Parts;
use super::StoreError;
use crate::projection::issue::IssueCode;
use crate::projection::manifests::{Hints, Job, Manifests};
use crate::projection::scan::Scan;
use crate::wire::result::Field;

pub use evidence::OwnedPair;
pub(super) use evidence::{Evidence, Pair, Presence};
pub(super) use explode::prepare_affinity;
pub(super) use pairs::pair_counts;
pub use pairs::{DuePair, PairCounts, due_pairs};
pub(super) use pairs::{Orphans, waiting_pairs};
pub(super) use shape::Shapes;

/// Waiting results of one pair that are applied in one transaction; the rest follows in the next.
const RELEASED_MAX: usize = 64;

/// The part of an issue with the manifest itself.
const MANIFEST: &str = "manifest";
/// The part of an issue with deriving the pair anew.
const DERIVATION: &str = "derivation";

/// Whether a result at hand says anything about its pair's inventory.
pub(super) fn gives_inventory(conn: &Connection, entry: i64) -> Result<bool, StoreError> {
    Ok(Stored::load(conn, entry)?.is_some_and(|stored| stored.evidence().is_inventory()))
}

/// What is left to do once an output no longer holds up its pair.
#[derive(Debug)]
pub(super) enum Released {
    /// Nothing.
    Nothing,
    /// More of this pair can be applied than one transaction should hold.
    More(OwnedPair),
    /// The pair is due; it may have been this output that kept it so.
    StillDue,
}

/// Whether events go into the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// They do.
    WithHistory,
    /// Only the state that the next result is compared with is set.
    StateOnly,
}

/// Derives inside one transaction.
pub(super) struct Deriver<'a> {
    pub(super) conn: &'a Connection,
    pub(super) manifests: &'a Manifests,
    pub(super) shapes: &'a mut Shapes,
    pub(super) orphans: &'a Orphans,
    /// See [`Parts::isolated`].
    pub(super) isolated: bool,
    /// Older results of every pair may have been projected by others.
    pub(super) adopted: bool,
    /// The book of issues was not empty before this transaction, or is not any more.
    pub(super) any_issues: &'a mut bool,
}

/// The parts of a pair whose issues may stand.
fn named(job: Option<&Job>) -> Vec<String> {
    let mut named = vec![DERIVATION.to_owned()];
    if let Some(job) = job {
        named.extend(job.undecodable.as_ref().map(|_| MANIFEST.to_owned()));
        named.extend(job.hints.iter().flat_map(|hints| parts::names(hints)));
    }
    named
}

impl Deriver<'_> {
    /// `reported`: see [`Parts::reported`].
    fn parts(&mut self, mode: Mode, reported: bool) -> Parts<'_> {
        Parts {
            any_issues: self.any_issues,
            reported,
            conn: self.conn,
            shapes: self.shapes,
            isolated: self.isolated,
            mode,
        }
    }

    /// A new result: applies its hints, or lets them wait in their place. `scan`: its stdout, if that was read already.
    pub(super) fn live(
        &mut self,
        evidence: &Evidence<'_>,
        entry: i64,
        scan: Option<Scan>,
    ) -> Result<(), StoreError> {
        let pair = evidence.pair;
        let manifests = self.manifests;
        let job = manifests.job(pair.job_id);
        let reported = *self.any_issues && issues::keep(self.conn, pair, || named(job))?;
        if let Some(reason) = job.and_then(|job| job.undecodable.as_ref()) {
            let report = vec![(IssueCode::ManifestUndecodable, reason.clone())];
            issues::replace(self.conn, self.any_issues, evidence, MANIFEST, &report)?;
        }
        let Some(hints) = job.and_then(|job| job.hints.as_ref()) else {
            if self.orphans.has(pair.job_id) {
                under_several(self.conn, pair)?;
            }
            return Ok(());
        };
        if evidence.needs(hints).is_none() {
            return Ok(());
        }
        let waits = evidence.waits(hints);
        let (state, same_hints) = match state_under(self.conn, pair, &hints.hash)? {
            Some(found) => found,
            None => {
                let first = if self.adopted { 0 } else { entry };
                begin(self.conn, pair, &hints.hash, first)?;
                (PairState::Settled, true)
            }
        };
        if state == PairState::Settled && !waits {
            if !same_hints {
                under(self.conn, pair, &hints.hash)?;
            }
            return self
                .parts(Mode::WithHistory, reported)
                .apply(hints, evidence, scan);
        }
        if state == PairState::Settled {
            set_state(self.conn, pair, PairState::Waiting)?;
        }
        wait(self.conn, pair, entry)
    }

    /// An output that hints may have waited for has come, or will not come any more.
    pub(super) fn released(&mut self, entry: i64) -> Result<Released, StoreError> {
        let Some(pair) = pair_of(self.conn, entry)? else {
            return Ok(Released::Nothing);
        };
        Ok(match state(self.conn, pair.borrow())? {
            Some(PairState::Waiting) if self.release(&pair)? => Released::More(pair),
            Some(PairState::Due) => Released::StillDue,
            _ => Released::Nothing,
        })
    }

    /// Applies what waits, in its order, up to the next result that has to wait. Returns whether more could be applied
    /// at once than one transaction should hold.
    pub(super) fn release(&mut self, pair: &OwnedPair) -> Result<bool, StoreError> {
        let borrowed = pair.borrow();
        if state(self.conn, borrowed)? != Some(PairState::Waiting) {
            return Ok(false);
        }
        let waiting = waiting(self.conn, borrowed, RELEASED_MAX + 1)?;
        let manifests = self.manifests;
        let hints = manifests.hints(&pair.job_id);
        let more = waiting.len() > RELEASED_MAX;
        for entry in waiting.into_iter().take(RELEASED_MAX) {
            if let Some(stored) = Stored::load(self.conn, entry)? {
                let evidence = stored.evidence();
                match hints {
                    Some(hints) if evidence.waits(hints) => return Ok(false),
                    Some(hints) => {
                        under(self.conn, borrowed, &hints.hash)?;
                        self.parts(Mode::WithHistory, true)
                            .apply(hints, &evidence, None)?;
                    }
                    // The manifest may be there again before the output is.
                    None if evidence.is_owed() => return Ok(false),
                    None => under_several(self.conn, borrowed)?,
                }
            }
            remove_waiting(self.conn, borrowed, entry)?;
        }
        if !more {
            set_state(self.conn, borrowed, PairState::Settled)?;
        }
        Ok(more)
    }

    /// An output came back after it had been given up: the pair is derived anew, if its hints need that output.
    /// Returns whether it is due now.
    pub(super) fn came_back(&mut self, entry: i64, field: Field) -> Result<bool, StoreError> {
        let Some(stored) = Stored::load(self.conn, entry)? else {
            return Ok(false);
        };
        let evidence = stored.evidence();
        let hints = self.manifests.hints(evidence.pair.job_id);
        let needed = hints.is_some_and(|hints| evidence.needs(hints) == Some(field));
        if !needed {
            return Ok(false);
        }
        self.make_due(evidence.pair)
    }

    fn make_due(&mut self, pair: Pair<'_>) -> Result<bool, StoreError> {
        if state(self.conn, pair)?.is_none() {
            // Projected by others so far: this is the first that we derive of it.
            let Some(hints) = self.manifests.hints(pair.job_id) else {
                return Ok(false);
            };
            begin(self.conn, pair, &hints.hash, 0)?;
        }
        set_state(self.conn, pair, PairState::Due)?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests;
