//! Leaving the backend's file and the server as if this service had never been there, but for what it has projected
//! (DESIGN §8).

use std::path::Path;

use super::equip::{owner, store_options};
use super::error::ServiceError;
use super::load::For;
use super::socket::socket_path;
use crate::config::Config;
use crate::source::connect;
use crate::source::opening::{delete_consumer, durable_name};
use crate::store::{
    Lock, Store, StoreError, is_bare_backend, read_only, real_path, remove_if_there, scratch,
};
use crate::wire::kv::StreamName;

/// What was taken away.
#[derive(Debug, Default)]
pub struct Detached {
    /// Consumers at the server.
    pub consumers: Vec<String>,
    /// Tables of the backend's file; `None`: it is our own, and was left as it is.
    pub tables: Option<Vec<String>>,
}

/// Deletes our consumers, unless `database_only`, then our tables from a file that is the backend's, and what lies beside it. The
/// service must be stopped: its lock is taken first. What an earlier call has left is done by the next one.
///
/// # Errors
/// See [`ServiceError`]; consumers that are gone by then are made anew by the next `run`.
pub async fn detach(config: &Config, database_only: bool) -> Result<Detached, ServiceError> {
    let path = &config.store.path;
    if is_bare_backend(path) {
        let lock = Lock::take(path, &owner())?;
        let consumers = consumers(config, database_only).await?;
        leave_folder(path, lock)?;
        return Ok(Detached {
            consumers,
            tables: Some(Vec::new()),
        });
    }
    // Making a database, or adopting one, is what `run` is for.
    drop(read_only(path)?);
    let store = Store::open(path, &store_options(config), &owner())?;
    let consumers = consumers(config, database_only).await?;
    let tables = match store.is_adopted() {
        true => {
            let (tables, lock) = store.leave()?;
            leave_folder(path, lock)?;
            Some(tables)
        }
        false => {
            store.close();
            None
        }
    };
    Ok(Detached { consumers, tables })
}

async fn consumers(config: &Config, database_only: bool) -> Result<Vec<String>, ServiceError> {
    let mut deleted = Vec::new();
    if database_only {
        return Ok(deleted);
    }
    let connection = connect::once(&config.nats).await?;
    for stream in StreamName::ALL {
        let durable = durable_name(&config.source.consumer_prefix, stream);
        if delete_consumer(&connection.js(), stream, &durable).await? {
            deleted.push(durable);
        }
    }
    Ok(deleted)
}

/// What a service and its commands have left beside the file, stopped as they may have been; the lock goes last.
fn leave_folder(path: &Path, lock: Lock) -> Result<(), StoreError> {
    for purpose in For::ALL {
        let scratch = scratch::path(&real_path(path), purpose.as_str());
        // Somebody verifies at this moment: that one takes its scratch away itself.
        let loading = scratch::path(&scratch, "loading");
        if let Ok(_alone) = Lock::take(&loading, &owner()) {
            scratch::remove(&scratch)?;
            scratch::remove(&loading)?;
        }
    }
    let socket = socket_path(path);
    remove_if_there(&socket).map_err(StoreError::io(format!("remove {}", socket.display())))?;
    lock.remove(path)
}
