//! `rebuild`: the database made anew from the streams.

use std::io::Write;

use serde_json::json;

use super::progress::Progress;
use super::{CommandError, JSON_VERSION, stop_signal, text};
use crate::cli::RebuildArgs;
use crate::config::Config;
use crate::service::rebuild::{RebuildOptions, Rebuilt, put_in_place, rebuild as make_anew};
use crate::wire::shown;

/// Rebuilds, and says what it took.
///
/// # Errors
/// See [`crate::service::error::ServiceError`]; then the database is as it was.
pub async fn rebuild(config: &Config, args: &RebuildArgs, out: &mut dyn Write) -> Result<(), CommandError> {
    if args.swap {
        let kept = put_in_place(config, args.keep_old)?;
        writeln!(
            out,
            "{} is new: start the backend now, then `results-projector run`",
            config.store.path.display()
        )?;
        if let Some(kept) = kept {
            writeln!(out, "the old file is kept as {}", kept.display())?;
        }
        return Ok(());
    }
    let stop = stop_signal()?;
    let progress = Progress::new(args.json);
    let options = RebuildOptions {
        no_carry_over: args.no_carry_over,
        forget_completions: args.forget_completions,
        keep_old: args.keep_old,
    };
    let rebuilt = make_anew(config, options, stop, &|step| progress.tell(step)).await;
    progress.end();
    let rebuilt = rebuilt?;
    if args.json {
        return text::json(out, &document(&rebuilt));
    }
    say(config, &rebuilt, args.keep_old, out)?;
    Ok(())
}

fn document(rebuilt: &Rebuilt) -> serde_json::Value {
    let streams: serde_json::Map<String, serde_json::Value> = rebuilt
        .standings
        .iter()
        .map(|(stream, standing)| {
            let value = json!({
                "incarnation": standing.incarnation, "first": standing.first.0, "position": standing.position.0,
                "projected": standing.counts.projected, "dead": standing.counts.dead,
                "ignored": standing.counts.ignored, "gap": standing.counts.gap,
            });
            (stream.to_string(), value)
        })
        .collect();
    let seconds: serde_json::Map<String, serde_json::Value> = rebuilt
        .seconds
        .iter()
        .map(|(phase, seconds)| ((*phase).to_owned(), json!(seconds)))
        .collect();
    // A path need not be text.
    let kept = rebuilt.kept.as_ref().map(|kept| kept.display().to_string());
    json!({
        "schema_version": JSON_VERSION, "streams": streams, "carried": rebuilt.completed.carried,
        "vouched": rebuilt.completed.vouched.counts, "seconds": seconds, "bytes": rebuilt.bytes, "kept": kept,
        "gone": gone(rebuilt), "offered": rebuilt.offered.as_ref().map(|offered| offered.display().to_string()),
    })
}

/// What neither the streams nor the old file have.
fn gone(rebuilt: &Rebuilt) -> Vec<String> {
    let mut lines = Vec::new();
    for (stream, census) in &rebuilt.forecast.streams {
        let first = rebuilt
            .standings
            .get(stream)
            .map_or(0, |standing| standing.first.0);
        // With an old file the stream's beginning is where that one began.
        if census.first.0 > 1 && first == census.first.0 {
            let since = census
                .oldest
                .map(|oldest| format!(", published {}", oldest.stored()));
            lines.push(format!(
                "gone: {} messages of {stream} from before its first one, {}{}",
                census.first.0 - 1,
                census.first,
                since.unwrap_or_default()
            ));
        }
    }
    for (state, outputs) in rebuilt.outputs.iter().filter(|(_, outputs)| *outputs > 0) {
        lines.push(format!(
            "outputs {state}: {outputs}; their rows say so (`outputs list --state {state}`)"
        ));
    }
    lines
}

fn say(
    config: &Config,
    rebuilt: &Rebuilt,
    keep_old: bool,
    out: &mut dyn Write,
) -> Result<(), std::io::Error> {
    let made = rebuilt.offered.as_ref().unwrap_or(&config.store.path);
    writeln!(
        out,
        "{} is new: {}, checked",
        made.display(),
        shown::size(rebuilt.bytes)
    )?;
    for (stream, standing) in &rebuilt.standings {
        let counts = standing.counts;
        writeln!(
            out,
            "{stream:<10} at {}: {} projected, {} dead letters, {} ignored, {} gone before they were read",
            standing.position, counts.projected, counts.dead, counts.ignored, counts.gap
        )?;
    }
    let carried: Vec<String> = rebuilt
        .completed
        .carried
        .iter()
        // Noted anew with every rebuild: nothing that people miss.
        .filter(|(table, _)| **table != "projector_unsettled")
        .map(|(table, rows)| format!("{rows} {table}"))
        .collect();
    if !carried.is_empty() {
        writeln!(out, "only the old file had: {}", carried.join(", "))?;
    }
    let vouched: Vec<String> = rebuilt
        .completed
        .vouched
        .counts
        .iter()
        .map(|(kind, count)| format!("{count} {kind}"))
        .collect();
    if !vouched.is_empty() {
        writeln!(out, "taken from the old file: {}", vouched.join(", "))?;
    }
    for line in gone(rebuilt) {
        writeln!(out, "{line}")?;
    }
    let seconds: Vec<String> = rebuilt
        .seconds
        .iter()
        .map(|(phase, seconds)| format!("{phase} {seconds:.1}"))
        .collect();
    writeln!(out, "seconds: {}", seconds.join(", "))?;
    if rebuilt.offered.is_some() {
        let database = config.store.path.display();
        // Only then is there an old file to keep.
        let keep_old = if keep_old { " --keep-old" } else { "" };
        writeln!(
            out,
            "{database} is the backend's own file, and as it was. With the backend still stopped, put the new one in its \
             place:"
        )?;
        writeln!(
            out,
            "  results-projector --db {database} rebuild --swap{keep_old}"
        )?;
        writeln!(
            out,
            "and start the backend. If {database} is written before that, this is refused: then rebuild again."
        )?;
    }
    if let Some(kept) = &rebuilt.kept {
        writeln!(out, "the old file is kept as {}", kept.display())?;
    }
    Ok(())
}
