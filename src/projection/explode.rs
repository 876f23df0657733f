//! From an array to the rows of a table (contract §7.5, §7.6).

use std::collections::HashSet;
use std::hash::{Hash, Hasher};

use serde_json::{Number, Value};

use super::spec::BUILT_IN;
use crate::wire::json::compact;

/// Cells, of all columns, that one spec may have of one payload. The contract sets no limit, but a wide spec multiplies
/// tiny elements, so that a few megabytes of output would take all memory, and hours to bind (I6). A cell takes 24
/// bytes: twice this many, the old rows and the new, stay within 200 MB. Enough for ten thousand elements in four
/// hundred columns, or four thousand in a thousand.
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

/// The payload's array as it was sent; no array, no elements.
#[must_use]
pub fn array<'a>(spec: &ExplodeSpec, payload: &'a Value) -> &'a [Value] {
    match payload.get(&spec.field) {
        Some(Value::Array(elements)) => elements,
        _ => &[],
    }
}

/// The elements of the payload's array, converted. An element that is no object has no keys.
#[must_use]
pub fn elements<'a>(spec: &ExplodeSpec, payload: &'a Value) -> Vec<Element<'a>> {
    let cells = |value: &Value| {
        spec.columns
            .iter()
            .map(|column| convert(column.kind, value.get(&column.name)))
            .collect()
    };
    array(spec, payload)
        .iter()
        .map(|value| Element {
            cells: cells(value),
            value,
        })
        .collect()
}

/// Keeps the first of the elements that one row can be of, and says how many it drops. NULL in a key equals nothing
/// in SQLite, so such elements all stay. To be called after affinity: `"1"` and `1` may have become one key.
#[must_use]
pub fn drop_repeated<'a>(spec: &ExplodeSpec, elements: Vec<Element<'a>>) -> (Vec<Element<'a>>, usize) {
    let mut seen = HashSet::with_capacity(elements.len());
    let kept: Vec<bool> = elements
        .iter()
        .map(|element| {
            let identity = spec.identity(&element.cells);
            identity.contains(&&Cell::Null) || seen.insert(identity)
        })
        .collect();
    let before = elements.len();
    let kept: Vec<Element<'a>> = elements
        .into_iter()
        .zip(kept)
        .filter_map(|(element, kept)| kept.then_some(element))
        .collect();
    let dropped = before - kept.len();
    (kept, dropped)
}

#[cfg(test)]
mod tests {
    use super::*;
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

    fn left(payload: &Value) -> (Vec<Vec<Cell>>, usize) {
        let spec = spec();
        let (kept, dropped) = drop_repeated(&spec, elements(&spec, payload));
        (kept.into_iter().map(|element| element.cells).collect(), dropped)
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
            assert!(elements(&spec(), &payload).is_empty(), "{payload}");
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
