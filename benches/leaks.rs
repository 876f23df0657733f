//! What is done often must leave nothing behind: `cargo bench --bench leaks -- [--quick] [--only NAME]`.
//!
//! Under one running service: the server killed and started again, consumers deleted, outputs repaired, manifests
//! edited, commands asked, and idle time in which everything periodic comes round a hundred times as often. After each:
//! memory, threads, handles, consumers. Fails on a handle, a file or a consumer left over, and on memory that grows with
//! the second half of the repetitions as it did with the first.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout
)]
#![allow(clippy::let_underscore_must_use, clippy::string_slice)]

mod support;

use std::collections::BTreeSet;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use async_nats::jetstream;
use rusqlite::{Connection, OpenFlags};
use support::process::{Handles, files_beside, look};
use support::service::{STREAMS, Service, caught_up, consumers};
use support::{Server, argument, flag, fleet};

const PATIENCE: Duration = Duration::from_secs(600);
/// Longer than a blocking thread of the runtime waits for more work, and than the server keeps a watch of the manifests
/// that nobody listens to any more (the client asks for 30 s).
const REST: Duration = Duration::from_secs(45);
/// What the allocator may keep of a burst without being said to leak.
const NOISE_BYTES: u64 = 24 << 20;
/// Everything periodic, a hundred times as often; and a page cache that is soon full, so that memory that grows is none
/// of a growing file.
const HASTE: [(&str, &str); 4] = [
    ("RESULTS_PROJECTOR_STORE_PAGE_CACHE", "8 MiB"),
    ("RESULTS_PROJECTOR_SOURCE_CHECK_INTERVAL", "300 ms"),
    ("RESULTS_PROJECTOR_SOURCE_HEARTBEAT", "500 ms"),
    ("RESULTS_PROJECTOR_SOURCE_EXPIRES", "1 s"),
];

struct Bench {
    server: Server,
    js: jetstream::Context,
    service: Service,
    seed: u64,
    broken: Vec<String>,
}

struct At {
    anonymous: u64,
    threads: usize,
    handles: Handles,
    consumers: usize,
    files: Vec<String>,
}

impl Bench {
    async fn publish(&mut self, profile: fleet::Profile) -> Vec<fleet::Planned> {
        self.seed += 1;
        let planned = fleet::plan(self.seed, &profile);
        fleet::publish_messages(&self.js, &planned).await.unwrap();
        planned
    }

    async fn few(&mut self) {
        self.publish(fleet::Profile {
            results: 20,
            ..Default::default()
        })
        .await;
        caught_up(&self.js, &mut self.service, PATIENCE).await;
    }

    async fn at_rest(&mut self) -> At {
        tokio::time::sleep(REST).await;
        self.service.assert_running();
        let look = look(self.service.pid());
        At {
            anonymous: look.anonymous,
            threads: look.threads,
            handles: self.service.handles(),
            consumers: consumers(&self.js).await.len(),
            files: files_beside(&self.service.db),
        }
    }

    /// Does something so often, in two halves.
    async fn repeat(&mut self, name: &str, times: usize, mut what: impl AsyncFnMut(&mut Self, usize)) {
        let only = argument("only", String::new());
        if !only.is_empty() && only != name {
            return;
        }
        let times = if flag("quick") { times.div_ceil(20) } else { times };
        let begun = Instant::now();
        let before = self.at_rest().await;
        what(self, times / 2).await;
        let middle = self.at_rest().await;
        what(self, times - times / 2).await;
        let after = self.at_rest().await;
        let mib = |bytes: u64| bytes as f64 / 1_048_576.0;
        println!(
            "{name:<12}{times:>7}{:>8.0}{:>9.1}{:>9.1}{:>9.1}{:>10}{:>11}{:>11}",
            begun.elapsed().as_secs_f64(),
            mib(before.anonymous),
            mib(middle.anonymous),
            mib(after.anonymous),
            format!("{}, {}", before.threads, after.threads),
            format!("{}, {}", before.handles.count(), after.handles.count()),
            format!("{}, {}", before.consumers, after.consumers),
        );
        if after.handles != before.handles {
            self.broken.push(format!(
                "{name}: handles before {}; after {}",
                before.handles, after.handles
            ));
        }
        if after.threads > before.threads {
            self.broken.push(format!("{name}: threads"));
        }
        if after.consumers > before.consumers {
            self.broken
                .push(format!("{name}: consumers {:?}", consumers(&self.js).await));
        }
        if after.files != before.files {
            self.broken.push(format!("{name}: files {:?}", after.files));
        }
        if after.anonymous > middle.anonymous + NOISE_BYTES {
            self.broken.push(format!("{name}: memory grows"));
        }
    }

    /// kill -9, and the same store again.
    async fn restart(&mut self, times: usize) {
        for _ in 0..times {
            self.server.kill_and_restart();
            self.few().await;
        }
    }

    /// All three at once; each must be made anew.
    async fn delete_consumers(&mut self, times: usize) {
        for _ in 0..times.div_ceil(STREAMS.len()) {
            for stream in STREAMS {
                let name = format!("results_projector_{}", stream.to_lowercase());
                let stream = self.js.get_stream(stream).await.unwrap();
                let _ = stream.delete_consumer(&name).await;
            }
            let started = Instant::now();
            while consumers(&self.js).await.len() < STREAMS.len() + 1 {
                assert!(started.elapsed() < PATIENCE, "{}", self.service.said());
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        self.few().await;
    }

    /// Results whose objects come after them.
    async fn repair(&mut self, times: usize) {
        for _ in 0..times.div_ceil(500) {
            let planned = self
                .publish(fleet::Profile {
                    results: 500,
                    overflow_permille: 1_000,
                    overflow_bytes: (2_000, 20_000),
                    ..Default::default()
                })
                .await;
            caught_up(&self.js, &mut self.service, PATIENCE).await;
            assert!(self.pending() > 0);
            fleet::store_objects(&self.js, &planned).await.unwrap();
            let started = Instant::now();
            while self.pending() > 0 {
                assert!(started.elapsed() < PATIENCE, "{}", self.service.said());
                // Their turn comes by itself; this is sooner, and is asked through the socket.
                self.command(&["outputs", "retry", "--state", "pending"]);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }

    fn pending(&self) -> u64 {
        let conn = Connection::open_with_flags(&self.service.db, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
        conn.query_row(
            "SELECT count(*) FROM projector_outputs WHERE state = 'pending'",
            [],
            |row| row.get(0),
        )
        .unwrap()
    }

    /// The hints of every job change, and results come under the new ones.
    async fn edit_manifests(&mut self, times: usize) {
        let jobs = self.js.get_key_value("jobs").await.unwrap();
        for time in 0..times {
            for (id, mut manifest) in fleet::manifests() {
                manifest["edited"] = serde_json::json!(self.seed + time as u64);
                if let Some(display) = manifest.pointer_mut("/inventory/display/0/label") {
                    *display = serde_json::json!(format!("Host {}", self.seed + time as u64));
                }
                jobs.put(id, manifest.to_string().into()).await.unwrap();
            }
            self.publish(fleet::Profile {
                results: 0,
                pcs: 10,
                scans: 1,
                checks: 1,
                feeds: 1,
                ..Default::default()
            })
            .await;
            caught_up(&self.js, &mut self.service, PATIENCE).await;
        }
    }

    fn command(&self, args: &[&str]) -> bool {
        Command::new(env!("CARGO_BIN_EXE_results-projector"))
            .args(["-q", "--db", self.service.db.to_str().unwrap(), "--nats-url"])
            .arg(&self.server.url)
            .args(args)
            .output()
            .unwrap()
            .status
            .success()
    }

    /// What operators ask of a running service.
    async fn commands(&mut self, times: usize) {
        for time in 0..times {
            let done = match time % 4 {
                0 => self.command(&["status"]),
                1 => self.command(&["dead-letters", "retry", "--all"]),
                2 => self.command(&["outputs", "retry", "--state", "gone"]),
                _ => self.command(&["dead-letters", "list"]),
            };
            // Letters that cannot be projected stay: exit code 1.
            assert!(done || time % 4 == 1, "{}", self.service.said());
        }
    }
}

async fn run() -> ExitCode {
    let server = Server::start();
    let js = jetstream::new(async_nats::connect(&server.url).await.unwrap());
    fleet::create_streams(&js, Some(16 << 30)).await.unwrap();
    fleet::put_manifests(&js).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&server.url, &folder.path().join("results.db"), &HASTE);
    let mut bench = Bench {
        server,
        js,
        service,
        seed: 0,
        broken: Vec::new(),
    };
    // Everything that is opened once is open.
    let planned = bench
        .publish(fleet::Profile {
            malformed: 20,
            ..fleet::Profile::everything(2_000)
        })
        .await;
    fleet::store_objects(&bench.js, &planned).await.unwrap();
    caught_up(&bench.js, &mut bench.service, PATIENCE).await;
    let kinds: BTreeSet<&str> = planned.iter().map(fleet::Planned::stream).collect();
    assert_eq!(kinds.len(), STREAMS.len());
    println!(
        "{:<12}{:>7}{:>8}{:>9}{:>9}{:>9}{:>10}{:>11}{:>11}",
        "", "times", "s", "MiB", "half", "end", "threads", "handles", "consumers"
    );
    bench
        .repeat("idle", 400, async |bench: &mut Bench, turns| {
            // A turn is one check of thirty seconds.
            tokio::time::sleep(Duration::from_millis(300) * turns as u32).await;
            bench.few().await;
        })
        .await;
    bench.repeat("restarts", 50, Bench::restart).await;
    bench.repeat("consumers", 1_000, Bench::delete_consumers).await;
    bench.repeat("repairs", 10_000, Bench::repair).await;
    bench.repeat("manifests", 100, Bench::edit_manifests).await;
    bench.repeat("commands", 400, Bench::commands).await;
    let Bench { service, broken, .. } = bench;
    service.stop();
    for what in &broken {
        println!("BROKEN: {what}");
    }
    ExitCode::from(u8::from(!broken.is_empty()))
}

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(run())
}
