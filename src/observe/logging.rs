//! Log lines on stderr: one for each thing an operator would act on.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::EnvFilter;

use crate::config::Log;

/// Starts logging. `verbose` and `quiet` move the configured level; with `progress`, how far a command is is told anyway.
pub fn start(log: &Log, verbose: u8, quiet: u8, progress: bool) {
    let levels = ["off", "error", "warn", "info", "debug", "trace"];
    let configured = levels.iter().position(|level| *level == log.level).unwrap_or(3);
    let level = (configured + usize::from(verbose))
        .saturating_sub(usize::from(quiet))
        .clamp(1, 5);
    let level = levels.get(level).copied().unwrap_or("info");
    // The client logs what we log ourselves, with its own words.
    let progress = if progress {
        ",results_projector::commands::progress=info"
    } else {
        ""
    };
    let filter = EnvFilter::new(format!("{level},async_nats=off,rustls=warn{progress}"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(stderr)
        .with_target(false);
    match log.format.as_str() {
        "json" => builder.json().init(),
        // The journal stamps the time itself.
        "journald" => builder.with_ansi(false).without_time().init(),
        _ => builder.with_ansi(stderr().is_terminal()).init(),
    }
}
