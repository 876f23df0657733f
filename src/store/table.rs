//! Tables as they are in a file, and which of them are exploded ones (contract §6.6).

use rusqlite::{Connection, OptionalExtension};

use super::StoreError;
use super::names::quoted;
use crate::projection::explode::free_rowid;
use crate::projection::spec::{BUILT_IN, is_taken};

/// The file of a connection; beside a database, the scratch.
pub(super) const MAIN: &str = "main";
/// The database beside a scratch.
pub(super) const OLD: &str = "old";

/// What a name in a schema stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TableKind {
    /// A table whose rows have ids.
    WithRowid,
    /// A table whose rows have none.
    WithoutRowid,
    /// No table of rows: a view, or a module's.
    Other,
}

/// A table as it is in one file.
#[derive(Clone, Debug)]
pub(super) struct Table {
    pub(super) schema: &'static str,
    pub(super) name: String,
    pub(super) kind: TableKind,
    pub(super) columns: Vec<Column>,
    /// A name of the row id; `None` also where columns have taken them all.
    pub(super) rowid: Option<&'static str>,
}

/// One of its columns.
#[derive(Clone, Debug)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) kind: String,
    /// Place in the key, 0 for none.
    pub(super) key: usize,
}

/// What a column makes of a number or a text that is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Affinity {
    /// A whole number is an integer, whatever it came as.
    Number,
    /// A number is a text.
    Text,
    /// Each stays what it is.
    Blob,
    /// A number is a real.
    Real,
}

impl Column {
    /// SQLite's rules, in their order.
    pub(super) fn affinity(&self) -> Affinity {
        let kind = self.kind.to_ascii_uppercase();
        let has = |words: &[&str]| words.iter().any(|word| kind.contains(word));
        if has(&["INT"]) {
            Affinity::Number
        } else if has(&["CHAR", "CLOB", "TEXT"]) {
            Affinity::Text
        } else if kind.is_empty() || has(&["BLOB"]) {
            Affinity::Blob
        } else if has(&["REAL", "FLOA", "DOUB"]) {
            Affinity::Real
        } else {
            Affinity::Number
        }
    }
}

fn has_built_in_columns(conn: &Connection, schema: &str, name: &str) -> Result<bool, rusqlite::Error> {
    conn.prepare_cached(
        "SELECT count(*) = 3 FROM pragma_table_info(?1, ?2) WHERE lower(name) IN (?3, ?4, ?5)",
    )?
    .query_row([name, schema, BUILT_IN[0], BUILT_IN[1], BUILT_IN[2]], |row| {
        row.get(0)
    })
}

impl Table {
    /// Looks a table up, in any letter case.
    pub(super) fn find(
        conn: &Connection,
        schema: &'static str,
        name: &str,
    ) -> Result<Option<Self>, StoreError> {
        let read = || -> Result<Option<Self>, rusqlite::Error> {
            let found: Option<(String, TableKind)> = conn
                .prepare_cached(
                    "SELECT name, type = 'table', wr FROM pragma_table_list
                     WHERE schema = ?1 AND name = ?2 COLLATE NOCASE",
                )?
                .query_row([schema, name], |row| {
                    let kind = match (row.get(1)?, row.get(2)?) {
                        (true, false) => TableKind::WithRowid,
                        (true, true) => TableKind::WithoutRowid,
                        (false, _) => TableKind::Other,
                    };
                    Ok((row.get(0)?, kind))
                })
                .optional()?;
            let Some((name, kind)) = found else {
                return Ok(None);
            };
            let columns: Vec<Column> = conn
                .prepare_cached("SELECT name, type, pk FROM pragma_table_info(?1, ?2) ORDER BY cid")?
                .query_map([&name, schema], |row| {
                    Ok(Column {
                        name: row.get(0)?,
                        kind: row.get(1)?,
                        key: row.get(2)?,
                    })
                })?
                .collect::<Result<_, _>>()?;
            let rowid = free_rowid(columns.iter().map(|column| column.name.as_str()));
            Ok(Some(Self {
                schema,
                name,
                kind,
                columns,
                rowid: rowid.filter(|_| kind == TableKind::WithRowid),
            }))
        };
        read().map_err(StoreError::sqlite(format_args!("look at the table {name:?}")))
    }

    /// The exploded tables of a file, by name: nobody else's, and with the three built-in columns. Views are among them.
    pub(super) fn exploded(conn: &Connection, schema: &'static str) -> Result<Vec<Self>, StoreError> {
        let read = || -> Result<Vec<(String, bool)>, rusqlite::Error> {
            conn.prepare(
                "SELECT name, type = 'view' FROM pragma_table_list WHERE schema = ?1 AND type IN ('table', 'view') ORDER BY name",
            )?
            .query_map([schema], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect()
        };
        let mut tables = Vec::new();
        for (name, is_view) in read().map_err(StoreError::sqlite("look for exploded tables"))? {
            if is_taken(&name) {
                continue;
            }
            let is_exploded = has_built_in_columns(conn, schema, &name);
            // A view may read what is not there, or ask for a function that only its owner's connections have: then it shows nobody
            // anything.
            if is_view && is_exploded.is_err() {
                continue;
            }
            if is_exploded.map_err(StoreError::sqlite("look for exploded tables"))? {
                tables.extend(Self::find(conn, schema, &name)?);
            }
        }
        Ok(tables)
    }

    /// Whether rows can be written to it.
    pub(super) fn is_table(&self) -> bool {
        self.kind != TableKind::Other
    }

    /// A column, in any letter case.
    pub(super) fn column(&self, name: &str) -> Option<&Column> {
        self.columns
            .iter()
            .find(|column| column.name.eq_ignore_ascii_case(name))
    }

    /// The key's columns in lower case, in their order.
    pub(super) fn key(&self) -> Vec<String> {
        let mut key: Vec<&Column> = self.columns.iter().filter(|column| column.key > 0).collect();
        key.sort_by_key(|column| column.key);
        key.into_iter()
            .map(|column| column.name.to_ascii_lowercase())
            .collect()
    }

    /// As SQL takes it.
    pub(super) fn sql(&self) -> String {
        format!("{}.{}", self.schema, quoted(&self.name))
    }

    pub(super) fn is_empty(&self, conn: &Connection) -> Result<bool, StoreError> {
        conn.query_row(
            &format!("SELECT NOT EXISTS (SELECT 1 FROM {})", self.sql()),
            [],
            |row| row.get(0),
        )
        .map_err(StoreError::sqlite(format_args!(
            "look at the table {:?}",
            self.name
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::super::migrate::in_memory;
    use super::*;

    #[test]
    fn a_view_that_cannot_be_read_hides_no_exploded_table() {
        let conn = in_memory(true).unwrap();
        conn.execute_batch(
            "CREATE TABLE apps (pc_id TEXT, job_id TEXT, collected_at TEXT, name TEXT);
             CREATE TABLE gone (pc_id TEXT, job_id TEXT, collected_at TEXT);
             CREATE VIEW of_gone AS SELECT * FROM gone;
             CREATE VIEW of_a_function AS SELECT pc_id, job_id, not_here(collected_at) AS collected_at FROM apps;
             CREATE VIEW names AS SELECT pc_id, job_id, collected_at, name FROM apps;
             DROP TABLE gone;",
        )
        .unwrap();
        let found = Table::exploded(&conn, MAIN).unwrap();
        let found: Vec<(&str, bool)> = found
            .iter()
            .map(|table| (table.name.as_str(), table.is_table()))
            .collect();
        assert_eq!(found, [("apps", true), ("names", false)]);
    }
}
