//! `status`: what the database says, and where the streams end, when the server answers.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use super::{CommandError, text};
use crate::config::Config;
use crate::observe::document::{Document, Outside, Pairs, StreamEnd};
use crate::projection::manifests::Manifests;
use crate::source::census::{census, census_of_outputs};
use crate::source::{connect, manifests, opening};
use crate::store::{read_only, report};
use crate::wire::kv::StreamName;
use crate::wire::shown;

/// The server has so long to say where the streams end.
const ASK_LIMIT: Duration = Duration::from_secs(3);
/// Characters of what a finding says.
const FINDING_MAX: usize = 1_000;
/// Gaps, and issues, that are shown without `--json`.
const GAPS_SHOWN: usize = 5;
const ISSUES_SHOWN: usize = 5;

/// Prints the status.
///
/// # Errors
/// The database's, the output's.
pub async fn status(config: &Config, as_json: bool, out: &mut dyn Write) -> Result<(), CommandError> {
    let report = report::read(&read_only(&config.store.path)?)?;
    let asked = tokio::time::timeout(ASK_LIMIT, ask(config, report.adopted)).await;
    let unavailable = |why| Outside {
        unavailable: Some(why),
        ..Outside::default()
    };
    let outside = match asked {
        Ok(Ok(outside)) => outside,
        Ok(Err(why)) => unavailable(why),
        Err(_) => unavailable(format!("no answer within {} s", ASK_LIMIT.as_secs())),
    };
    let document = Document::new(&config.store.path, Ok(report), outside, None);
    if as_json {
        text::json(out, &document)
    } else {
        print(&document, out)
    }
}

async fn ask(config: &Config, adopted: bool) -> Result<Outside, String> {
    let connection = connect::once(&config.nats)
        .await
        .map_err(|error| error.to_string())?;
    let js = connection.js();
    let mut outside = Outside::default();
    for stream in StreamName::ALL {
        let found = census(&js, stream).await.map_err(|error| error.to_string())?;
        if let Some(found) = found {
            let end = StreamEnd {
                last: found.last.0,
                bytes: found.bytes,
                bytes_max: found.bytes_max,
                not_reading: None,
                behind_for: None,
            };
            outside.streams.insert(stream.to_string(), end);
        }
    }
    // A login that may not read the bucket still sees how far the streams are.
    outside.manifests = manifests::snapshot(&js)
        .await
        .ok()
        .map(|documents| Arc::new(Manifests::of_bucket(documents.unwrap_or_default())));
    outside.output_store = census_of_outputs(&js).await.ok().flatten();
    if adopted {
        match opening::backend_is_projecting(&js).await {
            Ok(projecting) => outside.backend_is_projecting = Some(projecting),
            Err(error) => outside.backend_unknown = Some(error.to_string()),
        }
    }
    Ok(outside)
}

fn print(document: &Document, out: &mut dyn Write) -> Result<(), CommandError> {
    let Document {
        database,
        server,
        streams,
        outputs,
        gaps,
        ..
    } = document;
    for finding in &document.findings {
        let severity = finding.severity.as_str();
        writeln!(out, "{severity:<10} {}", text::inert(&finding.what, FINDING_MAX))?;
        writeln!(out, "           {}", finding.to_do)?;
    }
    if !document.findings.is_empty() {
        writeln!(out)?;
    }
    writeln!(
        out,
        "database   {} ({}, log {})",
        database.path,
        shown::size(database.bytes),
        shown::size(database.wal_bytes)
    )?;
    if database.adopted {
        let pass = if database.first_pass {
            "; its rows are still compared with their messages"
        } else {
            ""
        };
        writeln!(out, "           the backend's own file{pass}")?;
    }
    match &server.unavailable {
        None => writeln!(out, "server     answers")?,
        Some(why) => writeln!(out, "server     {}", text::inert(why, 300))?,
    }
    writeln!(out)?;
    if streams.is_empty() {
        writeln!(out, "no stream has been read yet")?;
    } else {
        let rows: Vec<Vec<String>> = streams
            .iter()
            .map(|stream| {
                let unknown = || "?".to_owned();
                let report = &stream.report;
                vec![
                    report.stream.clone(),
                    shown::grouped(report.position),
                    stream.last_seq.map_or_else(unknown, shown::grouped),
                    stream.lag_messages.map_or_else(unknown, shown::grouped),
                    stream
                        .lag_seconds
                        .map_or_else(unknown, |seconds| format!("{seconds:.0} s")),
                    shown::grouped(report.counts.projected),
                    shown::grouped(report.counts.dead),
                    shown::grouped(report.counts.ignored),
                    shown::grouped(report.counts.gap),
                    report.incarnation.to_string(),
                ]
            })
            .collect();
        let heads = [
            "STREAM",
            "POSITION",
            "LAST",
            "BEHIND",
            "LAG",
            "PROJECTED",
            "DEAD",
            "IGNORED",
            "GAP",
            "INCARNATION",
        ];
        text::table(out, &heads, &rows)?;
    }
    writeln!(out)?;
    let missing: Vec<String> = outputs
        .iter()
        .map(|(state, count)| format!("{count} {}", state.replace('_', " ")))
        .collect();
    writeln!(out, "outputs    {}", missing.join(", "))?;
    let without = document.dead_letters_without_payload;
    writeln!(
        out,
        "dead       {} dead letters{}",
        document.dead_letters,
        if without > 0 {
            format!(
                ", {without} of them only in the stream, as long as it keeps them: dead_letters.max_bytes is reached; retry \
                 or discard some, or raise it"
            )
        } else {
            String::new()
        }
    )?;
    let Pairs {
        waiting,
        due,
        older_hints,
    } = &document.pairs;
    let older = older_hints.map_or_else(|| "?".to_owned(), |pairs| pairs.to_string());
    writeln!(
        out,
        "pairs      {waiting} wait for an output, {due} to be derived anew, {older} under older hints"
    )?;
    writeln!(out, "issues     {}", document.issues.len())?;
    for issue in document.issues.iter().take(ISSUES_SHOWN) {
        writeln!(
            out,
            "issue      {} of {} on {}: {}: {}",
            text::inert(&issue.part, 80),
            text::inert(&issue.job_id, 80),
            text::inert(&issue.pc_id, 80),
            issue.code,
            text::inert(&issue.reason, 160)
        )?;
    }
    if document.issues.len() > ISSUES_SHOWN {
        writeln!(
            out,
            "           and {} more; --json shows all",
            document.issues.len() - ISSUES_SHOWN
        )?;
    }
    for gap in gaps.iter().rev().take(GAPS_SHOWN) {
        writeln!(
            out,
            "gap        {} {}..{} (incarnation {}): {}",
            gap.stream, gap.first_seq, gap.last_seq, gap.incarnation, gap.reason
        )?;
    }
    if gaps.len() > GAPS_SHOWN {
        writeln!(
            out,
            "           and {} earlier gaps; --json shows all",
            gaps.len() - GAPS_SHOWN
        )?;
    }
    Ok(())
}
