//! Pairs that are due: what they are derived from is read beside the live path, since one scan of all results may take
//! long; the writer then derives each in one transaction (DESIGN §5).

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::{Notify, oneshot, watch};
use tracing::{debug, info, warn};

use super::work::Work;
use crate::store::derive::{DuePair, due_pairs};
use crate::store::{StoreError, read_only};

/// Pairs that become due within this time share one scan.
const GATHER: Duration = Duration::from_millis(500);

/// Why the due pairs could not be read.
#[derive(Debug, Error)]
#[error("{why}")]
pub(super) struct Unread {
    why: String,
    /// Somebody writes, and all others wait.
    is_busy: bool,
}

/// Reads what due pairs are derived anew from, and hands it to the writer.
#[derive(Clone, Debug)]
pub(super) struct Rederiver {
    /// The database, to read.
    pub database: PathBuf,
    /// To the writer.
    pub works: Sender<Work>,
    /// Told when a commit has left a pair due, and once at the start.
    pub due: Arc<Notify>,
}

impl Rederiver {
    /// Serves until shutdown.
    pub(super) async fn run(self, mut shutdown: watch::Receiver<bool>) {
        loop {
            tokio::select! {
                () = super::raised(&mut shutdown) => return,
                () = self.due.notified() => {}
            }
            tokio::select! {
                () = super::raised(&mut shutdown) => return,
                () = tokio::time::sleep(GATHER) => {}
            }
            if let Err(error) = self.round().await {
                // A load with little memory writes before it commits, and nobody reads meanwhile: no news for anybody.
                if error.is_busy {
                    debug!(%error, "cannot read what the due pairs are derived from; trying again");
                } else {
                    warn!(%error, "cannot read what the due pairs are derived from; trying again");
                }
                self.due.notify_one();
            }
        }
    }

    /// Has the writer derive the pairs that are due now; returns when it has.
    ///
    /// # Errors
    /// Why they cannot be read.
    pub(super) async fn round(&self) -> Result<(), Unread> {
        let database = self.database.clone();
        let scan = move || -> Result<Vec<DuePair>, StoreError> { due_pairs(&read_only(&database)?) };
        let pairs = tokio::task::spawn_blocking(scan)
            .await
            .map_err(|error| Unread {
                why: error.to_string(),
                is_busy: false,
            })?
            .map_err(|error| Unread {
                is_busy: error.is_busy(),
                why: error.to_string(),
            })?;
        if !pairs.is_empty() {
            info!(pairs = pairs.len(), "deriving pairs anew whose outputs came back");
        }
        let (reply, answer) = oneshot::channel();
        // Errors are a writer that is gone: they stay due, for the next process.
        if self.works.send(Work::Derive(pairs)).is_ok() && self.works.send(Work::WhenDerived(reply)).is_ok() {
            let _answered = answer.await;
        }
        Ok(())
    }
}
