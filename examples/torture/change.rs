//! What leaves the world another one, and what is done to objects.

use std::collections::BTreeMap;

use async_nats::jetstream;
use bytes::Bytes;
use rusqlite::params;
use serde_json::{Value, json};

use super::plan::{Change, Damage};
use super::storm::{STREAMS, Storm, publish_surely, retrying, stream};
use crate::harness::fleet;
use crate::harness::nats::BYTES_MAX;
use crate::harness::{Planned, backend};

const BUCKET: &str = "result_output";

impl Storm {
    /// Everybody has read everything; the struck service is away, unless the change is one that it must notice.
    pub async fn change(&mut self, change: Change, unseen: &[Planned]) {
        let before = self.last_sequences().await;
        let last = |stream: &str| {
            before
                .iter()
                .find(|(name, _)| *name == stream)
                .map_or(0, |(_, last)| *last)
        };
        match change {
            Change::Purge => {
                self.publish(unseen).await;
                let until = last("RESULTS") + unseen.len() as u64 / 3;
                let results = stream(&self.js, "RESULTS").await;
                results.purge().sequence(until).await.unwrap();
                self.gone.extend((1..until).map(|seq| ("RESULTS", seq)));
            }
            Change::DeleteMessages => {
                self.publish(unseen).await;
                for name in STREAMS {
                    let end = stream(&self.js, name).await.cached_info().state.last_sequence;
                    let seen = last(name);
                    // Some that were read, every third of those that were not, and the very last.
                    let few = (seen.saturating_sub(6)..=seen).step_by(2);
                    for seq in few
                        .chain((seen + 1..=end).step_by(3))
                        .chain([end])
                        .filter(|seq| *seq > 0)
                    {
                        let deleting = stream(&self.js, name).await;
                        if deleting.delete_message(seq).await.is_ok() {
                            self.gone.insert((name, seq));
                        }
                    }
                }
            }
            Change::CopyStore => {
                self.server.stop();
                self.server.copy_store(&self.folder.path().join("copy"));
                self.gone_at_copy = self.gone.clone();
                self.server.start_again();
                self.publish(unseen).await;
            }
            Change::RestoreStore(_) => {
                self.server.kill();
                self.tally.server_kills += 1;
                self.server.restore_store(&self.folder.path().join("copy"));
                self.gone = self.gone_at_copy.clone();
                self.server.start_again();
                self.publish(unseen).await;
            }
            Change::WipeStore(_) => {
                self.server.kill();
                self.tally.server_kills += 1;
                self.server.wipe_store();
                self.gone.clear();
                self.server.start_again();
                retrying(|| fleet::create_streams(&self.js, Some(BYTES_MAX))).await;
                fleet::put_manifests(&self.js).await.unwrap();
                self.publish(unseen).await;
            }
            Change::EditManifests => {
                edit_manifests(&self.js, self.edits).await;
                self.edits += 1;
                self.publish(unseen).await;
            }
            Change::LoseObjects(how) => {
                fleet::store_objects(&self.js, unseen).await.unwrap();
                for (name, _) in unseen.iter().flat_map(|planned| &planned.objects) {
                    damage(&self.js, name, how).await;
                }
                fleet::publish_messages(&self.js, unseen).await.unwrap();
            }
            Change::Reap => {
                for db in [&self.victim.db, &self.oracle] {
                    backend::reap(&mut backend::connect(db), "2026-12-01T00:00:00+00:00");
                }
                self.publish(unseen).await;
            }
            Change::CleanUp => {
                let middle: Option<String> = backend::connect(&self.oracle)
                    .query_row(
                        "SELECT recorded_at FROM execution_results ORDER BY recorded_at
                         LIMIT 1 OFFSET (SELECT count(*) / 3 FROM execution_results)",
                        [],
                        |row| row.get(0),
                    )
                    .ok();
                for db in [&self.victim.db, &self.oracle] {
                    backend::connect(db)
                        .execute(
                            "DELETE FROM execution_results WHERE recorded_at < ?1",
                            params![middle],
                        )
                        .unwrap();
                }
                self.publish(unseen).await;
            }
            Change::DeleteJob => {
                let jobs = self.js.get_key_value("jobs").await.unwrap();
                jobs.delete(fleet::DISKS).await.unwrap();
                for db in [&self.victim.db, &self.oracle] {
                    backend::delete_job(db, fleet::DISKS);
                }
                self.publish(unseen).await;
            }
        }
    }

    async fn publish(&self, planned: &[Planned]) {
        publish_surely(&self.js, planned, &self.objects).await;
    }
}

/// The backend's deletion of a job: the exploded rows stay (contract §6.1).
/// Another edit each time.
async fn edit_manifests(js: &jetstream::Context, number: u64) {
    let jobs = js.get_key_value("jobs").await.unwrap();
    let mut all: BTreeMap<&str, Value> = fleet::manifests().into_iter().collect();
    let put = async |id: &str, document: String| {
        jobs.put(id, document.into()).await.unwrap();
    };
    let mut software = all.remove(fleet::SOFTWARE).unwrap();
    match number % 3 {
        0 => {
            software["inventory"]["history_scalars"] = json!(["os_version", "ram_bytes"]);
            let columns = software["inventory"]["explode"][0]["columns"]
                .as_array_mut()
                .unwrap();
            columns.retain(|column| column["field"] != "publisher");
            put(fleet::SOFTWARE, software.to_string()).await;
            jobs.delete(fleet::BITLOCKER).await.unwrap();
        }
        1 => {
            put(fleet::SOFTWARE, software.to_string()).await;
            put(fleet::DEFENDER, "{ no document".to_owned()).await;
        }
        _ => {
            for (id, document) in fleet::manifests() {
                put(id, document.to_string()).await;
            }
        }
    }
}

/// An object that is damaged.
pub struct Object;

/// Damages an object that is whole; `None` when it is not there, or the server does not answer.
pub async fn damage(js: &jetstream::Context, name: &str, how: Damage) -> Option<Object> {
    let store = js.get_object_store(BUCKET).await.ok()?;
    let info = store.info(name).await.ok()?;
    if how == Damage::Deleted {
        store.delete(name).await.ok()?;
        return Some(Object);
    }
    let bucket = js.get_stream(format!("OBJ_{BUCKET}")).await.ok()?;
    let subject = format!("$O.{BUCKET}.C.{}", info.nuid);
    let publish = async |bytes: Vec<u8>| -> Option<()> {
        js.publish(subject.clone(), bytes.into()).await.ok()?.await.ok()?;
        Some(())
    };
    bucket.purge().filter(subject.clone()).await.ok()?;
    match how {
        Damage::WithoutChunks | Damage::Deleted => {}
        Damage::Truncated => publish(vec![b't'; 1_000]).await?,
        Damage::Corrupted => {
            let mut left = info.size;
            while left > 0 {
                let part = left.min(128 << 10);
                publish(vec![b'x'; part]).await?;
                left -= part;
            }
        }
    }
    Some(Object)
}

/// Stores everything anew.
pub async fn put_back(js: &jetstream::Context, objects: &BTreeMap<String, Bytes>) {
    retrying(|| fleet::create_output_store(js, Some(BYTES_MAX))).await;
    let store = retrying(|| js.get_object_store(BUCKET)).await;
    for (name, bytes) in objects {
        retrying(|| {
            let (store, name, bytes) = (store.clone(), name.clone(), bytes.clone());
            async move { store.put(name.as_str(), &mut &bytes[..]).await }
        })
        .await;
    }
}
