//! What is known of the service and its database at one moment: `status`, `/status.json`, the page and the metrics all say
//! this, and nothing else.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::findings::{Finding, findings};
use crate::projection::manifests::Manifests;
use crate::service::now;
use crate::source::census::Census;
use crate::store::derive::{PairCounts, issues};
use crate::store::report::{GapReport, Report, StreamReport};
use crate::store::{disk_free_bytes, file_bytes, wal_path};
use crate::wire::time::Timestamp;

/// The version of every JSON document's shape.
pub const JSON_VERSION: u32 = 1;

/// What `status --json`, `/status.json`, the page and the gauges show.
#[derive(Clone, Debug, Serialize)]
pub struct Document {
    /// See [`JSON_VERSION`].
    pub schema_version: u32,
    /// This program's.
    pub version: &'static str,
    /// What is wrong, the worst first, and what to do about it.
    pub findings: Vec<Finding>,
    /// The running service itself; `null` in what a command says.
    pub service: Option<Service>,
    /// The file.
    pub database: Database,
    /// The server.
    pub server: Server,
    /// Streams that were ever read.
    pub streams: Vec<Stream>,
    /// Outputs by state, all but `fetched`.
    pub outputs: BTreeMap<String, u64>,
    /// Publish time of the oldest result with a pending output.
    pub oldest_pending_output: Option<String>,
    /// The object store of outputs, as far as it is known.
    pub output_store: Option<OutputStore>,
    /// Dead letters kept.
    pub dead_letters: u64,
    /// Those whose payload only the stream holds.
    pub dead_letters_without_payload: u64,
    /// Gaps, the newest last; the service tells of its newest ones.
    pub gaps: Vec<GapReport>,
    /// All of them.
    pub gaps_total: u64,
    /// Messages in them.
    pub gap_messages: u64,
    /// Derived tables, by pairs of a PC and a job.
    pub pairs: Pairs,
    /// Parts of good messages that could not be projected, and refused specs.
    pub issues: Vec<issues::Listed>,
    /// All of them.
    pub issues_total: u64,
    /// Executions whose row has not come yet.
    pub unsettled_executions: u64,
    /// By table: the time before which rows were deleted for their age (`retention.*`).
    pub retention: BTreeMap<&'static str, String>,
    /// The backend's own projector writes the same tables; `null` when it cannot be told, or does not matter.
    pub backend_is_projecting: Option<bool>,
    /// Why that cannot be told.
    pub backend_unknown: Option<String>,
}

/// What only the running service knows of itself.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Service {
    /// `opening`, `connecting`, `loading`, `running` or `stopping`.
    pub phase: &'static str,
    /// What of a load goes on.
    pub loading: Option<&'static str>,
    /// When the process started.
    pub started_at: String,
    /// Connected, reading, writing and not far behind.
    pub ready: bool,
    /// Why it is not.
    pub not_ready: Vec<String>,
    /// Those of them that no other finding tells.
    #[serde(skip)]
    pub told_here: Vec<String>,
    /// When a group was last committed.
    pub last_commit_at: Option<String>,
    /// How long SQLite took to make it durable.
    pub commit_seconds: f64,
    /// Groups committed since the start.
    pub groups: u64,
    /// Messages and chores committed since the start.
    pub items: u64,
    /// Of the last minute.
    pub items_per_second: f64,
    /// Since when a reader keeps the write-ahead log from being cut back.
    pub log_held_since: Option<String>,
    /// More than half of the last thousand messages became dead letters.
    pub mostly_dead: bool,
    /// Why nothing is written.
    pub not_writing: Option<String>,
    /// Bytes taken of each budget.
    pub in_flight_bytes: BTreeMap<&'static str, u64>,
}

/// Derived tables, by pairs of a PC and a job.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Pairs {
    /// With a result that waits for an output.
    pub waiting: u64,
    /// To be derived anew.
    pub due: u64,
    /// Derived under other hints than their manifest has now; `null` when the manifests cannot be read.
    pub older_hints: Option<u64>,
}

/// The file.
#[derive(Clone, Debug, Serialize)]
pub struct Database {
    /// Its path.
    pub path: String,
    /// Its own id.
    pub id: String,
    /// Its size.
    pub bytes: u64,
    /// Size of the write-ahead log.
    pub wal_bytes: u64,
    /// Free on its disk.
    pub disk_free_bytes: Option<u64>,
    /// The backend's own file.
    pub adopted: bool,
    /// The rows that the backend's projector wrote are still compared with their messages.
    pub first_pass: bool,
    /// Why it cannot be read; then what the books say is missing here.
    pub unreadable: Option<String>,
}

/// The server.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Server {
    /// `null`: it answered.
    pub unavailable: Option<String>,
    /// What its monitoring port says is wrong with it.
    pub unhealthy: Option<String>,
    /// Why the monitoring port says nothing, where one is configured.
    pub health_unknown: Option<String>,
}

/// The object store of outputs.
#[derive(Clone, Debug, Serialize)]
pub struct OutputStore {
    /// How long it keeps an output; `null`: for ever.
    pub max_age_seconds: Option<u64>,
    /// What it holds.
    pub bytes: u64,
    /// What it may hold; `null`: no limit.
    pub bytes_max: Option<u64>,
}

/// One stream.
#[derive(Clone, Debug, Serialize)]
pub struct Stream {
    /// What the database says.
    #[serde(flatten)]
    pub report: StreamReport,
    /// The stream's last sequence; `None` when the server did not say.
    pub last_seq: Option<u64>,
    /// Messages behind.
    pub lag_messages: Option<u64>,
    /// Age of the message at the position while there are newer ones; 0 when caught up.
    pub lag_seconds: Option<f64>,
    /// What the stream holds.
    pub bytes: Option<u64>,
    /// What it may hold; `null`: not known, or no limit.
    pub bytes_max: Option<u64>,
    /// Why the service is not reading it.
    pub not_reading: Option<String>,
}

/// What only the server knows.
#[derive(Debug, Default)]
pub struct Outside {
    /// Why it is not known.
    pub unavailable: Option<String>,
    /// See [`Server::unhealthy`].
    pub unhealthy: Option<String>,
    /// See [`Server::health_unknown`].
    pub health_unknown: Option<String>,
    /// By stream; none where it does not exist.
    pub streams: BTreeMap<String, StreamEnd>,
    /// The manifests, when they can be read.
    pub manifests: Option<std::sync::Arc<Manifests>>,
    /// The object store of outputs.
    pub output_store: Option<Census>,
    /// See [`Document::backend_is_projecting`].
    pub backend_is_projecting: Option<bool>,
    /// See [`Document::backend_unknown`].
    pub backend_unknown: Option<String>,
}

/// Where a stream ends, and how full it is.
#[derive(Clone, Debug, Default)]
pub struct StreamEnd {
    /// Its last sequence.
    pub last: u64,
    /// What it holds.
    pub bytes: u64,
    /// What it may hold; `None`: no limit.
    pub bytes_max: Option<u64>,
    /// Why the service is not reading it.
    pub not_reading: Option<String>,
    /// It was caught up until so long ago; `None`: not since anybody has looked.
    pub behind_for: Option<Duration>,
}

impl Document {
    /// Puts together what the database, the server and the service say.
    #[must_use]
    pub fn new(
        path: &Path,
        report: Result<Report, String>,
        outside: Outside,
        service: Option<Service>,
    ) -> Self {
        let (report, unreadable) = match report {
            Ok(report) => (report, None),
            Err(why) => (Report::default(), Some(why)),
        };
        let now = now();
        let streams = report
            .streams
            .into_iter()
            .map(|stream| {
                let end = outside.streams.get(&stream.stream).cloned();
                with_end(stream, end, now)
            })
            .collect();
        let mut document = Self {
            schema_version: JSON_VERSION,
            version: super::VERSION,
            findings: Vec::new(),
            service,
            database: Database {
                path: path.display().to_string(),
                id: report.database_id,
                bytes: file_bytes(path),
                wal_bytes: file_bytes(&wal_path(path)),
                disk_free_bytes: disk_free_bytes(path)
                    // Its folder has the disk that it will have.
                    .or_else(|| disk_free_bytes(path.parent()?)),
                adopted: report.adopted,
                first_pass: report.first_pass,
                unreadable,
            },
            server: Server {
                unavailable: outside.unavailable,
                unhealthy: outside.unhealthy,
                health_unknown: outside.health_unknown,
            },
            streams,
            outputs: report.outputs,
            oldest_pending_output: report.oldest_pending_output,
            output_store: outside.output_store.map(|store| OutputStore {
                max_age_seconds: store.max_age.map(|age| age.as_secs()),
                bytes: store.bytes,
                bytes_max: store.bytes_max,
            }),
            dead_letters: report.dead_letters,
            dead_letters_without_payload: report.dead_letters_without_payload,
            gaps: report.gaps,
            gaps_total: report.gaps_total,
            gap_messages: report.gap_messages,
            pairs: Pairs {
                waiting: report.pairs.waiting,
                due: report.pairs.due,
                older_hints: outside
                    .manifests
                    .map(|manifests| older_hints(&report.pairs, &manifests)),
            },
            issues: report.issues,
            issues_total: report.issues_total,
            unsettled_executions: report.unsettled_executions,
            retention: report.retention,
            backend_is_projecting: outside.backend_is_projecting,
            backend_unknown: outside.backend_unknown,
        };
        document.findings = findings(&document, now);
        document
    }
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

fn with_end(report: StreamReport, end: Option<StreamEnd>, now: Timestamp) -> Stream {
    let last_seq = end.as_ref().map(|end| end.last.max(report.position));
    let lag_messages = last_seq.map(|last| last.saturating_sub(report.position));
    let published = report
        .published_at
        .as_deref()
        .and_then(|text| Timestamp::parse_stored(text).ok());
    let lag_seconds = match (lag_messages, published) {
        (Some(0), _) => Some(0.0),
        (Some(_), Some(published)) => {
            let age = now.since(published).unwrap_or_default().as_secs_f64();
            // After a quiet hour the message at the position is an hour old, and nothing is late.
            let behind_for = end.as_ref().and_then(|end| end.behind_for);
            Some(behind_for.map_or(age, |most| age.min(most.as_secs_f64())))
        }
        _ => None,
    };
    Stream {
        report,
        last_seq,
        lag_messages,
        lag_seconds,
        bytes: end.as_ref().map(|end| end.bytes),
        bytes_max: end.as_ref().and_then(|end| end.bytes_max),
        not_reading: end.and_then(|end| end.not_reading),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Counts;

    #[test]
    fn after_a_quiet_hour_one_new_message_is_not_an_hour_late() {
        let now = now();
        let report = || StreamReport {
            stream: "RESULTS".to_owned(),
            incarnation: 1,
            first: 1,
            position: 9,
            published_at: Some(now.checked_add(chrono::TimeDelta::hours(-1)).unwrap().stored()),
            counts: Counts::default(),
        };
        let lag = |last, behind_for: Option<u64>| {
            let end = StreamEnd {
                last,
                behind_for: behind_for.map(Duration::from_secs),
                ..StreamEnd::default()
            };
            with_end(report(), Some(end), now).lag_seconds.unwrap().round()
        };
        assert_eq!(lag(9, None), 0.0, "caught up");
        assert_eq!(lag(10, Some(2)), 2.0, "it was caught up two seconds ago");
        assert_eq!(lag(10, None), 3_600.0, "nobody has seen it caught up");
        assert_eq!(
            lag(10, Some(7_200)),
            3_600.0,
            "a stream that flows is as late as its position"
        );
    }
}
