//! What one result offers to its job's hints: as its message brings it, or as the database holds it.

use std::borrow::Cow;
use std::fmt;

use rusqlite::{Connection, OptionalExtension};

use super::super::StoreError;
use crate::projection::hints::needs;
use crate::projection::manifests::Hints;
use crate::wire::fence::{Hint, block};
use crate::wire::output::State;
use crate::wire::result::Field;
use crate::wire::sequence::StreamSeq;
use crate::wire::time::Timestamp;

/// A PC and a job, as a result's message names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Pair<'a> {
    pub(in super::super) pc_id: &'a str,
    pub(in super::super) job_id: &'a str,
}

impl fmt::Display for Pair<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PC {:?} and job {:?}", self.pc_id, self.job_id)
    }
}

/// A pair that travels.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OwnedPair {
    /// The job.
    pub job_id: String,
    /// The host.
    pub pc_id: String,
}

impl OwnedPair {
    pub(super) fn borrow(&self) -> Pair<'_> {
        Pair {
            pc_id: &self.pc_id,
            job_id: &self.job_id,
        }
    }
}

/// One output of a result, as its hints see it.
#[derive(Debug)]
pub(in super::super) enum Presence<'a> {
    /// The whole text.
    Here(Cow<'a, str>),
    /// Not to be had yet.
    Pending,
    /// Gone, refused or too large: no evidence.
    Absent,
}

impl<'a> Presence<'a> {
    /// What is to be had of an output in this state; `None`: its text came within the message.
    pub(in super::super) fn of(state: Option<State>, text: Cow<'a, str>) -> Self {
        match state {
            None | Some(State::Fetched) => Self::Here(text),
            Some(State::Pending) => Self::Pending,
            Some(State::Gone | State::TooLarge | State::Refused) => Self::Absent,
        }
    }

    pub(super) fn here(&self) -> Option<&str> {
        match self {
            Self::Here(text) => Some(text),
            Self::Pending | Self::Absent => None,
        }
    }
}

/// What one result offers to its job's hints.
#[derive(Debug)]
pub(in super::super) struct Evidence<'a> {
    pub(in super::super) incarnation: u64,
    pub(in super::super) seq: StreamSeq,
    pub(in super::super) pair: Pair<'a>,
    pub(in super::super) result_id: &'a str,
    pub(in super::super) exit_code: i32,
    /// Whether a check learns anything from it (contract §3.3).
    pub(in super::super) check_evidence: bool,
    /// Stored texts.
    pub(in super::super) finished_at: &'a str,
    pub(in super::super) published: &'a str,
    pub(in super::super) stdout: Presence<'a>,
    pub(in super::super) stderr: Presence<'a>,
}

impl Evidence<'_> {
    pub(super) fn waits(&self, hints: &Hints) -> bool {
        let output = match self.needs(hints) {
            None => return false,
            Some(Field::Stdout) => &self.stdout,
            Some(Field::Stderr) => &self.stderr,
        };
        matches!(output, Presence::Pending)
    }

    /// Whether anything of it is not to be had yet.
    pub(super) fn is_owed(&self) -> bool {
        [&self.stdout, &self.stderr]
            .into_iter()
            .any(|output| matches!(output, Presence::Pending))
    }

    pub(super) fn needs(&self, hints: &Hints) -> Option<Field> {
        needs(hints, self.exit_code, self.check_evidence)
    }

    /// Whether it says anything about the pair's inventory.
    pub(super) fn is_inventory(&self) -> bool {
        self.exit_code == 0
            && self.stdout.here().is_some_and(|stdout| {
                // Skipping over the values would let pass what the parts do not take: numbers and depths out of range.
                let text = block(stdout, Hint::Inventory);
                serde_json::from_str::<serde_json::Value>(text).is_ok()
            })
    }
}

/// A result as the database holds it.
pub(super) struct Stored {
    incarnation: u64,
    seq: u64,
    published: String,
    pair: OwnedPair,
    result_id: String,
    exit_code: i32,
    check_evidence: bool,
    finished_at: String,
    stdout: String,
    stderr: String,
    states: Vec<(Field, State)>,
}

impl Stored {
    /// `None` for a duplicate, and for a result whose row is gone.
    pub(super) fn load(conn: &Connection, entry: i64) -> Result<Option<Self>, StoreError> {
        let read = || -> Result<Option<Self>, rusqlite::Error> {
            let stored = conn
                .prepare_cached(
                    "SELECT message.incarnation, message.stream_seq, message.published_ns, message.job_id,
                         message.pc_id, message.result_id, row.exit_code, message.evidence, row.finished_at,
                         row.stdout, row.stderr
                     FROM projector_results message JOIN execution_results row USING (result_id)
                     WHERE message.entry = ?1 AND message.counts AND message.job_id IS NOT NULL
                         AND row.finished_at IS NOT NULL AND row.exit_code IS NOT NULL AND row.reaped = 0",
                )?
                .query_row([entry], |row| {
                    Ok(Self {
                        incarnation: row.get(0)?,
                        seq: row.get(1)?,
                        published: Timestamp::from_unix_nanos(row.get(2)?).stored(),
                        pair: OwnedPair {
                            job_id: row.get(3)?,
                            pc_id: row.get(4)?,
                        },
                        result_id: row.get(5)?,
                        exit_code: row.get(6)?,
                        check_evidence: row.get(7)?,
                        finished_at: row.get(8)?,
                        stdout: row.get(9)?,
                        stderr: row.get(10)?,
                        states: Vec::new(),
                    })
                })
                .optional()?;
            let Some(mut stored) = stored else {
                return Ok(None);
            };
            stored.states = conn
                .prepare_cached("SELECT field, state FROM projector_outputs WHERE result_id = ?1")?
                .query_map([&stored.result_id], |row| {
                    let (field, state): (String, String) = (row.get(0)?, row.get(1)?);
                    Ok(Field::parse(&field).zip(State::parse(&state)))
                })?
                .filter_map(Result::transpose)
                .collect::<Result<_, _>>()?;
            Ok(Some(stored))
        };
        read().map_err(StoreError::sqlite("read a result again"))
    }

    pub(super) fn evidence(&self) -> Evidence<'_> {
        let presence = |field, text| {
            let state = self.states.iter().find(|(of, _)| *of == field);
            Presence::of(state.map(|(_, state)| *state), Cow::Borrowed(text))
        };
        Evidence {
            incarnation: self.incarnation,
            seq: StreamSeq(self.seq),
            pair: self.pair.borrow(),
            result_id: &self.result_id,
            exit_code: self.exit_code,
            check_evidence: self.check_evidence,
            finished_at: &self.finished_at,
            published: &self.published,
            stdout: presence(Field::Stdout, self.stdout.as_str()),
            stderr: presence(Field::Stderr, self.stderr.as_str()),
        }
    }
}
