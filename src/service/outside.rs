//! What is looked at beside the live path, for people only: the object store of outputs, how long it keeps them and how
//! full it is. A full one refuses uploads, and what it has let go nobody can fetch.

use std::time::Duration;

use tokio::sync::watch;
use tracing::debug;

use crate::source::asking::Js;
use crate::source::census::{Limits, output_store};

/// Its settings change when an operator changes them, its size slowly.
const EVERY: Duration = Duration::from_secs(60);

/// Looks at the object store until shutdown.
pub(super) async fn watch(js: Js, seen: watch::Sender<Option<Limits>>, mut shutdown: watch::Receiver<bool>) {
    loop {
        match output_store(&js).await {
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
