//! What the books say, for people: read by `status`, through any connection that can read.

use rusqlite::{Connection, params};
use serde::Serialize;

use super::position::{self, Counts};
use super::{StoreError, dead_letters, output_book};
use crate::wire::kv::StreamName;
use crate::wire::output::State;

/// One stream in `status`.
#[derive(Clone, Debug, Serialize)]
pub struct StreamReport {
    /// Its name.
    pub stream: String,
    /// See [`position::Standing::incarnation`].
    pub incarnation: u64,
    /// See [`position::Standing::first`].
    pub first: u64,
    /// The last committed sequence.
    pub position: u64,
    /// Publish time of the message at the position.
    pub published_at: Option<String>,
    /// See [`Counts`].
    #[serde(flatten)]
    pub counts: Counts,
}

/// One recorded gap.
#[derive(Clone, Debug, Serialize)]
pub struct GapReport {
    /// The stream.
    pub stream: String,
    /// Its incarnation.
    pub incarnation: u64,
    /// First missing sequence.
    pub first_seq: u64,
    /// Last missing sequence.
    pub last_seq: u64,
    /// How it was found.
    pub reason: String,
}

/// What the database says about itself.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The database's own id.
    pub database_id: String,
    /// Streams that were ever read.
    pub streams: Vec<StreamReport>,
    /// Dead letters kept.
    pub dead_letters: u64,
    /// Those whose payload only the stream holds.
    pub dead_letters_without_payload: u64,
    /// Outputs by state, all but `fetched`.
    pub outputs: std::collections::BTreeMap<String, u64>,
    /// Gaps, the newest last.
    pub gaps: Vec<GapReport>,
}

/// Reads the whole report.
///
/// # Errors
/// SQLite's, or a position that cannot be read.
pub fn read(conn: &Connection) -> Result<Report, StoreError> {
    let mut streams = Vec::new();
    for stream in StreamName::ALL {
        if let Some(standing) = position::read(conn, stream)? {
            streams.push(StreamReport {
                stream: stream.to_string(),
                incarnation: standing.incarnation,
                first: standing.first.0,
                position: standing.position.0,
                published_at: standing.mark.map(|mark| mark.published.stored()),
                counts: standing.counts,
            });
        }
    }
    let (dead_letters, dead_letters_without_payload) = dead_letters::counts(conn)?;
    let outputs = output_book::missing_counts(conn)?
        .into_iter()
        .map(|(state, count)| (State::to_string(&state), count))
        .collect();
    let gaps = || -> Result<Vec<GapReport>, rusqlite::Error> {
        conn.prepare(
            "SELECT stream, incarnation, first_seq, last_seq, reason FROM projector_gaps
             ORDER BY stream, incarnation, first_seq",
        )?
        .query_map(params![], |row| {
            Ok(GapReport {
                stream: row.get(0)?,
                incarnation: row.get(1)?,
                first_seq: row.get(2)?,
                last_seq: row.get(3)?,
                reason: row.get(4)?,
            })
        })?
        .collect()
    };
    Ok(Report {
        database_id: super::migrate::meta(conn, "database_id")?.unwrap_or_default(),
        streams,
        dead_letters,
        dead_letters_without_payload,
        outputs,
        gaps: gaps().map_err(StoreError::sqlite("read projector_gaps"))?,
    })
}

/// Every table that this version writes, with the columns it writes.
const WRITTEN: [(&str, &[&str]); 8] = [
    (
        "execution_results",
        &[
            "result_id",
            "request_id",
            "exec_id",
            "pc_id",
            "exit_code",
            "stdout",
            "stderr",
            "started_at",
            "finished_at",
            "recorded_at",
            "job_id",
            "version",
            "reaped",
            "expires_at",
            "parent_result_id",
            "skipped",
        ],
    ),
    ("job_completions", &["job_id", "pc_id", "last_success_at"]),
    (
        "job_version_completions",
        &["job_id", "pc_id", "version", "last_success_at"],
    ),
    (
        "projector_position",
        &["stream", "incarnation", "first", "position", "past"],
    ),
    (
        "projector_gaps",
        &["stream", "incarnation", "first_seq", "last_seq", "reason"],
    ),
    (
        "projector_results",
        &[
            "incarnation",
            "stream_seq",
            "published_ns",
            "result_id",
            "pc_id",
            "job_id",
        ],
    ),
    (
        "projector_dead_letters",
        &[
            "stream",
            "incarnation",
            "stream_seq",
            "subject",
            "payload",
            "sha256",
            "state",
        ],
    ),
    (
        "projector_outputs",
        &["result_id", "field", "object", "state", "next_try_wall"],
    ),
];

/// Names the first table or column that is not as we left it.
pub(super) fn check_schema(conn: &Connection) -> Result<(), StoreError> {
    super::migrate::check_not_newer(conn)?;
    for (table, columns) in WRITTEN {
        let found = || -> Result<Vec<String>, rusqlite::Error> {
            conn.prepare("SELECT name FROM pragma_table_info(?1)")?
                .query_map([table], |row| row.get(0))?
                .collect()
        };
        let found = found().map_err(StoreError::sqlite(format!("read the columns of {table}")))?;
        for column in columns {
            if !found.iter().any(|name| name == column) {
                return Err(StoreError::Unusable(format!(
                    "the database has no column {table}.{column} any more: somebody changed the schema; put back a \
                     backup, or start with a new file: the stream fills it"
                )));
            }
        }
    }
    Ok(())
}
