//! What is looked at beside the live path, for people only: the object store of outputs, how long it keeps them and how
//! full it is (a full one refuses uploads, and what it has let go nobody can fetch); what the server's monitoring port says
//! of it, where one is configured; and on the backend's own file whether its projector is at work as well.

use std::time::Duration;

use tokio::sync::watch;
use tracing::{debug, error, info, warn};

use crate::source::asking::Js;
use crate::source::census::{Census, census_of_outputs};
use crate::source::monitor::{Health, MonitorError, health};
use crate::source::opening::backend_is_projecting;

/// What an operator is told while the backend's own projector writes the same tables, in the log and by `status`.
pub const TWO_WRITERS: &str = "the backend's own projector is consuming as well, so the same tables have two writers: which \
     of them comes first shows in versions, history and counters. Pause it with `nats consumer pause RESULTS \
     backend_results_projector 8760h` and `nats consumer pause EVENTS backend_events_projector 8760h`: a pause survives \
     the backend's restart and turns off the notifications and mails of checks, which only that projector sends";

/// Its settings change when an operator changes them, its size slowly.
const EVERY: Duration = Duration::from_secs(60);

/// Looks at the object store until shutdown.
pub(super) async fn watch(js: Js, seen: watch::Sender<Option<Census>>, mut shutdown: watch::Receiver<bool>) {
    loop {
        match census_of_outputs(&js).await {
            Ok(found) => drop(seen.send_replace(found)),
            // A permission that is missing was named when it was denied; what was seen last is still the best there is.
            Err(error) => debug!(%error, "the object store of outputs cannot be looked at"),
        }
        tokio::select! {
            () = super::raised(&mut shutdown) => return,
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

/// Asks the server's monitoring port until shutdown: one whose disk was full refuses every publish until it is restarted, and from
/// a connection that looks like a quiet night.
pub(super) async fn watch_health(
    url: String,
    every: Duration,
    seen: watch::Sender<Option<Result<Health, MonitorError>>>,
    mut shutdown: watch::Receiver<bool>,
) {
    let mut was_well = true;
    loop {
        let found = health(&url).await;
        let well = found.as_ref().map_or(was_well, Health::is_ok);
        match &found {
            Ok(health) if was_well && !well => {
                let reason = health.error.as_deref().unwrap_or(&health.status);
                error!(
                    reason,
                    "the server calls itself unhealthy; while it is, publishers may be refused without being told"
                );
            }
            Ok(_) if !was_well && well => info!("the server calls itself healthy again"),
            Ok(_) => {}
            Err(error) => debug!(%error, "the server's monitoring port does not answer"),
        }
        was_well = well;
        seen.send_replace(Some(found));
        tokio::select! {
            () = super::raised(&mut shutdown) => return,
            () = tokio::time::sleep(every) => {}
        }
    }
}

/// Looks until shutdown whether the backend's own projector is at work: then the rows depend on who came first (I4 is
/// suspended). Said once when it is found, and once when it ends.
pub(super) async fn watch_backend(
    js: Js,
    every: Duration,
    seen: watch::Sender<Option<bool>>,
    mut shutdown: watch::Receiver<bool>,
) {
    let mut was_projecting = false;
    loop {
        let found = backend_is_projecting(&js).await;
        seen.send_replace(found.as_ref().ok().copied());
        match found {
            Ok(true) if !was_projecting => {
                was_projecting = true;
                warn!("{TWO_WRITERS}");
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
            () = tokio::time::sleep(every) => {}
        }
    }
}
