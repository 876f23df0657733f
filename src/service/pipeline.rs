//! Every stage, channel and limit on one screen: spawned here, wired here, ended here.

mod caught_up;
mod manifests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use tokio::sync::{mpsc as tokio_mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{info, warn};
use uuid::Uuid;

use super::board::{Board, LOADING_MESSAGES, Parts, Phase, Pulse, Watched};
use super::derive::Rederiver;
use super::equip::{books, fetcher, owner, pull_options, rederiver, repairer, store_options, writer_limits};
use super::error::ServiceError;
use super::load::Step;
use super::outside;
use super::rebuild;
use super::repair::Repairer;
use super::resolve::Resolver;
use super::socket::Socket;
use super::work::Work;
use super::writer::{Bells, Lane, Writer, WriterStopped};
use crate::config::Config;
use crate::projection::manifests::Manifests;
use crate::source::connect::{self, ConnectError, Connection, ConnectionState};
use crate::source::create::create_output_store;
use crate::source::flow::{Bounds, Budget, Feedback, ReaderSettings, Refused, Wiring};
use crate::source::opening::{Desk, Identity};
use crate::source::reader::Reader;
use crate::store::{Owner, Store};
use crate::wire::kv::StreamName;

/// After SIGTERM: the group in hand, its commit and its ack.
const DRAIN_LIMIT: Duration = Duration::from_secs(4);
/// A pull request of a process that is gone waits at the server for its own life and some more.
const WATCH_MARGIN: Duration = Duration::from_secs(5);

/// How `run` was called.
#[derive(Clone, Copy, Debug, Default)]
pub struct RunOptions {
    /// Stop when caught up.
    pub until_caught_up: bool,
    /// Take consumers that are in use.
    pub take_over_consumers: bool,
    /// Create what the backend has not yet.
    pub create_missing: bool,
}

/// What a scratch is loaded with (DESIGN §8.1).
#[derive(Clone, Debug)]
pub struct Load {
    /// In force for the whole load.
    pub manifests: Arc<Manifests>,
    /// The part of each stream; all of it where none is given.
    pub bounds: BTreeMap<StreamName, Bounds>,
    /// What for: a part of the consumers' names.
    pub purpose: &'static str,
    /// Beats while it is written.
    pub pulse: Pulse,
}

/// Runs the service until `stop` is true, or until caught up; what it does can be seen on the board.
///
/// # Errors
/// See [`ServiceError`].
pub async fn run(
    config: &Config,
    options: RunOptions,
    mut stop: watch::Receiver<bool>,
    board: Board,
) -> Result<(), ServiceError> {
    let me = owner();
    let mut store = Store::open(&config.store.path, &store_options(config), &me)?;
    let reconsidered = store.reconsider_too_large(config.outputs.max_bytes, super::now())?;
    if reconsidered > 0 {
        info!(
            outputs = reconsidered,
            "the limit was raised: fetching outputs that were too large"
        );
    }
    board.phase.send_replace(Phase::Connecting);
    let connection = tokio::select! {
        connection = connect(config, options, &board.connection) => connection?,
        () = super::raised(&mut stop) => {
            store.close();
            return Ok(());
        }
    };
    if store.is_new()? {
        store.close();
        if !initial_load(config, &connection, &stop, &board).await? {
            return Ok(());
        }
        store = Store::open(&config.store.path, &store_options(config), &me)?;
    }
    if options.create_missing
        && let Err(error) = create_output_store(&connection).await
    {
        warn!(%error, "the object store was not created");
    }
    let pipeline = tokio::select! {
        pipeline = Pipeline::start(config, options, None, store, &me, connection, &board) => pipeline?,
        () = super::raised(&mut stop) => return Ok(()),
    };
    board.phase.send_replace(Phase::Running);
    pipeline.run(options, stop, &board).await
}

/// Where nothing has been read yet and the streams are long, they are loaded in bulk. Returns false when stopped.
async fn initial_load(
    config: &Config,
    connection: &Connection,
    stop: &watch::Receiver<bool>,
    board: &Board,
) -> Result<bool, ServiceError> {
    let phase = |phase| {
        board.phase.send_replace(phase);
        board.pulse.beat();
    };
    let tell = |step: Step| match step {
        Step::Forecast(forecast) => {
            phase(Phase::Loading(LOADING_MESSAGES));
            info!(
                messages = forecast.messages(),
                "there is no database: loading the streams in bulk"
            )
        }
        Step::Phase(what) => {
            phase(Phase::Loading(what));
            info!(phase = what, "loading in bulk")
        }
        Step::Loading(_) => {}
    };
    match rebuild::initial(config, connection, stop.clone(), &tell, &board.pulse).await {
        Ok(Some(made)) => {
            info!(seconds = ?made.seconds, bytes = made.bytes, "nothing had been read yet: loaded in bulk")
        }
        Ok(None) => {}
        Err(_) if *stop.borrow() => return Ok(false),
        // What stands in the way of a load (a reader that has the file open, say) need not be in the service's, which waits
        // it out, or tells it once more.
        Err(error) => {
            warn!(%error, "the streams could not be loaded in bulk; reading them message by message")
        }
    }
    phase(Phase::Connecting);
    Ok(true)
}

/// Loads a scratch up to its bounds, or to the streams' ends as they are now; closes it. `true`: stopped before that.
///
/// # Errors
/// See [`ServiceError`].
pub async fn load(
    config: &Config,
    load: Load,
    store: Store,
    connection: Connection,
    mut stop: watch::Receiver<bool>,
    watching: impl FnOnce(Watched),
) -> Result<bool, ServiceError> {
    let options = RunOptions {
        until_caught_up: true,
        ..RunOptions::default()
    };
    let me = owner();
    let board = Board {
        pulse: load.pulse.clone(),
        ..Board::new()
    };
    let pipeline = tokio::select! {
        pipeline = Pipeline::start(config, options, Some(load), store, &me, connection, &board) => pipeline?,
        () = super::raised(&mut stop) => return Ok(true),
    };
    watching(board.watched());
    pipeline.run(options, stop.clone(), &board).await?;
    Ok(*stop.borrow())
}

async fn connect(
    config: &Config,
    options: RunOptions,
    state: &watch::Sender<ConnectionState>,
) -> Result<Connection, ConnectError> {
    if options.until_caught_up {
        connect::once_telling(&config.nats, state).await
    } else {
        connect::patiently(&config.nats, state).await
    }
}

struct Pipeline {
    connection: Connection,
    repairer: Repairer,
    rederiver: Rederiver,
    works: mpsc::Sender<Work>,
    shutdown: watch::Sender<bool>,
    writer_done: oneshot::Receiver<Result<(), WriterStopped>>,
    readers: JoinSet<Result<(), Refused>>,
    others: JoinSet<()>,
}

impl Pipeline {
    async fn start(
        config: &Config,
        options: RunOptions,
        load: Option<Load>,
        store: Store,
        me: &Owner,
        connection: Connection,
        board: &Board,
    ) -> Result<Self, ServiceError> {
        let broken = |what: String| ServiceError::Broken(what);
        let (shutdown, down) = watch::channel(false);
        let (mut readers, mut others) = (JoinSet::new(), JoinSet::new());
        // Unbounded channels: what is in them holds permits of the budgets, which bound them by bytes (I6).
        let (works, works_rx) = mpsc::channel::<Work>();
        let manifests = match &load {
            None => {
                let until = options.until_caught_up;
                manifests::watched(config, until, &connection, &works, &down, &mut others).await?
            }
            Some(load) => watch::channel(load.manifests.clone()).1,
        };
        let bounds = load.as_ref().map(|load| load.bounds.clone()).unwrap_or_default();
        let budget = Budget::new(config.source.in_flight_bytes);
        let fetcher = fetcher(config, &connection).await.map_err(broken)?;
        let objects = Budget::new(config.outputs.in_flight_bytes);
        let bells = Bells::default();
        let identity = Identity {
            nonce: Uuid::new_v4().to_string(),
            owner: format!(
                "process {} on {}, running since {}, with database {} ({})",
                me.pid,
                me.host,
                me.started_at,
                store.database_id(),
                store.path().display()
            ),
        };
        // Loads of several databases, or copies of one, may go on at one server at once.
        let nonce: String = identity.nonce.chars().take(8).collect();
        let temporary = load.as_ref().map(|load| format!("{}_{nonce}", load.purpose));
        let mut lanes = BTreeMap::new();
        for (stream, state) in &board.readers {
            let stream = *stream;
            let (items, items_rx) = tokio_mpsc::unbounded_channel();
            let (generation, generation_rx) = watch::channel(0);
            let (feedback, feedback_rx) = watch::channel(Feedback::default());
            lanes.insert(stream, Lane::new(generation_rx.clone(), feedback));
            let desk = Desk::new(
                &connection,
                stream,
                identity.clone(),
                pull_options(config, &budget, temporary.as_deref()),
            )
            .await
            .map_err(|error| broken(error.to_string()))?;
            let wiring = Wiring {
                items,
                generation,
                feedback: feedback_rx,
                connection: connection.state.clone(),
                state: state.clone(),
                shutdown: down.clone(),
                budget: budget.clone(),
            };
            let settings = ReaderSettings {
                check_interval: config.source.check_interval,
                watch_limit: config.source.expires + WATCH_MARGIN,
                take_over: options.take_over_consumers,
                create_missing: options.create_missing,
                bounds: bounds.get(&stream).copied().unwrap_or_default(),
            };
            readers.spawn(Reader::new(stream, desk, connection.client.clone(), wiring, settings).run());
            let resolver = Resolver {
                items: items_rx,
                works: works.clone(),
                generation: generation_rx,
                fetcher: fetcher.clone(),
                budget: objects.clone(),
            };
            others.spawn(resolver.run());
        }
        let repairer = repairer(config, &fetcher, &works, &bells);
        board.parts.send_replace(Some(Parts {
            messages: budget,
            outputs: objects,
            repair: repairer.budget.clone(),
            manifests: manifests.clone(),
        }));
        if !options.until_caught_up {
            others.spawn(repairer.clone().run(down.clone()));
        }
        let rederiver = rederiver(&store, &works, &bells);
        others.spawn(rederiver.clone().run(down.clone()));
        if load.is_none()
            && let Some(socket) = Socket::listen(store.path())
        {
            let books = books(&connection, &store, &repairer);
            others.spawn(socket.serve(books, down.clone()));
        }
        if load.is_none() {
            let seen = board.output_store.clone();
            others.spawn(outside::watch(connection.js(), seen, down.clone()));
            if let Some(url) = config.nats.monitor_url.clone() {
                let (every, seen) = (config.source.check_interval, board.health.clone());
                others.spawn(outside::watch_health(url, every, seen, down.clone()));
            }
        }
        if store.is_adopted() && load.is_none() {
            let (every, seen) = (config.source.check_interval, board.backend_is_projecting.clone());
            others.spawn(outside::watch_backend(connection.js(), every, seen, down.clone()));
        }
        let limits = writer_limits(config, &store, load.is_some());
        let state = board.writer.clone();
        let writer = Writer::new(store, works_rx, lanes, limits, state, manifests, bells, down)
            .beating(board.pulse.clone());
        let writer_done = writer
            .spawn()
            .map_err(|error| broken(format!("cannot start the writer's thread: {error}")))?;
        Ok(Self {
            connection,
            repairer,
            rederiver,
            works,
            shutdown,
            writer_done,
            readers,
            others,
        })
    }

    /// Supervises: the first of the stages that ends decides how the service ends.
    async fn run(
        mut self,
        options: RunOptions,
        mut stop: watch::Receiver<bool>,
        board: &Board,
    ) -> Result<(), ServiceError> {
        let mut writer_ended = None;
        let mut outcome = Ok(());
        {
            let (watched, connection) = (board.watched(), self.connection.state.clone());
            let (repairer, rederiver) = (self.repairer.clone(), self.rederiver.clone());
            let works = self.works.clone();
            let caught_up = async move {
                caught_up::caught_up(watched, connection, options.until_caught_up).await?;
                let (reply, over) = oneshot::channel();
                // Errors are a writer that has ended, which says why.
                let _asked = works.send(Work::LoadIsOver(reply));
                if let Ok(committed) = over.await {
                    committed?;
                }
                repairer.attempt_pending_once().await;
                rederiver.round().await.map_err(|error| error.to_string())
            };
            tokio::select! {
                () = super::raised(&mut stop) => info!("stopping: finishing the group in hand"),
                ended = &mut self.writer_done => writer_ended = Some(ended),
                Some(reader) = self.readers.join_next() => outcome = reader_ended(reader),
                Some(other) = self.others.join_next() => {
                    // They end when their reader or the writer does, which says why; unless they broke.
                    if let Err(error) = other {
                        outcome = Err(ServiceError::Broken(format!("a stage broke: {error}")));
                    }
                }
                reached = caught_up => {
                    outcome = reached.map_err(|why| ServiceError::Unavailable(format!("cannot catch up: {why}")));
                }
            }
        }
        board.phase.send_replace(Phase::Stopping);
        self.shutdown.send_replace(true);
        // An error is a writer that has ended already.
        let _asked = self.works.send(Work::Shutdown);
        let ended = match writer_ended {
            Some(ended) => Some(ended),
            None => timeout(DRAIN_LIMIT, &mut self.writer_done).await.ok(),
        };
        match ended {
            Some(Ok(Ok(()))) => {}
            Some(Ok(Err(stopped))) => outcome = Err(stopped.into()),
            Some(Err(_)) => outcome = Err(ServiceError::Broken("the writer broke off".to_owned())),
            None => warn!(
                "the database did not finish in time; what was not committed comes again from the stream"
            ),
        }
        // The readers send their last acks and end; one may have a reason of its own to tell.
        let mut last = Ok(());
        let last_acks = async {
            while let Some(reader) = self.readers.join_next().await {
                last = std::mem::replace(&mut last, Ok(())).and(reader_ended(reader));
            }
        };
        if timeout(Duration::from_millis(500), last_acks).await.is_ok()
            && self.connection.state.borrow().connected
        {
            // A flush that does not come back costs nothing: acks are a courtesy.
            let _flushed = timeout(Duration::from_millis(300), self.connection.client.flush()).await;
        }
        outcome = outcome.and(last);
        self.others.abort_all();
        outcome
    }
}

/// How a reader ended.
fn reader_ended(reader: Result<Result<(), Refused>, tokio::task::JoinError>) -> Result<(), ServiceError> {
    match reader {
        Ok(ended) => Ok(ended?),
        Err(error) => Err(ServiceError::Broken(format!("a reader broke: {error}"))),
    }
}
