//! A database made anew against its limit, in one run on the same messages:
//! `cargo bench --bench rebuild -- [--results N] [--rounds N] [--no-live]`.
//!
//! (a) a bare bulk loop into the contract's schema, its messages decoded beforehand; (b) `rebuild`, the real binary, from the
//! server, nothing carried over; (c) the live path over the same messages, message by message.
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

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use async_nats::jetstream;
use bytestring::ByteString;
use results_projector::wire::result::{ExecResult, decode_shared};
use support::bare::bulk;
use support::{Server, argument, drain, flag, fleet, median, product, read_payloads, write_payloads};

/// (a) in a process of its own: `--bare FILE --db FILE`.
fn bare_process(file: &str) {
    let payloads = read_payloads(Path::new(file));
    let decoded: Vec<ExecResult<ByteString>> = payloads
        .iter()
        .map(|payload| decode_shared(payload).unwrap())
        .collect();
    let phases: BTreeMap<_, _> = bulk(Path::new(&argument("db", String::new())), &decoded)
        .into_iter()
        .collect();
    println!("{}", serde_json::json!(phases));
}

fn main() {
    let bare = argument("bare", String::new());
    if !bare.is_empty() {
        return bare_process(&bare);
    }
    let results = argument("results", 200_000);
    let rounds = argument("rounds", 3_usize);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let server = Server::start();
    let profile = fleet::Profile {
        results,
        ..Default::default()
    };
    let file = tempfile::NamedTempFile::new().unwrap();
    let bytes: usize = runtime.block_on(async {
        let js = jetstream::new(async_nats::connect(&server.url).await.unwrap());
        // Beyond the backend's limits on streams: the bench must not lose messages to them.
        fleet::create_streams(&js, Some(16 << 30)).await.unwrap();
        let planned = fleet::plan(1, &profile);
        for part in planned.chunks(5_000) {
            fleet::publish(&js, part).await.unwrap();
        }
        write_payloads(file.path(), planned.iter().map(|planned| &planned.payload));
        planned.iter().map(|planned| planned.payload.len()).sum()
    });
    println!(
        "{results} results, {} bytes a message, {rounds} rounds, median of each",
        bytes / results
    );

    let (mut bares, mut rebuilds, mut lives) = (Vec::new(), Vec::new(), Vec::new());
    let (mut to_bare, mut to_live) = (Vec::new(), Vec::new());
    let (mut anonymous, mut resident) = (0, 0);
    for round in 1..=rounds {
        let folder = tempfile::tempdir().unwrap();
        // What one run left for the disk to do must not slow the next.
        rustix::fs::sync();
        let started = Instant::now();
        let said = Command::new(std::env::current_exe().unwrap())
            .arg("--bare")
            .arg(file.path())
            .arg("--db")
            .arg(folder.path().join("bare.db"))
            .output()
            .unwrap();
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
        let phases: BTreeMap<String, f64> = serde_json::from_slice(&said.stdout).unwrap();
        let bare: f64 = phases.values().sum();
        let _ = started;
        std::fs::remove_file(folder.path().join("bare.db")).unwrap();
        rustix::fs::sync();
        let (rebuild, usage, _) = product(
            &server.url,
            &folder.path().join("new.db"),
            &["rebuild", "--json"],
            &[],
        );
        anonymous = anonymous.max(usage.peak_anonymous);
        resident = resident.max(usage.peak);
        let _ = std::fs::remove_file(folder.path().join("new.db"));
        println!(
            "round {round}: bulk {bare:.1} s {phases:.1?}, rebuild {rebuild:.1} s, {:.2} of it",
            bare / rebuild
        );
        to_bare.push(bare / rebuild);
        bares.push(bare);
        rebuilds.push(rebuild);
        if !flag("no-live") {
            rustix::fs::sync();
            let (live, ..) = drain(&server.url, &folder.path().join("live.db"), &[]);
            println!(
                "round {round}: live {live:.1} s, rebuild is {:.2} times as fast",
                live / rebuild
            );
            to_live.push(live / rebuild);
            lives.push(live);
        }
    }
    let n = results as f64;
    println!("\n{:<34}{:>12}{:>12}{:>12}", "", "bulk", "rebuild", "live");
    println!(
        "{:<34}{:>12.0}{:>12.0}{:>12.0}",
        "rows/s",
        n / median(&mut bares),
        n / median(&mut rebuilds),
        n / median(&mut lives)
    );
    println!(
        "{:<34}{:>12}{:>12.0}",
        "peak memory, MiB (anonymous)",
        "",
        anonymous as f64 / 1048576.0
    );
    println!(
        "{:<34}{:>12}{:>12.0}",
        "peak memory, MiB (resident)",
        "",
        resident as f64 / 1048576.0
    );
    println!(
        "\nrebuild / bulk: median {:.2}; rebuild / live: median {:.2}",
        median(&mut to_bare),
        median(&mut to_live)
    );
}
