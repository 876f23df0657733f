//! The writer without readers: for commands that change the books while no service runs. They hold the lock, and the
//! streams' positions stay where they are.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};

use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use super::books::{Answer, Books, Request};
use super::derive::Rederiver;
use super::equip::{books, fetcher, manifests_now, owner, rederiver, repairer, store_options, writer_limits};
use super::error::ServiceError;
use super::socket::WORK_LIMIT;
use super::work::Work;
use super::writer::{Bells, Writer, WriterState, WriterStopped};
use crate::config::Config;
use crate::projection::manifests::Manifests;
use crate::source::connect::{self, Connection};
use crate::store::dead_letters::LetterId;
use crate::store::{Store, StoreError};

/// A writer without readers, for what an operator asks while no service runs.
pub struct Alone {
    books: Books,
    rederiver: Rederiver,
    works: Sender<Work>,
    ended: oneshot::Receiver<Result<(), WriterStopped>>,
    shutdown: watch::Sender<bool>,
    /// Objects are read through it.
    _connection: Connection,
}

impl Alone {
    /// Takes the lock and the server.
    ///
    /// # Errors
    /// The database's, a lock that is held among them; no server, or no manifests that can be read.
    pub async fn start(config: &Config) -> Result<Self, ServiceError> {
        let store = Store::open(&config.store.path, &store_options(config), &owner())?;
        let connection = connect::once(&config.nats).await?;
        let (_, manifests) = watch::channel(manifests_now(&connection).await?);
        let (works, works_rx) = mpsc::channel();
        let bells = Bells::default();
        let fetcher = fetcher(config, &connection).await.map_err(ServiceError::Broken)?;
        let repairer = repairer(config, &fetcher, &works, &bells);
        let books = books(&connection, &store, &repairer);
        let rederiver = rederiver(&store, &works, &bells);
        let (shutdown, down) = watch::channel(false);
        let limits = writer_limits(config, &store, false);
        let state = watch::channel(WriterState::default()).0;
        let writer = Writer::new(
            store,
            works_rx,
            BTreeMap::new(),
            limits,
            state,
            manifests,
            bells,
            down,
        );
        let ended = writer
            .spawn()
            .map_err(|error| ServiceError::Broken(format!("cannot start the writer's thread: {error}")))?;
        Ok(Self {
            books,
            rederiver,
            works,
            ended,
            shutdown,
            _connection: connection,
        })
    }

    /// Does what is asked.
    pub async fn answer(&self, request: Request) -> Answer {
        let answered = timeout(WORK_LIMIT, self.books.answer(request)).await;
        answered.unwrap_or_else(|_| Answer::Failed(too_long()))
    }

    /// Derives anew what is due by now, and closes the database.
    ///
    /// # Errors
    /// Why the writer ended.
    pub async fn finish(self) -> Result<(), ServiceError> {
        let derived = timeout(WORK_LIMIT, self.rederiver.round())
            .await
            .map(|derived| derived.map_err(|error| error.to_string()));
        self.shutdown.send_replace(true);
        // An error is a writer that has ended already, which says why.
        let _asked = self.works.send(Work::Shutdown);
        match self.ended.await {
            Ok(ended) => ended?,
            Err(_) => return Err(ServiceError::Broken("the writer broke off".to_owned())),
        }
        // What is due stays due: the service derives it.
        derived
            .unwrap_or_else(|_| Err(too_long()))
            .map_err(ServiceError::Unavailable)
    }
}

fn too_long() -> String {
    format!(
        "not done within {} s; look at the disk and the server, then ask again",
        WORK_LIMIT.as_secs()
    )
}

/// Gives dead letters up, under the lock. Nothing is projected for that, so no server is needed. Returns which of them were
/// there.
///
/// # Errors
/// The database's, a lock that is held among them.
pub fn discard(config: &Config, places: &[LetterId]) -> Result<Vec<bool>, StoreError> {
    let mut store = Store::open(&config.store.path, &store_options(config), &owner())?;
    let manifests = Arc::new(Manifests::default());
    let mut group = store.begin(&manifests, super::now())?;
    let there = places
        .iter()
        .map(|place| group.discard(*place))
        .collect::<Result<Vec<_>, _>>()?;
    group.commit()?;
    store.close();
    Ok(there)
}
