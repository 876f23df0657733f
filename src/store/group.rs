//! One transaction: rows, books and positions together, or nothing (I1).

use rusqlite::{CachedStatement, Connection, OptionalExtension, params};

use super::completions::{Ledger, TriggerWatch};
use super::dead_letters::{self, DeadLetter};
use super::output_book::{self, Repair};
use super::position::{self, Advance, Standing};
use super::{Class, StoreError};
use crate::projection::result::{Known, ResultMessage, RowChange, completion, row, row_change};
use crate::wire::kv::StreamName;
use crate::wire::result::Field;
use crate::wire::sequence::StreamSeq;
use crate::wire::time::Timestamp;

/// Asking and inserting in one step: only a row that is there already costs a second look.
const INSERT_RESULT: &str =
    "INSERT INTO execution_results (result_id, request_id, exec_id, pc_id, exit_code, stdout,
         stderr, started_at, finished_at, recorded_at, job_id, parent_result_id, skipped)
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)
     ON CONFLICT (result_id) DO NOTHING";
const INSERT_MESSAGE: &str =
    "INSERT INTO projector_results (incarnation, stream_seq, published_ns, result_id, pc_id, job_id)
     VALUES (?1, ?2, ?3, ?4, ?5, ?6)";

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
    letters: &'s mut LetterRoom,
    letter_bytes_added: u64,
    now_wall: Timestamp,
    advanced: Vec<Committed>,
}

impl Drop for Group<'_> {
    fn drop(&mut self) {
        // SQLite may have rolled back by itself; after a commit there is nothing to roll back.
        if !self.tx.is_autocommit()
            && let Err(error) = self.tx.execute_batch("ROLLBACK")
        {
            tracing::warn!(%error, "a transaction was not rolled back");
        }
    }
}

/// How many payload bytes the dead-letter book may still take.
#[derive(Debug)]
pub(super) struct LetterRoom {
    pub(super) bytes: u64,
    pub(super) bytes_max: u64,
}

impl<'s> Group<'s> {
    /// Begins. `now_wall` goes into `_wall` columns only.
    pub(super) fn begin(
        conn: &'s Connection,
        triggers: &mut TriggerWatch,
        letters: &'s mut LetterRoom,
        now_wall: Timestamp,
    ) -> Result<Self, StoreError> {
        begin_immediate(conn).map_err(StoreError::sqlite("begin a transaction"))?;
        let mut begun = || -> Result<_, StoreError> {
            let ledger = triggers.look(conn)?.then(Ledger::default);
            let prepare = |sql| {
                conn.prepare_cached(sql)
                    .map_err(StoreError::sqlite("prepare to write results"))
            };
            Ok((ledger, prepare(INSERT_RESULT)?, prepare(INSERT_MESSAGE)?))
        };
        match begun() {
            Ok((ledger, insert_result, insert_message)) => Ok(Self {
                tx: conn,
                insert_result,
                insert_message,
                ledger,
                letters,
                letter_bytes_added: 0,
                now_wall,
                advanced: Vec::new(),
            }),
            Err(error) => {
                // The first error is the one to tell.
                let _rolled_back = conn.execute_batch("ROLLBACK");
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

    /// Projects one result: its row, its outputs' book, the ledgers, and its line in `projector_results`.
    ///
    /// # Errors
    /// Of class [`Class::Data`] when this message cannot be stored; any other class leaves the group lost.
    pub fn result(
        &mut self,
        incarnation: u64,
        seq: StreamSeq,
        published: Timestamp,
        message: &ResultMessage,
    ) -> Result<(), StoreError> {
        let row = row(message, published);
        let what = || format!("write result {:?}", clip(&row.result_id));
        let result = row.result;
        let (job_id, exit_code) = (result.manifest_id.as_deref(), result.exit_code);
        let inserted = self
            .insert_result
            .execute(params![
                row.result_id,
                &*result.request_id,
                result.exec_id.as_deref(),
                &*result.pc_id,
                exit_code,
                row.stdout,
                row.stderr,
                row.started_at,
                row.finished_at,
                row.recorded_at,
                job_id,
                result.parent_result_id.as_deref(),
                result.skipped_column(),
            ])
            .map_err(StoreError::sqlite(what()))?;
        let known = if inserted == 1 {
            Known::Absent
        } else {
            self.known(&row.result_id)?
        };
        match row_change(known) {
            RowChange::Insert => {
                self.note_completion(job_id, &result.pc_id, None, exit_code, &row.finished_at);
                self.enter_outputs(&row.result_id, message, published)?;
            }
            RowChange::Finish => {
                let (job_id, pc_id, version): (Option<String>, String, Option<String>) = self
                    .tx
                    .prepare_cached(
                        "UPDATE execution_results SET request_id = ?2, exit_code = ?3, stdout = ?4, stderr = ?5,
                             finished_at = ?6, recorded_at = min(recorded_at, ?7), job_id = coalesce(?8, job_id),
                             parent_result_id = ?9, skipped = ?10, reaped = 0
                         WHERE result_id = ?1 RETURNING job_id, pc_id, version",
                    )
                    .and_then(|mut statement| {
                        statement.query_row(
                            params![
                                row.result_id,
                                &*result.request_id,
                                exit_code,
                                row.stdout,
                                row.stderr,
                                row.finished_at,
                                row.recorded_at,
                                job_id,
                                result.parent_result_id.as_deref(),
                                result.skipped_column(),
                            ],
                            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
                        )
                    })
                    .map_err(StoreError::sqlite(what()))?;
                self.note_completion(
                    job_id.as_deref(),
                    &pc_id,
                    version.as_deref(),
                    exit_code,
                    &row.finished_at,
                );
                self.enter_outputs(&row.result_id, message, published)?;
            }
            RowChange::Nothing => {}
        }
        self.insert_message
            .execute(params![
                incarnation,
                seq.0,
                published.unix_nanos().unwrap_or(i64::MAX),
                row.result_id,
                &*result.pc_id,
                job_id,
            ])
            .map_err(StoreError::sqlite(what()))?;
        Ok(())
    }

    /// Keeps a message that cannot be projected.
    ///
    /// # Errors
    /// SQLite's.
    pub fn dead_letter(&mut self, incarnation: u64, letter: &DeadLetter) -> Result<(), StoreError> {
        let room = self
            .letters
            .bytes_max
            .saturating_sub(self.letters.bytes + self.letter_bytes_added);
        self.letter_bytes_added += dead_letters::enter(self.tx, incarnation, letter, room)?;
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
            .map_err(StoreError::sqlite(format!(
                "record the gap {} {}..{}",
                gap.stream, gap.first, gap.last
            )))?;
        Ok(())
    }

    /// Applies a late attempt at an owed output.
    ///
    /// # Errors
    /// SQLite's.
    pub fn repair(&mut self, repair: &Repair) -> Result<(), StoreError> {
        output_book::repair(self.tx, repair, self.now_wall)
    }

    /// Begins an incarnation of a stream.
    ///
    /// # Errors
    /// [`StoreError::RefusedAdvance`] when it has begun already.
    pub fn begin_incarnation(&mut self, stream: StreamName, standing: &Standing) -> Result<(), StoreError> {
        position::begin(self.tx, stream, standing)
    }

    /// Moves a stream's position (I1).
    ///
    /// # Errors
    /// [`StoreError::RefusedAdvance`] when the stored position is not where the advance starts.
    pub fn advance(&mut self, advance: &Advance) -> Result<(), StoreError> {
        position::write(self.tx, advance)?;
        self.advanced.push(Committed {
            stream: advance.stream,
            last: advance.to.position,
        });
        Ok(())
    }

    /// Runs one item so that its data error undoes the item alone.
    ///
    /// # Errors
    /// The item's own; after one that is not [`Class::Data`] the group is lost.
    pub fn isolated(
        &mut self,
        item: impl FnOnce(&mut Self) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let run = |tx: &Connection, sql: &str| {
            tx.prepare_cached(sql)
                .and_then(|mut statement| statement.execute([]))
                .map_err(StoreError::sqlite("set a savepoint"))
        };
        run(self.tx, "SAVEPOINT item")?;
        let outcome = item(self);
        match &outcome {
            Ok(()) => {}
            // A full disk has rolled back the whole transaction already: a further statement would commit by itself.
            Err(error) if error.class() != Class::Data || self.tx.is_autocommit() => return outcome,
            Err(_) => {
                run(self.tx, "ROLLBACK TO item")?;
            }
        }
        run(self.tx, "RELEASE item")?;
        outcome
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
    pub fn commit(mut self) -> Result<Vec<Committed>, StoreError> {
        if let Some(ledger) = &mut self.ledger {
            ledger.write(self.tx)?;
        }
        self.tx
            .prepare_cached("COMMIT")
            .and_then(|mut commit| commit.execute([]))
            .map_err(StoreError::sqlite("commit"))?;
        self.letters.bytes += self.letter_bytes_added;
        Ok(std::mem::take(&mut self.advanced))
    }

    fn known(&self, result_id: &str) -> Result<Known, StoreError> {
        let unfinished: Option<bool> = self
            .tx
            .prepare_cached(
                "SELECT finished_at IS NULL OR reaped = 1 FROM execution_results WHERE result_id = ?1",
            )
            .and_then(|mut statement| statement.query_row([result_id], |row| row.get(0)).optional())
            .map_err(StoreError::sqlite("look up a result"))?;
        Ok(match unfinished {
            None => Known::Absent,
            Some(true) => Known::Unfinished,
            Some(false) => Known::Finished,
        })
    }

    fn note_completion(
        &mut self,
        job_id: Option<&str>,
        pc_id: &str,
        version: Option<&str>,
        exit_code: i32,
        finished_at: &str,
    ) {
        if let (Some(ledger), Some(completion)) =
            (&mut self.ledger, completion(job_id, pc_id, version, exit_code))
        {
            ledger.note(&completion, finished_at);
        }
    }

    fn enter_outputs(
        &mut self,
        result_id: &str,
        message: &ResultMessage,
        published: Timestamp,
    ) -> Result<(), StoreError> {
        for field in [Field::Stdout, Field::Stderr] {
            if let Some(output) = message.output(field) {
                output_book::enter(self.tx, result_id, field, output, published, self.now_wall)?;
            }
        }
        Ok(())
    }
}

fn clip(text: &str) -> String {
    text.chars().take(80).collect()
}
