//! A scratch, loaded from the streams (DESIGN §8.1): what rebuild, replay and verify have in common.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

use super::board::{Pulse, Watched};
use super::equip::{manifests_now, owner, store_options};
use super::error::ServiceError;
use super::pipeline::{self, Load};
use crate::config::Config;
use crate::projection::manifests::Manifests;
use crate::source::asking::AskError;
use crate::source::census::{Census, Shared, Unsaid, census, census_of_outputs, shared};
use crate::source::connect::{self, Connection};
use crate::source::flow::{Bounds, ReaderStanding, Refused};
use crate::source::leader::Leader;
use crate::store::carry::{Completed, Foreknowledge};
use crate::store::scratch;
use crate::store::{Lock, Standing, Store, StoreError, StoreOptions, Use, read_only, real_path, standings};
use crate::wire::kv::StreamName;
use crate::wire::sequence::StreamSeq;

/// What is going on, for people.
#[derive(Debug)]
pub enum Step {
    /// What will be loaded.
    Forecast(Forecast),
    /// Messages come in: watch how far.
    Loading(Watched),
    /// Something that takes its time, with nothing to count.
    Phase(&'static str),
}

/// What a scratch is loaded for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum For {
    /// It reads all there is; the others follow the database.
    Rebuild,
    Replay,
    Verify,
}

impl For {
    pub(super) const ALL: [Self; 3] = [Self::Rebuild, Self::Replay, Self::Verify];

    /// A part of the scratch's and of the consumers' names.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Rebuild => "rebuild",
            Self::Replay => "replay",
            Self::Verify => "verify",
        }
    }
}

/// Told of each step.
pub type Tell<'a> = &'a (dyn Fn(Step) + Send + Sync);

/// What the streams hold, said before anything is loaded.
#[derive(Clone, Debug, Default)]
pub struct Forecast {
    /// The streams that are there.
    pub streams: BTreeMap<StreamName, Census>,
    /// The object store of outputs.
    pub outputs: Option<Census>,
}

impl Forecast {
    /// All messages.
    #[must_use]
    pub fn messages(&self) -> u64 {
        self.streams.values().map(|census| census.messages).sum()
    }
}

/// Where the streams of a database stand.
pub type Standings = BTreeMap<StreamName, Standing>;

/// Loads one scratch, in as many parts as it takes.
pub(super) struct Loader<'a> {
    config: &'a Config,
    connection: Connection,
    pub(super) manifests: Arc<Manifests>,
    purpose: For,
    stop: watch::Receiver<bool>,
    tell: Tell<'a>,
    pub(super) forecast: Forecast,
    /// Beats while the scratch is written.
    pub(super) pulse: Pulse,
    scratch: Leftovers,
    /// Outputs that were taken from the database, since the object store has them no more.
    carried_outputs: Arc<AtomicU64>,
}

/// What is taken away when the work ends, well or not.
struct Leftovers {
    scratch: PathBuf,
    /// Two of one purpose would take each other's scratch away.
    _alone: Lock,
}

impl<'a> Loader<'a> {
    /// Connects, unless that is done, reads the manifests, counts the streams, and takes away what an earlier scratch has
    /// left.
    pub(super) async fn begin(
        config: &'a Config,
        connection: Option<Connection>,
        purpose: For,
        mut stop: watch::Receiver<bool>,
        tell: Tell<'a>,
    ) -> Result<Self, ServiceError> {
        let scratch = scratch::path(&real_path(&config.store.path), purpose.as_str());
        let alone = Lock::take(&scratch::path(&scratch, "loading"), &owner())?;
        let scratch = Leftovers {
            scratch,
            _alone: alone,
        };
        let begin = async {
            let connection = match connection {
                Some(connection) => connection,
                None => connect::once(&config.nats).await?,
            };
            let manifests = manifests_now(&connection).await?;
            let forecast = forecast(&connection).await?;
            Ok::<_, ServiceError>((connection, manifests, forecast))
        };
        let (connection, manifests, forecast) = tokio::select! {
            begun = begin => begun?,
            () = super::raised(&mut stop) => return Err(stopped()),
        };
        tell(Step::Forecast(forecast.clone()));
        scratch::remove(&scratch.scratch)?;
        Ok(Self {
            config,
            connection,
            manifests,
            purpose,
            stop,
            tell,
            forecast,
            pulse: Pulse::default(),
            scratch,
            carried_outputs: Arc::default(),
        })
    }

    pub(super) fn scratch(&self) -> &Path {
        &self.scratch.scratch
    }

    /// Bytes for the page cache and for sorting.
    pub(super) fn memory(&self) -> u64 {
        self.config.store.bulk_memory_bytes
    }

    /// Opens the scratch for one part of its load.
    pub(super) fn open(&self, for_use: Use) -> Result<Store, StoreError> {
        let options = StoreOptions {
            for_use,
            // SQLite sorts with as much again at most, and never while this much is full.
            page_cache_bytes: self.memory() / 3 * 2,
            ..store_options(self.config)
        };
        Store::open(self.scratch(), &options, &owner())
    }

    /// Opens it for a part that begins at `starts` and takes from the database what only that knows.
    pub(super) fn open_beside(
        &self,
        database: &Path,
        starts: &BTreeMap<StreamName, StreamSeq>,
    ) -> Result<Store, StoreError> {
        let mut store = self.open(Use::Load)?;
        store.set_foreknown(Foreknowledge::read(database, starts)?.counting_in(&self.carried_outputs));
        Ok(store)
    }

    /// With the outputs that the load has taken from the database already.
    pub(super) fn count_outputs(&self, completed: &mut Completed) {
        let carried = self.carried_outputs.load(Ordering::Relaxed);
        completed.vouched.add("outputs", carried);
    }

    /// Loads what lies within the bounds; the store is closed at the end.
    pub(super) async fn load(
        &self,
        store: Store,
        bounds: BTreeMap<StreamName, Bounds>,
    ) -> Result<(), ServiceError> {
        let load = Load {
            manifests: self.manifests.clone(),
            bounds,
            purpose: self.purpose.as_str(),
            pulse: self.pulse.clone(),
        };
        let watching = |watched| (self.tell)(Step::Loading(watched));
        let connection = self.connection.clone();
        let bounds = load.bounds.clone();
        if pipeline::load(self.config, load, store, connection, self.stop.clone(), watching).await? {
            return Err(stopped());
        }
        // What is made of it is made of exactly these messages; a scratch whose commit failed holds none.
        let loaded = standings(&read_only(self.scratch())?)?;
        for (stream, census) in &self.forecast.streams {
            let until = bounds.get(stream).and_then(|bounds| bounds.until);
            if !is_loaded(loaded.get(stream), until, census) {
                return Err(ServiceError::Broken(format!(
                    "{stream} was loaded up to {}, not up to {}; try again",
                    loaded
                        .get(stream)
                        .map_or(StreamSeq(0), |standing| standing.position),
                    until.unwrap_or(census.last)
                )));
            }
        }
        Ok(())
    }

    /// How far each stream's messages are those that the database has read: up to there the scratch follows it. And what
    /// is to be said of the others.
    pub(super) async fn bounds(
        &self,
        standings: &Standings,
    ) -> Result<(BTreeMap<StreamName, Bounds>, Vec<String>), ServiceError> {
        let mut stop = self.stop.clone();
        tokio::select! {
            bounds = self.ask_bounds(standings) => bounds,
            () = super::raised(&mut stop) => Err(stopped()),
        }
    }

    async fn ask_bounds(
        &self,
        standings: &Standings,
    ) -> Result<(BTreeMap<StreamName, Bounds>, Vec<String>), ServiceError> {
        let (mut bounds, mut others) = (BTreeMap::new(), Vec::new());
        if self.purpose != For::Rebuild {
            // Of a stream that the database has not read, it says nothing either.
            let until = Some(StreamSeq(0));
            let streams = self.forecast.streams.keys();
            bounds.extend(streams.map(|stream| (*stream, Bounds { from: None, until })));
        }
        for (stream, standing) in standings {
            let leader = self.leader(*stream);
            let reader = ReaderStanding {
                position: standing.position,
                marks: standing.marks().copied().collect(),
            };
            let shared = shared(&leader, &reader).await.map_err(|unsaid| match unsaid {
                Unsaid::Ask(error) => error.into(),
                Unsaid::Refused(refusal) => ServiceError::Refused(Refused {
                    stream: *stream,
                    refusal,
                }),
            })?;
            let until = match shared {
                Shared::All => standing.position,
                Shared::Until(common) => common.min(standing.position),
                Shared::Nothing => StreamSeq(0),
            };
            if shared != Shared::All {
                others.push(format!(
                    "{stream} is not as the database has read it: after message {until} its sequences stand for other \
                     messages (the stream was restored, or made anew); `run` reads on from there"
                ));
            }
            let until = Some(until);
            bounds.insert(*stream, Bounds { from: None, until });
        }
        Ok((bounds, others))
    }

    /// Where each stream begins.
    pub(super) fn starts(&self) -> BTreeMap<StreamName, StreamSeq> {
        let streams = self.forecast.streams.iter();
        streams.map(|(stream, census)| (*stream, census.first)).collect()
    }

    pub(super) fn leader(&self, stream: StreamName) -> Leader {
        Leader::new(&self.connection.js(), stream)
    }

    /// Runs what blocks; a stop does not wait for it.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, ServiceError> + Send + 'static,
    ) -> Result<T, ServiceError> {
        let mut stop = self.stop.clone();
        let work = tokio::task::spawn_blocking(work);
        tokio::select! {
            done = work => done.map_err(|error| ServiceError::Broken(error.to_string()))?,
            () = super::raised(&mut stop) => Err(stopped()),
        }
    }
}

impl Drop for Leftovers {
    fn drop(&mut self) {
        // The lock's file goes last, and while it is held: who has opened it by then finds another at its path, and takes
        // that one.
        for leftover in [&self.scratch, &scratch::path(&self.scratch, "loading")] {
            if let Err(error) = scratch::remove(leftover) {
                tracing::warn!(%error, "a scratch is left over; the next one takes it away");
            }
        }
    }
}

pub(super) fn stopped() -> ServiceError {
    ServiceError::Unavailable("stopped before the end; the database is as it was".to_owned())
}

/// Whether a scratch that stands here holds what a stream, as it was counted before, has up to `until`, or to its end.
fn is_loaded(standing: Option<&Standing>, until: Option<StreamSeq>, census: &Census) -> bool {
    let first = standing.map_or(census.first, |standing| standing.first);
    match (standing, until) {
        (_, Some(until)) if until < first => true,
        (Some(standing), Some(until)) => standing.position == until,
        (Some(standing), None) => standing.position >= census.last,
        (None, _) => census.messages == 0,
    }
}

/// Counts the streams and the object store.
async fn forecast(connection: &Connection) -> Result<Forecast, ServiceError> {
    let streams = census_of_streams(connection).await?;
    Ok(Forecast {
        streams: streams.map_err(|stream| {
            ServiceError::Unavailable(format!(
                "the stream {stream} does not exist; the backend makes it when it starts"
            ))
        })?,
        outputs: census_of_outputs(&connection.js()).await?,
    })
}

/// Counts the streams; the inner error is the first that does not exist.
pub(super) async fn census_of_streams(
    connection: &Connection,
) -> Result<Result<BTreeMap<StreamName, Census>, StreamName>, AskError> {
    let js = connection.js();
    let mut streams = BTreeMap::new();
    for stream in StreamName::ALL {
        let Some(census) = census(&js, stream).await? else {
            return Ok(Err(stream));
        };
        streams.insert(stream, census);
    }
    Ok(Ok(streams))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scratch_that_does_not_hold_what_was_to_be_loaded_is_no_basis_for_anything() {
        let census = |first, last, messages| Census {
            first: StreamSeq(first),
            last: StreamSeq(last),
            messages,
            bytes: 0,
            bytes_max: None,
            max_age: None,
            oldest: None,
        };
        let at = |first, position| {
            let mut standing = Standing::new(1, StreamSeq(first));
            standing.position = StreamSeq(position);
            standing
        };
        let (full, empty) = (census(1, 9, 9), census(10, 9, 0));
        for (expected, standing, until, census) in [
            (true, Some(at(1, 5)), Some(5), &full),
            (false, Some(at(1, 4)), Some(5), &full),
            (false, None, Some(5), &full),
            (true, Some(at(6, 5)), Some(5), &full),
            (true, None, Some(5), &empty),
            (true, Some(at(1, 9)), None, &full),
            (true, Some(at(1, 12)), None, &full),
            (false, Some(at(1, 8)), None, &full),
            (false, None, None, &full),
            (true, None, None, &empty),
        ] {
            let until = until.map(StreamSeq);
            assert_eq!(
                is_loaded(standing.as_ref(), until, census),
                expected,
                "{standing:?} {until:?}"
            );
        }
    }
}
