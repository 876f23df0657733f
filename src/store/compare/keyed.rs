//! Tables whose rows have keys: joined and compared inside SQLite, so that no text leaves it that does not differ.

use rusqlite::{Connection, Statement};

use super::super::StoreError;
use super::super::table::{Affinity, Column, MAIN, OLD, Table};
use super::cells::{key_text, shown_pair};
use super::tables::{FEEDS, Fixed, RESULTS};
use super::{Counted, Difference, Kind, Scope, listed, quoted};

/// A table as far as it can be compared.
#[derive(Debug)]
pub(super) struct Keyed {
    pub(super) fixed: &'static Fixed,
    /// Those of [`Fixed::columns`] that the database has: bit by bit in [`Found::Changed`].
    pub(super) columns: Vec<&'static str>,
    /// How each of them differs, in SQL.
    differs: Vec<String>,
}

/// A difference, by row ids.
#[derive(Clone, Copy, Debug)]
pub(super) enum Found {
    /// Of the scratch.
    Missing(i64),
    /// Of the database. `ours`: the scratch speaks for it, by having the whole of which it is a part.
    Unexpected { row: i64, ours: bool },
    /// Of both, and which columns differ.
    Changed { should: i64, is: i64, mask: i64 },
}

impl Keyed {
    /// `None`: the table or its key is not there.
    pub(super) fn find(conn: &Connection, fixed: &'static Fixed) -> Result<Option<Self>, StoreError> {
        let Some(old) = Table::find(conn, OLD, fixed.name)? else {
            return Ok(None);
        };
        if fixed.key.iter().any(|column| old.column(column).is_none()) {
            return Ok(None);
        }
        let main = Table::find(conn, MAIN, fixed.name)?;
        let (mut columns, mut differs) = (Vec::new(), Vec::new());
        for name in fixed.columns {
            if let Some(found) = old.column(name) {
                let should = main.as_ref().and_then(|main| main.column(name));
                differs.push(differ(name, should, found));
                columns.push(*name);
            }
        }
        Ok(Some(Self {
            fixed,
            columns,
            differs,
        }))
    }

    /// The columns whose bits are set.
    pub(super) fn changed(&self, mask: i64) -> impl Iterator<Item = &'static str> {
        self.columns
            .iter()
            .enumerate()
            .filter(move |(bit, _)| mask >> bit & 1 == 1)
            .map(|(_, column)| *column)
    }

    fn same_key(&self) -> String {
        self.fixed
            .key
            .iter()
            .map(|column| format!("have.{0} = should.{0} COLLATE BINARY", quoted(column)))
            .collect::<Vec<_>>()
            .join(" AND ")
    }

    /// Rows of the scratch that are not there, or not the same.
    fn different(&self) -> String {
        let differ = &self.differs;
        let mask: Vec<String> = differ
            .iter()
            .enumerate()
            .map(|(bit, differs)| format!("({differs} << {bit})"))
            .collect();
        let name = self.fixed.name;
        let cleaned = self.fixed.cleaned_by.map_or("0".to_owned(), |column| {
            format!("coalesce(should.{} < ?1, 0)", quoted(column))
        });
        // The scratch is read as it lies; the other file's rows mostly lie in the same order.
        format!(
            "SELECT should.rowid, have.rowid, {mask}, {cleaned}, ?1
             FROM main.{name} AS should LEFT JOIN old.{name} AS have ON {same}
             WHERE have.rowid IS NULL OR {differ}",
            mask = mask.join(" | "),
            same = self.same_key(),
            differ = differ.join(" OR "),
        )
    }

    /// Rows that only the database has.
    fn unexpected(&self) -> String {
        let name = self.fixed.name;
        // A feed is replaced as a whole: its items are the scratch's to name once the scratch has the feed.
        let ours = if name == FEEDS {
            "EXISTS (SELECT 1 FROM main.feed_meta AS meta WHERE meta.feed_id = have.feed_id)"
        } else {
            "0"
        };
        format!(
            "SELECT have.rowid, {ours} FROM old.{name} AS have
             WHERE NOT EXISTS (SELECT 1 FROM main.{name} AS should WHERE {})",
            self.same_key()
        )
    }
}

/// When a column's cells differ. Without a sign before it a column would bring its affinity and its collation. SQLite
/// takes 1 and 1.0 for equal: both can be only where a column turns neither into the other, or the files' columns differ
/// in that; elsewhere asking for types would be a third of the whole time.
fn differ(name: &str, should: Option<&Column>, found: &Column) -> String {
    let column = quoted(name);
    let values = format!("+should.{column} IS NOT +have.{column} COLLATE BINARY");
    let affinity = found.affinity();
    if affinity != Affinity::Blob && should.is_some_and(|should| should.affinity() == affinity) {
        return format!("({values})");
    }
    format!("({values} OR typeof(should.{column}) <> typeof(have.{column}))")
}

/// Finds every difference, and counts.
pub(super) fn walk(
    conn: &Connection,
    table: &Keyed,
    scope: &Scope,
    counted: &mut Counted,
    sink: &mut dyn FnMut(Found) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let name = table.fixed.name;
    let sqlite = |source| StoreError::sqlite(format_args!("compare {name}"))(source);
    counted.compared = conn
        .query_row(&format!("SELECT count(*) FROM main.{name}"), [], |row| row.get(0))
        .map_err(sqlite)?;
    let mut different = conn.prepare(&table.different()).map_err(sqlite)?;
    let mut rows = different.query([scope.horizons.of(name)]).map_err(sqlite)?;
    while let Some(row) = rows.next().map_err(sqlite)? {
        let read = || -> Result<(i64, Option<i64>, i64, bool), rusqlite::Error> {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
        };
        match read().map_err(sqlite)? {
            (should, Some(is), mask, _) => {
                counted.different += 1;
                sink(Found::Changed { should, is, mask })?;
            }
            (_, None, _, true) => counted.cleaned_up += 1,
            (should, None, _, false) => {
                counted.missing += 1;
                sink(Found::Missing(should))?;
            }
        }
    }
    let mut unexpected = conn.prepare(&table.unexpected()).map_err(sqlite)?;
    let mut rows = unexpected.query([]).map_err(sqlite)?;
    while let Some(row) = rows.next().map_err(sqlite)? {
        let (row, ours): (i64, bool) = row.get(0).and_then(|id| Ok((id, row.get(1)?))).map_err(sqlite)?;
        if !scope.whole && !ours {
            continue;
        }
        if name == RESULTS && !scope.all_at_hand {
            counted.vouched += 1;
        } else {
            counted.unexpected += 1;
            sink(Found::Unexpected { row, ours })?;
        }
    }
    Ok(())
}

/// Reads rows by their ids, to name them.
pub(super) struct Names<'a> {
    should: Statement<'a>,
    is: Statement<'a>,
}

impl<'a> Names<'a> {
    pub(super) fn prepare(conn: &'a Connection, table: &Keyed) -> Result<Self, StoreError> {
        let columns = listed(table.fixed.key.iter().chain(&table.columns).copied(), "");
        let select = |schema: &str| {
            conn.prepare(&format!(
                "SELECT {columns} FROM {schema}.{} WHERE rowid = ?1",
                table.fixed.name
            ))
            .map_err(StoreError::sqlite(format_args!("compare {}", table.fixed.name)))
        };
        Ok(Self {
            should: select("main")?,
            is: select("old")?,
        })
    }

    /// Tells a difference, column by column.
    pub(super) fn name(
        &mut self,
        table: &Keyed,
        found: Found,
        tell: &mut dyn FnMut(Difference),
    ) -> Result<(), StoreError> {
        let key_of = |row: &rusqlite::Row<'_>| -> Result<_, rusqlite::Error> {
            table
                .fixed
                .key
                .iter()
                .enumerate()
                .map(|(index, column)| Ok(((*column).to_owned(), key_text(row.get_ref(index)?))))
                .collect()
        };
        let difference = |key, kind| Difference {
            table: table.fixed.name.to_owned(),
            key,
            kind,
        };
        let mut read = || -> Result<(), rusqlite::Error> {
            match found {
                Found::Missing(row) => tell(difference(
                    self.should.query_row([row], |row| key_of(row))?,
                    Kind::Missing,
                )),
                Found::Unexpected { row, .. } => tell(difference(
                    self.is.query_row([row], |row| key_of(row))?,
                    Kind::Unexpected,
                )),
                Found::Changed { should, is, mask } => {
                    let (mut should, mut is) = (self.should.query([should])?, self.is.query([is])?);
                    let (Some(should), Some(is)) = (should.next()?, is.next()?) else {
                        return Ok(());
                    };
                    for column in table.changed(mask) {
                        let (found, expected) = shown_pair(is.get_ref(column)?, should.get_ref(column)?);
                        tell(difference(
                            key_of(should)?,
                            Kind::Column {
                                name: column.to_owned(),
                                found,
                                expected,
                            },
                        ));
                    }
                }
            }
            Ok(())
        };
        read().map_err(StoreError::sqlite(format_args!("compare {}", table.fixed.name)))
    }
}
