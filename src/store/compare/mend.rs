//! What differs, copied from the scratch into the database: that, and nothing else.

use std::collections::BTreeMap;
use std::ops::Range;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode};
use serde::Serialize;

use super::super::StoreError;
use super::super::table::{MAIN, OLD, Table};
use super::books;
use super::findings::{Findings, Kept, Line, Work, line};
use super::keyed::{self, Keyed};
use super::lists::{List, Side};
use super::tables::RESULTS;
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
}

/// Makes the database say what the scratch says, as far as it was found not to: of what differs the row, of a list its
/// pair's rows. A row that only the database has goes only when the scratch speaks for it. Positions stay. Ends the
/// transaction in which was found what is written; only from here on do other writers wait. `now_wall` goes into `_wall`
/// columns only.
///
/// # Errors
/// [`StoreError::Overtaken`] when somebody has written the database since that transaction began; SQLite's. Then nothing is
/// changed, neither there nor in the scratch.
pub fn mend(conn: &Connection, findings: &Findings, now_wall: Timestamp) -> Result<Mended, StoreError> {
    let mended = triggers_on(conn, || write(conn, findings, now_wall)).and_then(|mended| {
        conn.execute_batch("COMMIT")
            .map_err(StoreError::sqlite("commit what was mended"))?;
        Ok(mended)
    });
    if mended.is_err() && !conn.is_autocommit() {
        conn.execute_batch("ROLLBACK")
            .map_err(StoreError::sqlite("take back what was mended"))?;
    }
    mended
}

/// The database's triggers are somebody's intention, and the ledgers' among them.
fn triggers_on<T>(conn: &Connection, work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    let triggers = DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER;
    let switch = |on| {
        conn.set_db_config(triggers, on)
            .map_err(StoreError::sqlite("switch triggers"))
    };
    let were_on = conn
        .db_config(triggers)
        .map_err(StoreError::sqlite("look whether triggers are on"))?;
    switch(true)?;
    let done = work();
    switch(were_on)?;
    done
}

fn write(conn: &Connection, findings: &Findings, now: Timestamp) -> Result<Mended, StoreError> {
    let mut mending = Mending {
        conn,
        scope: &findings.scope,
        mended: Mended {
            left: findings.left.clone(),
            ..Mended::default()
        },
    };
    if findings.is_empty() {
        return Ok(mending.mended);
    }
    lock(conn)?;
    for Kept { work, lines } in &findings.tasks {
        match work {
            Work::Keyed(table) => mending.keyed(table, lines)?,
            Work::List(list) => mending.list(list, lines)?,
            Work::Remake { main, old } => mending.remake(main, old.as_ref())?,
        }
    }
    let mut mended = mending.mended;
    books::mend(conn, &findings.books, now, &mut mended)?;
    Ok(mended)
}

/// Turns the transaction that has read the database into one that writes it. SQLite grants that only as long as nobody has
/// written since: what was found, and what the scratch was completed with, is then still so.
fn lock(conn: &Connection) -> Result<(), StoreError> {
    match conn.execute(&format!("DELETE FROM {OLD}.{RESULTS} WHERE 0"), []) {
        Ok(_) => Ok(()),
        // Somebody has written, or is writing now: by the time that we were let in, he would have.
        Err(rusqlite::Error::SqliteFailure(failure, _)) if failure.code == ErrorCode::DatabaseBusy => {
            let path = conn
                .query_row(
                    "SELECT file FROM pragma_database_list WHERE name = ?1",
                    [OLD],
                    |row| row.get(0),
                )
                .map_err(StoreError::sqlite("begin to mend"))?;
            Err(StoreError::Overtaken { path })
        }
        Err(error) => Err(StoreError::sqlite("begin to mend")(error)),
    }
}

struct Mending<'a> {
    conn: &'a Connection,
    scope: &'a Scope,
    mended: Mended,
}

impl Mending<'_> {
    /// Reads what was kept for a table.
    fn lines(
        &self,
        lines: &Range<i64>,
        sink: &mut dyn FnMut(Line) -> Result<(), rusqlite::Error>,
    ) -> Result<(), rusqlite::Error> {
        let mut select = self.conn.prepare(
            "SELECT should, is_row, mask FROM temp.projector_findings WHERE line >= ?1 AND line < ?2 ORDER BY line",
        )?;
        let mut rows = select.query([lines.start, lines.end])?;
        while let Some(row) = rows.next()? {
            sink(Line {
                should: row.get(0)?,
                is: row.get(1)?,
                mask: row.get(2)?,
            })?;
        }
        Ok(())
    }

    fn keyed(&mut self, table: &Keyed, lines: &Range<i64>) -> Result<(), StoreError> {
        let (conn, name) = (self.conn, table.fixed.name);
        let mut written = 0;
        if table.fixed.by_triggers && self.mended.rows.contains_key(RESULTS) {
            // The results that were just mended may have written it, and other rows than were found differ now. It is small
            // enough to be walked under the lock: a line for a job and a PC.
            let mut again = Vec::new();
            keyed::walk(conn, table, self.scope, &mut Counted::default(), &mut |found| {
                again.extend(line(table, found, self.scope).ok());
                Ok(())
            })?;
            for line in again {
                written += row(conn, table, line).map_err(StoreError::sqlite(format_args!("mend {name}")))?;
            }
        } else {
            self.lines(lines, &mut |line| {
                written += row(conn, table, line)?;
                Ok(())
            })
            .map_err(StoreError::sqlite(format_args!("mend {name}")))?;
        }
        self.mended.count(name, written);
        Ok(())
    }

    fn list(&mut self, list: &List, lines: &Range<i64>) -> Result<(), StoreError> {
        let (conn, Some(old)) = (self.conn, &list.old) else {
            return Ok(());
        };
        let mut written = 0;
        let mut write = || -> Result<(), rusqlite::Error> {
            // First what goes, of all pairs: what comes may take its place.
            let mut delete = conn.prepare(&format!("DELETE FROM {} WHERE {} = ?1", old.table, old.rowid))?;
            self.lines(lines, &mut |line| {
                if let Some(row) = line.is {
                    written += delete.execute([row])?;
                }
                Ok(())
            })?;
            let Some(main) = &list.main else {
                return Ok(());
            };
            let mut insert = conn.prepare(&insert(main, old))?;
            self.lines(lines, &mut |line| {
                if let Some(row) = line.should {
                    written += insert.execute([row])?;
                }
                Ok(())
            })
        };
        write().map_err(StoreError::sqlite(format_args!("mend {:?}", list.name)))?;
        self.mended.count(&list.name, written);
        Ok(())
    }

    /// Makes the table of the database anew, as the scratch has it.
    fn remake(&mut self, main: &Table, old: Option<&Table>) -> Result<(), StoreError> {
        let conn = self.conn;
        let what = || format!("make the table {:?} anew", main.name);
        let remake = || -> Result<usize, rusqlite::Error> {
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

/// Writes one row of a table with a key. Returns how many it wrote.
fn row(conn: &Connection, table: &Keyed, line: Line) -> Result<usize, rusqlite::Error> {
    let name = table.fixed.name;
    match (line.should, line.is) {
        (None, Some(row)) => conn
            .prepare_cached(&format!("DELETE FROM old.{name} WHERE rowid = ?1"))?
            .execute([row]),
        (Some(row), None) => {
            let columns = listed(table.fixed.key.iter().chain(&table.columns).copied(), "");
            conn.prepare_cached(&format!(
                "INSERT INTO old.{name} ({columns}) SELECT {columns} FROM main.{name} WHERE rowid = ?1"
            ))?
            .execute([row])
        }
        (Some(should), Some(is)) => {
            // Only the cells that differ: naming others would fire triggers on them.
            let columns = listed(table.changed(line.mask), "");
            conn.prepare_cached(&format!(
                "UPDATE old.{name} SET ({columns}) = (SELECT {columns} FROM main.{name} WHERE rowid = ?1)
                 WHERE rowid = ?2"
            ))?
            .execute([should, is])
        }
        (None, None) => Ok(0),
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
