//! The bucket `jobs`, watched: its documents as an immutable snapshot (contract §4.3, DESIGN §5). State, not a log: values
//! that were superseded in between never appear, and nothing needs them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::kv::{Operation, Watch};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tracing::{debug, info, warn};

use super::connect::ConnectionState;
use super::opening::{AskError, bucket_state, context, jitter};
use crate::wire::kv::BUCKET_JOBS;

/// Between two documents of a snapshot that is being read.
const READ_LIMIT: Duration = Duration::from_secs(5);

/// The documents by key.
pub type Documents = BTreeMap<String, Bytes>;

/// Watches the bucket.
#[derive(Debug)]
pub struct Watcher {
    /// The connection.
    pub client: async_nats::Client,
    /// JetStream domain.
    pub js_domain: Option<String>,
    /// Its ups and downs.
    pub connection: watch::Receiver<ConnectionState>,
    /// Between two looks at whether the watch has fallen silent.
    pub check_interval: Duration,
    /// Where snapshots go; `None` until the first is whole.
    pub to: watch::Sender<Option<Arc<Documents>>>,
}

/// Why a watch ended.
enum End {
    Missing,
    Failed(String),
    Shutdown,
}

impl From<AskError> for End {
    fn from(error: AskError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl Watcher {
    /// Watches until shutdown. A bucket that is missing counts as empty; one that cannot be read leaves the snapshot as it
    /// was.
    pub async fn run(mut self, mut shutdown: watch::Receiver<bool>) {
        let mut said = String::new();
        loop {
            let end = tokio::select! {
                () = down(&mut shutdown) => End::Shutdown,
                end = self.watch() => end,
            };
            match end {
                End::Shutdown => return,
                End::Missing => {
                    let missing = "the bucket jobs does not exist; no job has hints";
                    if said != missing {
                        warn!("{missing}");
                        missing.clone_into(&mut said);
                    }
                    self.publish(Documents::new());
                    tokio::select! {
                        () = down(&mut shutdown) => return,
                        () = tokio::time::sleep(self.check_interval.min(Duration::from_secs(5))) => {}
                    }
                }
                End::Failed(reason) => {
                    if said == reason {
                        debug!(reason, "still reading the bucket jobs");
                    } else {
                        info!(reason, "reading the bucket jobs anew");
                        said = reason;
                    }
                    jitter(200, 600).await;
                }
            }
        }
    }

    /// One watch, from its first snapshot to its end.
    async fn watch(&mut self) -> End {
        match self.follow().await {
            Ok(end) | Err(end) => end,
        }
    }

    async fn follow(&mut self) -> Result<End, End> {
        let epoch = self.connected().await;
        let js = context(self.client.clone(), self.js_domain.as_deref());
        let (mut documents, mut revision, mut entries) = read(&js).await?.ok_or(End::Missing)?;
        self.publish(documents.clone());
        let mut checks = interval_at(Instant::now() + self.check_interval, self.check_interval);
        checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut behind = false;
        let mut connection = self.connection.clone();
        loop {
            tokio::select! {
                () = async {
                    // An error is a connection that is gone for good.
                    let _lost = connection.wait_for(|state| state.epoch != epoch).await.is_ok();
                } => {
                    return Ok(End::Failed("the connection was lost".to_owned()));
                }
                entry = entries.next() => {
                    let entry = match entry {
                        Some(Ok(entry)) => entry,
                        Some(Err(error)) => return Ok(End::Failed(error.to_string())),
                        None => return Ok(End::Failed("the watch ended".to_owned())),
                    };
                    revision = entry.revision;
                    enter(&mut documents, entry);
                    self.publish(documents.clone());
                }
                _ = checks.tick() => {
                    let state = bucket_state(&js, BUCKET_JOBS).await?.ok_or(End::Missing)?;
                    // A change under way is no silence: twice in a row is.
                    let differs = state.last_sequence != revision;
                    if differs && std::mem::replace(&mut behind, differs) {
                        return Ok(End::Failed(format!(
                            "the bucket stands at revision {}, the watch at {revision}", state.last_sequence
                        )));
                    }
                    behind = differs;
                }
            }
        }
    }

    async fn connected(&mut self) -> u64 {
        // An error is a connection that is gone for good: then nothing answers either.
        let _connected = self.connection.wait_for(|state| state.connected).await.is_ok();
        self.connection.borrow_and_update().epoch
    }

    fn publish(&self, documents: Documents) {
        self.to.send_if_modified(|known| {
            let changed = known.as_deref() != Some(&documents);
            if changed {
                *known = Some(Arc::new(documents));
            }
            changed
        });
    }
}

async fn down(shutdown: &mut watch::Receiver<bool>) {
    // An error is an owner that is gone: the end as well.
    let _down = shutdown.wait_for(|down| *down).await.is_ok();
}

fn enter(documents: &mut Documents, entry: jetstream::kv::Entry) {
    match entry.operation {
        Operation::Put => drop(documents.insert(entry.key, entry.value)),
        Operation::Delete | Operation::Purge => drop(documents.remove(&entry.key)),
    }
}

/// The bucket's documents, its last revision, and what comes after. `None`: there is no such bucket.
async fn read(js: &jetstream::Context) -> Result<Option<(Documents, u64, Watch)>, AskError> {
    let asking = || format!("read the bucket {BUCKET_JOBS}");
    let Some(state) = bucket_state(js, BUCKET_JOBS).await? else {
        return Ok(None);
    };
    let bucket = js
        .get_key_value(BUCKET_JOBS)
        .await
        .map_err(|error| AskError::new(asking(), error))?;
    let mut entries = bucket
        .watch_with_history(">")
        .await
        .map_err(|error| AskError::new(asking(), error))?;
    let (mut documents, mut revision) = (Documents::new(), state.last_sequence);
    let mut whole = state.messages == 0;
    while !whole {
        let entry = timeout(READ_LIMIT, entries.next())
            .await
            .map_err(|_| AskError::new(asking(), "no answer in time"))?
            .ok_or_else(|| AskError::new(asking(), "the watch ended"))?
            .map_err(|error| AskError::new(asking(), error))?;
        whole = entry.seen_current;
        revision = entry.revision;
        enter(&mut documents, entry);
    }
    Ok(Some((documents, revision.max(state.last_sequence), entries)))
}

/// The documents as they are now; `None` when there is no such bucket.
///
/// # Errors
/// When the bucket cannot be read.
pub async fn snapshot(js: &jetstream::Context) -> Result<Option<Documents>, AskError> {
    Ok(read(js).await?.map(|(documents, ..)| documents))
}
