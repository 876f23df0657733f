//! Dead letters that are tried again: projected where their sequence stands, or kept (contract §7.2, §7.9). The position
//! stays where it is.

use std::collections::{BTreeMap, BTreeSet};

use bytestring::ByteString;
use rusqlite::{Connection, OptionalExtension, params};

use super::super::dead_letters::{self, LetterId};
use super::super::derive::Pair;
use super::super::{StoreError, position, rows};
use super::{Group, clip};
use crate::projection::execution::Delta;
use crate::projection::result::{Known, ResultMessage, row};
use crate::projection::start;
use crate::wire::sequence::StreamSeq;
use crate::wire::started::EventStarted;
use crate::wire::time::Timestamp;

/// The lines of some results in `projector_results`, which has no index on them: one scan, made beside the writer.
#[derive(Clone, Debug, Default)]
pub struct Lines {
    entries: BTreeMap<String, Vec<i64>>,
    /// Later lines are looked at in the transaction.
    upto: i64,
}

impl Lines {
    /// Reads the lines of those results that have ended rows. Reads nothing where none has.
    ///
    /// # Errors
    /// SQLite's.
    pub fn read(conn: &Connection, result_ids: &BTreeSet<String>) -> Result<Self, StoreError> {
        let read = || -> Result<Self, rusqlite::Error> {
            let mut lines = Self {
                entries: BTreeMap::new(),
                upto: conn.query_row(
                    "SELECT coalesce(max(entry), 0) FROM projector_results",
                    [],
                    |row| row.get(0),
                )?,
            };
            for result_id in result_ids {
                let ended: bool = conn
                    .prepare_cached(
                        "SELECT EXISTS (SELECT 1 FROM execution_results WHERE result_id = ?1 AND finished_at IS NOT NULL)",
                    )?
                    .query_row([result_id], |row| row.get(0))?;
                if ended {
                    lines.entries.insert(result_id.clone(), Vec::new());
                }
            }
            if lines.entries.is_empty() {
                return Ok(lines);
            }
            let mut scan =
                conn.prepare("SELECT result_id, entry FROM projector_results WHERE entry <= ?1")?;
            let mut rows = scan.query([lines.upto])?;
            while let Some(row) = rows.next()? {
                if let Some(entries) = lines.entries.get_mut(row.get_ref(0)?.as_str()?) {
                    entries.push(row.get(1)?);
                }
            }
            Ok(lines)
        };
        read().map_err(StoreError::sqlite(
            "read the lines of results in projector_results",
        ))
    }
}

/// The message that a row is made of.
struct Source {
    entry: i64,
    place: (u64, u64),
    published: String,
    pc_id: String,
    job_id: Option<String>,
}

impl Group<'_> {
    /// Whether a message is still in the book of dead letters.
    ///
    /// # Errors
    /// SQLite's.
    pub fn has_dead_letter(&self, place: LetterId) -> Result<bool, StoreError> {
        dead_letters::is_there(self.tx, place)
    }

    /// A dead letter will be projected: it leaves the book, and counts as projected, or as ignored (I3). Returns the bytes
    /// that this frees, for [`Group::free`].
    ///
    /// # Errors
    /// SQLite's; of class [`Data`](super::super::Class::Data) when the counts do not know it.
    pub fn revive(&mut self, place: LetterId, ignored: bool) -> Result<u64, StoreError> {
        position::revive(self.tx, place.stream, place.incarnation, ignored)?;
        dead_letters::remove(self.tx, place)
    }

    /// The book of dead letters has room for so many bytes more, once this is committed.
    pub fn free(&mut self, bytes: u64) {
        self.letter_bytes_removed += bytes;
    }

    /// A dead letter was tried again in vain.
    ///
    /// # Errors
    /// SQLite's.
    pub fn keep_dead_letter(&mut self, place: LetterId, reason: &str) -> Result<(), StoreError> {
        dead_letters::keep(self.tx, place, reason)
    }

    /// A dead letter is given up by hand. False when there is none.
    ///
    /// # Errors
    /// SQLite's.
    pub fn discard(&mut self, place: LetterId) -> Result<bool, StoreError> {
        dead_letters::discard(self.tx, place)
    }

    /// Projects a result that was a dead letter, as if it had been projected in its turn: of the messages with its id the
    /// first in the stream counts, so it takes its row over from a later one; what it changes in derived tables comes by
    /// deriving its pair anew.
    ///
    /// # Errors
    /// As [`Group::result`].
    pub fn result_again(
        &mut self,
        incarnation: u64,
        seq: StreamSeq,
        published: Timestamp,
        message: &ResultMessage,
        lines: &Lines,
    ) -> Result<(), StoreError> {
        let row = row(message, published);
        let what =
            |error| StoreError::sqlite(format_args!("write result {:?} again", clip(&row.result_id)))(error);
        let before = rows::before(self.tx, &row)?;
        let known = before.as_ref().map_or(Known::Absent, |before| before.known);
        let later = match known {
            Known::Finished => self
                .source(&row.result_id, lines)
                .map_err(what)?
                .filter(|source| (incarnation, seq.0) < source.place),
            _ => None,
        };
        let mut ended_before = None;
        let after = match (before, &later) {
            (None, _) => {
                rows::insert_result(&mut self.insert_result, &row).map_err(what)?;
                None
            }
            (Some(before), _) if known != Known::Finished => Some(self.finish_row(&row, before)?),
            (Some(_), Some(_)) => {
                ended_before = Some(rows::ended(self.tx, &row.result_id).map_err(what)?);
                Some(rows::take_over(self.tx, &row).map_err(what)?)
            }
            (Some(_), None) => None,
        };
        let counts = known != Known::Finished || later.is_some();
        let entry = self.enter_message(incarnation, seq, published, &row, counts)?;
        if !counts {
            return Ok(());
        }
        if let Some(later) = &later {
            self.give_way(&row.result_id, later.entry).map_err(what)?;
        }
        self.enter_outputs(&row.result_id, message, entry, published)?;
        if let Some(Source {
            job_id: Some(job_id),
            pc_id,
            published,
            ..
        }) = &later
        {
            let due = self.deriver().withdrawn(Pair { pc_id, job_id }, published)?;
            self.left.due |= due;
        }
        let due = self.deriver().retried(entry)?;
        self.left.due |= due;
        // Last, since nothing takes these back when the item is undone.
        self.note(known, &row, after.as_ref());
        if let Some((exec_before, exit_before)) = ended_before {
            if let (Some(exec_id), Some(tally)) = (exec_before, &mut self.tally) {
                tally.moved(&exec_id, Delta::ended(exit_before).undone());
            }
            if let (Some(exec_id), Some(tally)) = (after.and_then(|after| after.exec_id), &mut self.tally) {
                tally.moved(&exec_id, Delta::ended(row.result.exit_code));
            }
        }
        Ok(())
    }

    /// Projects a start event that was a dead letter. Of two that differ the one that came first to the database counts: which
    /// message a row knows its start from is in no book.
    ///
    /// # Errors
    /// As [`Group::result`].
    pub fn started_again(
        &mut self,
        event: &EventStarted<ByteString>,
        published: Timestamp,
    ) -> Result<(), StoreError> {
        self.started(event, published)?;
        let manifests = self.manifests.clone();
        let timeout = manifests
            .job(&event.manifest_id)
            .and_then(|job| job.timeout.as_deref());
        rows::earlier_copy(self.tx, &start::row(event, published, timeout)).map_err(StoreError::sqlite(
            format_args!("write the start of {:?} again", clip(&event.result_id)),
        ))
    }

    /// A later message with the same id is a duplicate now, and its outputs are not the row's.
    fn give_way(&self, result_id: &str, later: i64) -> Result<(), rusqlite::Error> {
        self.tx
            .prepare_cached("UPDATE projector_results SET counts = 0 WHERE entry = ?1")?
            .execute([later])?;
        self.tx
            .prepare_cached("DELETE FROM projector_outputs WHERE result_id = ?1")?
            .execute([result_id])?;
        Ok(())
    }

    /// The message that a row is made of; `None` for a row of the backend's projector.
    fn source(&self, result_id: &str, lines: &Lines) -> Result<Option<Source>, rusqlite::Error> {
        let mut entries = lines.entries.get(result_id).cloned().unwrap_or_default();
        let newer: Vec<i64> = self
            .tx
            .prepare_cached("SELECT entry FROM projector_results WHERE entry > ?1 AND result_id = ?2")?
            .query_map(params![lines.upto, result_id], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        entries.extend(newer);
        let mut first: Option<Source> = None;
        for entry in entries {
            let source = self
                .tx
                .prepare_cached(
                    "SELECT incarnation, stream_seq, published_ns, pc_id, job_id FROM projector_results
                     WHERE entry = ?1 AND result_id = ?2 AND counts",
                )?
                .query_row(params![entry, result_id], |row| {
                    Ok(Source {
                        entry,
                        place: (row.get(0)?, row.get(1)?),
                        published: Timestamp::from_unix_nanos(row.get(2)?).stored(),
                        pc_id: row.get(3)?,
                        job_id: row.get(4)?,
                    })
                })
                .optional()?;
            if let Some(source) = source
                && first.as_ref().is_none_or(|first| source.place < first.place)
            {
                first = Some(source);
            }
        }
        Ok(first)
    }
}
