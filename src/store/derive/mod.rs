//! Derived tables, pair by pair (a pair: a PC and a job). What they hold depends on the pair's results in stream order
//! and on the hints they were derived under, on nothing else (DESIGN §4, §5; contract D12):
//!
//! - while a result waits for an output that its hints need, the hints of all later results of its pair wait with it;
//! - what comes out of that order (an output back after it was given up) makes the pair *due*: it is derived anew from
//!   the results at hand, and until then its hints wait as well.

mod explode;
mod history;
pub mod issues;
mod parts;
mod shape;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use rusqlite::{Connection, OptionalExtension, params};

use self::parts::Parts;
use super::{StoreError, adoption};
use crate::projection::hints::needs;
use crate::projection::issue::IssueCode;
use crate::projection::manifests::{Hints, Manifests, SpecState};
use crate::wire::fence::{Hint, block};
use crate::wire::output::State;
use crate::wire::result::Field;
use crate::wire::sequence::StreamSeq;
use crate::wire::time::Timestamp;

pub(super) use explode::prepare_affinity;
pub(super) use shape::Shapes;

/// Waiting results of one pair that are applied in one transaction; the rest follows in the next.
const RELEASED_MAX: usize = 64;

/// A PC and a job, as a result's message names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pair<'a> {
    pub(super) pc_id: &'a str,
    pub(super) job_id: &'a str,
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
    fn borrow(&self) -> Pair<'_> {
        Pair {
            pc_id: &self.pc_id,
            job_id: &self.job_id,
        }
    }
}

/// A pair that is due, with the entries of its results in `projector_results`.
#[derive(Clone, Debug)]
pub struct DuePair {
    /// The pair.
    pub pair: OwnedPair,
    /// In the order of projection.
    pub entries: Vec<i64>,
}

/// One output of a result, as its hints see it.
#[derive(Debug)]
pub(super) enum Presence<'a> {
    /// The whole text.
    Here(Cow<'a, str>),
    /// Not to be had yet.
    Pending,
    /// Gone, refused or too large: no evidence.
    Absent,
}

impl Presence<'_> {
    fn here(&self) -> Option<&str> {
        match self {
            Self::Here(text) => Some(text),
            Self::Pending | Self::Absent => None,
        }
    }
}

/// What one result offers to its job's hints.
#[derive(Debug)]
pub(super) struct Evidence<'a> {
    pub(super) incarnation: u64,
    pub(super) seq: StreamSeq,
    pub(super) pair: Pair<'a>,
    pub(super) result_id: &'a str,
    pub(super) exit_code: i32,
    /// Whether a check learns anything from it (contract §3.3).
    pub(super) check_evidence: bool,
    /// Stored texts.
    pub(super) finished_at: &'a str,
    pub(super) published: &'a str,
    pub(super) stdout: Presence<'a>,
    pub(super) stderr: Presence<'a>,
}

impl Evidence<'_> {
    fn waits(&self, hints: &Hints) -> bool {
        let output = match self.needs(hints) {
            None => return false,
            Some(Field::Stdout) => &self.stdout,
            Some(Field::Stderr) => &self.stderr,
        };
        matches!(output, Presence::Pending)
    }

    fn needs(&self, hints: &Hints) -> Option<Field> {
        needs(hints, self.exit_code, self.check_evidence)
    }

    /// Whether it says anything about the pair's inventory.
    fn is_inventory(&self) -> bool {
        self.exit_code == 0
            && self.stdout.here().is_some_and(|stdout| {
                let text = block(stdout, Hint::Inventory);
                serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
            })
    }
}

/// What is left to do once an output no longer holds up its pair.
#[derive(Debug)]
pub(super) enum Released {
    /// Nothing.
    Nothing,
    /// More of this pair can be applied than one transaction should hold.
    More(OwnedPair),
    /// The pair is due; it may have been this output that kept it so.
    StillDue,
}

/// Whether events go into the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// They do.
    WithHistory,
    /// Only the state that the next result is compared with is set.
    StateOnly,
}

/// Where a pair stands (`projector_derivations.state`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Settled,
    Waiting,
    Due,
}

impl Standing {
    fn as_str(self) -> &'static str {
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

/// Derives inside one transaction.
pub(super) struct Deriver<'a> {
    pub(super) conn: &'a Connection,
    pub(super) manifests: &'a Manifests,
    pub(super) shapes: &'a mut Shapes,
    /// See [`Parts::isolated`].
    pub(super) isolated: bool,
    /// Older results of every pair may have been projected by others.
    pub(super) adopted: bool,
}

impl Deriver<'_> {
    fn parts(&mut self, mode: Mode) -> Parts<'_> {
        Parts {
            conn: self.conn,
            shapes: self.shapes,
            isolated: self.isolated,
            mode,
        }
    }

    /// A new result: applies its hints, or lets them wait in their place.
    pub(super) fn live(&mut self, evidence: &Evidence<'_>, entry: i64) -> Result<(), StoreError> {
        let pair = evidence.pair;
        let manifests = self.manifests;
        let Some(job) = manifests.job(pair.job_id) else {
            return Ok(());
        };
        if let Some(reason) = &job.undecodable {
            let report = vec![(IssueCode::ManifestUndecodable, reason.clone())];
            return issues::replace(self.conn, evidence, "manifest", &report);
        }
        let Some(hints) = job.hints.as_deref() else {
            return Ok(());
        };
        if evidence.needs(hints).is_none() {
            return Ok(());
        }
        issues::replace(self.conn, evidence, "manifest", &[])?;
        let waits = evidence.waits(hints);
        let standing = match standing(self.conn, pair)? {
            Some(standing) => standing,
            None => {
                let first = if self.adopted { 0 } else { entry };
                begin(self.conn, pair, &hints.hash, first)?;
                Standing::Settled
            }
        };
        if standing == Standing::Settled && !waits {
            return self.parts(Mode::WithHistory).apply(hints, evidence);
        }
        if standing == Standing::Settled {
            set_standing(self.conn, pair, Standing::Waiting)?;
        }
        wait(self.conn, pair, entry)
    }

    /// Whether a result's hints wait in their place in the order.
    pub(super) fn is_waiting(&self, entry: i64) -> Result<bool, StoreError> {
        let Some(pair) = pair_of(self.conn, entry)? else {
            return Ok(false);
        };
        self.conn
            .prepare_cached(
                "SELECT EXISTS (SELECT 1 FROM projector_waiting WHERE job_id = ?1 AND pc_id = ?2 AND entry = ?3)",
            )
            .and_then(|mut select| {
                select.query_row(params![pair.job_id, pair.pc_id, entry], |row| row.get(0))
            })
            .map_err(StoreError::sqlite("read what waits"))
    }

    /// An output that hints may have waited for has come, or will not come any more.
    pub(super) fn released(&mut self, entry: i64) -> Result<Released, StoreError> {
        let Some(pair) = pair_of(self.conn, entry)? else {
            return Ok(Released::Nothing);
        };
        Ok(match standing(self.conn, pair.borrow())? {
            Some(Standing::Waiting) if self.release(&pair)? => Released::More(pair),
            Some(Standing::Due) => Released::StillDue,
            _ => Released::Nothing,
        })
    }

    /// Applies what waits, in its order, up to the next result that has to wait. Returns whether more could be applied
    /// at once than one transaction should hold.
    pub(super) fn release(&mut self, pair: &OwnedPair) -> Result<bool, StoreError> {
        let borrowed = pair.borrow();
        if standing(self.conn, borrowed)? != Some(Standing::Waiting) {
            return Ok(false);
        }
        let waiting = waiting(self.conn, borrowed, RELEASED_MAX + 1)?;
        let manifests = self.manifests;
        let hints = manifests.hints(&pair.job_id);
        let more = waiting.len() > RELEASED_MAX;
        for entry in waiting.into_iter().take(RELEASED_MAX) {
            if let (Some(hints), Some(stored)) = (hints, Stored::load(self.conn, entry)?) {
                let evidence = stored.evidence();
                if evidence.waits(hints) {
                    return Ok(false);
                }
                self.parts(Mode::WithHistory).apply(hints, &evidence)?;
            }
            leave(self.conn, borrowed, entry)?;
        }
        if !more {
            set_standing(self.conn, borrowed, Standing::Settled)?;
        }
        Ok(more)
    }

    /// An output came back after it had been given up: the pair is derived anew, if its hints need that output.
    /// Returns whether it is due now.
    pub(super) fn came_back(&mut self, entry: i64, field: Field) -> Result<bool, StoreError> {
        let Some(stored) = Stored::load(self.conn, entry)? else {
            return Ok(false);
        };
        let evidence = stored.evidence();
        let hints = self.manifests.hints(evidence.pair.job_id);
        let needed = hints.is_some_and(|hints| evidence.needs(hints) == Some(field));
        if !needed {
            return Ok(false);
        }
        self.make_due(evidence.pair)
    }

    fn make_due(&mut self, pair: Pair<'_>) -> Result<bool, StoreError> {
        if standing(self.conn, pair)?.is_none() {
            // Projected by others so far: this is the first that we derive of it.
            let Some(hints) = self.manifests.hints(pair.job_id) else {
                return Ok(false);
            };
            begin(self.conn, pair, &hints.hash, 0)?;
        }
        set_standing(self.conn, pair, Standing::Due)?;
        Ok(true)
    }

    /// Derives a pair anew from its results at hand, in the order of their messages (DESIGN §5).
    pub(super) fn rederive(&mut self, due: &DuePair) -> Result<(), StoreError> {
        let pair = due.pair.borrow();
        if standing(self.conn, pair)? != Some(Standing::Due) {
            return Ok(());
        }
        let manifests = self.manifests;
        let Some(hints) = manifests.hints(pair.job_id) else {
            forget_waiting(self.conn, pair)?;
            return set_standing(self.conn, pair, Standing::Settled);
        };
        // What came after the entries were read waits, since the pair is due.
        let mut entries: BTreeSet<i64> = due.entries.iter().copied().collect();
        entries.extend(waiting(self.conn, pair, usize::MAX)?);
        let start = match self.start(pair, hints, &entries)? {
            Some(start) => start,
            // The oldest evidence is not certain yet: due until it is.
            None => return Ok(()),
        };
        forget_waiting(self.conn, pair)?;
        issues::forget(self.conn, pair)?;
        self.clear(pair, hints, &start)?;
        let mut standing = Standing::Settled;
        let mut entries = entries.into_iter();
        for entry in entries.by_ref() {
            let Some(stored) = Stored::load(self.conn, entry)? else {
                continue;
            };
            let evidence = stored.evidence();
            if evidence.waits(hints) {
                standing = Standing::Waiting;
                wait(self.conn, pair, entry)?;
                break;
            }
            let mode = match start {
                Start::After { oldest, .. } if oldest == entry => Mode::StateOnly,
                _ => Mode::WithHistory,
            };
            self.parts(mode).apply(hints, &evidence)?;
        }
        for entry in entries {
            wait(self.conn, pair, entry)?;
        }
        self.conn
            .prepare_cached(
                "UPDATE projector_derivations SET hints_hash = ?3, state = ?4 WHERE job_id = ?1 AND pc_id = ?2",
            )
            .and_then(|mut update| {
                update.execute([pair.job_id, pair.pc_id, hints.hash.as_str(), standing.as_str()])
            })
            .map_err(StoreError::sqlite(format!("derive {pair} anew")))?;
        Ok(())
    }

    /// From where a pair is made anew. `None`: that cannot be said yet.
    fn start(
        &self,
        pair: Pair<'_>,
        hints: &Hints,
        entries: &BTreeSet<i64>,
    ) -> Result<Option<Start>, StoreError> {
        let first: i64 = self
            .conn
            .prepare_cached("SELECT first_entry FROM projector_derivations WHERE job_id = ?1 AND pc_id = ?2")
            .and_then(|mut select| select.query_row([pair.job_id, pair.pc_id], |row| row.get(0)))
            .map_err(StoreError::sqlite(format!("look up {pair}")))?;
        let mut oldest = None;
        let mut is_first = true;
        for entry in entries {
            let Some(stored) = Stored::load(self.conn, *entry)? else {
                continue;
            };
            if std::mem::take(&mut is_first) && *entry <= first {
                return Ok(Some(Start::Nothing));
            }
            let evidence = stored.evidence();
            if hints.inventory.is_none() {
                continue;
            }
            if oldest.is_none() && evidence.waits(hints) {
                return Ok(None);
            }
            if evidence.is_inventory() {
                match oldest {
                    None => oldest = Some(*entry),
                    Some(oldest) => {
                        let next = Some(evidence.published.to_owned());
                        return Ok(Some(Start::After { oldest, next }));
                    }
                }
            }
        }
        Ok(Some(match oldest {
            Some(oldest) => Start::After { oldest, next: None },
            None => Start::AsIs,
        }))
    }

    /// Takes away what will be made anew.
    fn clear(&mut self, pair: Pair<'_>, hints: &Hints, start: &Start) -> Result<(), StoreError> {
        match start {
            Start::AsIs => return Ok(()),
            Start::Nothing => history::forget(self.conn, pair.pc_id, pair.job_id, None)?,
            Start::After { next: Some(next), .. } => {
                history::forget(self.conn, pair.pc_id, pair.job_id, Some(next))?;
            }
            Start::After { next: None, .. } => {}
        }
        self.conn
            .prepare_cached("DELETE FROM inventory_facts WHERE pc_id = ?1 AND job_id = ?2")
            .and_then(|mut delete| delete.execute([pair.pc_id, pair.job_id]))
            .map_err(StoreError::sqlite(format!("derive {pair} anew")))?;
        for spec in hints.inventory.iter().flat_map(|hint| &hint.specs) {
            if let SpecState::Valid(spec) = spec {
                explode::clear(self.conn, self.shapes, spec, pair.pc_id, pair.job_id)?;
            }
        }
        Ok(())
    }
}

/// From where a pair's inventory is made anew.
#[derive(Debug)]
enum Start {
    /// Its first result ever is at hand: from nothing.
    Nothing,
    /// Older results are gone. What was recorded up to the oldest evidence at hand stays; the state is set from that, and
    /// events are made from the next one (published at `next`) on.
    After { oldest: i64, next: Option<String> },
    /// Nothing at hand gives evidence: what there is stays.
    AsIs,
}

/// A result as the database holds it.
struct Stored {
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
    fn load(conn: &Connection, entry: i64) -> Result<Option<Self>, StoreError> {
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

    fn evidence(&self) -> Evidence<'_> {
        let presence = |field, text| match self.states.iter().find(|(of, _)| *of == field) {
            None | Some((_, State::Fetched)) => Presence::Here(Cow::Borrowed(text)),
            Some((_, State::Pending)) => Presence::Pending,
            Some((_, State::Gone | State::TooLarge | State::Refused)) => Presence::Absent,
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

fn pair_of(conn: &Connection, entry: i64) -> Result<Option<OwnedPair>, StoreError> {
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

fn standing(conn: &Connection, pair: Pair<'_>) -> Result<Option<Standing>, StoreError> {
    conn.prepare_cached("SELECT state FROM projector_derivations WHERE job_id = ?1 AND pc_id = ?2")
        .and_then(|mut select| {
            select
                .query_row([pair.job_id, pair.pc_id], |row| {
                    Ok(Standing::parse(row.get_ref(0)?.as_str()?))
                })
                .optional()
        })
        .map_err(StoreError::sqlite(format!("look up {pair}")))
}

fn begin(conn: &Connection, pair: Pair<'_>, hints_hash: &str, first_entry: i64) -> Result<(), StoreError> {
    conn.prepare_cached(
        "INSERT INTO projector_derivations (job_id, pc_id, hints_hash, first_entry, state)
         VALUES (?1, ?2, ?3, ?4, 'settled')",
    )
    .and_then(|mut insert| insert.execute(params![pair.job_id, pair.pc_id, hints_hash, first_entry]))
    .map_err(StoreError::sqlite(format!("begin to derive {pair}")))?;
    Ok(())
}

fn set_standing(conn: &Connection, pair: Pair<'_>, standing: Standing) -> Result<(), StoreError> {
    conn.prepare_cached("UPDATE projector_derivations SET state = ?3 WHERE job_id = ?1 AND pc_id = ?2")
        .and_then(|mut update| update.execute([pair.job_id, pair.pc_id, standing.as_str()]))
        .map_err(StoreError::sqlite(format!("set where {pair} stands")))?;
    Ok(())
}

fn wait(conn: &Connection, pair: Pair<'_>, entry: i64) -> Result<(), StoreError> {
    conn.prepare_cached("INSERT INTO projector_waiting (job_id, pc_id, entry) VALUES (?1, ?2, ?3)")
        .and_then(|mut insert| insert.execute(params![pair.job_id, pair.pc_id, entry]))
        .map_err(StoreError::sqlite(format!("let a result of {pair} wait")))?;
    Ok(())
}

fn leave(conn: &Connection, pair: Pair<'_>, entry: i64) -> Result<(), StoreError> {
    conn.prepare_cached("DELETE FROM projector_waiting WHERE job_id = ?1 AND pc_id = ?2 AND entry = ?3")
        .and_then(|mut delete| delete.execute(params![pair.job_id, pair.pc_id, entry]))
        .map_err(StoreError::sqlite(format!(
            "let a result of {pair} wait no longer"
        )))?;
    Ok(())
}

fn forget_waiting(conn: &Connection, pair: Pair<'_>) -> Result<(), StoreError> {
    conn.prepare_cached("DELETE FROM projector_waiting WHERE job_id = ?1 AND pc_id = ?2")
        .and_then(|mut delete| delete.execute([pair.job_id, pair.pc_id]))
        .map_err(StoreError::sqlite(format!("let no result of {pair} wait")))?;
    Ok(())
}

fn waiting(conn: &Connection, pair: Pair<'_>, limit: usize) -> Result<Vec<i64>, StoreError> {
    conn.prepare_cached(
        "SELECT entry FROM projector_waiting WHERE job_id = ?1 AND pc_id = ?2 ORDER BY entry LIMIT ?3",
    )
    .and_then(|mut select| {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        select
            .query_map(params![pair.job_id, pair.pc_id, limit], |row| row.get(0))?
            .collect()
    })
    .map_err(StoreError::sqlite(format!("read what waits of {pair}")))
}

/// The pairs whose results wait: at a start some may be ready to be applied.
pub(super) fn waiting_pairs(conn: &Connection) -> Result<Vec<OwnedPair>, StoreError> {
    pairs_in(conn, Standing::Waiting)
}

fn pairs_in(conn: &Connection, standing: Standing) -> Result<Vec<OwnedPair>, StoreError> {
    conn.prepare_cached(
        "SELECT job_id, pc_id FROM projector_derivations WHERE state = ?1 AND state <> 'settled'",
    )
    .and_then(|mut select| {
        select
            .query_map([standing.as_str()], |row| {
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
/// reads, since it may take long. None in the first pass, which has not met all results of a pair yet: what a derivation
/// took away of those to come, nobody would make again.
///
/// # Errors
/// SQLite's.
pub fn due_pairs(conn: &Connection) -> Result<Vec<DuePair>, StoreError> {
    let mut due: BTreeMap<String, BTreeMap<String, Vec<i64>>> = BTreeMap::new();
    for OwnedPair { job_id, pc_id } in pairs_in(conn, Standing::Due)? {
        due.entry(job_id).or_default().insert(pc_id, Vec::new());
    }
    if due.is_empty() || adoption::first_pass(conn)?.is_some() {
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
pub fn pair_counts(conn: &Connection) -> Result<PairCounts, StoreError> {
    let read = || -> Result<PairCounts, rusqlite::Error> {
        let count = |standing: Standing| {
            conn.query_row(
                "SELECT count(*) FROM projector_derivations WHERE state = ?1 AND state <> 'settled'",
                [standing.as_str()],
                |row| row.get(0),
            )
        };
        Ok(PairCounts {
            waiting: count(Standing::Waiting)?,
            due: count(Standing::Due)?,
            by_hints: conn
                .prepare("SELECT job_id, hints_hash, count(*) FROM projector_derivations GROUP BY job_id, hints_hash")?
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
                .collect::<Result<_, _>>()?,
        })
    };
    read().map_err(StoreError::sqlite("count projector_derivations"))
}

/// See [`pair_counts`].
#[derive(Clone, Debug, Default)]
pub struct PairCounts {
    /// Pairs with a result that waits for an output.
    pub waiting: u64,
    /// Pairs that will be derived anew.
    pub due: u64,
    /// Job, hash of the hints, pairs.
    pub by_hints: Vec<(String, String, u64)>,
}
