//! Rows of exploded tables, those included that no manifest names any more.

use rusqlite::{Connection, OptionalExtension};

use super::super::StoreError;
use super::super::names::quoted;
use super::derived::for_each_kind;
use super::{Basis, Vouched, run};
use crate::projection::explode::free_rowid;
use crate::projection::spec::{BUILT_IN, is_taken};

/// Brings the pairs' rows of every exploded table to what they should be.
pub(super) fn settle(conn: &Connection, basis: &Basis, vouched: &mut Vouched) -> Result<(), StoreError> {
    let what = || StoreError::sqlite("look at the exploded tables");
    for (table, _) in exploded(conn, "main").map_err(what())? {
        run(
            conn,
            &format!("empty {table:?}"),
            &format!(
                "DELETE FROM main.{} WHERE (pc_id, job_id) IN (
                     SELECT pc_id, job_id FROM temp.carry_pairs WHERE source = 'old' AND facts_new IS NOT NULL)",
                quoted(&table)
            ),
            [],
        )?;
    }
    for (table, sql) in exploded(conn, "old").map_err(what())? {
        let Some(into) = make(conn, &table, &sql)? else {
            continue;
        };
        let rows = bring(conn, basis, &table, &into)?;
        vouched.add("exploded_rows", rows);
    }
    Ok(())
}

/// The names of a database's exploded tables.
pub(in super::super) fn names(conn: &Connection) -> Result<Vec<String>, StoreError> {
    let tables = exploded(conn, "main").map_err(StoreError::sqlite("look at the exploded tables"))?;
    Ok(tables.into_iter().map(|(name, _)| name).collect())
}

/// The exploded tables of one database by name, and how each was made.
fn exploded(conn: &Connection, schema: &str) -> Result<Vec<(String, String)>, rusqlite::Error> {
    let mut tables: Vec<(String, String)> = conn
        .prepare(&format!(
            "SELECT name, sql FROM {schema}.sqlite_schema
             WHERE type = 'table' AND sql LIKE 'CREATE TABLE%' ORDER BY name"
        ))?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    tables.retain(|(name, _)| !is_taken(name));
    let mut exploded = Vec::new();
    for (name, sql) in tables {
        let columns = columns(conn, schema, &name)?;
        let has = |name: &str| columns.iter().any(|column| column.eq_ignore_ascii_case(name));
        if BUILT_IN.into_iter().all(has) {
            exploded.push((name, sql));
        }
    }
    Ok(exploded)
}

fn columns(conn: &Connection, schema: &str, table: &str) -> Result<Vec<String>, rusqlite::Error> {
    conn.prepare_cached("SELECT name FROM pragma_table_info(?1, ?2)")?
        .query_map([table, schema], |row| row.get(0))?
        .collect()
}

/// The scratch's table of that name, made as the database's is when there is none. `None`: the name is something
/// else's there.
fn make(conn: &Connection, table: &str, sql: &str) -> Result<Option<String>, StoreError> {
    let what = || StoreError::sqlite(format!("make the table {table:?}"));
    let there: Option<(String, String)> = conn
        .query_row(
            "SELECT type, name FROM main.sqlite_schema WHERE name = ?1 COLLATE NOCASE AND type <> 'trigger'",
            [table],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .optional()
        .map_err(what())?;
    match there {
        Some((kind, name)) if kind == "table" => return Ok(Some(name)),
        Some(_) => return Ok(None),
        None => {}
    }
    conn.execute_batch(sql).map_err(what())?;
    let indexes = || -> Result<Vec<String>, rusqlite::Error> {
        conn.prepare(
            "SELECT sql FROM old.sqlite_schema made WHERE type = 'index' AND tbl_name = ?1 AND sql IS NOT NULL
                 AND NOT EXISTS (SELECT 1 FROM main.sqlite_schema there WHERE there.name = made.name COLLATE NOCASE)
             ORDER BY rowid",
        )?
        .query_map([table], |row| row.get(0))?
        .collect()
    };
    for sql in indexes().map_err(what())? {
        conn.execute_batch(&sql).map_err(what())?;
    }
    Ok(Some(table.to_owned()))
}

/// Brings the rows of pairs that are the database's, and those of jobs whose manifest names the table no more.
fn bring(conn: &Connection, basis: &Basis, from: &str, into: &str) -> Result<u64, StoreError> {
    let what = format!("carry the rows of {from:?}");
    let found = columns(conn, "old", from).map_err(StoreError::sqlite(&what))?;
    let taken = columns(conn, "main", into).map_err(StoreError::sqlite(&what))?;
    // A shape of another time: what both have.
    let common: Vec<String> = found
        .iter()
        .filter(|column| taken.iter().any(|taken| taken.eq_ignore_ascii_case(column)))
        .map(|column| quoted(column))
        .collect();
    let list = common.join(", ");
    let values = common
        .iter()
        .map(|column| format!("row.{column}"))
        .collect::<Vec<_>>()
        .join(", ");
    let without_rowid: bool = conn
        .query_row(
            "SELECT wr FROM pragma_table_list(?1) WHERE schema = 'old'",
            [from],
            |row| row.get(0),
        )
        .map_err(StoreError::sqlite(&what))?;
    let order = match free_rowid(found.iter().map(String::as_str)) {
        Some(rowid) if !without_rowid => format!("ORDER BY row.{rowid}"),
        _ => String::new(),
    };
    let name = from.to_ascii_lowercase();
    let (into, from) = (quoted(into), quoted(from));
    let sql = format!(
        "INSERT OR IGNORE INTO main.{into} ({list}) SELECT {values} FROM old.{from} row
         LEFT JOIN temp.carry_pairs pair ON pair.job_id = row.job_id AND pair.pc_id = row.pc_id
         LEFT JOIN temp.carry_specs spec ON spec.table_name = ?2 AND spec.job_id = row.job_id
         WHERE (pair.source IS 'old' OR spec.job_id IS NULL OR pair.source IS NULL AND NOT ?3)
             AND (pair.aside IS NOT NULL) = ?1
         {order}"
    );
    for_each_kind(conn, |aside| {
        run(
            conn,
            &what,
            &sql,
            rusqlite::params![aside, name, basis.is_strict()],
        )
    })
}
