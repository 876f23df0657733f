//! What the books say, for people: read by `status`, through any connection that can read.

use rusqlite::Connection;
use serde::Serialize;

use super::derive::{PairCounts, issues, pair_counts};
use super::position::{self, Counts};
use super::{StoreError, dead_letters, output_book};
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
    let streams = position::read_all(conn, "main")?
        .into_iter()
        .map(|(stream, standing)| StreamReport {
            stream: stream.to_string(),
            incarnation: standing.incarnation,
            first: standing.first.0,
            position: standing.position.0,
            published_at: standing.mark.map(|mark| mark.published.stored()),
            counts: standing.counts,
        })
        .collect();
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
        adopted: super::kind::is_adopted(conn)?,
        first_pass: super::first_pass::until(conn)?.is_some(),
        issues: issues::list(conn, lines)?,
        issues_total: count("SELECT count(*) FROM projector_issues")?,
        pairs: pair_counts(conn)?,
        unsettled_executions: count("SELECT count(*) FROM projector_unsettled")?,
        retention: super::retention::kept(conn)?,
    })
}

fn oldest_pending(conn: &Connection) -> Result<Option<String>, StoreError> {
    conn.query_row(
        // The second condition lets SQLite take the partial index.
        "SELECT min(published_at) FROM projector_outputs WHERE state = 'pending' AND state <> 'fetched'",
        [],
        |row| row.get(0),
    )
    .map_err(StoreError::sqlite("look for the oldest pending output"))
}

/// The read model's tables, with the columns that are written (contract §6.4).
const READ_MODEL: &[(&str, &[&str])] = &[
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
    (
        "executions",
        &[
            "exec_id",
            "target_count",
            "success_count",
            "failure_count",
            "status",
        ],
    ),
    (
        "inventory_facts",
        &[
            "pc_id",
            "job_id",
            "facts_json",
            "display_json",
            "summary_json",
            "collected_at",
            "recorded_at",
        ],
    ),
    (
        "inventory_history",
        &[
            "id",
            "pc_id",
            "job_id",
            "field_path",
            "identity_json",
            "change_kind",
            "before_json",
            "after_json",
            "observed_at",
        ],
    ),
    (
        "check_status",
        &["pc_id", "check_name", "status", "detail", "recorded_at", "label"],
    ),
    (
        "feeds",
        &["feed_id", "item_id", "data", "fetched_at", "recorded_at"],
    ),
    (
        "feed_meta",
        &["feed_id", "recorded_at", "fetched_at", "item_count"],
    ),
];
/// Written by the triggers, or in their place. In the backend's file they may be absent: then it writes none either.
const LEDGERS: &[(&str, &[&str])] = &[
    ("job_completions", &["job_id", "pc_id", "last_success_at"]),
    (
        "job_version_completions",
        &["job_id", "pc_id", "version", "last_success_at"],
    ),
];
/// Our own.
const BOOKS: &[(&str, &[&str])] = &[
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
            "entry",
            "incarnation",
            "stream_seq",
            "published_ns",
            "result_id",
            "pc_id",
            "job_id",
            "counts",
            "evidence",
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
        &["result_id", "field", "entry", "object", "state", "next_try_wall"],
    ),
    (
        "projector_derivations",
        &["job_id", "pc_id", "hints_hash", "first_entry", "state"],
    ),
    ("projector_waiting", &["job_id", "pc_id", "entry"]),
    ("projector_issues", &["job_id", "pc_id", "part", "code", "reason"]),
    ("projector_unsettled", &["exec_id", "since_wall"]),
    ("projector_first_pass", &["result_id"]),
];

/// Whether a table of a fixed name is one that we write.
pub(super) fn is_written(table: &str) -> bool {
    let tables = READ_MODEL.iter().chain(LEDGERS).chain(BOOKS);
    tables
        .map(|(name, _)| name)
        .any(|name| name.eq_ignore_ascii_case(table))
}

/// Every table of a fixed name that we fill: the read model and the books, what is known of the file itself apart.
pub(super) fn projected_tables() -> impl Iterator<Item = &'static str> {
    READ_MODEL
        .iter()
        .chain(LEDGERS)
        .chain(BOOKS)
        .map(|(name, _)| *name)
}

/// Whether a table of a fixed name belongs to the read model.
pub(super) fn is_read_model(table: &str) -> bool {
    let tables = READ_MODEL.iter().chain(LEDGERS);
    tables
        .map(|(name, _)| name)
        .any(|name| name.eq_ignore_ascii_case(table))
}

/// Names the first table or column that is not as we left it.
pub(super) fn check_schema(conn: &Connection, adopted: bool) -> Result<(), StoreError> {
    super::migrate::check_not_newer(conn)?;
    check_read_model(conn, adopted)?;
    check_tables(
        conn,
        BOOKS,
        "put back a backup, or start with a new file: the stream fills it",
    )
}

/// Names the first table or column of the read model that is not there.
pub(super) fn check_read_model(conn: &Connection, adopted: bool) -> Result<(), StoreError> {
    let way_out = if adopted {
        "the backend's migrations make it: start a current backend on the file once, or put back a backup"
    } else {
        "somebody changed the schema: put back a backup, or start with a new file, which the stream fills"
    };
    check_tables(conn, READ_MODEL, way_out)?;
    if !adopted || has_ledgers(conn)? {
        check_tables(conn, LEDGERS, way_out)?;
    }
    Ok(())
}

/// Whether the file has the completion ledgers: the backend's may be too old for them.
pub(super) fn has_ledgers(conn: &Connection) -> Result<bool, StoreError> {
    conn.query_row(
        "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'job_completions')",
        [],
        |row| row.get(0),
    )
    .map_err(StoreError::sqlite("look at the tables"))
}

fn check_tables(conn: &Connection, tables: &[(&str, &[&str])], way_out: &str) -> Result<(), StoreError> {
    for (table, columns) in tables {
        let found = || -> Result<Vec<String>, rusqlite::Error> {
            conn.prepare("SELECT name FROM pragma_table_info(?1)")?
                .query_map([table], |row| row.get(0))?
                .collect()
        };
        let found = found().map_err(StoreError::sqlite(format_args!("read the columns of {table}")))?;
        for column in *columns {
            if !found.iter().any(|name| name == column) {
                return Err(StoreError::Unusable(format!(
                    "the database has no column {table}.{column}; {way_out}"
                )));
            }
        }
    }
    Ok(())
}
