//! Publish to visible in another process, against bare commits at the same time on the same disk: lone results, 100/s
//! and 1,000/s, over several checkpoints and with a reader that holds its snapshots:
//! `cargo bench --bench latency -- [--lone N] [--seconds N]`. Exit code 1: a bound was not held.
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

use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use async_nats::jetstream;
use bytestring::ByteString;
use results_projector::wire::result::{ExecResult, decode_shared};
use rusqlite::{Connection, OpenFlags};
use support::service::{Service, caught_up};
use support::{Server, argument, bare::Bare, fleet, quantile};

/// Between two bare commits.
const BARE_EVERY: Duration = Duration::from_millis(20);
/// Between two looks at the position.
const LOOK_EVERY: Duration = Duration::from_micros(200);
/// What the reader asks for, over and over; a user who looks at a page of results and at what fails.
const PAGE: &str = "SELECT result_id, pc_id, job_id, exit_code, substr(stdout, 1, 200) FROM execution_results
     ORDER BY recorded_at DESC LIMIT 200";
const FAILURES: &str = "SELECT job_id, count(*) FROM execution_results WHERE exit_code <> 0 GROUP BY job_id";

/// One load on the service.
struct Phase {
    name: &'static str,
    results: usize,
    /// Between two results.
    every: Duration,
    /// Milliseconds beyond three times the bare commit's.
    grace: f64,
}

/// Milliseconds.
struct Measured {
    visible: Vec<f64>,
    bare: Vec<f64>,
    reads: usize,
    checkpoints: usize,
}

fn reader(db: &Path) -> Connection {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(db, flags).unwrap();
    conn.busy_timeout(Duration::from_secs(5)).unwrap();
    conn
}

/// Notes when each result became visible: rows and position commit together.
fn watch(db: &Path, first: u64, results: usize) -> Vec<Instant> {
    let conn = reader(db);
    let mut position = conn
        .prepare("SELECT position FROM projector_position WHERE stream = 'RESULTS'")
        .unwrap();
    let mut seen = Vec::with_capacity(results);
    let started = Instant::now();
    while seen.len() < results {
        let at: u64 = position.query_row([], |row| row.get(0)).unwrap();
        let now = Instant::now();
        while seen.len() < results && first + seen.len() as u64 <= at {
            seen.push(now);
        }
        assert!(started.elapsed() < Duration::from_secs(300), "never visible");
        std::thread::sleep(LOOK_EVERY);
    }
    seen
}

/// Reads pages until told to stop; every other time it stays in its snapshot for a while. Returns how often.
fn read(db: &Path, stop: &AtomicBool) -> usize {
    let mut conn = reader(db);
    let mut reads = 0;
    while !stop.load(Ordering::Relaxed) {
        let tx = conn.transaction().unwrap();
        for sql in [PAGE, FAILURES] {
            let mut select = tx.prepare_cached(sql).unwrap();
            let mut rows = select.query([]).unwrap();
            while rows.next().unwrap().is_some() {}
        }
        if reads % 2 == 0 {
            std::thread::sleep(Duration::from_millis(50));
        }
        drop(tx);
        reads += 1;
        std::thread::sleep(Duration::from_millis(100));
    }
    reads
}

/// Counts how often the log was copied into the database: nothing else writes that file.
fn count_checkpoints(db: &Path, stop: &AtomicBool) -> usize {
    let written = || {
        std::fs::metadata(db)
            .and_then(|meta| meta.modified())
            .unwrap_or(SystemTime::UNIX_EPOCH)
    };
    let (mut last, mut count, mut moving) = (written(), 0, false);
    while !stop.load(Ordering::Relaxed) {
        let now = written();
        count += usize::from(now != last && !moving);
        moving = now != last;
        last = now;
        std::thread::sleep(Duration::from_millis(5));
    }
    count
}

/// Commits of one row each, as bare as can be, while the service works. Milliseconds each.
fn commit_bare(db: &Path, results: &[ExecResult<ByteString>], stop: &AtomicBool) -> Vec<f64> {
    let mut bare = Bare::create(db);
    let mut times = Vec::new();
    for result in results.iter().cycle() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let mut result = result.clone();
        result.result_id = format!("bare-{}", times.len()).into();
        let started = Instant::now();
        bare.insert(std::slice::from_ref(&result), 1);
        times.push(started.elapsed().as_secs_f64() * 1e3);
        std::thread::sleep(BARE_EVERY);
    }
    bare.close();
    times
}

fn measure(
    runtime: &tokio::runtime::Runtime,
    js: &jetstream::Context,
    phase: &Phase,
    planned: &[fleet::Planned],
    first: u64,
    db: &Path,
) -> Measured {
    let decoded: Vec<_> = planned
        .iter()
        .take(1_000)
        .map(|planned| decode_shared(&planned.payload).unwrap())
        .collect();
    let bare_db = db.with_file_name(format!("bare-{first}.db"));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let visible = scope.spawn(|| watch(db, first, planned.len()));
        let bare = scope.spawn(|| commit_bare(&bare_db, &decoded, &stop));
        let reads = scope.spawn(|| read(db, &stop));
        let checkpoints = scope.spawn(|| count_checkpoints(db, &stop));
        let published = runtime.block_on(async {
            let mut published = Vec::with_capacity(planned.len());
            let mut acks = Vec::with_capacity(planned.len());
            let started = Instant::now();
            for (number, planned) in planned.iter().enumerate() {
                let due = phase.every.checked_mul(number as u32).unwrap();
                tokio::time::sleep(due.saturating_sub(started.elapsed())).await;
                published.push(Instant::now());
                let ack = js
                    .publish(planned.subject.clone(), planned.payload.clone())
                    .await
                    .unwrap();
                acks.push(tokio::spawn(async move { ack.await.unwrap().sequence }));
            }
            for (number, ack) in acks.into_iter().enumerate() {
                assert_eq!(
                    ack.await.unwrap(),
                    first + number as u64,
                    "somebody else publishes"
                );
            }
            published
        });
        let visible = visible.join().unwrap();
        stop.store(true, Ordering::Relaxed);
        Measured {
            visible: published
                .iter()
                .zip(&visible)
                .map(|(published, visible)| visible.duration_since(*published).as_secs_f64() * 1e3)
                .collect(),
            bare: bare.join().unwrap(),
            reads: reads.join().unwrap(),
            checkpoints: checkpoints.join().unwrap(),
        }
    })
}

fn main() -> ExitCode {
    let seconds = argument("seconds", 30_usize);
    let phases = [
        Phase {
            name: "lone, 50 ms apart",
            results: argument("lone", 600_usize),
            every: Duration::from_millis(50),
            grace: 5.0,
        },
        Phase {
            name: "100/s",
            results: 100 * seconds,
            every: Duration::from_millis(10),
            grace: 5.0,
        },
        Phase {
            name: "1,000/s",
            results: 1_000 * seconds,
            every: Duration::from_millis(1),
            grace: 20.0,
        },
    ];
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let js = runtime.block_on(async {
        let js = jetstream::new(async_nats::connect(&server.url).await.unwrap());
        fleet::create_streams(&js, Some(16 << 30)).await.unwrap();
        js
    });
    let planned = fleet::plan(
        1,
        &fleet::Profile {
            results: 1 + phases.iter().map(|phase| phase.results).sum::<usize>(),
            ..Default::default()
        },
    );
    let mut service = Service::start(&server.url, &folder.path().join("results.db"), &[]);
    let db = service.db.clone();
    let (warm, mut rest) = planned.split_at(1);
    runtime.block_on(async {
        fleet::publish(&js, warm).await.unwrap();
        caught_up(&js, &mut service, Duration::from_secs(30)).await;
    });

    println!(
        "milliseconds{:<10}{:>9}{:>9}{:>9}{:>12}{:>12}{:>10}{:>13}{:>8}",
        "", "p50", "p99", "max", "bare p50", "bare p99", "allowed", "checkpoints", "reads"
    );
    let mut held = true;
    let mut first = 2;
    for phase in &phases {
        let (these, others) = rest.split_at(phase.results);
        rest = others;
        let mut measured = measure(&runtime, &js, phase, these, first, &db);
        first += phase.results as u64;
        let bare = quantile(&mut measured.bare, 0.99);
        let (p99, allowed) = (quantile(&mut measured.visible, 0.99), 3.0 * bare + phase.grace);
        held &= p99 <= allowed;
        println!(
            "{:<22}{:>9.2}{p99:>9.2}{:>9.2}{:>12.2}{bare:>12.2}{allowed:>10.2}{:>13}{:>8}",
            phase.name,
            quantile(&mut measured.visible, 0.5),
            quantile(&mut measured.visible, 1.0),
            quantile(&mut measured.bare, 0.5),
            measured.checkpoints,
            measured.reads
        );
    }
    service.stop();
    println!(
        "publish to visible, p99 within 3 x the bare commit's p99 + 5 ms (lone, 100/s) or + 20 ms (1,000/s): {}",
        if held { "held" } else { "NOT held" }
    );
    if held {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
