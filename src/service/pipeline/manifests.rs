//! The manifests in force, from the bucket that is watched.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::super::error::ServiceError;
use super::super::work::Work;
use super::caught_up::silence_limit;
use crate::config::Config;
use crate::projection::manifests::Manifests;
use crate::source::connect::Connection;
use crate::source::manifests::{Documents, Watcher};

/// The bucket of manifests, watched; returns once its first snapshot is whole.
async fn documents(
    config: &Config,
    connection: &Connection,
    limit: Duration,
    down: &watch::Receiver<bool>,
    others: &mut JoinSet<()>,
) -> Result<watch::Receiver<Option<Arc<Documents>>>, ServiceError> {
    let (to, mut documents) = watch::channel(None);
    let watcher = Watcher {
        connection: connection.clone(),
        check_interval: config.source.check_interval,
        to,
    };
    others.spawn(watcher.run(down.clone()));
    match timeout(limit, documents.wait_for(Option::is_some)).await {
        Ok(Ok(_)) => {}
        Ok(Err(_)) | Err(_) => {
            // Why it cannot be read is told where that is found out.
            return Err(ServiceError::Unavailable(format!(
                "the bucket jobs was not read within {} s (what is in the way is said above, unless the server is only \
                 slow); nothing is projected without it",
                limit.as_secs()
            )));
        }
    }
    Ok(documents)
}

fn compile(documents: Option<&Arc<Documents>>) -> Arc<Manifests> {
    let documents = documents.map(|documents| (**documents).clone());
    Arc::new(Manifests::of_bucket(documents.unwrap_or_default()))
}

/// The manifests in force, watched; returns once the first snapshot of the bucket is whole.
pub(super) async fn watched(
    config: &Config,
    until_caught_up: bool,
    connection: &Connection,
    works: &mpsc::Sender<Work>,
    down: &watch::Receiver<bool>,
    others: &mut JoinSet<()>,
) -> Result<watch::Receiver<Arc<Manifests>>, ServiceError> {
    let limit = if until_caught_up {
        silence_limit()
    } else {
        Duration::MAX
    };
    let mut documents = documents(config, connection, limit, down, others).await?;
    let first = compile(documents.borrow_and_update().as_ref());
    let (manifests, in_force) = watch::channel(first);
    let works = works.clone();
    others.spawn(async move {
        // An error is a watcher that has ended.
        while documents.changed().await.is_ok() {
            manifests.send_replace(compile(documents.borrow_and_update().as_ref()));
            if works.send(Work::Manifests).is_err() {
                return;
            }
        }
    });
    Ok(in_force)
}
