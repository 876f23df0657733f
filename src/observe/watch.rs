//! One look at everything that can be watched, and whether the service is ready.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::document::{Document, Outside, Service, StreamEnd};
use super::findings::MOSTLY_DEAD;
use super::history::{History, Sample};
use crate::config::Config;
use crate::service::board::{Phase, Watched};
use crate::service::now;
use crate::source::monitor::Health;
use crate::store::dead_letters::{self, Listed};
use crate::store::{StoreError, below_reserve, read_only, report};
use crate::wire::kv::StreamName;
use crate::wire::shown::{grouped, span};
use crate::wire::time::Timestamp;

/// Whoever asks more often gets the same answer again: reading the books is work.
const FRESH_FOR: Duration = Duration::from_secs(1);

/// Issues, and newest gaps, that are told; their numbers are whole.
const LINES_MAX: i64 = 200;

/// Dead letters on the page.
const LETTERS_MAX: u64 = 20;

/// What was seen in one look.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) document: Document,
    /// The newest dead letters, the newest first.
    pub(super) letters: Vec<Listed>,
}

/// Looks at the service, and at its database through a reading connection of its own.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) watched: Watched,
    history: Mutex<History>,
    path: PathBuf,
    ready_lag: Duration,
    disk_reserve_bytes: u64,
    started: Timestamp,
    begun: Instant,
    /// By stream, of those that were seen caught up: since when they are behind.
    behind: Mutex<BTreeMap<StreamName, Option<Instant>>>,
    last: tokio::sync::Mutex<Option<(Instant, Arc<Seen>)>>,
}

impl Watch {
    pub(super) fn new(config: &Config, watched: Watched, started: Timestamp) -> Self {
        Self {
            watched,
            history: Mutex::default(),
            path: config.store.path.clone(),
            ready_lag: config.observe.ready_lag,
            disk_reserve_bytes: config.store.disk_reserve_bytes,
            started,
            begun: Instant::now(),
            behind: Mutex::default(),
            last: tokio::sync::Mutex::default(),
        }
    }

    /// What is known now.
    pub(super) async fn look(&self) -> Arc<Seen> {
        // Who asks meanwhile waits for the same answer.
        let mut last = self.last.lock().await;
        if let Some((at, seen)) = &*last
            && at.elapsed() < FRESH_FOR
        {
            return seen.clone();
        }
        let path = self.path.clone();
        let read = move || {
            let conn = read_only(&path)?;
            Ok::<_, StoreError>((
                report::read_within(&conn, LINES_MAX)?,
                dead_letters::newest(&conn, LETTERS_MAX)?,
            ))
        };
        let read = match tokio::task::spawn_blocking(read).await {
            Ok(read) => read.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        let (report, letters) = match read {
            Ok((report, letters)) => (Ok(report), letters),
            Err(why) => (Err(why), Vec::new()),
        };
        self.notice();
        let mut service = self.service();
        service.not_ready.extend(match &report {
            Err(why) => Some(format!("the database cannot be read: {why}")),
            // What is lost with the stream is not kept whole (I7).
            Ok(report) if report.dead_letters_without_payload > 0 => Some(format!(
                "of {} dead letters only the stream holds the payload",
                grouped(report.dead_letters_without_payload)
            )),
            Ok(_) => None,
        });
        service.ready = service.not_ready.is_empty();
        let seen = Arc::new(Seen {
            document: Document::new(&self.path, report, self.outside(), Some(service)),
            letters,
        });
        *last = Some((Instant::now(), seen.clone()));
        seen
    }

    /// What the stages know of the server.
    fn outside(&self) -> Outside {
        let watched = &self.watched;
        let behind_for = self.behind_for();
        let streams = watched.readers.iter().filter_map(|(stream, reader)| {
            let reader = reader.borrow();
            let end = StreamEnd {
                last: reader.last?.0,
                bytes: reader.bytes,
                bytes_max: reader.bytes_max,
                not_reading: reader.not_reading.clone(),
                behind_for: behind_for.get(stream).copied(),
            };
            Some((stream.to_string(), end))
        });
        let (unhealthy, health_unknown) = match &*watched.health.borrow() {
            None => (None, None),
            Some(Ok(health)) => (why_unhealthy(health), None),
            Some(Err(error)) => (None, Some(error.to_string())),
        };
        Outside {
            unavailable: self.not_connected(),
            unhealthy,
            health_unknown,
            streams: streams.collect(),
            manifests: watched
                .parts
                .borrow()
                .as_ref()
                .map(|parts| parts.manifests.borrow().clone()),
            output_store: *watched.output_store.borrow(),
            backend_is_projecting: *watched.backend_is_projecting.borrow(),
            backend_unknown: None,
        }
    }

    fn not_connected(&self) -> Option<String> {
        let connection = self.watched.connection.borrow();
        match (connection.connected, connection.lost) {
            (true, _) => None,
            (false, Some(lost)) => Some(format!("the connection was lost {} ago", span(lost.elapsed()))),
            (false, None) => Some(
                connection
                    .waiting
                    .clone()
                    .unwrap_or_else(|| "not connected yet".to_owned()),
            ),
        }
    }

    /// Why the service is not ready: what a finding tells too, in its own words; and what none does.
    fn reasons(&self) -> (Vec<String>, Vec<String>) {
        let watched = &self.watched;
        let behind_for = self.behind_for();
        let (mut why, mut told_here) = (Vec::new(), Vec::new());
        let phase = *watched.phase.borrow();
        match phase {
            Phase::Running | Phase::Connecting => {}
            Phase::Opening => told_here.push("the database is being opened".to_owned()),
            Phase::Loading(what) => told_here.push(format!("the streams are being loaded in bulk: {what}")),
            Phase::Stopping => told_here.push("the service is stopping".to_owned()),
        }
        let not_connected = self.not_connected();
        let is_connected = not_connected.is_none();
        why.extend(not_connected);
        if is_connected && phase == Phase::Connecting {
            told_here.push("the manifests are being read".to_owned());
        }
        if let Some(Ok(health)) = &*watched.health.borrow()
            && let Some(unhealthy) = why_unhealthy(health)
        {
            why.push(format!("the server calls itself unhealthy: {unhealthy}"));
        }
        let writer = watched.writer.borrow();
        match &writer.not_writing {
            Some(not_writing) => why.push(format!("not writing: {not_writing}")),
            // The next group would find it out.
            None => told_here.extend(below_reserve(&self.path, self.disk_reserve_bytes)),
        }
        if writer.mostly_dead {
            why.push(MOSTLY_DEAD.to_owned());
        }
        if phase != Phase::Running {
            return (why, told_here);
        }
        for (stream, reader) in &watched.readers {
            let reader = reader.borrow();
            if let Some(not_reading) = &reader.not_reading {
                let told = if is_connected { &mut told_here } else { &mut why };
                told.push(format!("{stream} is not read: {not_reading}"));
                continue;
            }
            let Some(last) = reader.last else {
                told_here.push(format!("{stream} is being opened"));
                continue;
            };
            let position = writer.position(*stream).0;
            let behind = last.0.saturating_sub(position);
            // Where no message stands at the position, it is behind since nobody knows when: since the start at least.
            let age = writer.published.get(stream).map_or_else(
                || self.begun.elapsed(),
                |published| now().since(*published).unwrap_or_default(),
            );
            let age = behind_for.get(stream).map_or(age, |most| age.min(*most));
            if behind > 0 && age > self.ready_lag {
                told_here.push(format!(
                    "{stream} is {} behind, {} messages",
                    span(age),
                    grouped(behind)
                ));
            }
        }
        (why, told_here)
    }

    fn service(&self) -> Service {
        let watched = &self.watched;
        let phase = *watched.phase.borrow();
        let (mut not_ready, told_here) = self.reasons();
        not_ready.extend(told_here.iter().cloned());
        let mut in_flight_bytes = BTreeMap::new();
        if let Some(parts) = &*watched.parts.borrow() {
            in_flight_bytes.insert("messages", parts.messages.taken_bytes());
            in_flight_bytes.insert("outputs", parts.outputs.taken_bytes());
            in_flight_bytes.insert("repair", parts.repair.taken_bytes());
        }
        // Before the writer's state is held: whoever has the history must not wait for it.
        let items = watched.writer.borrow().items;
        let items_per_second = self.history().rate_now(items);
        let writer = watched.writer.borrow();
        Service {
            phase: match phase {
                Phase::Opening => "opening",
                Phase::Connecting => "connecting",
                Phase::Loading(_) => "loading",
                Phase::Running => "running",
                Phase::Stopping => "stopping",
            },
            loading: match phase {
                Phase::Loading(what) => Some(what),
                _ => None,
            },
            started_at: self.started.stored(),
            ready: not_ready.is_empty(),
            not_ready,
            told_here,
            last_commit_at: writer.last_commit.map(|at| at.stored()),
            commit_seconds: writer.commit_time.as_secs_f64(),
            groups: writer.groups,
            items: writer.items,
            items_per_second,
            log_held_since: writer.log_held_since.map(|at| at.stored()),
            mostly_dead: writer.mostly_dead,
            not_writing: writer.not_writing.clone(),
            in_flight_bytes,
        }
    }

    /// One moment of the last hour.
    pub(super) fn sample(&self) {
        self.notice();
        let sample = Sample::take(&self.watched);
        self.history().push(sample);
    }

    /// Notes which streams are caught up, and since when the others are not.
    fn notice(&self) {
        // Whoever holds this lock waits for no stage: what they show is read before.
        let positions = self.watched.writer.borrow().positions.clone();
        let readers = self.watched.readers.iter();
        let ends: Vec<_> = readers
            .filter_map(|(stream, reader)| Some((stream, reader.borrow().last?)))
            .collect();
        let mut seen = self.behind.lock().unwrap_or_else(PoisonError::into_inner);
        for (stream, last) in ends {
            if positions.get(stream).is_some_and(|position| *position >= last) {
                seen.insert(*stream, None);
            } else if let Some(since) = seen.get_mut(stream) {
                since.get_or_insert_with(Instant::now);
            }
        }
    }

    /// How long each stream is behind that was seen caught up before.
    fn behind_for(&self) -> BTreeMap<StreamName, Duration> {
        let seen = self.behind.lock().unwrap_or_else(PoisonError::into_inner);
        let for_so_long = |since: &Option<Instant>| since.map_or(Duration::ZERO, |since| since.elapsed());
        seen.iter()
            .map(|(stream, since)| (*stream, for_so_long(since)))
            .collect()
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn history(&self) -> std::sync::MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the server says is wrong with it; `None` while it is well.
fn why_unhealthy(health: &Health) -> Option<String> {
    let why = health.error.as_ref().unwrap_or(&health.status);
    (!health.is_ok()).then(|| why.clone())
}
