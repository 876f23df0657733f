//! What the writer does for the file between groups: the log kept short, the disk kept from running full.

use std::time::{Duration, Instant};

use tracing::warn;

use super::{Writer, now};
use crate::meters;
use crate::store::below_reserve;

/// Lone commits between two checkpoints when quiet moments are short: a few hundred pages each.
const COMMITS_PER_CHECKPOINT: u32 = 64;
/// Quiet for so long, the last commits are copied too.
const QUIET_AFTER: Duration = Duration::from_secs(3);
/// When caught up the log is copied when it has grown by so much, and a quiet one that is larger is cut to nothing.
const QUIET_WAL_BYTES: u64 = 32 << 20;
/// In a backlog the log is copied when it has grown by so much: large checkpoints write a page once that twenty
/// groups have changed.
const BACKLOG_WAL_BYTES: u64 = 400 << 20;
/// On a file that others write too the log is copied when it holds so much: half of SQLite's own measure (1000 pages of
/// the backend's 4 KB), past which their commits would do it for us.
const SHARED_WAL_BYTES: u64 = 2 << 20;
/// A reader that keeps the log from being cut often stays for long: an attempt at every group would wait for it each time.
pub(super) const CUT_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// So many small groups in a row mean that the stream is caught up.
const CAUGHT_UP_GROUPS: u32 = 16;

/// How long a slow disk takes to copy so much log into its places.
pub(super) fn copying_time(log_bytes: u64) -> Duration {
    Duration::from_secs(log_bytes >> 20)
}

impl Writer {
    /// Large checkpoints in a backlog, where twenty groups change the same page; small ones when caught up, so that no
    /// lone commit waits long for one. A log that a reader keeps growing is cut back as soon as the reader allows.
    pub(super) fn bound_log(&mut self, backlog: bool) {
        self.small_groups = if backlog {
            0
        } else {
            self.small_groups.saturating_add(1)
        };
        let caught_up = self.small_groups >= CAUGHT_UP_GROUPS;
        let step = if self.limits.group_time_max.is_some() {
            SHARED_WAL_BYTES
        } else if caught_up {
            QUIET_WAL_BYTES
        } else {
            BACKLOG_WAL_BYTES
        }
        .min(self.limits.wal_bytes_max / 5 * 4);
        if step != self.checkpoint_step {
            self.checkpoint_step = step;
            if let Err(error) = self.store.checkpoint_every(step) {
                warn!(%error, "the size of checkpoints was not set");
            }
        }
        self.cut_log_past(self.limits.wal_bytes_max);
    }

    fn cut_log_past(&mut self, bytes: u64) {
        if self.store.wal_bytes() <= bytes {
            self.not_cut = None;
            self.tell_held();
        } else if self.not_cut.is_none_or(|at| at.elapsed() >= CUT_AGAIN_AFTER) {
            self.checkpoint(true);
        }
    }

    /// Nothing to do for a moment: copy the log while nobody waits for us.
    pub(super) fn idle(&mut self) {
        // Who reads the scratch now must see what was loaded.
        if let Err(error) = self.store.end_shared_transaction(false) {
            warn!(%error, "what was loaded could not be committed; the load will find that out");
        }
        let quiet = self.last_commit.elapsed() >= QUIET_AFTER;
        let due = self.commits_since_checkpoint >= COMMITS_PER_CHECKPOINT;
        if due || quiet && self.commits_since_checkpoint > 0 {
            self.checkpoint(quiet && self.store.wal_bytes() > QUIET_WAL_BYTES);
        } else {
            // The reader may have left after the last group, or after the quiet log was to be cut.
            self.cut_log_past(if quiet {
                self.quiet_wal_bytes()
            } else {
                self.limits.wal_bytes_max
            });
        }
    }

    /// Whether the log is to be cut once all is quiet. One that others write too never grows so long by us.
    pub(super) fn log_is_long(&self) -> bool {
        self.limits.group_time_max.is_none() && self.store.wal_bytes() > self.quiet_wal_bytes()
    }

    fn quiet_wal_bytes(&self) -> u64 {
        QUIET_WAL_BYTES.min(self.limits.wal_bytes_max)
    }

    /// Somebody's reading transaction keeps the log from being cut: since when.
    fn tell_held(&self) {
        let held = self.not_cut.is_some();
        self.state.send_if_modified(|state| {
            let changes = state.log_held_since.is_some() != held;
            if changes {
                state.log_held_since = held.then(now);
            }
            changes
        });
    }

    fn checkpoint(&mut self, truncate: bool) {
        self.commits_since_checkpoint = 0;
        // A full disk fails here too; the commits stay in the log, which the next start reads.
        let begun = Instant::now();
        self.pulse.beat_for(copying_time(self.store.wal_bytes()));
        let copied = self.store.checkpoint(truncate).unwrap_or_else(|error| {
            warn!(%error, "the log could not be copied into the database");
            false
        });
        meters::checkpointed(begun.elapsed());
        self.pulse.beat();
        if truncate {
            self.not_cut = (!copied).then(Instant::now);
        }
        self.tell_held();
    }

    pub(super) fn disk_is_short(&self) -> Option<String> {
        match self.limits.disk_reserve_bytes {
            // Not even looked at.
            0 => None,
            reserve => below_reserve(self.store.path(), reserve),
        }
    }
}
