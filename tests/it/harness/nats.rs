//! A nats-server of its own for each test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use async_nats::jetstream;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::wait_until;

/// Tests raise the backend's limits on streams and stores to this: they must not lose messages to them by accident.
pub const BYTES_MAX: i64 = 16 << 30;

pub struct NatsServer {
    folder: TempDir,
    config: String,
    child: Option<Child>,
    port: u16,
}

/// From `NATS_SERVER`, as `scripts/test` sets it, else wherever `scripts/nats-server` finds one.
pub(super) fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/nats-server");
        let found = Command::new(script).stderr(Stdio::inherit()).output().unwrap();
        assert!(found.status.success(), "no nats-server");
        PathBuf::from(String::from_utf8(found.stdout).unwrap().trim())
    })
}

/// Starts a server with this configuration; both its file and its log lie in the folder.
pub fn spawn(folder: &Path, config: &str) -> Child {
    fs::write(folder.join("nats.conf"), config).unwrap();
    let log = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(folder.join("nats.log"))
        .unwrap();
    Command::new(binary())
        .arg("-c")
        .arg(folder.join("nats.conf"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}

impl NatsServer {
    pub fn start() -> Self {
        Self::start_with("")
    }

    /// With more lines in its configuration file.
    pub fn start_with(config: &str) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), config)
    }

    /// On a store that was made elsewhere: `unpack` puts it as `store` into the folder it is given.
    pub fn start_on(unpack: impl FnOnce(&Path)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        unpack(folder.path());
        Self::start_in(folder, "")
    }

    /// On a copy of a store, with more lines in its configuration file.
    pub fn start_copy(store: &Path, config: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        copy(store, &folder.path().join("store"));
        Self::start_in(folder, config)
    }

    /// Stopped, and started with other lines in its configuration file.
    pub fn restart_with(&mut self, config: &str) {
        self.stop();
        config.clone_into(&mut self.config);
        self.start_again();
    }

    /// What it has said so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("nats.log")).unwrap_or_default()
    }

    fn start_in(folder: TempDir, config: &str) -> Self {
        let mut server = Self {
            folder,
            config: config.to_owned(),
            child: None,
            port: 0,
        };
        server.start_again();
        server
    }

    /// On the port it had before, with the store it has now.
    pub fn start_again(&mut self) {
        assert!(self.child.is_none(), "it runs");
        let folder = self.folder.path();
        let ports = folder.join("ports");
        let _ = fs::remove_dir_all(&ports);
        fs::create_dir_all(&ports).unwrap();
        let port = if self.port == 0 {
            "-1".to_owned()
        } else {
            self.port.to_string()
        };
        let text = format!(
            "listen: \"127.0.0.1:{port}\"\nports_file_dir: \"{}\"\njetstream {{ store_dir: \"{}\", max_file_store: 1TB }}\n{}\n",
            ports.display(),
            self.store().display(),
            self.config
        );
        let mut child = spawn(folder, &text);
        let mut found = None;
        wait_until(
            "the server has a port and JetStream",
            Duration::from_secs(30),
            || {
                if let Some(status) = child.try_wait().unwrap() {
                    panic!("nats-server ended with {status}:\n{}", self.log_tail());
                }
                found = fs::read_dir(&ports).unwrap().flatten().find_map(|entry| {
                    let text = fs::read_to_string(entry.path()).ok()?;
                    let json: serde_json::Value = serde_json::from_str(&text).ok()?;
                    let url = json["nats"][0].as_str()?;
                    url.rsplit_once(':')?.1.trim_end_matches('/').parse::<u16>().ok()
                });
                found.is_some() && self.log_tail().contains("Server is ready")
            },
        );
        self.port = found.unwrap();
        self.child = Some(child);
    }

    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn store(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("it runs");
        kill_process(Pid::from_child(child), signal).unwrap();
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.child.take().unwrap().wait().unwrap();
    }

    /// As its operator would.
    pub fn stop(&mut self) {
        self.signal(Signal::TERM);
        self.child.take().unwrap().wait().unwrap();
    }

    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// While stopped: all messages and consumers are gone.
    pub fn wipe_store(&self) {
        assert!(self.child.is_none(), "it runs");
        fs::remove_dir_all(self.store()).unwrap();
    }

    /// While stopped.
    pub fn copy_store(&self, to: &Path) {
        assert!(self.child.is_none(), "it runs");
        copy(&self.store(), to);
    }

    /// While stopped: the store is what it was when it was copied.
    pub fn restore_store(&self, from: &Path) {
        self.wipe_store();
        copy(from, &self.store());
    }

    pub async fn client(&self) -> async_nats::Client {
        async_nats::connect(self.url()).await.unwrap()
    }

    pub async fn jetstream(&self) -> jetstream::Context {
        jetstream::new(self.client().await)
    }

    /// With the streams and stores of the backend.
    pub async fn fleet(&self) -> jetstream::Context {
        let js = self.jetstream().await;
        super::fleet::create_streams(&js, Some(BYTES_MAX)).await.unwrap();
        js
    }

    fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else if entry.file_type().unwrap().is_file() {
            // A socket is nothing to copy.
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
