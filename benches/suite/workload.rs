//! The workloads: what a fleet publishes, and which command of the product is measured on it.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;

use async_nats::jetstream;
use bytes::Bytes;
use serde_json::Value;

use crate::messages::Spool;
use crate::support::Server;
use crate::support::fleet::{self, Planned, Profile, SOFTWARE};

/// What the product does with the messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// `run --until-caught-up`, message by message.
    Live,
    /// `replay`, on a database that has everything.
    Replay,
    /// `rebuild`, where there is no database.
    Rebuild,
}

pub struct Workload {
    pub name: &'static str,
    /// For the table.
    pub what: &'static str,
    pub way: Way,
    /// Results, by default and with `--small`.
    pub results: usize,
    pub small: usize,
    plan: fn(usize) -> Plan,
}

/// How the messages come about.
enum Plan {
    /// Results alone, planned and published in parts of so many, so that memory does not grow with them.
    Parts(Profile, usize),
    Whole(Vec<Planned>),
}

pub const ALL: [Workload; 9] = [
    Workload {
        name: "small",
        what: "results of about 1.2 KB",
        way: Way::Live,
        results: 200_000,
        small: 5_000,
        plan: plain,
    },
    Workload {
        name: "starts",
        what: "the same, and a start event for each launched one",
        way: Way::Live,
        results: 80_000,
        small: 3_000,
        plan: |results| {
            whole(&Profile {
                results,
                started_permille: 1_000,
                ..Profile::default()
            })
        },
    },
    Workload {
        name: "mixed",
        what: "all that a fleet sends: results, start events, scans, checks, feeds, some outputs of 300 KB to 1 MB",
        way: Way::Live,
        results: 40_000,
        small: 2_000,
        // Without outputs that are missing: each costs a wait on purpose, and would measure that.
        plan: |results| {
            whole(&Profile {
                missing: 0,
                missing_scans: 0,
                ..Profile::everything(results)
            })
        },
    },
    Workload {
        name: "large-outputs",
        what: "results whose output is an object of 300 KB to 1 MB",
        way: Way::Live,
        results: 1_500,
        small: 60,
        plan: |results| {
            let profile = Profile {
                results,
                overflow_permille: 1_000,
                ..Profile::default()
            };
            Plan::Parts(profile, 250)
        },
    },
    Workload {
        name: "inventory-results",
        what: "scans of 30 facts and 40 rows; 2 % of the results say something new",
        way: Way::Live,
        results: 12_000,
        small: 400,
        plan: |results| Plan::Whole(mostly_unchanged(scans(results))),
    },
    Workload {
        name: "inventory-rows",
        what: "the same; 2 % of all facts and rows change, so that most results differ somewhere",
        way: Way::Live,
        results: 12_000,
        small: 400,
        plan: |results| Plan::Whole(scans(results)),
    },
    Workload {
        name: "checks",
        what: "results of check jobs",
        way: Way::Live,
        results: 80_000,
        small: 3_000,
        plan: |results| {
            let pcs = pcs(results, 500);
            whole(&Profile {
                results: 0,
                pcs,
                checks: results / pcs / 2,
                ..Profile::default()
            })
        },
    },
    Workload {
        name: "replay",
        what: "`replay` of small results that are all there",
        way: Way::Replay,
        results: 200_000,
        small: 5_000,
        plan: plain,
    },
    Workload {
        name: "rebuild",
        what: "`rebuild` of small results, 1 in 30 beside them a scan, 1 in 15 a check",
        way: Way::Rebuild,
        results: 200_000,
        small: 3_000,
        plan: |results| {
            let pcs = pcs(results, 1_500);
            whole(&Profile {
                results,
                pcs,
                scans: (results / pcs / 60).max(1),
                checks: (results / pcs / 30).max(1),
                ..Profile::default()
            })
        },
    },
];

fn pcs(results: usize, each: usize) -> usize {
    (results / each).clamp(4, 200)
}

fn plain(results: usize) -> Plan {
    let profile = Profile {
        results,
        ..Profile::default()
    };
    Plan::Parts(profile, 100_000)
}

fn whole(profile: &Profile) -> Plan {
    Plan::Whole(fleet::plan(1, profile))
}

/// Scans of software alone.
fn scans(results: usize) -> Vec<Planned> {
    let pcs = pcs(results, 50);
    let mut planned = fleet::plan(
        1,
        &Profile {
            results: 0,
            pcs,
            scans: results / pcs,
            ..Profile::default()
        },
    );
    let software = format!("\"{SOFTWARE}\"").into_bytes();
    planned.retain(|planned| {
        let mut parts = planned.payload.windows(software.len());
        parts.any(|part| part == software)
    });
    planned
}

/// The same scans, most of which say what the PC's scan before said: only every fiftieth tells something new.
fn mostly_unchanged(mut scans: Vec<Planned>) -> Vec<Planned> {
    let mut last: BTreeMap<String, Value> = BTreeMap::new();
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

/// A server that holds a workload, and the same messages in a file.
pub struct Filled {
    pub server: Server,
    pub js: jetstream::Context,
    pub spool: Spool,
    pub file: PathBuf,
    _folder: tempfile::TempDir,
}

impl Filled {
    pub async fn fill(workload: &Workload, results: usize) -> Self {
        let filled = Self::start().await;
        match (workload.plan)(results) {
            Plan::Whole(planned) => filled.publish([planned]).await,
            Plan::Parts(profile, size) => filled.publish(parts(profile, size)).await,
        }
    }

    /// So many small results.
    pub async fn plain(results: usize) -> Self {
        let profile = Profile {
            results,
            ..Profile::default()
        };
        Self::start().await.publish(parts(profile, 100_000)).await
    }

    async fn start() -> Self {
        let server = Server::start();
        let js = jetstream::new(async_nats::connect(&server.url).await.unwrap());
        // Beyond the backend's limits on streams and stores: the bench must not lose messages to them.
        fleet::create_streams(&js, Some(64 << 30)).await.unwrap();
        fleet::put_manifests(&js).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("messages");
        Self {
            server,
            js,
            spool: Spool::create(&file),
            file,
            _folder: folder,
        }
    }

    async fn publish(mut self, parts: impl IntoIterator<Item = Vec<Planned>>) -> Self {
        for part in parts {
            for some in part.chunks(5_000) {
                let (starts, others) = starts_first(some);
                fleet::publish(&self.js, &starts).await.unwrap();
                fleet::publish(&self.js, &others).await.unwrap();
                some.iter().for_each(|planned| self.spool.put(planned));
            }
        }
        self.spool.close();
        self
    }
}

/// Start events, and all the rest, some late starts too: a run takes its time, so that the server has stored its start before
/// its result is published. Of two streams that are published at once it would store some the other way round.
fn starts_first(planned: &[Planned]) -> (Vec<Planned>, Vec<Planned>) {
    let mut ended: HashSet<&str> = HashSet::new();
    let (mut starts, mut others) = (Vec::new(), Vec::new());
    for message in planned {
        ended.extend(message.result_id.as_deref());
        let started = message.started_id.as_deref();
        let first = started.is_some_and(|id| !ended.contains(id));
        let place = if first { &mut starts } else { &mut others };
        place.push(message.clone());
    }
    (starts, others)
}

/// A long stream, planned in parts: other dice for each, and the numbers go on.
fn parts(profile: Profile, size: usize) -> impl Iterator<Item = Vec<Planned>> {
    (0..profile.results)
        .step_by(size)
        .zip(1..)
        .map(move |(first, seed)| {
            let results = size.min(profile.results - first);
            fleet::plan(
                seed,
                &Profile {
                    results,
                    first,
                    ..profile.clone()
                },
            )
        })
}
