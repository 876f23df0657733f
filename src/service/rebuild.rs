//! A database made anew from the streams, and from what only the old one knows (DESIGN §8.1).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use chrono::Utc;
use tokio::sync::watch;

use super::board::Pulse;
use super::equip::owner;
use super::error::ServiceError;
use super::load::{For, Forecast, Loader, Standings, Step, Tell, census_of_streams};
use crate::config::Config;
use crate::source::connect::Connection;
use crate::source::flow::Bounds;
use crate::store::carry::{Completed, Purpose};
use crate::store::output_book::missing_counts;
use crate::store::scratch::{Beside, OnDisk, Scratch};
use crate::store::swap::{Replaced, kept_path, swap};
use crate::store::{FileKind, Lock, StoreError, Use, file_kind, read_only, real_path, refill, standings};
use crate::wire::kv::StreamName;
use crate::wire::output::State;
use crate::wire::time::Timestamp;

/// How `rebuild` was called.
#[derive(Clone, Copy, Debug, Default)]
pub struct RebuildOptions {
    /// Nothing is taken from the old file but the completions.
    pub no_carry_over: bool,
    /// Not even those.
    pub forget_completions: bool,
    /// The old file stays, under another name.
    pub keep_old: bool,
}

/// What a rebuild has done.
#[derive(Debug, Default)]
pub struct Rebuilt {
    /// What came from the old file.
    pub completed: Completed,
    /// Where the streams stand now.
    pub standings: Standings,
    /// Seconds by phase.
    pub seconds: Vec<(&'static str, f64)>,
    /// Where the old file is kept.
    pub kept: Option<PathBuf>,
    /// Bytes of the new file.
    pub bytes: u64,
    /// What the streams held at the beginning.
    pub forecast: Forecast,
    /// Outputs that nothing has, by state.
    pub outputs: Vec<(State, u64)>,
    /// A copy of the backend's file that waits for its operator.
    pub offered: Option<PathBuf>,
}

/// Makes the database anew.
///
/// # Errors
/// See [`ServiceError`]; then the database is as it was.
pub async fn rebuild(
    config: &Config,
    options: RebuildOptions,
    stop: watch::Receiver<bool>,
    tell: Tell<'_>,
) -> Result<Rebuilt, ServiceError> {
    make_anew(config, None, options, stop, tell, Pulse::default()).await
}

/// A database for a service that has read nothing yet, where the streams are long enough that loading them in bulk pays:
/// the service goes on from there. `None`: they are not.
///
/// # Errors
/// See [`ServiceError`]; then nothing has been read.
pub(super) async fn initial(
    config: &Config,
    connection: &Connection,
    stop: watch::Receiver<bool>,
    tell: Tell<'_>,
    pulse: &Pulse,
) -> Result<Option<Rebuilt>, ServiceError> {
    // The service waits for a stream that is not there yet: nothing to load in bulk, and nothing to warn of.
    let Ok(streams) = census_of_streams(connection).await? else {
        return Ok(None);
    };
    let messages: u64 = streams.values().map(|census| census.messages).sum();
    if usize::try_from(messages).unwrap_or(usize::MAX) < config.store.bulk_from_messages {
        return Ok(None);
    }
    make_anew(
        config,
        Some(connection.clone()),
        RebuildOptions::default(),
        stop,
        tell,
        pulse.clone(),
    )
    .await
    .map(Some)
}

async fn make_anew(
    config: &Config,
    connection: Option<Connection>,
    options: RebuildOptions,
    stop: watch::Receiver<bool>,
    tell: Tell<'_>,
    pulse: Pulse,
) -> Result<Rebuilt, ServiceError> {
    let _lock = Lock::take(&config.store.path, &owner())?;
    let database = real_path(&config.store.path);
    let mut clock = Clock::default();
    let old = old(&database, options)?;
    let mut loader = Loader::begin(config, connection, For::Rebuild, stop, tell).await?;
    loader.pulse = pulse;
    let (bounds, _) = loader.bounds(&old.standings).await?;
    clock.phase("look");
    if old.adopted {
        tell(Step::Phase("copying the backend's file"));
        let (database, scratch) = (database.clone(), loader.scratch().to_owned());
        loader
            .blocking(move || Ok(refill::copy(&database, &scratch)?))
            .await?;
        clock.phase("copy");
    }

    let store = match &old.carried_from {
        Some(old) => loader
            .open_beside(old, &loader.starts())
            .map_err(|error| error.or_damaged(&database))?,
        None => loader.open(Use::Load)?,
    };
    loader.load(store, bounds.clone()).await?;
    clock.phase("load");

    tell(Step::Phase("completing from the old file"));
    let (scratch_path, manifests) = (loader.scratch().to_owned(), loader.manifests.clone());
    let (carried_from, completions_of) = (old.carried_from.clone(), old.completions_of.clone());
    let of = database.clone();
    let (memory, progress) = (loader.memory(), loader.pulse.as_progress());
    let mut completed = loader
        .blocking(move || {
            let beside = match &carried_from {
                Some(old) => Beside::Database(old),
                None => Beside::Nothing {
                    completions_of: completions_of.as_deref(),
                },
            };
            let now = Timestamp::from(Utc::now());
            let completed = Scratch::open(&scratch_path, beside, memory)
                .and_then(|scratch| scratch.telling(&progress))
                .and_then(|scratch| scratch.complete(&manifests, Purpose::Rebuild, now));
            Ok(completed.map_err(|error| error.or_damaged(&of))?)
        })
        .await?;
    loader.count_outputs(&mut completed);
    clock.phase("complete");

    if old.is_behind(&loader, &bounds) {
        let store = loader.open(Use::LoadOn)?;
        loader.load(store, BTreeMap::new()).await?;
        clock.phase("load on");
    }

    tell(Step::Phase("building indexes"));
    let scratch_path = loader.scratch().to_owned();
    let like = old.adopted.then(|| database.clone());
    let progress = loader.pulse.as_progress();
    let (standings, outputs, seconds) = loader
        .blocking(move || {
            let mut clock = Clock::default();
            let beside = match &like {
                Some(like) => Beside::Database(like),
                None => Beside::Nothing { completions_of: None },
            };
            let scratch = Scratch::open(&scratch_path, beside, memory)?.telling(&progress)?;
            index(scratch, &scratch_path, &mut clock)?;
            let made = read_only(&scratch_path)?;
            Ok((standings(&made)?, missing_counts(&made)?, clock.seconds))
        })
        .await?;
    clock.seconds.extend(seconds);
    clock.since = Instant::now();

    if old.adopted {
        let offered = refill::offer(loader.scratch(), &database)?;
        return Ok(Rebuilt {
            completed,
            standings,
            seconds: clock.seconds,
            bytes: crate::store::file_bytes(&offered),
            forecast: loader.forecast.clone(),
            outputs,
            offered: Some(offered),
            kept: None,
        });
    }
    tell(Step::Phase("putting the new file in place"));
    // Short, and no stop can come between its steps.
    let keep = kept_path(&database, Timestamp::from(Utc::now()));
    let replaced = match old.unreadable {
        true => Replaced::Unreadable(&keep),
        false => Replaced::Database(options.keep_old.then_some(&*keep)),
    };
    swap(loader.scratch(), &database, replaced)?;
    clock.phase("swap");
    Ok(Rebuilt {
        completed,
        standings,
        seconds: clock.seconds,
        kept: Some(keep).filter(|keep| keep.exists()),
        bytes: crate::store::file_bytes(&database),
        forecast: loader.forecast.clone(),
        outputs,
        offered: None,
    })
}

/// Builds the indexes, proves the file and closes it. The rows go to the disk while their indexes are built, and those while they
/// are checked.
fn index(scratch: Scratch, path: &Path, clock: &mut Clock) -> Result<(), ServiceError> {
    // Closed after SQLite's own: closing any descriptor of a file lets go of this process's locks on it.
    let file = &OnDisk::open(path)?;
    std::thread::scope(|scope| {
        // Without a thread it is left for the end.
        let sync = || {
            std::thread::Builder::new()
                .spawn_scoped(scope, || file.sync())
                .ok()
        };
        let rows = sync();
        scratch.build_indexes()?;
        clock.phase("indexes");
        let indexes = sync();
        scratch.prove()?;
        clock.phase("check");
        scratch.seal()?;
        // The system tells of bytes that it could not write only once: none of these may be missed.
        for synced in [rows, indexes].into_iter().flatten() {
            synced.join().map_err(|_| {
                ServiceError::Broken("putting the new file on disk broke off; try again".to_owned())
            })??;
        }
        Ok::<_, ServiceError>(())
    })?;
    // All of it, so that little is left to do when it takes its place.
    file.sync()?;
    clock.phase("sync");
    Ok(())
}

/// Puts the copy of the backend's file that an earlier rebuild has left in its place. Returns where the old one is kept.
///
/// # Errors
/// [`StoreError::Unusable`] when none is there, or the file was written since; a lock that is held.
pub fn put_in_place(config: &Config, keep_old: bool) -> Result<Option<PathBuf>, StoreError> {
    let _lock = Lock::take(&config.store.path, &owner())?;
    let database = real_path(&config.store.path);
    let keep = keep_old.then(|| kept_path(&database, Timestamp::from(Utc::now())));
    refill::take(&database, keep.as_deref())?;
    Ok(keep)
}

/// The file that is there.
#[derive(Debug, Default)]
struct Old {
    carried_from: Option<PathBuf>,
    completions_of: Option<PathBuf>,
    standings: Standings,
    /// Nothing can be taken from it, nor is.
    unreadable: bool,
    /// It is the backend's.
    adopted: bool,
}

impl Old {
    /// Whether the streams have gone on since, or live another life.
    fn is_behind(&self, loader: &Loader<'_>, bounds: &BTreeMap<StreamName, Bounds>) -> bool {
        self.standings.iter().any(|(stream, standing)| {
            let until = bounds.get(stream).and_then(|bounds| bounds.until);
            let last = loader.forecast.streams.get(stream).map(|census| census.last);
            until != Some(standing.position) || last != Some(standing.position)
        })
    }
}

fn old(database: &Path, options: RebuildOptions) -> Result<Old, ServiceError> {
    let kind = file_kind(database)?;
    let adopted = kind == FileKind::Adopted;
    match kind {
        FileKind::Nothing => return Ok(Old::default()),
        FileKind::Database | FileKind::Adopted => {}
        FileKind::Unreadable(_) if options.forget_completions => {
            return Ok(Old {
                unreadable: true,
                ..Old::default()
            });
        }
        FileKind::Unreadable(why) => return Err(StoreError::damaged(database, why).into()),
    }
    if options.no_carry_over && adopted {
        return Err(StoreError::Unusable(format!(
            "{} is the backend's own file: what it knows is kept, so --no-carry-over is not for it",
            database.display()
        ))
        .into());
    }
    if options.no_carry_over {
        return Ok(Old {
            completions_of: (!options.forget_completions).then(|| database.to_owned()),
            ..Old::default()
        });
    }
    let standings = read_only(database).and_then(|conn| standings(&conn));
    Ok(Old {
        carried_from: Some(database.to_owned()),
        standings: standings.map_err(|error| error.or_damaged(database))?,
        adopted,
        ..Old::default()
    })
}

/// Seconds, phase by phase.
#[derive(Debug)]
struct Clock {
    since: Instant,
    seconds: Vec<(&'static str, f64)>,
}

impl Default for Clock {
    fn default() -> Self {
        Self {
            since: Instant::now(),
            seconds: Vec::new(),
        }
    }
}

impl Clock {
    fn phase(&mut self, name: &'static str) {
        self.seconds.push((name, self.since.elapsed().as_secs_f64()));
        self.since = Instant::now();
    }
}
