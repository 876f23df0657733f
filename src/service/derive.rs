//! Pairs that are due: what they are derived from is read beside the live path, since one scan of all results may take
//! long; the writer then derives each in one transaction (DESIGN §5).

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use tokio::sync::{Notify, oneshot, watch};
use tracing::{info, warn};

use super::work::{OwedQuestion, Work};
use crate::store::derive::{DuePair, due_pairs};
use crate::store::{StoreError, read_only};

/// Pairs that become due within this time share one scan.
const GATHER: Duration = Duration::from_millis(500);

/// See the module's words.
#[derive(Clone, Debug)]
pub struct Rederiver {
    /// The database, to read.
    pub database: PathBuf,
    /// To the writer.
    pub works: Sender<Work>,
    /// Told when a commit has left a pair due, and once at the start.
    pub due: Arc<Notify>,
}

impl Rederiver {
    /// Serves until shutdown.
    pub async fn run(self, mut shutdown: watch::Receiver<bool>) {
        loop {
            tokio::select! {
                () = super::raised(&mut shutdown) => return,
                () = self.due.notified() => {}
            }
            tokio::select! {
                () = super::raised(&mut shutdown) => return,
                () = tokio::time::sleep(GATHER) => {}
            }
            if self.derive().await.is_none() {
                self.due.notify_one();
            }
        }
    }

    /// Derives once what is due now: what `run --until-caught-up` owes its caller.
    pub async fn derive_due_once(&self) {
        if self.derive().await.is_none_or(|pairs| pairs == 0) {
            return;
        }
        // Answered once everything before it is committed.
        let (reply, answer) = oneshot::channel();
        let ask = OwedQuestion::Due;
        if self.works.send(Work::Owed { ask, reply }).is_ok() {
            // An error is a writer that has ended, which says why.
            let _answered = answer.await;
        }
    }

    /// Hands what is due to the writer; returns how many pairs, `None` when they could not be read.
    async fn derive(&self) -> Option<usize> {
        let database = self.database.clone();
        let scan = move || -> Result<Vec<DuePair>, StoreError> { due_pairs(&read_only(&database)?) };
        match tokio::task::spawn_blocking(scan).await {
            Ok(Ok(pairs)) if pairs.is_empty() => Some(0),
            Ok(Ok(pairs)) => {
                let count = pairs.len();
                info!(pairs = count, "deriving pairs anew whose outputs came back");
                // An error is a writer that has ended, which says why.
                let _handed_on = self.works.send(Work::Derive(pairs));
                Some(count)
            }
            Ok(Err(error)) => {
                warn!(%error, "cannot read what the due pairs are derived from; trying again");
                None
            }
            Err(error) => {
                warn!(%error, "the scan of the due pairs broke off; trying again");
                None
            }
        }
    }
}
