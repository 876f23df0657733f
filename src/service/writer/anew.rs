//! When the writer can no longer be sure of its connection, or of where a stream stands.

use std::time::Duration;

use super::super::work::Unit;
use super::intake::openings_of;
use super::{Writer, WriterStopped};
use crate::store::{Class, Standing, StoreError};
use crate::wire::sequence::StreamSeq;

impl Writer {
    /// A new connection; the position read anew decides whether an unknown commit had succeeded. Returns false when
    /// the database stands somewhere else than this writer thought.
    pub(super) fn reopen(&mut self, group: &[Unit]) -> Result<bool, WriterStopped> {
        if let Err(error) = self.reopen_store() {
            return match error.class() {
                Class::Stop(_) => Err(error.into()),
                _ => Ok(true),
            };
        }
        for (stream, _) in openings_of(group) {
            let Ok(found) = self.store.standing(stream) else {
                return Ok(true);
            };
            let known = self.lanes.get(&stream).and_then(|lane| lane.standing.as_ref());
            if place(found.as_ref()) != place(known) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Gives a group back to its streams: their readers come to rest and read on from where the database stands. So does
    /// every other stream that does not stand where this writer thought.
    pub(super) fn open_anew(&mut self, group: Vec<Unit>) {
        let mut openings = openings_of(&group);
        for (stream, lane) in &self.lanes {
            // One that cannot be read now refuses the next group too.
            let found = self.store.standing(*stream).unwrap_or_default();
            if lane.standing.is_some() && place(found.as_ref()) != place(lane.standing.as_ref()) {
                let current = *lane.generation.borrow();
                openings.entry(*stream).or_insert(current);
            }
        }
        for (stream, generation) in openings {
            if let Some(lane) = self.lanes.get(&stream) {
                lane.feedback
                    .send_modify(|feedback| feedback.reopen = Some(generation));
            }
        }
        // A late attempt is made again by the repairer; a chore is nobody else's.
        let chores = group
            .into_iter()
            .filter(|unit| matches!(unit, Unit::Derive(_) | Unit::Release(_)));
        let before = self.intake.chores.len();
        self.intake.chores.extend(chores);
        if self.intake.chores.len() > before {
            // Until the readers have come to rest it is refused again.
            self.pause(Duration::from_millis(50));
        }
    }

    /// A new connection, which knows nothing of what was set on the old one.
    pub(super) fn reopen_store(&mut self) -> Result<(), StoreError> {
        self.store.reopen()?;
        self.forget_versions();
        self.checkpoint_step = 0;
        Ok(())
    }
}

/// The incarnation and the position.
fn place(standing: Option<&Standing>) -> Option<(u64, StreamSeq)> {
    standing.map(|standing| (standing.incarnation, standing.position))
}
