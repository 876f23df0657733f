//! What the writer is asked, and answers in its place in the order of things.

use std::time::Duration;

use tokio::sync::oneshot;
use tracing::warn;

use super::super::work::{OwedQuestion, Unit};
use super::{Writer, WriterStopped, now};
use crate::source::flow::ReaderStanding;
use crate::store::output_book::Owed;
use crate::store::{Class, StoreError};
use crate::wire::kv::StreamName;

impl Writer {
    /// The reader rests: everything older is committed or dropped by now. Tell it where the database stands.
    pub(super) fn rest(
        &mut self,
        stream: StreamName,
        reply: oneshot::Sender<Option<ReaderStanding>>,
    ) -> Result<(), WriterStopped> {
        let standing = loop {
            match self.store.standing(stream) {
                Ok(standing) => break standing,
                Err(error) if matches!(error.class(), Class::Stop(_)) => return Err(error.into()),
                Err(error) => {
                    warn!(%error, "cannot read the position; trying again");
                    if *self.shutdown.borrow() {
                        return Ok(());
                    }
                    self.pause(Duration::from_secs(1));
                    // An error here shows again with the next look.
                    let _reopened = self.reopen_store();
                }
            }
        };
        let answer = standing.as_ref().map(|standing| ReaderStanding {
            position: standing.position,
            marks: standing.marks().copied().collect(),
        });
        self.stands(stream, standing);
        // An error is a reader that no longer waits.
        let _told = reply.send(answer);
        Ok(())
    }

    pub(super) fn owed(&self, ask: &OwedQuestion) -> Vec<Owed> {
        const OWED_MAX: usize = 256;
        let owed = match ask {
            OwedQuestion::Due => self.store.owed(now(), OWED_MAX),
            OwedQuestion::PendingAfter(key) => self.store.pending_after(key.as_ref(), OWED_MAX),
        };
        owed.unwrap_or_else(|error| {
            warn!(%error, "cannot read which outputs are owed");
            Vec::new()
        })
    }

    /// Takes up every pair that may be ready to be released or derived anew.
    pub(super) fn look_at_pairs(&mut self) -> Result<(), StoreError> {
        let waiting = self.store.waiting_pairs()?;
        self.intake.chores.extend(waiting.into_iter().map(Unit::Release));
        self.bells.due.notify_one();
        Ok(())
    }
}
