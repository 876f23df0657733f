//! The scratch against the database, row by row (DESIGN §8.2), and what differs copied into the database (`replay`). One
//! connection sees both: `main` is the scratch, which says what the database should say, `old` the database as it is.
//! Knows nothing of streams: what cannot be judged from them was made equal before ([`carry`](super::carry)).

mod align;
mod books;
mod cells;
mod findings;
mod keyed;
mod lists;
mod mend;
pub mod sampled;
mod tables;

use std::collections::BTreeMap;

use rusqlite::{Connection, Transaction, TransactionBehavior};
use serde::Serialize;

pub use self::cells::Shown;
pub use self::findings::Findings;
use self::findings::Work;
use self::lists::List;
use self::tables::{Fixed, Place, Task};
use super::StoreError;
use super::names::{listed, quoted};
use super::retention::Horizons;
pub use mend::{Mended, mend};

/// So many differences are kept with their values; all are counted.
pub const DIFFERENCES_MAX: usize = 1_000;

/// What the scratch can speak for.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// The streams hold everything that was ever projected: a result that only the database has is wrong.
    pub all_at_hand: bool,
    /// The scratch was loaded from the streams' start. If not, what it does not have is not looked at.
    pub whole: bool,
    /// Rows from before these may have been deleted for their age (contract §6.1).
    pub horizons: Horizons,
}

/// What was found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Comparison {
    /// The first [`DIFFERENCES_MAX`].
    pub differences: Vec<Difference>,
    /// By table.
    pub counted: BTreeMap<String, Counted>,
    /// Tables that were not compared, or not in all columns: why.
    pub left_out: BTreeMap<String, String>,
}

impl Comparison {
    /// Whether nothing differs.
    #[must_use]
    pub fn is_same(&self) -> bool {
        self.found() == 0
    }

    /// All differing rows and shapes, kept or not.
    #[must_use]
    pub fn found(&self) -> u64 {
        self.counted.values().map(Counted::found).sum()
    }

    fn keep(&mut self, difference: impl FnOnce() -> Difference) {
        if self.differences.len() < DIFFERENCES_MAX {
            self.differences.push(difference());
        }
    }
}

/// Rows of one table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counted {
    /// Of the scratch.
    pub compared: u64,
    /// In both, and not the same.
    pub different: u64,
    /// Only in the scratch.
    pub missing: u64,
    /// Only in the database, where it should not be.
    pub unexpected: u64,
    /// Only in the scratch, and so old that the backend's cleanup took them: no difference.
    pub cleaned_up: u64,
    /// Only in the database, which alone vouches for them: no difference.
    pub vouched: u64,
    /// Tables, columns and keys that are not as they should be.
    pub shapes: u64,
}

impl Counted {
    fn found(&self) -> u64 {
        self.different + self.missing + self.unexpected + self.shapes
    }
}

/// One difference, named.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// The table.
    pub table: String,
    /// The row: columns and their values, cut; empty for the table itself.
    pub key: BTreeMap<String, String>,
    /// What it is.
    #[serde(flatten)]
    pub kind: Kind,
}

/// See [`Difference`].
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Kind {
    /// The database lacks the row.
    Missing,
    /// The database has a row that should not be.
    Unexpected,
    /// A cell.
    Column {
        /// The column.
        name: String,
        /// In the database.
        found: Shown,
        /// What it should be.
        expected: Shown,
    },
    /// The table is not there, or has other columns.
    Shape {
        /// How it is, and how it should be.
        reason: String,
    },
}

/// Compares every table of the read model and every exploded table of either, in one snapshot.
///
/// # Errors
/// SQLite's.
pub fn compare(conn: &Connection, scope: &Scope) -> Result<Comparison, StoreError> {
    let _snapshot = conn
        .is_autocommit()
        .then(|| Transaction::new_unchecked(conn, TransactionBehavior::Deferred))
        .transpose()
        .map_err(StoreError::sqlite("begin to compare"))?;
    look(conn, scope, None)
}

/// Compares, and keeps what [`mend()`] is to write: in the transaction that is open, or in one that begins here, and stays
/// open until then. It only reads the database: others may write it meanwhile.
///
/// # Errors
/// SQLite's.
pub fn find(conn: &Connection, scope: &Scope) -> Result<(Comparison, Findings), StoreError> {
    if conn.is_autocommit() {
        conn.execute_batch("BEGIN")
            .map_err(StoreError::sqlite("begin to compare"))?;
    }
    let mut findings = Findings::begin(conn, scope)?;
    let comparison = look(conn, scope, Some(&mut findings))?;
    findings.end(conn)?;
    Ok((comparison, findings))
}

fn look(conn: &Connection, scope: &Scope, findings: Option<&mut Findings>) -> Result<Comparison, StoreError> {
    let mut looking = Looking {
        conn,
        scope,
        comparison: Comparison::default(),
        findings,
    };
    for task in tables::tasks(conn)? {
        looking.task(task)?;
    }
    Ok(looking.comparison)
}

struct Looking<'a> {
    conn: &'a Connection,
    scope: &'a Scope,
    comparison: Comparison,
    findings: Option<&'a mut Findings>,
}

impl Looking<'_> {
    fn task(&mut self, task: Task) -> Result<(), StoreError> {
        let (name, place) = match &task {
            Task::Fixed(fixed, place) => (fixed.name.to_owned(), place),
            Task::Exploded(exploded) => (exploded.name.clone(), &exploded.place),
        };
        let mut counted = Counted::default();
        match place {
            Place::LeftOut(reason) => {
                self.comparison.left_out.insert(name, reason.clone());
                return Ok(());
            }
            Place::Both { drift, excuse } => {
                for reason in drift {
                    counted.shapes += 1;
                    self.comparison.keep(|| Difference {
                        table: name.clone(),
                        key: BTreeMap::new(),
                        kind: Kind::Shape {
                            reason: reason.clone(),
                        },
                    });
                }
                if let Some(excuse) = excuse {
                    self.comparison.left_out.insert(name.clone(), excuse.clone());
                }
            }
        }
        match task {
            Task::Fixed(fixed, place) => {
                if let (Some(findings), Place::Both { drift, .. }) = (&mut self.findings, place) {
                    for reason in drift {
                        findings.leave(fixed.name, &reason);
                    }
                }
                if !fixed.list {
                    self.keyed(fixed, &mut counted)?;
                } else if let Some(list) = List::history(self.conn, fixed)? {
                    self.list(list, true, &mut counted)?;
                }
            }
            Task::Exploded(exploded) => {
                let keep = match &mut self.findings {
                    Some(findings) => findings.exploded(self.conn, &exploded)?,
                    None => false,
                };
                if let Some(list) = exploded.list {
                    self.list(list, keep, &mut counted)?;
                }
            }
        }
        self.comparison.counted.insert(name, counted);
        Ok(())
    }

    fn keyed(&mut self, fixed: &'static Fixed, counted: &mut Counted) -> Result<(), StoreError> {
        let Some(table) = keyed::Keyed::find(self.conn, fixed)? else {
            return Ok(());
        };
        let mark = self.findings.as_ref().map(|findings| findings.mark());
        let mut names = keyed::Names::prepare(self.conn, &table)?;
        keyed::walk(self.conn, &table, self.scope, counted, &mut |found| {
            if let Some(findings) = &mut self.findings {
                findings.row(self.conn, &table, found)?;
            }
            if self.comparison.differences.len() >= DIFFERENCES_MAX {
                return Ok(());
            }
            names.name(&table, found, &mut |difference| {
                self.comparison.keep(|| difference);
            })
        })?;
        if let (Some(findings), Some(mark)) = (&mut self.findings, mark) {
            findings.close(mark, Work::Keyed(table));
        }
        Ok(())
    }

    /// `keep`: what differs is mended row by row.
    fn list(&mut self, list: List, keep: bool, counted: &mut Counted) -> Result<(), StoreError> {
        let mut findings = self.findings.as_deref_mut().filter(|_| keep);
        let mark = findings.as_ref().map(|findings| findings.mark());
        let (conn, scope, comparison) = (self.conn, self.scope, &mut self.comparison);
        counted.compared = lists::walk(conn, &list, &mut |pair| {
            let Some(judged) = lists::judge(conn, &list, &pair, scope, counted)? else {
                return Ok(());
            };
            for finding in &judged.findings {
                lists::name(&list, &pair, *finding, &mut |difference| {
                    comparison.keep(|| difference);
                });
            }
            match &mut findings {
                Some(findings) => findings.pair(conn, &list, pair, &judged),
                None => Ok(()),
            }
        })?;
        if let (Some(findings), Some(mark)) = (findings, mark) {
            findings.close(mark, Work::List(list));
        }
        Ok(())
    }
}
