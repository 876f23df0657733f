//! How far a load, or the service on its way to the streams' ends, is: a bar per stream and a line per phase on a terminal, a log line every few seconds elsewhere.

use std::collections::BTreeMap;
use std::io::{IsTerminal, stderr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::text;
use crate::service::board::Watched;
use crate::service::load::{Forecast, Step};
use crate::wire::kv::StreamName;
use crate::wire::sequence::StreamSeq;
use crate::wire::shown;

/// Off a terminal, progress is a line this often.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// On a terminal, the display moves this often.
const DRAW_EVERY: Duration = Duration::from_millis(100);

/// Characters of a line on a terminal that may hold text from outside.
const LINE_MAX: usize = 300;

/// What is shown. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    bars: MultiProgress,
    terminal: bool,
    quiet: bool,
    phase: Arc<Mutex<Option<ProgressBar>>>,
    watcher: Arc<Mutex<Option<JoinHandle<()>>>>,
    forecast: Arc<Mutex<Forecast>>,
}

impl Progress {
    /// `quiet`: nothing is shown.
    pub(super) fn new(quiet: bool) -> Self {
        let terminal = stderr().is_terminal() && !quiet;
        let target = if terminal {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        Self {
            bars: MultiProgress::with_draw_target(target),
            terminal,
            quiet,
            phase: Arc::default(),
            watcher: Arc::default(),
            forecast: Arc::default(),
        }
    }

    /// Shows a step.
    pub(super) fn tell(&self, step: Step) {
        self.end_phase();
        match step {
            Step::Forecast(forecast) => {
                for line in forecast_lines(&forecast) {
                    self.say(&line);
                }
                *lock(&self.forecast) = forecast;
            }
            Step::Loading(watched) => {
                *lock(&self.watcher) = Some(self.follow(watched));
            }
            Step::Phase(name) => {
                if !self.terminal {
                    return self.say(name);
                }
                let bar = self.bars.add(ProgressBar::new_spinner());
                if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}  {elapsed}") {
                    bar.set_style(style);
                }
                bar.set_message(name);
                bar.enable_steady_tick(DRAW_EVERY);
                *lock(&self.phase) = Some(bar);
            }
        }
    }

    /// Shows how far the streams are, until the writer has ended.
    pub(super) fn follow(&self, watched: Watched) -> JoinHandle<()> {
        let (bars, terminal, quiet) = (self.bars.clone(), self.terminal, self.quiet);
        let forecast = lock(&self.forecast).clone();
        tokio::spawn(async move { follow(watched, &forecast, &bars, terminal, quiet).await })
    }

    /// Nothing is shown any more.
    pub(super) fn end(&self) {
        self.end_phase();
        // A terminal that cannot be written to shows nothing anyway.
        let _cleared = self.bars.clear();
    }

    fn end_phase(&self) {
        if let Some(bar) = lock(&self.phase).take() {
            bar.finish_and_clear();
        }
        if let Some(watcher) = lock(&self.watcher).take() {
            watcher.abort();
        }
    }

    fn say(&self, line: &str) {
        if self.terminal {
            // A terminal that cannot be written to shows nothing anyway.
            let _said = self.bars.println(text::inert(line, LINE_MAX));
        } else if !self.quiet {
            tracing::info!("{line}");
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What will be loaded, in words.
pub(super) fn forecast_lines(forecast: &Forecast) -> Vec<String> {
    let mut lines: Vec<String> = forecast
        .streams
        .iter()
        .map(|(stream, census)| match census.oldest {
            Some(oldest) => format!(
                "{stream}: {} messages, {}, the oldest of {}",
                census.messages,
                shown::size(census.bytes),
                oldest.stored()
            ),
            None => format!("{stream}: empty"),
        })
        .collect();
    lines.push(match forecast.outputs.and_then(|outputs| outputs.oldest.zip(Some(outputs.bytes))) {
        Some((oldest, bytes)) => format!(
            "outputs: {} in the object store, the oldest of {}; older ones are gone unless the old file has them",
            shown::size(bytes),
            oldest.stored()
        ),
        None => "outputs: none in the object store; all are gone unless the old file has them".to_owned(),
    });
    lines
}

/// Where the streams are of where they will be.
async fn follow(watched: Watched, forecast: &Forecast, bars: &MultiProgress, terminal: bool, quiet: bool) {
    let mut shown: BTreeMap<StreamName, ProgressBar> = BTreeMap::new();
    let began = Instant::now();
    let mut last_line = Instant::now();
    let mut writer = watched.writer.clone();
    // The writer's state is gone when the writer is.
    while !matches!(timeout(DRAW_EVERY, writer.changed()).await, Ok(Err(_))) {
        let (mut reached, mut ends) = (0, 0);
        let mut waiting = watched.writer.borrow().not_writing.clone();
        for (stream, reader) in &watched.readers {
            let reader = reader.borrow();
            let before = forecast
                .streams
                .get(stream)
                .map_or(0, |census| census.first.0.saturating_sub(1));
            let end = reader.first_last.unwrap_or(StreamSeq(0)).0.saturating_sub(before);
            let position = watched.writer.borrow().position(*stream).0;
            let at = position.saturating_sub(before).min(end);
            (reached, ends) = (reached + at, ends + end);
            waiting = waiting.or_else(|| reader.not_reading.clone().filter(|_| reader.reopens > 0));
            if terminal && (end > 0 || reader.not_reading.is_some()) {
                let bar = shown.entry(*stream).or_insert_with(|| stream_bar(bars, *stream));
                bar.set_length(end);
                bar.set_position(at);
                let why = reader.not_reading.as_deref().unwrap_or_default();
                bar.set_message(text::inert(why, LINE_MAX));
            }
        }
        if !terminal && !quiet && last_line.elapsed() >= LINE_EVERY {
            last_line = Instant::now();
            let rate = reached as f64 / began.elapsed().as_secs_f64();
            let left = (ends - reached) as f64 / rate.max(1.0);
            tracing::info!(
                position = reached,
                end = ends,
                waiting,
                "{reached} of {ends} messages, {rate:.0}/s, {left:.0} s left"
            );
        }
    }
    for bar in shown.values() {
        bar.finish_and_clear();
    }
}

/// A style that knows `{rate}`: whole messages a second. `None`: the template is wrong, and a plain bar is shown.
fn counting(template: &str) -> Option<ProgressStyle> {
    let style = ProgressStyle::with_template(template).ok()?;
    Some(
        style.with_key("rate", |state: &ProgressState, to: &mut dyn std::fmt::Write| {
            // A display that cannot be written to has nothing to tell.
            let _shown = write!(to, "{:.0}/s", state.per_sec());
        }),
    )
}

fn stream_bar(bars: &MultiProgress, stream: StreamName) -> ProgressBar {
    let bar = bars.add(ProgressBar::new(0));
    if let Some(style) = counting("{prefix:9} {bar:32} {human_pos}/{human_len}  {rate}  {eta} left  {msg}") {
        bar.set_style(style);
    }
    bar.set_prefix(stream.to_string());
    bar
}
