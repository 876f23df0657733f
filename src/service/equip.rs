//! What the configuration means for stages that serve beside readers too.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use super::books::Books;
use super::pipeline::ServiceError;
use super::repair::{self, Repairer};
use super::work::Work;
use super::writer::{Bells, WriterLimits};
use crate::config::Config;
use crate::projection::manifests::Manifests;
use crate::source::connect::Connection;
use crate::source::fetch::{FetchLimits, Fetcher};
use crate::source::flow::Budget;
use crate::source::manifests::snapshot;
use crate::store::Store;
use crate::store::retention::Aging;

/// Fetches what is owed, with limits of its own.
pub(super) fn repairer(
    config: &Config,
    fetcher: &Fetcher,
    works: &mpsc::Sender<Work>,
    bells: &Bells,
) -> Repairer {
    Repairer {
        fetcher: fetcher.beside(repair::CONCURRENCY),
        works: works.clone(),
        budget: Budget::new(config.outputs.repair_in_flight_bytes),
        owed: bells.owed.clone(),
        give_up_after: config.outputs.give_up_after,
    }
}

/// What operators ask for is done by.
pub(super) fn books(connection: &Connection, store: &Store, repairer: &Repairer) -> Books {
    Books {
        database: store.path().to_owned(),
        works: repairer.works.clone(),
        js: connection.js(),
        repairer: repairer.clone(),
    }
}

/// The writer's part of the configuration. `scratch`: nobody else waits for the file.
pub(super) fn writer_limits(config: &Config, store: &Store, scratch: bool) -> WriterLimits {
    WriterLimits {
        group_rows_max: config.group.max_rows,
        group_bytes_max: usize::try_from(config.group.max_bytes).unwrap_or(usize::MAX),
        group_time_max: (store.is_adopted() && !scratch).then_some(config.group.max_time),
        wal_bytes_max: config.store.wal_bytes_max,
        disk_reserve_bytes: config.store.disk_reserve_bytes,
        retention: retention(config, store, scratch),
    }
}

/// Nobody else cleans a database of our own. In the backend's file the backend does, by its own measure; a scratch holds what
/// the streams do.
fn retention(config: &Config, store: &Store, scratch: bool) -> Vec<(Aging, Duration)> {
    if store.is_adopted() || scratch {
        return Vec::new();
    }
    let ages = [
        (Aging::Results, config.retention.execution_results),
        (Aging::History, config.retention.inventory_history),
    ];
    ages.into_iter()
        .filter_map(|(aging, age)| Some((aging, age?)))
        .collect()
}

/// Reads objects, within the configuration's limits.
pub(super) async fn fetcher(config: &Config, connection: &Connection) -> Result<Fetcher, String> {
    let outputs = &config.outputs;
    let limits = FetchLimits {
        max_bytes: outputs.max_bytes,
        idle: outputs.idle_timeout,
        base: outputs.base_timeout,
        min_rate: outputs.min_rate_bytes,
        concurrency: outputs.concurrency,
    };
    Fetcher::new(connection, limits).await
}

/// The manifests as they are now: what one command does is done under one set of them.
pub(super) async fn manifests_now(connection: &Connection) -> Result<Arc<Manifests>, ServiceError> {
    let js = connection.js();
    let documents = snapshot(&js).await?;
    Ok(Arc::new(Manifests::of_bucket(documents.unwrap_or_default())))
}
