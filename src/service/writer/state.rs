//! What the writer is given, what it shows, and how it may end.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use thiserror::Error;

use crate::store::retention::Retained;
use crate::store::{Standing, StoreError};
use crate::wire::kv::StreamName;
use crate::wire::sequence::StreamSeq;
use crate::wire::time::Timestamp;

/// Limits of a group and of the file.
#[derive(Clone, Debug)]
pub struct WriterLimits {
    /// Items in one transaction.
    pub group_rows_max: usize,
    /// Payload bytes in one transaction.
    pub group_bytes_max: usize,
    /// Longest transaction on a file that others write too; `None`: nobody else does.
    pub group_time_max: Option<Duration>,
    /// In a backlog a group waits for what is to come at least so long, or for as long as the last commit took.
    pub group_wait_min: Duration,
    /// Size that the log may reach before it is cut back.
    pub wal_bytes_max: u64,
    /// Below so many free bytes on the disk nothing is written.
    pub disk_reserve_bytes: u64,
    /// How old rows of a table may become before they are deleted.
    pub retention: Vec<(Retained, Duration)>,
}

impl WriterLimits {
    /// Whether a transaction that has applied so many items since `started` should be committed now.
    pub(super) fn is_over(&self, started: Instant, applied: usize) -> bool {
        applied > 0
            && applied.is_multiple_of(ITEMS_PER_LOOK)
            && self.group_time_max.is_some_and(|max| started.elapsed() >= max)
    }
}

/// Between two looks at the clock.
const ITEMS_PER_LOOK: usize = 8;

/// What the writer is doing, for people and for `--until-caught-up`.
#[derive(Clone, Debug, Default)]
pub struct WriterState {
    /// Committed positions.
    pub positions: BTreeMap<StreamName, StreamSeq>,
    /// Publish times of the messages at them, by the server's clock; the last one known where no message stands.
    pub published: BTreeMap<StreamName, Timestamp>,
    /// When a group was last committed, by this machine's clock.
    pub last_commit: Option<Timestamp>,
    /// How long SQLite took to make it durable.
    pub commit_time: Duration,
    /// Since when a reader keeps the log from being cut, by this machine's clock.
    pub log_held_since: Option<Timestamp>,
    /// Why it is not writing; `None` while it does.
    pub not_writing: Option<String>,
    /// Groups committed.
    pub groups: u64,
    /// Items committed.
    pub items: u64,
    /// More than half of the last thousand messages became dead letters.
    pub mostly_dead: bool,
}

impl WriterState {
    /// A stream stands here now, forwards or back.
    pub(super) fn stands(&mut self, stream: StreamName, standing: Option<&Standing>) {
        match standing {
            Some(standing) => self.positions.insert(stream, standing.position),
            None => self.positions.remove(&stream),
        };
        // A stream that begins behind what is gone has a position without a message.
        if let Some(mark) = standing.and_then(|standing| standing.mark) {
            self.published.insert(stream, mark.published);
        }
    }

    /// A stream's committed position; 0 while there is none.
    #[must_use]
    pub fn position(&self, stream: StreamName) -> StreamSeq {
        self.positions.get(&stream).copied().unwrap_or(StreamSeq(0))
    }
}

/// The writer cannot go on, and the process with it.
#[derive(Debug, Error)]
#[error("{reason}")]
pub struct WriterStopped {
    /// One line with the way out.
    pub reason: String,
    /// DESIGN §8.
    pub exit_code: u8,
}

impl From<StoreError> for WriterStopped {
    fn from(error: StoreError) -> Self {
        Self {
            reason: error.to_string(),
            exit_code: error.exit_code(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_that_is_read_again_from_nothing_has_not_caught_up_with_where_it_stood() {
        let mut state = WriterState::default();
        let mut standing = Standing::new(1, StreamSeq(1));
        standing.position = StreamSeq(7);
        state.stands(StreamName::Results, Some(&standing));
        assert_eq!(state.position(StreamName::Results), StreamSeq(7));
        state.stands(StreamName::Results, None);
        assert_eq!(state.position(StreamName::Results), StreamSeq(0));
    }
}
