//! Inventory results against small ones, both through the whole product in one run:
//! `cargo bench --bench inventory -- [--small N] [--pcs N] [--scans N] [--rounds N]`.
//!
//! An inventory result has 30 facts and 40 exploded rows with history. Two fleets of them: in one, 2 % of the results
//! differ from the scan before; in the other 2 % of all rows and facts do, so that most results differ somewhere.
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

use async_nats::jetstream;
use bytes::Bytes;
use serde_json::Value;
use support::{Server, argument, drain, fleet, median};

/// A server of its own with these messages and the fleet's manifests.
fn filled(runtime: &tokio::runtime::Runtime, planned: &[fleet::Planned]) -> Server {
    let server = Server::start();
    runtime.block_on(async {
        let js = jetstream::new(async_nats::connect(&server.url).await.unwrap());
        // Beyond the backend's limits on streams and stores: the bench must not lose messages to them.
        fleet::create_streams(&js, Some(16 << 30)).await.unwrap();
        fleet::put_manifests(&js).await.unwrap();
        for part in planned.chunks(5_000) {
            fleet::publish(&js, part).await.unwrap();
        }
    });
    server
}

/// The same scans, most of which say what the PC's scan before said: only every fiftieth tells something new.
fn mostly_unchanged(planned: &[fleet::Planned]) -> Vec<fleet::Planned> {
    let mut last: BTreeMap<String, Value> = BTreeMap::new();
    let mut scans = planned.to_vec();
    for (number, scan) in scans.iter_mut().enumerate() {
        let mut message: Value = serde_json::from_slice(&scan.payload).unwrap();
        let pc = message["pc_id"].as_str().unwrap().to_owned();
        match last.get(&pc) {
            Some(before) if number % 50 != 0 => message["stdout"] = before.clone(),
            _ => drop(last.insert(pc, message["stdout"].clone())),
        }
        scan.payload = Bytes::from(message.to_string());
    }
    scans
}

fn main() {
    let small = argument("small", 50_000_usize);
    let (pcs, scans) = (argument("pcs", 200_usize), argument("scans", 50_usize));
    let rounds = argument("rounds", 5_usize);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let results = fleet::plan(
        1,
        &fleet::Profile {
            results: small,
            ..Default::default()
        },
    );
    let mut inventory = fleet::plan(
        1,
        &fleet::Profile {
            results: 0,
            pcs,
            scans,
            ..Default::default()
        },
    );
    let software = b"\"inventory-software\"";
    inventory.retain(|planned| {
        planned
            .payload
            .windows(software.len())
            .any(|part| part == software)
    });
    let unchanged = mostly_unchanged(&inventory);
    let servers = [
        ("small", results.len(), filled(&runtime, &results)),
        (
            "2 % of results changed",
            unchanged.len(),
            filled(&runtime, &unchanged),
        ),
        (
            "2 % of rows changed",
            inventory.len(),
            filled(&runtime, &inventory),
        ),
    ];
    println!(
        "{} small results, {} inventory results of {pcs} PCs, {rounds} rounds",
        results.len(),
        inventory.len()
    );
    let mut ratios: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for round in 1..=rounds {
        let folder = tempfile::tempdir().unwrap();
        let mut small = 0.0;
        print!("round {round}:");
        for (name, messages, server) in &servers {
            rustix::fs::sync();
            let db = folder.path().join(format!("{messages}-{}.db", name.len()));
            let (seconds, ..) = drain(&server.url, &db, &[]);
            let rate = *messages as f64 / seconds;
            print!(" {name} {rate:.0}/s;");
            if small == 0.0 {
                small = rate;
            } else {
                ratios.entry(name).or_default().push(rate / small);
            }
        }
        println!();
    }
    for (name, ratios) in &mut ratios {
        println!(
            "{name}: {:.3} of the rate of small results (median)",
            median(ratios)
        );
    }
}
