//! The writer's thread (DESIGN §6): gathers what waits into a group, projects it in one transaction, commits, and
//! hands the positions back. Two kinds of failure, never mixed up: the environment's is waited out, whatever it
//! takes; a message's own makes that message a dead letter and nothing else.

mod ahead;
mod anew;
mod answers;
mod attempt;
mod course;
mod intake;
mod letters;
mod measure;
mod retention;
mod sharing;
mod state;
mod upkeep;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot, watch};
use tracing::{debug, error, info, warn};

use self::ahead::Ahead;
use self::intake::{Intake, is_current, take_apart};
use self::letters::WATCHED_MESSAGES;
use self::retention::RetentionPass;
use self::sharing::{Settling, Sharing};
use super::board::Pulse;
use super::now;
use super::work::{Message, Unit, Work};
use crate::projection::manifests::Manifests;
use crate::source::flow::{Ack, Feedback, Item, Read};
use crate::store::{Left, Standing, Store, fail};
use crate::wire::kv::StreamName;

pub use state::{WriterLimits, WriterState, WriterStopped};

/// Between two attempts while the environment does not allow a commit.
const RETRY_PAUSES_MS: [u64; 6] = [20, 100, 500, 1_000, 2_000, 5_000];
/// With nothing to do the thread takes a turn this often, by which others see that it goes on.
const TURN_AT_LEAST_EVERY: Duration = Duration::from_secs(5);
/// Quiet for so long, the log is copied into the database.
const IDLE_AFTER: Duration = Duration::from_millis(250);

/// One stream, as the writer sees it.
#[derive(Debug)]
pub struct Lane {
    /// The reader's current opening.
    pub generation: watch::Receiver<u64>,
    /// Back to the reader.
    pub feedback: watch::Sender<Feedback>,
    standing: Option<Standing>,
}

impl Lane {
    /// A lane whose standing is read when its reader first rests.
    #[must_use]
    pub fn new(generation: watch::Receiver<u64>, feedback: watch::Sender<Feedback>) -> Self {
        Self {
            generation,
            feedback,
            standing: None,
        }
    }
}

/// The one thread that writes the database (I8).
#[derive(Debug)]
pub struct Writer {
    store: Store,
    intake: Intake,
    ahead: Ahead,
    lanes: BTreeMap<StreamName, Lane>,
    limits: WriterLimits,
    state: watch::Sender<WriterState>,
    /// Committed groups, to be freed elsewhere: that is no work for the thread that everything waits for.
    finished: Sender<Vec<Unit>>,
    /// They come back empty, for the next ones.
    emptied: Receiver<Vec<Unit>>,
    /// The manifests in force.
    manifests: watch::Receiver<Arc<Manifests>>,
    bells: Bells,
    sharing: Sharing,
    settling: Settling,
    chores_turn: bool,
    when_derived: Vec<oneshot::Sender<()>>,
    shutdown: watch::Receiver<bool>,
    /// Of the last messages: which became dead letters.
    recent_dead: VecDeque<bool>,
    commits_since_checkpoint: u32,
    checkpoint_step: u64,
    small_groups: u32,
    /// When a reader last kept the log from being cut.
    not_cut: Option<Instant>,
    last_commit: Instant,
    pulse: Pulse,
    retention: RetentionPass,
    patience: attempt::Patience,
}

/// Rung after a commit, for those who work beside the live path.
#[derive(Clone, Debug, Default)]
pub struct Bells {
    /// Outputs are owed.
    pub owed: Arc<Notify>,
    /// Pairs are due.
    pub due: Arc<Notify>,
}

impl Writer {
    /// A writer on an open store.
    #[must_use]
    #[expect(
        clippy::too_many_arguments,
        reason = "each is an end of another channel, wired in one place"
    )]
    pub fn new(
        store: Store,
        works: Receiver<Work>,
        lanes: BTreeMap<StreamName, Lane>,
        limits: WriterLimits,
        state: watch::Sender<WriterState>,
        manifests: watch::Receiver<Arc<Manifests>>,
        bells: Bells,
        shutdown: watch::Receiver<bool>,
    ) -> Self {
        let (finished, emptied) = take_apart();
        Self {
            store,
            intake: Intake::new(works),
            ahead: Ahead::begin(),
            finished,
            emptied,
            lanes,
            limits,
            state,
            manifests,
            bells,
            sharing: Sharing::default(),
            settling: Settling::default(),
            chores_turn: true,
            when_derived: Vec::new(),
            shutdown,
            recent_dead: VecDeque::with_capacity(WATCHED_MESSAGES),
            commits_since_checkpoint: 0,
            checkpoint_step: 0,
            small_groups: 0,
            not_cut: None,
            last_commit: Instant::now(),
            pulse: Pulse::default(),
            retention: RetentionPass::default(),
            patience: attempt::Patience::default(),
        }
    }

    /// The same, with each of its turns a beat of this pulse; within long statements too.
    #[must_use]
    pub fn beating(mut self, pulse: Pulse) -> Self {
        if let Err(error) = self.store.set_progress(pulse.as_progress()) {
            warn!(%error, "long statements will not be seen to go on");
        }
        self.pulse = pulse;
        self
    }

    /// Runs on a thread of its own; how it ended comes through the channel.
    ///
    /// # Errors
    /// No thread could be had.
    pub fn spawn(self) -> std::io::Result<oneshot::Receiver<Result<(), WriterStopped>>> {
        let (done, ended) = oneshot::channel();
        std::thread::Builder::new()
            .name("writer".to_owned())
            .spawn(move || {
                // An error is a supervisor that no longer waits.
                let _told = done.send(self.run());
            })?;
        Ok(ended)
    }

    /// Writes until shutdown, then closes the database.
    ///
    /// # Errors
    /// [`WriterStopped`] when waiting cannot help.
    pub fn run(mut self) -> Result<(), WriterStopped> {
        let streams: Vec<_> = self.lanes.keys().copied().collect();
        for stream in streams {
            self.stands(stream, self.store.standing(stream)?);
        }
        // What was left by a process before this one.
        self.look_at_pairs()?;
        self.settling.needed = self.store.any_unsettled()?;
        let outcome = self.work();
        self.store.close();
        outcome
    }

    /// Where a stream stands now, as the database says.
    fn stands(&mut self, stream: StreamName, standing: Option<Standing>) {
        self.state
            .send_modify(|state| state.stands(stream, standing.as_ref()));
        if let Some(lane) = self.lanes.get_mut(&stream) {
            lane.standing = standing;
        }
    }

    fn work(&mut self) -> Result<(), WriterStopped> {
        loop {
            self.pulse.beat();
            self.settle();
            self.delete_old();
            if self.intake.chores.is_empty() && self.intake.left_over.is_empty() {
                for reply in self.when_derived.drain(..) {
                    // An error is somebody who no longer waits.
                    let _told = reply.send(());
                }
            }
            if *self.shutdown.borrow() {
                return Ok(());
            }
            if let Some(unit) = self.intake.left_over.pop_front() {
                self.gather(unit)?;
                continue;
            }
            if std::mem::replace(&mut self.chores_turn, false)
                && let Some(chore) = self.intake.chores.pop_front()
            {
                // Nothing else joins it: one pair may be long enough for a transaction.
                self.see_through(vec![chore], usize::MAX)?;
                self.share();
                continue;
            }
            self.chores_turn = true;
            let work = if self.intake.chores.is_empty() {
                self.next_work()
            } else {
                match self.intake.next_at_once() {
                    Some(work) => Some(work),
                    None => continue,
                }
            };
            let Some(work) = work else {
                return Ok(());
            };
            // What still waits in the channel comes again from the stream.
            if *self.shutdown.borrow() {
                return Ok(());
            }
            match work {
                Work::Unit(unit) => self.gather(unit)?,
                Work::Rest { stream, reply } => self.rest(stream, reply)?,
                Work::Shutdown => return Ok(()),
                Work::LoadIsOver(reply) => {
                    let committed = self.store.end_shared_transaction(true);
                    // An error is somebody who no longer waits.
                    let _told = reply.send(committed.map_err(|error| error.to_string()));
                }
                Work::Owed { ask, reply } => {
                    // An error is somebody who no longer waits.
                    let _sent = reply.send(self.owed(&ask));
                }
                Work::Derive(pairs) => self.intake.chores.extend(pairs.into_iter().map(Unit::Derive)),
                Work::WhenDerived(reply) => self.when_derived.push(reply),
                Work::Manifests => {
                    // What a pair waits for may be nothing that its hints need any more.
                    if let Err(error) = self.look_at_pairs() {
                        warn!(%error, "cannot read which pairs wait; the next change of the manifests looks again");
                    }
                }
            }
        }
    }

    /// Waits for work; copies the log while there is none. `None`: everybody who could send any is gone.
    fn next_work(&mut self) -> Option<Work> {
        if let Some(work) = self.intake.put_back.take() {
            return Some(work);
        }
        loop {
            let wait = match (self.commits_since_checkpoint > 0, self.settling.needed) {
                (true, _) => IDLE_AFTER,
                (false, _) if self.log_is_long() => upkeep::CUT_AGAIN_AFTER,
                (false, true) => sharing::SETTLE_EVERY,
                (false, false) => TURN_AT_LEAST_EVERY,
            };
            self.pulse.beat();
            match self.intake.works.recv_timeout(wait) {
                Ok(work) => return Some(work),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) if wait == TURN_AT_LEAST_EVERY => self.delete_old(),
                Err(RecvTimeoutError::Timeout) => {
                    self.idle();
                    self.settle();
                    self.delete_old();
                }
            }
        }
    }

    /// Starts a group with what came first, adds what waits, and sees it through.
    fn gather(&mut self, first: Unit) -> Result<(), WriterStopped> {
        let mut group = self.emptied.try_recv().unwrap_or_default();
        let mut bytes = first.bytes();
        group.push(first);
        self.intake.add_waiting(&self.limits, &mut group, &mut bytes);
        self.see_through(group, bytes)?;
        self.share();
        Ok(())
    }

    /// Tries a group until it is committed, however long the environment takes.
    fn see_through(&mut self, mut group: Vec<Unit>, mut bytes: usize) -> Result<(), WriterStopped> {
        let mut isolated = false;
        let mut failures = 0;
        loop {
            self.pulse.beat();
            if *self.shutdown.borrow() && failures > 0 {
                // Nothing is acked: the stream brings it again.
                return Ok(());
            }
            group.retain(|unit| is_current(&self.lanes, unit));
            if group.is_empty() {
                return Ok(());
            }
            let outcome = match self.disk_is_short() {
                Some(reason) => Err(Failed::Environment {
                    reason,
                    reopen: false,
                }),
                None => self.attempt(&mut group, &mut bytes, isolated),
            };
            match outcome {
                Ok(done) => {
                    if failures > 0 {
                        info!(attempts = failures, "writing again");
                    }
                    self.committed(group, done);
                    return Ok(());
                }
                Err(Failed::Data { .. }) if !isolated => isolated = true,
                Err(Failed::Data { reason }) => {
                    // Only the commit itself can still object: then the culprit is sought by halving.
                    return self.halve(group, reason);
                }
                Err(Failed::Refused { reason }) => {
                    warn!(
                        reason,
                        "the position in the database is not the expected one; opening anew"
                    );
                    self.open_anew(group);
                    return Ok(());
                }
                Err(Failed::Stop(stopped)) => return Err(stopped),
                Err(Failed::Environment { reason, reopen }) => {
                    if failures == 0 {
                        error!(
                            reason,
                            "cannot write; nothing is lost or acked, the service tries again by itself"
                        );
                    }
                    self.state
                        .send_modify(|state| state.not_writing = Some(reason.clone()));
                    let pause = RETRY_PAUSES_MS
                        .get(failures)
                        .or(RETRY_PAUSES_MS.last())
                        .copied()
                        .unwrap_or(5_000);
                    failures += 1;
                    self.pause(Duration::from_millis(pause));
                    if reopen && !self.reopen(&group)? {
                        self.open_anew(group);
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Sleeps, but not through a shutdown.
    fn pause(&self, length: Duration) {
        let until = Instant::now() + length;
        while Instant::now() < until && !*self.shutdown.borrow() {
            std::thread::sleep(Duration::from_millis(20).min(length));
        }
    }

    /// Nothing joins a part of a group: the next part comes before what waits.
    fn halve(&mut self, mut group: Vec<Unit>, reason: String) -> Result<(), WriterStopped> {
        if let [unit] = group.as_mut_slice() {
            match unit {
                Unit::Item(Item {
                    read: Read::Message(envelope),
                    ..
                }) => envelope.content = Message::Dead(reason),
                Unit::Letter(work) => work.fail(reason),
                // A gap or an attempt that cannot be committed alone is no message's fault.
                _ => return Err(WriterStopped { reason, exit_code: 2 }),
            }
            return self.see_through(group, usize::MAX);
        }
        let second = group.split_off(group.len() / 2);
        self.see_through(group, usize::MAX)?;
        self.see_through(second, usize::MAX)
    }

    fn committed(&mut self, mut group: Vec<Unit>, done: attempt::Done) {
        fail::point("after-commit");
        self.measure(&group, &done);
        letters::note_outcomes(&mut group, done.letters);
        debug!(
            rows = group.len(),
            commit_seconds = done.commit_time.as_secs_f64(),
            "committed"
        );
        let Left {
            more_waiting,
            due,
            unsettled,
        } = done.left;
        self.intake
            .chores
            .extend(more_waiting.into_iter().map(Unit::Release));
        self.settling.needed |= unsettled;
        if due {
            self.bells.due.notify_one();
        }
        let backlog = self.intake.put_back.is_some() || group.len() >= self.limits.group_rows_max / 4;
        let items = group.len() as u64;
        for committed in &done.committed {
            let stream = committed.stream();
            let (Some(lane), Some((generation, reply))) =
                (self.lanes.get(&stream), done.origins.get(&stream))
            else {
                continue;
            };
            // I2: the ack is made of the commit's own proof.
            let ack = Ack {
                generation: *generation,
                seq: committed.last(),
                reply: reply.clone(),
            };
            lane.feedback.send_modify(|feedback| feedback.ack = Some(ack));
        }
        self.watch_dead(&done.dead);
        let mostly_dead = self.is_mostly_dead();
        self.state.send_modify(|state| {
            for (stream, standing) in &done.standings {
                state.stands(*stream, Some(standing));
            }
            state.last_commit = Some(now());
            state.commit_time = done.commit_time;
            state.groups += 1;
            state.items += items;
            state.not_writing = None;
            if mostly_dead && !state.mostly_dead {
                error!("more than half of the last thousand messages became dead letters; they are kept and can be \
                        retried: look at `dead-letters list`, a newer wire version needs a newer results-projector");
            }
            state.mostly_dead = mostly_dead;
        });
        for (stream, standing) in done.standings {
            if let Some(lane) = self.lanes.get_mut(&stream) {
                lane.standing = Some(standing);
            }
        }
        // An error is a thread that is gone: then the group is dropped here.
        let _handed_on = self.finished.send(group);
        if done.owes_outputs {
            self.bells.owed.notify_one();
        }
        self.commits_since_checkpoint += 1;
        self.last_commit = Instant::now();
        self.patience.commit_time = done.commit_time;
        self.bound_log(backlog);
    }
}

/// Why an attempt at a group failed, and what that asks for.
#[derive(Debug)]
enum Failed {
    Data { reason: String },
    Environment { reason: String, reopen: bool },
    Refused { reason: String },
    Stop(WriterStopped),
}
