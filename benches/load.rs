//! A service under bursts, followed by what the kernel and the server say of it:
//! `cargo bench --bench load -- [--rounds N] [--quick] [--csv FILE]`.
//!
//! A round: many small results at once; silence; results with outputs of 1 MB; silence; malformed messages beside good
//! ones, paced, for a minute; scans, checks, feeds and start events; silence. Fails when memory passes its bound, when
//! the write-ahead log does not come back after a silence, when a handle or a file is left, when there are other
//! consumers on the server than the service's own, or when a row is missing.
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

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use async_nats::jetstream;
use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};
use rusqlite::Connection;
use support::malformed::malformed;
use support::process::{Handles, files_beside, look};
use support::service::{Most, Service, Watch, caught_up, consumers};
use support::{Server, argument, flag, fleet};

const MIB: u64 = 1 << 20;
/// I6: the page cache, messages and outputs in flight, outputs under repair, and a constant.
const MEMORY_MAX: u64 = (256 + 128 + 64 + 64 + 64) * MIB;
/// `store.wal_limit`, and a group that was under way when it was reached.
const WAL_MAX: u64 = (512 + 128) * MIB;
/// A quiet log that is longer is cut to nothing.
const WAL_QUIET_MAX: u64 = 32 * MIB;
/// Longer than anything that is given up or closed when it is idle.
const SILENCE: Duration = Duration::from_secs(12);
const PATIENCE: Duration = Duration::from_secs(600);
/// Malformed messages, and good ones, each second.
const PACE: (usize, usize) = (500, 1_000);

struct Amounts {
    rounds: usize,
    results: usize,
    outputs: usize,
    paced: Duration,
    pcs: usize,
    scans: usize,
}

/// What a phase has published.
#[derive(Default)]
struct Sent {
    messages: usize,
    /// Those that become rows of results.
    rows: usize,
    dead: usize,
}

impl Sent {
    fn of(planned: &[fleet::Planned]) -> Self {
        Self {
            messages: planned.len(),
            rows: planned
                .iter()
                .filter(|planned| planned.stream() == "RESULTS")
                .count(),
            dead: 0,
        }
    }

    fn add(&mut self, other: &Self) {
        self.messages += other.messages;
        self.rows += other.rows;
        self.dead += other.dead;
    }
}

struct Load {
    js: jetstream::Context,
    service: Service,
    watch: Watch,
    amounts: Amounts,
    sent: Sent,
    handles: Handles,
    files: Vec<String>,
    broken: Vec<String>,
    seed: u64,
}

impl Load {
    fn require(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.broken.push(what());
        }
    }

    fn line(&mut self, round: usize, name: &str, sent: &Sent, seconds: f64, after: f64, most: &Most) {
        let now = look(self.service.pid());
        let mib = |bytes: u64| bytes as f64 / MIB as f64;
        let wal = self.service.wal_bytes();
        println!(
            "{round:>5}  {name:<10}{:>9}{seconds:>8.1}{:>10.1}{:>8.0}{:>8}{:>8.0}{:>9}{:>8}{:>9.1}{:>8.1}{:>9}",
            sent.messages,
            after,
            mib(most.anonymous),
            MEMORY_MAX / MIB,
            mib(now.anonymous),
            most.threads,
            most.handles,
            mib(most.wal),
            mib(wal),
            most.lag,
        );
        self.require(most.anonymous <= MEMORY_MAX, || {
            format!("round {round}, {name}: memory {:.0} MiB", mib(most.anonymous))
        });
        self.require(most.wal <= WAL_MAX, || {
            format!("round {round}, {name}: the log had {:.0} MiB", mib(most.wal))
        });
    }

    async fn phase<F: Future<Output = Sent>>(
        &mut self,
        round: usize,
        name: &str,
        publish: impl FnOnce(jetstream::Context, u64) -> F,
    ) {
        self.seed += 1_000;
        self.watch.phase(name);
        let started = Instant::now();
        let sent = publish(self.js.clone(), self.seed).await;
        let published = started.elapsed().as_secs_f64();
        let after = caught_up(&self.js, &mut self.service, PATIENCE).await;
        // The last look must have seen the end.
        tokio::time::sleep(Duration::from_millis(150)).await;
        let most = self.watch.phase(name);
        self.line(round, name, &sent, published, after, &most);
        self.sent.add(&sent);
    }

    async fn silence(&mut self, round: usize) {
        self.watch.phase("silence");
        tokio::time::sleep(SILENCE).await;
        let most = self.watch.phase("silence");
        self.line(
            round,
            "silence",
            &Sent::default(),
            SILENCE.as_secs_f64(),
            0.0,
            &most,
        );
        self.service.assert_running();
        let wal = self.service.wal_bytes();
        self.require(wal <= WAL_QUIET_MAX, || {
            format!("round {round}: after a silence the log has {wal} bytes")
        });
        let (handles, start) = (self.service.handles(), self.handles.clone());
        self.require(handles == start, || {
            format!("round {round}: handles at the start {start}; now {handles}")
        });
        let (files, first) = (files_beside(&self.service.db), self.files.clone());
        self.require(files == first, || {
            format!("round {round}: files at the start {first:?}; now {files:?}")
        });
        let found = consumers(&self.js).await;
        let ours: Vec<String> = ["EVENTS", "INVENTORY", "RESULTS"]
            .iter()
            .map(|stream| format!("{stream}/results_projector_{}", stream.to_lowercase()))
            .collect();
        // The watch of the manifests is a consumer of its bucket, by the protocol.
        let (watching, reading): (Vec<String>, Vec<String>) =
            found.into_iter().partition(|name| name.starts_with("KV_jobs/"));
        self.require(reading == ours && watching.len() == 1, || {
            format!("round {round}: consumers {reading:?}, {watching:?}")
        });
    }

    /// Every row there, every other message in the book, and the book within its bytes.
    fn count(&mut self) {
        let conn = Connection::open(&self.service.db).unwrap();
        let one = |sql: &str| -> u64 { conn.query_row(sql, [], |row| row.get(0)).unwrap() };
        let rows = one("SELECT count(*) FROM projector_results");
        let dead = one("SELECT count(*) FROM projector_dead_letters");
        let without = one("SELECT count(*) FROM projector_dead_letters WHERE payload IS NULL");
        let kept = one(
            "SELECT coalesce(sum(payload_bytes), 0) FROM projector_dead_letters WHERE payload IS NOT NULL",
        );
        println!(
            "\n{rows} results, {dead} dead letters, {without} of them without their payload; {} MiB of payloads",
            kept / MIB
        );
        let (sent_rows, sent_dead) = (self.sent.rows as u64, self.sent.dead as u64);
        self.require(rows == sent_rows && dead == sent_dead, || {
            format!("sent were {sent_rows} results and {sent_dead} malformed messages")
        });
        self.require(kept <= 1 << 30, || format!("{kept} bytes of dead letters"));
    }
}

async fn small(js: jetstream::Context, seed: u64, results: usize) -> Sent {
    let planned = fleet::plan(
        seed,
        &fleet::Profile {
            results,
            ..Default::default()
        },
    );
    fleet::publish(&js, &planned).await.unwrap();
    Sent::of(&planned)
}

async fn outputs(js: jetstream::Context, seed: u64, results: usize) -> Sent {
    const CHUNK: usize = 100;
    let mut sent = Sent::default();
    let body = "the disk was looked at and nothing was found on it\n".repeat(20_000);
    for chunk in 0..results / CHUNK {
        let mut planned = fleet::plan(
            seed + chunk as u64,
            &fleet::Profile {
                results: CHUNK,
                overflow_permille: 1_000,
                overflow_bytes: (16, 17),
                ..Default::default()
            },
        );
        for (number, planned) in planned.iter_mut().enumerate() {
            for (_, object) in &mut planned.objects {
                let mut own = format!("{seed} {chunk} {number} {body}");
                own.truncate(1_000_000);
                *object = Bytes::from(own);
            }
        }
        fleet::publish(&js, &planned).await.unwrap();
        sent.add(&Sent::of(&planned));
    }
    sent
}

/// One in ten of the malformed is long, one in ten goes to another stream.
fn flooding(number: usize) -> (&'static str, Bytes) {
    let bytes = if number % 10 == 7 {
        (64 << 10) + (number * 7_919) % (192 << 10)
    } else {
        200 + number % 1_500
    };
    let subject = match number % 20 {
        3 => "events.started.bad",
        13 => "inventory.PC-BAD.hw",
        _ => "results.bad",
    };
    (subject, malformed(number, bytes))
}

async fn flood(js: jetstream::Context, seed: u64, length: Duration) -> Sent {
    const TURNS_PER_SECOND: usize = 20;
    let turns = length.as_secs() as usize * TURNS_PER_SECOND;
    let (bad, good) = (PACE.0 / TURNS_PER_SECOND, PACE.1 / TURNS_PER_SECOND);
    let planned = fleet::plan(
        seed,
        &fleet::Profile {
            results: good * turns,
            ..Default::default()
        },
    );
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / TURNS_PER_SECOND as u32);
    let mut acks = FuturesUnordered::new();
    let mut number = 0;
    for part in planned.chunks(good) {
        ticks.tick().await;
        for (at, planned) in part.iter().enumerate() {
            acks.push(
                js.publish(planned.subject.clone(), planned.payload.clone())
                    .await
                    .unwrap()
                    .into_future(),
            );
            if at % (good / bad) == 0 {
                let (subject, payload) = flooding(number);
                number += 1;
                acks.push(js.publish(subject, payload).await.unwrap().into_future());
            }
        }
        while acks.len() > 1_000 {
            acks.next().await.unwrap().unwrap();
        }
    }
    while let Some(ack) = acks.next().await {
        ack.unwrap();
    }
    Sent {
        messages: planned.len() + number,
        rows: planned.len(),
        dead: number,
    }
}

async fn derived(js: jetstream::Context, seed: u64, pcs: usize, scans: usize) -> Sent {
    let planned = fleet::plan(
        seed,
        &fleet::Profile {
            results: pcs * scans,
            pcs,
            started_permille: 900,
            overflow_permille: 5,
            scans,
            checks: scans,
            feeds: 8,
            legacy_inventory: pcs,
            ..Default::default()
        },
    );
    fleet::publish(&js, &planned).await.unwrap();
    Sent::of(&planned)
}

async fn run(amounts: Amounts) -> ExitCode {
    let server = Server::start();
    let js = jetstream::new(async_nats::connect(&server.url).await.unwrap());
    // Beyond the backend's limits on streams and stores: the bench must not lose messages to them.
    fleet::create_streams(&js, Some(64 << 30)).await.unwrap();
    fleet::put_manifests(&js).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("results.db");
    let mut service = Service::start(&server.url, &db, &[]);
    let warm_up = small(js.clone(), 1, 100).await;
    caught_up(&js, &mut service, PATIENCE).await;
    tokio::time::sleep(SILENCE).await;
    let csv: Option<PathBuf> = Some(argument("csv", PathBuf::new())).filter(|path| path != &PathBuf::new());
    let watch = Watch::begin(&service, &js, csv.as_deref());
    let (handles, files) = (service.handles(), files_beside(&db));
    println!("at the start: {handles}; files {}", files.join(", "));
    println!(
        "{:>5}  {:<10}{:>9}{:>8}{:>10}{:>8}{:>8}{:>8}{:>9}{:>8}{:>9}{:>8}{:>9}",
        "round",
        "phase",
        "messages",
        "s",
        "catch-up",
        "peak",
        "bound",
        "after",
        "threads",
        "handles",
        "WAL",
        "after",
        "lag"
    );
    let mut load = Load {
        js,
        service,
        watch,
        amounts,
        sent: warm_up,
        handles,
        files,
        broken: Vec::new(),
        seed: 0,
    };
    for round in 1..=load.amounts.rounds {
        let Amounts {
            results,
            outputs: long,
            paced,
            pcs,
            scans,
            ..
        } = load.amounts;
        load.phase(round, "small", |js, seed| small(js, seed, results))
            .await;
        load.silence(round).await;
        load.phase(round, "1 MB", |js, seed| outputs(js, seed, long))
            .await;
        load.silence(round).await;
        // Room on the disk: what has a row is needed no more.
        let store = load.js.get_stream("OBJ_result_output").await.unwrap();
        store.purge().await.unwrap();
        load.phase(round, "malformed", |js, seed| flood(js, seed, paced))
            .await;
        load.phase(round, "derived", |js, seed| derived(js, seed, pcs, scans))
            .await;
        load.silence(round).await;
    }
    load.count();
    let Load { service, broken, .. } = load;
    service.stop();
    let left = files_beside(&db);
    println!("after the end: files {}", left.join(", "));
    for what in &broken {
        println!("BROKEN: {what}");
    }
    ExitCode::from(u8::from(!broken.is_empty()))
}

fn main() -> ExitCode {
    let quick = flag("quick");
    let amounts = Amounts {
        rounds: argument("rounds", if quick { 1 } else { 3 }),
        results: argument("results", if quick { 20_000 } else { 200_000 }),
        outputs: argument("outputs", if quick { 300 } else { 5_000 }),
        paced: Duration::from_secs(if quick { 6 } else { 60 }),
        pcs: if quick { 20 } else { 200 },
        scans: 10,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(run(amounts))
}
