//! Publishes what a fleet of agents would: `cargo run --example fleet -- --help`.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::print_stdout)]

mod generator;

use std::collections::BTreeMap;
use std::io::{IsTerminal, stderr};

use clap::Parser;
use generator::{Planned, Profile};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Publishes results exactly like kanade's agents: objects first, then the message.
#[derive(Parser)]
struct Args {
    /// NATS server
    #[arg(long, default_value = "nats://127.0.0.1:4222")]
    nats_url: String,
    /// Results to publish
    #[arg(long, default_value_t = 20_000)]
    results: usize,
    /// PCs in the fleet
    #[arg(long, default_value_t = 200)]
    pcs: usize,
    /// The same seed gives the same bytes
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Create the streams and stores first, as the backend does
    #[arg(long)]
    create_streams: bool,
    /// Results per thousand whose output is over 256 KiB
    #[arg(long, default_value_t = 5)]
    overflow: u32,
    /// Results per thousand that are published twice
    #[arg(long, default_value_t = 10)]
    duplicates: u32,
    /// Malformed messages
    #[arg(long, default_value_t = 5)]
    malformed: usize,
    /// Results whose object is missing
    #[arg(long, default_value_t = 3)]
    missing: usize,
}

#[tokio::main]
async fn main() -> Result<(), async_nats::Error> {
    let args = Args::parse();
    let client = async_nats::connect(&args.nats_url).await?;
    let js = async_nats::jetstream::new(client.clone());
    if args.create_streams {
        generator::create_streams(&js, None).await?;
    }
    let profile = Profile {
        results: args.results,
        pcs: args.pcs,
        overflow_permille: args.overflow,
        duplicate_permille: args.duplicates,
        malformed: args.malformed,
        missing: args.missing,
        ..Profile::default()
    };
    let planned = generator::plan(args.seed, &profile);
    let target = if stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let bar = ProgressBar::with_draw_target(Some(planned.len() as u64), target);
    bar.set_style(ProgressStyle::with_template(
        "{bar:32} {human_pos}/{human_len} published  {per_sec}",
    )?);
    for part in planned.chunks(1_000) {
        generator::publish(&js, part).await?;
        bar.inc(part.len() as u64);
    }
    bar.finish_and_clear();
    println!("published {}", by_kind(&planned));
    Ok(())
}

fn by_kind(planned: &[Planned]) -> String {
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for planned in planned {
        *kinds
            .entry(format!("{:?}", planned.kind).to_lowercase())
            .or_default() += 1;
    }
    let parts: Vec<String> = kinds
        .into_iter()
        .map(|(kind, count)| format!("{count} {kind}"))
        .collect();
    format!("{} messages: {}", planned.len(), parts.join(", "))
}
