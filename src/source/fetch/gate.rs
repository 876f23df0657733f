//! How many questions are under way at once: as many as are answered quickly, for the store may stand beside this service or
//! behind a link that is far away, or narrow.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// Where a gate begins.
const PLACES_FIRST: usize = 8;

/// Clones share their places.
#[derive(Clone, Debug)]
pub(super) struct Gate {
    permits: Arc<Semaphore>,
    limit: Arc<Mutex<Limit>>,
}

/// A place taken; given back when dropped. What is dropped before it was [`done`](Self::done) taught nothing.
#[derive(Debug)]
pub(super) struct Place {
    gate: Gate,
    permit: Option<OwnedSemaphorePermit>,
    /// All others were taken too: more could have been asked.
    was_last: bool,
    since: Instant,
    /// How long each answer took; `None`: there was none in time.
    answers: Option<Option<Duration>>,
}

impl Gate {
    /// A gate of `most` places. An answer within a quarter of `patience` makes it wider, one after more than half of that
    /// narrower.
    pub(super) fn new(most: usize, patience: Duration) -> Self {
        let limit = Limit::new(most.clamp(1, Semaphore::MAX_PERMITS), patience);
        Self {
            permits: Arc::new(Semaphore::new(limit.places())),
            limit: Arc::new(Mutex::new(limit)),
        }
    }

    /// Waits for a place; `None` when there will be none any more.
    pub(super) async fn enter(&self) -> Option<Place> {
        let permit = self.permits.clone().acquire_owned().await.ok()?;
        Some(Place {
            gate: self.clone(),
            permit: Some(permit),
            was_last: self.permits.available_permits() == 0,
            since: Instant::now(),
            answers: None,
        })
    }
}

impl Place {
    /// So many questions, one after the other, were answered; 0: one was not, in time.
    pub(super) fn done(mut self, answered: u32) {
        self.answers = Some(self.since.elapsed().checked_div(answered));
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut limit = self.gate.limit.lock().unwrap_or_else(PoisonError::into_inner);
        let before = limit.places();
        if let Some(answers) = self.answers {
            limit.learn(answers, self.was_last);
        }
        let after = limit.places();
        limit.too_many += before.saturating_sub(after);
        let more = after.saturating_sub(before);
        let given_back = more.min(limit.too_many);
        limit.too_many -= given_back;
        self.gate.permits.add_permits(more - given_back);
        if limit.too_many > 0
            && let Some(permit) = self.permit.take()
        {
            limit.too_many -= 1;
            permit.forget();
        }
    }
}

/// What a gate has learnt.
#[derive(Debug)]
struct Limit {
    places: f64,
    most: f64,
    patience: Duration,
    /// Places that are taken and will not be given back.
    too_many: usize,
    /// Answers that say nothing new of a width that was left just now.
    old_answers: usize,
}

impl Limit {
    fn new(most: usize, patience: Duration) -> Self {
        Self {
            places: most.min(PLACES_FIRST) as f64,
            most: most as f64,
            patience,
            too_many: 0,
            old_answers: 0,
        }
    }

    fn places(&self) -> usize {
        self.places as usize
    }

    /// One place more for as many quick answers as there are places, half of them for a slow one. `took`: `None` without an
    /// answer; `was_full`: whether the width was what held others up.
    fn learn(&mut self, took: Option<Duration>, was_full: bool) {
        if self.old_answers > 0 {
            self.old_answers -= 1;
            return;
        }
        let took = took.unwrap_or(Duration::MAX);
        if took <= self.patience / 4 && was_full {
            self.places = (self.places + 1.0 / self.places).min(self.most);
        } else if took > self.patience / 2 {
            self.old_answers = self.places() - 1;
            self.places = (self.places / 2.0).max(1.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(2);
    const QUICK: Option<Duration> = Some(Duration::from_millis(100));
    const SLOW: Option<Duration> = Some(Duration::from_millis(1_500));

    #[test]
    fn quick_answers_make_it_as_wide_as_it_may_be_while_that_is_what_holds_others_up() {
        let mut limit = Limit::new(20, PATIENCE);
        for _ in 0..1_000 {
            limit.learn(QUICK, false);
        }
        assert_eq!(limit.places(), 8, "nobody waited");
        for _ in 0..1_000 {
            limit.learn(QUICK, true);
        }
        assert_eq!(limit.places(), 20);
        assert_eq!(Limit::new(3, PATIENCE).places(), 3);
    }

    #[test]
    fn slow_answers_and_none_halve_it_once_a_round_and_never_to_nothing() {
        let mut limit = Limit::new(64, PATIENCE);
        for expected in [4, 2, 1, 1] {
            limit.learn(SLOW, true);
            assert_eq!(limit.places(), expected);
            for _ in 0..limit.old_answers {
                limit.learn(None, true);
            }
            assert_eq!(limit.places(), expected, "of the same round");
        }
        limit.learn(Some(PATIENCE / 3), true);
        assert_eq!(limit.places(), 1, "neither quick nor slow");
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_are_let_in_than_the_width_is_while_it_shrinks_and_grows() {
        let gate = Gate::new(64, PATIENCE);
        let mut places = Vec::new();
        for _ in 0..8 {
            places.push(gate.enter().await.unwrap());
        }
        assert_eq!(gate.permits.available_permits(), 0);
        places.pop().unwrap().done(0);
        places.drain(..3);
        // Four are in, and the width is four.
        assert_eq!(gate.permits.available_permits(), 0);
        drop(places);
        assert_eq!(gate.permits.available_permits(), 4);
        for _ in 0..100 {
            let mut all = Vec::new();
            while gate.permits.available_permits() > 0 {
                all.push(gate.enter().await.unwrap());
            }
            assert_eq!(all.len(), gate.limit.lock().unwrap().places());
            all.into_iter().for_each(|place| place.done(1));
        }
        assert!(gate.permits.available_permits() > 8, "quick again");
    }
}
