//! The canonical dump (contract §6.9): the read model as text, by which two databases are compared.
//!
//! A line a table, `{"table":…,"columns":[…]}`, then a line a row: an array of the columns' values. An integer is a
//! number without a point, a real one with a point or an exponent, a text a JSON text. What JSON cannot hold is an
//! object: `{"real":"inf"}`, `{"text":"<hex>"}` for a text that is not UTF-8, `{"blob":"<hex>"}`. No rowids, no history
//! ids, no books.

use std::fmt::Write as _;
use std::io::Write;

use rusqlite::Connection;
use rusqlite::types::ValueRef;
use serde::Serialize;
use thiserror::Error;

use super::StoreError;
use super::names::{listed, quoted};
use super::table::{MAIN, Table};
use crate::wire::hex::hex;
use crate::wire::inert::{inert_json, json_escape, steers};

/// The tables of contract §6.4, and the order of their rows.
pub(super) const FIXED: [(&str, &str); 9] = [
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

/// Why there is no dump, or half of one.
#[derive(Debug, Error)]
pub enum DumpError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Where it is written to.
    #[error(transparent)]
    Output(#[from] std::io::Error),
    /// A table that is not dumped.
    #[error("no table {table:?} in the canonical dump; it has {there}")]
    NoTable {
        /// The name that was given.
        table: String,
        /// Those that there are.
        there: String,
    },
}

/// A table with its columns by name and the order of its rows.
struct Dumped {
    name: String,
    columns: Vec<String>,
    order: String,
}

#[derive(Serialize)]
struct Head<'a> {
    table: &'a str,
    columns: &'a [String],
}

/// Writes the dump of all tables, or of those named. Rows are read and written one by one, under one snapshot.
///
/// # Errors
/// See [`DumpError`].
pub fn write(conn: &Connection, only: &[String], out: &mut dyn Write) -> Result<(), DumpError> {
    conn.execute_batch("BEGIN")
        .map_err(StoreError::sqlite("begin to read"))?;
    let mut tables = tables(conn)?;
    if let Some(table) = only
        .iter()
        .find(|name| !tables.iter().any(|table| table.name.eq_ignore_ascii_case(name)))
    {
        let there: Vec<&str> = tables.iter().map(|table| table.name.as_str()).collect();
        return Err(DumpError::NoTable {
            table: table.clone(),
            there: there.join(", "),
        });
    }
    tables.retain(|table| only.is_empty() || only.iter().any(|name| table.name.eq_ignore_ascii_case(name)));
    let mut line = String::new();
    for table in &tables {
        let head = Head {
            table: &table.name,
            columns: &table.columns,
        };
        let head = serde_json::to_string(&head).map_err(std::io::Error::from)?;
        writeln!(out, "{}", inert_json(&head))?;
        let what = || format!("dump {}", table.name);
        let mut select = conn
            .prepare(&format!(
                "SELECT {} FROM {} ORDER BY {}",
                listed(table.columns.iter().map(String::as_str), ""),
                quoted(&table.name),
                table.order
            ))
            .map_err(StoreError::sqlite(what()))?;
        let mut rows = select.query([]).map_err(StoreError::sqlite(what()))?;
        while let Some(row) = rows.next().map_err(StoreError::sqlite(what()))? {
            line.clear();
            for index in 0..table.columns.len() {
                line.push(if index == 0 { '[' } else { ',' });
                cell(&mut line, row.get_ref(index).map_err(StoreError::sqlite(what()))?);
            }
            line.push_str("]\n");
            out.write_all(line.as_bytes())?;
            // One output of many megabytes is no reason to hold as much for all that follow.
            line.shrink_to(1 << 20);
        }
    }
    conn.execute_batch("COMMIT")
        .map_err(StoreError::sqlite("end reading"))?;
    Ok(())
}

/// Those of the contract that are there (a backend's file may lack the ledgers), then the exploded ones by name.
fn tables(conn: &Connection) -> Result<Vec<Dumped>, StoreError> {
    let mut tables = Vec::new();
    for (name, order) in FIXED {
        if let Some(mut table) = Table::find(conn, MAIN, name)?.filter(Table::is_table) {
            table
                .columns
                .retain(|column| name != "inventory_history" || column.name != "id");
            tables.push(dumped(name, &table, order.to_owned()));
        }
    }
    for table in Table::exploded(conn, MAIN)?
        .iter()
        .filter(|table| table.is_table())
    {
        let mut order: Vec<String> = table.key().iter().map(|column| quoted(column)).collect();
        order.extend(table.rowid.map(str::to_owned));
        tables.push(dumped(&table.name, table, order.join(", ")));
    }
    Ok(tables)
}

fn dumped(name: &str, table: &Table, order: String) -> Dumped {
    let mut columns: Vec<String> = table.columns.iter().map(|column| column.name.clone()).collect();
    columns.sort();
    Dumped {
        name: name.to_owned(),
        columns,
        order,
    }
}

// Writing into a String cannot fail.
fn cell(line: &mut String, value: ValueRef<'_>) {
    let _written = match value {
        ValueRef::Null => write!(line, "null"),
        ValueRef::Integer(number) => write!(line, "{number}"),
        ValueRef::Real(number) if number.is_finite() => write!(line, "{number:?}"),
        ValueRef::Real(number) => write!(line, "{{\"real\":\"{number}\"}}"),
        ValueRef::Text(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => {
                json_text(line, text);
                Ok(())
            }
            Err(_) => write!(line, "{{\"text\":\"{}\"}}", hex(bytes)),
        },
        ValueRef::Blob(bytes) => write!(line, "{{\"blob\":\"{}\"}}", hex(bytes)),
    };
}

/// Everything that a terminal obeys is escaped: texts are from outside, and people look at dumps.
fn json_text(line: &mut String, text: &str) {
    line.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                line.push('\\');
                line.push(c);
            }
            '\n' => line.push_str("\\n"),
            _ if steers(c) => json_escape(line, c),
            _ => line.push(c),
        }
    }
    line.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::migrate;

    fn dump(conn: &Connection, only: &[&str]) -> String {
        let only: Vec<String> = only.iter().map(|&name| name.to_owned()).collect();
        let mut out = Vec::new();
        write(conn, &only, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn values_of_every_kind_stay_apart_and_rows_come_in_the_order_of_their_key() {
        let conn = migrate::in_memory(true).unwrap();
        conn.execute_batch(
            "CREATE TABLE disks (pc_id TEXT NOT NULL, job_id TEXT NOT NULL, collected_at TIMESTAMP, rowid, size,
                 PRIMARY KEY (pc_id, job_id, rowid));
             INSERT INTO disks VALUES ('b', 'j', NULL, 'k', 1), ('b', 'j', NULL, NULL, 1.0), ('b', 'j', NULL, NULL, '1'),
                 ('a', 'j', NULL, 'k', x'00ff'), ('a', 'j', NULL, 'l', CAST(x'61ff' AS TEXT)), ('a', 'j', NULL, 'm', 9e999),
                 ('a', 'j', NULL, 'n', 'say \"\\é' || char(10) || char(27) || char(8238));
             CREATE TABLE notes (pc_id TEXT, job_id TEXT);
             INSERT INTO inventory_history (pc_id, job_id, field_path, change_kind, observed_at)
                 VALUES ('b', 'j', 'later', 'added', 't2'), ('b', 'j', 'x', 'added', 't1'), ('b', 'j', 'w', 'added', 't1');",
        )
        .unwrap();
        insta::assert_snapshot!(dump(&conn, &["DISKS", "inventory_history"]), @r#"
        {"table":"inventory_history","columns":["after_json","before_json","change_kind","field_path","identity_json","job_id","observed_at","pc_id"]}
        [null,null,"added","x",null,"j","t1","b"]
        [null,null,"added","w",null,"j","t1","b"]
        [null,null,"added","later",null,"j","t2","b"]
        {"table":"disks","columns":["collected_at","job_id","pc_id","rowid","size"]}
        [null,"j","a","k",{"blob":"00ff"}]
        [null,"j","a","l",{"text":"61ff"}]
        [null,"j","a","m",{"real":"inf"}]
        [null,"j","a","n","say \"\\é\n\u001b\u202e"]
        [null,"j","b",null,1.0]
        [null,"j","b",null,"1"]
        [null,"j","b","k",1]
        "#);
        let whole = dump(&conn, &[]);
        assert_eq!(
            whole.lines().filter(|line| line.starts_with('{')).count(),
            FIXED.len() + 1
        );
        assert!(!whole.contains("projector_") && !whole.contains("notes"));
        for line in whole.lines() {
            serde_json::from_str::<serde_json::Value>(line).unwrap();
        }
    }

    #[test]
    fn a_table_that_is_not_dumped_is_refused_with_those_that_are() {
        let conn = migrate::in_memory(true).unwrap();
        let refused = write(&conn, &["projector_position".to_owned()], &mut Vec::new()).unwrap_err();
        assert!(
            refused.to_string().contains("execution_results, executions"),
            "{refused}"
        );
    }
}
