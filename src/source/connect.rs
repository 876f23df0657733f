//! The connection: how it logs in, how it comes back, and what is told of its ups and downs.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_nats::{Client, ConnectErrorKind, ConnectOptions, Event};
use thiserror::Error;
use tokio::sync::watch;
use tracing::{error, info, warn};

use super::asking::Js;
use super::denials::{Denials, Denied};
use super::opening::jitter;
use crate::config;
use crate::meters::{self, ClientEvent};

/// A JetStream API call that takes longer is unknown, not failed.
const API_TIMEOUT: Duration = Duration::from_secs(2);
/// A connection attempt that takes longer has failed.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection that is silent for two of these is dead.
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// Between attempts to connect, at most: doubling from 100 ms.
const RECONNECT_PAUSE_MAX: Duration = Duration::from_secs(5);
/// While the first connection is waited for, it is said this often.
const SAY_EVERY: u32 = 10;

/// The connection's ups and downs.
#[derive(Clone, Debug, Default)]
pub struct ConnectionState {
    /// Whether it stands now.
    pub connected: bool,
    /// Rises with every loss and every return.
    pub epoch: u64,
    /// When it was lost last.
    pub lost: Option<Instant>,
    /// Why the first one does not come about; `None` once it did.
    pub waiting: Option<String>,
    /// What the server does not allow this user.
    pub denied: Denials,
}

/// A client, and what is told of it.
#[derive(Clone, Debug)]
pub struct Connection {
    /// The client.
    pub client: Client,
    /// Its ups and downs.
    pub state: watch::Receiver<ConnectionState>,
    /// JetStream domain.
    pub js_domain: Option<String>,
}

impl Connection {
    /// JetStream, with our time-out for calls of its API.
    #[must_use]
    pub fn js(&self) -> Js {
        self.js_within(API_TIMEOUT)
    }

    /// JetStream, whose calls fail after `timeout`.
    pub(super) fn js_within(&self, timeout: Duration) -> Js {
        Js::new(
            self.client.clone(),
            self.js_domain.as_deref(),
            timeout,
            self.state.clone(),
        )
    }
}

/// Why there is no connection.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// The outside is unavailable: exit code 3.
    #[error("cannot connect to {url}: {why}; is the server running, and reachable from here?")]
    Unreachable {
        /// Where to.
        url: String,
        /// What happened.
        why: String,
    },
    /// The server is there and says no: exit code 3, since it may be mended there.
    #[error(
        "{url} refuses these credentials: {why}; check nats.creds, nats.nkey, nats.token_file or nats.user"
    )]
    Refused {
        /// Where to.
        url: String,
        /// What happened.
        why: String,
    },
    /// A file that cannot be used: exit code 2.
    #[error("{0}")]
    Configuration(String),
}

impl ConnectError {
    /// DESIGN §8.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Configuration(_) => 2,
            Self::Unreachable { .. } | Self::Refused { .. } => 3,
        }
    }
}

/// Connects, or says why not: for commands that need the server now.
///
/// # Errors
/// See [`ConnectError`].
pub async fn once(nats: &config::Nats) -> Result<Connection, ConnectError> {
    once_telling(nats, &watch::Sender::default()).await
}

/// As [`once`]; its ups and downs are told to `state`.
///
/// # Errors
/// See [`ConnectError`].
pub async fn once_telling(
    nats: &config::Nats,
    state: &watch::Sender<ConnectionState>,
) -> Result<Connection, ConnectError> {
    let client = attempt(nats, state, Tells::All).await?;
    Ok(connection(nats, client, state.subscribe()))
}

/// As [`once`], for a look at what is allowed and what is not: a denial is an answer there, and logged by nobody.
///
/// # Errors
/// See [`ConnectError`].
pub(super) async fn to_look(nats: &config::Nats) -> Result<Connection, ConnectError> {
    let state = watch::Sender::default();
    let client = attempt(nats, &state, Tells::NoDenials).await?;
    Ok(connection(nats, client, state.subscribe()))
}

/// What of a connection's events is logged.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tells {
    All,
    NoDenials,
}

fn connection(nats: &config::Nats, client: Client, state: watch::Receiver<ConnectionState>) -> Connection {
    Connection {
        client,
        state,
        js_domain: nats.js_domain.clone(),
    }
}

/// Looks at what a connection would need of files, without connecting.
///
/// # Errors
/// [`ConnectError::Configuration`]: the setting, and the file.
pub fn check(nats: &config::Nats) -> Result<(), ConnectError> {
    servers(nats)?;
    options(nats).map(drop)
}

fn servers(nats: &config::Nats) -> Result<Vec<async_nats::ServerAddr>, ConnectError> {
    let parsed = nats
        .servers()
        .map(|server| server.parse())
        .collect::<Result<_, _>>();
    parsed.map_err(|error| ConnectError::Configuration(format!("nats.url {:?}: {error}", nats.url)))
}

/// Tries until the server is there: for the service. Its ups and downs are told to `state`.
///
/// # Errors
/// Only [`ConnectError::Configuration`]: waiting cannot mend a file.
pub async fn patiently(
    nats: &config::Nats,
    state: &watch::Sender<ConnectionState>,
) -> Result<Connection, ConnectError> {
    let mut attempts = 0_u32;
    loop {
        match attempt(nats, state, Tells::All).await {
            Ok(client) => return Ok(connection(nats, client, state.subscribe())),
            Err(error @ ConnectError::Configuration(_)) => return Err(error),
            Err(error) => {
                state.send_modify(|state| state.waiting = Some(error.to_string()));
                if attempts.is_multiple_of(SAY_EVERY) {
                    match &error {
                        ConnectError::Refused { .. } => {
                            error!(%error, attempts, "waiting for the server to accept us")
                        }
                        _ => warn!(%error, attempts, "waiting for the server"),
                    }
                }
                attempts += 1;
                jitter(1_500, 3_000).await;
            }
        }
    }
}

async fn attempt(
    nats: &config::Nats,
    state: &watch::Sender<ConnectionState>,
    tells: Tells,
) -> Result<Client, ConnectError> {
    let url = nats.url.clone();
    let servers = servers(nats)?;
    let (state, losses, first) = (state.clone(), AtomicU64::new(0), AtomicBool::new(true));
    let options = options(nats)?
        .name("results-projector")
        .custom_inbox_prefix(&nats.inbox_prefix)
        .connection_timeout(CONNECT_TIMEOUT)
        .ping_interval(PING_INTERVAL)
        .max_reconnects(None)
        .reconnect_delay_callback(move |attempt| {
            // The first of all is what every command waits for. One after a loss is not: a server may take us and drop us again.
            if first.swap(false, Ordering::Relaxed) {
                return Duration::ZERO;
            }
            pause_before(attempt)
        })
        .event_callback(move |event| {
            told(&state, &losses, &event, tells);
            std::future::ready(())
        });
    async_nats::connect_with_options(servers, options)
        .await
        .map_err(|error| {
            let why = std::error::Error::source(&error)
                .map_or_else(|| error.to_string(), |source| format!("{error}: {source}"));
            match error.kind() {
                ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
                    ConnectError::Refused { url, why }
                }
                _ => ConnectError::Unreachable { url, why },
            }
        })
}

/// The pause before an attempt to connect, counted from 1 since the last success.
fn pause_before(attempt: usize) -> Duration {
    let doublings = u32::try_from(attempt).unwrap_or(u32::MAX).min(7);
    Duration::from_millis(50 << doublings).min(RECONNECT_PAUSE_MAX)
}

/// The client tells of everything; what repeats is counted, not printed.
fn told(state: &watch::Sender<ConnectionState>, losses: &AtomicU64, event: &Event, tells: Tells) {
    meters::client_event(match event {
        Event::Connected => ClientEvent::Connected,
        Event::Disconnected => ClientEvent::Disconnected,
        Event::SlowConsumer(_) => ClientEvent::SlowConsumer,
        Event::ServerError(_) => ClientEvent::ServerError,
        _ => ClientEvent::Other,
    });
    match event {
        Event::Connected => {
            state.send_modify(|state| {
                state.connected = true;
                state.waiting = None;
                state.epoch += 1;
            });
            info!("connected to NATS");
        }
        Event::Disconnected => {
            let was = state.borrow().connected;
            state.send_modify(|state| {
                state.connected = false;
                state.epoch += 1;
                state.lost = Some(Instant::now());
            });
            if was {
                warn!("the connection to NATS was lost; reconnecting by itself");
            }
        }
        Event::SlowConsumer(_) => {
            if losses.fetch_add(1, Ordering::Relaxed) == 0 {
                warn!(
                    "the client dropped messages that it could not buffer; the readers notice and read them again"
                );
            }
        }
        Event::ServerError(error) => match Denied::parse(&error.to_string()) {
            Some(denied) => {
                let mut first = false;
                state.send_modify(|state| first = state.denied.note(denied.clone(), state.epoch));
                // Acks alone may be denied thousands of times.
                if first && tells == Tells::All {
                    error!("{denied}");
                }
            }
            None => tracing::debug!(%error, "the server told an error"),
        },
        other => tracing::debug!(event = %other, "client event"),
    }
}

fn options(nats: &config::Nats) -> Result<ConnectOptions, ConnectError> {
    let mut options = ConnectOptions::new();
    if let Some(path) = &nats.creds {
        options = options
            .credentials(&format!("{}\n", secret("nats.creds", path)?))
            .map_err(|error| {
                ConnectError::Configuration(format!(
                    "nats.creds {}: no credentials file: {error}",
                    path.display()
                ))
            })?;
    } else if let Some(path) = &nats.nkey {
        options = options.nkey(secret("nats.nkey", path)?);
    } else if let Some(path) = &nats.token_file {
        options = options.token(secret("nats.token_file", path)?);
    } else if let (Some(user), Some(path)) = (&nats.user, &nats.password_file) {
        options = options.user_and_password(user.clone(), secret("nats.password_file", path)?);
    }
    for (key, path) in [
        ("nats.ca", &nats.ca),
        ("nats.cert", &nats.cert),
        ("nats.key", &nats.key),
    ] {
        if let Some(path) = path {
            secret(key, path)?;
        }
    }
    if let Some(ca) = &nats.ca {
        options = options.add_root_certificates(ca.clone()).require_tls(true);
    }
    if let (Some(cert), Some(key)) = (&nats.cert, &nats.key) {
        options = options
            .add_client_certificate(cert.clone(), key.clone())
            .require_tls(true);
    }
    Ok(options)
}

/// A file's text without its last line end.
fn secret(key: &str, path: &Path) -> Result<String, ConnectError> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        ConnectError::Configuration(format!("cannot read {key} {}: {error}", path.display()))
    })?;
    let text = text.trim_end_matches(['\r', '\n']);
    if text.is_empty() {
        return Err(ConnectError::Configuration(format!(
            "{key} {} is empty",
            path.display()
        )));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_to_connect_are_further_and_further_apart_up_to_a_bound() {
        let pauses: Vec<Duration> = (1..12).map(pause_before).collect();
        assert_eq!(pauses[0], Duration::from_millis(100));
        assert!(pauses.is_sorted());
        assert_eq!([pauses[10], pause_before(usize::MAX)], [RECONNECT_PAUSE_MAX; 2]);
    }
}
