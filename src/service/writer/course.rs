//! Where each stream will stand once a group is committed: every sequence is counted once, and none is passed over (I3).

use std::collections::BTreeMap;

use super::super::work::Unit;
use super::attempt::Trouble;
use crate::source::flow::Delivery;
use crate::source::reconcile::Incarnation;
use crate::store::{Advance, Counts, Group, Standing, StoreError};
use crate::wire::kv::StreamName;
use crate::wire::sequence::StreamSeq;

/// Where a stream will stand once the group is committed.
#[derive(Debug)]
pub(super) struct Course {
    /// As stored now.
    pub(super) from: Standing,
    to: StreamSeq,
    /// The delivery at `to`, by its place in the group; `None` where no message stands.
    pub(super) at: Option<usize>,
    /// The opening of the newest item.
    pub(super) generation: u64,
    pub(super) counts: Counts,
}

impl Course {
    pub(super) fn new(from: Standing) -> Self {
        Self {
            to: from.position,
            at: None,
            generation: 0,
            counts: from.counts,
            from,
        }
    }

    /// It stands at `to` now; `at`: the place of the message there.
    pub(super) fn moved(&mut self, to: StreamSeq, at: Option<usize>, generation: u64) {
        self.to = to;
        self.at = at;
        self.generation = generation;
    }

    /// Whether sequence `seq` is the next one. Anything else would be a silent skip (I3).
    pub(super) fn expects(&self, seq: StreamSeq) -> bool {
        seq == self.to.next()
    }

    /// A dead letter of this incarnation counts as projected, or as ignored: written already, and known here from now on.
    pub(super) fn revived(&mut self, incarnation: u64, ignored: bool) {
        if self.from.incarnation != incarnation {
            return;
        }
        for counts in [&mut self.from.counts, &mut self.counts] {
            counts.dead = counts.dead.saturating_sub(1);
            let to = if ignored {
                &mut counts.ignored
            } else {
                &mut counts.projected
            };
            *to += 1;
        }
    }

    /// Moves the stored position (I1); returns where the stream stands then.
    pub(super) fn write(
        self,
        stream: StreamName,
        group: &[Unit],
        tx: &mut Group<'_>,
    ) -> Result<Standing, StoreError> {
        let Self {
            from, to, at, counts, ..
        } = self;
        if to == from.position {
            return Ok(from);
        }
        let mark = delivery_at(group, at).map(Delivery::mark);
        let position = from.position;
        let mut standing = from;
        standing.advance(to, mark, counts);
        tx.advance(&Advance {
            stream,
            from: position,
            to: standing.clone(),
        })?;
        Ok(standing)
    }
}

/// The delivery at a place of the group, if a message stands there.
pub(super) fn delivery_at(group: &[Unit], at: Option<usize>) -> Option<&Delivery> {
    Some(&group.get(at?)?.message()?.delivery)
}

/// A new life of the stream's sequences, or its first.
pub(super) fn begin_incarnation(
    tx: &mut Group<'_>,
    stream: StreamName,
    incarnation: Incarnation,
    generation: u64,
    group: &[Unit],
    courses: &mut BTreeMap<StreamName, Course>,
) -> Result<(), Trouble> {
    let standing = match courses.remove(&stream) {
        None => Standing::new(1, incarnation.first),
        Some(course) => course
            .write(stream, group, tx)?
            .succeed(incarnation.common, incarnation.first),
    };
    tx.begin_incarnation(stream, &standing)?;
    courses.insert(
        stream,
        Course {
            generation,
            ..Course::new(standing)
        },
    );
    Ok(())
}

pub(super) fn course(
    courses: &mut BTreeMap<StreamName, Course>,
    stream: StreamName,
) -> Result<&mut Course, Trouble> {
    courses.get_mut(&stream).ok_or_else(|| {
        Trouble::OutOfOrder(format!(
            "a message of {stream} came before the stream had a beginning"
        ))
    })
}

pub(super) fn out_of_order(stream: StreamName, seq: StreamSeq, course: &Course) -> Trouble {
    Trouble::OutOfOrder(format!(
        "{stream} {seq} came where {} was expected",
        course.to.next()
    ))
}
