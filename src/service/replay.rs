//! What differs from the streams in the database that is there, mended in place (DESIGN §8): a scratch says what it should
//! say, and only what differs is written. Where nothing was wrong, nothing changes.

use chrono::Utc;
use tokio::sync::watch;

use super::equip::{owner, store_options};
use super::error::ServiceError;
use super::load::{For, Loader, Standings, Step, Tell};
use super::verify::scope;
use crate::config::Config;
use crate::source::census::first_since;
use crate::source::flow::Bounds;
use crate::store::carry::{Completed, Purpose};
use crate::store::compare::{Comparison, Mended};
use crate::store::scratch::{Beside, Scratch};
use crate::store::{Store, StoreError, Use, read_only, standings};
use crate::wire::kv::StreamName;
use crate::wire::sequence::StreamSeq;
use crate::wire::time::Timestamp;

/// So often the database is compared, when its other writers (the backend's, where it is theirs) get ahead of the mending.
const TRIES: u32 = 5;

/// Which part is replayed; everything by default.
#[derive(Clone, Debug, Default)]
pub struct ReplayOptions {
    /// Results from this sequence of RESULTS on.
    pub from_seq: Option<StreamSeq>,
    /// Results published since.
    pub since: Option<Timestamp>,
    /// The derived tables of one job, from the results that the database holds.
    pub job: Option<String>,
}

/// What a replay has done.
#[derive(Debug, Default)]
pub struct Replayed {
    /// The first sequence of RESULTS that was replayed.
    pub from: Option<StreamSeq>,
    /// What the database alone knows.
    pub completed: Completed,
    /// What differed.
    pub comparison: Comparison,
    /// What was written.
    pub mended: Mended,
}

/// Replays. The service must be stopped.
///
/// # Errors
/// See [`ServiceError`]; then nothing is changed.
pub async fn replay(
    config: &Config,
    options: &ReplayOptions,
    stop: watch::Receiver<bool>,
    tell: Tell<'_>,
) -> Result<Replayed, ServiceError> {
    let database = config.store.path.clone();
    // Making one, or adopting one, is what `run` is for.
    drop(read_only(&database)?);
    // Held for its lock, and for what its opening brings up to date.
    let live = Store::open(&database, &store_options(config), &owner())?;
    live.check_first_pass()?;
    let standings = standings(&read_only(&database)?)?;
    let mut loader = Loader::begin(config, None, For::Replay, stop, tell).await?;
    let from = match &options.job {
        None => load(config, &mut loader, options, &standings).await?,
        Some(job) => {
            tell(Step::Phase("deriving the job's tables anew"));
            derive(config, &loader, job).await?;
            None
        }
    };
    let whole = options.job.is_none() && from.is_none();
    tell(Step::Phase("comparing and mending"));
    let (scratch, manifests) = (loader.scratch().to_owned(), loader.manifests.clone());
    let memory = loader.memory();
    // Not to be left half-way: a stop waits for it.
    let work = tokio::task::spawn_blocking(move || -> Result<_, ServiceError> {
        let scratch = Scratch::open(&scratch, Beside::Mended(&database), memory)?;
        let purpose = match whole {
            true => Purpose::Replay,
            false => Purpose::ReplayPart,
        };
        let mut tries_left = TRIES;
        loop {
            let now = Timestamp::from(Utc::now());
            // One state of the database, read without holding up its other writers; it is written only while it is the last.
            scratch.snapshot()?;
            let completed = scratch.complete(&manifests, purpose, now)?;
            let (comparison, findings) = scratch.find(&scope(&completed, whole, scratch.horizons(now)?))?;
            tries_left -= 1;
            match scratch.mend(&findings, now) {
                Ok(mended) => return Ok((completed, comparison, mended)),
                Err(StoreError::Overtaken { path }) if tries_left > 0 => {
                    tracing::info!(%path, tries_left, "another process wrote the database meanwhile: comparing again");
                }
                Err(error) => return Err(error.into()),
            }
        }
    });
    let (mut completed, comparison, mended) = work
        .await
        .map_err(|error| ServiceError::Broken(error.to_string()))??;
    loader.count_outputs(&mut completed);
    live.close();
    Ok(Replayed {
        from,
        completed,
        comparison,
        mended,
    })
}

/// Loads from the streams. Returns where, if not from their start.
async fn load(
    config: &Config,
    loader: &mut Loader<'_>,
    options: &ReplayOptions,
    standings: &Standings,
) -> Result<Option<StreamSeq>, ServiceError> {
    let (mut bounds, _) = loader.bounds(standings).await?;
    let mut from = options.from_seq;
    if let (Some(since), Some(census)) = (options.since, loader.forecast.streams.get(&StreamName::Results)) {
        let leader = loader.leader(StreamName::Results);
        from = from.max(Some(first_since(&leader, census, since).await?));
    }
    bounds
        .entry(StreamName::Results)
        .or_insert(Bounds::default())
        .from = from;
    let mut starts = loader.starts();
    if let (Some(from), Some(start)) = (from, starts.get_mut(&StreamName::Results)) {
        *start = from.max(*start);
    }
    let store = loader.open_beside(&config.store.path, &starts)?;
    loader.load(store, bounds).await?;
    let first = loader
        .forecast
        .streams
        .get(&StreamName::Results)
        .map_or(StreamSeq(0), |census| census.first);
    Ok(from.filter(|from| *from > first))
}

/// Derives one job's tables in the scratch, from the results that the database holds.
async fn derive(config: &Config, loader: &Loader<'_>, job: &str) -> Result<(), ServiceError> {
    if loader.manifests.hints(job).is_none() {
        return Err(ServiceError::Usage(format!(
            "the bucket jobs holds no manifest of {job:?} with hints, so there is nothing to derive; what was derived \
             before stays"
        )));
    }
    loader.open(Use::Load)?.close();
    let memory = loader.memory();
    let (path, database, job) = (
        loader.scratch().to_owned(),
        config.store.path.clone(),
        job.to_owned(),
    );
    loader
        .blocking(move || Ok(Scratch::open(&path, Beside::Database(&database), memory)?.take_job(&job)?))
        .await?;
    let mut store = loader.open(Use::Load)?;
    let manifests = loader.manifests.clone();
    loader
        .blocking(move || {
            let now = Timestamp::from(Utc::now());
            store.rederive_due(&manifests, now)?;
            store.end_shared_transaction(true)?;
            store.close();
            Ok(())
        })
        .await
}
