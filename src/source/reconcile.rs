//! What was found at the server → what to do: DESIGN §3's table as one pure function.
//!
//! The server's memory of us is never believed; only the stream's own messages are. The identity of our position
//! comes before anything else (a stream restored from a copy looks, by its numbers, like a crash before an ack).

use std::fmt;
use std::time::Duration;

use crate::wire::sequence::{Mark, StreamSeq};
use crate::wire::time::Timestamp;

/// A stream that lost its tail, or was made anew, must look so twice, this far apart: a leader that has just been
/// elected may lag behind for a moment.
pub(super) const SUSPICION_PAUSE: Duration = Duration::from_secs(2);
/// While another process may hold our durable, it is looked at again this often.
pub(super) const IN_USE_PAUSE: Duration = Duration::from_millis(500);

/// The leader's answer about one sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The message that we know.
    Same,
    /// Another message.
    Other,
    /// None.
    Absent,
}

/// The stream as its leader describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StreamFound {
    /// First sequence; `last + 1` when empty.
    pub(super) first: StreamSeq,
    /// Last sequence ever given; 0 when none was.
    pub(super) last: StreamSeq,
    /// Retention, when it is not `limits`: its name.
    pub(super) other_retention: Option<String>,
    /// Bytes that it holds.
    pub(super) bytes: u64,
    /// Bytes that it may hold; `None`: no limit.
    pub(super) bytes_max: Option<u64>,
}

/// Our durable consumer as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DurableFound {
    /// Whether this process has made it.
    pub(super) ours: bool,
    /// Pull requests that wait on it.
    pub(super) waiting: usize,
    /// Who made it, for people.
    pub(super) owner: String,
    /// When it was made, by the server's clock.
    pub(super) created: Timestamp,
}

impl DurableFound {
    /// Whether another process has made it after this one made its own at `opened`. One that is not ours and older has come
    /// back with an older copy of the server's store: whoever made it is gone.
    #[must_use]
    pub(super) fn replaces(&self, opened: Timestamp) -> bool {
        !self.ours && self.created > opened
    }
}

/// What this process knows about the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    /// The committed position.
    pub(super) position: StreamSeq,
    /// Asked of the leader, newest first: the message at the position (unless none stands there), then kept ones,
    /// up to and including the first that is the same.
    pub(super) asked: Vec<(Mark, Answer)>,
}

/// Everything that decides.
#[derive(Clone, Debug)]
pub(super) struct Found {
    /// `None`: no such stream.
    pub(super) stream: Option<StreamFound>,
    /// `None`: no such consumer.
    pub(super) durable: Option<DurableFound>,
    /// `None`: never read.
    pub(super) known: Option<Known>,
    /// When this process's last durable was made, by the server's clock; `None`: it has not opened the stream yet.
    pub(super) opened: Option<Timestamp>,
    /// Waits of other processes on our durable have been watched for this long.
    pub(super) watched: Duration,
    /// How long a pull request of a process that is gone can wait at the server.
    pub(super) watch_limit: Duration,
    /// The operator said so.
    pub(super) take_over: bool,
    /// What the look before this one suspected.
    pub(super) suspected: Option<Suspicion>,
}

/// The stream's sequences seem to stand for other messages than before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Suspicion {
    /// The last message in common.
    pub(super) common: Option<Mark>,
}

/// How a gap is explained to people.
pub(super) const GAP_BEFORE_FIRST: &str = "deleted, purged or expired before it was read";

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// No such stream: wait for the backend to make it.
    WaitForStream,
    /// End the process with exit code 2: only an operator can decide.
    Refuse(Refusal),
    /// Ask everything again after a while.
    LookAgain {
        /// How long.
        after: Duration,
        /// What this look suspects.
        suspected: Option<Suspicion>,
        /// Whether the time counts as watching other processes' waits.
        watching: bool,
    },
    /// Read on.
    Open(Opening),
}

/// Where to read on, and what to record first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Opening {
    /// The first sequence to deliver; never beyond the stream's last + 1, where a consumer is silent for ever.
    pub(super) start: StreamSeq,
    /// A new life of the stream's sequences, or its first: recorded before anything else.
    pub(super) incarnation: Option<Incarnation>,
    /// Sequences that no longer exist.
    pub(super) gap: Option<(StreamSeq, StreamSeq)>,
    /// A durable of another process that was idle, or was to be taken over: who made it.
    pub(super) taken_from: Option<String>,
}

/// Why an incarnation begins, and from where it answers for the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Incarnation {
    /// The last message in common with the one before.
    pub common: Option<Mark>,
    /// The first sequence it answers for (I3).
    pub first: StreamSeq,
}

/// Why the service does not start, or stops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Our acks would delete messages.
    Retention(String),
    /// Another process pulls from our durable.
    InUse(String),
    /// Another process has replaced our durable.
    TakenOver(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Retention(found) => write!(
                f,
                "its retention is {found}, with which acknowledging deletes messages for everybody; set it to limits"
            ),
            Self::InUse(owner) => write!(
                f,
                "its consumer is in use by {owner}; stop that process, or give this one a source.consumer_prefix of \
                 its own; the service can also take it over (`run --take-over-consumers`)"
            ),
            Self::TakenOver(owner) => write!(
                f,
                "its consumer was taken over by {owner}; two processes must not share one: stop one of them, or give \
                 it a source.consumer_prefix of its own"
            ),
        }
    }
}

/// DESIGN §3's table, row by row; the first match decides.
#[must_use]
pub(super) fn reconcile(found: &Found) -> Plan {
    let Some(stream) = &found.stream else {
        return Plan::WaitForStream;
    };
    if let Some(retention) = &stream.other_retention {
        return Plan::Refuse(Refusal::Retention(retention.clone()));
    }
    let mut taken_from = None;
    if let Some(durable) = found.durable.as_ref().filter(|durable| !durable.ours) {
        if found.opened.is_some_and(|opened| durable.replaces(opened)) {
            return Plan::Refuse(Refusal::TakenOver(durable.owner.clone()));
        }
        if durable.waiting > 0 && !found.take_over && found.opened.is_none() {
            if found.watched >= found.watch_limit {
                return Plan::Refuse(Refusal::InUse(durable.owner.clone()));
            }
            return Plan::LookAgain {
                after: IN_USE_PAUSE,
                suspected: None,
                watching: true,
            };
        }
        taken_from = Some(durable.owner.clone());
    }
    let Some(known) = &found.known else {
        let incarnation = Some(Incarnation {
            common: None,
            first: stream.first,
        });
        return Plan::Open(Opening {
            start: stream.first,
            incarnation,
            gap: None,
            taken_from,
        });
    };
    let other = known.asked.iter().any(|(_, answer)| *answer == Answer::Other);
    if other || stream.last < known.position {
        let common = known
            .asked
            .iter()
            .find(|(_, answer)| *answer == Answer::Same)
            .map(|(mark, _)| *mark);
        let suspicion = Suspicion { common };
        if found.suspected != Some(suspicion) {
            return Plan::LookAgain {
                after: SUSPICION_PAUSE,
                suspected: Some(suspicion),
                watching: false,
            };
        }
        // None in common: from the stream's first message, which need not be 1. Otherwise right after the common one,
        // and what is missing between that and the stream's first message is a gap.
        let first = common.map_or(stream.first, |mark| mark.seq.next());
        let start = first.max(stream.first);
        return Plan::Open(Opening {
            start,
            incarnation: Some(Incarnation { common, first }),
            gap: (start > first).then(|| (first, start.before())),
            taken_from,
        });
    }
    let next = known.position.next();
    let start = next.max(stream.first);
    Plan::Open(Opening {
        start,
        incarnation: None,
        gap: (start > next).then(|| (next, start.before())),
        taken_from,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::sequence::SubjectHash;
    use crate::wire::time::Timestamp;

    fn mark(seq: u64) -> Mark {
        Mark {
            seq: StreamSeq(seq),
            published: Timestamp::from_unix_nanos(i64::try_from(seq).unwrap()),
            subject: SubjectHash::of("results.q"),
        }
    }

    fn stream(first: u64, last: u64) -> Option<StreamFound> {
        Some(StreamFound {
            first: StreamSeq(first),
            last: StreamSeq(last),
            other_retention: None,
            bytes: 0,
            bytes_max: None,
        })
    }

    fn known(position: u64, asked: &[(u64, Answer)]) -> Option<Known> {
        let asked = asked.iter().map(|(seq, answer)| (mark(*seq), *answer)).collect();
        Some(Known {
            position: StreamSeq(position),
            asked,
        })
    }

    fn found() -> Found {
        Found {
            stream: stream(1, 100),
            durable: None,
            known: known(60, &[(60, Answer::Same)]),
            opened: None,
            watched: Duration::ZERO,
            watch_limit: Duration::from_secs(20),
            take_over: false,
            suspected: None,
        }
    }

    fn theirs(waiting: usize) -> Option<DurableFound> {
        Some(DurableFound {
            ours: false,
            waiting,
            owner: "process 7 on alpha".into(),
            created: Timestamp::from_unix_nanos(7_000),
        })
    }

    fn open_at(start: u64) -> Plan {
        Plan::Open(Opening {
            start: StreamSeq(start),
            incarnation: None,
            gap: None,
            taken_from: None,
        })
    }

    /// The second look, which sees the same again.
    fn confirmed(mut found: Found) -> Plan {
        let Plan::LookAgain {
            suspected: Some(suspicion),
            after,
            ..
        } = reconcile(&found)
        else {
            panic!("not suspected: {:?}", reconcile(&found));
        };
        assert_eq!(after, SUSPICION_PAUSE);
        found.suspected = Some(suspicion);
        reconcile(&found)
    }

    #[test]
    fn a_missing_stream_is_waited_for() {
        assert_eq!(
            reconcile(&Found {
                stream: None,
                ..found()
            }),
            Plan::WaitForStream
        );
    }

    #[test]
    fn a_retention_that_deletes_on_ack_is_refused() {
        let stream = Some(StreamFound {
            first: StreamSeq(1),
            last: StreamSeq(9),
            other_retention: Some("interest".into()),
            bytes: 0,
            bytes_max: None,
        });
        let plan = reconcile(&Found { stream, ..found() });
        assert_eq!(plan, Plan::Refuse(Refusal::Retention("interest".into())));
    }

    #[test]
    fn a_durable_that_another_process_pulls_from_is_watched_and_then_refused() {
        let first = Found {
            durable: theirs(1),
            ..found()
        };
        assert!(matches!(
            reconcile(&first),
            Plan::LookAgain { watching: true, .. }
        ));
        let last = Found {
            watched: first.watch_limit,
            ..first
        };
        assert_eq!(
            reconcile(&last),
            Plan::Refuse(Refusal::InUse("process 7 on alpha".into()))
        );
        assert!(matches!(
            reconcile(&Found {
                take_over: true,
                ..last
            }),
            Plan::Open(_)
        ));
    }

    #[test]
    fn an_idle_durable_of_a_process_that_is_gone_is_taken_over_and_named() {
        let Plan::Open(opening) = reconcile(&Found {
            durable: theirs(0),
            ..found()
        }) else {
            panic!()
        };
        assert_eq!(opening.taken_from.as_deref(), Some("process 7 on alpha"));
        assert_eq!(opening.start, StreamSeq(61));
    }

    #[test]
    fn a_durable_replaced_while_we_run_stops_us() {
        let plan = reconcile(&Found {
            durable: theirs(0),
            opened: Some(Timestamp::from_unix_nanos(6_999)),
            ..found()
        });
        assert_eq!(
            plan,
            Plan::Refuse(Refusal::TakenOver("process 7 on alpha".into()))
        );
    }

    #[test]
    fn an_older_durable_that_comes_back_while_we_run_is_taken_over() {
        let Plan::Open(opening) = reconcile(&Found {
            durable: theirs(0),
            opened: Some(Timestamp::from_unix_nanos(7_001)),
            ..found()
        }) else {
            panic!()
        };
        assert_eq!(opening.taken_from.as_deref(), Some("process 7 on alpha"));
    }

    #[test]
    fn without_a_position_reading_starts_at_the_streams_first_message() {
        let plan = reconcile(&Found {
            known: None,
            stream: stream(41, 100),
            ..found()
        });
        let incarnation = Some(Incarnation {
            common: None,
            first: StreamSeq(41),
        });
        let start = StreamSeq(41);
        assert_eq!(
            plan,
            Plan::Open(Opening {
                start,
                incarnation,
                gap: None,
                taken_from: None
            })
        );
    }

    #[test]
    fn the_same_message_at_the_position_means_go_on_after_it() {
        assert_eq!(reconcile(&found()), open_at(61));
        assert_eq!(
            reconcile(&Found {
                stream: stream(1, 60),
                ..found()
            }),
            open_at(61)
        );
    }

    #[test]
    fn another_message_at_the_position_begins_an_incarnation_after_the_last_common_one() {
        let asked = [(60, Answer::Other), (59, Answer::Other), (57, Answer::Same)];
        let plan = confirmed(Found {
            known: known(60, &asked),
            ..found()
        });
        assert_eq!(
            plan,
            Plan::Open(Opening {
                start: StreamSeq(58),
                incarnation: Some(Incarnation {
                    common: Some(mark(57)),
                    first: StreamSeq(58)
                }),
                gap: None,
                taken_from: None,
            })
        );
    }

    #[test]
    fn a_stream_shorter_than_the_position_begins_an_incarnation_and_is_never_opened_beyond_its_end() {
        let asked = [(60, Answer::Absent), (49, Answer::Absent), (33, Answer::Same)];
        let plan = confirmed(Found {
            stream: stream(1, 50),
            known: known(60, &asked),
            ..found()
        });
        let Plan::Open(opening) = plan else {
            panic!("{plan:?}")
        };
        assert_eq!(opening.start, StreamSeq(34));
        // Lost its tail right up to the common message: nothing to read yet, start at the end + 1.
        let asked = [(60, Answer::Absent), (50, Answer::Same)];
        let Plan::Open(opening) = confirmed(Found {
            stream: stream(1, 50),
            known: known(60, &asked),
            ..found()
        }) else {
            panic!()
        };
        assert_eq!(opening.start, StreamSeq(51));
    }

    #[test]
    fn nothing_in_common_means_from_the_first_message() {
        let asked = [(60, Answer::Other), (33, Answer::Absent)];
        let Plan::Open(opening) = confirmed(Found {
            stream: stream(5, 100),
            known: known(60, &asked),
            ..found()
        }) else {
            panic!()
        };
        assert_eq!(opening.start, StreamSeq(5));
        assert_eq!(
            opening.incarnation,
            Some(Incarnation {
                common: None,
                first: StreamSeq(5)
            })
        );
        assert_eq!(opening.gap, None);
    }

    #[test]
    fn a_stream_made_anew_and_still_empty_is_read_from_its_beginning() {
        let asked = [(60, Answer::Absent)];
        let Plan::Open(opening) = confirmed(Found {
            stream: stream(1, 0),
            known: known(60, &asked),
            ..found()
        }) else {
            panic!()
        };
        assert_eq!((opening.start, opening.gap), (StreamSeq(1), None));
    }

    #[test]
    fn one_look_is_not_enough_to_believe_that_a_stream_went_back() {
        let lagging = Found {
            stream: stream(1, 50),
            known: known(60, &[(60, Answer::Absent)]),
            ..found()
        };
        assert!(matches!(
            reconcile(&lagging),
            Plan::LookAgain { watching: false, .. }
        ));
        let recovered = Found {
            suspected: Some(Suspicion { common: None }),
            ..found()
        };
        assert_eq!(reconcile(&recovered), open_at(61));
    }

    #[test]
    fn a_message_deleted_at_the_position_is_no_reason_to_doubt_the_stream() {
        let asked = [(60, Answer::Absent), (59, Answer::Same)];
        assert_eq!(
            reconcile(&Found {
                known: known(60, &asked),
                ..found()
            }),
            open_at(61)
        );
        let none_left = [(60, Answer::Absent), (59, Answer::Absent)];
        let found = Found {
            known: known(60, &none_left),
            stream: stream(61, 100),
            ..found()
        };
        assert_eq!(reconcile(&found), open_at(61));
    }

    #[test]
    fn what_was_dropped_before_it_was_read_is_a_gap() {
        let asked = [(60, Answer::Absent)];
        let plan = reconcile(&Found {
            stream: stream(81, 100),
            known: known(60, &asked),
            ..found()
        });
        let gap = Some((StreamSeq(61), StreamSeq(80)));
        assert_eq!(
            plan,
            Plan::Open(Opening {
                start: StreamSeq(81),
                incarnation: None,
                gap,
                taken_from: None
            })
        );
    }

    #[test]
    fn a_stream_purged_to_its_end_leaves_a_gap_up_to_the_end() {
        let asked = [(60, Answer::Absent)];
        let plan = reconcile(&Found {
            stream: stream(101, 100),
            known: known(60, &asked),
            ..found()
        });
        let Plan::Open(opening) = plan else {
            panic!("{plan:?}")
        };
        assert_eq!(
            (opening.start, opening.gap),
            (StreamSeq(101), Some((StreamSeq(61), StreamSeq(100))))
        );
    }
}
