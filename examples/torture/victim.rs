//! The service that is struck, and what systemd does for it: started again whenever it ends.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};
use std::time::{Duration, Instant};

use crate::harness::Projector;
use crate::harness::projector::run_with;

/// Everything is waited for so long before it counts as never.
pub const PATIENCE: Duration = Duration::from_secs(120);

pub struct Victim {
    pub db: PathBuf,
    url: String,
    env: BTreeMap<String, String>,
    running: Option<Projector>,
    /// The one that runs dies at a point of its own code, whenever it reaches it.
    armed: bool,
    /// Read-only disks and the like: then it may refuse to start.
    pub may_refuse: bool,
    /// With SIGKILL, by us or at a point of its own code.
    pub kills: u64,
    pub starts: u64,
    /// What all of them said, in parts.
    said: Vec<String>,
}

impl Victim {
    pub fn new(db: PathBuf, url: String, env: BTreeMap<String, String>) -> Self {
        Self {
            db,
            url,
            env,
            running: None,
            armed: false,
            may_refuse: false,
            kills: 0,
            starts: 0,
            said: Vec::new(),
        }
    }

    pub fn start(&mut self) {
        self.start_with(&[]);
    }

    pub fn start_with(&mut self, more: &[(&str, &str)]) {
        assert!(self.running.is_none(), "it runs");
        let mut env: Vec<(&str, &str)> = pairs(&self.env).collect();
        env.extend(more);
        self.running = Some(Projector::start_with(&self.db, &self.url, &["run"], &env));
        self.armed = !more.is_empty();
        self.starts += 1;
    }

    /// Starts it again if it has ended by itself; what it must not end for is the end of the storm.
    pub fn tend(&mut self) {
        let Some(running) = &mut self.running else {
            return;
        };
        let Some(status) = running.ended() else {
            return;
        };
        self.note(status);
        self.start();
    }

    fn note(&mut self, status: ExitStatus) {
        let said = self
            .running
            .take()
            .map(|ended| ended.stderr())
            .unwrap_or_default();
        let expected = match (status.signal(), status.code()) {
            (Some(9), _) => {
                self.kills += 1;
                true
            }
            // The unit starts it again on 3, not on 2.
            (_, Some(3)) => true,
            (_, Some(2)) => self.may_refuse,
            _ => false,
        };
        assert!(
            expected,
            "it ended with {status} by itself and said:\n{}",
            tail(&said)
        );
        self.said.push(said);
    }

    /// Waits, and is systemd meanwhile.
    pub async fn wait(&mut self, milliseconds: u64) {
        let until = Instant::now() + Duration::from_millis(milliseconds);
        while Instant::now() < until {
            self.tend();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Polls until it is so.
    pub async fn wait_until(&mut self, what: &str, mut so: impl FnMut(&Path) -> bool) {
        let started = Instant::now();
        while !so(&self.db) {
            assert!(
                started.elapsed() < PATIENCE,
                "waited {PATIENCE:?} in vain until {what}; it said:\n{}",
                tail(&self.running.as_ref().map(Projector::stderr).unwrap_or_default())
            );
            self.wait(20).await;
        }
    }

    /// Until the process that runs now reads, so that it holds the lock and has an open file.
    pub async fn reads(&mut self) {
        let started = Instant::now();
        while !self.stderr().contains(" reading ") {
            assert!(
                started.elapsed() < PATIENCE,
                "it does not read:\n{}",
                tail(&self.stderr())
            );
            self.wait(20).await;
        }
    }

    pub fn stderr(&self) -> String {
        self.running.as_ref().map(Projector::stderr).unwrap_or_default()
    }

    pub fn running(&self) -> &Projector {
        self.running.as_ref().expect("it runs")
    }

    pub fn kill(&mut self) {
        self.tend();
        if let Some(running) = self.running.take() {
            self.kills += 1;
            self.said.push(running.stderr());
            running.kill();
        }
    }

    /// As an operator stops it: with 0, within the promised time.
    pub fn terminate(&mut self) {
        self.tend();
        if let Some(running) = self.running.take() {
            let (status, said) = running.terminate_with_stderr();
            // A process that has hardly begun listens to no signal yet, and has written nothing.
            let before_it_began = status.signal() == Some(15) && said.is_empty();
            let at_its_point = self.armed && status.signal() == Some(9);
            self.kills += u64::from(at_its_point);
            assert!(
                status.success() || status.code() == Some(3) || before_it_began || at_its_point,
                "SIGTERM ended it with {status}:\n{}",
                tail(&said)
            );
            self.said.push(said);
        }
    }

    /// A command on its database.
    pub fn run(&self, args: &[&str], more: &[(&str, &str)]) -> Output {
        let mut env: Vec<(&str, &str)> = pairs(&self.env).collect();
        env.extend(more);
        run_with(&self.db, &self.url, args, &env)
    }

    /// A command that goes on meanwhile.
    pub fn begin(&self, args: &[&str]) -> Projector {
        let env: Vec<(&str, &str)> = pairs(&self.env).collect();
        Projector::start_with(&self.db, &self.url, args, &env)
    }

    /// The database and whatever belongs to it, while nobody has it open.
    pub fn remove_database(&self) {
        for suffix in ["", "-wal", "-shm", "-journal"] {
            let _absent = fs::remove_file(beside(&self.db, suffix));
        }
    }

    /// What all processes said, for the keeping.
    pub fn said(&self) -> String {
        let mut all = self.said.join("\n--- started again\n");
        all.push_str("\n--- started again\n");
        all.push_str(&self.stderr());
        all
    }
}

fn pairs(env: &BTreeMap<String, String>) -> impl Iterator<Item = (&str, &str)> {
    env.iter().map(|(name, value)| (name.as_str(), value.as_str()))
}

pub fn beside(db: &Path, suffix: &str) -> PathBuf {
    let mut name = db.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

pub fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

/// Cuts the log of a killed process at a frame, or in one, somewhere behind what has been copied into the database: a power
/// failure takes no frame of which a page is in the database already, since a checkpoint syncs the log first.
pub fn cut_wal(db: &Path, permille: u64) {
    const HEADER: u64 = 32;
    let (wal, index) = (beside(db, "-wal"), beside(db, "-shm"));
    let (Ok(log), Ok(shm)) = (fs::read(&wal), fs::read(&index)) else {
        return;
    };
    let number = |bytes: &[u8], at: usize| {
        bytes
            .get(at..at + 4)
            .map_or(0, |four| u32::from_be_bytes(four.try_into().unwrap()))
    };
    let native = |at: usize| {
        shm.get(at..at + 4)
            .map_or(0, |four| u32::from_ne_bytes(four.try_into().unwrap()))
    };
    let frame = 24 + u64::from(number(&log, 8));
    if (log.len() as u64) < HEADER + frame {
        return;
    }
    let frames = (log.len() as u64 - HEADER) / frame;
    // Offsets of the index's checkpoint information: frames copied, and frames that a checkpoint had set out to copy.
    let copied = u64::from(native(96).max(native(128))).min(frames);
    let valid = u64::from(native(16)).min(frames);
    let last = valid.max(copied);
    let kept = copied + (last - copied) * permille / 1_000;
    let in_frame = if permille.is_multiple_of(2) { 0 } else { frame / 2 };
    let length = (HEADER + kept * frame + in_frame).min(log.len() as u64);
    fs::OpenOptions::new()
        .write(true)
        .open(&wal)
        .and_then(|file| file.set_len(length))
        .unwrap();
    // The index is in memory only: a power failure leaves none.
    let _absent = fs::remove_file(index);
}

/// A library that lets a process's wall clock be moved, where there is a C compiler: its own file holds the seconds.
pub fn build_clock(folder: &Path) -> Option<PathBuf> {
    let (source, library) = (folder.join("clock.c"), folder.join("clock.so"));
    fs::write(&source, include_str!("clock.c")).unwrap();
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-O2", "-o"])
        .arg(&library)
        .arg(&source)
        .arg("-ldl")
        .status();
    built.is_ok_and(|status| status.success()).then_some(library)
}
