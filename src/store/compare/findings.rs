//! What a comparison keeps for the mending: which rows are to be written, by their row ids. They are kept in a temporary
//! table, however many they are; nothing here writes the database, so nobody waits for the walk.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::Range;

use rusqlite::{Connection, params};

use super::super::StoreError;
use super::super::table::Table;
use super::align::Finding;
use super::books;
use super::keyed::{Found, Keyed};
use super::lists::{Judged, List, Pair};
use super::tables::{Exploded, FACTS, Fixed, Place, RESULTS};
use super::{Scope, listed};

/// What differs, as far as it is to be written. Good for the transaction in which it was found.
#[derive(Debug)]
pub struct Findings {
    pub(super) scope: Scope,
    /// In the order in which they are written.
    pub(super) tasks: Vec<Kept>,
    /// What the books must follow.
    touched: Touched,
    pub(super) books: books::Plan,
    /// What differs and is not for us to mend, by table: why.
    pub(super) left: BTreeMap<String, String>,
    /// The number of the next line.
    next: i64,
}

/// What is to be done to one table.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) work: Work,
    /// Its lines.
    pub(super) lines: Range<i64>,
}

#[derive(Debug)]
pub(super) enum Work {
    Keyed(Keyed),
    List(List),
    /// The table is made anew, as the scratch has it.
    Remake {
        main: Table,
        old: Option<Table>,
    },
}

/// What is mended, as far as the books must follow.
#[derive(Debug, Default)]
pub(super) struct Touched {
    /// Job and PC.
    pub(super) pairs: BTreeSet<(String, String)>,
    /// Result and field.
    pub(super) outputs: BTreeSet<(String, &'static str)>,
}

/// A line: a row of the scratch alone is to be added, one of the database alone to be deleted, of both the columns in
/// `mask` to be changed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line {
    pub(super) should: Option<i64>,
    pub(super) is: Option<i64>,
    pub(super) mask: i64,
}

/// The streams say what there may be, from their start on.
fn knows_all(scope: &Scope) -> bool {
    scope.all_at_hand && scope.whole
}

/// What is done about a row; `Err`: nothing, and why.
pub(super) fn line(table: &Keyed, found: Found, scope: &Scope) -> Result<Line, &'static str> {
    let (should, is, mask) = match found {
        Found::Missing(_) if table.fixed.others_rows => {
            return Err("a row is missing that is not ours to make");
        }
        Found::Unexpected { .. } if table.fixed.others_rows => {
            return Err("a row is there that is not ours to delete");
        }
        Found::Unexpected { ours, .. } if !ours && !knows_all(scope) => {
            return Err("rows that no message explains stay: older ones may not be known");
        }
        Found::Missing(row) => (Some(row), None, 0),
        Found::Unexpected { row, .. } => (None, Some(row), 0),
        Found::Changed { should, is, mask } => (Some(should), Some(is), mask),
    };
    Ok(Line { should, is, mask })
}

impl Findings {
    pub(super) fn begin(conn: &Connection, scope: &Scope) -> Result<Self, StoreError> {
        conn.execute_batch(
            "DROP TABLE IF EXISTS temp.projector_findings;
             CREATE TEMP TABLE projector_findings (line INTEGER PRIMARY KEY, should INTEGER, is_row INTEGER, mask INTEGER)",
        )
        .map_err(StoreError::sqlite("make room for what is found"))?;
        Ok(Self {
            scope: scope.clone(),
            tasks: Vec::new(),
            touched: Touched::default(),
            books: books::Plan::default(),
            left: BTreeMap::new(),
            next: 0,
        })
    }

    /// Once every table was looked at.
    pub(super) fn end(&mut self, conn: &Connection) -> Result<(), StoreError> {
        self.books = books::plan(conn, &self.touched)?;
        Ok(())
    }

    /// Whether there is nothing to write.
    pub(super) fn is_empty(&self) -> bool {
        let is_idle = |kept: &Kept| kept.lines.is_empty() && !matches!(kept.work, Work::Remake { .. });
        self.tasks.iter().all(is_idle) && self.books.is_empty()
    }

    pub(super) fn leave(&mut self, table: &str, why: &str) {
        self.left
            .entry(table.to_owned())
            .or_insert_with(|| why.to_owned());
    }

    fn keep(&mut self, conn: &Connection, line: Line) -> Result<(), StoreError> {
        conn.prepare_cached("INSERT INTO temp.projector_findings VALUES (?1, ?2, ?3, ?4)")
            .and_then(|mut insert| insert.execute(params![self.next, line.should, line.is, line.mask]))
            .map_err(StoreError::sqlite("keep what was found"))?;
        self.next += 1;
        Ok(())
    }

    /// Where a table's lines begin.
    pub(super) fn mark(&self) -> i64 {
        self.next
    }

    /// What was kept since `mark` is this table's.
    pub(super) fn close(&mut self, mark: i64, work: Work) {
        self.tasks.push(Kept {
            work,
            lines: mark..self.next,
        });
    }

    /// Keeps a row.
    pub(super) fn row(&mut self, conn: &Connection, table: &Keyed, found: Found) -> Result<(), StoreError> {
        let name = table.fixed.name;
        let line = match line(table, found, &self.scope) {
            Ok(line) => line,
            Err(why) => {
                self.leave(name, why);
                return Ok(());
            }
        };
        self.keep(conn, line)?;
        let noted = match found {
            Found::Missing(row) => self.note(conn, table, row, &|_| true),
            Found::Changed { should, mask, .. } => self.note(conn, table, should, &|column| {
                table.changed(mask).any(|changed| changed == column)
            }),
            Found::Unexpected { .. } => Ok(()),
        };
        noted.map_err(StoreError::sqlite(format_args!("compare {name}")))
    }

    /// Notes what the books must follow.
    fn note(
        &mut self,
        conn: &Connection,
        table: &Keyed,
        row: i64,
        changed: &dyn Fn(&str) -> bool,
    ) -> Result<(), rusqlite::Error> {
        let Fixed { name, key, .. } = table.fixed;
        if ![RESULTS, FACTS].contains(name) {
            return Ok(());
        }
        let key: Vec<String> = conn
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

    /// Keeps a pair's rows: those of the database go, those of the scratch come in their order.
    pub(super) fn pair(
        &mut self,
        conn: &Connection,
        list: &List,
        pair: Pair,
        judged: &Judged,
    ) -> Result<(), StoreError> {
        if !judged.ours && !knows_all(&self.scope) {
            self.leave(
                &list.name,
                "rows of pairs that no message explains stay: older ones may not be known",
            );
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
        self.touched.pairs.insert((job_id, pc_id));
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
        let delete = pair
            .is_before
            .into_iter()
            .chain(pair.is.iter().map(|line| line.rowid));
        let deleted = delete.map(|row| (None, Some(row)));
        for (should, is) in deleted.chain(insert.into_iter().map(|row| (Some(row), None))) {
            self.keep(conn, Line { should, is, mask: 0 })?;
        }
        Ok(())
    }

    /// Decides what is done to an exploded table: made anew, or its rows are kept (`true`), or nothing.
    pub(super) fn exploded(&mut self, conn: &Connection, exploded: &Exploded) -> Result<bool, StoreError> {
        let Place::Both { drift, excuse } = &exploded.place else {
            return Ok(false);
        };
        let reason = drift.first().or(excuse.as_ref());
        match (&exploded.main, &exploded.old, reason) {
            (Some(main), old, Some(reason)) => {
                let is_ours = match old {
                    Some(old) => knows_all(&self.scope) || speaks_for(conn, old)?,
                    None => true,
                };
                if is_ours {
                    self.touch_all(conn, main)?;
                    let work = Work::Remake {
                        main: main.clone(),
                        old: old.clone(),
                    };
                    self.close(self.mark(), work);
                    return Ok(false);
                }
                self.leave(
                    &exploded.name,
                    &format!("{reason}; rows of pairs that no message explains need the table as it is"),
                );
                Ok(true)
            }
            // Nothing is written into a table that is not there.
            (_, None, None) => Ok(false),
            _ => Ok(true),
        }
    }

    fn touch_all(&mut self, conn: &Connection, main: &Table) -> Result<(), StoreError> {
        let mut touch = || -> Result<(), rusqlite::Error> {
            let mut pairs = conn.prepare(&format!("SELECT DISTINCT job_id, pc_id FROM {}", main.sql()))?;
            for pair in pairs.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))? {
                self.touched.pairs.insert(pair?);
            }
            Ok(())
        };
        touch().map_err(StoreError::sqlite(format_args!(
            "look at the table {:?}",
            main.name
        )))
    }
}

/// Whether the scratch knows every pair that has rows in a table of the database.
fn speaks_for(conn: &Connection, old: &Table) -> Result<bool, StoreError> {
    conn.query_row(
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
