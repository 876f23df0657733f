//! Inventory results against small ones, both through the whole product, and against a bare loop that writes the same rows, in
//! one run: `cargo bench --bench inventory -- [--small N] [--pcs N] [--scans N] [--rounds N]`.
//!
//! An inventory result has 30 facts and 40 exploded rows with history. Two fleets of them: in one, 2 % of the results
//! differ from the scan before; in the other 2 % of all rows and facts do, so that most results differ somewhere. The bare loop
//! has everything decoded, converted and compared beforehand; it writes each scan's rows anew (contract §7.5.4).
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
use bytes::Bytes;
use bytestring::ByteString;
use results_projector::projection::explode::{Cell, drop_repeated, elements};
use results_projector::projection::history::{element_events, scalar_events};
use results_projector::projection::manifests::{Manifests, SpecState};
use results_projector::projection::scan::Scan;
use results_projector::wire::fence::{Hint, block};
use results_projector::wire::result::decode_shared;
use serde_json::{Map, Value};
use support::bare::{Bare, ScanRows};
use support::{Server, argument, drain, fleet, median, read_payloads, write_payloads};

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

/// The bare loop in a process of its own, as fresh as the product's: `--bare FILE --schema DB --db FILE`.
fn bare_process(file: &str) {
    let documents = fleet::manifests().into_iter();
    let manifests =
        Manifests::compile(documents.map(|(id, document)| (id.to_owned(), document.to_string().into())));
    let mut before: BTreeMap<(ByteString, ByteString, String), Vec<Vec<Cell>>> = BTreeMap::new();
    let mut facts: BTreeMap<(ByteString, ByteString), Map<String, Value>> = BTreeMap::new();
    let scans: Vec<ScanRows> = read_payloads(Path::new(file))
        .into_iter()
        .map(|payload| {
            let result = decode_shared(&payload).unwrap();
            let job = result.manifest_id.clone().unwrap();
            let hints = manifests.hints(&job).unwrap();
            let inventory = hints.inventory.as_ref().unwrap();
            let Ok(payload) = Scan::of(hints, &result.stdout).payload else {
                return ScanRows {
                    result,
                    facts: None,
                    tables: Vec::new(),
                    events: Vec::new(),
                };
            };
            let pair = (job.clone(), result.pc_id.clone());
            let mut events = scalar_events(&inventory.scalars, facts.get(&pair), &payload);
            facts.insert(pair, payload.as_object().unwrap().clone());
            let mut tables = Vec::new();
            for spec in &inventory.specs {
                let SpecState::Valid(spec) = spec else { continue };
                let (elements, _) = drop_repeated(spec, elements(spec, &payload));
                let old = before
                    .entry((job.clone(), result.pc_id.clone(), spec.table.clone()))
                    .or_default();
                events.extend(element_events(spec, old, &elements));
                *old = elements.into_iter().map(|element| element.cells).collect();
                tables.push((spec.table.clone(), old.clone()));
            }
            let facts = Some(block(&result.stdout, Hint::Inventory).to_owned());
            ScanRows {
                result,
                facts,
                tables,
                events,
            }
        })
        .collect();
    let schema = rusqlite::Connection::open(argument("schema", String::new())).unwrap();
    let texts: Vec<String> = schema
        .prepare(
            "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%'
                 AND tbl_name NOT LIKE 'projector_%' ORDER BY type = 'table' DESC",
        )
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let started = Instant::now();
    let mut bare = Bare::with_schema(Path::new(&argument("db", String::new())), &texts.join(";\n"));
    bare.scans(&scans, 3_000);
    bare.close();
    println!("{}", started.elapsed().as_secs_f64());
}

fn bare(payloads: &Path, schema: &Path, db: &Path) -> f64 {
    let said = Command::new(std::env::current_exe().unwrap())
        .arg("--bare")
        .arg(payloads)
        .arg("--schema")
        .arg(schema)
        .arg("--db")
        .arg(db)
        .output()
        .unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    String::from_utf8(said.stdout).unwrap().trim().parse().unwrap()
}

fn main() {
    let payloads = argument("bare", String::new());
    if !payloads.is_empty() {
        return bare_process(&payloads);
    }
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
    let mut to_bare: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    let files = [&[][..], &unchanged, &inventory].map(|planned| {
        let file = tempfile::NamedTempFile::new().unwrap();
        write_payloads(file.path(), planned.iter().map(|planned| &planned.payload));
        file
    });
    for round in 1..=rounds {
        let folder = tempfile::tempdir().unwrap();
        let mut small = 0.0;
        print!("round {round}:");
        for ((name, messages, server), file) in servers.iter().zip(&files) {
            rustix::fs::sync();
            let db = folder.path().join(format!("{messages}-{}.db", name.len()));
            let (seconds, ..) = drain(&server.url, &db, &[]);
            let rate = *messages as f64 / seconds;
            print!(" {name} {rate:.0}/s;");
            if small == 0.0 {
                small = rate;
            } else {
                ratios.entry(name).or_default().push(rate / small);
                rustix::fs::sync();
                let bare = bare(
                    file.path(),
                    &db,
                    &folder.path().join(format!("bare-{}.db", name.len())),
                );
                print!(" bare {:.0}/s;", *messages as f64 / bare);
                to_bare.entry(name).or_default().push(bare / seconds);
            }
        }
        println!();
    }
    for (name, ratios) in &mut ratios {
        println!(
            "{name}: {:.3} of the rate of small results, {:.2} of the bare loop (medians)",
            median(ratios),
            to_bare.get_mut(name).map_or(f64::NAN, |ratios| median(ratios))
        );
    }
}
