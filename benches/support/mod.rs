//! What the benches share: a server, a fleet, a bare loop to compare with, and what the kernel says of a process.
#![allow(dead_code, unreachable_pub)]

#[path = "../../examples/fleet/generator.rs"]
pub mod fleet;

pub mod bare;
pub mod malformed;
pub mod process;
pub mod service;
pub mod store;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

pub struct Server {
    child: Child,
    pub url: String,
    folder: tempfile::TempDir,
}

impl Server {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (child, url) = launch(folder.path(), "-1");
        Self { child, url, folder }
    }

    /// kill -9; then on the same port and store.
    pub fn kill_and_restart(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let port = self
            .url
            .rsplit(':')
            .next()
            .unwrap()
            .trim_end_matches('/')
            .to_owned();
        (self.child, self.url) = launch(self.folder.path(), &port);
    }
}

fn server_binary() -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/nats-server");
    let found = Command::new(script).stderr(Stdio::inherit()).output().unwrap();
    String::from_utf8(found.stdout).unwrap().trim().to_owned()
}

/// As in `nats-server: v2.11.0`.
pub fn server_version() -> String {
    let said = Command::new(server_binary()).arg("--version").output().unwrap();
    let text = String::from_utf8(said.stdout).unwrap();
    text.rsplit(['v', ' '])
        .next()
        .unwrap_or_default()
        .trim()
        .to_owned()
}

fn launch(folder: &Path, port: &str) -> (Child, String) {
    let ports = folder.join("ports");
    let _ = fs::remove_dir_all(&ports);
    fs::create_dir(&ports).unwrap();
    let config = folder.join("nats.conf");
    fs::write(
        &config,
        format!(
            "listen: \"127.0.0.1:{port}\"\nports_file_dir: \"{}\"\njetstream {{ store_dir: \"{}\", max_file_store: 1TB }}\n",
            ports.display(),
            folder.join("store").display()
        ),
    )
    .unwrap();
    let child = Command::new(server_binary())
        .arg("-c")
        .arg(&config)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let started = Instant::now();
    let url = loop {
        assert!(started.elapsed() < Duration::from_secs(20), "no server");
        let found = fs::read_dir(&ports).unwrap().flatten().find_map(|entry| {
            let json: serde_json::Value =
                serde_json::from_str(&fs::read_to_string(entry.path()).ok()?).ok()?;
            Some(json["nats"][0].as_str()?.to_owned())
        });
        if let Some(url) = found {
            break url;
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    std::thread::sleep(Duration::from_millis(300));
    (child, url)
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the kernel counted for a process, read while it still runs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// Peak resident bytes.
    pub peak: u64,
    /// Peak of what is not file pages, as sampled.
    pub peak_anonymous: u64,
    /// Bytes given to write calls.
    pub written: u64,
    /// Seconds of user and system time.
    pub cpu: f64,
}

impl Usage {
    pub fn sample(&mut self, pid: u32) {
        let number = |text: &str, name: &str| -> u64 {
            text.lines()
                .find_map(|line| {
                    line.strip_prefix(name)?
                        .trim_start_matches(':')
                        .split_whitespace()
                        .next()?
                        .parse()
                        .ok()
                })
                .unwrap_or(0)
        };
        if let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) {
            self.peak = self.peak.max(number(&status, "VmHWM") << 10);
            self.peak_anonymous = self.peak_anonymous.max(number(&status, "RssAnon") << 10);
        }
        if let Ok(io) = fs::read_to_string(format!("/proc/{pid}/io")) {
            self.written = self.written.max(number(&io, "wchar"));
        }
        if let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) {
            let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
            let ticks = |at: usize| {
                fields
                    .get(at)
                    .and_then(|field| field.parse::<f64>().ok())
                    .unwrap_or(0.0)
            };
            self.cpu = self.cpu.max((ticks(11) + ticks(12)) / 100.0);
        }
    }
}

/// One run of the product.
pub struct Run {
    pub began: SystemTime,
    pub seconds: f64,
    pub usage: Usage,
    /// What it logged, a JSON object a line.
    pub log: Vec<serde_json::Value>,
}

impl Run {
    /// Of each commit that was logged, its seconds.
    pub fn commits(&self) -> Vec<f64> {
        let seconds = |line: &serde_json::Value| line["fields"]["commit_seconds"].as_f64();
        self.log.iter().filter_map(seconds).collect()
    }
}

/// Runs the product until it is caught up, message by message. Returns seconds, what it used, and its commit times in
/// seconds.
pub fn drain(url: &str, db: &Path, env: &[(&str, &str)]) -> (f64, Usage, Vec<f64>) {
    let run = live(url, db, env);
    (run.seconds, run.usage, run.commits())
}

/// As [`drain`].
pub fn live(url: &str, db: &Path, env: &[(&str, &str)]) -> Run {
    let env: Vec<(&str, &str)> = env.iter().copied().chain([LIVE]).collect();
    product(url, db, &DRAIN, &env)
}

/// The command that reads all there is and ends.
pub const DRAIN: [&str; 3] = ["-v", "run", "--until-caught-up"];
/// Message by message, however many wait.
pub const LIVE: (&str, &str) = ("RESULTS_PROJECTOR_STORE_BULK_FROM", "1000000000");

/// Runs one command of the product to its good end.
pub fn product(url: &str, db: &Path, args: &[&str], env: &[(&str, &str)]) -> Run {
    run(env!("CARGO_BIN_EXE_results-projector"), url, db, args, env)
}

/// As [`product`], of any build of it.
pub fn run(program: &str, url: &str, db: &Path, args: &[&str], env: &[(&str, &str)]) -> Run {
    let log = tempfile::NamedTempFile::new().unwrap();
    let (began, started) = (SystemTime::now(), Instant::now());
    let mut child = Command::new(program)
        .args([
            "--db",
            db.to_str().unwrap(),
            "--nats-url",
            url,
            "--log-format",
            "json",
        ])
        .args(args)
        .envs(env.iter().copied())
        .stdout(log.reopen().unwrap())
        .stderr(log.reopen().unwrap())
        .spawn()
        .unwrap();
    let mut usage = Usage::default();
    let status = loop {
        usage.sample(child.id());
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let seconds = started.elapsed().as_secs_f64();
    let log = fs::read_to_string(log.path()).unwrap();
    assert!(status.success(), "{log}");
    Run {
        began,
        seconds,
        usage,
        log: log
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect(),
    }
}

pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The value below which a share of the values lies.
pub fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let index = ((values.len() as f64 * share) as usize).min(values.len().saturating_sub(1));
    values.get(index).copied().unwrap_or(f64::NAN)
}

/// `--name value` on the command line.
pub fn argument<T: std::str::FromStr>(name: &str, default: T) -> T {
    let mut args = std::env::args();
    while let Some(arg) = args.next() {
        if arg == format!("--{name}") {
            return args
                .next()
                .and_then(|value| value.parse().ok())
                .unwrap_or(default);
        }
    }
    default
}

pub fn flag(name: &str) -> bool {
    std::env::args().any(|arg| arg == format!("--{name}"))
}
