//! One stream's reader: `select` says what happened, `apply` acts on it (DESIGN §3). It ends only on shutdown or when
//! an operator must decide; no error of the server ends it.

mod check;
mod denied;
mod detour;
mod durable;
mod happening;
mod look;
mod place;
mod record;

use std::future::Future;
use std::pin::Pin;

use async_nats::Subject;
use async_nats::jetstream::consumer::pull;
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Interval};
use tracing::{debug, info, warn};

use self::happening::{Happening, taken};
use self::place::Place;
use super::asking::AskError;
use super::flow::{Ack, Delivery, Item, Read, ReaderSettings, Refused, Wiring};
use super::opening::{Desk, jitter};
use super::order::{Order, Verdict};
use super::reconcile::Refusal;
use crate::meters::{self, Reopened};
use crate::wire::kv::StreamName;
use crate::wire::sequence::StreamSeq;
use crate::wire::time::Timestamp;

/// Messages taken from the client in one go.
const DRAIN_MAX: usize = 256;

/// See the module's words.
#[derive(Debug)]
pub struct Reader {
    stream: StreamName,
    desk: Desk,
    /// What our pulls ask, as the API names it.
    pulls: String,
    client: async_nats::Client,
    wiring: Wiring,
    settings: ReaderSettings,
    generation: u64,
    /// When this process's last durable was made, by the server's clock.
    opened: Option<Timestamp>,
    failures: u32,
    /// Openings in a row that delivered nothing of what was there.
    barren: u32,
    /// Since when our durable has no leader.
    leaderless: Option<Instant>,
    /// The last session ended because the server denied our pulls.
    denied: bool,
    /// What a session that was read met last.
    met: Option<Reopened>,
    /// The reason that was logged last: repeats are not.
    said: Option<String>,
}

/// One opening while it is read.
struct Session {
    messages: pull::Stream,
    order: Order,
    /// A message that waits for its permit, and the wait.
    held: Option<Held>,
    checks: Interval,
    /// Accepted since the last check.
    accepted: u64,
    /// The last sequence whose ack was due.
    acked: StreamSeq,
    epoch: u64,
    /// How often the server had denied our pulls before.
    denied: u64,
    /// Whether anything was there to be delivered.
    has_more: bool,
}

struct Held {
    message: async_nats::Message,
    place: Place,
    gap: Option<(StreamSeq, StreamSeq)>,
    permit: Pin<Box<dyn Future<Output = Option<OwnedSemaphorePermit>> + Send>>,
}

/// How a session ends.
enum End {
    OpenAnew(String),
    Refused(Refusal),
    Shutdown,
}

impl From<AskError> for End {
    fn from(error: AskError) -> Self {
        Self::OpenAnew(error.to_string())
    }
}

impl Reader {
    /// A reader that has not opened yet.
    #[must_use]
    pub fn new(
        stream: StreamName,
        desk: Desk,
        client: async_nats::Client,
        wiring: Wiring,
        settings: ReaderSettings,
    ) -> Self {
        Self {
            stream,
            pulls: desk.pulls(),
            desk,
            client,
            wiring,
            settings,
            generation: 0,
            opened: None,
            failures: 0,
            barren: 0,
            leaderless: None,
            denied: false,
            met: None,
            said: None,
        }
    }

    /// Reads until shutdown.
    ///
    /// # Errors
    /// [`Refused`] when only an operator can decide.
    pub async fn run(mut self) -> Result<(), Refused> {
        let mut shutdown = self.wiring.shutdown.clone();
        loop {
            let opened = tokio::select! {
                _ = shutdown.wait_for(|down| *down) => return Ok(()),
                opened = self.open() => opened,
            };
            let end = match opened {
                Ok(session) => {
                    self.failures = 0;
                    self.barren += u32::from(session.has_more);
                    self.read(session).await
                }
                Err(end) => end,
            };
            match end {
                End::Shutdown => {
                    self.desk.leave().await;
                    return Ok(());
                }
                End::Refused(refusal) => {
                    return Err(Refused {
                        stream: self.stream,
                        refusal,
                    });
                }
                End::OpenAnew(reason) => {
                    let was_reading = self.wiring.state.borrow().not_reading.is_none();
                    if self.said.as_deref() == Some(&reason) && !was_reading {
                        debug!(stream = %self.stream, reason, "still opening");
                    } else {
                        info!(stream = %self.stream, generation = self.generation, reason, "opening the consumer anew");
                        self.said = Some(reason.clone());
                    }
                    if let Some(met) = self.met.take() {
                        meters::reopened(self.stream, if self.denied { Reopened::Denied } else { met });
                    }
                    self.wiring.state.send_modify(|state| {
                        state.reopens += u64::from(was_reading);
                        state.not_reading = Some(reason);
                    });
                    // The first error is followed at once: waiting out the client's own timers costs 20 s and more.
                    let doublings = self.failures.min(5);
                    self.failures += 1;
                    jitter(100 << doublings, 300 << doublings).await;
                }
            }
        }
    }

    async fn read(&mut self, mut session: Session) -> End {
        loop {
            let happening = self.select(&mut session).await;
            self.met = Some(happening.kind());
            let mut outcome = self.apply(&mut session, happening).await;
            // What has arrived already needs no look at everything else in between.
            for _ in 0..DRAIN_MAX {
                if outcome.is_err() || session.held.is_some() || self.is_over(&session) {
                    break;
                }
                let Some(next) = session.messages.next().now_or_never() else {
                    break;
                };
                let happening = taken(next);
                self.met = Some(happening.kind());
                outcome = match happening {
                    Happening::Delivered(message) => self.delivered(&mut session, message),
                    other => self.apply(&mut session, other).await,
                };
            }
            if let Err(end) = outcome {
                if matches!(end, End::Shutdown) {
                    self.last_ack(session.acked).await;
                }
                return end;
            }
        }
    }

    /// What happened next. Nothing is acted on here.
    async fn select(&mut self, session: &mut Session) -> Happening {
        let over = self.is_over(session);
        let Session {
            messages,
            held,
            checks,
            epoch,
            denied,
            ..
        } = session;
        let pulls = &self.pulls;
        let wiring = &mut self.wiring;
        let (epoch, denied) = (*epoch, *denied);
        tokio::select! {
            biased;
            _ = wiring.shutdown.wait_for(|down| *down) => Happening::Shutdown,
            _ = wiring.connection.wait_for(|state| state.epoch != epoch || state.denied.times(pulls) > denied) => {
                Happening::Disconnected
            }
            changed = wiring.feedback.changed() => match changed {
                Ok(()) => Happening::Feedback,
                Err(_) => Happening::Shutdown,
            },
            _ = checks.tick() => Happening::CheckDue,
            permit = async {
                match held.as_mut() {
                    Some(held) => held.permit.as_mut().await,
                    None => std::future::pending().await,
                }
            } => match (held.take(), permit) {
                (Some(held), Some(permit)) => Happening::Permitted(held, permit),
                _ => Happening::Shutdown,
            },
            next = messages.next(), if held.is_none() && !over => taken(next),
        }
    }

    async fn apply(&mut self, session: &mut Session, happening: Happening) -> Result<(), End> {
        match happening {
            Happening::Delivered(message) => self.delivered(session, message),
            Happening::Permitted(held, permit) => self.hand_on(held.message, held.place, held.gap, permit),
            Happening::Failed(reason) => Err(End::OpenAnew(reason)),
            Happening::Disconnected => Err(End::OpenAnew(self.why_disconnected(session))),
            Happening::Feedback => self.feedback(session).await,
            Happening::CheckDue => self.check(session).await,
            Happening::Shutdown => Err(End::Shutdown),
        }
    }

    fn delivered(
        &mut self,
        session: &mut Session,
        message: async_nats::jetstream::Message,
    ) -> Result<(), End> {
        let (numbers, place) = place::of(&message).map_err(End::OpenAnew)?;
        match session.order.judge(numbers) {
            Verdict::OpenAnew(reason) => Err(End::OpenAnew(reason.to_owned())),
            Verdict::Redelivered => {
                meters::redelivered(self.stream);
                Ok(())
            }
            Verdict::Accept { gap } => {
                self.barren = 0;
                session.accepted += 1;
                let message = message.message;
                let charge = self.wiring.budget.charge(&message);
                match self.wiring.budget.permits.clone().try_acquire_many_owned(charge) {
                    Ok(permit) => self.hand_on(message, place, gap, permit),
                    Err(_) => {
                        let permits = self.wiring.budget.permits.clone();
                        let permit = Box::pin(async move { permits.acquire_many_owned(charge).await.ok() });
                        session.held = Some(Held {
                            message,
                            place,
                            gap,
                            permit,
                        });
                        Ok(())
                    }
                }
            }
        }
    }

    fn hand_on(
        &self,
        message: async_nats::Message,
        place: Place,
        gap: Option<(StreamSeq, StreamSeq)>,
        permit: OwnedSemaphorePermit,
    ) -> Result<(), End> {
        if let Some((first, last)) = gap {
            self.gap(first, last, "deleted or expired in the middle of the stream")?;
        }
        let Place {
            seq,
            published,
            more_follows,
        } = place;
        if self.settings.bounds.is_beyond(seq) {
            return Ok(());
        }
        let delivery = Delivery {
            seq,
            published,
            subject: message.subject,
            reply: message.reply,
            headers: message.headers,
            payload: message.payload,
            more_follows,
            permit,
        };
        self.send(Read::Message(delivery))
    }

    fn gap(&self, first: StreamSeq, last: StreamSeq, reason: &'static str) -> Result<(), End> {
        let last = self.settings.bounds.end(last);
        if last < first {
            return Ok(());
        }
        warn!(stream = %self.stream, first_seq = first.0, last_seq = last.0, reason, "messages are missing in the stream");
        self.send(Read::Gap { first, last, reason })
    }

    /// I2: what can be acked came from a commit, and only an ack of this opening goes out.
    async fn feedback(&mut self, session: &mut Session) -> Result<(), End> {
        let feedback = self.wiring.feedback.borrow_and_update().clone();
        if let Some(ack) = feedback.ack_in(self.generation) {
            session.acked = session.acked.max(ack.seq);
            if let Some(reply) = ack.reply {
                self.ack(reply).await;
            }
        }
        match feedback.reopen {
            Some(generation) if generation == self.generation => Err(End::OpenAnew(
                "the writer refused an item of this opening".to_owned(),
            )),
            _ => Ok(()),
        }
    }

    /// Only while connected: what the client keeps for a later connection would be a late ack.
    async fn ack(&self, reply: Subject) {
        if self.wiring.connection.borrow().connected
            && let Err(error) = self.client.publish(reply, Bytes::new()).await
        {
            debug!(stream = %self.stream, %error, "an ack was not sent; nothing depends on it");
        }
    }

    /// At the end: the writer finishes the group in hand, and its commit is acked.
    async fn last_ack(&mut self, acked: StreamSeq) {
        let mut feedback = self.wiring.feedback.clone();
        while feedback.changed().await.is_ok() {}
        let last = feedback.borrow().ack_in(self.generation);
        if let Some(Ack {
            seq,
            reply: Some(reply),
            ..
        }) = last
            && seq > acked
        {
            self.ack(reply).await;
        }
    }

    /// Waits for the connection; its epoch tells whether it was lost since.
    async fn connected(&mut self) -> u64 {
        if !self.wiring.connection.borrow().connected {
            self.wiring
                .state
                .send_modify(|state| state.not_reading = Some("not connected to NATS".to_owned()));
        }
        match self.wiring.connection.wait_for(|state| state.connected).await {
            Ok(state) => state.epoch,
            Err(_) => 0,
        }
    }

    fn send(&self, read: Read) -> Result<(), End> {
        let item = Item {
            stream: self.stream,
            generation: self.generation,
            read,
        };
        self.wiring.items.send(item).map_err(|_| End::Shutdown)
    }
}
