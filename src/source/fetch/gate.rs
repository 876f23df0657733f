//! How many questions are under way at once: as many as are answered quickly, for the store may stand beside this service or far
//! away.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// A gate begins with so many, and never has fewer.
const PLACES_LEAST: usize = 8;

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
        let permits = &self.gate.permits;
        let before = limit.places();
        if let Some(answers) = self.answers {
            let others = (before + limit.too_many).saturating_sub(permits.available_permits() + 1);
            limit.learn(answers, self.was_last, others);
        } else {
            limit.old_answers = limit.old_answers.saturating_sub(1);
        }
        let after = limit.places();
        limit.too_many += before.saturating_sub(after);
        let more = after.saturating_sub(before);
        let given_back = more.min(limit.too_many);
        limit.too_many -= given_back;
        permits.add_permits(more - given_back);
        limit.too_many -= permits.forget_permits(limit.too_many);
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
    least: f64,
    most: f64,
    patience: Duration,
    /// Places that are taken and will not be given back.
    too_many: usize,
    /// Answers that say nothing new of a width that was left just now.
    old_answers: usize,
}

impl Limit {
    fn new(most: usize, patience: Duration) -> Self {
        let least = most.min(PLACES_LEAST) as f64;
        Self {
            places: least,
            least,
            most: most as f64,
            patience,
            too_many: 0,
            old_answers: 0,
        }
    }

    fn places(&self) -> usize {
        self.places as usize
    }

    /// One place more for as many quick answers as there are places, half of them for a slow one; never fewer than it began
    /// with, since a store may be slow however few ask. `took`: `None` without an answer; `was_full`: whether the width was what
    /// held others up; `others`: questions that were asked at the old width and are under way.
    fn learn(&mut self, took: Option<Duration>, was_full: bool, others: usize) {
        if self.old_answers > 0 {
            self.old_answers -= 1;
            return;
        }
        let took = took.unwrap_or(Duration::MAX);
        if took <= self.patience / 4 && was_full {
            self.places = (self.places + 1.0 / self.places).min(self.most);
        } else if took > self.patience / 2 {
            self.old_answers = others;
            self.places = (self.places / 2.0).max(self.least);
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
            limit.learn(QUICK, false, 7);
        }
        assert_eq!(limit.places(), 8, "nobody waited");
        for _ in 0..1_000 {
            limit.learn(QUICK, true, 7);
        }
        assert_eq!(limit.places(), 20);
        assert_eq!(Limit::new(3, PATIENCE).places(), 3);
    }

    #[test]
    fn slow_answers_and_none_halve_it_once_a_round_and_not_below_what_it_began_with() {
        let mut limit = Limit::new(64, PATIENCE);
        while limit.places() < 64 {
            limit.learn(QUICK, true, 7);
        }
        for expected in [32, 16, 8, 8] {
            let others = limit.places() - 1;
            limit.learn(SLOW, true, others);
            assert_eq!(limit.places(), expected);
            for _ in 0..others {
                limit.learn(None, true, others);
            }
            assert_eq!(limit.places(), expected, "of the same round");
        }
        limit.learn(Some(PATIENCE / 3), true, 7);
        assert_eq!(limit.places(), 8, "neither quick nor slow");
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_are_let_in_than_the_width_is_while_it_grows_and_shrinks() {
        async fn fill(gate: &Gate) -> Vec<Place> {
            let mut all = Vec::new();
            while gate.permits.available_permits() > 0 {
                all.push(gate.enter().await.unwrap());
            }
            all
        }
        let gate = Gate::new(64, PATIENCE);
        for _ in 0..3_000 {
            let all = fill(&gate).await;
            assert_eq!(all.len(), gate.limit.lock().unwrap().places());
            all.into_iter().for_each(|place| place.done(1));
        }
        assert_eq!(gate.permits.available_permits(), 64, "quick");

        // All are in when one is not answered: half of them are too many.
        let mut all = fill(&gate).await;
        all.pop().unwrap().done(0);
        assert_eq!(gate.permits.available_permits(), 0);
        all.truncate(40);
        assert_eq!(gate.permits.available_permits(), 0);
        all.truncate(30);
        assert_eq!(gate.permits.available_permits(), 2);
        drop(all);
        assert_eq!(gate.permits.available_permits(), 32);

        // One is in when it is not answered: the free places go at once.
        gate.enter().await.unwrap().done(0);
        assert_eq!(gate.permits.available_permits(), 16);
        gate.enter().await.unwrap();
        assert_eq!(
            gate.permits.available_permits(),
            16,
            "given up, it taught nothing"
        );
    }
}
