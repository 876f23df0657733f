//! What the configuration means for each stage, and what is ready to serve of it.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use super::books::Books;
use super::derive::Rederiver;
use super::error::ServiceError;
use super::repair::{self, Repairer};
use super::work::Work;
use super::writer::{Bells, WriterLimits};
use crate::config::Config;
use crate::projection::manifests::Manifests;
use crate::source::connect::Connection;
use crate::source::fetch::{FetchLimits, Fetcher};
use crate::source::flow::Budget;
use crate::source::manifests::snapshot;
use crate::source::opening::PullOptions;
use crate::store::retention::Retained;
use crate::store::{Owner, Store, StoreOptions, Synchronous, Use};

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

/// Derives due pairs anew beside the writer.
pub(super) fn rederiver(store: &Store, works: &mpsc::Sender<Work>, bells: &Bells) -> Rederiver {
    Rederiver {
        database: store.path().to_owned(),
        works: works.clone(),
        due: bells.due.clone(),
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

/// A load's groups wait so long for what is to come: then it is a hundred rows. Where memory for what is in flight has run out,
/// nothing comes before the group is committed, and this is lost.
const LOAD_WAITS: Duration = Duration::from_millis(2);

/// The writer's part of the configuration. `scratch`: nobody else waits for the file.
pub(super) fn writer_limits(config: &Config, store: &Store, scratch: bool) -> WriterLimits {
    WriterLimits {
        group_rows_max: config.group.max_rows,
        group_bytes_max: usize::try_from(config.group.max_bytes).unwrap_or(usize::MAX),
        group_time_max: (store.is_adopted() && !scratch).then_some(config.group.max_time),
        // A scratch's commits take no time, but each group does.
        group_wait_min: if scratch { LOAD_WAITS } else { Duration::ZERO },
        wal_bytes_max: config.store.wal_bytes_max,
        disk_reserve_bytes: config.store.disk_reserve_bytes,
        retention: retention(config, store, scratch),
    }
}

/// Nobody else cleans a database of our own. In the backend's file the backend does, by its own measure; a scratch holds what
/// the streams do.
fn retention(config: &Config, store: &Store, scratch: bool) -> Vec<(Retained, Duration)> {
    if store.is_adopted() || scratch {
        return Vec::new();
    }
    let ages = [
        (Retained::Results, config.retention.execution_results),
        (Retained::History, config.retention.inventory_history),
    ];
    ages.into_iter()
        .filter_map(|(retained, age)| Some((retained, age?)))
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

/// This process, for the lock file and the durable's metadata.
pub(super) fn owner() -> Owner {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    Owner {
        pid: std::process::id(),
        started_at: super::now().stored(),
        host,
    }
}

/// The store's part of the configuration.
pub(super) fn store_options(config: &Config) -> StoreOptions {
    StoreOptions {
        for_use: Use::Live,
        synchronous: if config.store.synchronous_full {
            Synchronous::Full
        } else {
            Synchronous::Normal
        },
        page_cache_bytes: config.store.page_cache_bytes,
        dead_letter_bytes_max: config.dead_letter_bytes_max,
    }
}

/// `temporary`: a part of the consumers' names that says what they are for, when not for the service itself.
pub(super) fn pull_options(config: &Config, budget: &Budget, temporary: Option<&str>) -> PullOptions {
    let source = &config.source;
    // Twice what can be in flight here, or the server falls silent before a group is full.
    let in_flight = budget.messages_max() + source.batch_messages;
    PullOptions {
        consumer_prefix: match temporary {
            None => source.consumer_prefix.clone(),
            Some(temporary) => format!("{}_{temporary}", source.consumer_prefix),
        },
        temporary: temporary.is_some(),
        ack_wait: source.ack_wait,
        heartbeat: source.heartbeat,
        expires: source.expires,
        batch_messages: source.batch_messages,
        batch_bytes: usize::try_from(source.batch_bytes).unwrap_or(usize::MAX),
        max_ack_pending: i64::try_from(in_flight.saturating_mul(2)).unwrap_or(i64::MAX),
    }
}
