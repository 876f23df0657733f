//! A running reader looks at itself now and then: a stalled consumer looks healthy from outside.

use super::super::opening::Durable;
use super::super::reconcile::Refusal;
use super::{End, Reader, Session};

impl Reader {
    /// Whether everything up to the bound is handed on: what comes after it is asked for no more, and what the server says
    /// of it is no reason to open anew while other streams are still read.
    pub(super) fn is_over(&self, session: &Session) -> bool {
        session.held.is_none() && self.settings.bounds.is_beyond(session.order.last().next())
    }

    /// Silence has many causes, and only some of them are a quiet stream (DESIGN §3).
    pub(super) async fn check(&mut self, session: &mut Session) -> Result<(), End> {
        if self.is_over(session) {
            return Ok(());
        }
        let accepted = std::mem::take(&mut session.accepted);
        let Ok(Durable::There(durable)) = self.desk.durable_info().await else {
            // Gone, or no answer: the iterator's heartbeats and the next opening tell which.
            return Err(End::OpenAnew("the consumer did not answer for itself".to_owned()));
        };
        if self.opened.is_some_and(|opened| durable.found.replaces(opened)) {
            return Err(End::Refused(Refusal::TakenOver(durable.found.owner)));
        }
        if !durable.found.ours {
            return Err(End::OpenAnew(
                "the consumer is an older one: the server's store was restored from a copy".to_owned(),
            ));
        }
        if durable.floor_above_delivered {
            return Err(End::OpenAnew(
                "a late ack has put the consumer's floor above its deliveries".to_owned(),
            ));
        }
        // Read before asking for messages: what is published in between must not look deleted.
        let Some(stream) = self.desk.leader.state().await? else {
            return Err(End::OpenAnew("the stream is gone".to_owned()));
        };
        self.wiring.state.send_modify(|state| {
            state.look(&stream);
            state.ack_floor = Some(durable.ack_floor);
        });
        let last_accepted = session.order.last();
        if stream.last < last_accepted {
            return Err(End::OpenAnew(
                "the stream ends before what was read of it".to_owned(),
            ));
        }
        if session.held.is_some() || accepted > 0 {
            return Ok(());
        }
        let all_acked = session.acked >= last_accepted;
        if all_acked && i64::try_from(durable.ack_pending).unwrap_or(i64::MAX) >= self.desk.max_ack_pending()
        {
            return Err(End::OpenAnew(
                "the server waits for acks that it has been sent".to_owned(),
            ));
        }
        if durable.pending > 0 {
            return Err(End::OpenAnew(format!(
                "{} messages are pending and none comes",
                durable.pending
            )));
        }
        if all_acked && stream.last > last_accepted {
            let next = last_accepted.next();
            if self.desk.leader.at_or_after(next).await?.is_some() {
                return Err(End::OpenAnew(format!(
                    "message {next} or a later one is there and does not come"
                )));
            }
            self.gap(next, stream.last, "the end of the stream was deleted")?;
            session.order.skip_to(stream.last);
        }
        Ok(())
    }
}
