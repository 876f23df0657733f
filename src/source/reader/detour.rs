//! Messages that the client cannot be handed: whoever may publish can publish one with headers that are none, or a blank of
//! another script in its subject, and the client breaks the connection over it; or with a status in its headers, and the
//! client takes it for the server's word about the consumer. Delivered again after each opening, one of them would end the
//! reading for good. So when openings deliver nothing of what is there, the next messages are asked for one by one, in a form
//! that holds whatever they are.

use async_nats::Message;
use tracing::warn;

use super::super::reconcile::Opening;
use super::{End, Place, Reader};
use crate::wire::sequence::StreamSeq;

/// Openings that may deliver nothing before their messages are asked for: a connection that comes and goes is no reason yet.
const BARREN_MAX: u32 = 2;
/// Doublings of how many messages are asked for, while what comes after them is not delivered either.
const DOUBLINGS_MAX: u32 = 10;

impl Reader {
    /// Hands on the next messages itself where openings have delivered nothing; returns the opening that follows them.
    pub(super) async fn detour(&mut self, opening: Opening) -> Result<Opening, End> {
        let Some(doublings) = self.barren.checked_sub(BARREN_MAX) else {
            return Ok(opening);
        };
        let mut next = opening.start;
        for number in 0..1_u32 << doublings.min(DOUBLINGS_MAX) {
            if self.settings.bounds.is_beyond(next) {
                break;
            }
            let Some(found) = self.desk.leader.at_or_after(next).await? else {
                break;
            };
            let seq = StreamSeq(found.seq);
            if number == 0 {
                warn!(
                    stream = %self.stream,
                    seq = seq.0,
                    "openings deliver nothing of what is there; asking for messages one by one, since one of them may be none \
                     that the client can read"
                );
            }
            let gap = (seq > next).then(|| (next, seq.before()));
            let place = Place {
                seq,
                published: found.published,
                more_follows: true,
            };
            let message = Message {
                length: found.subject.len() + found.payload.len(),
                subject: found.subject.into(),
                // Nobody waits for an ack of it.
                reply: None,
                payload: found.payload,
                headers: (!found.headers.is_empty()).then_some(found.headers),
                status: None,
                description: None,
            };
            let budget = &self.wiring.budget;
            let charge = budget.charge(&message);
            let permit = budget.permits.clone().acquire_many_owned(charge).await;
            self.hand_on(message, place, gap, permit.map_err(|_| End::Shutdown)?)?;
            next = seq.next();
        }
        Ok(Opening {
            start: next,
            ..opening
        })
    }
}
