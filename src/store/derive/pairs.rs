//! The books of pairs: where each stands, which of its results wait (`projector_derivations`, `projector_waiting`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};

use super::super::{StoreError, first_pass};
use super::evidence::{OwnedPair, Pair};
use crate::projection::manifests::Manifests;

/// A pair that is due, with the entries of its results in `projector_results`.
#[derive(Clone, Debug)]
pub struct DuePair {
    /// The pair.
    pub pair: OwnedPair,
    /// In the order of projection.
    pub entries: Vec<i64>,
}

/// Where a pair stands (`projector_derivations.state`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PairState {
    Settled,
    Waiting,
    Due,
}

impl PairState {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Settled => "settled",
            Self::Waiting => "waiting",
            Self::Due => "due",
        }
    }

    fn parse(text: &str) -> Self {
        match text {
            "waiting" => Self::Waiting,
            "due" => Self::Due,
            _ => Self::Settled,
        }
    }
}

pub(super) fn pair_of(conn: &Connection, entry: i64) -> Result<Option<OwnedPair>, StoreError> {
    conn.prepare_cached("SELECT job_id, pc_id FROM projector_results WHERE entry = ?1 AND job_id IS NOT NULL")
        .and_then(|mut select| {
            select
                .query_row([entry], |row| {
                    Ok(OwnedPair {
                        job_id: row.get(0)?,
                        pc_id: row.get(1)?,
                    })
                })
                .optional()
        })
        .map_err(StoreError::sqlite("look up the pair of a result"))
}

pub(super) fn state(conn: &Connection, pair: Pair<'_>) -> Result<Option<PairState>, StoreError> {
    conn.prepare_cached("SELECT state FROM projector_derivations WHERE job_id = ?1 AND pc_id = ?2")
        .and_then(|mut select| {
            select
                .query_row([pair.job_id, pair.pc_id], |row| {
                    Ok(PairState::parse(row.get_ref(0)?.as_str()?))
                })
                .optional()
        })
        .map_err(StoreError::sqlite(format_args!("look up {pair}")))
}

/// Where a pair stands, and whether all of it was derived under these hints.
pub(super) fn state_under(
    conn: &Connection,
    pair: Pair<'_>,
    hints_hash: &str,
) -> Result<Option<(PairState, bool)>, StoreError> {
    conn.prepare_cached(
        "SELECT state, hints_hash = ?3 FROM projector_derivations WHERE job_id = ?1 AND pc_id = ?2",
    )
    .and_then(|mut select| {
        select
            .query_row([pair.job_id, pair.pc_id, hints_hash], |row| {
                Ok((PairState::parse(row.get_ref(0)?.as_str()?), row.get(1)?))
            })
            .optional()
    })
    .map_err(StoreError::sqlite(format_args!("look up {pair}")))
}

/// The first result that was derived of a pair; 0 where others may have derived older ones.
pub(super) fn first_entry(conn: &Connection, pair: Pair<'_>) -> Result<i64, StoreError> {
    conn.prepare_cached("SELECT first_entry FROM projector_derivations WHERE job_id = ?1 AND pc_id = ?2")
        .and_then(|mut select| select.query_row([pair.job_id, pair.pc_id], |row| row.get(0)))
        .map_err(StoreError::sqlite(format_args!("look up {pair}")))
}

pub(super) fn begin(
    conn: &Connection,
    pair: Pair<'_>,
    hints_hash: &str,
    first_entry: i64,
) -> Result<(), StoreError> {
    conn.prepare_cached(
        "INSERT INTO projector_derivations (job_id, pc_id, hints_hash, first_entry, state)
         VALUES (?1, ?2, ?3, ?4, 'settled')",
    )
    .and_then(|mut insert| insert.execute(params![pair.job_id, pair.pc_id, hints_hash, first_entry]))
    .map_err(StoreError::sqlite(format_args!("begin to derive {pair}")))?;
    Ok(())
}

/// In place of the hash of a pair's hints once it was derived under others in between: it stands under older ones whatever
/// the manifest says now, until it is derived anew.
const SEVERAL: &str = "several";

/// Notes under which hints a further result of a pair is derived.
pub(super) fn under(conn: &Connection, pair: Pair<'_>, hints_hash: &str) -> Result<(), StoreError> {
    conn.prepare_cached(
        "UPDATE projector_derivations SET hints_hash = ?4
         WHERE job_id = ?1 AND pc_id = ?2 AND hints_hash <> ?3 AND hints_hash <> ?4",
    )
    .and_then(|mut update| update.execute([pair.job_id, pair.pc_id, hints_hash, SEVERAL]))
    .map_err(StoreError::sqlite(format_args!(
        "note the hints that {pair} stands under"
    )))?;
    Ok(())
}

/// Notes that a result of a pair was derived under no hints at all.
pub(super) fn under_several(conn: &Connection, pair: Pair<'_>) -> Result<(), StoreError> {
    under(conn, pair, SEVERAL)
}

/// Jobs with pairs that were derived and with no hints in force: their results are looked at though no manifest asks.
#[derive(Debug, Default)]
pub(in super::super) struct Orphans {
    of: Option<Arc<Manifests>>,
    jobs: BTreeSet<String>,
}

impl Orphans {
    /// Looks again when other manifests have come into force: while they are the same, only jobs with hints gain pairs.
    pub(in super::super) fn look(
        &mut self,
        conn: &Connection,
        manifests: &Arc<Manifests>,
    ) -> Result<(), StoreError> {
        if self
            .of
            .as_ref()
            .is_some_and(|known| Arc::ptr_eq(known, manifests))
        {
            return Ok(());
        }
        let read = || -> Result<Vec<String>, rusqlite::Error> {
            conn.prepare("SELECT DISTINCT job_id FROM projector_derivations")?
                .query_map([], |row| row.get(0))?
                .collect()
        };
        self.jobs = read()
            .map_err(StoreError::sqlite("read which jobs have pairs"))?
            .into_iter()
            .filter(|job| manifests.hints(job).is_none())
            .collect();
        self.of = Some(manifests.clone());
        Ok(())
    }

    /// Whether the job is one of them.
    pub(in super::super) fn has(&self, job_id: &str) -> bool {
        !self.jobs.is_empty() && self.jobs.contains(job_id)
    }
}

pub(super) fn set_state(conn: &Connection, pair: Pair<'_>, state: PairState) -> Result<(), StoreError> {
    conn.prepare_cached("UPDATE projector_derivations SET state = ?3 WHERE job_id = ?1 AND pc_id = ?2")
        .and_then(|mut update| update.execute([pair.job_id, pair.pc_id, state.as_str()]))
        .map_err(StoreError::sqlite(format_args!("set where {pair} stands")))?;
    Ok(())
}

pub(super) fn wait(conn: &Connection, pair: Pair<'_>, entry: i64) -> Result<(), StoreError> {
    conn.prepare_cached("INSERT INTO projector_waiting (job_id, pc_id, entry) VALUES (?1, ?2, ?3)")
        .and_then(|mut insert| insert.execute(params![pair.job_id, pair.pc_id, entry]))
        .map_err(StoreError::sqlite(format_args!("let a result of {pair} wait")))?;
    Ok(())
}

pub(super) fn remove_waiting(conn: &Connection, pair: Pair<'_>, entry: i64) -> Result<(), StoreError> {
    conn.prepare_cached("DELETE FROM projector_waiting WHERE job_id = ?1 AND pc_id = ?2 AND entry = ?3")
        .and_then(|mut delete| delete.execute(params![pair.job_id, pair.pc_id, entry]))
        .map_err(StoreError::sqlite(format_args!(
            "let a result of {pair} wait no longer"
        )))?;
    Ok(())
}

pub(super) fn forget_waiting(conn: &Connection, pair: Pair<'_>) -> Result<(), StoreError> {
    conn.prepare_cached("DELETE FROM projector_waiting WHERE job_id = ?1 AND pc_id = ?2")
        .and_then(|mut delete| delete.execute([pair.job_id, pair.pc_id]))
        .map_err(StoreError::sqlite(format_args!("let no result of {pair} wait")))?;
    Ok(())
}

/// What waits of a pair, in the order of the messages: a dead letter that was retried is entered last and belongs at its
/// sequence.
pub(super) fn waiting(conn: &Connection, pair: Pair<'_>, limit: usize) -> Result<Vec<i64>, StoreError> {
    conn.prepare_cached(
        "SELECT waiting.entry FROM projector_waiting waiting LEFT JOIN projector_results message USING (entry)
         WHERE waiting.job_id = ?1 AND waiting.pc_id = ?2
         ORDER BY message.incarnation, message.stream_seq, waiting.entry LIMIT ?3",
    )
    .and_then(|mut select| {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        select
            .query_map(params![pair.job_id, pair.pc_id, limit], |row| row.get(0))?
            .collect()
    })
    .map_err(StoreError::sqlite(format_args!("read what waits of {pair}")))
}

/// Entries in the order of their messages; those that are gone are left out.
pub(super) fn in_message_order(
    conn: &Connection,
    entries: impl IntoIterator<Item = i64>,
) -> Result<Vec<i64>, StoreError> {
    let read = || -> Result<Vec<(i64, i64, i64)>, rusqlite::Error> {
        let mut select = conn.prepare_cached(
            "SELECT incarnation, stream_seq, entry FROM projector_results WHERE entry = ?1",
        )?;
        let mut places = Vec::new();
        for entry in entries {
            let place = select
                .query_row([entry], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
                .optional()?;
            places.extend(place);
        }
        Ok(places)
    };
    let mut places = read().map_err(StoreError::sqlite("order the results of a pair"))?;
    places.sort_unstable();
    Ok(places.into_iter().map(|(_, _, entry)| entry).collect())
}

/// Whether the row of a line's result is there and ended, whichever message it is made of now.
pub(super) fn is_at_hand(conn: &Connection, entry: i64) -> Result<bool, StoreError> {
    conn.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM projector_results message JOIN execution_results row USING (result_id)
         WHERE message.entry = ?1 AND row.finished_at IS NOT NULL AND row.exit_code IS NOT NULL AND row.reaped = 0)",
    )
    .and_then(|mut select| select.query_row([entry], |row| row.get(0)))
    .map_err(StoreError::sqlite("look for a pair's first result"))
}

/// Every pair of a job is due.
pub(super) fn set_job_due(conn: &Connection, job_id: &str) -> Result<(), StoreError> {
    conn.prepare_cached("UPDATE projector_derivations SET state = 'due' WHERE job_id = ?1")
        .and_then(|mut update| update.execute([job_id]))
        .map_err(StoreError::sqlite(format_args!(
            "make the pairs of job {job_id:?} due"
        )))?;
    Ok(())
}

/// The pairs whose results wait: at a start some may be ready to be applied.
pub(in super::super) fn waiting_pairs(conn: &Connection) -> Result<Vec<OwnedPair>, StoreError> {
    pairs_in(conn, PairState::Waiting)
}

fn pairs_in(conn: &Connection, state: PairState) -> Result<Vec<OwnedPair>, StoreError> {
    conn.prepare_cached(
        "SELECT job_id, pc_id FROM projector_derivations WHERE state = ?1 AND state <> 'settled'",
    )
    .and_then(|mut select| {
        select
            .query_map([state.as_str()], |row| {
                Ok(OwnedPair {
                    job_id: row.get(0)?,
                    pc_id: row.get(1)?,
                })
            })?
            .collect()
    })
    .map_err(StoreError::sqlite("read projector_derivations"))
}

/// The due pairs with their results' entries: one scan of `projector_results` for all of them, on a connection that only
/// reads, since it may take long. None in the first pass over an adopted file, which has not met all results of a pair
/// yet: what a derivation took away of those to come, nobody would make again.
///
/// # Errors
/// SQLite's.
pub fn due_pairs(conn: &Connection) -> Result<Vec<DuePair>, StoreError> {
    let mut due: BTreeMap<String, BTreeMap<String, Vec<i64>>> = BTreeMap::new();
    for OwnedPair { job_id, pc_id } in pairs_in(conn, PairState::Due)? {
        due.entry(job_id).or_default().insert(pc_id, Vec::new());
    }
    if due.is_empty() || first_pass::until(conn)?.is_some() {
        return Ok(Vec::new());
    }
    let mut scan = || -> Result<(), rusqlite::Error> {
        let mut scan = conn.prepare(
            "SELECT entry, job_id, pc_id FROM projector_results WHERE counts AND job_id IS NOT NULL ORDER BY entry",
        )?;
        let mut rows = scan.query([])?;
        while let Some(row) = rows.next()? {
            let entries = due
                .get_mut(row.get_ref(1)?.as_str()?)
                .map(|pcs| Ok::<_, rusqlite::Error>(pcs.get_mut(row.get_ref(2)?.as_str()?)))
                .transpose()?
                .flatten();
            if let Some(entries) = entries {
                entries.push(row.get(0)?);
            }
        }
        Ok(())
    };
    scan().map_err(StoreError::sqlite("read the results of the due pairs"))?;
    Ok(due
        .into_iter()
        .flat_map(|(job_id, pcs)| {
            pcs.into_iter().map(move |(pc_id, entries)| DuePair {
                pair: OwnedPair {
                    job_id: job_id.clone(),
                    pc_id,
                },
                entries,
            })
        })
        .collect())
}

/// How many pairs stand under which hints: job, hash, pairs; and how many wait or are due.
///
/// # Errors
/// SQLite's.
pub(in super::super) fn pair_counts(conn: &Connection) -> Result<PairCounts, StoreError> {
    let read = || -> Result<PairCounts, rusqlite::Error> {
        let count = |state: PairState| {
            conn.query_row(
                // The second condition lets SQLite take the partial index.
                "SELECT count(*) FROM projector_derivations WHERE state = ?1 AND state <> 'settled'",
                [state.as_str()],
                |row| row.get(0),
            )
        };
        Ok(PairCounts {
            waiting: count(PairState::Waiting)?,
            due: count(PairState::Due)?,
            by_hints: conn
                .prepare("SELECT job_id, hints_hash, count(*) FROM projector_derivations GROUP BY job_id, hints_hash")?
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
                .collect::<Result<_, _>>()?,
        })
    };
    read().map_err(StoreError::sqlite("count projector_derivations"))
}

/// Pairs by what keeps their tables from saying what they should.
#[derive(Clone, Debug, Default)]
pub struct PairCounts {
    /// Pairs with a result that waits for an output.
    pub waiting: u64,
    /// Pairs that will be derived anew.
    pub due: u64,
    /// Job, hash of the hints, pairs.
    pub by_hints: Vec<(String, String, u64)>,
}
