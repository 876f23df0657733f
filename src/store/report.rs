//! What the books say, for people: read by `status`, through any connection that can read.

use rusqlite::Connection;
use serde::Serialize;

use super::derive::{PairCounts, issues, pair_counts};
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
#[derive(Clone, Debug, Default, Serialize)]
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
    /// Publish time of the oldest result with a pending output.
    pub oldest_pending_output: Option<String>,
    /// Gaps, the newest last.
    pub gaps: Vec<GapReport>,
    /// All of them.
    pub gaps_total: u64,
    /// Messages in them.
    pub gap_messages: u64,
    /// Whether the file is the backend's own.
    pub adopted: bool,
    /// Whether the first pass over the backend's rows is still going on.
    pub first_pass: bool,
    /// Parts of good messages that could not be projected, and refused specs.
    pub issues: Vec<issues::Listed>,
    /// All of them.
    pub issues_total: u64,
    /// Pairs that wait, and under which hints all of them stand.
    #[serde(skip)]
    pub pairs: PairCounts,
    /// Executions whose row has not come yet.
    pub unsettled_executions: u64,
    /// By table: the time before which rows were deleted for their age.
    pub retention: std::collections::BTreeMap<&'static str, String>,
}

/// Reads the whole report.
///
/// # Errors
/// SQLite's, or a position that cannot be read.
pub fn read(conn: &Connection) -> Result<Report, StoreError> {
    read_within(conn, -1)
}

/// Reads the report with so many issues, and of the newest gaps, at most (-1: all); their numbers are whole.
///
/// # Errors
/// See [`read`].
pub fn read_within(conn: &Connection, lines: i64) -> Result<Report, StoreError> {
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
            "SELECT stream, incarnation, first_seq, last_seq, reason FROM
                 (SELECT * FROM projector_gaps ORDER BY incarnation DESC, first_seq DESC LIMIT ?1)
             ORDER BY stream, incarnation, first_seq",
        )?
        .query_map([lines], |row| {
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
    let count = |sql: &str| -> Result<u64, StoreError> {
        conn.query_row(sql, [], |row| row.get(0))
            .map_err(StoreError::sqlite("count the books"))
    };
    Ok(Report {
        gaps_total: count("SELECT count(*) FROM projector_gaps")?,
        gap_messages: count("SELECT coalesce(sum(last_seq - first_seq + 1), 0) FROM projector_gaps")?,
        database_id: super::migrate::meta(conn, "database_id")?.unwrap_or_default(),
        streams,
        dead_letters,
        dead_letters_without_payload,
        outputs,
        oldest_pending_output: oldest_pending(conn)?,
        gaps: gaps().map_err(StoreError::sqlite("read projector_gaps"))?,
        adopted: super::open::is_adopted(conn)?,
        first_pass: super::adoption::first_pass(conn)?.is_some(),
        issues: issues::list(conn, lines)?,
        issues_total: count("SELECT count(*) FROM projector_issues")?,
        pairs: pair_counts(conn)?,
        unsettled_executions: count("SELECT count(*) FROM projector_unsettled")?,
        retention: super::retention::kept(conn)?,
    })
}

fn oldest_pending(conn: &Connection) -> Result<Option<String>, StoreError> {
    conn.query_row(
        "SELECT min(published_at) FROM projector_outputs WHERE state = 'pending' AND state <> 'fetched'",
        [],
        |row| row.get(0),
    )
    .map_err(StoreError::sqlite("look for the oldest pending output"))
}
