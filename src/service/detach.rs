//! Leaving the backend's file and the broker as if this service had never been there, but for what it has projected
//! (DESIGN §8).

use super::pipeline::{self, STREAMS, ServiceError, owner, store_options};
use crate::config::Config;
use crate::source::connect;
use crate::store::{Store, read_only};

/// What was taken away.
#[derive(Debug, Default)]
pub struct Detached {
    /// Consumers at the broker.
    pub consumers: Vec<String>,
    /// Tables of the backend's file; `None`: it is our own, and was left as it is.
    pub tables: Option<Vec<String>>,
}

/// Deletes our consumers, unless `database_only`, then our tables from a file that is the backend's. The service must be
/// stopped: its lock is taken first.
///
/// # Errors
/// See [`ServiceError`]; consumers that are gone by then are made anew by the next `run`.
pub async fn detach(config: &Config, database_only: bool) -> Result<Detached, ServiceError> {
    // Making a database, or adopting one, is what `run` is for.
    drop(read_only(&config.store.path)?);
    let store = Store::open(&config.store.path, &store_options(config), &owner())?;
    let mut detached = Detached::default();
    if !database_only {
        let connection = connect::once(&config.nats).await?;
        for stream in STREAMS {
            let desk = pipeline::own_desk(config, &connection, stream)
                .await
                .map_err(ServiceError::Unavailable)?;
            let deleted = desk.delete_durable().await;
            if deleted.map_err(|error| ServiceError::Unavailable(error.to_string()))? {
                detached.consumers.push(desk.durable());
            }
        }
    }
    match store.is_adopted() {
        true => detached.tables = Some(store.leave()?),
        false => store.close(),
    }
    Ok(detached)
}
