//! The server's monitoring port: what its connections do not tell. After its disk was full a server refuses every publish
//! until it is restarted, while streams and consumers look healthy; only `/healthz` says so.

use std::time::Duration;

use serde::Deserialize;
use thiserror::Error;

use crate::wire::time::Timestamp;

/// A port that does not answer within this is none.
const LIMIT: Duration = Duration::from_secs(3);
/// Bytes: an answer that is longer is none.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// What `/healthz` says.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Health {
    /// `ok`, or another word.
    pub status: String,
    /// What is wrong.
    #[serde(default)]
    pub error: Option<String>,
}

impl Health {
    /// Whether the server calls itself healthy.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.status == "ok"
    }
}

/// How soon JetStream presses onto the disk what it has acknowledged: `/varz`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncPolicy {
    /// Between two times; `None` where the server does not say.
    pub interval: Option<Duration>,
    /// With every message.
    pub always: bool,
}

/// Why the port says nothing.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the monitoring port {url} {why}; check nats.monitor_url")]
pub struct MonitorError {
    /// What was asked.
    pub url: String,
    /// What came instead.
    pub why: String,
}

/// Asks `/healthz`. An unhealthy server is an answer, not an error.
///
/// # Errors
/// When nobody answers there, or not as a NATS server does.
pub async fn health(url: &str) -> Result<Health, MonitorError> {
    ask(url, "healthz").await
}

#[derive(Deserialize)]
struct Varz {
    #[serde(default)]
    jetstream: Option<JetStream>,
    now: Timestamp,
}

#[derive(Deserialize)]
struct JetStream {
    #[serde(default)]
    config: Option<JetStreamConfig>,
}

#[derive(Deserialize)]
struct JetStreamConfig {
    /// Nanoseconds.
    #[serde(default)]
    sync_interval: u64,
    #[serde(default)]
    sync_always: bool,
}

/// Asks `/varz`; with the time by the server's clock.
///
/// # Errors
/// As [`health`].
pub async fn sync(url: &str) -> Result<(SyncPolicy, Timestamp), MonitorError> {
    let found: Varz = ask(url, "varz").await?;
    let config = found.jetstream.and_then(|jetstream| jetstream.config);
    let sync = config.map_or(
        SyncPolicy {
            interval: None,
            always: false,
        },
        |config| SyncPolicy {
            interval: (config.sync_interval > 0).then(|| Duration::from_nanos(config.sync_interval)),
            always: config.sync_always,
        },
    );
    Ok((sync, found.now))
}

async fn ask<T: for<'de> Deserialize<'de>>(url: &str, what: &str) -> Result<T, MonitorError> {
    let url = format!("{}/{what}", url.trim_end_matches('/'));
    let failed = |why: String| MonitorError {
        url: url.clone(),
        why,
    };
    let asked = url.clone();
    let text = tokio::task::spawn_blocking(move || get(&asked))
        .await
        .map_err(|error| failed(format!("was not asked: {error}")))?
        .map_err(|error| failed(format!("does not answer: {error}")))?;
    serde_json::from_str(&text).map_err(|error| failed(format!("is none of a NATS server: {error}")))
}

fn get(url: &str) -> Result<String, ureq::Error> {
    let agent = ureq::Agent::config_builder()
        .timeout_global(Some(LIMIT))
        // An unhealthy server answers with 503.
        .http_status_as_error(false)
        // The port is asked itself, not a proxy for the web.
        .proxy(None)
        .max_redirects(0)
        .build()
        .new_agent();
    let mut answer = agent.get(url).call()?;
    answer
        .body_mut()
        .with_config()
        .limit(ANSWER_BYTES_MAX)
        .read_to_string()
}
