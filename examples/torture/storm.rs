//! One storm: the fleet publishes, strikes fall, the world changes; then everything converges and is compared.
//!
//! The oracle is a second database that is caught up, undisturbed, whenever all is at rest. It meets every change of the
//! world at the same place of the streams as the struck one, and no strike at all. Storms whose world never changed are
//! compared with a database made from stream start too.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_nats::jetstream::{self, stream};
use bytes::Bytes;
use tempfile::TempDir;

use super::change::{Object, put_back};
use super::plan::{Change, Schedule};
use super::strikes::write_in_place;
use super::victim::{PATIENCE, Victim, beside, build_clock, tail};
use crate::harness::backend::BackendFile;
use crate::harness::fleet::{self, Profile};
use crate::harness::projector::{run_with, text};
use crate::harness::{NatsServer, Planned, Proxy, SmallDisk, dump};

pub const STREAMS: [&str; 3] = ["RESULTS", "EVENTS", "INVENTORY"];

/// What a storm was.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub messages: u64,
    pub kills: u64,
    pub server_kills: u64,
    /// By kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// What could not be done here, and why.
    pub skipped: BTreeSet<&'static str>,
    pub rows: u64,
    /// Sequences that the struck database knows to be gone.
    pub gaps: u64,
    pub dead: u64,
    pub compared_with_stream_start: bool,
}

impl Tally {
    pub fn add(&mut self, other: &Tally) {
        self.messages += other.messages;
        self.kills += other.kills;
        self.server_kills += other.server_kills;
        self.rows += other.rows;
        self.gaps += other.gaps;
        self.dead += other.dead;
        for (kind, count) in &other.faults {
            *self.faults.entry(kind).or_default() += count;
        }
        self.skipped.extend(&other.skipped);
    }
}

pub struct Storm {
    pub folder: TempDir,
    pub server: NatsServer,
    pub victim: Victim,
    pub oracle: PathBuf,
    pub js: jetstream::Context,
    pub proxy: Proxy,
    pub disk: Option<SmallDisk>,
    pub clock: Option<(PathBuf, PathBuf)>,
    env: BTreeMap<String, String>,
    pub readers: Vec<rusqlite::Connection>,
    pub damaged: Vec<Object>,
    /// Every object that was ever published and not lost on purpose.
    pub objects: Arc<Mutex<BTreeMap<String, Bytes>>>,
    /// Sequences that were deleted or purged, in the life of the stream that is current.
    pub gone: BTreeSet<(&'static str, u64)>,
    pub gone_at_copy: BTreeSet<(&'static str, u64)>,
    pub edits: u64,
    pub tally: Tally,
}

/// Plays a storm to its end.
///
/// # Panics
/// When an invariant is broken; the panic says which, and what differs. The folder is kept then.
pub async fn play(schedule: &Schedule) -> Tally {
    let mut storm = Storm::begin(schedule).await;
    let keep = std::env::var_os("TORTURE_KEEP").is_some();
    let guard = KeepOnPanic(storm.folder.path().to_owned(), storm.victim.db.clone());
    let profile = Profile {
        overflow_permille: 8,
        overflow_bytes: (300_000, 600_000),
        ..Profile::everything(schedule.results)
    };
    let planned = fleet::plan(schedule.seed, &profile);
    let each = planned.len().div_ceil(schedule.acts.len());
    for (act, part) in schedule.acts.iter().zip(planned.chunks(each)) {
        // What nobody has read when the world changes.
        let unseen = if act.change.is_some() { part.len() / 20 } else { 0 };
        let (seen, unseen) = part.split_at(part.len() - unseen);
        let publishing = tokio::spawn(publish(
            storm.js.clone(),
            seen.to_vec(),
            storm.objects.clone(),
            act.strikes.len(),
        ));
        for (wait, strike) in &act.strikes {
            storm.victim.wait(*wait).await;
            *storm.tally.faults.entry(strike.name()).or_default() += 1;
            storm.strike(strike).await;
        }
        publishing.await.unwrap();
        storm.calm().await;
        if let Some(change) = act.change {
            storm.converge().await;
            *storm.tally.faults.entry(change.name()).or_default() += 1;
            if matches!(change, Change::RestoreStore(true) | Change::WipeStore(true)) {
                // What was read before is durable: no later power failure reads it again in the new world.
                storm.checkpoint().await;
                storm.change(change, unseen).await;
            } else {
                storm.victim.terminate();
                storm.change(change, unseen).await;
                storm.victim.start();
            }
        }
    }
    storm.tally.messages = planned.len() as u64;
    storm.converge().await;
    storm.prove(schedule).await;
    storm.tally.kills += storm.victim.kills;
    drop(guard);
    if keep {
        KeepOnPanic(storm.folder.path().to_owned(), storm.victim.db.clone()).keep();
    }
    storm.tally
}

/// Keeps the evidence.
struct KeepOnPanic(PathBuf, PathBuf);

impl KeepOnPanic {
    fn keep(&self) {
        let to = std::env::temp_dir().join(format!("torture-{}", std::process::id()));
        crate::harness::nats::copy(&self.0, &to);
        for suffix in ["", "-wal", "-shm"] {
            let _absent = fs::copy(beside(&self.1, suffix), beside(&to.join("struck.db"), suffix));
        }
        eprintln!("kept in {}", to.display());
    }
}

impl Drop for KeepOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.keep();
        }
    }
}

impl Storm {
    async fn begin(schedule: &Schedule) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let server = NatsServer::start();
        let js = server.fleet().await;
        fleet::put_manifests(&js).await.unwrap();
        let proxy = Proxy::start(server.address()).await;
        let mut tally = Tally::default();
        let disk = schedule.small_disk.then(|| SmallDisk::mount(1_024)).flatten();
        if schedule.small_disk && disk.is_none() {
            tally
                .skipped
                .insert("disk faults: mounting a file system needs root");
        }
        let place = disk.as_ref().map_or(folder.path(), SmallDisk::path);
        let mut env: BTreeMap<String, String> = [
            ("RESULTS_PROJECTOR_SOURCE_ACK_WAIT", "2 s".to_owned()),
            (
                "RESULTS_PROJECTOR_STORE_BULK_FROM",
                schedule.bulk_from.to_string(),
            ),
            ("RESULTS_PROJECTOR_OUTPUTS_IDLE_TIMEOUT", "1 s".to_owned()),
            ("RUST_BACKTRACE", "1".to_owned()),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
        let clock = build_clock(folder.path()).map(|library| {
            let offset = folder.path().join("clock");
            fs::write(&offset, 0_i64.to_ne_bytes()).unwrap();
            (library, offset)
        });
        match &clock {
            None => drop(tally.skipped.insert("clock jumps: no C compiler")),
            Some((library, offset)) => {
                env.insert("LD_PRELOAD".to_owned(), library.display().to_string());
                env.insert("CLOCK_OFFSET_FILE".to_owned(), offset.display().to_string());
            }
        }
        let mut victim = Victim::new(place.join("struck.db"), proxy.url(), env.clone());
        let oracle = folder.path().join("oracle.db");
        if schedule.adopted {
            *tally.faults.entry("(the backend's file)").or_default() += 1;
            for db in [&victim.db, &oracle] {
                BackendFile::default().create(db);
            }
        }
        match schedule.dies_in_migration {
            Some(number) => {
                *tally.faults.entry("died in a migration").or_default() += 1;
                let at = format!("in-migration:{number}");
                victim.start_with(&[("RESULTS_PROJECTOR_DIE_AT", &at)]);
            }
            None => victim.start(),
        }
        Self {
            folder,
            server,
            victim,
            oracle,
            js,
            proxy,
            disk,
            clock,
            env,
            readers: Vec::new(),
            damaged: Vec::new(),
            objects: Arc::default(),
            gone: BTreeSet::new(),
            gone_at_copy: BTreeSet::new(),
            edits: 0,
            tally,
        }
    }

    /// Everything that is committed is in the database, and the log is empty.
    async fn checkpoint(&mut self) {
        self.victim
            .wait_until("the log is copied", |db| {
                let conn = rusqlite::Connection::open(db).unwrap();
                conn.busy_timeout(Duration::from_secs(2)).unwrap();
                let busy = conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0));
                busy.is_ok_and(|busy| busy == 0)
            })
            .await;
    }

    /// No strike is left in force.
    async fn calm(&mut self) {
        self.readers.clear();
        if let Some((_, offset)) = &self.clock {
            write_in_place(offset, 0);
        }
        if !self.damaged.is_empty() {
            self.damaged.clear();
            self.objects_back().await;
        }
    }

    /// Every object is in its store again.
    pub async fn objects_back(&self) {
        let objects = self.objects.lock().unwrap().clone();
        put_back(&self.js, &objects).await;
    }

    /// Both databases have read everything, and asked for everything that is owed.
    pub async fn converge(&mut self) {
        let wanted = self.last_sequences().await;
        let behind = |db: &Path| {
            wanted
                .iter()
                .any(|(stream, last)| dump::position_of(db, stream) != Some(*last))
        };
        self.victim
            .wait_until("every message is projected", |db| !behind(db))
            .await;
        self.settle().await;
        let output = self.ask_oracle(&["run", "--until-caught-up"]);
        assert!(output.status.success(), "the oracle: {}", text(&output));
        let output = self.ask_oracle(&["outputs", "retry", "--all"]);
        assert!(
            matches!(output.status.code(), Some(0 | 1)),
            "the oracle's outputs: {}",
            text(&output)
        );
        // What the reaper and the operators look at is there in both, and counted before the world may change.
        let [new, _] = [&self.victim.db, &self.oracle].map(|db| executions(db));
        if new > 0 {
            self.victim.wait_until("executions are counted", settled).await;
            let started = Instant::now();
            while !settled(&self.oracle) {
                assert!(
                    started.elapsed() < PATIENCE,
                    "the oracle's executions are not counted"
                );
                let output = self.ask_oracle(&["run", "--until-caught-up"]);
                assert!(output.status.success(), "the oracle: {}", text(&output));
            }
        }
    }

    /// What is owed and can be had is had, and nothing waits for anything any more.
    pub async fn settle(&mut self) {
        let started = Instant::now();
        loop {
            self.victim.reads().await;
            let output = self.victim.run(&["outputs", "retry", "--all"], &[]);
            if matches!(output.status.code(), Some(0 | 1)) {
                let waiting = "SELECT (SELECT count(*) FROM projector_derivations WHERE state = 'due')
                    + (SELECT count(*) FROM projector_outputs WHERE state = 'pending' AND object IN
                        (SELECT value FROM json_each(?1)))";
                let objects: Vec<String> = self.objects.lock().unwrap().keys().cloned().collect();
                let objects = serde_json::to_string(&objects).unwrap();
                let left: i64 = dump::open(&self.victim.db)
                    .query_row(waiting, [objects], |row| row.get(0))
                    .unwrap();
                if left == 0 {
                    return;
                }
            }
            assert!(
                started.elapsed() < PATIENCE,
                "outputs that are there are not fetched: {}\nthe service said:\n{}",
                text(&output),
                tail(&self.victim.stderr())
            );
            self.victim.wait(100).await;
        }
    }

    pub fn ask_oracle(&self, args: &[&str]) -> std::process::Output {
        let mut env: Vec<(&str, &str)> = self
            .env
            .iter()
            .filter(|(name, _)| name.starts_with("RESULTS_PROJECTOR_"))
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        env.push(("RESULTS_PROJECTOR_SOURCE_CONSUMER_PREFIX", "oracle"));
        run_with(&self.oracle, &self.server.url(), args, &env)
    }

    pub async fn last_sequences(&self) -> Vec<(&'static str, u64)> {
        let mut last = Vec::new();
        for name in STREAMS {
            let info = retrying(|| async { self.js.get_stream(name).await }).await;
            last.push((name, info.cached_info().state.last_sequence));
        }
        last
    }
}

/// Spread over the strikes; what the server does not take is published again until it does, as agents do.
async fn publish(
    js: jetstream::Context,
    planned: Vec<Planned>,
    objects: Arc<Mutex<BTreeMap<String, Bytes>>>,
    strikes: usize,
) {
    let parts = planned.len().div_ceil(100).max(1);
    let pause = Duration::from_millis(400 * strikes as u64 / parts as u64);
    for part in planned.chunks(100) {
        publish_surely(&js, part, &objects).await;
        tokio::time::sleep(pause).await;
    }
}

pub async fn publish_surely(
    js: &jetstream::Context,
    part: &[Planned],
    objects: &Mutex<BTreeMap<String, Bytes>>,
) {
    objects
        .lock()
        .unwrap()
        .extend(part.iter().flat_map(|planned| planned.objects.clone()));
    let started = Instant::now();
    while let Err(error) = fleet::publish(js, part).await {
        assert!(started.elapsed() < PATIENCE, "cannot publish: {error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Asks the server until it answers.
pub async fn retrying<T, E: std::fmt::Display, F: Future<Output = Result<T, E>>>(ask: impl Fn() -> F) -> T {
    let started = Instant::now();
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) => assert!(
                started.elapsed() < PATIENCE,
                "the server does not answer: {error}"
            ),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub async fn stream(js: &jetstream::Context, name: &str) -> stream::Stream {
    retrying(|| async { js.get_stream(name).await }).await
}

/// Whether no execution waits to be counted whose row is there.
fn settled(db: &Path) -> bool {
    dump::one(
        db,
        "SELECT count(*) FROM projector_unsettled JOIN executions USING (exec_id)",
    ) == 0
}

/// The deployments that the results belong to, as the backend writes them; returns how many were not there.
pub fn executions(db: &Path) -> usize {
    let conn = rusqlite::Connection::open(db).unwrap();
    conn.busy_timeout(Duration::from_secs(30)).unwrap();
    let mut new = 0;
    for number in 0..4 {
        new += conn.execute(
            "INSERT INTO executions (exec_id, job_id, version, initiated_by, initiated_at, target_count)
             VALUES (?1, 'patch-scan', '1.0.0', 'alice', '2026-06-01T00:00:00+00:00', 400) ON CONFLICT DO NOTHING",
            [format!("exec-{number}")],
        )
        .unwrap();
    }
    new
}
