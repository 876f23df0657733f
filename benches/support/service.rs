//! A running service, and a thread that watches it: memory, handles, log, lag.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use async_nats::jetstream;
use rusqlite::{Connection, OpenFlags};
use rustix::process::{Pid, Signal, kill_process};

use super::process::{Handles, handles, look};

pub const STREAMS: [&str; 3] = ["RESULTS", "EVENTS", "INVENTORY"];
/// Between two looks at memory and log.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Looks between two at handles and lag.
const LAG_EVERY: u32 = 10;

/// The real binary, as a service.
pub struct Service {
    child: Child,
    pub db: PathBuf,
    log: tempfile::NamedTempFile,
}

impl Service {
    pub fn start(url: &str, db: &Path, env: &[(&str, &str)]) -> Self {
        let log = tempfile::NamedTempFile::new().unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_results-projector"))
            .args(["--db", db.to_str().unwrap(), "--nats-url", url, "run"])
            .envs(env.iter().copied())
            .stdout(log.reopen().unwrap())
            .stderr(log.reopen().unwrap())
            .spawn()
            .unwrap();
        Self {
            child,
            db: db.to_owned(),
            log,
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn said(&self) -> String {
        fs::read_to_string(self.log.path()).unwrap_or_default()
    }

    pub fn wal(&self) -> PathBuf {
        PathBuf::from(format!("{}-wal", self.db.display()))
    }

    pub fn wal_bytes(&self) -> u64 {
        fs::metadata(self.wal()).map_or(0, |meta| meta.len())
    }

    pub fn handles(&self) -> Handles {
        handles(self.pid())
    }

    /// SIGTERM, and its end.
    pub fn stop(mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{}", self.said());
    }

    pub fn assert_running(&mut self) {
        assert!(self.child.try_wait().unwrap().is_none(), "{}", self.said());
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Positions as the database has them; empty before there is one.
pub fn positions(db: &Path) -> BTreeMap<String, u64> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let read = || -> Result<BTreeMap<String, u64>, rusqlite::Error> {
        let conn = Connection::open_with_flags(db, flags)?;
        conn.busy_timeout(Duration::from_secs(5))?;
        let mut select = conn
            .prepare("SELECT stream, max(incarnation), position FROM projector_position GROUP BY stream")?;
        select
            .query_map([], |row| Ok((row.get(0)?, row.get(2)?)))?
            .collect()
    };
    read().unwrap_or_default()
}

/// Last sequences as the server has them.
pub async fn ends(js: &jetstream::Context) -> BTreeMap<String, u64> {
    let mut ends = BTreeMap::new();
    for name in STREAMS {
        if let Ok(stream) = js.get_stream(name).await {
            ends.insert(name.to_owned(), stream.cached_info().state.last_sequence);
        }
    }
    ends
}

pub fn lag(ends: &BTreeMap<String, u64>, positions: &BTreeMap<String, u64>) -> u64 {
    ends.iter()
        .map(|(name, end)| end.saturating_sub(positions.get(name).copied().unwrap_or(0)))
        .sum()
}

/// Waits until every stream is projected to its end as it is now; returns the seconds.
pub async fn caught_up(js: &jetstream::Context, service: &mut Service, limit: Duration) -> f64 {
    let started = Instant::now();
    loop {
        let ends = ends(js).await;
        if ends.len() == STREAMS.len() && lag(&ends, &positions(&service.db)) == 0 {
            return started.elapsed().as_secs_f64();
        }
        service.assert_running();
        assert!(
            started.elapsed() < limit,
            "not caught up in time:\n{}",
            service.said()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Durable and other consumers on each stream of the server, the streams behind stores included.
pub async fn consumers(js: &jetstream::Context) -> Vec<String> {
    use futures_util::TryStreamExt;
    let mut names = Vec::new();
    let streams: Vec<String> = js.stream_names().try_collect().await.unwrap_or_default();
    for name in streams {
        if let Ok(stream) = js.get_stream(&name).await {
            let found: Vec<String> = stream.consumer_names().try_collect().await.unwrap_or_default();
            names.extend(found.into_iter().map(|consumer| format!("{name}/{consumer}")));
        }
    }
    names.sort();
    names
}

/// The most of everything since the last [`Watch::phase`].
#[derive(Clone, Debug, Default)]
pub struct Most {
    pub anonymous: u64,
    pub resident: u64,
    pub threads: usize,
    pub handles: usize,
    pub wal: u64,
    pub lag: u64,
}

#[derive(Default)]
struct Shared {
    phase: String,
    most: Most,
    ends: BTreeMap<String, u64>,
}

/// Watches a service until dropped.
pub struct Watch {
    shared: Arc<Mutex<Shared>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    ends: tokio::task::JoinHandle<()>,
}

impl Watch {
    pub fn begin(service: &Service, js: &jetstream::Context, csv: Option<&Path>) -> Self {
        let shared = Arc::new(Mutex::new(Shared::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let (pid, db, wal) = (service.pid(), service.db.clone(), service.wal());
        let mut csv = csv.map(|path| {
            let mut file = File::create(path).unwrap();
            writeln!(file, "seconds,phase,anonymous,resident,threads,handles,wal,lag").unwrap();
            file
        });
        let asking = {
            let (js, shared) = (js.clone(), shared.clone());
            tokio::spawn(async move {
                loop {
                    let found = ends(&js).await;
                    shared.lock().unwrap().ends = found;
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            })
        };
        let thread = {
            let (shared, stop) = (shared.clone(), stop.clone());
            std::thread::spawn(move || {
                let started = Instant::now();
                let mut turn = 0;
                let (mut open, mut behind) = (0, 0);
                while !stop.load(Ordering::Relaxed) {
                    let look = look(pid);
                    let log = fs::metadata(&wal).map_or(0, |meta| meta.len());
                    let often = turn % LAG_EVERY == 0;
                    if often {
                        open = handles(pid).count();
                        // Ends first: what was published in between is no lag.
                        let ends = shared.lock().unwrap().ends.clone();
                        behind = lag(&ends, &positions(&db));
                    }
                    let mut shared = shared.lock().unwrap();
                    let most = &mut shared.most;
                    most.anonymous = most.anonymous.max(look.anonymous);
                    most.resident = most.resident.max(look.resident);
                    most.threads = most.threads.max(look.threads);
                    most.handles = most.handles.max(open);
                    most.wal = most.wal.max(log);
                    most.lag = most.lag.max(behind);
                    if let (true, Some(csv)) = (often, &mut csv) {
                        writeln!(
                            csv,
                            "{:.2},{},{},{},{},{open},{log},{behind}",
                            started.elapsed().as_secs_f64(),
                            shared.phase,
                            look.anonymous,
                            look.resident,
                            look.threads,
                        )
                        .unwrap();
                    }
                    drop(shared);
                    turn += 1;
                    std::thread::sleep(LOOK_EVERY);
                }
            })
        };
        Self {
            shared,
            stop,
            thread: Some(thread),
            ends: asking,
        }
    }

    /// A new phase begins; returns the most of the one before.
    pub fn phase(&self, name: &str) -> Most {
        let mut shared = self.shared.lock().unwrap();
        name.clone_into(&mut shared.phase);
        std::mem::take(&mut shared.most)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.ends.abort();
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
