//! The store alone against a bare loop, by rows a transaction: `cargo bench --bench insert -- [--results N]
//! [--rows N] [--rounds N]`.
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

use std::time::Instant;

use bytestring::ByteString;
use results_projector::wire::result::{ExecResult, decode_shared};
use support::store::{Groups, without_outputs};
use support::{argument, bare::Bare, fleet, median};

/// Returns its seconds, without those for copying the messages.
fn product(db: &std::path::Path, decoded: &[ExecResult<ByteString>], rows: usize) -> f64 {
    let messages = without_outputs(decoded);
    let started = Instant::now();
    let mut groups = Groups::create(db);
    for group in messages.chunks(rows) {
        groups.project(group);
    }
    groups.close();
    started.elapsed().as_secs_f64()
}

fn main() {
    let results = argument("results", 100_000_usize);
    let planned = fleet::plan(
        1,
        &fleet::Profile {
            results,
            ..Default::default()
        },
    );
    let decoded: Vec<ExecResult<ByteString>> = planned
        .iter()
        .map(|planned| decode_shared(&planned.payload).unwrap())
        .collect();
    let rounds = argument("rounds", 3_usize);
    let sizes = match argument("rows", 0_usize) {
        0 => vec![1_000, 5_000, 20_000],
        rows => vec![rows],
    };
    println!(
        "{:<12}{:>14}{:>14}{:>8}  medians of {rounds}",
        "rows a tx", "bare rows/s", "store rows/s", "ratio"
    );
    // The first run pays for the memory of all others.
    let warm = tempfile::tempdir().unwrap();
    product(&warm.path().join("warm.db"), &decoded, 20_000);
    for rows in sizes {
        let (mut bares, mut stores, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..rounds {
            let folder = tempfile::tempdir().unwrap();
            rustix::fs::sync();
            let started = Instant::now();
            let mut bare = Bare::create(&folder.path().join("bare.db"));
            let _commits = bare.insert(&decoded, rows);
            bare.close();
            let bare = started.elapsed().as_secs_f64();
            rustix::fs::sync();
            let store = product(&folder.path().join("store.db"), &decoded, rows);
            bares.push(bare);
            stores.push(store);
            ratios.push(bare / store);
        }
        let rate = |seconds: &mut [f64]| results as f64 / median(seconds);
        println!(
            "{rows:<12}{:>14.0}{:>14.0}{:>8.2}",
            rate(&mut bares),
            rate(&mut stores),
            median(&mut ratios)
        );
    }
}
