//! Breaks the service on purpose, storm after storm, and compares: `cargo run --release --example torture -- --help`.
#![allow(
    dead_code,
    unused_imports,
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::string_slice,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::let_underscore_must_use
)]

#[path = "../../tests/it/harness/mod.rs"]
mod harness;

mod engine;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use clap::Parser;
use engine::{Tally, play, schedule};

/// A fleet publishes, a planner strikes the real processes; after each storm everything converges and is compared with an
/// undisturbed run. Stops at the first broken invariant with the seed, the schedule and what differs.
#[derive(Parser)]
struct Args {
    /// The first storm's seed; the same seed gives the same schedule
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Begins no storm after so long
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// At most so many storms
    #[arg(long)]
    storms: Option<u64>,
    /// Results that the fleet publishes in each storm
    #[arg(long, default_value_t = 20_000)]
    results: usize,
    /// Prints the schedules and plays nothing
    #[arg(long)]
    dry_run: bool,
    /// The projector to strike; by default it is built, in the profile `torture`
    #[arg(long)]
    binary: Option<PathBuf>,
}

/// With the named points at which it can be made to die.
fn build() -> PathBuf {
    let root = env!("CARGO_MANIFEST_DIR");
    let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
    let mut command = Command::new(cargo);
    command
        .current_dir(root)
        .args(["build", "--profile", "torture", "--bin", "results-projector"]);
    // What cargo has told this program is not what it tells a shell: some packages would be built anew for the difference.
    for (name, _) in std::env::vars_os() {
        let told = name.to_string_lossy();
        if told.starts_with("CARGO_PKG_") || told.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    assert!(
        command.status().unwrap().success(),
        "the projector does not build"
    );
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or(PathBuf::from(root).join("target"), PathBuf::from);
    target.join("torture/results-projector")
}

fn main() -> ExitCode {
    let args = Args::parse();
    let seeds = args.seed..args.seed + args.storms.unwrap_or(u64::MAX - args.seed);
    if args.dry_run {
        for seed in seeds.take(args.storms.unwrap_or(1) as usize) {
            print!("{}", schedule(seed, args.results));
        }
        return ExitCode::SUCCESS;
    }
    harness::projector::use_binary(args.binary.clone().unwrap_or_else(build));
    let until = Instant::now() + Duration::from_secs_f64(args.minutes * 60.0);
    let (mut all, mut storms) = (Tally::default(), 0_u64);
    let mut exit = ExitCode::SUCCESS;
    for seed in seeds {
        if Instant::now() >= until {
            break;
        }
        let schedule = schedule(seed, args.results);
        let started = Instant::now();
        // A storm of its own runtime: what one leaves behind cannot reach the next.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(4)
            .enable_all()
            .build()
            .unwrap();
        let played = catch_unwind(AssertUnwindSafe(|| runtime.block_on(play(&schedule))));
        runtime.shutdown_timeout(Duration::from_secs(5));
        let Ok(tally) = played else {
            println!(
                "seed {seed}: BROKEN after {:.0} s; what differs is above\n{schedule}",
                started.elapsed().as_secs_f64()
            );
            println!(
                "again: cargo run --release --example torture -- --seed {seed} --storms 1 --results {}",
                args.results
            );
            exit = ExitCode::FAILURE;
            break;
        };
        storms += 1;
        println!(
            "seed {seed}: same after {:.0} s: {} messages, {} rows, {} dead letters, {} gaps; {} kills, {} of the server; {}{}",
            started.elapsed().as_secs_f64(),
            tally.messages,
            tally.rows,
            tally.dead,
            tally.gaps,
            tally.kills,
            tally.server_kills,
            list(&tally.faults),
            if tally.compared_with_stream_start {
                "; as from stream start"
            } else {
                ""
            },
        );
        all.add(&tally);
    }
    println!(
        "\n{storms} storms, {} messages, {} kills of the projector, {} of the server, {} rows compared; differences: {}",
        all.messages,
        all.kills,
        all.server_kills,
        all.rows,
        if exit == ExitCode::SUCCESS { "none" } else { "one" }
    );
    for (kind, count) in &all.faults {
        println!("{count:>6}  {kind}");
    }
    for skipped in &all.skipped {
        println!("SKIPPED  {skipped}");
    }
    exit
}

fn list(faults: &BTreeMap<&'static str, u64>) -> String {
    let parts: Vec<String> = faults
        .iter()
        .map(|(kind, count)| format!("{count} {kind}"))
        .collect();
    parts.join(", ")
}
