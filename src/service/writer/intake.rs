//! How groups come together, and how they are taken apart once they are committed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::mpsc::{Receiver, Sender};

use tracing::warn;

use super::super::work::{Cargo, Unit, Work};
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
    /// Adds what waits in the channel, up to the limits. What is no part of a group ends it.
    pub(super) fn add_waiting(&mut self, limits: &WriterLimits, group: &mut Vec<Unit>, bytes: &mut usize) {
        while self.put_back.is_none()
            && group.len() < limits.group_rows_max
            && *bytes < limits.group_bytes_max
        {
            if let Some(unit) = self.left_over.pop_front() {
                *bytes += unit.bytes();
                group.push(unit);
                continue;
            }
            let unit = match self.works.try_recv() {
                Err(_) => return,
                Ok(Work::Derive(pairs)) => {
                    self.chores.extend(pairs.into_iter().map(Unit::Derive));
                    continue;
                }
                Ok(Work::Entry(entry)) if !matches!(entry.cargo, Cargo::Rest(_)) => Unit::Entry(entry),
                Ok(Work::Repair(repair)) => Unit::Repair(repair),
                Ok(Work::Letter(letter)) => Unit::Letter(letter),
                Ok(other) => {
                    self.put_back = Some(other);
                    return;
                }
            };
            *bytes += unit.bytes();
            group.push(unit);
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
        Unit::Entry(entry) => lanes
            .get(&entry.stream)
            .is_some_and(|lane| entry.generation >= *lane.generation.borrow()),
    }
}

/// The streams in a group, each with the newest opening among its items.
pub(super) fn openings_of(group: &[Unit]) -> BTreeMap<StreamName, u64> {
    let mut openings = BTreeMap::new();
    for unit in group {
        if let Unit::Entry(entry) = unit {
            let newest = openings.entry(entry.stream).or_insert(entry.generation);
            *newest = entry.generation.max(*newest);
        }
    }
    openings
}

/// A thread that tells those who wait of their commits and frees what was committed, which gives the permits back.
pub(super) fn take_apart() -> Sender<Vec<Unit>> {
    let (finished, groups) = std::sync::mpsc::channel::<Vec<Unit>>();
    let spawned = std::thread::Builder::new()
        .name("committed".to_owned())
        .spawn(move || {
            for unit in groups.into_iter().flatten() {
                // An error is somebody who no longer waits.
                match unit {
                    Unit::Repair(work) => drop(work.done.send(())),
                    Unit::Letter(work) => drop(work.done.send(work.outcome)),
                    _ => {}
                }
            }
        });
    if let Err(error) = spawned {
        warn!(%error, "no thread to free committed groups; the writer does it");
    }
    finished
}
