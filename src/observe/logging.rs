//! Log lines on stderr: one for each thing an operator would act on. What stands in a line may come from outside.

use std::fmt::{self, Debug};
use std::io::{self, IsTerminal, Stderr, Write, stderr};

use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::format::{Writer, debug_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use super::journal::Journal;
use crate::config::Log;
use crate::wire::inert::{inert, inert_json};

/// Characters of one value in a line of text. A journal splits very long lines, and what follows would begin one.
pub(super) const VALUE_MAX: usize = 2_000;

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
    let filter = || EnvFilter::new(format!("{level},async_nats=off,rustls=warn{progress}"));
    if log.format == "journald"
        && let Some(journal) = Journal::behind_stderr()
    {
        tracing_subscriber::registry()
            .with(journal.with_filter(filter()))
            .init();
        return;
    }
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter())
        .with_writer(stderr)
        .with_target(false);
    let values = debug_fn(|line: &mut Writer<'_>, field, value: &dyn Debug| told(line, field.name(), value));
    match log.format.as_str() {
        "json" => builder.json().with_writer(|| Json(stderr())).init(),
        // It is no journal that listens for fields; one that only takes lines stamps the time itself.
        "journald" => builder
            .with_ansi(false)
            .without_time()
            .fmt_fields(values.delimited(" "))
            .init(),
        _ => builder
            .with_ansi(stderr().is_terminal())
            .fmt_fields(values.delimited(" "))
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
