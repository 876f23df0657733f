//! Old rows go, where an operator wants it: a batch at a time between groups, by the server's clock and no later than ours. Where
//! both are one machine's, a jump of it can move the horizon by a day an hour at most: time to notice.

use std::time::{Duration, Instant};

use chrono::TimeDelta;
use tracing::{info, warn};

use super::{Writer, now};
use crate::store::retention::Retained;
use crate::wire::kv::StreamName;
use crate::wire::time::Timestamp;

/// Between two looks at what has become too old.
const EVERY: Duration = Duration::from_secs(3_600);
/// A horizon that was recorded moves by at most this between two looks.
const STEP: TimeDelta = TimeDelta::days(1);
/// Between two batches while there is more.
const MORE_AFTER: Duration = Duration::from_millis(200);
/// Rows of one batch, each with outputs of megabytes maybe: a transaction that nobody waits long for.
const BATCH: usize = 500;

/// What was done about old rows.
#[derive(Debug, Default)]
pub(super) struct RetentionPass {
    next: Option<Instant>,
    /// What this look deletes up to, until it is done.
    horizons: Vec<(Retained, Timestamp)>,
    /// Deleted since this look began.
    deleted: usize,
}

impl Writer {
    /// Deletes some of what is older than it may become.
    pub(super) fn delete_old(&mut self) {
        if self.limits.retention.is_empty() || self.retention.next.is_some_and(|next| Instant::now() < next) {
            return;
        }
        if self.retention.horizons.is_empty() {
            self.retention.horizons = self.horizons();
        }
        let mut more = false;
        for (retained, before) in self.retention.horizons.clone() {
            match self.store.delete_old(retained, before, BATCH) {
                Ok(deleted) => {
                    self.measure_rows();
                    self.commits_since_checkpoint += u32::from(deleted > 0);
                    self.retention.deleted += deleted;
                    more |= deleted == BATCH;
                }
                // The next look tries again; nothing depends on it.
                Err(error) => {
                    self.store.forget_written();
                    warn!(%error, table = retained.table(), "old rows were not deleted");
                }
            }
        }
        self.retention.next = Some(Instant::now() + if more { MORE_AFTER } else { EVERY });
        if more {
            return;
        }
        self.retention.horizons.clear();
        match std::mem::take(&mut self.retention.deleted) {
            0 => {}
            rows => info!(rows, "deleted rows that were too old (retention)"),
        }
    }

    /// By the newest message of RESULTS, whose time is the server's: a stream that stands still ages nothing.
    fn horizons(&self) -> Vec<(Retained, Timestamp)> {
        let newest = self.state.borrow().published.get(&StreamName::Results).copied();
        let Some(newest) = newest.map(|newest| newest.min(now())) else {
            return Vec::new();
        };
        let horizon = |(retained, age): &(Retained, Duration)| {
            let wanted = newest.checked_add(-TimeDelta::from_std(*age).ok()?)?;
            // What cannot be read now is asked again at the next look.
            let kept = self.store.horizon(*retained).ok()?;
            let most = kept.and_then(|kept| kept.checked_add(STEP)).unwrap_or(wanted);
            Some((*retained, wanted.min(most)))
        };
        self.limits.retention.iter().filter_map(horizon).collect()
    }
}
