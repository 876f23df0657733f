//! Outputs that could not be fetched in time: fetched later, beside the live path, written by the same writer
//! (DESIGN §4). It never holds up a result, and its bytes have a budget of their own.

use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use bytestring::ByteString;
use chrono::TimeDelta;
use futures_util::StreamExt;
use futures_util::stream;
use tokio::sync::{Notify, oneshot, watch};

use super::work::{OwedQuestion, RepairWork, Unit, Work};
use crate::meters;
use crate::projection::output::Output;
use crate::source::fetch::{Fetcher, Looked};
use crate::source::flow::Budget;
use crate::store::output_book::{Owed, Repair};
use crate::wire::output::Attempt;
use crate::wire::result::Field;
use crate::wire::time::Timestamp;

/// Attempts under way at once, besides the live ones.
pub(super) const CONCURRENCY: usize = 4;
/// While outputs may be owed the book is looked at this often.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Without news the book is looked at this often: an output gone for an hour is asked for again.
const LOOK_ANYWAY_EVERY: Duration = Duration::from_secs(60);

/// Fetches the outputs that the book owes, and hands them to the writer.
#[derive(Clone, Debug)]
pub(super) struct Repairer {
    /// Reads objects.
    pub fetcher: Fetcher,
    /// To the writer.
    pub works: Sender<Work>,
    /// Bytes of objects under repair.
    pub budget: Budget,
    /// Told when a commit has left outputs owed.
    pub owed: Arc<Notify>,
    /// Pending for longer, an output counts as gone.
    pub give_up_after: Duration,
}

impl Repairer {
    /// Repairs until shutdown.
    pub(super) async fn run(self, mut shutdown: watch::Receiver<bool>) {
        loop {
            let quiet = tokio::select! {
                () = super::raised(&mut shutdown) => return,
                found = self.round() => found == 0,
            };
            let pause = if quiet { LOOK_ANYWAY_EVERY } else { LOOK_EVERY };
            tokio::select! {
                () = super::raised(&mut shutdown) => return,
                () = tokio::time::sleep(pause) => {}
                () = self.owed.notified() => tokio::time::sleep(LOOK_EVERY).await,
            }
        }
    }

    /// Attempts what is due; returns how many are pending in all, due or not.
    async fn round(&self) -> usize {
        loop {
            let due = self.ask(OwedQuestion::Due).await;
            if due.is_empty() {
                break;
            }
            let (found, done) = (due.len(), self.attempt_all(due).await);
            if done < found {
                break;
            }
        }
        self.ask(OwedQuestion::PendingAfter(None)).await.len()
    }

    /// Attempts every pending output once, due or not: what `run --until-caught-up` owes its caller.
    pub(super) async fn attempt_pending_once(&self) {
        let mut after: Option<(String, Field)> = None;
        loop {
            let pending = self.ask(OwedQuestion::PendingAfter(after.take())).await;
            let Some(last) = pending.last() else { return };
            after = Some((last.result_id.clone(), last.field));
            self.attempt_all(pending).await;
        }
    }

    /// Attempts some; returns how many got one. While the store does not answer only one of them does.
    pub(super) async fn attempt_all(&self, owed: Vec<Owed>) -> usize {
        let mut attempts = stream::iter(owed)
            .map(|owed| self.attempt(owed))
            .buffered(CONCURRENCY);
        let mut done = 0;
        while let Some(committed) = attempts.next().await {
            match committed {
                Some(committed) => {
                    // An error is a writer that is gone: the attempt counts for nothing, and nothing counts it.
                    let _committed = committed.await;
                    done += 1;
                }
                None => break,
            }
        }
        done
    }

    /// One attempt, handed to the writer; `None` when the store is not to be asked now.
    async fn attempt(&self, owed: Owed) -> Option<oneshot::Receiver<()>> {
        let Owed {
            result_id,
            field,
            object,
            published,
            since,
            ..
        } = owed;
        let was_broken = self.fetcher.is_broken();
        let (attempt, permit) = match self.fetcher.look(&object, published).await {
            Looked::Ended(attempt) => (attempt, None),
            Looked::Found(found) => {
                let permit = self.budget.reserve(found.size()).await;
                (self.fetcher.read(found).await, permit)
            }
        };
        let attempt = match attempt {
            Attempt::Pending(_) if was_broken => return None,
            Attempt::Pending(reason) if self.is_given_up(since, published).await => Attempt::Gone(format!(
                "given up after {} days: {reason}",
                self.give_up_after.as_secs() / 86_400
            )),
            attempt => attempt,
        };
        meters::output(attempt.state());
        let (done, committed) = oneshot::channel();
        let repair = Repair {
            result_id,
            field,
            output: Output {
                object: ByteString::from(object),
                attempt,
            },
        };
        self.works
            .send(Work::Unit(Unit::Repair(Box::new(RepairWork {
                repair,
                permit,
                done,
            }))))
            .ok()?;
        Some(committed)
    }

    /// This machine's clock may be wrong, now or when the output was first missed: the server must agree that so much
    /// time has passed.
    async fn is_given_up(&self, since: Option<Timestamp>, published: Timestamp) -> bool {
        let limit = TimeDelta::from_std(self.give_up_after).unwrap_or(TimeDelta::MAX);
        let until = since.and_then(|since| since.checked_add(limit));
        until.is_some_and(|until| until < super::now())
            && self.fetcher.published_before(published, self.give_up_after).await
    }

    async fn ask(&self, ask: OwedQuestion) -> Vec<Owed> {
        let (reply, answer) = oneshot::channel();
        if self.works.send(Work::Owed { ask, reply }).is_err() {
            return Vec::new();
        }
        answer.await.unwrap_or_default()
    }
}
