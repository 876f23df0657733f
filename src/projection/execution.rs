//! An execution's counters follow the transitions of its rows (contract §7.3, D9).

use super::result::Known;

/// How far the counters of one execution move.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// Of `success_count`.
    pub success: i64,
    /// Of `failure_count`.
    pub failure: i64,
}

impl Delta {
    /// One more row that ended so.
    #[must_use]
    pub fn ended(exit_code: i32) -> Self {
        match exit_code {
            0 => Self {
                success: 1,
                failure: 0,
            },
            _ => Self {
                success: 0,
                failure: 1,
            },
        }
    }

    /// What a result does that finds its row as `known`.
    #[must_use]
    pub fn of_result(known: Known, exit_code: i32) -> Self {
        let ended = Self::ended(exit_code);
        match known {
            Known::Absent | Known::InFlight => ended,
            // The reaper has counted the row as a failure.
            Known::Reaped => Self {
                failure: ended.failure - 1,
                ..ended
            },
            Known::Finished => Self::default(),
        }
    }

    /// The other way round.
    #[must_use]
    pub fn undone(self) -> Self {
        Self {
            success: -self.success,
            failure: -self.failure,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_success_over_a_reaped_row_takes_its_failure_back() {
        assert_eq!(
            Delta::of_result(Known::Reaped, 0),
            Delta {
                success: 1,
                failure: -1
            }
        );
        assert_eq!(
            Delta::of_result(Known::Reaped, 3),
            Delta {
                success: 0,
                failure: 0
            }
        );
    }

    #[test]
    fn a_duplicate_counts_for_nothing() {
        assert_eq!(Delta::of_result(Known::Finished, 0), Delta::default());
        assert_eq!(
            Delta::of_result(Known::InFlight, 124),
            Delta {
                success: 0,
                failure: 1
            }
        );
    }
}
