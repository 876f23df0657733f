//! The service manager is told that the service is ready, how far it is, and that its writer goes on (DESIGN §9). Without
//! `NOTIFY_SOCKET` in the environment nobody is told anything.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::timeout;
use tracing::{debug, info, warn};

use crate::service::board::{LOADING_MESSAGES, Phase, Watched};
use crate::wire::shown::grouped;

/// Between two lines of `systemctl status`, at most.
const STATUS_EVERY: Duration = Duration::from_secs(10);
/// What the service manager waits longer, once more, while the database is opened.
const OPENING_EXTENDED_USEC: u32 = 30_000_000;
/// An idle writer takes a turn every 5 s, and is seen to some seconds later.
const WATCHDOG_LEAST: Duration = Duration::from_secs(12);
/// The thread that writes takes a turn every 5 s at least.
const FEED_WITHIN: Duration = Duration::from_secs(10);

/// Tells the service manager, until it is dropped.
pub(super) async fn tell(mut watched: Watched) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    let watchdog = sd_notify::watchdog_enabled();
    if let Some(watchdog) = watchdog {
        info!(
            seconds = watchdog.as_secs(),
            "the service manager watches whether the writer goes on"
        );
        if watchdog < WATCHDOG_LEAST {
            warn!(
                seconds = watchdog.as_secs(),
                least = WATCHDOG_LEAST.as_secs(),
                "so short a watchdog ends an idle service: raise WatchdogSec in the unit"
            );
        }
    }
    // A migration of a large database, or the check after an unclean stop, takes the time it takes.
    loop {
        let opened = watched.phase.wait_for(|phase| *phase != Phase::Opening);
        match timeout(STATUS_EVERY, opened).await {
            Ok(Ok(_)) => break,
            Ok(Err(_)) => return,
            Err(_) => send(&[NotifyState::ExtendTimeoutUsec(OPENING_EXTENDED_USEC)]),
        }
    }
    // The database is open: a server that is down must not time the start out.
    send(&[NotifyState::Ready]);
    let feed_every = watchdog.map_or(STATUS_EVERY, |watchdog| (watchdog / 4).min(STATUS_EVERY));
    let stale = watchdog.map_or(FEED_WITHIN, |watchdog| {
        (watchdog / 2).max(FEED_WITHIN).min(watchdog)
    });
    let mut said = String::new();
    let mut phases = watched.phase.clone();
    loop {
        let status = status(&watched);
        if status != said {
            send(&[NotifyState::Status(&status)]);
            said = status;
        }
        if *watched.phase.borrow() == Phase::Stopping {
            stopping();
            return;
        }
        if watchdog.is_some() && goes_on(&watched, stale) {
            send(&[NotifyState::Watchdog]);
        }
        tokio::select! {
            changed = phases.changed() => if changed.is_err() { return; },
            () = tokio::time::sleep(feed_every) => {}
        }
    }
}

/// Said once the service has been asked to end.
pub(super) fn stopping() {
    send(&[NotifyState::Stopping]);
}

/// While the server is waited for there is no writer to go on; else its own turns count, and nothing else.
fn goes_on(watched: &Watched, stale: Duration) -> bool {
    match *watched.phase.borrow() {
        Phase::Opening | Phase::Connecting | Phase::Stopping => true,
        // A new start would only begin it again.
        Phase::Loading(what) if what != LOADING_MESSAGES => true,
        Phase::Loading(_) | Phase::Running => watched.pulse.age() < stale,
    }
}

/// One line: the phase, or what is in the way, and where the streams stand.
fn status(watched: &Watched) -> String {
    let writer = watched.writer.borrow();
    let in_the_way = writer.not_writing.clone().or_else(|| {
        let mut readers = watched.readers.values();
        readers.find_map(|reader| reader.borrow().not_reading.clone())
    });
    let phase = match *watched.phase.borrow() {
        Phase::Opening => "opening the database".to_owned(),
        Phase::Connecting => {
            let waiting = watched.connection.borrow().waiting.clone();
            waiting.map_or("connecting".to_owned(), |why| {
                format!("waiting for the server: {why}")
            })
        }
        Phase::Loading(what) => format!("loading in bulk: {what}"),
        Phase::Stopping => "stopping".to_owned(),
        Phase::Running => in_the_way
            .or_else(|| {
                let mut readers = watched.readers.iter();
                let unopened = readers.find(|(_, reader)| reader.borrow().last.is_none());
                unopened.map(|(stream, _)| format!("opening the consumer of {stream}"))
            })
            .unwrap_or_else(|| "projecting".to_owned()),
    };
    let places = watched.readers.iter().filter_map(|(stream, reader)| {
        let position = writer.positions.get(stream)?.0;
        let behind = reader.borrow().last.map(|last| last.0.saturating_sub(position));
        let behind = behind.map_or("?".to_owned(), grouped);
        Some(format!("{stream} {} ({behind} behind)", grouped(position)))
    });
    let mut parts = vec![phase];
    parts.extend(places);
    // A line for the service manager must be one.
    crate::wire::inert::inert(&parts.join("; "), 400).into_owned()
}

fn send(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        debug!(%error, "the service manager was not told");
    }
}
