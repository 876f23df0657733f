//! `run`: the service in this process, until a signal or until caught up.

use std::io::Write;
use std::time::Duration;

use tokio::time::timeout;

use super::progress::Progress;
use super::{CommandError, stop_signal};
use crate::cli::RunArgs;
use crate::config::Config;
use crate::observe::Observer;
use crate::service::board::Board;
use crate::service::pipeline::{self, RunOptions};
use crate::store::{read_only, report};

/// Runs the service.
///
/// # Errors
/// The service's; the output's.
pub async fn run(config: &Config, args: &RunArgs, out: &mut dyn Write) -> Result<(), CommandError> {
    let stopped = stop_signal()?;
    let options = RunOptions {
        until_caught_up: args.until_caught_up,
        take_over_consumers: args.take_over_consumers,
        create_missing: args.create_missing,
    };
    let board = Board::new();
    let watched = board.watched();
    if options.until_caught_up {
        let display = Progress::new(false).follow(watched);
        let outcome = pipeline::run(config, options, stopped.clone(), board).await;
        // The display ends when the service's state is gone; a bar must not be torn off in the middle.
        let _ended = timeout(Duration::from_secs(1), display).await;
        outcome?;
    } else {
        let observer = Observer::start(config, watched);
        let outcome = pipeline::run(config, options, stopped.clone(), board).await;
        observer.end();
        outcome?;
    }
    if args.until_caught_up && !*stopped.borrow() {
        owed(config, out)?;
    }
    Ok(())
}

/// What is still owed after catching up.
fn owed(config: &Config, out: &mut dyn Write) -> Result<(), CommandError> {
    let report = report::read(&read_only(&config.store.path)?)?;
    for stream in &report.streams {
        writeln!(out, "{} caught up at {}", stream.stream, stream.position)?;
    }
    let pending = report.outputs.get("pending").copied().unwrap_or(0);
    let gone = report.outputs.get("gone").copied().unwrap_or(0);
    writeln!(
        out,
        "owed: {pending} outputs pending, {gone} gone, {} dead letters",
        report.dead_letters
    )?;
    Ok(())
}
