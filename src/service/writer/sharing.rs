//! Living with the backend in one file: its writers get their turn, and what it writes is noticed (DESIGN §6, §7).

use std::time::{Duration, Instant};

use tracing::warn;

use super::{Writer, now};

/// SQLite's busy handler asks again at most 100 ms later, and a busy machine wakes it late; left free for so long, the
/// file is somebody else's turn.
const TURN: Duration = Duration::from_millis(120);
/// Another connection that has written within this time will write again.
const OTHERS_ACTIVE: Duration = Duration::from_secs(10);
/// Held for so long in all, the file is left free even if nobody else has been seen to write.
const HELD_MAX: Duration = Duration::from_secs(1);
/// Executions whose row has not come are looked for at most this often.
pub(super) const SETTLE_EVERY: Duration = Duration::from_secs(1);

/// On a file that nobody else writes, those that waited too long are looked for this often.
const FORGET_EVERY: Duration = Duration::from_secs(3_600);

/// How long the file was held without leaving it to others.
#[derive(Debug, Default)]
pub(super) struct Sharing {
    held: Duration,
    /// When the last transaction got the file.
    pub(super) begun: Option<Instant>,
    freed: Option<Instant>,
    data_version: Option<i64>,
    others_wrote: Option<Instant>,
}

/// Executions that wait for their row.
#[derive(Debug, Default)]
pub(super) struct Settling {
    pub(super) needed: bool,
    looked: Option<Instant>,
    settled: Option<Instant>,
    data_version: Option<i64>,
}

impl Writer {
    /// After a group on a file that others write too: leaves it to them for one turn of their busy handler, once it was
    /// held for the time that one transaction may take.
    pub(super) fn share(&mut self) {
        let (Some(group_time_max), Some(begun)) = (self.limits.group_time_max, self.sharing.begun.take())
        else {
            return;
        };
        if self
            .sharing
            .freed
            .is_some_and(|freed| begun.duration_since(freed) >= TURN)
        {
            self.sharing.held = Duration::ZERO;
        }
        self.sharing.held += begun.elapsed();
        let version = self.store.data_version().ok();
        if self.sharing.data_version != version && self.sharing.data_version.is_some() {
            self.sharing.others_wrote = Some(Instant::now());
        }
        self.sharing.data_version = version;
        // At first nobody knows: they are taken to be there.
        let wrote = *self.sharing.others_wrote.get_or_insert(begun);
        let others = wrote.elapsed() < OTHERS_ACTIVE;
        let limit = if others { group_time_max } else { HELD_MAX };
        if self.sharing.held >= limit {
            self.pause(TURN);
            self.sharing.held = Duration::ZERO;
        }
        self.sharing.freed = Some(Instant::now());
    }

    /// A new connection counts the file's versions from a number of its own.
    pub(super) fn forget_versions(&mut self) {
        self.sharing.data_version = None;
        self.settling.data_version = None;
    }

    /// Looks for the rows of executions that were remembered, when another connection has changed the file.
    pub(super) fn settle(&mut self) {
        let due = self
            .settling
            .looked
            .is_none_or(|looked| looked.elapsed() >= SETTLE_EVERY);
        if !self.settling.needed || !due {
            return;
        }
        self.settling.looked = Some(Instant::now());
        let version = self.store.data_version().ok();
        let unchanged = version.is_some() && version == self.settling.data_version;
        if unchanged
            && self
                .settling
                .settled
                .is_some_and(|at| at.elapsed() < FORGET_EVERY)
        {
            return;
        }
        // Looking does not wait for the file; only settling does.
        let outcome = match self.store.any_to_settle(now()) {
            Ok(true) => self.settle_now(),
            Ok(false) => Ok(true),
            Err(error) => Err(error),
        };
        match outcome {
            Ok(any_left) => {
                self.settling.settled = Some(Instant::now());
                self.settling.needed = any_left;
                self.settling.data_version = version;
            }
            // The next look tries again; nothing is lost by waiting.
            Err(error) => warn!(%error, "executions could not be settled"),
        }
    }

    fn settle_now(&mut self) -> Result<bool, crate::store::StoreError> {
        let manifests = self.manifests.borrow().clone();
        let mut tx = self.store.begin(&manifests, now())?;
        tx.settle()?;
        tx.commit()?;
        self.measure_rows();
        self.store.any_unsettled()
    }
}
