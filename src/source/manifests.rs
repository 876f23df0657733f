//! The bucket `jobs`, watched: its documents as an immutable snapshot (contract §4.3, DESIGN §5). State, not a log: values
//! that were superseded in between never appear, and nothing needs them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::kv::{Entry, Operation, Watch};
use async_nats::jetstream::stream::Info;
use chrono::{DateTime, Utc};
use futures_util::StreamExt;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tracing::{debug, info, warn};

use super::asking::{AskError, Js};
use super::connect::Connection;
use super::opening::jitter;
use super::raised;
use crate::wire::backend::bucket_stream;
use crate::wire::kv::BUCKET_JOBS;
use crate::wire::manifest::Posted;

/// Between two documents of a snapshot that is being read.
const READ_LIMIT: Duration = Duration::from_secs(5);

/// The documents by key.
pub type Documents = BTreeMap<String, Posted>;

/// Watches the bucket.
#[derive(Debug)]
pub struct Watcher {
    /// The connection.
    pub connection: Connection,
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

const MISSING: &str = "the bucket jobs does not exist; no job has hints";

impl Watcher {
    /// Watches until shutdown. A bucket that is missing counts as empty; one that cannot be read leaves the snapshot as it
    /// was.
    pub async fn run(mut self, mut shutdown: watch::Receiver<bool>) {
        let mut said = String::new();
        loop {
            let end = tokio::select! {
                () = raised(&mut shutdown) => End::Shutdown,
                end = self.watch(&mut said) => end,
            };
            match end {
                End::Shutdown => return,
                End::Missing => {
                    if said != MISSING {
                        warn!("{MISSING}");
                        MISSING.clone_into(&mut said);
                    }
                    self.publish(Documents::new());
                    tokio::select! {
                        () = raised(&mut shutdown) => return,
                        () = tokio::time::sleep(self.check_interval.min(Duration::from_secs(5))) => {}
                    }
                }
                End::Failed(reason) => {
                    let first = self.to.borrow().is_none();
                    if said == reason {
                        debug!(reason, "still reading the bucket jobs");
                    } else if first {
                        warn!(
                            reason,
                            "the bucket jobs cannot be read; nothing is projected before it is"
                        );
                        said = reason;
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
    async fn watch(&mut self, said: &mut String) -> End {
        match self.follow(said).await {
            Ok(end) | Err(end) => end,
        }
    }

    async fn follow(&mut self, said: &mut String) -> Result<End, End> {
        let epoch = self.connected().await;
        let js = self.connection.js();
        let mut bucket = read(&js).await?.ok_or(End::Missing)?;
        self.publish(bucket.documents.clone());
        // Should it go once more, that is news.
        if said == MISSING {
            said.clear();
        }
        let mut checks = interval_at(Instant::now() + self.check_interval, self.check_interval);
        checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut behind = false;
        let mut connection = self.connection.state.clone();
        loop {
            tokio::select! {
                () = async {
                    // An error is a connection that is gone for good.
                    let _lost = connection.wait_for(|state| state.epoch != epoch).await.is_ok();
                } => {
                    return Ok(End::Failed("the connection was lost".to_owned()));
                }
                entry = bucket.entries.next() => {
                    let entry = match entry {
                        Some(Ok(entry)) => entry,
                        Some(Err(error)) => return Ok(End::Failed(error.to_string())),
                        None => return Ok(End::Failed("the watch ended".to_owned())),
                    };
                    bucket.enter(entry);
                    self.publish(bucket.documents.clone());
                }
                _ = checks.tick() => {
                    let info = js.stream_info(&bucket_stream(BUCKET_JOBS)).await?.ok_or(End::Missing)?;
                    // A change under way is no silence: twice in a row is.
                    let differs = !bucket.is(&info);
                    if differs && behind {
                        return Ok(End::Failed("the bucket is not as the watch left it".to_owned()));
                    }
                    behind = differs;
                }
            }
        }
    }

    async fn connected(&mut self) -> u64 {
        // An error is a connection that is gone for good: then nothing answers either.
        let _connected = self
            .connection
            .state
            .wait_for(|state| state.connected)
            .await
            .is_ok();
        self.connection.state.borrow_and_update().epoch
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

/// The bucket as a watch knows it.
struct Bucket {
    documents: Documents,
    /// Every key that holds something, a mark of its deletion too: a purge of the stream takes them away, and nothing else.
    keys: BTreeSet<String>,
    revision: u64,
    /// Of the stream. It changes for less, too, and then the bucket is read once more.
    created: DateTime<Utc>,
    entries: Watch,
}

impl Bucket {
    fn enter(&mut self, entry: Entry) {
        self.revision = self.revision.max(entry.revision);
        self.keys.insert(entry.key.clone());
        match entry.operation {
            Operation::Put => {
                let posted = Posted {
                    document: entry.value,
                    changed: Some(entry.created.into()),
                };
                self.documents.insert(entry.key, posted);
            }
            Operation::Delete | Operation::Purge => {
                self.documents.remove(&entry.key);
            }
        }
    }

    fn is(&self, info: &Info) -> bool {
        info.state.last_sequence == self.revision
            && info.created == self.created
            && usize::try_from(info.state.subjects_count).is_ok_and(|keys| keys == self.keys.len())
    }
}

/// The bucket and what comes after. `None`: there is no such bucket.
async fn read(js: &Js) -> Result<Option<Bucket>, AskError> {
    let asking = || format!("read the bucket {BUCKET_JOBS}");
    let stream = bucket_stream(BUCKET_JOBS);
    let Some(info) = js.stream_info(&stream).await? else {
        return Ok(None);
    };
    let store = js
        .answer(
            &format!("STREAM.INFO.{stream}"),
            asking,
            js.get_key_value(BUCKET_JOBS),
        )
        .await?;
    let entries = js
        .answer(
            &format!("CONSUMER.CREATE.{stream}"),
            asking,
            store.watch_with_history(">"),
        )
        .await?;
    let mut bucket = Bucket {
        documents: Documents::new(),
        keys: BTreeSet::new(),
        revision: info.state.last_sequence,
        created: info.created,
        entries,
    };
    let mut whole = info.state.messages == 0;
    while !whole {
        let entry = timeout(READ_LIMIT, bucket.entries.next())
            .await
            .map_err(|_| AskError::new(asking(), "no answer in time"))?
            .ok_or_else(|| AskError::new(asking(), "the watch ended"))?
            .map_err(|error| AskError::new(asking(), error))?;
        whole = entry.seen_current;
        bucket.enter(entry);
    }
    Ok(Some(bucket))
}

/// The documents as they are now; `None` when there is no such bucket.
///
/// # Errors
/// When the bucket cannot be read.
pub async fn snapshot(js: &Js) -> Result<Option<Documents>, AskError> {
    Ok(read(js).await?.map(|bucket| bucket.documents))
}
