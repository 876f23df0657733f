//! `status`: what the database says, and where the streams end, when the server answers.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::{CommandError, JSON_VERSION, text};
use crate::config::Config;
use crate::projection::manifests::Manifests;
use crate::service::beside::WARNING;
use crate::service::pipeline::STREAMS;
use crate::source::census::census;
use crate::source::{connect, manifests, opening};
use crate::store::derive::{PairCounts, issues};
use crate::store::report::{self, GapReport, StreamReport};
use crate::store::{file_bytes, read_only, wal_path};
use crate::wire::time::Timestamp;

/// The server has so long to say where the streams end.
const ASK_LIMIT: Duration = Duration::from_secs(3);
/// Gaps, and issues, that are shown without `--json`.
const GAPS_SHOWN: usize = 5;
const ISSUES_SHOWN: usize = 5;

#[derive(Serialize)]
struct Document {
    schema_version: u32,
    database: Database,
    server: Server,
    streams: Vec<Stream>,
    outputs: BTreeMap<String, u64>,
    dead_letters: u64,
    dead_letters_without_payload: u64,
    gaps: Vec<GapReport>,
    pairs: Pairs,
    issues: Vec<issues::Listed>,
    unsettled_executions: u64,
    /// The backend's own projector writes the same tables; `null` when it cannot be told, or does not matter.
    backend_is_projecting: Option<bool>,
    /// Why that cannot be told.
    backend_unknown: Option<String>,
}

/// Derived tables, by pairs of a PC and a job.
#[derive(Serialize)]
struct Pairs {
    /// With a result that waits for an output.
    waiting: u64,
    /// To be derived anew.
    due: u64,
    /// Derived under other hints than their manifest has now; `null` when the manifests cannot be read.
    older_hints: Option<u64>,
}

#[derive(Serialize)]
struct Database {
    path: String,
    id: String,
    bytes: u64,
    wal_bytes: u64,
    /// The backend's own file.
    adopted: bool,
    /// The rows that the backend's projector wrote are still compared with their messages.
    first_pass: bool,
}

#[derive(Serialize)]
struct Server {
    /// `None`: it answered.
    unavailable: Option<String>,
}

#[derive(Serialize)]
struct Stream {
    #[serde(flatten)]
    report: StreamReport,
    /// The stream's last sequence; `None` when the server did not say.
    last_seq: Option<u64>,
    /// Messages behind.
    lag_messages: Option<u64>,
    /// Age of the message at the position while there are newer ones; 0 when caught up.
    lag_seconds: Option<f64>,
}

/// Prints the status.
///
/// # Errors
/// The database's, the output's.
pub async fn status(config: &Config, as_json: bool, out: &mut dyn Write) -> Result<(), CommandError> {
    let report = report::read(&read_only(&config.store.path)?)?;
    let asked = tokio::time::timeout(ASK_LIMIT, ask(config, report.adopted)).await;
    let (outside, unavailable) = match asked {
        Ok(Ok(outside)) => (outside, None),
        Ok(Err(why)) => (Outside::default(), Some(why)),
        Err(_) => (
            Outside::default(),
            Some(format!("no answer within {} s", ASK_LIMIT.as_secs())),
        ),
    };
    let streams = report
        .streams
        .into_iter()
        .map(|stream| with_lag(stream, &outside.ends))
        .collect::<Vec<_>>();
    let document = Document {
        schema_version: JSON_VERSION,
        database: Database {
            path: config.store.path.display().to_string(),
            id: report.database_id,
            bytes: file_bytes(&config.store.path),
            wal_bytes: file_bytes(&wal_path(&config.store.path)),
            adopted: report.adopted,
            first_pass: report.first_pass,
        },
        server: Server { unavailable },
        streams,
        outputs: report.outputs,
        dead_letters: report.dead_letters,
        dead_letters_without_payload: report.dead_letters_without_payload,
        gaps: report.gaps,
        pairs: Pairs {
            waiting: report.pairs.waiting,
            due: report.pairs.due,
            older_hints: outside
                .manifests
                .map(|manifests| older_hints(&report.pairs, &manifests)),
        },
        issues: report.issues,
        unsettled_executions: report.unsettled_executions,
        backend_is_projecting: outside.backend_is_projecting,
        backend_unknown: outside.backend_unknown,
    };
    if as_json {
        text::json(out, &document)
    } else {
        print(&document, out)
    }
}

/// What only the server knows.
#[derive(Default)]
struct Outside {
    /// Where the streams end: `None` for one that does not exist.
    ends: BTreeMap<String, Option<u64>>,
    manifests: Option<Manifests>,
    backend_is_projecting: Option<bool>,
    backend_unknown: Option<String>,
}

async fn ask(config: &Config, adopted: bool) -> Result<Outside, String> {
    let connection = connect::once(&config.nats)
        .await
        .map_err(|error| error.to_string())?;
    let js = connection.js();
    let mut outside = Outside::default();
    for stream in STREAMS {
        let found = census(&js, stream).await.map_err(|error| error.to_string())?;
        outside
            .ends
            .insert(stream.to_string(), found.map(|found| found.last.0));
    }
    // A login that may not read the bucket still sees how far the streams are.
    outside.manifests = manifests::snapshot(&js)
        .await
        .ok()
        .map(|documents| Manifests::of_bucket(documents.unwrap_or_default()));
    if adopted {
        match opening::backend_is_projecting(&js).await {
            Ok(projecting) => outside.backend_is_projecting = Some(projecting),
            Err(error) => outside.backend_unknown = Some(error.to_string()),
        }
    }
    Ok(outside)
}

/// Pairs that stand under other hints than their job's manifest has now. A job without hints keeps what it has.
fn older_hints(pairs: &PairCounts, manifests: &Manifests) -> u64 {
    pairs
        .by_hints
        .iter()
        .filter(|(job_id, hash, _)| manifests.hints(job_id).is_some_and(|hints| hints.hash != *hash))
        .map(|(_, _, pairs)| pairs)
        .sum()
}

fn with_lag(report: StreamReport, ends: &BTreeMap<String, Option<u64>>) -> Stream {
    let last_seq = ends.get(&report.stream).copied().flatten();
    let lag_messages = last_seq.map(|last| last.saturating_sub(report.position));
    let published = report
        .published_at
        .as_deref()
        .and_then(|text| Timestamp::parse_stored(text).ok());
    let lag_seconds = match (lag_messages, published) {
        (Some(0), _) => Some(0.0),
        (Some(_), Some(published)) => {
            let age = Utc::now() - DateTime::<Utc>::from(published);
            Some(age.as_seconds_f64().max(0.0))
        }
        _ => None,
    };
    Stream {
        report,
        last_seq,
        lag_messages,
        lag_seconds,
    }
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
    writeln!(
        out,
        "database   {} ({}, log {})",
        database.path,
        text::size(database.bytes),
        text::size(database.wal_bytes)
    )?;
    if database.adopted {
        let pass = if database.first_pass {
            "; its rows are still compared with their messages"
        } else {
            ""
        };
        writeln!(out, "           the backend's own file{pass}")?;
    }
    if document.backend_is_projecting == Some(true) {
        writeln!(out, "warning    {WARNING}")?;
    }
    if let Some(why) = &document.backend_unknown {
        let why = text::inert(why, 300);
        writeln!(
            out,
            "warning    whether the backend's own projector is at work is not known: {why}"
        )?;
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
                    text::grouped(report.position),
                    stream.last_seq.map_or_else(unknown, text::grouped),
                    stream.lag_messages.map_or_else(unknown, text::grouped),
                    stream
                        .lag_seconds
                        .map_or_else(unknown, |seconds| format!("{seconds:.0} s")),
                    text::grouped(report.counts.projected),
                    text::grouped(report.counts.dead),
                    text::grouped(report.counts.ignored),
                    text::grouped(report.counts.gap),
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
            "LIFE",
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
            "gap        {} {}..{} (life {}): {}",
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
