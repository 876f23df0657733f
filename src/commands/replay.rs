//! `replay`: what differs from the streams, mended in place.

use std::io::Write;

use serde_json::json;

use super::progress::Progress;
use super::verify::{counts, differences};
use super::{CommandError, JSON_VERSION, stop_signal, text};
use crate::cli::ReplayArgs;
use crate::config::Config;
use crate::service::replay::{ReplayOptions, Replayed, replay as mend};
use crate::wire::sequence::StreamSeq;
use crate::wire::time::Timestamp;

/// Replays, and says what was mended.
///
/// # Errors
/// See [`crate::service::error::ServiceError`]; then nothing is changed.
pub async fn replay(config: &Config, args: &ReplayArgs, out: &mut dyn Write) -> Result<(), CommandError> {
    let since = args
        .since
        .as_deref()
        .map(|text| {
            Timestamp::parse_wire(text).map_err(|error| {
                CommandError::Usage(format!(
                    "--since {text:?} is no time: {error}; write it like 2026-06-01T08:00:00Z"
                ))
            })
        })
        .transpose()?;
    let options = ReplayOptions {
        from_seq: args.from_seq.map(StreamSeq),
        since,
        job: args.job.clone(),
    };
    let stop = stop_signal()?;
    let progress = Progress::new(args.json);
    let replayed = mend(config, &options, stop, &|step| progress.tell(step)).await;
    progress.end();
    let replayed = replayed?;
    if args.json {
        return text::json(
            out,
            &json!({
                "schema_version": JSON_VERSION, "from_seq": replayed.from.map(|from| from.0),
                "found": replayed.comparison.found(), "differences": replayed.comparison.differences,
                "mended": replayed.mended.rows, "left": replayed.mended.left,
                "vouched": replayed.completed.vouched.counts,
                "not_compared": replayed.completed.vouched.not_compared,
            }),
        );
    }
    Ok(say(&replayed, out)?)
}

fn say(replayed: &Replayed, out: &mut dyn Write) -> Result<(), std::io::Error> {
    if let Some(from) = replayed.from {
        writeln!(out, "replayed from {from} of RESULTS on")?;
    }
    differences(&replayed.comparison, out)?;
    counts(
        "vouched for by the database only",
        &replayed.completed.vouched.counts,
        out,
    )?;
    counts("not touched", &replayed.completed.vouched.not_compared, out)?;
    for (table, why) in &replayed.mended.left {
        writeln!(
            out,
            "left as it is: {}: {}",
            text::inert(table, 64),
            text::inert(why, 200)
        )?;
    }
    if replayed.mended.is_nothing() {
        return writeln!(out, "nothing was wrong, nothing was changed");
    }
    let rows: Vec<String> = replayed
        .mended
        .rows
        .iter()
        .map(|(table, rows)| format!("{rows} {}", text::inert(table, 64)))
        .collect();
    writeln!(out, "mended rows: {}", rows.join(", "))
}
