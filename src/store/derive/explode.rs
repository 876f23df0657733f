//! One spec's rows of one pair: compared before anything is written (contract §7.5.4, §7.5.5).

use std::borrow::Cow;
use std::fmt;

use rusqlite::types::{ToSqlOutput, Value as SqlValue, ValueRef};
use rusqlite::{Connection, ErrorCode, Row, ToSql, params};
use serde_json::Value;

use super::super::{Class, StoreError};
use super::shape::{Shape, Shapes, Statements};
use super::{Evidence, Mode, history};
use crate::projection::explode::{
    Cell, ColumnKind, Edit, Element, ExplodeSpec, array, edit, is_same, needs_affinity,
};
use crate::projection::history::element_events;
use crate::projection::scan::Found;

/// What became of a spec's part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Exploded {
    /// The table holds the elements.
    Done,
    /// It does too, without those whose key came before: how many.
    Repeated(usize),
    /// The table is not to be touched: why.
    Refused(String),
    /// The rows are as they were: more than we hold in memory.
    TooMany(String),
}

/// Brings a pair's rows to the elements of `payload`; `found`: those, if they were read already.
pub(super) fn replace(
    conn: &Connection,
    shapes: &mut Shapes,
    spec: &ExplodeSpec,
    evidence: &Evidence<'_>,
    payload: &Value,
    found: Option<Found>,
    mode: Mode,
) -> Result<Exploded, StoreError> {
    let statements = match shapes.of(conn, spec)? {
        Shape::Ready(statements) => statements,
        Shape::Refused(reason) => return Ok(Exploded::Refused(reason.clone())),
    };
    let what = |error| theirs(format_args!("write the rows of {}", evidence.pair))(error);
    let sent = array(spec, payload).len();
    if !spec.fits(sent) {
        return Ok(Exploded::TooMany(format!(
            "{sent} elements, {} are taken with so many columns",
            spec.elements_max()
        )));
    }
    let (new, repeated) = found
        .unwrap_or_else(|| Found::of(spec, payload))
        .elements(spec, payload, |cells| apply_affinity(conn, spec, cells))
        .map_err(what)?;
    let events_wanted = spec.track_history && mode == Mode::WithHistory;
    let Some(Rows { rowids, rows: old }) = rows(conn, statements, spec, evidence, &new).map_err(what)? else {
        // Too many to compare, as a spec that has grown many columns makes them.
        if events_wanted {
            return Ok(Exploded::TooMany(format!(
                "the table holds more than the {} rows that can be compared with so many columns",
                spec.elements_max()
            )));
        }
        conn.prepare_cached(&statements.delete)
            .and_then(|mut delete| delete.execute([evidence.pair.pc_id, evidence.pair.job_id]))
            .and_then(|_| insert(conn, statements, evidence, &new))
            .map_err(what)?;
        return Ok(done(repeated));
    };
    let unchanged = old.len() == new.len() && old.iter().zip(&new).all(|(old, new)| is_same(old, &new.cells));
    if unchanged {
        touch(conn, statements, evidence, &rowids).map_err(what)?;
        return Ok(done(repeated));
    }
    if events_wanted {
        history::enter(conn, evidence, element_events(spec, &old, &new))?;
    }
    apply(
        conn,
        statements,
        spec,
        evidence,
        &rowids,
        &edit(spec, &old, &new),
        &new,
    )
    .map_err(what)?;
    Ok(done(repeated))
}

fn done(repeated: usize) -> Exploded {
    match repeated {
        0 => Exploded::Done,
        repeated => Exploded::Repeated(repeated),
    }
}

/// What a statement on an exploded table says once it was prepared is the table's doing: an index on an expression, or
/// a trigger, of somebody's that does not take a value. SQLite's code for that is also that of a schema of ours that is
/// broken, which would hold up everything.
fn theirs(what: impl fmt::Display) -> impl FnOnce(rusqlite::Error) -> StoreError {
    move |source| {
        let changed = source.sqlite_error_code() == Some(ErrorCode::SchemaChanged);
        let error = StoreError::Sqlite {
            what: what.to_string(),
            source,
        };
        match error.class() {
            Class::Schema if !changed => StoreError::Value(error.to_string()),
            _ => error,
        }
    }
}

/// Takes a pair's rows away, before they are made anew.
pub(super) fn clear(
    conn: &Connection,
    shapes: &mut Shapes,
    spec: &ExplodeSpec,
    pc_id: &str,
    job_id: &str,
) -> Result<(), StoreError> {
    if let Shape::Ready(statements) = shapes.of(conn, spec)? {
        conn.prepare_cached(&statements.delete)
            .and_then(|mut delete| delete.execute([pc_id, job_id]))
            .map_err(theirs(format_args!("empty {:?}", spec.table)))?;
    }
    Ok(())
}

/// A pair's rows in the order in which they were written. One that is stored as a new element wants it is that element's.
struct Rows<'n> {
    rowids: Vec<i64>,
    rows: Vec<Cow<'n, [Cell]>>,
}

/// Elements that are looked at for each row, before its cells are copied.
const LOOK_AT: usize = 8;

/// Reads a pair's rows. `None`: more than fit.
fn rows<'n>(
    conn: &Connection,
    statements: &Statements,
    spec: &ExplodeSpec,
    evidence: &Evidence<'_>,
    new: &'n [Element<'_>],
) -> Result<Option<Rows<'n>>, rusqlite::Error> {
    let Evidence { pair, .. } = evidence;
    // SQLite goes by the key, so that row and element meet without a search; in any other order this would only take longer.
    let mut coming: Vec<&'n [Cell]> = new.iter().map(AsRef::as_ref).collect();
    coming.sort_unstable_by(|one, other| spec.by_key(one, other));
    let mut coming = coming.as_slice();
    let mut select = conn.prepare_cached(&statements.select)?;
    let mut found = select.query([pair.pc_id, pair.job_id])?;
    let mut rows = Vec::with_capacity(new.len());
    while let Some(row) = found.next()? {
        if !spec.fits(rows.len() + 1) {
            return Ok(None);
        }
        let mut cells = None;
        for (at, element) in coming.iter().enumerate().take(LOOK_AT) {
            if holds(row, element, 0..element.len())? {
                coming = coming.get(at + 1..).unwrap_or_default();
                cells = Some(Cow::Borrowed(*element));
                break;
            }
        }
        let cells = match (cells, coming.first()) {
            (Some(cells), _) => cells,
            (None, next) => {
                if let Some(next) = next
                    && holds(row, next, spec.key.iter().copied())?
                {
                    coming = coming.get(1..).unwrap_or_default();
                }
                let cells = (1..=spec.columns.len()).map(|index| cell(row, index));
                Cow::Owned(cells.collect::<Result<_, _>>()?)
            }
        };
        rows.push((row.get::<_, i64>(0)?, cells));
    }
    rows.sort_unstable_by_key(|(rowid, _)| *rowid);
    let (rowids, rows) = rows.into_iter().unzip();
    Ok(Some(Rows { rowids, rows }))
}

/// Whether these columns of a row, behind its row id, are these cells as [`cell`] would read them.
fn holds(
    row: &Row<'_>,
    cells: &[Cell],
    columns: impl Iterator<Item = usize>,
) -> Result<bool, rusqlite::Error> {
    for column in columns {
        let cell = cells.get(column).unwrap_or(&Cell::Null);
        let same = match (row.get_ref(column + 1)?, cell) {
            (ValueRef::Null, Cell::Null) => true,
            (ValueRef::Integer(stored), Cell::Integer(number)) => stored == *number,
            (ValueRef::Real(stored), Cell::Real(_)) => Cell::Real(stored) == *cell,
            (ValueRef::Text(bytes) | ValueRef::Blob(bytes), Cell::Text(text)) => bytes == text.as_bytes(),
            _ => false,
        };
        if !same {
            return Ok(false);
        }
    }
    Ok(true)
}

fn cell(row: &Row<'_>, index: usize) -> Result<Cell, rusqlite::Error> {
    Ok(match row.get_ref(index)? {
        ValueRef::Null => Cell::Null,
        ValueRef::Integer(number) => Cell::Integer(number),
        ValueRef::Real(number) => Cell::Real(number),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Cell::Text(match std::str::from_utf8(bytes) {
            Ok(text) => text.to_owned(),
            Err(_) => String::from_utf8_lossy(bytes).into_owned(),
        }),
    })
}

/// Gives a pair's rows a new `collected_at`.
fn touch(
    conn: &Connection,
    statements: &Statements,
    evidence: &Evidence<'_>,
    rowids: &[i64],
) -> Result<(), rusqlite::Error> {
    let Evidence {
        pair, finished_at, ..
    } = evidence;
    let (Some(first), Some(last)) = (rowids.first(), rowids.last()) else {
        return Ok(());
    };
    let side_by_side = i64::try_from(rowids.len()).is_ok_and(|rows| last - first + 1 == rows);
    if side_by_side {
        conn.prepare_cached(&statements.touch_range)?
            .execute(params![finished_at, first, last])?;
    } else {
        conn.prepare_cached(&statements.touch)?
            .execute(params![pair.pc_id, pair.job_id, finished_at])?;
    }
    Ok(())
}

/// Writes what has changed.
fn apply(
    conn: &Connection,
    statements: &Statements,
    spec: &ExplodeSpec,
    evidence: &Evidence<'_>,
    rowids: &[i64],
    edit: &Edit,
    new: &[Element<'_>],
) -> Result<(), rusqlite::Error> {
    for row in &edit.removed {
        conn.prepare_cached(&statements.remove)?
            .execute([rowids.get(*row)])?;
    }
    for (row, element) in &edit.updated {
        let (Some(element), Some(sql)) = (new.get(*element), &statements.update) else {
            continue;
        };
        let mut update = conn.prepare_cached(sql)?;
        update.raw_bind_parameter(1, rowids.get(*row))?;
        for (at, number) in spec.others().zip(2..) {
            update.raw_bind_parameter(number, Bound(element.cells.get(at).unwrap_or(&Cell::Null)))?;
        }
        update.raw_execute()?;
    }
    let kept: Vec<i64> = rowids
        .iter()
        .enumerate()
        .filter(|(row, _)| edit.removed.binary_search(row).is_err())
        .map(|(_, rowid)| *rowid)
        .collect();
    touch(conn, statements, evidence, &kept)?;
    let appended = new.get(edit.appended_from..).unwrap_or_default();
    insert(conn, statements, evidence, appended)
}

fn insert(
    conn: &Connection,
    statements: &Statements,
    evidence: &Evidence<'_>,
    elements: &[Element<'_>],
) -> Result<(), rusqlite::Error> {
    if elements.is_empty() {
        return Ok(());
    }
    let Evidence {
        pair, finished_at, ..
    } = evidence;
    let mut insert = conn.prepare_cached(&statements.insert)?;
    for element in elements {
        insert.raw_bind_parameter(1, pair.pc_id)?;
        insert.raw_bind_parameter(2, pair.job_id)?;
        insert.raw_bind_parameter(3, finished_at)?;
        for (index, cell) in element.cells.iter().enumerate() {
            insert.raw_bind_parameter(index + 4, Bound(cell))?;
        }
        insert.raw_execute()?;
    }
    Ok(())
}

struct Bound<'a>(&'a Cell);

impl ToSql for Bound<'_> {
    fn to_sql(&self) -> Result<ToSqlOutput<'_>, rusqlite::Error> {
        Ok(match self.0 {
            Cell::Null => ToSqlOutput::Owned(SqlValue::Null),
            Cell::Integer(number) => ToSqlOutput::Owned(SqlValue::Integer(*number)),
            Cell::Real(number) => ToSqlOutput::Owned(SqlValue::Real(*number)),
            Cell::Text(text) => ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes())),
        })
    }
}

/// A text in a column of numbers is stored as SQLite's affinity has it: which texts are numbers, and which number each
/// is, only SQLite says. Asked through a scratch table of this connection.
fn apply_affinity(
    conn: &Connection,
    spec: &ExplodeSpec,
    rows: &mut [Vec<Cell>],
) -> Result<(), rusqlite::Error> {
    for cells in rows {
        for (column, cell) in spec.columns.iter().zip(cells) {
            if needs_affinity(column.kind, cell) {
                conn.prepare_cached("INSERT OR REPLACE INTO temp.projector_affinity VALUES (1, ?1, ?1)")?
                    .execute([Bound(cell)])?;
                let sql = match column.kind {
                    ColumnKind::Real => "SELECT as_real FROM temp.projector_affinity",
                    ColumnKind::Integer | ColumnKind::Text => {
                        "SELECT as_integer FROM temp.projector_affinity"
                    }
                };
                *cell = conn
                    .prepare_cached(sql)?
                    .query_row([], |row| self::cell(row, 0))?;
            }
        }
    }
    Ok(())
}

/// Makes the scratch table; once per connection.
pub(in super::super) fn prepare_affinity(conn: &Connection) -> Result<(), rusqlite::Error> {
    conn.execute_batch(
        "CREATE TEMP TABLE projector_affinity (entry INTEGER PRIMARY KEY, as_integer INTEGER, as_real REAL)",
    )
}
