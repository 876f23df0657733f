//! The configuration as meant: flags beat the environment, which beats the file, which beats the defaults; every
//! value knows where it came from. May touch: `serde`/`toml`, `cli`. May not: NATS, SQLite.

mod example;
mod layers;
mod rules;
mod settings;
mod units;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

use crate::cli::GlobalArgs;
pub use example::example;
use layers::Layers;
pub use layers::Shown;

/// Where the file is looked for when no flag names one.
const DEFAULT_FILE: &str = "/etc/results-projector/config.toml";

/// What is wrong with the configuration: where, what, what was expected. Exit code 2.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct ConfigError(pub(crate) String);

/// `[store]`
#[derive(Clone, Debug)]
pub struct Store {
    /// The database.
    pub path: PathBuf,
    /// `full` (true) or `normal`.
    pub synchronous_full: bool,
    /// Bytes of SQLite's page cache.
    pub page_cache_bytes: u64,
    /// Bytes past which the write-ahead log is cut back.
    pub wal_bytes_max: u64,
    /// Free bytes on the disk below which nothing is written; 0: no reserve.
    pub disk_reserve_bytes: u64,
    /// Messages from which on a database that has read nothing yet is loaded in bulk.
    pub bulk_from_messages: usize,
    /// Bytes for the page cache and for sorting while a database is made in bulk or compared.
    pub bulk_memory_bytes: u64,
}

/// `[nats]`
#[derive(Clone, Debug)]
pub struct Nats {
    /// Servers, separated by commas.
    pub url: String,
    /// Credentials file.
    pub creds: Option<PathBuf>,
    /// File with an nkey seed.
    pub nkey: Option<PathBuf>,
    /// File with a token.
    pub token_file: Option<PathBuf>,
    /// User name.
    pub user: Option<String>,
    /// File with the password.
    pub password_file: Option<PathBuf>,
    /// JetStream domain.
    pub js_domain: Option<String>,
    /// Subjects that answers come to begin with this.
    pub inbox_prefix: String,
    /// The server's monitoring port, `http://…`.
    pub monitor_url: Option<String>,
    /// Certificates to check the server's against.
    pub ca: Option<PathBuf>,
    /// Client certificate.
    pub cert: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
}

impl Nats {
    /// The servers of `nats.url`.
    pub(crate) fn servers(&self) -> impl Iterator<Item = &str> {
        self.url
            .split(',')
            .map(str::trim)
            .filter(|server| !server.is_empty())
    }
}

/// `[source]`
#[derive(Clone, Debug)]
pub struct Source {
    /// Prefix of our durables' names.
    pub consumer_prefix: String,
    /// Time after which the server delivers again.
    pub ack_wait: Duration,
    /// Between idle heartbeats.
    pub heartbeat: Duration,
    /// Life of a pull request.
    pub expires: Duration,
    /// Messages a pull request.
    pub batch_messages: usize,
    /// Bytes a pull request.
    pub batch_bytes: u64,
    /// Bytes of messages between the server and their commit.
    pub in_flight_bytes: u64,
    /// Between two checks of a running reader.
    pub check_interval: Duration,
}

/// `[outputs]`
#[derive(Clone, Debug)]
pub struct Outputs {
    /// Longest object.
    pub max_bytes: u64,
    /// Bytes of objects between the store and their commit.
    pub in_flight_bytes: u64,
    /// Looks, and reads, under way at once.
    pub concurrency: usize,
    /// Longest silence of the store.
    pub idle_timeout: Duration,
    /// Longest fetch of nothing.
    pub base_timeout: Duration,
    /// Bytes a second by which an object's size lengthens its limit.
    pub min_rate_bytes: u64,
    /// Pending for longer counts as gone.
    pub give_up_after: Duration,
    /// Bytes of objects under repair.
    pub repair_in_flight_bytes: u64,
}

/// `[group]`
#[derive(Clone, Debug)]
pub struct Group {
    /// Items in one transaction.
    pub max_rows: usize,
    /// Payload bytes in one transaction.
    pub max_bytes: u64,
    /// Longest transaction on a file that the backend writes too.
    pub max_time: Duration,
}

/// `[retention]`
#[derive(Clone, Copy, Debug, Default)]
pub struct Retention {
    /// Results older than this are deleted; `None`: never.
    pub execution_results: Option<Duration>,
    /// Events of the history older than this are deleted; `None`: never.
    pub inventory_history: Option<Duration>,
}

/// `[observe]`
#[derive(Clone, Debug)]
pub struct Observe {
    /// Where the status page and the metrics are served; `None`: nowhere.
    pub listen: Option<SocketAddr>,
    /// Further behind than this is not ready.
    pub ready_lag: Duration,
}

/// `[log]`
#[derive(Clone, Debug)]
pub struct Log {
    /// Its form.
    pub format: LogFormat,
    /// How much is told.
    pub level: LogLevel,
}

/// How lines of the log are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// An object a line.
    Json,
    /// Fields of systemd's journal.
    Journald,
}

/// How much the log tells; each level tells what the ones before it do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// What an operator must mend.
    Error = 1,
    /// What may need one.
    Warn,
    /// What happens.
    Info,
    /// Why.
    Debug,
    /// Everything.
    Trace,
}

/// Everything, as meant.
#[derive(Clone, Debug)]
pub struct Config {
    /// See [`Store`].
    pub store: Store,
    /// See [`Nats`].
    pub nats: Nats,
    /// See [`Source`].
    pub source: Source,
    /// See [`Outputs`].
    pub outputs: Outputs,
    /// See [`Group`].
    pub group: Group,
    /// See [`Retention`].
    pub retention: Retention,
    /// See [`Observe`].
    pub observe: Observe,
    /// Payload bytes that the dead-letter book holds.
    pub dead_letter_bytes_max: u64,
    /// See [`Log`].
    pub log: Log,
    shown: Vec<Shown>,
}

impl Config {
    /// Reads all layers.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn load(flags: &GlobalArgs, env: &dyn Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        Self::of(&Layers::read(flags, env)?)
    }

    /// Nothing but what is built in.
    ///
    /// # Errors
    /// None: a test holds that the defaults are good.
    pub fn defaults() -> Result<Self, ConfigError> {
        Self::of(&Layers::defaults())
    }

    fn of(layers: &Layers) -> Result<Self, ConfigError> {
        let path = |key| layers.optional(key).map(PathBuf::from);
        let config = Self {
            store: Store {
                path: PathBuf::from(layers.text("store.path")),
                synchronous_full: layers.choice("store.synchronous", &[("full", true), ("normal", false)])?,
                page_cache_bytes: layers.bytes("store.page_cache")?,
                wal_bytes_max: layers.bytes("store.wal_limit")?,
                disk_reserve_bytes: layers.bytes("store.disk_reserve")?,
                bulk_from_messages: layers.count("store.bulk_from")?,
                bulk_memory_bytes: layers.bytes("store.bulk_memory")?,
            },
            nats: Nats {
                url: layers.text("nats.url").to_owned(),
                creds: path("nats.creds"),
                nkey: path("nats.nkey"),
                token_file: path("nats.token_file"),
                user: layers.optional("nats.user").map(str::to_owned),
                password_file: path("nats.password_file"),
                js_domain: layers.optional("nats.js_domain").map(str::to_owned),
                inbox_prefix: layers.text("nats.inbox_prefix").to_owned(),
                monitor_url: layers.optional("nats.monitor_url").map(str::to_owned),
                ca: path("nats.ca"),
                cert: path("nats.cert"),
                key: path("nats.key"),
            },
            source: Source {
                consumer_prefix: layers.text("source.consumer_prefix").to_owned(),
                ack_wait: layers.duration("source.ack_wait")?,
                heartbeat: layers.duration("source.heartbeat")?,
                expires: layers.duration("source.expires")?,
                batch_messages: layers.count("source.batch_messages")?,
                batch_bytes: layers.bytes("source.batch_bytes")?,
                in_flight_bytes: layers.bytes("source.in_flight_bytes")?,
                check_interval: layers.duration("source.check_interval")?,
            },
            outputs: Outputs {
                max_bytes: layers.bytes("outputs.max_bytes")?,
                in_flight_bytes: layers.bytes("outputs.in_flight_bytes")?,
                concurrency: layers.count("outputs.concurrency")?,
                idle_timeout: layers.duration("outputs.idle_timeout")?,
                base_timeout: layers.duration("outputs.base_timeout")?,
                min_rate_bytes: layers.bytes("outputs.min_rate")?,
                give_up_after: layers.duration("outputs.give_up_after")?,
                repair_in_flight_bytes: layers.bytes("outputs.repair_in_flight_bytes")?,
            },
            group: Group {
                max_rows: layers.count("group.max_rows")?,
                max_bytes: layers.bytes("group.max_bytes")?,
                max_time: layers.duration("group.max_time")?,
            },
            retention: Retention {
                execution_results: layers.age("retention.execution_results")?,
                inventory_history: layers.age("retention.inventory_history")?,
            },
            observe: Observe {
                listen: layers.address("observe.listen")?,
                ready_lag: layers.duration("observe.ready_lag")?,
            },
            dead_letter_bytes_max: layers.bytes("dead_letters.max_bytes")?,
            log: Log {
                format: layers.choice(
                    "log.format",
                    &[
                        ("text", LogFormat::Text),
                        ("json", LogFormat::Json),
                        ("journald", LogFormat::Journald),
                    ],
                )?,
                level: layers.choice(
                    "log.level",
                    &[
                        ("error", LogLevel::Error),
                        ("warn", LogLevel::Warn),
                        ("info", LogLevel::Info),
                        ("debug", LogLevel::Debug),
                        ("trace", LogLevel::Trace),
                    ],
                )?,
            },
            shown: layers.shown(),
        };
        rules::check(&config, layers)?;
        Ok(config)
    }

    /// Every setting with its value and origin.
    #[must_use]
    pub fn shown(&self) -> &[Shown] {
        &self.shown
    }
}

#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;
