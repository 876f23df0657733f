//! Reads, never steers: logs, metrics, health, the status page, and what the service manager is told.
//! May touch: what the service shows on its board, and the database through connections that can only read. May not:
//! change what is observed, or ask the server anything by itself.

pub mod document;
pub mod findings;
mod history;
mod html;
mod http;
mod journal;
mod letters;
pub mod logging;
mod page;
mod recorder;
mod systemd;
mod watch;

use std::sync::Arc;

use tokio::task::JoinSet;
use tracing::warn;

use self::recorder::Recorder;
use self::watch::Watch;
use crate::config::Config;
use crate::service::board::Watched;
use crate::service::now;
use crate::store::versions;

/// Histograms are folded this often.
const UPKEEP_EVERY: std::time::Duration = std::time::Duration::from_secs(5);

/// Everything that observes one running service.
#[derive(Debug)]
pub struct Observer {
    /// They end with it.
    tasks: JoinSet<()>,
}

impl Observer {
    /// Begins to observe. What cannot be served keeps nobody from projecting: it is said.
    #[must_use]
    pub fn start(config: &Config, watched: Watched) -> Self {
        let mut tasks = JoinSet::new();
        tasks.spawn(systemd::tell(watched.clone()));
        let Some(address) = config.observe.listen else {
            return Self { tasks };
        };
        let started = now();
        let metrics = match Recorder::install(started) {
            Ok(metrics) => Some(metrics),
            Err(reason) => {
                warn!(reason, "there will be no metrics");
                None
            }
        };
        let watch = Arc::new(Watch::new(config, watched, started));
        tasks.spawn(http::serve(address, watch.clone(), metrics.clone()));
        tasks.spawn(async move {
            let mut samples = tokio::time::interval(history::every());
            let mut upkeep = tokio::time::interval(UPKEEP_EVERY);
            loop {
                tokio::select! {
                    _ = samples.tick() => watch.sample(),
                    _ = upkeep.tick() => if let Some(metrics) = &metrics {
                        metrics.upkeep();
                    },
                }
            }
        });
        Self { tasks }
    }

    /// The service has ended.
    pub fn end(mut self) {
        systemd::stopping();
        self.tasks.abort_all();
    }
}

const VERSION: &str = env!("CARGO_PKG_VERSION");
/// What this is built from.
pub(crate) const COMMIT: &str = env!("RESULTS_PROJECTOR_COMMIT");

/// What was built in, for people.
fn build() -> String {
    format!(
        "results-projector {VERSION}, commit {COMMIT}, SQLite {}",
        versions().sqlite
    )
}

/// What was built in, as labels.
fn build_labels() -> Vec<(&'static str, String)> {
    vec![
        ("version", VERSION.to_owned()),
        ("commit", COMMIT.to_owned()),
        ("sqlite", versions().sqlite.to_owned()),
    ]
}
