//! `verify`: what the streams prove of the database, and what they do not.

use std::io::Write;

use chrono::Utc;
use serde_json::json;

use super::progress::Progress;
use super::{CommandError, JSON_VERSION, stop_signal, text, told};
use crate::cli::VerifyArgs;
use crate::config::Config;
use crate::service::verify::{Verified, sample, verify as prove};
use crate::store::compare::{Comparison, Difference, Kind};
use crate::wire::time::Timestamp;

/// Differences that are printed without `--json`.
const SHOWN_MAX: usize = 100;
/// Characters of a row's key.
const KEY_MAX: usize = 800;

/// Verifies; returns false when something differs.
///
/// # Errors
/// See [`crate::service::error::ServiceError`].
pub async fn verify(config: &Config, args: &VerifyArgs, out: &mut dyn Write) -> Result<bool, CommandError> {
    let stop = stop_signal()?;
    let progress = Progress::new(args.json);
    let now = Timestamp::from(Utc::now());
    let tell = |step| progress.tell(step);
    let verified = match args.sample {
        None => prove(config, now, stop, &tell).await,
        Some(results) => sample(config, results, now, stop, &tell).await,
    };
    progress.end();
    let verified = verified?;
    let telling = match args.json {
        true => text::json(out, &document(&verified)),
        false => say(&verified, out).map_err(CommandError::from),
    };
    told(telling, verified.is_good())
}

fn document(verified: &Verified) -> serde_json::Value {
    let positions: serde_json::Map<String, serde_json::Value> = verified
        .standings
        .iter()
        .map(|(stream, standing)| {
            let value = json!({ "incarnation": standing.incarnation, "position": standing.position.0 });
            (stream.to_string(), value)
        })
        .collect();
    json!({
        "schema_version": JSON_VERSION,
        "good": verified.is_good(),
        "streams": positions,
        "found": verified.comparison.found(),
        "differences": verified.comparison.differences,
        "tables": verified.comparison.counted,
        "left_out": verified.comparison.left_out,
        "vouched": verified.completed.vouched.counts,
        "not_compared": verified.completed.vouched.not_compared,
        "wrong": verified.wrong,
    })
}

fn say(verified: &Verified, out: &mut dyn Write) -> Result<(), std::io::Error> {
    let positions: Vec<String> = verified
        .standings
        .iter()
        .map(|(stream, standing)| format!("{stream} {}", standing.position))
        .collect();
    if !positions.is_empty() {
        writeln!(out, "compared at {}", positions.join(", "))?;
    }
    for wrong in &verified.wrong {
        writeln!(out, "wrong: {}", text::inert(wrong, 400))?;
    }
    differences(&verified.comparison, out)?;
    let rows: Vec<Vec<String>> = verified
        .comparison
        .counted
        .iter()
        .map(|(table, counted)| {
            vec![
                text::inert(table, 64),
                counted.compared.to_string(),
                (counted.different + counted.shapes).to_string(),
                counted.missing.to_string(),
                counted.unexpected.to_string(),
                counted.cleaned_up.to_string(),
                counted.vouched.to_string(),
            ]
        })
        .collect();
    let head = [
        "TABLE",
        "PROVED",
        "DIFFERENT",
        "MISSING",
        "UNEXPECTED",
        "CLEANED UP",
        "VOUCHED FOR",
    ];
    text::table(out, &head, &rows)?;
    for (table, reason) in &verified.comparison.left_out {
        writeln!(
            out,
            "not compared: {}: {}",
            text::inert(table, 64),
            text::inert(reason, 200)
        )?;
    }
    counts(
        "vouched for by the database only",
        &verified.completed.vouched.counts,
        out,
    )?;
    counts("not compared", &verified.completed.vouched.not_compared, out)?;
    match (verified.is_good(), verified.comparison.found()) {
        (true, _) => writeln!(out, "good: the database says what the streams say"),
        (false, 0) => writeln!(
            out,
            "bad: no row differs, so there is nothing for `replay` to mend; let `results-projector run` read on, and if what \
             is called wrong above stays, run `results-projector rebuild`"
        ),
        (false, found) => writeln!(
            out,
            "bad, rows that differ: {found}; stop the service and run `results-projector replay`, which mends them"
        ),
    }
}

/// What differs, a line each.
pub(super) fn differences(comparison: &Comparison, out: &mut dyn Write) -> Result<(), std::io::Error> {
    for difference in comparison.differences.iter().take(SHOWN_MAX) {
        writeln!(out, "{}", line(difference))?;
    }
    let more = comparison.found().saturating_sub(SHOWN_MAX as u64);
    if more > 0 {
        writeln!(out, "and {more} more (--json lists up to 1000)")?;
    }
    Ok(())
}

pub(super) fn counts(
    what: &str,
    counts: &std::collections::BTreeMap<&'static str, u64>,
    out: &mut dyn Write,
) -> Result<(), std::io::Error> {
    if counts.is_empty() {
        return Ok(());
    }
    let counts: Vec<String> = counts
        .iter()
        .map(|(kind, count)| format!("{count} {kind}"))
        .collect();
    writeln!(out, "{what}: {}", counts.join(", "))
}

fn line(difference: &Difference) -> String {
    let key: Vec<String> = difference
        .key
        .iter()
        .map(|(column, value)| format!("{column} {}", text::inert(value, 200)))
        .collect();
    let key = text::inert(&key.join(", "), KEY_MAX);
    let place = format!("{} [{key}]", text::inert(&difference.table, 64));
    match &difference.kind {
        Kind::Missing => format!("missing: {place}"),
        Kind::Unexpected => format!("unexpected: {place}"),
        Kind::Column {
            name,
            found,
            expected,
        } => format!(
            "different: {place} {}: {} instead of {}",
            text::inert(name, 64),
            text::inert(&found.to_string(), 240),
            text::inert(&expected.to_string(), 240)
        ),
        Kind::Shape { reason } => format!("different: {place} {}", text::inert(reason, 240)),
    }
}
