//! What is in a database, and whether two hold the same.

use std::path::Path;
use std::time::Duration;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};

/// The read model's tables and the order of their rows (contract §6.4, §6.9).
const TABLES: [(&str, &str); 9] = [
    ("execution_results", "result_id"),
    ("executions", "exec_id"),
    ("inventory_facts", "pc_id, job_id"),
    ("inventory_history", "pc_id, job_id, observed_at, id"),
    ("check_status", "pc_id, check_name"),
    ("feeds", "feed_id, item_id"),
    ("feed_meta", "feed_id"),
    ("job_completions", "job_id, pc_id"),
    ("job_version_completions", "job_id, version, pc_id"),
];

/// The exploded tables and the order of their rows: by key, then as they were written.
fn exploded(conn: &Connection) -> Vec<(String, String)> {
    let names: Vec<String> = texts(
        conn,
        "SELECT name FROM sqlite_schema
         WHERE type = 'table' AND name NOT LIKE 'projector\\_%' ESCAPE '\\' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'
         ORDER BY name",
        "",
    );
    names
        .into_iter()
        .filter(|name| !TABLES.iter().any(|(table, _)| table == name))
        .map(|name| {
            let key = texts(
                conn,
                "SELECT '\"' || name || '\"' FROM pragma_table_info(?1) WHERE pk > 0 ORDER BY pk",
                &name,
            );
            (name, format!("{}, rowid", key.join(", ")))
        })
        .collect()
}

fn texts(conn: &Connection, sql: &str, of: &str) -> Vec<String> {
    let mut select = conn.prepare(sql).unwrap();
    let parameters = if select.parameter_count() == 0 {
        vec![]
    } else {
        vec![of]
    };
    select
        .query_map(rusqlite::params_from_iter(parameters), |row| row.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect()
}

pub fn open(db: &Path) -> Connection {
    let opened = |flags| {
        let conn = Connection::open_with_flags(db, flags).unwrap();
        conn.busy_timeout(Duration::from_secs(30)).unwrap();
        conn
    };
    let conn = opened(OpenFlags::SQLITE_OPEN_READ_ONLY);
    let first = conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| {
        row.get::<_, i64>(0)
    });
    match first.map_err(|error| error.sqlite_error().map(|error| error.extended_code)) {
        // What a killed process has left half done is undone first, by whoever may write.
        Err(Some(rusqlite::ffi::SQLITE_READONLY_ROLLBACK)) => opened(OpenFlags::SQLITE_OPEN_READ_WRITE),
        _ => conn,
    }
}

/// The canonical dump (contract §6.9), a line a row.
pub fn dump(db: &Path) -> Vec<String> {
    let conn = open(db);
    let mut lines = Vec::new();
    let fixed = TABLES.map(|(table, order)| (table.to_owned(), order.to_owned()));
    for (table, order) in fixed.into_iter().chain(exploded(&conn)) {
        let mut columns = texts(&conn, "SELECT name FROM pragma_table_info(?1)", &table);
        if columns.is_empty() {
            // A backend may not have the ledgers yet.
            continue;
        }
        columns.retain(|column| table != "inventory_history" || column != "id");
        columns.sort();
        let list = columns
            .iter()
            .map(|column| format!("\"{column}\""))
            .collect::<Vec<_>>()
            .join(", ");
        let mut statement = conn
            .prepare(&format!("SELECT {list} FROM \"{table}\" ORDER BY {order}"))
            .unwrap();
        let mut rows = statement.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            let cells: Vec<String> = (0..columns.len())
                .map(|index| match row.get_ref(index).unwrap() {
                    ValueRef::Null => format!("{}=NULL", columns[index]),
                    ValueRef::Integer(number) => format!("{}={number}", columns[index]),
                    ValueRef::Real(number) => format!("{}={number:?}", columns[index]),
                    ValueRef::Text(text) => format!("{}={:?}", columns[index], String::from_utf8_lossy(text)),
                    ValueRef::Blob(blob) => format!("{}={blob:?}", columns[index]),
                })
                .collect();
            lines.push(format!("{table}: {}", cells.join(" ")));
        }
    }
    lines
}

/// Two databases hold the same read model; else the first differing rows are shown.
pub fn assert_same(one: &Path, other: &Path) {
    let (left, right) = (dump(one), dump(other));
    if left == right {
        return;
    }
    let clip = |line: Option<&String>| line.map_or("-".to_owned(), |line| line.chars().take(400).collect());
    let only = |lines: &[String], others: &[String]| -> Vec<String> {
        let others: std::collections::HashSet<&String> = others.iter().collect();
        lines
            .iter()
            .filter(|line| !others.contains(line))
            .take(3)
            .map(|line| clip(Some(line)))
            .collect()
    };
    panic!(
        "the databases differ: {} and {} rows\nonly in the first: {:#?}\nonly in the second: {:#?}",
        left.len(),
        right.len(),
        only(&left, &right),
        only(&right, &left)
    );
}

/// I3: every sequence up to the position is accounted for, in every incarnation, each gap is told, and no message was
/// entered twice (I1).
pub fn check_i3(db: &Path) {
    let conn = open(db);
    let mut statement = conn
        .prepare("SELECT stream, incarnation, first, position, projected, dead, ignored, gap FROM projector_position")
        .unwrap();
    let mut rows = statement.query([]).unwrap();
    while let Some(row) = rows.next().unwrap() {
        let number = |index: usize| row.get::<_, i64>(index).unwrap();
        let stream: String = row.get(0).unwrap();
        assert_eq!(
            number(4) + number(5) + number(6) + number(7),
            number(3) - number(2) + 1,
            "{stream} incarnation {}",
            number(1)
        );
        let told: i64 = conn
            .query_row(
                "SELECT coalesce(sum(last_seq - first_seq + 1), 0) FROM projector_gaps
                 WHERE stream = ?1 AND incarnation = ?2",
                rusqlite::params![stream, number(1)],
                |row| row.get(0),
            )
            .unwrap();
        assert_eq!(told, number(7), "gaps of {stream} incarnation {}", number(1));
    }
    let twice: i64 = conn
        .query_row(
            "SELECT count(*) - count(DISTINCT incarnation || ' ' || stream_seq) FROM projector_results",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(twice, 0, "messages that were entered twice");
}

/// One number.
pub fn one(db: &Path, sql: &str) -> i64 {
    open(db).query_row(sql, [], |row| row.get(0)).unwrap()
}

/// One text.
pub fn text(db: &Path, sql: &str) -> String {
    open(db).query_row(sql, [], |row| row.get(0)).unwrap()
}

/// The committed position of RESULTS; 0 while there is none.
pub fn position(db: &Path) -> u64 {
    position_of(db, "RESULTS").unwrap_or(0)
}

/// The committed position of a stream, unless there is none or it cannot be read.
pub fn position_of(db: &Path, stream: &str) -> Option<u64> {
    let conn = Connection::open_with_flags(db, OpenFlags::SQLITE_OPEN_READ_ONLY).ok()?;
    conn.busy_timeout(Duration::from_secs(5)).ok()?;
    conn.query_row(
        "SELECT position FROM projector_position WHERE stream = ?1 ORDER BY incarnation DESC LIMIT 1",
        [stream],
        |row| row.get(0),
    )
    .ok()
}
