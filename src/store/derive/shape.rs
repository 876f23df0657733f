//! Exploded tables as their specs want them (contract §6.6, §7.5.2, §7.5.3): created, widened, rebuilt, or refused.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{Connection, OptionalExtension};

use super::super::names::quoted;
use super::super::{Class, StoreError};
use crate::projection::explode::{Column, ExplodeSpec, free_rowid};
use crate::projection::spec::{BUILT_IN, index_name};

/// SQLite's own limit on the columns of a table.
const COLUMNS_MAX: usize = 2_000;

/// The tables that were found, or brought, to their specs' shapes, and the statements that go with them. Forgotten when
/// the schema changes, and whenever a transaction or a savepoint is undone: its changes of the schema are gone with it.
#[derive(Debug, Default)]
pub(in super::super) struct Shapes {
    ready: BTreeMap<String, Vec<(ExplodeSpec, Shape)>>,
    schema_version: i64,
}

/// What became of a table.
#[derive(Clone, Debug)]
pub(super) enum Shape {
    /// As its spec wants it.
    Ready(Statements),
    /// Not to be touched: why (D8).
    Refused(String),
}

/// What is done to one exploded table.
#[derive(Clone, Debug)]
pub(super) struct Statements {
    /// Row id and declared columns of a pair's rows. In no order: for one, SQLite would prepare the statement again for
    /// each pair, and sort more slowly than we do.
    pub(super) select: String,
    /// All columns of one row but the key's; `None` when there are no others.
    pub(super) update: Option<String>,
    /// One row.
    pub(super) remove: String,
    /// All rows of a pair.
    pub(super) delete: String,
    pub(super) insert: String,
    /// Nothing but `collected_at` of a pair's rows.
    pub(super) touch: String,
    /// The same, of rows that stand side by side.
    pub(super) touch_range: String,
}

impl Statements {
    fn probe(&self, conn: &Connection) -> Result<(), rusqlite::Error> {
        [
            &self.select,
            &self.remove,
            &self.delete,
            &self.insert,
            &self.touch,
            &self.touch_range,
        ]
        .into_iter()
        .chain(&self.update)
        .try_for_each(|sql| conn.prepare(sql).map(drop))
    }
}

impl Shapes {
    /// Forgets what is known.
    pub(in super::super) fn clear(&mut self) {
        self.ready.clear();
    }

    /// Brings a table to its spec's shape, unless that is known already.
    pub(super) fn of(&mut self, conn: &Connection, spec: &ExplodeSpec) -> Result<&Shape, StoreError> {
        let version = schema_version(conn)?;
        if version != self.schema_version {
            self.ready.clear();
            self.schema_version = version;
        }
        let name = spec.table.to_ascii_lowercase();
        let place = |ready: &[(ExplodeSpec, Shape)]| ready.iter().position(|(known, _)| known == spec);
        // Several jobs may share a table: each brings a spec of its own.
        if place(self.ready.get(&name).map_or(&[], Vec::as_slice)).is_none() {
            let shape = ensure(conn, spec)?;
            let version = schema_version(conn)?;
            if version != self.schema_version {
                self.ready.clear();
                self.schema_version = version;
            }
            self.ready
                .entry(name.clone())
                .or_default()
                .push((spec.clone(), shape));
        }
        self.ready
            .get(&name)
            .and_then(|ready| ready.get(place(ready)?))
            .map(|(_, shape)| shape)
            .ok_or_else(|| StoreError::Value(format!("no table {name}")))
    }
}

fn schema_version(conn: &Connection) -> Result<i64, StoreError> {
    conn.prepare_cached("PRAGMA schema_version")
        .and_then(|mut statement| statement.query_row([], |row| row.get(0)))
        .map_err(StoreError::sqlite("read the schema's version"))
}

fn statements(spec: &ExplodeSpec) -> Statements {
    let table = quoted(&spec.table);
    let columns: Vec<String> = spec.columns.iter().map(|column| quoted(&column.name)).collect();
    let list = columns.join(", ");
    let values: Vec<String> = (0..BUILT_IN.len() + columns.len())
        .map(|index| format!("?{}", index + 1))
        .collect();
    let pair = "WHERE pc_id = ?1 AND job_id = ?2";
    let rowid = spec.rowid();
    let others: Vec<String> = spec
        .others()
        .zip(2..)
        .filter_map(|(at, number)| Some(format!("{} = ?{number}", columns.get(at)?)))
        .collect();
    Statements {
        select: format!("SELECT {rowid}, {list} FROM {table} {pair}"),
        update: (!others.is_empty())
            .then(|| format!("UPDATE {table} SET {} WHERE {rowid} = ?1", others.join(", "))),
        remove: format!("DELETE FROM {table} WHERE {rowid} = ?1"),
        delete: format!("DELETE FROM {table} {pair}"),
        insert: format!(
            "INSERT INTO {table} (pc_id, job_id, collected_at, {list}) VALUES ({})",
            values.join(", ")
        ),
        touch: format!("UPDATE {table} SET collected_at = ?3 {pair}"),
        touch_range: format!("UPDATE {table} SET collected_at = ?1 WHERE {rowid} BETWEEN ?2 AND ?3"),
    }
}

/// Runs in a savepoint of its own: whatever SQLite has against a spec from outside is the spec's fault, not ours.
fn ensure(conn: &Connection, spec: &ExplodeSpec) -> Result<Shape, StoreError> {
    let what = || format!("bring the table {:?} to its shape", spec.table);
    let run = |sql: &str| conn.execute_batch(sql).map_err(StoreError::sqlite(what()));
    run("SAVEPOINT shape")?;
    let statements = statements(spec);
    let brought = bring(conn, spec).and_then(|refusal| match refusal {
        Some(reason) => Ok(Some(reason)),
        // Somebody may have made the table without a row id, or hung a trigger on it that is broken.
        None => statements.probe(conn).map(|()| None),
    });
    let refusal = match brought {
        Ok(refusal) => refusal,
        Err(error) => {
            let error = StoreError::Sqlite {
                what: what(),
                source: error,
            };
            let is_specs_fault = matches!(error.class(), Class::Schema | Class::Data);
            if conn.is_autocommit() || !is_specs_fault {
                return Err(error);
            }
            Some(error.to_string())
        }
    };
    match refusal {
        None => {
            run("RELEASE shape")?;
            Ok(Shape::Ready(statements))
        }
        Some(reason) => {
            run("ROLLBACK TO shape; RELEASE shape")?;
            Ok(Shape::Refused(reason))
        }
    }
}

/// A column as it is in the file.
struct Found {
    kind: String,
    /// Place in the key, 0 for none.
    key: i64,
}

/// Returns why the table may not be touched; `None` when it has its shape.
fn bring(conn: &Connection, spec: &ExplodeSpec) -> Result<Option<String>, rusqlite::Error> {
    if BUILT_IN.len() + spec.columns.len() > COLUMNS_MAX {
        return Ok(Some(format!(
            "{} columns, SQLite takes {COLUMNS_MAX}",
            BUILT_IN.len() + spec.columns.len()
        )));
    }
    let existing: Option<(String, String)> = conn
        .query_row(
            // Triggers have names of their own.
            "SELECT type, name FROM sqlite_schema WHERE name = ?1 COLLATE NOCASE AND type <> 'trigger'",
            [&spec.table],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .optional()?;
    let Some((kind, table)) = existing else {
        create(conn, &spec.table, spec)?;
        return index(conn, spec).map(|()| None);
    };
    if kind != "table" {
        return Ok(Some(format!("{table:?} is a {kind} of somebody else's")));
    }
    let found = columns(conn, &table)?;
    if let Some(missing) = BUILT_IN.iter().find(|name| !found.contains_key(**name)) {
        return Ok(Some(format!(
            "the table {table:?} is somebody else's: it has no column {missing}"
        )));
    }
    let same_key = {
        let wanted: BTreeSet<String> = ["pc_id", "job_id"]
            .into_iter()
            .map(str::to_owned)
            .chain(
                spec.key
                    .iter()
                    .filter_map(|at| Some(spec.columns.get(*at)?.name.to_ascii_lowercase())),
            )
            .collect();
        let there: BTreeSet<String> = found
            .iter()
            .filter(|(_, found)| found.key > 0)
            .map(|(name, _)| name.clone())
            .collect();
        wanted == there
    };
    let missing: Vec<&Column> = spec
        .columns
        .iter()
        .filter(|column| !found.contains_key(&column.name.to_ascii_lowercase()))
        .collect();
    let fits = spec.columns.iter().all(|column| {
        found
            .get(&column.name.to_ascii_lowercase())
            .is_none_or(|found| found.kind.eq_ignore_ascii_case(column.kind.as_sql()))
    });
    let no_more = found.len() + missing.len() == BUILT_IN.len() + spec.columns.len();
    if same_key && fits && no_more {
        for column in missing {
            conn.execute_batch(&format!(
                "ALTER TABLE {} ADD COLUMN {} {}",
                quoted(&table),
                quoted(&column.name),
                column.kind.as_sql()
            ))?;
        }
    } else {
        rebuild(conn, &table, spec, &found)?;
    }
    index(conn, spec).map(|()| None)
}

/// Columns by lower-case name.
fn columns(conn: &Connection, table: &str) -> Result<BTreeMap<String, Found>, rusqlite::Error> {
    conn.prepare("SELECT lower(name), type, pk FROM pragma_table_info(?1)")?
        .query_map([table], |row| {
            Ok((
                row.get(0)?,
                Found {
                    kind: row.get(1)?,
                    key: row.get(2)?,
                },
            ))
        })?
        .collect()
}

fn create(conn: &Connection, name: &str, spec: &ExplodeSpec) -> Result<(), rusqlite::Error> {
    let columns: String = spec
        .columns
        .iter()
        .map(|column| format!(", {} {}", quoted(&column.name), column.kind.as_sql()))
        .collect();
    let key: String = spec
        .key
        .iter()
        .filter_map(|at| spec.columns.get(*at))
        .map(|column| format!(", {}", quoted(&column.name)))
        .collect();
    conn.execute_batch(&format!(
        "CREATE TABLE {} (pc_id TEXT NOT NULL, job_id TEXT NOT NULL, collected_at TIMESTAMP{columns}, \
         PRIMARY KEY (pc_id, job_id{key}))",
        quoted(name)
    ))
}

/// A new table, the rows copied over the common columns; of those that collide under the new key the first stays.
fn rebuild(
    conn: &Connection,
    table: &str,
    spec: &ExplodeSpec,
    found: &BTreeMap<String, Found>,
) -> Result<(), rusqlite::Error> {
    let aside = format!("_explode_migrate_{}", spec.table);
    conn.execute_batch(&format!("DROP TABLE IF EXISTS {}", quoted(&aside)))?;
    create(conn, &aside, spec)?;
    let common: String = BUILT_IN
        .into_iter()
        .chain(
            spec.columns
                .iter()
                .map(|column| column.name.as_str())
                .filter(|name| found.contains_key(&name.to_ascii_lowercase())),
        )
        .map(quoted)
        .collect::<Vec<_>>()
        .join(", ");
    let (aside, from) = (quoted(&aside), quoted(table));
    let rowid = free_rowid(found.keys().map(String::as_str)).unwrap_or("rowid");
    conn.execute_batch(&format!(
        "INSERT OR IGNORE INTO {aside} ({common}) SELECT {common} FROM {from} ORDER BY {rowid};
         DROP TABLE {from};
         ALTER TABLE {aside} RENAME TO {}",
        quoted(&spec.table)
    ))
}

/// Indexes are made when missing, never dropped. A name that is taken, by whatever, is left alone.
fn index(conn: &Connection, spec: &ExplodeSpec) -> Result<(), rusqlite::Error> {
    for column in spec.columns.iter().filter(|column| column.index) {
        let name = index_name(&spec.table, &column.name);
        let taken: bool = conn.query_row(
            "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = ?1 COLLATE NOCASE)",
            [&name],
            |row| row.get(0),
        )?;
        if !taken {
            conn.execute_batch(&format!(
                "CREATE INDEX {} ON {} ({})",
                quoted(&name),
                quoted(&spec.table),
                quoted(&column.name)
            ))?;
        }
    }
    Ok(())
}
