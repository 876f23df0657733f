//! Tables whose rows are lists of a pair (PC and job): read side by side in the canonical order (contract §6.9). Where the
//! lists part, the rest of the pair's rows is aligned.

use std::collections::BTreeMap;

use rusqlite::types::ToSqlOutput;
use rusqlite::{Connection, Rows, Statement};

use super::super::StoreError;
use super::super::table::{MAIN, OLD, Table};
use super::align::{Finding, align};
use super::cells::{Line, key_text, shown_pair};
use super::tables::Fixed;
use super::{Counted, Difference, Kind, Scope, listed, quoted};

/// How the lists of a table are read from both files.
#[derive(Debug)]
pub(super) struct List {
    pub(super) name: String,
    /// The compared columns, the pair's two first.
    pub(super) columns: Vec<String>,
    /// So many of them name a row.
    key: usize,
    /// See [`align`].
    levels: Vec<Vec<usize>>,
    /// The column by which the backend's cleanup deletes.
    cleaned_by: Option<usize>,
    pub(super) main: Option<Side>,
    pub(super) old: Option<Side>,
    /// Whether rows are written in the order of the scratch's row ids, or in that of the list.
    pub(super) by_rowid: bool,
}

/// One file's.
#[derive(Debug)]
pub(super) struct Side {
    /// The table as SQL takes it.
    pub(super) table: String,
    pub(super) rowid: &'static str,
    /// The list's columns as this file has them.
    pub(super) columns: Vec<String>,
    /// Row ids in order, and the columns where an index gives the order.
    cursor: String,
    /// The columns of one row, where SQLite must sort: only keys then.
    fetch: Option<String>,
}

impl Side {
    fn new(table: &Table, columns: &[String], order: &[String]) -> Option<Self> {
        let rowid = table.rowid?;
        let own = |name: &String| table.column(name).map(|column| column.name.clone());
        let columns: Vec<String> = columns.iter().map(own).collect::<Option<_>>()?;
        let list = listed(columns.iter().map(String::as_str), "");
        let name = table.sql();
        let keys: Vec<String> = order.iter().map(own).collect::<Option<_>>()?;
        let sort: Vec<String> = keys
            .iter()
            .map(|key| format!("{} COLLATE BINARY", quoted(key)))
            .collect();
        let sort = format!("ORDER BY {}, {rowid}", sort.join(", "));
        let has_index = table.key().iter().eq(order);
        Some(Self {
            cursor: if has_index {
                format!("SELECT {rowid}, {list} FROM {name} {sort}")
            } else {
                format!("SELECT {rowid} FROM {name} {sort}")
            },
            fetch: (!has_index).then(|| format!("SELECT {list} FROM {name} WHERE {rowid} = ?1")),
            table: name,
            rowid,
            columns,
        })
    }
}

impl List {
    /// `inventory_history`. `None`: not all of it is there.
    pub(super) fn history(conn: &Connection, fixed: &Fixed) -> Result<Option<Self>, StoreError> {
        let columns: Vec<String> = fixed
            .key
            .iter()
            .chain(fixed.columns)
            .map(|column| (*column).to_owned())
            .collect();
        let cleaned_by = fixed
            .key
            .iter()
            .position(|column| Some(*column) == fixed.cleaned_by);
        let order: Vec<String> = columns.iter().take(3).cloned().collect();
        let side = |schema| -> Result<Option<Side>, StoreError> {
            let table = Table::find(conn, schema, fixed.name)?;
            Ok(table.and_then(|table| Side::new(&table, &columns, &order)))
        };
        let (Some(main), Some(old)) = (side(MAIN)?, side(OLD)?) else {
            return Ok(None);
        };
        Ok(Some(Self {
            name: fixed.name.to_owned(),
            key: fixed.key.len(),
            levels: vec![(2..fixed.key.len()).collect(), cleaned_by.into_iter().collect()],
            cleaned_by,
            main: Some(main),
            old: Some(old),
            by_rowid: false,
            columns,
        }))
    }

    /// An exploded table, as far as both have it. `None`: not the key.
    pub(super) fn exploded(main: Option<&Table>, old: Option<&Table>) -> Option<Self> {
        let model = main.or(old)?;
        let mut order = vec!["pc_id".to_owned(), "job_id".to_owned()];
        let key = model.key();
        order.extend(key.into_iter().filter(|name| name != "pc_id" && name != "job_id"));
        let mut columns = order.clone();
        for column in &model.columns {
            let name = column.name.to_ascii_lowercase();
            let common = [main, old]
                .into_iter()
                .flatten()
                .all(|table| table.column(&name).is_some());
            if common && !order.contains(&name) {
                columns.push(name);
            }
        }
        let side = |table: Option<&Table>| table.map(|table| Side::new(table, &columns, &order));
        let all = |side: Option<Option<Side>>| match side {
            Some(None) => None,
            Some(side) => Some(side),
            None => Some(None),
        };
        Some(Self {
            name: model.name.clone(),
            main: all(side(main))?,
            old: all(side(old))?,
            key: order.len(),
            levels: vec![(2..order.len()).collect()],
            cleaned_by: None,
            by_rowid: true,
            columns,
        })
    }
}

/// A pair whose lists differ.
#[derive(Debug, Default)]
pub(super) struct Pair {
    /// A row of it.
    at: Line,
    /// The row ids of what was the same before, and what comes after.
    pub(super) should_before: Vec<i64>,
    pub(super) is_before: Vec<i64>,
    pub(super) should: Vec<Line>,
    pub(super) is: Vec<Line>,
}

impl Pair {
    fn holds(&self, line: &Line) -> bool {
        self.at.pair() == line.pair()
    }

    fn begin(&mut self, line: &Line) {
        self.at.clone_from(line);
        self.should_before.clear();
        self.is_before.clear();
    }

    /// PC and job.
    pub(super) fn names(&self) -> (String, String) {
        (key_text(self.at.value(0)), key_text(self.at.value(1)))
    }
}

struct Cursor<'s> {
    rows: Option<Rows<'s>>,
    fetch: Option<Statement<'s>>,
    columns: usize,
    line: Line,
}

impl<'s> Cursor<'s> {
    fn begin(
        conn: &'s Connection,
        side: Option<&Side>,
        select: Option<&'s mut Statement<'_>>,
        columns: usize,
    ) -> Result<Self, rusqlite::Error> {
        let fetch = side.and_then(|side| side.fetch.as_ref());
        let mut cursor = Self {
            rows: select.map(|select| select.query([])).transpose()?,
            fetch: fetch.map(|sql| conn.prepare(sql)).transpose()?,
            columns,
            line: Line::default(),
        };
        cursor.advance()?;
        Ok(cursor)
    }

    fn advance(&mut self) -> Result<(), rusqlite::Error> {
        let Some(rows) = &mut self.rows else {
            return Ok(());
        };
        let Some(row) = rows.next()? else {
            self.rows = None;
            return Ok(());
        };
        let rowid = row.get(0)?;
        match &mut self.fetch {
            None => self.line.read(row, 1, self.columns)?,
            Some(fetch) => fetch.query_row([rowid], |row| self.line.read(row, 0, self.columns))?,
        }
        self.line.rowid = rowid;
        Ok(())
    }

    fn line(&self) -> Option<&Line> {
        self.rows.as_ref().map(|_| &self.line)
    }

    /// Takes the rest of a pair's rows.
    fn rest_of(&mut self, pair: &Pair) -> Result<Vec<Line>, rusqlite::Error> {
        let mut rest = Vec::new();
        while let Some(line) = self.line().filter(|line| pair.holds(line)) {
            rest.push(line.clone());
            self.advance()?;
        }
        Ok(rest)
    }
}

/// Finds every pair whose lists differ. Returns how many rows the scratch has.
pub(super) fn walk(
    conn: &Connection,
    list: &List,
    sink: &mut dyn FnMut(Pair) -> Result<(), StoreError>,
) -> Result<u64, StoreError> {
    let sqlite = |source| StoreError::sqlite(format_args!("compare {:?}", list.name))(source);
    let select = |side: &Option<Side>| side.as_ref().map(|side| conn.prepare(&side.cursor)).transpose();
    let (mut main, mut old) = (
        select(&list.main).map_err(sqlite)?,
        select(&list.old).map_err(sqlite)?,
    );
    let columns = list.columns.len();
    let mut should = Cursor::begin(conn, list.main.as_ref(), main.as_mut(), columns).map_err(sqlite)?;
    let mut is = Cursor::begin(conn, list.old.as_ref(), old.as_mut(), columns).map_err(sqlite)?;
    let mut compared = 0;
    let mut pair = Pair::default();
    loop {
        let least = match (should.line(), is.line()) {
            (None, None) => return Ok(compared),
            (Some(one), Some(other)) if one.is_same(other) => {
                if !pair.holds(one) {
                    pair.begin(one);
                }
                pair.should_before.push(one.rowid);
                pair.is_before.push(other.rowid);
                compared += 1;
                should.advance().and_then(|()| is.advance()).map_err(sqlite)?;
                continue;
            }
            (Some(one), Some(other)) if other.pair_order(one).is_lt() => other,
            (Some(one), _) => one,
            (None, Some(other)) => other,
        };
        if !pair.holds(least) {
            pair.begin(least);
        }
        pair.should = should.rest_of(&pair).map_err(sqlite)?;
        pair.is = is.rest_of(&pair).map_err(sqlite)?;
        compared += u64::try_from(pair.should.len()).unwrap_or(u64::MAX);
        sink(std::mem::take(&mut pair))?;
    }
}

/// What is wrong with a pair's rows.
#[derive(Debug)]
pub(super) struct Judged {
    pub(super) findings: Vec<Finding>,
    /// The scratch speaks for the pair, though it may have no row of it.
    pub(super) ours: bool,
}

/// Judges a pair, and counts. `None`: nothing is wrong, or the scratch cannot say.
pub(super) fn judge(
    conn: &Connection,
    list: &List,
    pair: &Pair,
    scope: &Scope,
    counted: &mut Counted,
) -> Result<Option<Judged>, StoreError> {
    let ours = !pair.should_before.is_empty() || !pair.should.is_empty() || has_facts(conn, pair)?;
    if !ours && !scope.whole {
        return Ok(None);
    }
    let cleaned_up = |line: &Line| {
        let cutoff = list.cleaned_by.zip(scope.horizons.of(&list.name));
        cutoff.is_some_and(|(column, before)| line.value(column).as_str().is_ok_and(|time| time < before))
    };
    let findings = align(&pair.should, &pair.is, &list.levels, cleaned_up);
    let mut wrong = false;
    for finding in &findings {
        let count = match finding {
            Finding::Missing(_) => &mut counted.missing,
            Finding::Cleaned(_) => &mut counted.cleaned_up,
            Finding::Unexpected(_) => &mut counted.unexpected,
            Finding::Changed(..) => &mut counted.different,
        };
        *count += 1;
        wrong |= !matches!(finding, Finding::Cleaned(_));
    }
    Ok(wrong.then_some(Judged { findings, ours }))
}

/// Whether the scratch knows what the pair's last inventory says: then also that a table has no rows of it.
fn has_facts(conn: &Connection, pair: &Pair) -> Result<bool, StoreError> {
    conn.prepare_cached("SELECT EXISTS (SELECT 1 FROM main.inventory_facts WHERE pc_id = ?1 AND job_id = ?2)")
        .and_then(|mut select| {
            let values = [pair.at.value(0), pair.at.value(1)];
            select.query_row(values.map(ToSqlOutput::Borrowed), |row| row.get(0))
        })
        .map_err(StoreError::sqlite("look at inventory_facts"))
}

/// Tells a finding, column by column.
pub(super) fn name(list: &List, pair: &Pair, finding: Finding, tell: &mut dyn FnMut(Difference)) {
    let difference = |line: &Line, kind| Difference {
        table: list.name.clone(),
        key: list
            .columns
            .iter()
            .take(list.key)
            .enumerate()
            .map(|(index, column)| (column.clone(), key_text(line.value(index))))
            .collect::<BTreeMap<_, _>>(),
        kind,
    };
    match finding {
        Finding::Cleaned(_) => {}
        Finding::Missing(at) => {
            if let Some(line) = pair.should.get(at) {
                tell(difference(line, Kind::Missing));
            }
        }
        Finding::Unexpected(at) => {
            if let Some(line) = pair.is.get(at) {
                tell(difference(line, Kind::Unexpected));
            }
        }
        Finding::Changed(one, other) => {
            let (Some(should), Some(is)) = (pair.should.get(one), pair.is.get(other)) else {
                return;
            };
            for (index, column) in list.columns.iter().enumerate() {
                if should.raw(index) == is.raw(index) {
                    continue;
                }
                let (found, expected) = shown_pair(is.value(index), should.value(index));
                let kind = Kind::Column {
                    name: column.clone(),
                    found,
                    expected,
                };
                tell(difference(should, kind));
            }
        }
    }
}
