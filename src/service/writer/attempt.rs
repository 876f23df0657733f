//! One attempt at a group: every item in one transaction, in order, then the positions, then the commit.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use async_nats::Subject;

use super::super::resolve::headers_json;
use super::super::work::{Envelope, LetterOutcome, Message, RepairWork, Unit};
use super::course::{Course, begin_incarnation, course, delivery_at, out_of_order};
use super::intake::is_current;
use super::upkeep::copying_time;
use super::{Failed, Writer, letters, now};
use crate::meters;
use crate::projection::scan::Scan;
use crate::source::flow::{Item, Read};
use crate::store::dead_letters::DeadLetter;
use crate::store::derive::DuePair;
use crate::store::{Class, Committed, Gap, Group, Left, Standing, StoreError, fail};
use crate::wire::kv::StreamName;
use crate::wire::output::Attempt;

/// Longest wait of a group for what is known to come.
const PATIENCE_MAX: Duration = Duration::from_millis(250);
/// On a disk of forty milliseconds a row: some seconds.
const ITEMS_PER_BEAT: usize = 64;
/// Groups that do not wait after one that waited in vain.
const IMPATIENT_GROUPS: u32 = 8;

/// How long a group waits for what is known to come.
#[derive(Debug, Default)]
pub(super) struct Patience {
    /// Of the last commit.
    pub(super) commit_time: Duration,
    /// Groups that do not wait.
    impatient_groups: u32,
}

impl Patience {
    /// Whether the next group may wait.
    fn next(&mut self) -> bool {
        let may_wait = self.impatient_groups == 0;
        self.impatient_groups = self.impatient_groups.saturating_sub(1);
        may_wait
    }
}

/// What a committed group leaves to be told.
#[derive(Debug, Default)]
pub(super) struct Done {
    pub(super) committed: Vec<Committed>,
    pub(super) standings: BTreeMap<StreamName, Standing>,
    /// By stream: the opening of its newest item, and where the ack of the last message goes.
    pub(super) origins: BTreeMap<StreamName, (u64, Option<Subject>)>,
    /// For each message: whether it became a dead letter.
    pub(super) dead: Vec<bool>,
    pub(super) owes_outputs: bool,
    /// By their place in the group: what became of dead letters.
    pub(super) letters: Vec<(usize, LetterOutcome)>,
    /// What other transactions must do.
    pub(super) left: Left,
    /// How long SQLite took to make it durable.
    pub(super) commit_time: Duration,
}

/// Whether the stream has more behind the last message of a group.
fn more_follows(group: &[Unit]) -> bool {
    delivery_at(group, group.len().checked_sub(1)).is_some_and(|delivery| delivery.more_follows)
}

impl Writer {
    /// Projects and commits a group; while that goes on well it takes in what has come meanwhile. `isolated`: an item
    /// whose data cannot be stored is undone alone and becomes a dead letter.
    pub(super) fn attempt(
        &mut self,
        group: &mut Vec<Unit>,
        bytes: &mut usize,
        isolated: bool,
    ) -> Result<Done, Failed> {
        match self.transact(group, bytes, isolated) {
            Ok(done) => Ok(done),
            Err(Trouble::OutOfOrder(reason)) => Err(Failed::Refused { reason }),
            // SQLite has rolled back by itself: whatever the code says, the disk is behind it.
            Err(Trouble::Lost(error)) => match failed(&error) {
                Failed::Data { reason } => Err(Failed::Environment { reason, reopen: true }),
                other => Err(other),
            },
            Err(Trouble::Store(error)) if error.class() == Class::Schema => match self.store.check_schema() {
                Err(changed) if matches!(changed.class(), Class::Stop(_)) => {
                    Err(Failed::Stop(changed.into()))
                }
                _ => Err(failed(&error)),
            },
            Err(Trouble::Store(error)) => Err(failed(&error)),
        }
    }

    fn transact(
        &mut self,
        group: &mut Vec<Unit>,
        bytes: &mut usize,
        isolated: bool,
    ) -> Result<Done, Trouble> {
        let mut courses: BTreeMap<StreamName, Course> = BTreeMap::new();
        for (stream, lane) in &self.lanes {
            if let Some(standing) = &lane.standing {
                courses.insert(*stream, Course::new(standing.clone()));
            }
        }
        let mut done = Done::default();
        self.ahead.forget();
        let manifests = self.manifests.borrow().clone();
        let log_bytes = self.store.wal_bytes();
        let mut tx = self.store.begin(&manifests, now())?;
        // Waiting for the file is not holding it.
        let started = Instant::now();
        self.sharing.begun = Some(started);
        for (stream, course) in &courses {
            tx.expect(*stream, &course.from)?;
        }
        let mut next = 0;
        // A file that others write too is not held for what is to come. After a wait in vain the next groups do not wait either:
        // it may have no room before they are committed.
        let may_wait = self.patience.next() && self.limits.group_time_max.is_none();
        let mut until: Option<Instant> = None;
        // How many items it had when it began to wait.
        let mut waited_with: Option<usize> = None;
        loop {
            while next < group.len() {
                if self.limits.is_over(started, next) {
                    // Others wait for this file too: what is applied is committed, the rest is the next group.
                    self.intake.give_back(group.split_off(next));
                    break;
                }
                if next.is_multiple_of(ITEMS_PER_BEAT) {
                    self.pulse.beat();
                }
                self.ahead.look(&manifests, group, next);
                let scan = self.ahead.take(next);
                apply(&mut tx, group, next, scan, &mut courses, &mut done, isolated).map_err(|trouble| {
                    match trouble {
                        Trouble::Store(error) if tx.is_lost() => Trouble::Lost(error),
                        trouble => trouble,
                    }
                })?;
                next += 1;
            }
            let before = group.len();
            if !isolated && !self.limits.is_over(started, next) {
                self.intake.add_waiting(&self.limits, group, bytes);
                if group.len() == before && may_wait && more_follows(group) {
                    // In a backlog a commit may wait for as long as the last one took, or as the limits say: what is slow to
                    // come does not come row by row.
                    let wait = self.patience.commit_time.min(PATIENCE_MAX);
                    let wait = wait.max(self.limits.group_wait_min);
                    let until = *until.get_or_insert_with(|| Instant::now() + wait);
                    if self.intake.add_coming(&self.limits, group, bytes, until) {
                        waited_with.get_or_insert(before);
                    }
                }
                // A reader may have begun to open anew since the group was gathered.
                let mut at = 0;
                group.retain(|unit| {
                    at += 1;
                    at <= before || is_current(&self.lanes, unit)
                });
            }
            if group.len() == before {
                break;
            }
        }
        if waited_with.is_some_and(|before| group.len() <= before) {
            self.patience.impatient_groups = IMPATIENT_GROUPS;
        }
        for (stream, course) in courses {
            let reply = delivery_at(group, course.at).and_then(|delivery| delivery.reply.clone());
            done.origins.insert(stream, (course.generation, reply));
            done.standings
                .insert(stream, course.write(stream, group, &mut tx)?);
        }
        fail::point("before-commit");
        let committing = Instant::now();
        // A commit may copy the whole log into the database, and nothing beats within that.
        self.pulse.beat_for(copying_time(log_bytes));
        (done.committed, done.left) = tx.commit()?;
        done.commit_time = committing.elapsed();
        self.pulse.beat();
        Ok(done)
    }
}

/// Why an item could not be applied.
pub(super) enum Trouble {
    Store(StoreError),
    /// As `Store`, and SQLite has ended the transaction.
    Lost(StoreError),
    OutOfOrder(String),
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

fn failed(error: &StoreError) -> Failed {
    if error.is_busy() {
        meters::busy_retry();
    }
    let reason = error.to_string();
    match (error, error.class()) {
        (StoreError::RefusedAdvance { .. }, _) => Failed::Refused { reason },
        (_, Class::Data) => Failed::Data { reason },
        (_, Class::Environment { reopen }) => Failed::Environment { reason, reopen },
        (_, Class::Schema) => Failed::Environment { reason, reopen: true },
        (_, Class::Stop(exit_code)) => Failed::Stop(super::WriterStopped { reason, exit_code }),
    }
}

fn apply(
    tx: &mut Group<'_>,
    group: &[Unit],
    index: usize,
    mut scan: Option<Scan>,
    courses: &mut BTreeMap<StreamName, Course>,
    done: &mut Done,
    isolated: bool,
) -> Result<(), Trouble> {
    let Item {
        stream,
        generation,
        read,
    } = match group.get(index) {
        None => return Ok(()),
        Some(Unit::Repair(work)) => return apply_repair(tx, work, isolated),
        Some(Unit::Letter(work)) => {
            let outcome = letters::apply(tx, work, courses)?;
            done.owes_outputs |= outcome == LetterOutcome::Projected && work.owes_outputs();
            done.letters.push((index, outcome));
            return Ok(());
        }
        Some(Unit::Derive(due)) => return apply_derive(tx, due),
        Some(Unit::Release(pair)) => return Ok(tx.isolated(|tx| tx.release(pair))??),
        Some(Unit::Item(item)) => item,
    };
    let stream = *stream;
    match read {
        // None reaches a group (`Work::of`).
        Read::Rest(_) => Ok(()),
        Read::Incarnation { incarnation, last } => {
            if stream == StreamName::Results && !courses.contains_key(&stream) {
                tx.begin_first_pass(incarnation.first, *last)?;
            }
            begin_incarnation(tx, stream, *incarnation, *generation, group, courses)
        }
        Read::Gap { first, last, reason } => {
            let course = course(courses, stream)?;
            if !course.expects(*first) || last < first {
                return Err(out_of_order(stream, *first, course));
            }
            let gap = Gap {
                stream,
                first: *first,
                last: *last,
                reason: (*reason).to_owned(),
            };
            tx.gap(course.from.incarnation, &gap)?;
            course.counts.gap += last.0 - first.0 + 1;
            course.moved(*last, None, *generation);
            Ok(())
        }
        Read::Message(envelope) => {
            let course = course(courses, stream)?;
            let Envelope {
                delivery, content, ..
            } = &**envelope;
            if !course.expects(delivery.seq) {
                return Err(out_of_order(stream, delivery.seq, course));
            }
            let incarnation = course.from.incarnation;
            let published = delivery.published;
            let discarded = tx.discarded(stream, delivery.seq, published);
            let mut project = |item: &mut dyn FnMut(&mut Group<'_>) -> Result<(), StoreError>| {
                if !isolated {
                    return item(tx).map(|()| None);
                }
                let tried = tx.isolated(|tx| item(tx))?;
                Ok(tried.err().map(|error| error.to_string()))
            };
            let is_discarded = discarded.is_some();
            let dead = match content {
                _ if discarded.is_some() => discarded,
                Message::Dead(reason) => Some(reason.clone()),
                Message::Ignored => None,
                Message::Started(event) => project(&mut |tx| tx.started(event, published))?,
                Message::Snapshot(snapshot) => project(&mut |tx| tx.snapshot(snapshot, published))?,
                Message::Result(result) => {
                    let dead = project(&mut |tx| {
                        tx.result(incarnation, delivery.seq, published, result, scan.take())
                    })?;
                    done.owes_outputs |= dead.is_none() && content.owes_outputs();
                    dead
                }
            };
            match &dead {
                None if matches!(content, Message::Ignored) => course.counts.ignored += 1,
                None => course.counts.projected += 1,
                Some(reason) => {
                    tx.dead_letter(
                        incarnation,
                        &DeadLetter {
                            stream,
                            seq: delivery.seq,
                            subject: delivery.subject.to_string(),
                            published: delivery.published,
                            reason: reason.clone(),
                            headers: headers_json(delivery.headers.as_ref()),
                            payload: delivery.payload.clone(),
                            discarded: is_discarded,
                        },
                    )?;
                    course.counts.dead += 1;
                }
            }
            done.dead.push(dead.is_some());
            course.moved(delivery.seq, Some(index), *generation);
            Ok(())
        }
    }
}

fn apply_derive(tx: &mut Group<'_>, due: &DuePair) -> Result<(), Trouble> {
    fail::point("in-derivation");
    Ok(tx.rederive(due)?)
}

fn apply_repair(tx: &mut Group<'_>, work: &RepairWork, isolated: bool) -> Result<(), Trouble> {
    fail::point("in-repair");
    if !isolated {
        return Ok(tx.repair(&work.repair)?);
    }
    if let Err(error) = tx.isolated(|tx| tx.repair(&work.repair))? {
        // The text cannot be stored: owed still, with the reason.
        let mut repair = work.repair.clone();
        repair.output.attempt = Attempt::Pending(error.to_string());
        tx.repair(&repair)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_wait_in_vain_eight_groups_do_not_wait_and_the_ninth_may() {
        let mut patience = Patience {
            impatient_groups: IMPATIENT_GROUPS,
            ..Patience::default()
        };
        let waits: Vec<bool> = (0..10).map(|_| patience.next()).collect();
        assert_eq!(waits.iter().position(|waits| *waits), Some(8));
        assert!(waits[9], "and every one after it");
    }
}
