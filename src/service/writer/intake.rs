//! How groups come together, and how they are taken apart once they are committed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::mpsc::{Receiver, Sender};
use std::time::Instant;

use tracing::warn;

use super::super::work::{Unit, Work};
use super::Lane;
use super::state::WriterLimits;
use crate::wire::kv::StreamName;

/// The channel, and what comes before it.
#[derive(Debug)]
pub(super) struct Intake {
    pub(super) works: Receiver<Work>,
    /// What the last group had no time for.
    pub(super) left_over: VecDeque<Unit>,
    /// Pairs to be derived anew, or released further: each a group of its own, in turn with what streams bring.
    pub(super) chores: VecDeque<Unit>,
    /// What was taken from the channel and is no part of a group.
    pub(super) put_back: Option<Work>,
}

impl Intake {
    pub(super) fn new(works: Receiver<Work>) -> Self {
        Self {
            works,
            left_over: VecDeque::new(),
            chores: VecDeque::new(),
            put_back: None,
        }
    }

    /// Adds what waits in the channel, up to the limits. What is no part of a group ends it.
    pub(super) fn add_waiting(&mut self, limits: &WriterLimits, group: &mut Vec<Unit>, bytes: &mut usize) {
        while self.has_room(limits, group, *bytes) {
            if let Some(unit) = self.left_over.pop_front() {
                *bytes += unit.bytes();
                group.push(unit);
            } else if let Ok(work) = self.works.try_recv() {
                self.admit(work, group, bytes);
            } else {
                return;
            }
        }
    }

    /// As [`Self::add_waiting`], after waiting for the first until a moment. Returns whether there was room to wait for.
    pub(super) fn add_coming(
        &mut self,
        limits: &WriterLimits,
        group: &mut Vec<Unit>,
        bytes: &mut usize,
        until: Instant,
    ) -> bool {
        if !self.has_room(limits, group, *bytes) {
            return false;
        }
        let wait = until.saturating_duration_since(Instant::now());
        if let Ok(work) = self.works.recv_timeout(wait) {
            self.admit(work, group, bytes);
            self.add_waiting(limits, group, bytes);
        }
        true
    }

    fn has_room(&self, limits: &WriterLimits, group: &[Unit], bytes: usize) -> bool {
        self.put_back.is_none() && group.len() < limits.group_rows_max && bytes < limits.group_bytes_max
    }

    fn admit(&mut self, work: Work, group: &mut Vec<Unit>, bytes: &mut usize) {
        match work {
            Work::Unit(unit) => {
                *bytes += unit.bytes();
                group.push(unit);
            }
            Work::Derive(pairs) => self.chores.extend(pairs.into_iter().map(Unit::Derive)),
            other => self.put_back = Some(other),
        }
    }

    /// What is there now, without waiting for it.
    pub(super) fn next_at_once(&mut self) -> Option<Work> {
        self.put_back.take().or_else(|| self.works.try_recv().ok())
    }

    /// Puts units before everything else, in their order.
    pub(super) fn give_back(&mut self, units: Vec<Unit>) {
        for unit in units.into_iter().rev() {
            self.left_over.push_front(unit);
        }
    }
}

/// Whether an item is of its stream's current opening; else the reader reads it again.
pub(super) fn is_current(lanes: &BTreeMap<StreamName, Lane>, unit: &Unit) -> bool {
    match unit {
        Unit::Repair(_) | Unit::Letter(_) | Unit::Derive(_) | Unit::Release(_) => true,
        Unit::Item(item) => lanes
            .get(&item.stream)
            .is_some_and(|lane| item.generation >= *lane.generation.borrow()),
    }
}

/// The streams in a group, each with the newest opening among its items.
pub(super) fn openings_of(group: &[Unit]) -> BTreeMap<StreamName, u64> {
    let mut openings = BTreeMap::new();
    for unit in group {
        if let Unit::Item(item) = unit {
            let newest = openings.entry(item.stream).or_insert(item.generation);
            *newest = item.generation.max(*newest);
        }
    }
    openings
}

/// Groups that are kept for the next ones: while one is filled another is taken apart.
const EMPTIED_MAX: usize = 2;

/// A thread that tells those who wait of their commits and frees what was committed, which gives the permits back. Groups go
/// in, and come back empty: memory that is new costs a large one as much as filling it.
pub(super) fn take_apart() -> (Sender<Vec<Unit>>, Receiver<Vec<Unit>>) {
    let (finished, groups) = std::sync::mpsc::channel::<Vec<Unit>>();
    let (empty, emptied) = std::sync::mpsc::sync_channel(EMPTIED_MAX);
    let spawned = std::thread::Builder::new()
        .name("committed".to_owned())
        .spawn(move || {
            for mut group in groups {
                for unit in group.drain(..) {
                    // An error is somebody who no longer waits.
                    match unit {
                        Unit::Repair(work) => drop(work.done.send(())),
                        Unit::Letter(work) => drop(work.done.send(work.outcome)),
                        _ => {}
                    }
                }
                // An error is a writer that has enough of them, or has ended.
                let _given_back = empty.try_send(group);
            }
        });
    if let Err(error) = spawned {
        warn!(%error, "no thread to free committed groups; the writer does it");
    }
    (finished, emptied)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use tokio::sync::{oneshot, watch};

    use super::super::super::work::{RepairWork, Resolved};
    use super::*;
    use crate::projection::output::Output;
    use crate::source::flow::{Feedback, Item, Read};
    use crate::store::output_book::Repair;
    use crate::wire::output::{Attempt, Content};
    use crate::wire::result::Field;
    use crate::wire::sequence::StreamSeq;

    fn limits(group_rows_max: usize, group_bytes_max: usize) -> WriterLimits {
        WriterLimits {
            group_rows_max,
            group_bytes_max,
            group_time_max: None,
            group_wait_min: Duration::ZERO,
            wal_bytes_max: 1 << 30,
            disk_reserve_bytes: 0,
            retention: Vec::new(),
        }
    }

    fn gap(generation: u64) -> Resolved {
        Item {
            stream: StreamName::Results,
            generation,
            read: Read::Gap {
                first: StreamSeq(1),
                last: StreamSeq(1),
                reason: "for a test",
            },
        }
    }

    fn repair(bytes: usize) -> Work {
        let output = Output {
            object: "q/PC-1/stdout".into(),
            attempt: Attempt::Fetched {
                content: Content::new(vec![b'x'; bytes].into()),
                sha256: [0; 32],
                verified: true,
            },
        };
        let repair = Repair {
            result_id: "r".to_owned(),
            field: Field::Stdout,
            output,
        };
        Work::Unit(Unit::Repair(Box::new(RepairWork {
            repair,
            permit: None,
            done: oneshot::channel().0,
        })))
    }

    /// How many of these works join a group under these limits.
    fn joined(limits: &WriterLimits, waiting: Vec<Work>) -> usize {
        let (sender, works) = channel();
        let mut intake = Intake::new(works);
        for work in waiting {
            sender.send(work).unwrap();
        }
        let (mut group, mut bytes) = (Vec::new(), 0);
        intake.add_waiting(limits, &mut group, &mut bytes);
        assert_eq!(bytes, group.iter().map(Unit::bytes).sum::<usize>());
        group.len()
    }

    #[test]
    fn a_group_takes_no_more_than_its_rows_and_its_bytes_and_one_item_over() {
        let many = |bytes: usize| (0..50).map(|_| repair(bytes)).collect::<Vec<_>>();
        assert_eq!(joined(&limits(1_000, 1 << 20), many(10)), 50);
        assert_eq!(joined(&limits(7, 1 << 20), many(10)), 7);
        assert_eq!(joined(&limits(1_000, 100), many(10)), 10);
        assert_eq!(joined(&limits(1_000, 95), many(10)), 10);
    }

    #[test]
    fn what_is_known_to_come_joins_a_group_that_waits_for_it_and_no_group_waits_beyond_its_moment() {
        let (sender, works) = channel();
        let mut intake = Intake::new(works);
        let limits = limits(1_000, 1 << 20);
        let (mut group, mut bytes) = (Vec::new(), 0);
        let waited = intake.add_coming(&limits, &mut group, &mut bytes, Instant::now());
        assert!(group.is_empty() && waited, "nothing is there and nobody waits");
        let coming = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(30));
            for _ in 0..3 {
                sender.send(repair(10)).unwrap();
            }
            sender.send(Work::Manifests).unwrap();
            sender.send(repair(10)).unwrap();
        });
        let until = Instant::now() + Duration::from_secs(30);
        while intake.put_back.is_none() {
            assert!(Instant::now() < until, "it came, and the group did not take it");
            intake.add_coming(&limits, &mut group, &mut bytes, until);
        }
        coming.join().unwrap();
        assert_eq!(
            (group.len(), bytes),
            (3, 30),
            "what is no part of a group ends it"
        );
        let since = Instant::now();
        assert!(!intake.add_coming(&limits, &mut group, &mut bytes, until));
        assert!(
            since.elapsed() < Duration::from_secs(10),
            "a group that has ended waits for nothing"
        );
        assert_eq!(group.len(), 3);
    }

    #[test]
    fn an_item_of_an_older_opening_is_not_current_and_everything_else_is() {
        let (generation, current) = watch::channel(3);
        let lane = Lane::new(current, watch::channel(Feedback::default()).0);
        let lanes = BTreeMap::from([(StreamName::Results, lane)]);
        let is = |of: u64| is_current(&lanes, &Unit::Item(gap(of)));
        assert!(!is(2) && is(3));
        generation.send_replace(4);
        assert!(!is(3));
        let Work::Unit(repair) = repair(1) else {
            unreachable!()
        };
        assert!(is_current(&lanes, &repair));
    }
}
