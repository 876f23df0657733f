//! The real binary.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::wait_until;

pub struct Projector {
    child: Child,
    folder: TempDir,
}

static BINARY: OnceLock<PathBuf> = OnceLock::new();

/// Of a program that cargo has not built the binary for; before the first one is started.
pub fn use_binary(path: PathBuf) {
    BINARY.set(path).unwrap();
}

pub fn binary() -> &'static Path {
    BINARY.get_or_init(|| {
        let built: Option<&str> = option_env!("CARGO_BIN_EXE_results-projector");
        PathBuf::from(built.expect("use_binary was called"))
    })
}

fn command(db: &Path, url: &str, args: &[&str]) -> Command {
    let mut command = Command::new(binary());
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("NATS_") || text.starts_with("RESULTS_PROJECTOR_") {
            command.env_remove(&name);
        }
    }
    // Checks run every second instead of every thirty; a small reserve lets small disks be filled.
    command
        .env("RESULTS_PROJECTOR_SOURCE_CHECK_INTERVAL", "1 s")
        .env("RESULTS_PROJECTOR_STORE_DISK_RESERVE", "0")
        // Many services run at once on this machine.
        .env("RESULTS_PROJECTOR_OBSERVE_LISTEN", "off");
    command
        .arg("--db")
        .arg(db)
        .arg("--nats-url")
        .arg(url)
        .args(args)
        .stdin(Stdio::null());
    command
}

impl Projector {
    /// The service.
    pub fn start(db: &Path, url: &str) -> Self {
        Self::start_with(db, url, &["run"], &[])
    }

    pub fn start_with(db: &Path, url: &str, args: &[&str], env: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let to = |name: &str| File::create(folder.path().join(name)).unwrap();
        let child = command(db, url, args)
            .envs(env.iter().copied())
            .stdout(to("stdout"))
            .stderr(to("stderr"))
            .spawn()
            .unwrap();
        Self { child, folder }
    }

    pub fn stderr(&self) -> String {
        fs::read_to_string(self.folder.path().join("stderr")).unwrap_or_default()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// kill -9.
    pub fn kill(mut self) {
        self.signal(Signal::KILL);
        self.child.wait().unwrap();
    }

    /// SIGTERM; must end within the promised five seconds (and some, on a busy machine).
    pub fn terminate(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait_exit(Duration::from_secs(8))
    }

    /// As [`Self::terminate`], with what it said.
    pub fn terminate_with_stderr(mut self) -> (ExitStatus, String) {
        self.signal(Signal::TERM);
        let status = self.wait_exit(Duration::from_secs(8));
        (status, self.stderr())
    }

    /// As Ctrl-C does.
    pub fn interrupt(mut self) -> ExitStatus {
        self.signal(Signal::INT);
        self.wait_exit(Duration::from_secs(8))
    }

    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    pub fn is_running(&mut self) -> bool {
        self.ended().is_none()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    pub fn wait_exit(&mut self, limit: Duration) -> ExitStatus {
        let mut status = None;
        let folder = self.folder.path().to_owned();
        let child = &mut self.child;
        wait_until(
            &format!(
                "the projector ends; it said:\n{}",
                fs::read_to_string(folder.join("stderr")).unwrap_or_default()
            ),
            limit,
            || {
                status = child.try_wait().unwrap();
                status.is_some()
            },
        );
        status.unwrap()
    }
}

impl Drop for Projector {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the projector said:\n{}", self.stderr());
        }
    }
}

/// Runs a command to its end.
pub fn run(db: &Path, url: &str, args: &[&str]) -> Output {
    command(db, url, args).output().unwrap()
}

pub fn run_with(db: &Path, url: &str, args: &[&str], env: &[(&str, &str)]) -> Output {
    command(db, url, args).envs(env.iter().copied()).output().unwrap()
}

/// As somebody to whom the modes of files mean something, which they do not to root.
pub fn run_unprivileged(db: &Path, url: &str, args: &[&str]) -> Output {
    let mut command = command(db, url, args);
    // Nobody may read the folder that it was built in.
    let folder = tempfile::tempdir().unwrap();
    if rustix::process::geteuid().is_root() {
        let copy = folder.path().join("results-projector");
        fs::copy(binary(), &copy).unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let mut of_copy = Command::new(copy);
        of_copy.args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => of_copy.env(name, value),
                None => of_copy.env_remove(name),
            };
        }
        command = of_copy;
        command.uid(65_534).gid(65_534);
    }
    command.output().unwrap()
}

/// Catches up and ends; it must succeed.
pub fn catch_up(db: &Path, url: &str) -> Output {
    let output = run(db, url, &["run", "--until-caught-up"]);
    assert!(output.status.success(), "{}", text(&output));
    output
}

pub fn text(output: &Output) -> String {
    format!(
        "{}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// A folder with a place for a database.
pub fn place() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("results.db");
    (folder, db)
}
