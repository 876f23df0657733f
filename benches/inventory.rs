//! Inventory results against small ones, both through the whole product in one run:
//! `cargo bench --bench inventory -- [--small N] [--pcs N] [--scans N] [--rounds N]`.
//!
//! An inventory result has 30 facts and 40 exploded rows with history, of which 2 % change from scan to scan.
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

use async_nats::jetstream;
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
    let (small_server, inventory_server) = (filled(&runtime, &results), filled(&runtime, &inventory));
    println!(
        "{} small results, {} inventory results of {pcs} PCs, {rounds} rounds",
        results.len(),
        inventory.len()
    );
    let mut ratios = Vec::new();
    for round in 1..=rounds {
        let folder = tempfile::tempdir().unwrap();
        rustix::fs::sync();
        let (small_seconds, ..) = drain(&small_server.url, &folder.path().join("small.db"), &[]);
        rustix::fs::sync();
        let (seconds, ..) = drain(&inventory_server.url, &folder.path().join("inventory.db"), &[]);
        let rates = [
            results.len() as f64 / small_seconds,
            inventory.len() as f64 / seconds,
        ];
        println!(
            "round {round}: small {:.0}/s, inventory {:.0}/s, ratio {:.3}",
            rates[0],
            rates[1],
            rates[1] / rates[0]
        );
        ratios.push(rates[1] / rates[0]);
    }
    println!("inventory / small: median {:.3}", median(&mut ratios));
}
