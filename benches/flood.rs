//! A flood of malformed messages: what is left of the rate of the good ones between them:
//! `cargo bench --bench flood -- [--results N] [--rounds N] [--long N]`.
//!
//! Each variant is a stream of its own; every round drains all of them, one after the other. The drains are the real
//! binary's. Fails when fewer than half of the good results a second are left.
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

use async_nats::jetstream;
use bytes::Bytes;
use rusqlite::Connection;
use serde_json::{Value, json};
use support::malformed::malformed;
use support::{Server, argument, drain, fleet, median};

/// What the live path keeps, at least.
const SHARE_MIN: f64 = 0.5;
/// The PC whose rows somebody's trigger refuses.
const REFUSED_PC: &str = "PC-REFUSED";

/// A stream to be drained.
struct Variant {
    name: &'static str,
    /// Good ones among the messages.
    good: usize,
    messages: usize,
    bytes: usize,
    server: Server,
    /// Against which one the rate is measured, by its place.
    against: Option<usize>,
    /// Whether the share must hold.
    bound: bool,
    /// Somebody's trigger refuses rows of one PC.
    trigger: bool,
    env: Vec<(&'static str, &'static str)>,
    /// Good results a second, by round.
    rates: Vec<f64>,
    peak: u64,
}

impl Variant {
    fn new(
        runtime: &tokio::runtime::Runtime,
        name: &'static str,
        good: usize,
        messages: Vec<fleet::Planned>,
    ) -> Self {
        let server = Server::start();
        let bytes = messages.iter().map(|planned| planned.payload.len()).sum();
        let count = messages.len();
        runtime.block_on(async {
            let js = jetstream::new(async_nats::connect(&server.url).await.unwrap());
            // Beyond the backend's limits on streams: the bench must not lose messages to them.
            fleet::create_streams(&js, Some(16 << 30)).await.unwrap();
            fleet::publish_messages(&js, &messages).await.unwrap();
        });
        Self {
            name,
            good,
            messages: count,
            bytes,
            server,
            against: None,
            bound: false,
            trigger: false,
            env: Vec::new(),
            rates: Vec::new(),
            peak: 0,
        }
    }

    fn against(self, place: usize) -> Self {
        Self {
            against: Some(place),
            ..self
        }
    }

    fn bound(self) -> Self {
        Self { bound: true, ..self }
    }

    fn run(&mut self, empty: &Path) -> f64 {
        let folder = tempfile::tempdir().unwrap();
        let db = folder.path().join("results.db");
        if self.trigger {
            std::fs::copy(empty, &db).unwrap();
            refuse(&db);
        }
        rustix::fs::sync();
        let (seconds, used, _) = drain(&self.server.url, &db, &self.env);
        self.check(&db);
        let rate = self.good as f64 / seconds;
        self.rates.push(rate);
        self.peak = self.peak.max(used.peak_anonymous);
        rate
    }

    /// A rate of something else is no rate.
    fn check(&self, db: &Path) {
        let conn = Connection::open(db).unwrap();
        let count = |table: &str| -> usize {
            conn.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0))
                .unwrap()
        };
        assert_eq!(count("execution_results"), self.good, "{}", self.name);
        assert_eq!(
            count("projector_dead_letters"),
            self.messages - self.good,
            "{}",
            self.name
        );
    }
}

/// Somebody's own rule in the database: the only way for a message that decodes to be refused by SQLite.
fn refuse(db: &Path) {
    Connection::open(db)
        .unwrap()
        .execute_batch(&format!(
            "CREATE TRIGGER somebody BEFORE INSERT ON execution_results WHEN NEW.pc_id = '{REFUSED_PC}'
             BEGIN SELECT raise(ABORT, 'refused by somebody'); END"
        ))
        .unwrap();
}

/// The good ones, and after every `every` of them one of the others.
fn mixed(
    good: &[fleet::Planned],
    every: usize,
    mut other: impl FnMut(usize) -> Bytes,
) -> Vec<fleet::Planned> {
    let mut mixed = Vec::new();
    for (number, planned) in good.iter().enumerate() {
        mixed.push(planned.clone());
        if number % every == every - 1 {
            mixed.push(fleet::Planned {
                payload: other(number / every),
                ..planned.clone()
            });
        }
    }
    mixed
}

/// A result of somebody's that decodes, with an output of so many bytes.
fn twin(number: usize, pc: &str, bytes: usize) -> Bytes {
    let message: Value = json!({
        "result_id": format!("twin-{number}"), "request_id": format!("q-{number}"), "pc_id": pc, "exit_code": 0,
        "skipped": false, "stdout": "x".repeat(bytes), "stderr": "", "started_at": "2026-06-01T00:00:00Z",
        "finished_at": "2026-06-01T00:00:05Z", "exec_id": format!("exec-{}", number / 500), "manifest_id": "disk-clean",
    });
    Bytes::from(message.to_string())
}

/// 64 to 256 KiB.
fn long_bytes(number: usize) -> usize {
    (64 << 10) + (number * 7_919) % (192 << 10)
}

fn variants(runtime: &tokio::runtime::Runtime, results: usize, long: usize) -> Vec<Variant> {
    let plan = |results| {
        fleet::plan(
            1,
            &fleet::Profile {
                results,
                ..Default::default()
            },
        )
    };
    let (good, few) = (plan(results), plan(long));
    let (n, m) = (good.len(), few.len());
    let new = |name, good, messages| Variant::new(runtime, name, good, messages);
    let trigger = |variant: Variant| Variant {
        trigger: true,
        ..variant
    };
    let full = |variant: Variant| Variant {
        env: vec![("RESULTS_PROJECTOR_DEAD_LETTERS_MAX_BYTES", "4 MiB")],
        ..variant
    };
    let short = |number: usize| malformed(number, 0);
    let length = |number: usize| malformed(number, long_bytes(number));
    vec![
        new("good alone", n, good.clone()),
        new("1 malformed to 1", n, mixed(&good, 1, short))
            .against(0)
            .bound(),
        full(new("the same, the book full", n, mixed(&good, 1, short)))
            .against(0)
            .bound(),
        trigger(new("good alone, under somebody's trigger", n, good.clone())),
        trigger(new(
            "1 refused by the trigger to 1",
            n,
            mixed(&good, 1, |number| twin(number, REFUSED_PC, 900)),
        ))
        .against(3)
        .bound(),
        new(
            "good with 1 long good to 4",
            m + m / 4,
            mixed(&few, 4, |number| twin(number, "PC-0001", long_bytes(number))),
        ),
        new("1 long malformed to 4", m, mixed(&few, 4, length))
            .against(5)
            .bound(),
        full(new("the same, the book full of 4 MiB", m, mixed(&few, 4, length)))
            .against(5)
            .bound(),
    ]
}

fn main() -> ExitCode {
    let results = argument("results", 50_000_usize);
    let long = argument("long", 8_000_usize);
    let rounds = argument("rounds", 3_usize);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let mut variants = variants(&runtime, results, long);
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("results.db");
    {
        let server = Server::start();
        runtime.block_on(async {
            let js = jetstream::new(async_nats::connect(&server.url).await.unwrap());
            fleet::create_streams(&js, None).await.unwrap();
        });
        drain(&server.url, &empty, &[]);
    }
    for round in 1..=rounds {
        print!("round {round}:");
        for variant in &mut variants {
            print!(" {:.0}/s;", variant.run(&empty));
        }
        println!();
    }
    let mut broken = false;
    println!(
        "\n{:<40}{:>9}{:>9}{:>8}{:>9}{:>8}{:>7}{:>7}",
        "", "good", "others", "MB", "good/s", "MB/s", "share", "MiB"
    );
    let rates: Vec<Vec<f64>> = variants.iter().map(|variant| variant.rates.clone()).collect();
    for variant in &variants {
        let mut own = variant.rates.clone();
        let rate = median(&mut own);
        // A stream of twins is as many bytes as the flood: what is compared is the time for the same bytes.
        let good_of = |place: usize| variant.good as f64 / variants[place].good as f64;
        let share = variant.against.map(|place| {
            let mut shares: Vec<f64> = variant
                .rates
                .iter()
                .zip(&rates[place])
                .map(|(own, other)| own / (other * good_of(place)))
                .collect();
            median(&mut shares)
        });
        let kept = !variant.bound || share.is_none_or(|share| share >= SHARE_MIN);
        broken |= !kept;
        println!(
            "{:<40}{:>9}{:>9}{:>8.0}{:>9.0}{:>8.0}{:>7}{:>7.0}{}",
            variant.name,
            variant.good,
            variant.messages - variant.good,
            variant.bytes as f64 / 1e6,
            rate,
            rate / variant.good as f64 * variant.bytes as f64 / 1e6,
            share.map_or(String::new(), |share| format!("{share:.2}")),
            variant.peak as f64 / 1048576.0,
            if kept { "" } else { "  less than half" }
        );
    }
    ExitCode::from(u8::from(broken))
}
