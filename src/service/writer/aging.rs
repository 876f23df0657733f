//! Old rows go, where an operator wants it: a batch at a time between groups, by the server's clock, never by ours alone.

use std::time::{Duration, Instant};

use chrono::TimeDelta;
use tracing::{info, warn};

use super::{Writer, now};
use crate::wire::kv::StreamName;

/// Between two looks at what has become too old.
const EVERY: Duration = Duration::from_secs(3_600);
/// Between two batches while there is more.
const MORE_AFTER: Duration = Duration::from_secs(1);
/// Rows of one batch: a transaction that nobody waits long for.
const BATCH: usize = 5_000;

/// What was done about old rows.
#[derive(Debug, Default)]
pub(super) struct Ageing {
    next: Option<Instant>,
    /// Deleted since the last look began.
    deleted: usize,
}

impl Writer {
    /// Deletes some of what is older than it may become. A clock of this machine that runs ahead deletes nothing: the newest
    /// message of RESULTS has the server's time, and a stream that stands still ages nothing.
    pub(super) fn delete_old(&mut self) {
        if self.limits.retention.is_empty() || self.ageing.next.is_some_and(|next| Instant::now() < next) {
            return;
        }
        let newest = self.state.borrow().published.get(&StreamName::Results).copied();
        let Some(newest) = newest.map(|newest| newest.min(now())) else {
            return;
        };
        let mut more = false;
        for (aging, age) in self.limits.retention.clone() {
            let before = TimeDelta::from_std(age)
                .ok()
                .and_then(|age| newest.checked_add(-age));
            let Some(before) = before else { continue };
            match self.store.delete_old(aging, before, BATCH) {
                Ok(deleted) => {
                    self.commits_since_checkpoint += u32::from(deleted > 0);
                    self.ageing.deleted += deleted;
                    more |= deleted == BATCH;
                }
                // The next look tries again; nothing depends on it.
                Err(error) => warn!(%error, table = aging.table(), "old rows were not deleted"),
            }
        }
        let deleted = if more {
            0
        } else {
            std::mem::take(&mut self.ageing.deleted)
        };
        if deleted > 0 {
            info!(rows = deleted, "deleted rows that were too old (retention)");
        }
        self.ageing.next = Some(Instant::now() + if more { MORE_AFTER } else { EVERY });
    }
}
