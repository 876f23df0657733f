//! The tables and columns that we write, and whether a file has them.

use rusqlite::Connection;

use super::StoreError;

/// A table and columns of it.
type Table = (&'static str, &'static [&'static str]);

/// The read model's tables, with the columns that are written (contract §6.4).
const READ_MODEL: &[Table] = &[
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
const LEDGERS: &[Table] = &[
    ("job_completions", &["job_id", "pc_id", "last_success_at"]),
    (
        "job_version_completions",
        &["job_id", "pc_id", "version", "last_success_at"],
    ),
];
/// Our own.
const BOOKS: &[Table] = &[
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

/// Every table of a fixed name that we fill: the read model and the books, what is known of the file itself apart.
pub(super) fn projected_tables() -> impl Iterator<Item = &'static str> {
    names(READ_MODEL.iter().chain(LEDGERS).chain(BOOKS))
}

/// Whether a table of a fixed name is one that we write.
pub(super) fn is_written(table: &str) -> bool {
    projected_tables().any(|name| name.eq_ignore_ascii_case(table))
}

/// Whether a table of a fixed name belongs to the read model.
pub(super) fn is_read_model(table: &str) -> bool {
    names(READ_MODEL.iter().chain(LEDGERS)).any(|name| name.eq_ignore_ascii_case(table))
}

fn names(tables: impl Iterator<Item = &'static Table>) -> impl Iterator<Item = &'static str> {
    tables.map(|(name, _)| *name)
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

fn check_tables(conn: &Connection, tables: &[Table], way_out: &str) -> Result<(), StoreError> {
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
