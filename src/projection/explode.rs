//! From an array to the rows of a table (contract §7.5, §7.6).

use std::cmp::Ordering;
use std::collections::HashSet;
use std::hash::{Hash, Hasher};

use serde_json::{Number, Value};

use super::spec::BUILT_IN;
use crate::wire::json::compact;

/// Cells, of all columns, that one spec may have of one payload. The contract sets no limit, but a wide spec multiplies
/// tiny elements, so that a few megabytes of output would take all memory, and hours to bind (I6). A cell takes 24
/// bytes: the new rows, the old ones and the keys to find them by stay within 300 MB. Enough for ten thousand elements
/// in four hundred columns, or four thousand in a thousand.
pub const CELLS_MAX: usize = 4_000_000;

/// A spec that is valid and allowed (§7.5.1, §7.5.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExplodeSpec {
    /// Top-level key of the array.
    pub field: String,
    /// The table. SQLite compares names without regard to ASCII case.
    pub table: String,
    /// The columns behind the three built-in ones.
    pub columns: Vec<Column>,
    /// Indices into `columns`, in the order of the spec's key, none twice.
    pub key: Vec<usize>,
    /// Whether changes are recorded.
    pub track_history: bool,
}

/// A column, and the element's key that fills it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type.
    pub kind: ColumnKind,
    /// Whether it has an index.
    pub index: bool,
}

/// The type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ColumnKind {
    /// `text`, and what has no type.
    Text,
    /// `integer`.
    Integer,
    /// `real`.
    Real,
}

impl ColumnKind {
    /// As a manifest says it; exactly so.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "text" => Some(Self::Text),
            "integer" => Some(Self::Integer),
            "real" => Some(Self::Real),
            _ => None,
        }
    }

    /// As SQLite says it.
    #[must_use]
    pub fn as_sql(self) -> &'static str {
        match self {
            Self::Text => "TEXT",
            Self::Integer => "INTEGER",
            Self::Real => "REAL",
        }
    }
}

/// A stored value.
#[derive(Clone, Debug)]
pub enum Cell {
    /// NULL.
    Null,
    /// INTEGER.
    Integer(i64),
    /// REAL.
    Real(f64),
    /// TEXT.
    Text(String),
}

/// Reals are equal as numbers. SQLite stores no NaN; that it equals itself here makes the relation a whole one.
impl PartialEq for Cell {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::Integer(one), Self::Integer(other)) => one == other,
            (Self::Real(one), Self::Real(other)) => bits(*one) == bits(*other),
            (Self::Text(one), Self::Text(other)) => one == other,
            _ => false,
        }
    }
}

impl Eq for Cell {}

impl Hash for Cell {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Self::Null => 0_u8.hash(state),
            Self::Integer(value) => (1_u8, value).hash(state),
            Self::Real(value) => (2_u8, bits(*value)).hash(state),
            Self::Text(value) => (3_u8, value).hash(state),
        }
    }
}

/// Equal for equal numbers: there are two zeros.
fn bits(real: f64) -> u64 {
    (real + 0.0).to_bits()
}

impl Cell {
    /// See [`ExplodeSpec::by_key`].
    fn by_value(&self, other: &Self) -> Ordering {
        let kind = |cell: &Self| match cell {
            Self::Null => 0,
            Self::Integer(_) => 1,
            Self::Real(_) => 2,
            Self::Text(_) => 3,
        };
        match (self, other) {
            (Self::Integer(one), Self::Integer(other)) => one.cmp(other),
            (Self::Real(one), Self::Real(other)) => one.total_cmp(other),
            (Self::Text(one), Self::Text(other)) => one.cmp(other),
            _ => kind(self).cmp(&kind(other)),
        }
    }

    /// The value as JSON, for `identity_json` and `before_json`.
    #[must_use]
    pub fn to_json(&self) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Integer(value) => Value::from(*value),
            Self::Real(value) => Number::from_f64(*value).map_or(Value::Null, Value::Number),
            Self::Text(value) => Value::from(value.as_str()),
        }
    }
}

impl ExplodeSpec {
    /// Whether so many elements are no more than [`CELLS_MAX`] cells.
    #[must_use]
    pub fn fits(&self, elements: usize) -> bool {
        elements <= self.elements_max()
    }

    /// So many elements are taken of one payload.
    #[must_use]
    pub fn elements_max(&self) -> usize {
        CELLS_MAX / (BUILT_IN.len() + self.columns.len())
    }

    /// The values of the key, in its order.
    #[must_use]
    pub fn identity<'a>(&self, cells: &'a [Cell]) -> Vec<&'a Cell> {
        self.key
            .iter()
            .map(|column| cells.get(*column).unwrap_or(&Cell::Null))
            .collect()
    }

    /// How two rows stand in the order of the key. Nearly SQLite's: numbers of two kinds may stand the other way round.
    #[must_use]
    pub fn by_key(&self, one: &[Cell], other: &[Cell]) -> Ordering {
        let cells = |column: &usize| (one.get(*column), other.get(*column));
        self.key
            .iter()
            .map(|column| match cells(column) {
                (Some(one), Some(other)) => one.by_value(other),
                (one, other) => one.is_some().cmp(&other.is_some()),
            })
            .find(|order| order.is_ne())
            .unwrap_or(Ordering::Equal)
    }

    /// Whether two rows have the same key, where NULL is NULL.
    #[must_use]
    pub(super) fn is_same_identity(&self, one: &[Cell], other: &[Cell]) -> bool {
        self.key
            .iter()
            .all(|column| one.get(*column) == other.get(*column))
    }

    /// Whether two rows have the same key, without a NULL in it.
    fn is_same_row(&self, one: &[Cell], other: &[Cell]) -> bool {
        self.key.iter().all(|column| {
            let (one, other) = (one.get(*column), other.get(*column));
            one == other && !matches!(one, None | Some(Cell::Null))
        })
    }

    /// The columns that are no part of the key, by their index.
    pub fn others(&self) -> impl Iterator<Item = usize> {
        (0..self.columns.len()).filter(|column| !self.key.contains(column))
    }

    /// A name for the table's row id that no column has taken; there is one, or the spec would not be valid.
    #[must_use]
    pub fn rowid(&self) -> &'static str {
        free_rowid(self.columns.iter().map(|column| column.name.as_str())).unwrap_or("rowid")
    }
}

/// The first of the row id's three names that is none of these columns.
#[must_use]
pub fn free_rowid<'a>(columns: impl Iterator<Item = &'a str> + Clone) -> Option<&'static str> {
    ["rowid", "_rowid_", "oid"]
        .into_iter()
        .find(|name| !columns.clone().any(|column| column.eq_ignore_ascii_case(name)))
}

/// What is handed to SQLite for a value; `None`: the element has no such key (§7.6). SQLite's affinity comes after.
#[must_use]
pub fn convert(kind: ColumnKind, value: Option<&Value>) -> Cell {
    match value {
        None | Some(Value::Null) => Cell::Null,
        Some(Value::String(text)) => Cell::Text(text.clone()),
        Some(Value::Number(number)) => match kind {
            ColumnKind::Text => Cell::Text(number.to_string()),
            ColumnKind::Integer => number.as_i64().map_or(Cell::Null, Cell::Integer),
            // SQLite keeps no negative zero.
            ColumnKind::Real => number.as_f64().map_or(Cell::Null, |real| Cell::Real(real + 0.0)),
        },
        Some(other) => Cell::Text(compact(other)),
    }
}

/// Whether only SQLite can tell what it will store: a text that may look like a number to it, in a column of
/// numbers. May say yes too often, never no too often.
#[must_use]
pub fn needs_affinity(kind: ColumnKind, cell: &Cell) -> bool {
    let Cell::Text(text) = cell else {
        return false;
    };
    // SQLite's blanks: those of C, with the vertical tab.
    let blank = |byte: &&u8| matches!(byte, b' ' | b'\t' | b'\n' | 0x0b | 0x0c | b'\r');
    let first = text.as_bytes().iter().find(|byte| !blank(byte));
    kind != ColumnKind::Text && first.is_some_and(|byte| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.'))
}

/// An element of the array.
#[derive(Clone, Debug)]
pub struct Element<'a> {
    /// Its declared columns, in the spec's order.
    pub cells: Vec<Cell>,
    /// As it was sent.
    pub value: &'a Value,
}

impl AsRef<[Cell]> for Element<'_> {
    fn as_ref(&self) -> &[Cell] {
        &self.cells
    }
}

/// The payload's array as it was sent; no array, no elements.
#[must_use]
pub fn array<'a>(spec: &ExplodeSpec, payload: &'a Value) -> &'a [Value] {
    match payload.get(&spec.field) {
        Some(Value::Array(elements)) => elements,
        _ => &[],
    }
}

/// The cells of the payload's elements, converted. An element that is no object has no keys.
#[must_use]
pub fn cells(spec: &ExplodeSpec, payload: &Value) -> Vec<Vec<Cell>> {
    let cells = |value: &Value| {
        spec.columns
            .iter()
            .map(|column| convert(column.kind, value.get(&column.name)))
            .collect()
    };
    array(spec, payload).iter().map(cells).collect()
}

/// The elements of the payload's array with these cells.
pub(super) fn with_cells<'a>(
    spec: &ExplodeSpec,
    payload: &'a Value,
    cells: Vec<Vec<Cell>>,
) -> Vec<Element<'a>> {
    cells
        .into_iter()
        .zip(array(spec, payload))
        .map(|(cells, value)| Element { cells, value })
        .collect()
}

/// For each row, whether an earlier one has its key: of those that one row can be of, the first stays. NULL in a key equals
/// nothing in SQLite, so such rows all stay. To be asked after affinity: `"1"` and `1` may have become one key.
#[must_use]
pub fn repeated(spec: &ExplodeSpec, rows: &[impl AsRef<[Cell]>]) -> Vec<bool> {
    let mut seen = HashSet::with_capacity(rows.len());
    rows.iter()
        .map(|row| {
            let identity = spec.identity(row.as_ref());
            !identity.contains(&&Cell::Null) && !seen.insert(identity)
        })
        .collect()
}

/// Keeps the elements that are not marked, and says how many it drops.
pub(super) fn drop_marked<'a>(elements: Vec<Element<'a>>, marked: Vec<bool>) -> (Vec<Element<'a>>, usize) {
    let before = elements.len();
    let kept: Vec<Element<'a>> = elements
        .into_iter()
        .zip(marked)
        .filter_map(|(element, marked)| (!marked).then_some(element))
        .collect();
    let dropped = before - kept.len();
    (kept, dropped)
}

/// Whether two rows hold the same. Quick for a row that is the element's own.
#[must_use]
pub fn is_same(one: &[Cell], other: &[Cell]) -> bool {
    std::ptr::eq(one, other) || one == other
}

/// How a pair's rows become the new elements in place: what is the same row in the same order stays where it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edit {
    /// Old rows that go, in rising order.
    pub removed: Vec<usize>,
    /// Old rows that take the values of a new element with the same key.
    pub updated: Vec<(usize, usize)>,
    /// New elements from here on are appended.
    pub appended_from: usize,
}

/// Finds the edit after which the rows, in their order, are the new elements: the same table as if all had been deleted
/// and inserted again (§7.5.5). Rows with NULL in the key are the
/// same only in every value.
#[must_use]
pub fn edit(spec: &ExplodeSpec, old: &[impl AsRef<[Cell]>], new: &[Element<'_>]) -> Edit {
    let identity = |cells: &[Cell]| -> Option<Vec<Cell>> {
        let key = spec.identity(cells);
        let whole = !key.iter().any(|cell| matches!(cell, Cell::Null));
        whole.then(|| key.into_iter().cloned().collect())
    };
    let mut edit = Edit::default();
    let mut still_to_come: Option<HashSet<Vec<Cell>>> = None;
    for (row, cells) in old.iter().map(AsRef::as_ref).enumerate() {
        let next = new.get(edit.appended_from);
        if let Some(next) = next
            && (is_same(cells, &next.cells) || spec.is_same_row(cells, &next.cells))
        {
            if !is_same(cells, &next.cells) {
                edit.updated.push((row, edit.appended_from));
            }
            edit.appended_from += 1;
            continue;
        }
        let to_come = still_to_come.get_or_insert_with(|| {
            new.iter()
                .skip(edit.appended_from)
                .filter_map(|element| identity(&element.cells))
                .collect()
        });
        if identity(cells).is_some_and(|identity| to_come.contains(&identity)) {
            // Something new comes before it: from here on the order is another.
            edit.removed.extend(row..old.len());
            break;
        }
        edit.removed.push(row);
    }
    edit
}

#[cfg(test)]
mod tests {
    use super::super::scan::Found;
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn spec() -> ExplodeSpec {
        let column = |name: &str, kind| Column {
            name: name.to_owned(),
            kind,
            index: false,
        };
        ExplodeSpec {
            field: "apps".to_owned(),
            table: "apps".to_owned(),
            columns: vec![
                column("ver", ColumnKind::Text),
                column("name", ColumnKind::Text),
                column("score", ColumnKind::Real),
            ],
            key: vec![1, 2],
            track_history: true,
        }
    }

    fn kept<'a>(spec: &ExplodeSpec, payload: &'a Value) -> (Vec<Element<'a>>, usize) {
        Found::of(spec, payload)
            .elements(spec, payload, |_| Ok::<_, ()>(()))
            .unwrap()
    }

    fn left(payload: &Value) -> (Vec<Vec<Cell>>, usize) {
        let spec = spec();
        let (kept, dropped) = kept(&spec, payload);
        (kept.into_iter().map(|element| element.cells).collect(), dropped)
    }

    proptest! {
        #[test]
        fn an_edit_leaves_the_new_elements_in_their_order(
            old in prop::collection::vec((0_u8..9, 0_u8..3), 0..12), new in prop::collection::vec((0_u8..9, 0_u8..3), 0..12)
        ) {
            let spec = spec();
            let payload = |rows: &[(u8, u8)]| {
                let apps: Vec<Value> = rows
                    .iter()
                    // One of the keys is NULL, which equals nothing.
                    .map(|(key, ver)| json!({"name": (*key < 8).then_some(key), "score": 1, "ver": ver}))
                    .collect();
                json!({ "apps": apps })
            };
            let (old, new) = (payload(&old), payload(&new));
            let (old, new) = (left(&old).0, kept(&spec, &new).0);
            let edit = edit(&spec, &old, &new);
            let mut rows = old.clone();
            for (row, element) in &edit.updated {
                rows[*row] = new[*element].cells.clone();
            }
            let mut left: Vec<Vec<Cell>> = rows
                .into_iter()
                .enumerate()
                .filter(|(row, _)| !edit.removed.contains(row))
                .map(|(_, cells)| cells)
                .collect();
            left.extend(new[edit.appended_from..].iter().map(|element| element.cells.clone()));
            prop_assert_eq!(left, new.into_iter().map(|element| element.cells).collect::<Vec<_>>());
        }
    }

    #[test]
    fn one_changed_value_is_one_update() {
        let spec = spec();
        let (old, new) = (
            json!({"apps": [{"name": "a", "score": 1}, {"name": "b", "score": 1}, {"name": "c", "score": 1}]}),
            json!({"apps": [{"name": "a", "score": 1}, {"name": "b", "score": 1, "ver": "2"}, {"name": "c", "score": 1}]}),
        );
        let edit = edit(&spec, &left(&old).0, &kept(&spec, &new).0);
        assert_eq!(
            edit,
            Edit {
                removed: vec![],
                updated: vec![(1, 1)],
                appended_from: 3
            }
        );
    }

    #[test]
    fn of_elements_with_one_key_the_first_stays() {
        let (kept, dropped) = left(&json!({"apps": [
            {"name": "1", "score": 0, "ver": "a"}, {"name": 1, "score": -0.0, "ver": "b"}, {"name": 1, "score": 2},
        ]}));
        assert_eq!(dropped, 1);
        assert_eq!(
            kept[0],
            [
                Cell::Text("a".to_owned()),
                Cell::Text("1".to_owned()),
                Cell::Real(0.0)
            ]
        );
        assert_eq!(kept[1][2], Cell::Real(2.0));
    }

    #[test]
    fn null_in_a_key_equals_nothing() {
        let (kept, dropped) = left(&json!({"apps": [{"name": "a"}, {"name": "a"}, "x", 5, null]}));
        assert_eq!((kept.len(), dropped), (5, 0));
    }

    #[test]
    fn what_is_no_array_has_no_elements() {
        for payload in [
            json!({}),
            json!({"apps": {"name": "a"}}),
            json!([{"name": "a"}]),
            json!("apps"),
            json!({"x": {"apps": [1]}}),
        ] {
            assert!(left(&payload).0.is_empty(), "{payload}");
        }
    }

    #[test]
    fn the_limit_counts_all_columns() {
        let spec = spec();
        assert_eq!(spec.elements_max(), CELLS_MAX / 6);
        assert!(spec.fits(666_666) && !spec.fits(666_667));
    }

    #[test]
    fn the_row_id_goes_by_a_name_that_no_column_has() {
        let mut spec = spec();
        assert_eq!(spec.rowid(), "rowid");
        spec.columns[0].name = "RowID".to_owned();
        assert_eq!(spec.rowid(), "_rowid_");
    }
}
