//! `status`: what the database says, and where the streams end, when the server answers.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::{CommandError, JSON_VERSION, text};
use crate::config::Config;
use crate::service::pipeline::STREAMS;
use crate::source::connect;
use crate::source::opening;
use crate::store::report::{self, GapReport, StreamReport};
use crate::store::{file_bytes, read_only, wal_path};
use crate::wire::time::Timestamp;

/// The server has so long to say where the streams end.
const ASK_LIMIT: Duration = Duration::from_secs(3);
/// Gaps that are shown without `--json`.
const GAPS_SHOWN: usize = 5;

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
}

#[derive(Serialize)]
struct Database {
    path: String,
    id: String,
    bytes: u64,
    wal_bytes: u64,
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
    let (ends, unavailable) = ask(config).await;
    let streams = report
        .streams
        .into_iter()
        .map(|stream| with_lag(stream, &ends))
        .collect::<Vec<_>>();
    let document = Document {
        schema_version: JSON_VERSION,
        database: Database {
            path: config.store.path.display().to_string(),
            id: report.database_id,
            bytes: file_bytes(&config.store.path),
            wal_bytes: file_bytes(&wal_path(&config.store.path)),
        },
        server: Server { unavailable },
        streams,
        outputs: report.outputs,
        dead_letters: report.dead_letters,
        dead_letters_without_payload: report.dead_letters_without_payload,
        gaps: report.gaps,
    };
    if as_json {
        serde_json::to_writer_pretty(&mut *out, &document)?;
        writeln!(out)?;
    } else {
        print(&document, out)?;
    }
    Ok(())
}

/// Where the streams end: `None` for one that does not exist.
async fn ask(config: &Config) -> (BTreeMap<String, Option<u64>>, Option<String>) {
    let asking = async {
        let connection = connect::once(&config.nats)
            .await
            .map_err(|error| error.to_string())?;
        let js = opening::context(connection.client, config.nats.js_domain.as_deref());
        let mut ends = BTreeMap::new();
        for stream in STREAMS {
            let end = opening::last_seq(&js, stream)
                .await
                .map_err(|error| error.to_string())?;
            ends.insert(stream.to_string(), end.map(|end| end.0));
        }
        Ok::<_, String>(ends)
    };
    match tokio::time::timeout(ASK_LIMIT, asking).await {
        Ok(Ok(ends)) => (ends, None),
        Ok(Err(why)) => (BTreeMap::new(), Some(why)),
        Err(_) => (
            BTreeMap::new(),
            Some(format!("no answer within {} s", ASK_LIMIT.as_secs())),
        ),
    }
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
            format!(", {without} of them only in the stream")
        } else {
            String::new()
        }
    )?;
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
