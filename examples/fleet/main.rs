//! Publishes what a fleet of agents would: `cargo run --example fleet -- --help`.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::print_stdout)]

mod generator;

use std::collections::BTreeMap;
use std::io::{IsTerminal, stderr};

use clap::Parser;
use generator::Profile;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Publishes exactly like kanade's agents: objects first, then the message. Without further flags a bit of everything,
/// in amounts that suit the number of results.
#[derive(Parser)]
struct Args {
    /// NATS server
    #[arg(long, default_value = "nats://127.0.0.1:4222")]
    nats_url: String,
    /// User name; the password comes from a file
    #[arg(long, requires = "nats_password_file")]
    nats_user: Option<String>,
    /// File with the user's password
    #[arg(long, requires = "nats_user")]
    nats_password_file: Option<std::path::PathBuf>,
    /// Results to publish, besides those of scans, checks and feeds
    #[arg(long, default_value_t = 20_000)]
    results: usize,
    /// PCs in the fleet
    #[arg(long)]
    pcs: Option<usize>,
    /// The same seed gives the same bytes
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Create the streams and stores first, as the backend does, and put the manifests there
    #[arg(long)]
    create_streams: bool,
    /// Results per thousand whose output is over 256 KiB
    #[arg(long)]
    overflow: Option<u32>,
    /// Messages per thousand that are published twice
    #[arg(long)]
    duplicates: Option<u32>,
    /// Malformed results; unless 0, a malformed start event and snapshot too
    #[arg(long)]
    malformed: Option<usize>,
    /// Results whose object is missing
    #[arg(long)]
    missing: Option<usize>,
    /// Launched results per thousand that have a start event; unless 0, some runs stay in flight
    #[arg(long)]
    starts: Option<u32>,
    /// Inventory scans of each PC, of software and of disks
    #[arg(long)]
    scans: Option<usize>,
    /// Software scans whose object is missing
    #[arg(long)]
    missing_scans: Option<usize>,
    /// Compliance checks of each PC, of encryption and of the virus scanner
    #[arg(long)]
    checks: Option<usize>,
    /// Runs of the feed job
    #[arg(long)]
    feeds: Option<usize>,
    /// Hardware snapshots of agents before 0.14
    #[arg(long)]
    legacy_inventory: Option<usize>,
}

impl Args {
    fn profile(&self) -> Profile {
        let all = Profile::everything(self.results);
        Profile {
            pcs: self.pcs.unwrap_or(all.pcs),
            overflow_permille: self.overflow.unwrap_or(all.overflow_permille),
            duplicate_permille: self.duplicates.unwrap_or(all.duplicate_permille),
            malformed: self.malformed.unwrap_or(all.malformed),
            missing: self.missing.unwrap_or(all.missing),
            started_permille: self.starts.unwrap_or(all.started_permille),
            scans: self.scans.unwrap_or(all.scans),
            missing_scans: self.missing_scans.unwrap_or(all.missing_scans),
            checks: self.checks.unwrap_or(all.checks),
            feeds: self.feeds.unwrap_or(all.feeds),
            legacy_inventory: self.legacy_inventory.unwrap_or(all.legacy_inventory),
            ..all
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), async_nats::Error> {
    let args = Args::parse();
    let options = match (&args.nats_user, &args.nats_password_file) {
        (Some(user), Some(file)) => {
            let password = std::fs::read_to_string(file)?.trim_end().to_owned();
            async_nats::ConnectOptions::with_user_and_password(user.clone(), password)
        }
        _ => async_nats::ConnectOptions::new(),
    };
    let client = options.connect(&args.nats_url).await?;
    let js = async_nats::jetstream::new(client.clone());
    if args.create_streams {
        generator::create_streams(&js, None).await?;
        generator::put_manifests(&js).await?;
    }
    let planned = generator::plan(args.seed, &args.profile());
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
    println!("published {} messages", planned.len());
    println!(
        "  by stream: {}",
        counts(planned.iter().map(|planned| planned.stream().to_owned()))
    );
    println!(
        "  by kind: {}",
        counts(
            planned
                .iter()
                .map(|planned| format!("{:?}", planned.kind).to_lowercase())
        )
    );
    Ok(())
}

fn counts(names: impl Iterator<Item = String>) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for name in names {
        *counts.entry(name).or_default() += 1;
    }
    let parts: Vec<String> = counts
        .into_iter()
        .map(|(name, count)| format!("{count} {name}"))
        .collect();
    parts.join(", ")
}
