//! Log lines on stderr: one for each thing an operator would act on. What stands in a line may come from outside.

use std::fmt::{self, Debug};
use std::io::{self, IsTerminal, Stderr, Write, stderr};

use tracing_subscriber::field::MakeExt;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::{Writer, debug_fn};
use tracing_subscriber::fmt::layer;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::journal::Journal;
use crate::config::{Log, LogFormat};
use crate::wire::inert::{inert, inert_json};

/// Characters of one value in a line of text. A journal splits very long lines, and what follows would begin one.
pub(super) const VALUE_MAX: usize = 2_000;

/// Starts logging. `verbose` and `quiet` move the configured level; with `progress`, how far a command is is told anyway.
pub fn start(log: &Log, verbose: u8, quiet: u8, progress: bool) {
    let level = match (log.level as u8 + verbose).saturating_sub(quiet) {
        0 | 1 => LevelFilter::ERROR,
        2 => LevelFilter::WARN,
        3 => LevelFilter::INFO,
        4 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    // The client logs what we log ourselves, with its own words.
    let mut filter = Targets::new()
        .with_default(level)
        .with_target("async_nats", LevelFilter::OFF)
        .with_target("rustls", LevelFilter::WARN);
    if progress {
        filter = filter.with_target("results_projector::commands::progress", LevelFilter::INFO);
    }
    let registry = tracing_subscriber::registry().with(filter);
    if log.format == LogFormat::Journald
        && let Some(journal) = Journal::behind_stderr()
    {
        registry.with(journal).init();
        return;
    }
    let lines = layer().with_writer(stderr).with_target(false);
    let values = debug_fn(|line: &mut Writer<'_>, field, value: &dyn Debug| told(line, field.name(), value));
    match log.format {
        LogFormat::Json => registry.with(lines.json().with_writer(|| Json(stderr()))).init(),
        // It is no journal that listens for fields; one that only takes lines stamps the time itself.
        LogFormat::Journald => registry
            .with(
                lines
                    .with_ansi(false)
                    .without_time()
                    .fmt_fields(values.delimited(" ")),
            )
            .init(),
        LogFormat::Text => registry
            .with(
                lines
                    .with_ansi(stderr().is_terminal())
                    .fmt_fields(values.delimited(" ")),
            )
            .init(),
    }
}

/// One value of a line: the message as it is, others with their names.
fn told(line: &mut Writer<'_>, name: &str, value: &dyn Debug) -> fmt::Result {
    let text = format!("{value:?}");
    let text = inert(&text, VALUE_MAX);
    if name == "message" {
        write!(line, "{text}")
    } else {
        write!(line, "{name}={text}")
    }
}

/// JSON itself escapes the first 32 control characters; a terminal obeys more than those.
struct Json(Stderr);

impl Write for Json {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A line is written as a whole, and is valid text.
        let line = String::from_utf8_lossy(bytes);
        self.0.write_all(inert_json(&line).as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}
