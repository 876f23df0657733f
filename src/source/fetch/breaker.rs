//! After several time-outs in a row the store is not asked for a while, so that results keep flowing.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Time-outs in a row that open it.
const TIMEOUTS_MAX: u32 = 5;
/// While open, one attempt passes this often.
const HALF_OPEN_EVERY: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
pub(super) struct Breaker {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    timeouts: u32,
    tried_at: Option<Instant>,
}

impl Breaker {
    /// Whether an attempt may be made now.
    pub(super) fn may_try(&self) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.timeouts < TIMEOUTS_MAX {
            return true;
        }
        let due = state.tried_at.is_none_or(|at| at.elapsed() >= HALF_OPEN_EVERY);
        if due {
            state.tried_at = Some(Instant::now());
        }
        due
    }

    /// How an attempt ended: with an answer of any kind, or in silence.
    pub(super) fn record(&self, answered: bool) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if answered {
            *state = State::default();
        } else {
            state.timeouts = state.timeouts.saturating_add(1);
            if state.timeouts == TIMEOUTS_MAX {
                state.tried_at = Some(Instant::now());
                tracing::warn!("the object store does not answer; outputs are marked pending until it does");
            }
        }
    }

    /// Whether attempts are held back.
    pub(super) fn is_open(&self) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).timeouts >= TIMEOUTS_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_time_outs_in_a_row_open_it_and_an_answer_closes_it() {
        let breaker = Breaker::default();
        for _ in 0..4 {
            breaker.record(false);
        }
        breaker.record(true);
        for _ in 0..4 {
            breaker.record(false);
            assert!(breaker.may_try());
        }
        breaker.record(false);
        assert!(breaker.is_open() && !breaker.may_try());
        breaker.record(true);
        assert!(!breaker.is_open() && breaker.may_try());
    }
}
