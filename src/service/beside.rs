//! On the backend's own file: is its own projector at work as well? Then two write the same tables, and the rows depend
//! on who came first (I4 is suspended). Said once when it is found, and once when it ends; `status` says it too.

use std::time::Duration;

use tokio::sync::watch;
use tracing::{debug, info, warn};

use crate::config::Config;
use crate::source::asking::Js;
use crate::source::connect::Connection;
use crate::source::opening::backend_is_projecting;

/// What an operator is told, in the log and by `status`.
pub const WARNING: &str = "the backend's own projector is consuming as well, so the same tables have two writers: which \
     of them comes first shows in versions, history and counters. Pause it with `nats consumer pause RESULTS \
     backend_results_projector 8760h` and `nats consumer pause EVENTS backend_events_projector 8760h`: a pause survives \
     the backend's restart and turns off the notifications and mails of checks, which only that projector sends";

/// See the module's words.
#[derive(Debug)]
pub struct Beside {
    js: Js,
    every: Duration,
}

impl Beside {
    /// Looks every `source.check_interval`.
    #[must_use]
    pub fn new(connection: &Connection, config: &Config) -> Self {
        Self {
            js: connection.js(),
            every: config.source.check_interval,
        }
    }

    /// Looks until shutdown.
    pub async fn watch(self, mut shutdown: watch::Receiver<bool>) {
        let mut was_projecting = false;
        loop {
            match backend_is_projecting(&self.js).await {
                Ok(true) if !was_projecting => {
                    was_projecting = true;
                    warn!("{WARNING}");
                }
                Ok(false) if was_projecting => {
                    was_projecting = false;
                    info!("the backend's own projector no longer consumes");
                }
                Ok(_) => {}
                // A permission that is missing was named when it was denied.
                Err(error) => debug!(%error, "whether the backend's own projector is at work cannot be told"),
            }
            tokio::select! {
                () = super::raised(&mut shutdown) => return,
                () = tokio::time::sleep(self.every) => {}
            }
        }
    }
}
