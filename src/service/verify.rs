//! Is the database what the streams say? A scratch is loaded beside it, up to exactly where the database stands at one
//! moment, and compared with it (DESIGN §8.2). The service may go on meanwhile.

mod sample;

use std::path::Path;

use tokio::sync::watch;

use super::error::ServiceError;
use super::load::{For, Loader, Standings, Step, Tell};
use crate::config::Config;
use crate::store::carry::{Completed, Purpose};
use crate::store::compare::{Comparison, Scope};
use crate::store::retention::Horizons;
use crate::store::scratch::{Beside, Scratch};
use crate::store::{read_only, standings};
use crate::wire::time::Timestamp;

pub use self::sample::sample;

/// What was found.
#[derive(Debug, Default)]
pub struct Verified {
    /// Where the streams stood at the moment that was compared.
    pub standings: Standings,
    /// What the database alone knows, and what was not compared.
    pub completed: Completed,
    /// What differs.
    pub comparison: Comparison,
    /// What is wrong besides rows: one line each.
    pub wrong: Vec<String>,
}

impl Verified {
    /// Whether everything that can be proved is right.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.comparison.is_same() && self.wrong.is_empty()
    }
}

/// What a database is compared by; `whole`: from the streams' start; `horizons`: its own.
pub(super) fn scope(completed: &Completed, whole: bool, horizons: Horizons) -> Scope {
    Scope {
        all_at_hand: completed.vouched.all_at_hand,
        whole,
        horizons,
    }
}

/// Compares the database with its streams. `now`: wall clock, for what the backend's cleanup may have deleted.
///
/// # Errors
/// See [`ServiceError`].
pub async fn verify(
    config: &Config,
    now: Timestamp,
    stop: watch::Receiver<bool>,
    tell: Tell<'_>,
) -> Result<Verified, ServiceError> {
    let database = config.store.path.clone();
    let mut before = standings(&read_only(&database)?)?;
    let loader = Loader::begin(config, None, For::Verify, stop, tell).await?;
    load_up_to(&loader, &database, &before).await?;

    tell(Step::Phase("catching up with the database"));
    // Most of what has come meanwhile, so that the database is held at one moment for as short as may be.
    let now_there = standings(&read_only(&database)?)?;
    if now_there != before {
        load_up_to(&loader, &database, &now_there).await?;
        before = now_there;
    }
    // From here on the database is read as it is at this moment.
    let scratch = Scratch::open(loader.scratch(), Beside::Database(&database), loader.memory())?;
    let standings = scratch.snapshot()?;
    let mut wrong = match standings == before {
        true => loader.bounds(&standings).await?.1,
        false => load_up_to(&loader, &database, &standings).await?,
    };
    // The service may have got an output since the load met its pointer.
    let mut store = loader.open_beside(&database, &loader.starts())?;
    let manifests = loader.manifests.clone();
    loader
        .blocking(move || {
            store.take_late_outputs(&manifests, now)?;
            store.end_shared_transaction(true)?;
            store.close();
            Ok(())
        })
        .await?;
    tell(Step::Phase("comparing"));
    let manifests = loader.manifests.clone();
    let (mut completed, comparison, unaccounted) = loader
        .blocking(move || {
            let completed = scratch.complete(&manifests, Purpose::Verify, now)?;
            let comparison = scratch.compare(&scope(&completed, true, scratch.horizons(now)?))?;
            Ok((completed, comparison, scratch.unaccounted()?))
        })
        .await?;
    loader.count_outputs(&mut completed);
    wrong.extend(unaccounted);
    Ok(Verified {
        standings,
        completed,
        comparison,
        wrong,
    })
}

/// Loads, or loads on, up to where a database's streams stand. Returns what is to be said of the streams.
async fn load_up_to(
    loader: &Loader<'_>,
    database: &Path,
    standings: &Standings,
) -> Result<Vec<String>, ServiceError> {
    let (bounds, others) = loader.bounds(standings).await?;
    let store = loader.open_beside(database, &loader.starts())?;
    loader.load(store, bounds).await?;
    Ok(others)
}
