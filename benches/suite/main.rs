//! The whole path against its parts, workload by workload, in one run on the same messages (README, "How fast"):
//! `cargo bench --bench suite -- [--workload NAME,NAME] [--rounds N] [--results N] [--small] [--growth N]
//! [--picture FILE.svg] [--json FILE.jsonl]`, and `--report FILE.jsonl` for the tables of an earlier run. `--against FILE`
//! measures nothing but the whole path, of this build and of another one in turns: whether a change made it faster.
//!
//! In each round every part has its turn: the product, real binary and all; consuming only; decoding only; fetching only;
//! a bare loop that inserts the same rows; a bare bulk load of them; writing as many bytes as the database has. Those that
//! need memory have a process of their own, as fresh as the product's.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr
)]
#![allow(clippy::let_underscore_must_use, clippy::string_slice)]

mod bulk;
mod fetch;
mod growth;
mod known;
mod limits;
mod live;
mod messages;
mod plot;
mod record;
mod report;
#[path = "../support/mod.rs"]
mod support;
mod workload;

use std::path::Path;
use std::time::Instant;

use record::{Cost, Machine, Part, Record, Records};
use support::{DRAIN, LIVE, Run, argument, flag, median, product, quantile, run};
use workload::{Filled, Way, Workload};

/// As the product's: a slower one would make slower limits.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The product, as it is built here.
const OURS: &str = env!("CARGO_BIN_EXE_results-projector");

/// Between two statements of a schema: no trigger has it inside.
const SCHEMA_END: &str = ";\n--\n";

fn main() {
    if limits::in_a_child() {
        return;
    }
    let report = argument("report", String::new());
    if !report.is_empty() {
        print!("{}", report::markdown(&Records::read(&report)));
        return;
    }
    let small = flag("small");
    let chosen = chosen();
    let rounds = argument("rounds", if small { 1 } else { 5_usize });
    let rows = argument("growth", 0_usize);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let mut records = Records::new(&argument("json", String::new()));
    records.add(Record::Machine(machine()));
    let other = argument("against", String::new());
    for workload in chosen {
        let results = argument("results", if small { workload.small } else { workload.results });
        if !other.is_empty() {
            runtime.block_on(against(workload, results, rounds, &other));
            continue;
        }
        runtime.block_on(measure(workload, results, rounds, &mut records));
    }
    if !other.is_empty() {
        return;
    }
    if rows > 0 {
        let picture = argument("picture", String::new());
        runtime.block_on(growth::measure(rows, &picture, &mut records));
    }
    print!("{}", report::markdown(&records.kept));
}

/// Those of `--workload`, or all; none with `none`, for the growth alone.
fn chosen() -> Vec<&'static Workload> {
    let wanted = argument("workload", String::new());
    let names: Vec<&str> = wanted
        .split(',')
        .filter(|name| !name.is_empty() && *name != "none")
        .collect();
    for name in &names {
        let known = workload::ALL
            .iter()
            .map(|workload| workload.name)
            .collect::<Vec<_>>();
        assert!(
            known.contains(name),
            "no workload {name}; there are {}",
            known.join(", ")
        );
    }
    workload::ALL
        .iter()
        .filter(|workload| wanted.is_empty() || names.contains(&workload.name))
        .collect()
}

fn machine() -> Machine {
    Machine {
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        nats_server: support::server_version(),
        sqlite: rusqlite::version().to_owned(),
        date: chrono::Utc::now().format("%Y-%m-%d").to_string(),
    }
}

/// One run of the whole path, of some build of the product.
fn whole_path(program: &str, way: Way, url: &str, db: &Path) -> Run {
    let (args, env): (&[&str], &[_]) = match way {
        Way::Live => (&DRAIN, &[LIVE]),
        Way::Replay => (&["-v", "replay"], &[]),
        Way::Rebuild => (&["rebuild", "--json"], &[]),
    };
    run(program, url, db, args, env)
}

/// The whole path of this build and of another one, which of them first by turns.
async fn against(workload: &Workload, results: usize, rounds: usize, other: &str) {
    let rounds = rounds.max(1);
    let filled = Filled::fill(workload, results).await;
    let url = &filled.server.url;
    let (mut ours, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=rounds {
        let once = |program| {
            let folder = tempfile::tempdir().unwrap();
            let db = folder.path().join("results.db");
            if workload.way == Way::Replay {
                whole_path(program, Way::Live, url, &db);
            }
            rustix::fs::sync();
            whole_path(program, workload.way, url, &db).seconds
        };
        let (our, their) = if round % 2 == 0 {
            let their = once(other);
            (once(OURS), their)
        } else {
            (once(OURS), once(other))
        };
        eprintln!("{} {round}: {our:.2} s, the other {their:.2} s", workload.name);
        ours.push(our);
        theirs.push(their);
        ratios.push(their / our);
    }
    println!(
        "{}: {:.2} s, the other {:.2} s: {:.3} times its rate ({:.3}–{:.3})",
        workload.name,
        median(&mut ours),
        median(&mut theirs),
        median(&mut ratios),
        ratios[0],
        ratios[rounds - 1],
    );
}

async fn measure(workload: &Workload, results: usize, rounds: usize, records: &mut Records) {
    let filled = Filled::fill(workload, results).await;
    let spool = &filled.spool;
    eprintln!("{}: {} messages are published", workload.name, spool.messages);
    records.add(Record::Workload {
        workload: workload.name.to_owned(),
        what: workload.what.to_owned(),
        messages: spool.messages,
        payload_bytes: spool.payload_bytes,
        object_bytes: spool.object_bytes,
        writer: if workload.way == Way::Rebuild {
            Part::Bulk
        } else {
            Part::Insert
        },
    });
    let folder = tempfile::tempdir().unwrap();
    let complete = folder.path().join("complete.db");
    if workload.way == Way::Replay {
        product(&filled.server.url, &complete, &["run", "--until-caught-up"], &[]);
    }
    let fetching = match spool.objects.is_empty() {
        true => None,
        false => Some(fetch::best_way(&filled.server.url, &spool.objects).await),
    };
    for round in 1..=rounds {
        let folder = tempfile::tempdir().unwrap();
        let mut add = |part, seconds: f64, bytes, cost| {
            eprintln!("{} {round}: {part:?} {seconds:.2} s", workload.name);
            records.add(Record::Part {
                workload: workload.name.to_owned(),
                round,
                part,
                seconds,
                bytes,
                cost,
            });
            // What one part left for the disk to do must not slow the next.
            rustix::fs::sync();
        };
        rustix::fs::sync();
        let own = folder.path().join("results.db");
        let db = if workload.way == Way::Replay {
            &complete
        } else {
            &own
        };
        let url = &filled.server.url;
        let run = whole_path(OURS, workload.way, url, db);
        add(Part::Product, run.seconds, None, Some(cost(&run, workload.way)));
        add(Part::Consume, limits::consume(&filled.js).await, None, None);
        add(Part::Decode, limits::decode_alone(&filled.file), None, None);
        if let Some(way) = fetching {
            let began = Instant::now();
            let bytes = fetch::fetch(&filled.server.url, &spool.objects, way).await;
            add(
                Part::Fetch,
                began.elapsed().as_secs_f64(),
                Some(bytes as u64),
                None,
            );
        }
        let bare = folder.path().join("bare.db");
        add(
            Part::Insert,
            limits::insert_alone(&filled.file, db, &bare).seconds,
            None,
            None,
        );
        let bulk = folder.path().join("bulk.db");
        add(
            Part::Bulk,
            limits::bulk_alone(&filled.file, db, &bulk),
            None,
            None,
        );
        let bytes = std::fs::metadata(db).unwrap().len();
        add(
            Part::Write,
            limits::write(&folder.path().join("bytes"), bytes),
            Some(bytes),
            None,
        );
        if round == 1 {
            limits::assert_same_rows(db, &bare);
            limits::assert_same_rows(db, &bulk);
        }
    }
}

/// Single commits are the live path's: a scratch makes nothing durable.
fn cost(run: &Run, way: Way) -> Cost {
    let mut commits = run.commits();
    let mut at = |share| (way == Way::Live).then(|| quantile(&mut commits, share));
    Cost {
        written: run.usage.written,
        cpu_seconds: run.usage.cpu,
        peak_anonymous: run.usage.peak_anonymous,
        commit_p50: at(0.5),
        commit_p99: at(0.99),
    }
}
