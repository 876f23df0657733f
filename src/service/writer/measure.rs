//! What a commit is measured by: one record a group.

use std::time::Duration;

use super::super::work::Unit;
use super::attempt::Done;
use super::{Writer, now};
use crate::meters::{self, Outcome};
use crate::store::Counts;

impl Writer {
    /// Before the standings of `done` become the lanes': they are what the counts are told apart by.
    pub(super) fn measure(&self, group: &[Unit], done: &Done) {
        for (stream, to) in &done.standings {
            let from = self.lanes.get(stream).and_then(|lane| lane.standing.as_ref());
            let before = from
                .filter(|from| from.incarnation == to.incarnation)
                .map_or_else(Counts::default, |from| from.counts);
            let now = to.counts;
            for (outcome, now, before) in [
                (Outcome::Projected, now.projected, before.projected),
                (Outcome::Dead, now.dead, before.dead),
                (Outcome::Ignored, now.ignored, before.ignored),
            ] {
                if now > before {
                    meters::messages(*stream, outcome, now - before);
                }
            }
            if now.gap > before.gap {
                meters::gap_messages(*stream, now.gap - before.gap);
            }
        }
        self.measure_rows();
        meters::committed(group.len(), done.commit_time, oldest(group));
    }

    /// After a commit.
    pub(super) fn measure_rows(&self) {
        for (table, rows) in self.store.take_written() {
            meters::rows_written(table, rows);
        }
    }
}

/// How long ago the oldest message of a group was stored by the server; 0 where its clock is ahead of ours.
fn oldest(group: &[Unit]) -> Option<Duration> {
    let published = group
        .iter()
        .filter_map(|unit| Some(unit.message()?.delivery.published));
    Some(now().since(published.min()?).unwrap_or_default())
}
