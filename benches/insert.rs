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

use std::sync::Arc;
use std::time::Instant;

use bytestring::ByteString;
use results_projector::projection::manifests::Manifests;
use results_projector::projection::result::ResultMessage;
use results_projector::store::{Advance, Counts, Owner, Standing, Store, StoreOptions};
use results_projector::wire::kv::StreamName;
use results_projector::wire::result::{ExecResult, decode_shared};
use results_projector::wire::sequence::StreamSeq;
use results_projector::wire::time::Timestamp;
use support::{argument, bare::Bare, fleet, median};

/// Returns its seconds, without those for copying the messages.
fn product(db: &std::path::Path, decoded: &[ExecResult<ByteString>], rows: usize) -> f64 {
    let me = Owner {
        pid: std::process::id(),
        started_at: String::new(),
        host: String::new(),
    };
    let messages: Vec<ResultMessage> = decoded
        .iter()
        .map(|result| ResultMessage {
            result: result.clone(),
            stdout: None,
            stderr: None,
        })
        .collect();
    let started = Instant::now();
    let mut store = Store::open(db, &StoreOptions::default(), &me).unwrap();
    store.checkpoint_every(400 << 20).unwrap();
    let manifests = Arc::new(Manifests::default());
    let mut standing = Standing::new(1, StreamSeq(1));
    for (number, group) in messages.chunks(rows).enumerate() {
        let mut tx = store.begin(&manifests, Timestamp::from_unix_nanos(0)).unwrap();
        if number == 0 {
            tx.begin_incarnation(StreamName::Results, &standing).unwrap();
        }
        let from = standing.position;
        for (at, message) in group.iter().enumerate() {
            let seq = StreamSeq(from.0 + at as u64 + 1);
            tx.result(1, seq, message.result.finished_at, message, None)
                .unwrap();
        }
        let to = StreamSeq(from.0 + group.len() as u64);
        standing.advance(
            to,
            None,
            Counts {
                projected: to.0,
                ..Counts::default()
            },
        );
        tx.advance(&Advance {
            stream: StreamName::Results,
            from,
            to: standing.clone(),
        })
        .unwrap();
        tx.commit().unwrap();
    }
    store.close();
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
