//! Dead letters that an operator wants tried again, or gives up: in their place among the writer's other work (I8).

use std::collections::BTreeMap;

use super::super::work::{LetterOrder, LetterOutcome, LetterWork, Message, Unit};
use super::Writer;
use super::course::Course;
use crate::store::{Group, StoreError};
use crate::wire::kv::StreamName;

/// Messages over which the share of dead letters is watched.
pub(super) const WATCHED_MESSAGES: usize = 1_000;

impl LetterWork {
    /// It turned out that it cannot be projected.
    pub(super) fn fail(&mut self, reason: String) {
        if let LetterOrder::Project { content, .. } = &mut self.order {
            *content = Message::Dead(reason);
        }
    }

    pub(super) fn owes_outputs(&self) -> bool {
        matches!(&self.order, LetterOrder::Project { content, .. } if content.owes_outputs())
    }
}

/// Carries an order out inside the group's transaction. Its data error undoes it alone: then it is kept.
pub(super) fn apply(
    tx: &mut Group<'_>,
    work: &LetterWork,
    courses: &mut BTreeMap<StreamName, Course>,
) -> Result<LetterOutcome, StoreError> {
    let place = work.place;
    if !tx.has_dead_letter(place)? {
        return Ok(LetterOutcome::NotThere);
    }
    let (published, content, lines) = match &work.order {
        LetterOrder::Discard => {
            tx.discard(place)?;
            return Ok(LetterOutcome::Discarded);
        }
        LetterOrder::Project {
            published,
            content,
            lines,
        } => (*published, content, lines),
    };
    let ignored = matches!(content, Message::Ignored);
    if let Message::Dead(reason) = content {
        tx.keep_dead_letter(place, reason)?;
        return Ok(LetterOutcome::Kept(reason.clone()));
    }
    let outcome = tx.isolated(|tx| {
        let freed = tx.revive(place, ignored)?;
        match content {
            Message::Dead(_) | Message::Ignored => {}
            Message::Started(event) => tx.started_again(event, published)?,
            Message::Snapshot(snapshot) => tx.snapshot(snapshot, published)?,
            Message::Result(result) => {
                tx.result_again(place.incarnation, place.seq, published, result, lines)?;
            }
        }
        Ok(freed)
    });
    match outcome? {
        Ok(freed) => {
            tx.free(freed);
            if let Some(course) = courses.get_mut(&place.stream) {
                course.revived(place.incarnation, ignored);
            }
            Ok(LetterOutcome::Projected)
        }
        Err(error) => {
            let reason = error.to_string();
            tx.keep_dead_letter(place, &reason)?;
            Ok(LetterOutcome::Kept(reason))
        }
    }
}

/// What was committed, for those who wait.
pub(super) fn note_outcomes(group: &mut [Unit], outcomes: Vec<(usize, LetterOutcome)>) {
    for (index, outcome) in outcomes {
        if let Some(Unit::Letter(work)) = group.get_mut(index) {
            work.outcome = outcome;
        }
    }
}

impl Writer {
    pub(super) fn watch_dead(&mut self, dead: &[bool]) {
        for dead in dead {
            if self.recent_dead.len() == WATCHED_MESSAGES {
                self.recent_dead.pop_front();
            }
            self.recent_dead.push_back(*dead);
        }
    }

    pub(super) fn is_mostly_dead(&self) -> bool {
        let dead = self.recent_dead.iter().filter(|dead| **dead).count();
        self.recent_dead.len() == WATCHED_MESSAGES && mostly_dead(dead, self.state.borrow().mostly_dead)
    }
}

/// More than half of the watched messages; once that is said, until fewer than a quarter are: a flood at about the rate
/// of the good messages must not have it said with every group.
fn mostly_dead(dead: usize, said: bool) -> bool {
    let limit = if said {
        WATCHED_MESSAGES / 4
    } else {
        WATCHED_MESSAGES / 2
    };
    dead > limit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_at_the_rate_of_the_good_messages_is_told_once() {
        let mut said = false;
        let mut told = 0;
        for dead in [490, 501, 499, 510, 400, 505, 260, 240, 480] {
            let now = mostly_dead(dead, said);
            told += u32::from(now && !said);
            said = now;
        }
        assert_eq!((told, said), (1, false));
    }
}
