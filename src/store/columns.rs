//! The tables that are written, with their columns: what a file is asked for, and what is compared, carried over and emptied.
//! What writes each column of a result stands in [`rows`](super::rows).

use rusqlite::Connection;

use super::StoreError;

/// The columns of `execution_results`, the key first.
pub(super) const RESULT: &[&str] = &[
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
];

/// The read model's tables, with the columns that are written (contract §6.4).
const READ_MODEL: &[(&str, &[&str])] = &[
    ("execution_results", RESULT),
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::projection::spec::is_taken;
    use crate::store::{WRITTEN_TABLES, dump, migrate};

    #[test]
    fn every_table_and_column_of_the_read_model_is_named_here_and_each_table_wherever_tables_are_listed() {
        let mut conn = Connection::open_in_memory().unwrap();
        migrate::run(&mut conn, true).unwrap();
        let names = |sql: &str, of: &str| -> BTreeSet<String> {
            let mut select = conn.prepare(sql).unwrap();
            let rows = select.query_map([of], |row| row.get(0)).unwrap();
            rows.map(Result::unwrap).collect()
        };
        let made = names(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'projector\\_%' ESCAPE ?1
                 AND name NOT LIKE 'sqlite\\_%' ESCAPE ?1",
            "\\",
        );
        let listed: Vec<_> = READ_MODEL.iter().chain(LEDGERS).collect();
        let set =
            |names: &[&str]| -> BTreeSet<String> { names.iter().map(|&name| name.to_owned()).collect() };
        assert_eq!(
            listed
                .iter()
                .map(|(table, _)| (*table).to_owned())
                .collect::<BTreeSet<_>>(),
            made
        );
        for (table, columns) in listed {
            let there = names("SELECT name FROM pragma_table_info(?1)", table);
            match *table {
                // Rows and most cells are the backend's.
                "executions" => assert!(there.is_superset(&set(columns)), "{there:?}"),
                _ => assert_eq!(set(columns), there, "{table}"),
            }
        }
        assert_eq!(set(&dump::FIXED.map(|(table, _)| table)), made, "the dump");
        let mut counted = set(&WRITTEN_TABLES);
        assert!(counted.remove("exploded"));
        assert_eq!(counted, made, "the metric of rows that are written");
        for table in made {
            assert!(is_taken(&table), "a manifest may have {table} as its own");
        }
    }
}
