//! `run`: the service in this process, until a signal or until caught up.

use std::io::{IsTerminal, Write, stderr};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::timeout;

use super::progress::{LINE_MAX, counting};
use super::{CommandError, text};
use crate::cli::RunArgs;
use crate::config::Config;
use crate::observe::Observer;
use crate::service::board::{Board, Watched};
use crate::service::error::ServiceError;
use crate::service::pipeline::{self, RunOptions};
use crate::store::{read_only, report};
use crate::wire::sequence::StreamSeq;

/// Off a terminal, progress is a line this often.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// On a terminal, the display moves this often.
const DRAW_EVERY: Duration = Duration::from_millis(100);

/// Runs the service.
///
/// # Errors
/// See [`ServiceError`].
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
        let display = tokio::spawn(progress(watched));
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

/// True once the process is asked to end; asked twice, it ends at once.
pub(super) fn stop_signal() -> Result<watch::Receiver<bool>, ServiceError> {
    let (stop, stopped) = watch::channel(false);
    let broken = |error: std::io::Error| ServiceError::Broken(format!("cannot listen for signals: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(broken)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(broken)?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.send_replace(true);
        // A second signal is a person who will not wait.
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        std::process::exit(130);
    });
    Ok(stopped)
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

/// A bar on a terminal, a log line every few seconds elsewhere.
async fn progress(watched: Watched) {
    let terminal = stderr().is_terminal();
    let bar = ProgressBar::with_draw_target(
        None,
        if terminal {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        },
    );
    if let Some(style) = counting("{bar:32} {human_pos}/{human_len} messages  {rate}  {msg}") {
        bar.set_style(style);
    }
    let mut last_line = tokio::time::Instant::now();
    let mut writer = watched.writer.clone();
    // The writer's state is gone when the writer is.
    while !matches!(timeout(DRAW_EVERY, writer.changed()).await, Ok(Err(_))) {
        let mut reached = 0;
        let mut ends = 0;
        let mut say = String::new();
        {
            let writer = watched.writer.borrow();
            for (stream, reader) in &watched.readers {
                let reader = reader.borrow();
                let end = reader.first_last.unwrap_or(StreamSeq(0)).0;
                ends += end;
                reached += writer.position(*stream).0.min(end);
                if let Some(why) = &reader.not_reading {
                    say.clone_from(why);
                }
            }
            if let Some(why) = &writer.not_writing {
                say.clone_from(why);
            }
        }
        if ends > 0 || !say.is_empty() {
            bar.set_length(ends);
            bar.set_position(reached);
            bar.set_message(text::inert(&say, LINE_MAX));
        }
        if !terminal && last_line.elapsed() >= LINE_EVERY {
            last_line = tokio::time::Instant::now();
            tracing::info!(position = reached, end = ends, waiting = say, "catching up");
        }
    }
    bar.finish_and_clear();
}
