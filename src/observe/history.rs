//! The last hour, sampled: what the page draws.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::service::board::Watched;
use crate::service::unless_tested;
use crate::wire::kv::StreamName;

/// Between two samples.
pub(super) fn every() -> Duration {
    Duration::from_secs(unless_tested(15, "RESULTS_PROJECTOR_SAMPLE_SECONDS"))
}

/// Samples of one hour.
const SAMPLES_MAX: usize = 240;

/// One moment.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub(super) at: Instant,
    /// Messages behind, by stream; none where the stream's end is not known.
    pub(super) lag: BTreeMap<StreamName, u64>,
    /// Positions.
    pub(super) positions: BTreeMap<StreamName, u64>,
    /// Items committed since the start.
    pub(super) items: u64,
    pub(super) commit_time: Duration,
}

/// The samples, oldest first.
#[derive(Debug, Default)]
pub(super) struct History {
    samples: VecDeque<Sample>,
}

impl Sample {
    /// Before the history is locked: whoever holds that must not wait for the stages.
    pub(super) fn take(watched: &Watched) -> Self {
        let writer = watched.writer.borrow();
        let lag = watched.readers.iter().filter_map(|(stream, reader)| {
            let last = reader.borrow().last?;
            let position = writer.position(*stream).0;
            Some((*stream, last.0.saturating_sub(position)))
        });
        Self {
            at: Instant::now(),
            lag: lag.collect(),
            positions: writer
                .positions
                .iter()
                .map(|(stream, position)| (*stream, position.0))
                .collect(),
            items: writer.items,
            commit_time: writer.commit_time,
        }
    }
}

impl History {
    pub(super) fn push(&mut self, sample: Sample) {
        if self.samples.len() == SAMPLES_MAX {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
    }

    pub(super) fn samples(&self) -> impl ExactSizeIterator<Item = &Sample> {
        self.samples.iter()
    }

    /// Items a second between two neighbours.
    pub(super) fn rates(&self) -> impl Iterator<Item = f64> + '_ {
        self.samples
            .iter()
            .zip(self.samples.iter().skip(1))
            .map(|(before, after)| rate(before, after))
    }

    /// Items a second since about a minute ago.
    pub(super) fn rate_now(&self, items: u64) -> f64 {
        let now = Instant::now();
        let minute_ago = self
            .samples
            .iter()
            .rev()
            .find(|sample| now.duration_since(sample.at) >= Duration::from_secs(60))
            .or(self.samples.front());
        minute_ago.map_or(0.0, |before| {
            per_second(items.saturating_sub(before.items), now.duration_since(before.at))
        })
    }
}

fn rate(before: &Sample, after: &Sample) -> f64 {
    per_second(
        after.items.saturating_sub(before.items),
        after.at.duration_since(before.at),
    )
}

#[expect(clippy::cast_precision_loss, reason = "a rate, for people")]
fn per_second(items: u64, time: Duration) -> f64 {
    if time < Duration::from_millis(1) {
        return 0.0;
    }
    items as f64 / time.as_secs_f64()
}
