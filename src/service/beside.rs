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
    seen: watch::Sender<Option<bool>>,
}

impl Beside {
    /// Looks every `source.check_interval`, and shows what it has seen.
    #[must_use]
    pub fn new(connection: &Connection, config: &Config, seen: watch::Sender<Option<bool>>) -> Self {
        Self {
            js: connection.js(),
            every: config.source.check_interval,
            seen,
        }
    }

    /// Looks until shutdown.
    pub async fn watch(self, mut shutdown: watch::Receiver<bool>) {
        let mut was_projecting = false;
        loop {
            let found = backend_is_projecting(&self.js).await;
            self.seen.send_replace(found.as_ref().ok().copied());
            match found {
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
