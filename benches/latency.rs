//! Publish to visible in another process, with the service otherwise idle, against a bare commit in the same run:
//! `cargo bench --bench latency -- [--results N]`.
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

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use async_nats::jetstream;
use results_projector::wire::result::decode_shared;
use rusqlite::{Connection, OpenFlags};
use support::{Server, argument, bare::Bare, fleet, quantile};

fn main() {
    let results = argument("results", 400_usize);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("results.db");
    let js = runtime.block_on(async {
        let js = jetstream::new(async_nats::connect(&server.url).await.unwrap());
        fleet::create_streams(&js, None).await.unwrap();
        js
    });
    let mut service = Command::new(env!("CARGO_BIN_EXE_results-projector"))
        .args(["--db", db.to_str().unwrap(), "--nats-url", &server.url, "run"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let planned = fleet::plan(
        1,
        &fleet::Profile {
            results: results + 1,
            ..Default::default()
        },
    );
    let mut bare = Bare::create(&folder.path().join("bare.db"));
    let publish = |at: usize| {
        runtime.block_on(async {
            let ack = js
                .publish(planned[at].subject.clone(), planned[at].payload.clone())
                .await
                .unwrap();
            let started = Instant::now();
            ack.await.unwrap();
            started
        })
    };
    // The first one waits for the service to come up.
    publish(results);
    let reader = loop {
        std::thread::sleep(Duration::from_millis(50));
        let Ok(reader) = Connection::open_with_flags(&db, OpenFlags::SQLITE_OPEN_READ_ONLY) else {
            continue;
        };
        if reader.query_row("SELECT position FROM projector_position", [], |row| {
            row.get::<_, i64>(0)
        }) == Ok(1)
        {
            break reader;
        }
    };
    let mut look = reader
        .prepare("SELECT 1 FROM execution_results WHERE result_id = ?1")
        .unwrap();
    let (mut visible, mut commits) = (Vec::new(), Vec::new());
    for (at, planned) in planned.iter().enumerate().take(results) {
        std::thread::sleep(Duration::from_millis(20));
        let id = planned.result_id.clone().unwrap();
        let started = Instant::now();
        publish(at);
        while !look.exists([&id]).unwrap() {
            assert!(started.elapsed() < Duration::from_secs(30), "never visible");
            std::thread::sleep(Duration::from_micros(100));
        }
        visible.push(started.elapsed().as_secs_f64() * 1e3);
        // A transaction of one row, as bare as can be, on the same disk at the same time.
        let decoded = [decode_shared(&planned.payload).unwrap()];
        let started = Instant::now();
        bare.insert(&decoded, 1);
        commits.push(started.elapsed().as_secs_f64() * 1e3);
    }
    drop(look);
    drop(reader);
    let _ = service.kill();
    let _ = service.wait();
    println!("{results} lone results, 20 ms apart; milliseconds");
    println!("{:<22}{:>10}{:>10}{:>10}", "", "p50", "p99", "max");
    for (name, times) in [
        ("publish to visible", &mut visible),
        ("bare commit", &mut commits),
    ] {
        println!(
            "{name:<22}{:>10.2}{:>10.2}{:>10.2}",
            quantile(times, 0.5),
            quantile(times, 0.99),
            quantile(times, 1.0)
        );
    }
    println!(
        "p99 allowed: 3 x {:.2} + 10 = {:.2}",
        quantile(&mut commits, 0.99),
        3.0 * quantile(&mut commits, 0.99) + 10.0
    );
}
