//! One transaction: rows, books and positions together, or nothing (I1).

mod context;
mod first_pass;
mod foreknown;
mod other_streams;
mod outputs;
mod pairs;
mod retry;
mod row;

use std::sync::Arc;

use rusqlite::{CachedStatement, Connection, params};

pub(super) use self::context::{Context, LetterRoom};
use self::outputs::presence;
pub use self::retry::Lines;
use super::StoreError;
use super::completions::Ledger;
use super::dead_letters::{self, DeadLetter};
use super::derive::{Deriver, Evidence, OwnedPair, Pair, issues};
use super::executions::{self, Tally};
use super::position::{self, Advance, Standing};
use super::rows;
use super::savepoint::undone_alone;
use crate::projection::execution::Delta;
use crate::projection::manifests::Manifests;
use crate::projection::result::{
    Completion, Known, ResultMessage, ResultRow, RowChange, completion, row, row_change,
};
use crate::projection::scan::Scan;
use crate::wire::kv::StreamName;
use crate::wire::result::Field;
use crate::wire::sequence::StreamSeq;
use crate::wire::time::Timestamp;

const INSERT_MESSAGE: &str =
    "INSERT INTO projector_results (incarnation, stream_seq, published_ns, result_id, pc_id, job_id, counts,
         evidence, entry)
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";

fn begin_immediate(conn: &Connection) -> Result<usize, rusqlite::Error> {
    conn.prepare_cached("BEGIN IMMEDIATE")
        .and_then(|mut begin| begin.execute([]))
}

/// Proof that a stream's position, with everything up to it, is on disk. Only a commit makes one, and only this
/// can be acknowledged (I2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    stream: StreamName,
    last: StreamSeq,
}

impl Committed {
    /// The stream.
    #[must_use]
    pub fn stream(&self) -> StreamName {
        self.stream
    }

    /// The last committed sequence.
    #[must_use]
    pub fn last(&self) -> StreamSeq {
        self.last
    }
}

/// A range of sequences that no longer existed when their turn came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The stream.
    pub stream: StreamName,
    /// First missing sequence.
    pub first: StreamSeq,
    /// Last missing sequence.
    pub last: StreamSeq,
    /// How it was found.
    pub reason: String,
}

/// An open transaction on the writer's connection. Dropped without a commit, it leaves nothing.
pub struct Group<'s> {
    tx: &'s Connection,
    /// The two statements of every row, held: looking them up for each would cost as much as binding them.
    insert_result: CachedStatement<'s>,
    insert_message: CachedStatement<'s>,
    /// `None` while other triggers than the known two are there: then the triggers write the ledgers.
    ledger: Option<Ledger>,
    /// `None` while counters wait for the rows (see [`Context::deferred`]).
    tally: Option<Tally>,
    context: &'s mut Context,
    manifests: Arc<Manifests>,
    /// See [`Deriver::any_issues`].
    any_issues: bool,
    letter_bytes_added: u64,
    /// One had no room for its payload.
    letters_overflow: bool,
    carried_outputs: u64,
    /// See [`foreknown::first_entry`].
    first_entry: Option<i64>,
    letter_bytes_removed: u64,
    now_wall: Timestamp,
    isolating: bool,
    committed: bool,
    first_pass_ends: bool,
    left: Left,
    advanced: Vec<Committed>,
}

/// What a committed transaction leaves to be done in others.
#[derive(Debug, Default)]
pub struct Left {
    /// Pairs with more waiting results than one transaction should apply.
    pub more_waiting: Vec<OwnedPair>,
    /// Some pair is due.
    pub due: bool,
    /// An execution was remembered whose row is not there yet.
    pub unsettled: bool,
}

impl Drop for Group<'_> {
    fn drop(&mut self) {
        if !self.committed {
            self.context.roll_back(self.tx);
        }
    }
}

impl<'s> Group<'s> {
    /// Begins. `now_wall` goes into `_wall` columns only.
    pub(super) fn begin(
        conn: &'s Connection,
        context: &'s mut Context,
        manifests: Arc<Manifests>,
        now_wall: Timestamp,
    ) -> Result<Self, StoreError> {
        if conn.is_autocommit() {
            begin_immediate(conn).map_err(StoreError::sqlite("begin a transaction"))?;
        }
        let mut begun = || -> Result<_, StoreError> {
            let ours = match context.scratch_ledgers {
                Some(ours) => ours,
                None => context.triggers.look(conn)?,
            };
            let ledger = ours.then(Ledger::default);
            let prepare =
                |statement: Result<_, _>| statement.map_err(StoreError::sqlite("prepare to write results"));
            context.orphans.look(conn, &manifests)?;
            Ok((
                ledger,
                prepare(rows::prepare_insert(conn))?,
                prepare(conn.prepare_cached(INSERT_MESSAGE))?,
                issues::any(conn)?,
                foreknown::first_entry(conn, context.foreknown.as_ref())?,
            ))
        };
        match begun() {
            Ok((ledger, insert_result, insert_message, any_issues, first_entry)) => Ok(Self {
                tx: conn,
                insert_result,
                insert_message,
                ledger,
                tally: (!context.deferred).then(Tally::default),
                context,
                manifests,
                any_issues,
                letter_bytes_added: 0,
                letters_overflow: false,
                carried_outputs: 0,
                first_entry,
                letter_bytes_removed: 0,
                now_wall,
                isolating: false,
                committed: false,
                first_pass_ends: false,
                left: Left::default(),
                advanced: Vec::new(),
            }),
            Err(error) => {
                context.roll_back(conn);
                Err(error)
            }
        }
    }

    /// Makes sure that a stream stands where the caller thinks, before anything is written (I1).
    ///
    /// # Errors
    /// [`StoreError::RefusedAdvance`] when it does not.
    pub fn expect(&self, stream: StreamName, from: &Standing) -> Result<(), StoreError> {
        position::expect(self.tx, stream, from)
    }

    /// Projects one result: its row, its outputs' book, its line in `projector_results`, its hints, the ledgers and its
    /// execution's counters. `scan`: its stdout, if that was read already.
    ///
    /// # Errors
    /// Of class [`Class::Data`](super::Class::Data) when this message cannot be stored; any other class leaves the group lost.
    pub fn result(
        &mut self,
        incarnation: u64,
        seq: StreamSeq,
        published: Timestamp,
        message: &ResultMessage,
        scan: Option<Scan>,
    ) -> Result<(), StoreError> {
        let with_kept = self.with_carried_outputs(message)?;
        let (message, carried_outputs) = with_kept
            .as_ref()
            .map_or((message, 0), |(with, kept)| (with, *kept));
        let row = row(message, published);
        let result = row.result;
        let (known, after) = if self.is_known_duplicate(seq, published) {
            (Known::Finished, None)
        } else {
            self.enter_row(&row)?
        };
        let change = row_change(known);
        // In the first pass over the backend's rows, a result's first message counts though its row is there.
        let mends = self.is_first_pass(incarnation, seq)
            && super::first_pass::is_first(self.tx, &row.result_id)?
            && change == RowChange::Nothing;
        let counts = change != RowChange::Nothing || mends;
        let entry = self.enter_message(incarnation, seq, published, &row, counts)?;
        if mends {
            return self.mend(&row, message, entry, published);
        }
        if change == RowChange::Nothing {
            return Ok(());
        }
        self.enter_outputs(&row.result_id, message, entry, published)?;
        if let Some(job_id) = result.manifest_id.as_deref()
            && (self.any_issues || self.manifests.job(job_id).is_some() || self.context.orphans.has(job_id))
        {
            let evidence = Evidence {
                incarnation,
                seq,
                pair: Pair {
                    pc_id: &result.pc_id,
                    job_id,
                },
                result_id: &row.result_id,
                exit_code: result.exit_code,
                check_evidence: !result.carries_no_check_evidence(),
                finished_at: &row.finished_at,
                published: &row.recorded_at,
                stdout: presence(message, Field::Stdout),
                stderr: presence(message, Field::Stderr),
            };
            self.deriver().live(&evidence, entry, scan)?;
        }
        // Last, since nothing takes these back when the item is undone.
        self.note(known, &row, after.as_ref());
        self.carried_outputs += carried_outputs;
        Ok(())
    }

    /// Appends a message's line to `projector_results`; returns its number.
    fn enter_message(
        &mut self,
        incarnation: u64,
        seq: StreamSeq,
        published: Timestamp,
        row: &ResultRow<'_>,
        counts: bool,
    ) -> Result<i64, StoreError> {
        let result = row.result;
        self.insert_message
            .execute(params![
                incarnation,
                seq.0,
                published.unix_nanos().unwrap_or(i64::MAX),
                row.result_id,
                &*result.pc_id,
                result.manifest_id.as_deref(),
                counts,
                !result.carries_no_check_evidence(),
                // Nearly always the next number.
                self.first_entry.take(),
            ])
            .map_err(row::cannot_write(row))?;
        Ok(self.tx.last_insert_rowid())
    }

    /// What a new or finished row means for the ledgers and for its execution.
    fn note(&mut self, known: Known, row: &ResultRow<'_>, after: Option<&rows::Row>) {
        let result = row.result;
        let exec_id = after.map_or(result.exec_id.as_deref(), |after| after.exec_id.as_deref());
        if let (Some(exec_id), Some(tally)) = (exec_id, &mut self.tally) {
            tally.moved(exec_id, Delta::of_result(known, result.exit_code));
        }
        let (job_id, pc_id, version) = match after {
            None => (result.manifest_id.as_deref(), &*result.pc_id, None),
            Some(after) => (after.job_id.as_deref(), &*after.pc_id, after.version.as_deref()),
        };
        if let Some(completion) = completion(job_id, pc_id, version, result.exit_code) {
            self.complete(&completion, &row.finished_at);
        }
    }

    fn complete(&mut self, completion: &Completion<'_>, finished_at: &str) {
        if let Some(ledger) = &mut self.ledger {
            ledger.note(completion, finished_at);
        }
    }

    fn deriver(&mut self) -> Deriver<'_> {
        Deriver {
            conn: self.tx,
            manifests: &self.manifests,
            shapes: &mut self.context.shapes,
            orphans: &self.context.orphans,
            isolated: self.isolating,
            adopted: self.context.adopted,
            any_issues: &mut self.any_issues,
        }
    }

    /// Settles the executions whose rows have appeared.
    ///
    /// # Errors
    /// SQLite's.
    pub fn settle(&mut self) -> Result<(), StoreError> {
        executions::settle_all(self.tx, self.now_wall)
    }

    /// Keeps a message that cannot be projected.
    ///
    /// # Errors
    /// SQLite's.
    pub fn dead_letter(&mut self, incarnation: u64, letter: &DeadLetter) -> Result<(), StoreError> {
        let letters = &self.context.letters;
        let room = letters
            .bytes_max
            .saturating_sub(letters.bytes + self.letter_bytes_added);
        match dead_letters::enter(self.tx, incarnation, letter, room)? {
            Some(bytes) => self.letter_bytes_added += bytes,
            None => self.letters_overflow = true,
        }
        Ok(())
    }

    /// Records sequences that no longer exist.
    ///
    /// # Errors
    /// SQLite's.
    pub fn gap(&mut self, incarnation: u64, gap: &Gap) -> Result<(), StoreError> {
        self.tx
            .prepare_cached(
                "INSERT INTO projector_gaps (stream, incarnation, first_seq, last_seq, reason)
                 VALUES (?1, ?2, ?3, ?4, ?5)",
            )
            .and_then(|mut statement| {
                statement.execute(params![
                    gap.stream.as_str(),
                    incarnation,
                    gap.first.0,
                    gap.last.0,
                    gap.reason,
                ])
            })
            .map_err(StoreError::sqlite(format_args!(
                "record the gap {} {}..{}",
                gap.stream, gap.first, gap.last
            )))?;
        Ok(())
    }

    /// Begins an incarnation of a stream.
    ///
    /// # Errors
    /// [`StoreError::RefusedAdvance`] when it has begun already.
    pub fn begin_incarnation(&mut self, stream: StreamName, standing: &Standing) -> Result<(), StoreError> {
        // What the pass was to compare is no longer there.
        if stream == StreamName::Results && standing.incarnation > 1 {
            self.end_first_pass()?;
        }
        position::begin(self.tx, stream, standing)
    }

    /// Moves a stream's position (I1).
    ///
    /// # Errors
    /// [`StoreError::RefusedAdvance`] when the stored position is not where the advance starts.
    pub fn advance(&mut self, advance: &Advance) -> Result<(), StoreError> {
        position::write(self.tx, advance)?;
        if advance.stream == StreamName::Results
            && self
                .context
                .first_pass
                .is_some_and(|last| advance.to.position >= last)
        {
            self.end_first_pass()?;
        }
        self.advanced.push(Committed {
            stream: advance.stream,
            last: advance.to.position,
        });
        Ok(())
    }

    /// Runs one item so that its data error undoes the item alone: that is the inner error.
    ///
    /// # Errors
    /// Any other of the item's; the group is lost then.
    pub fn isolated<T>(
        &mut self,
        item: impl FnOnce(&mut Self) -> Result<T, StoreError>,
    ) -> Result<Result<T, StoreError>, StoreError> {
        self.isolating = true;
        let outcome = undone_alone(self.tx, || item(self));
        self.isolating = false;
        let outcome = outcome?;
        if outcome.is_err() {
            self.context.shapes.clear();
            self.first_entry = foreknown::first_entry(self.tx, self.context.foreknown.as_ref())?;
        }
        Ok(outcome)
    }

    /// Whether SQLite has ended the transaction by itself.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.tx.is_autocommit()
    }

    /// Makes it all durable.
    ///
    /// # Errors
    /// SQLite's; then whether it is on disk must be read from the position.
    pub fn commit(mut self) -> Result<(Vec<Committed>, Left), StoreError> {
        if let Some(ledger) = &mut self.ledger {
            ledger.write(self.tx)?;
        }
        if let Some(tally) = &mut self.tally {
            self.left.unsettled = tally.write(self.tx, self.now_wall)?;
        }
        let context = &mut *self.context;
        context.letters.bytes =
            (context.letters.bytes + self.letter_bytes_added).saturating_sub(self.letter_bytes_removed);
        context.carried_outputs += self.carried_outputs;
        if !context.shares_transaction {
            self.tx
                .prepare_cached("COMMIT")
                .and_then(|mut commit| commit.execute([]))
                .map_err(StoreError::sqlite("commit"))?;
            context.committed();
        }
        self.committed = true;
        let letters = &mut context.letters;
        if self.letters_overflow && !std::mem::replace(&mut letters.overflowed, true) {
            tracing::error!(
                bytes = letters.bytes,
                limit = letters.bytes_max,
                "the dead-letter book is full: of further dead letters only the stream holds the payload, as long as that \
                 lasts; look at `dead-letters list`, then retry or discard them, or raise dead_letters.max_bytes"
            );
        }
        if self.first_pass_ends {
            self.context.first_pass = None;
        }
        Ok((std::mem::take(&mut self.advanced), std::mem::take(&mut self.left)))
    }
}

fn clip(text: &str) -> String {
    text.chars().take(80).collect()
}
