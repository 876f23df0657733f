//! An opening: what the server says is looked at until it is clear from where to read.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tracing::info;

use super::super::create::create_stream;
use super::super::flow::{Read, ReaderStanding};
use super::super::order::Order;
use super::super::reconcile::{Found, Opening, Plan, StreamFound, reconcile};
use super::{End, Reader, Session};

impl Reader {
    /// Comes to rest, looks, decides, opens.
    pub(super) async fn open(&mut self) -> Result<Session, End> {
        let epoch = self.connected().await;
        self.generation += 1;
        self.wiring.generation.send_replace(self.generation);
        let (reply, standing) = oneshot::channel();
        self.send(Read::Rest(reply))?;
        let standing = standing.await.map_err(|_| End::Shutdown)?;
        let (stream, opening) = self.look(standing.as_ref()).await?;
        self.record(&stream, &opening, standing.is_some())?;
        let opening = self.detour(opening).await?;
        let denied = self.denied_pulls();
        let (messages, created) = self.desk.open(&opening).await?;
        self.opened = Some(created);
        self.still_denied(denied).await?;
        self.wiring.state.send_modify(|state| {
            state
                .first_last
                .get_or_insert(self.settings.bounds.end(stream.last));
            state.look(&stream);
            state.not_reading = None;
        });
        info!(stream = %self.stream, generation = self.generation, start_seq = opening.start.0, last_seq = stream.last.0, "reading");
        let first_check = Instant::now() + self.settings.check_interval;
        let mut checks = interval_at(first_check, self.settings.check_interval);
        checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Session {
            messages,
            order: Order::from(opening.start),
            held: None,
            checks,
            accepted: 0,
            acked: opening.start.before(),
            epoch,
            denied,
            has_more: opening.start <= self.settings.bounds.end(stream.last),
        })
    }

    /// Looks until it is clear what to do: at the stream, at our durable, at the messages that are known.
    async fn look(&mut self, standing: Option<&ReaderStanding>) -> Result<(StreamFound, Opening), End> {
        let mut suspected = None;
        let mut watched = Duration::ZERO;
        let mut waiting_said = false;
        loop {
            let mut stream = self.desk.leader.state().await?;
            if let (Some(stream), None, Some(from)) = (&mut stream, standing, self.settings.bounds.from) {
                stream.first = stream.first.max(from.min(stream.last.next()));
            }
            let durable = match stream {
                None => None,
                Some(_) => self.durable().await?,
            };
            let known = match (&stream, standing) {
                (Some(_), Some(standing)) => {
                    Some(self.desk.leader.known(standing.position, &standing.marks).await?)
                }
                _ => None,
            };
            let found = Found {
                stream: stream.clone(),
                durable: durable.map(|durable| durable.found),
                known,
                opened: self.opened,
                watched,
                watch_limit: self.settings.watch_limit,
                take_over: self.settings.take_over,
                suspected,
            };
            let missing = found.stream.is_none();
            self.wiring
                .state
                .send_if_modified(|state| std::mem::replace(&mut state.missing, missing) != missing);
            match reconcile(&found) {
                Plan::WaitForStream => {
                    if self.settings.create_missing {
                        create_stream(&self.desk.leader.js, self.stream).await?;
                        info!(stream = %self.stream, "created the missing stream");
                        continue;
                    }
                    return Err(End::OpenAnew(format!(
                        "the stream {} does not exist",
                        self.stream
                    )));
                }
                Plan::Refuse(refusal) => return Err(End::Refused(refusal)),
                Plan::LookAgain {
                    after,
                    suspected: suspicion,
                    watching,
                } => {
                    suspected = suspicion;
                    if watching {
                        watched += after;
                        if !waiting_said {
                            waiting_said = true;
                            let owner = found.durable.map(|durable| durable.owner).unwrap_or_default();
                            info!(stream = %self.stream, owner, "pulls of another process wait on our consumer; watching whether it is alive");
                        }
                    }
                    tokio::time::sleep(after).await;
                }
                Plan::Open(opening) => match stream {
                    Some(stream) => return Ok((stream, opening)),
                    None => {
                        return Err(End::OpenAnew(
                            "the stream vanished while it was looked at".to_owned(),
                        ));
                    }
                },
            }
        }
    }
}
