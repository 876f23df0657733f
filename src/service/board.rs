//! What the service shows of itself while it runs: written by the stages, read by whoever observes, steered by nobody.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::writer::WriterState;
use crate::projection::manifests::Manifests;
use crate::source::census::Census;
use crate::source::connect::ConnectionState;
use crate::source::flow::{Budget, ReaderState};
use crate::source::monitor::{Health, MonitorError};
use crate::store::Progress;
use crate::wire::kv::StreamName;

/// The part of a load in which messages are read and written: the pulse beats with each turn. Others are few long calls of the
/// system (a whole file pressed onto the disk), in which nothing can beat.
pub const LOADING_MESSAGES: &str = "reading the streams";

/// What the process is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// The database is opened, and checked where the last stop was unclean.
    #[default]
    Opening,
    /// The database is open; the server is waited for, and what is needed before the first message.
    Connecting,
    /// The streams are loaded in bulk into a database that has read nothing yet: what of that goes on.
    Loading(&'static str),
    /// Messages are read and written.
    Running,
    /// The group in hand is finished.
    Stopping,
}

/// Proof that the thread that writes goes on: one beat for each of its turns, and within long statements.
#[derive(Clone, Debug)]
pub struct Pulse {
    since: Instant,
    last_ms: Arc<AtomicU64>,
}

impl Default for Pulse {
    fn default() -> Self {
        Self {
            since: Instant::now(),
            last_ms: Arc::default(),
        }
    }
}

impl Pulse {
    /// One turn.
    pub(super) fn beat(&self) {
        let now = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_ms.store(now, Ordering::Relaxed);
    }

    /// One before something that may take so long and in which nothing beats.
    pub(super) fn beat_for(&self, time: Duration) {
        let until = self.since.elapsed() + time;
        self.last_ms.store(
            u64::try_from(until.as_millis()).unwrap_or(u64::MAX),
            Ordering::Relaxed,
        );
    }

    /// The same, for whoever takes a function.
    #[must_use]
    pub(super) fn as_progress(&self) -> Progress {
        let pulse = self.clone();
        Arc::new(move || pulse.beat())
    }

    /// Time since the last one, or since the end of what may take long.
    #[must_use]
    pub fn age(&self) -> Duration {
        let last = Duration::from_millis(self.last_ms.load(Ordering::Relaxed));
        self.since.elapsed().saturating_sub(last)
    }
}

/// What is there once the stages are.
#[derive(Clone, Debug)]
pub struct Parts {
    /// The budget of messages.
    pub messages: Budget,
    /// That of outputs of results in the queue.
    pub outputs: Budget,
    /// That of outputs that come late.
    pub repair: Budget,
    /// The manifests in force.
    pub manifests: watch::Receiver<Arc<Manifests>>,
}

/// What can be watched while the service runs.
#[derive(Clone, Debug)]
pub struct Watched {
    /// What the process is about.
    pub phase: watch::Receiver<Phase>,
    /// The connection.
    pub connection: watch::Receiver<ConnectionState>,
    /// The writer.
    pub writer: watch::Receiver<WriterState>,
    /// The readers.
    pub readers: BTreeMap<StreamName, watch::Receiver<ReaderState>>,
    /// See [`Parts`].
    pub parts: watch::Receiver<Option<Parts>>,
    /// The object store of outputs; `None`: not seen, or not there.
    pub output_store: watch::Receiver<Option<Census>>,
    /// What the server's monitoring port says of it; `None`: not asked.
    pub health: watch::Receiver<Option<Result<Health, MonitorError>>>,
    /// The backend's own projector writes the same tables; `None`: not known, or of no matter.
    pub backend_is_projecting: watch::Receiver<Option<bool>>,
    /// The thread that writes.
    pub pulse: Pulse,
}

/// The stages' side of [`Watched`].
#[derive(Debug)]
pub struct Board {
    pub(super) phase: watch::Sender<Phase>,
    pub(super) connection: watch::Sender<ConnectionState>,
    pub(super) writer: watch::Sender<WriterState>,
    pub(super) readers: BTreeMap<StreamName, watch::Sender<ReaderState>>,
    pub(super) parts: watch::Sender<Option<Parts>>,
    pub(super) output_store: watch::Sender<Option<Census>>,
    pub(super) health: watch::Sender<Option<Result<Health, MonitorError>>>,
    pub(super) backend_is_projecting: watch::Sender<Option<bool>>,
    pub(super) pulse: Pulse,
}

impl Board {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        let readers = StreamName::ALL.map(|stream| (stream, watch::Sender::default()));
        Self {
            phase: watch::Sender::default(),
            connection: watch::Sender::default(),
            writer: watch::Sender::default(),
            readers: readers.into_iter().collect(),
            parts: watch::Sender::default(),
            output_store: watch::Sender::default(),
            health: watch::Sender::default(),
            backend_is_projecting: watch::Sender::default(),
            pulse: Pulse::default(),
        }
    }

    /// What can be seen of it.
    #[must_use]
    pub fn watched(&self) -> Watched {
        let readers = self.readers.iter();
        Watched {
            phase: self.phase.subscribe(),
            connection: self.connection.subscribe(),
            writer: self.writer.subscribe(),
            readers: readers
                .map(|(stream, reader)| (*stream, reader.subscribe()))
                .collect(),
            parts: self.parts.subscribe(),
            output_store: self.output_store.subscribe(),
            health: self.health.subscribe(),
            backend_is_projecting: self.backend_is_projecting.subscribe(),
            pulse: self.pulse.clone(),
        }
    }
}

impl Default for Board {
    fn default() -> Self {
        Self::new()
    }
}
