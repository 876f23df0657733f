//! Rows of exploded tables, those included that no manifest names any more.

use rusqlite::Connection;

use super::super::StoreError;
use super::super::names::listed;
use super::super::table::{MAIN, OLD, Table};
use super::derived::for_each_kind;
use super::{Basis, Vouched, any, run};

/// Brings the pairs' rows of every exploded table to what they should be.
pub(super) fn settle(conn: &Connection, basis: &Basis, vouched: &mut Vouched) -> Result<(), StoreError> {
    for table in Table::exploded(conn, MAIN)?
        .iter()
        .filter(|table| table.is_table())
    {
        run(
            conn,
            &format!("empty {:?}", table.name),
            &format!(
                "DELETE FROM {} WHERE (pc_id, job_id) IN (
                     SELECT pc_id, job_id FROM temp.carry_pairs WHERE source = 'old' AND facts_new IS NOT NULL)",
                table.sql()
            ),
            [],
        )?;
    }
    for table in Table::exploded(conn, OLD)?
        .iter()
        .filter(|table| table.is_table())
    {
        make(conn, &table.name)?;
        // The name may be something else's there.
        if let Some(into) = Table::find(conn, MAIN, &table.name)?.filter(Table::is_table) {
            let rows = bring(conn, basis, table, &into)?;
            vouched.add("exploded_rows", rows);
        }
    }
    Ok(())
}

/// Makes the scratch's table of that name as the database's is, with its indexes, unless the name is taken there.
fn make(conn: &Connection, table: &str) -> Result<(), StoreError> {
    let what = format!("make the table {table:?}");
    let taken = "SELECT 1 FROM main.sqlite_schema WHERE name = ?1 COLLATE NOCASE AND type <> 'trigger'";
    if any(conn, &what, taken, [table])? {
        return Ok(());
    }
    let make = || -> Result<(), rusqlite::Error> {
        let made: Vec<String> = conn
            .prepare(
                "SELECT sql FROM old.sqlite_schema made
                 WHERE type IN ('table', 'index') AND tbl_name = ?1 AND sql IS NOT NULL
                     AND NOT EXISTS (SELECT 1 FROM main.sqlite_schema there WHERE there.name = made.name COLLATE NOCASE)
                 ORDER BY type = 'index', rowid",
            )?
            .query_map([table], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        made.iter().try_for_each(|sql| conn.execute_batch(sql))
    };
    make().map_err(StoreError::sqlite(what))
}

/// Brings the rows of pairs that are the database's, and those of jobs whose manifest names the table no more.
fn bring(conn: &Connection, basis: &Basis, from: &Table, into: &Table) -> Result<u64, StoreError> {
    // A shape of another time: what both have.
    let columns = from.columns.iter().map(|column| column.name.as_str());
    let common: Vec<&str> = columns.filter(|name| into.column(name).is_some()).collect();
    let order = from
        .rowid
        .map_or_else(String::new, |rowid| format!("ORDER BY row.{rowid}"));
    let sql = format!(
        "INSERT OR IGNORE INTO {} ({}) SELECT {} FROM {} row
         LEFT JOIN temp.carry_pairs pair ON pair.job_id = row.job_id AND pair.pc_id = row.pc_id
         LEFT JOIN temp.carry_specs spec ON spec.table_name = ?2 AND spec.job_id = row.job_id
         WHERE (pair.source IS 'old' OR spec.job_id IS NULL OR pair.source IS NULL AND NOT ?3)
             AND (pair.aside IS NOT NULL) = ?1
         {order}",
        into.sql(),
        listed(common.iter().copied(), ""),
        listed(common.iter().copied(), "row."),
        from.sql(),
    );
    let what = format!("carry the rows of {:?}", from.name);
    let name = from.name.to_ascii_lowercase();
    for_each_kind(conn, |aside| {
        run(
            conn,
            &what,
            &sql,
            rusqlite::params![aside, name, basis.is_strict()],
        )
    })
}
