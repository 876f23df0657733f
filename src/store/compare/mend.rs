//! What differs, copied from the scratch into the database: that, and nothing else.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, Transaction, TransactionBehavior};
use serde::Serialize;

use super::super::StoreError;
use super::align::Finding;
use super::books;
use super::keyed::{self, Found, Keyed};
use super::lists::{self, List, Side};
use super::schema::{MAIN, OLD, Table};
use super::tables::{self, Exploded, FACTS, Fixed, Place, RESULTS, Task};
use super::{Counted, Scope, listed, quoted};
use crate::wire::time::Timestamp;

/// What was written.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Mended {
    /// Rows that were changed, added or taken away, by table; the books' too.
    pub rows: BTreeMap<String, u64>,
    /// What differs and is not for us to mend, by table: why.
    pub left: BTreeMap<String, String>,
}

impl Mended {
    /// Whether nothing was wrong.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.rows.is_empty()
    }

    pub(super) fn count(&mut self, table: &str, rows: usize) {
        if rows > 0 {
            *self.rows.entry(table.to_owned()).or_default() += u64::try_from(rows).unwrap_or(u64::MAX);
        }
    }

    fn leave(&mut self, table: &str, why: &str) {
        self.left
            .entry(table.to_owned())
            .or_insert_with(|| why.to_owned());
    }
}

/// What was mended, as far as the books must follow.
#[derive(Debug, Default)]
pub(super) struct Touched {
    /// Job and PC.
    pub(super) pairs: BTreeSet<(String, String)>,
    /// Result and field.
    pub(super) outputs: BTreeSet<(String, &'static str)>,
}

/// Makes the database say what the scratch says, in one transaction that writes to `old` alone: of what differs the row,
/// of a list its pair's rows. A row that only the database has goes only when the scratch speaks for it. Positions stay.
/// `now_wall` goes into `_wall` columns only.
///
/// # Errors
/// SQLite's; then nothing is changed.
pub fn mend(conn: &Connection, scope: &Scope, now_wall: Timestamp) -> Result<Mended, StoreError> {
    // The database's triggers are somebody's intention, and the ledgers' among them.
    let triggers = DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER;
    let switch = |on| {
        conn.set_db_config(triggers, on)
            .map_err(StoreError::sqlite("switch triggers"))
    };
    let were_on = conn
        .db_config(triggers)
        .map_err(StoreError::sqlite("look whether triggers are on"))?;
    switch(true)?;
    let mended = in_transaction(conn, scope, now_wall);
    switch(were_on)?;
    mended
}

fn in_transaction(conn: &Connection, scope: &Scope, now: Timestamp) -> Result<Mended, StoreError> {
    let transaction = Transaction::new_unchecked(conn, TransactionBehavior::Immediate)
        .map_err(StoreError::sqlite("begin to mend"))?;
    let mut mending = Mending {
        conn,
        scope,
        mended: Mended::default(),
        touched: Touched::default(),
    };
    for task in tables::tasks(conn)? {
        match &task {
            Task::Fixed(fixed, Place::Both { drift, .. }) => {
                for reason in drift {
                    mending.mended.leave(fixed.name, reason);
                }
                if fixed.list {
                    if let Some(list) = List::history(conn, fixed)? {
                        mending.list(&list)?;
                    }
                } else if let Some(table) = Keyed::find(conn, fixed)? {
                    mending.keyed(&table)?;
                }
            }
            Task::Exploded(exploded) => mending.exploded(exploded)?,
            Task::Fixed(_, Place::LeftOut(_)) => {}
        }
    }
    let Mending {
        mut mended, touched, ..
    } = mending;
    books::mend(conn, &touched, now, &mut mended)?;
    transaction
        .commit()
        .map_err(StoreError::sqlite("commit what was mended"))?;
    Ok(mended)
}

struct Mending<'a> {
    conn: &'a Connection,
    scope: &'a Scope,
    mended: Mended,
    touched: Touched,
}

impl Mending<'_> {
    /// The streams say what there may be, from their start on.
    fn knows_all(&self) -> bool {
        self.scope.complete && self.scope.whole
    }

    fn keyed(&mut self, table: &Keyed) -> Result<(), StoreError> {
        let mut found = Vec::new();
        keyed::walk(
            self.conn,
            table,
            self.scope,
            &mut Counted::default(),
            &mut |difference| {
                found.push(difference);
                Ok(())
            },
        )?;
        let name = table.fixed.name;
        for difference in found {
            self.row(table, difference)
                .map_err(StoreError::sqlite(format_args!("mend {name}")))?;
        }
        Ok(())
    }

    fn row(&mut self, table: &Keyed, difference: Found) -> Result<(), rusqlite::Error> {
        let name = table.fixed.name;
        match difference {
            Found::Missing(_) if table.fixed.others_rows => {
                self.mended
                    .leave(name, "a row is missing that is not ours to make");
            }
            Found::Unexpected { .. } if table.fixed.others_rows => {
                self.mended
                    .leave(name, "a row is there that is not ours to delete");
            }
            Found::Unexpected { ours, .. } if !ours && !self.knows_all() => {
                self.mended.leave(
                    name,
                    "rows that no message explains stay: older ones may not be known",
                );
            }
            Found::Unexpected { row, .. } => {
                let deleted = self
                    .conn
                    .prepare_cached(&format!("DELETE FROM old.{name} WHERE rowid = ?1"))?
                    .execute([row])?;
                self.mended.count(name, deleted);
            }
            Found::Missing(row) => {
                let columns = listed(table.fixed.key.iter().chain(&table.columns).copied(), "");
                let inserted = self
                    .conn
                    .prepare_cached(&format!(
                        "INSERT INTO old.{name} ({columns}) SELECT {columns} FROM main.{name} WHERE rowid = ?1"
                    ))?
                    .execute([row])?;
                self.mended.count(name, inserted);
                self.note(table, row, &|_| true)?;
            }
            Found::Changed { should, is, mask } => {
                // Only the cells that differ: naming others would fire triggers on them.
                let columns = listed(table.changed(mask), "");
                let updated = self
                    .conn
                    .prepare_cached(&format!(
                        "UPDATE old.{name} SET ({columns}) = (SELECT {columns} FROM main.{name} WHERE rowid = ?1)
                         WHERE rowid = ?2"
                    ))?
                    .execute([should, is])?;
                self.mended.count(name, updated);
                self.note(table, should, &|column| {
                    table.changed(mask).any(|changed| changed == column)
                })?;
            }
        }
        Ok(())
    }

    /// Notes what the books must follow.
    fn note(
        &mut self,
        table: &Keyed,
        row: i64,
        changed: &dyn Fn(&str) -> bool,
    ) -> Result<(), rusqlite::Error> {
        let Fixed { name, key, .. } = table.fixed;
        if ![RESULTS, FACTS].contains(name) {
            return Ok(());
        }
        let key: Vec<String> = self
            .conn
            .prepare_cached(&format!(
                "SELECT {} FROM main.{name} WHERE rowid = ?1",
                listed(key.iter().copied(), "")
            ))?
            .query_row([row], |row| (0..key.len()).map(|index| row.get(index)).collect())?;
        match (*name, key.as_slice()) {
            (RESULTS, [result_id]) => {
                for field in ["stdout", "stderr"].into_iter().filter(|field| changed(field)) {
                    self.touched.outputs.insert((result_id.clone(), field));
                }
            }
            (FACTS, [pc_id, job_id]) => {
                self.touched.pairs.insert((job_id.clone(), pc_id.clone()));
            }
            _ => {}
        }
        Ok(())
    }

    fn list(&mut self, list: &List) -> Result<(), StoreError> {
        struct Replacement {
            delete: Vec<i64>,
            insert: Vec<i64>,
        }
        let (mut replacements, mut left) = (Vec::new(), false);
        let (conn, scope, knows_all) = (self.conn, self.scope, self.knows_all());
        let pairs = &mut self.touched.pairs;
        lists::walk(conn, list, &mut |pair| {
            let Some(judged) = lists::judge(conn, list, &pair, scope, &mut Counted::default())? else {
                return Ok(());
            };
            if !judged.ours && !knows_all {
                left = true;
                return Ok(());
            }
            let cleaned: HashSet<usize> = judged
                .findings
                .iter()
                .filter_map(|finding| match finding {
                    Finding::Cleaned(place) => Some(*place),
                    _ => None,
                })
                .collect();
            let (pc_id, job_id) = pair.names();
            pairs.insert((job_id, pc_id));
            let rest = pair
                .should
                .iter()
                .enumerate()
                .filter(|(place, _)| !cleaned.contains(place));
            let mut insert = pair.should_before;
            insert.extend(rest.map(|(_, line)| line.rowid));
            if list.by_rowid {
                insert.sort_unstable();
            }
            let mut delete = pair.is_before;
            delete.extend(pair.is.iter().map(|line| line.rowid));
            replacements.push(Replacement { delete, insert });
            Ok(())
        })?;
        if left {
            self.mended.leave(
                &list.name,
                "rows of pairs that no message explains stay: older ones may not be known",
            );
        }
        let Some(old) = &list.old else {
            return Ok(());
        };
        let mut written = 0;
        let mut write = || -> Result<(), rusqlite::Error> {
            let mut delete = conn.prepare(&format!("DELETE FROM {} WHERE {} = ?1", old.table, old.rowid))?;
            for row in replacements.iter().flat_map(|replacement| &replacement.delete) {
                written += delete.execute([row])?;
            }
            if let Some(main) = &list.main {
                let mut insert = conn.prepare(&insert(main, old))?;
                for row in replacements.iter().flat_map(|replacement| &replacement.insert) {
                    written += insert.execute([row])?;
                }
            }
            Ok(())
        };
        write().map_err(StoreError::sqlite(format_args!("mend {:?}", list.name)))?;
        self.mended.count(&list.name, written);
        Ok(())
    }

    fn exploded(&mut self, exploded: &Exploded) -> Result<(), StoreError> {
        let Place::Both { drift, excuse } = &exploded.place else {
            return Ok(());
        };
        let reason = drift.first().or(excuse.as_ref());
        match (&exploded.main, &exploded.old, reason) {
            (Some(main), old, Some(reason)) => {
                let is_ours = match old {
                    Some(old) => self.knows_all() || self.speaks_for(old)?,
                    None => true,
                };
                if is_ours {
                    return self.remake(main, old.as_ref());
                }
                self.mended.leave(
                    &exploded.name,
                    &format!("{reason}; rows of pairs that no message explains need the table as it is"),
                );
            }
            // Nothing is written into a table that is not there.
            (_, None, None) => return Ok(()),
            _ => {}
        }
        exploded.list.as_ref().map_or(Ok(()), |list| self.list(list))
    }

    /// Whether the scratch knows every pair that has rows in a table of the database.
    fn speaks_for(&self, old: &Table) -> Result<bool, StoreError> {
        self.conn
            .query_row(
                &format!(
                    "SELECT NOT EXISTS (SELECT 1 FROM {} AS row WHERE NOT EXISTS (
                         SELECT 1 FROM main.inventory_facts AS facts
                         WHERE facts.pc_id = row.pc_id AND facts.job_id = row.job_id))",
                    old.sql()
                ),
                [],
                |row| row.get(0),
            )
            .map_err(StoreError::sqlite(format_args!(
                "look at the table {:?}",
                old.name
            )))
    }

    /// Makes the table of the database anew, as the scratch has it.
    fn remake(&mut self, main: &Table, old: Option<&Table>) -> Result<(), StoreError> {
        let conn = self.conn;
        let what = || format!("make the table {:?} anew", main.name);
        let mut remake = || -> Result<usize, rusqlite::Error> {
            let mut pairs = conn.prepare(&format!("SELECT DISTINCT job_id, pc_id FROM {}", main.sql()))?;
            for pair in pairs.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))? {
                self.touched.pairs.insert(pair?);
            }
            if let Some(old) = old {
                conn.execute_batch(&format!("DROP TABLE {}", old.sql()))?;
            }
            let made: Vec<(String, String, String)> = conn
                .prepare(
                    "SELECT type, name, sql FROM main.sqlite_schema WHERE tbl_name = ?1 COLLATE NOCASE
                     AND type IN ('table', 'index') AND sql IS NOT NULL ORDER BY type DESC, name",
                )?
                .query_map([&main.name], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
                .collect::<Result<_, _>>()?;
            let (tables, indexes): (Vec<_>, Vec<_>) = made.iter().partition(|(kind, ..)| kind == "table");
            for (_, _, sql) in tables {
                conn.execute_batch(&in_old(sql))?;
            }
            let columns = listed(main.columns.iter().map(|column| column.name.as_str()), "");
            let inserted = conn.execute(
                &format!(
                    "INSERT INTO {OLD}.{name} ({columns}) SELECT {columns} FROM {MAIN}.{name} ORDER BY {}",
                    main.rowid.unwrap_or("rowid"),
                    name = quoted(&main.name),
                ),
                [],
            )?;
            for (_, name, sql) in indexes {
                // As when it is made by a result: a name that is taken, by whatever, is left alone.
                let taken: bool = conn.query_row(
                    "SELECT EXISTS (SELECT 1 FROM old.sqlite_schema WHERE name = ?1 COLLATE NOCASE)",
                    [name],
                    |row| row.get(0),
                )?;
                if !taken {
                    conn.execute_batch(&in_old(sql))?;
                }
            }
            Ok(inserted)
        };
        let inserted = remake().map_err(StoreError::sqlite(what()))?;
        self.mended.count(&main.name, inserted);
        Ok(())
    }
}

/// One row of the scratch, by its row id.
fn insert(main: &Side, old: &Side) -> String {
    format!(
        "INSERT INTO {} ({}) SELECT {} FROM {} WHERE {} = ?1",
        old.table,
        listed(old.columns.iter().map(String::as_str), ""),
        listed(main.columns.iter().map(String::as_str), ""),
        main.table,
        main.rowid
    )
}

/// A statement of the scratch's schema, for the database: SQLite keeps each with the name first, and without a file.
fn in_old(sql: &str) -> String {
    ["CREATE TABLE ", "CREATE UNIQUE INDEX ", "CREATE INDEX "]
        .into_iter()
        .find_map(|head| Some(format!("{head}{OLD}.{}", sql.strip_prefix(head)?)))
        .unwrap_or_else(|| sql.to_owned())
}
