//! Stored values, type and bytes: compared without regard to what SQLite takes for equal, and shown to people.

use std::cmp::Ordering;

use rusqlite::Row;
use rusqlite::types::ValueRef;
use serde::Serialize;

/// Characters of a value that are shown.
const SHOWN_MAX: usize = 200;
/// Of those, how many stand before the place where two long texts begin to differ.
const BEFORE: usize = 20;

/// A value for people, its type kept.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "type", content = "value", rename_all = "lowercase")]
pub enum Shown {
    /// NULL.
    Null,
    /// INTEGER.
    Integer(i64),
    /// REAL.
    Real(f64),
    /// TEXT: cut, and from where it differs.
    Text(String),
    /// BLOB: hexadecimal, cut.
    Blob(String),
}

impl std::fmt::Display for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Null => f.write_str("NULL"),
            Self::Integer(number) => write!(f, "{number}"),
            Self::Real(number) => write!(f, "{number:?}"),
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Blob(hex) => write!(f, "x'{hex}'"),
        }
    }
}

/// A value by itself.
pub(super) fn shown(value: ValueRef<'_>) -> Shown {
    from(value, 0)
}

/// Two values that differ: of long texts the part where they begin to.
pub(super) fn shown_pair(found: ValueRef<'_>, expected: ValueRef<'_>) -> (Shown, Shown) {
    let skip = match (found, expected) {
        (ValueRef::Text(found), ValueRef::Text(expected)) => {
            let (found, expected) = (String::from_utf8_lossy(found), String::from_utf8_lossy(expected));
            let same = found
                .chars()
                .zip(expected.chars())
                .take_while(|(one, other)| one == other)
                .count();
            let longest_start = SHOWN_MAX - BEFORE;
            if same > longest_start { same - BEFORE } else { 0 }
        }
        _ => 0,
    };
    (from(found, skip), from(expected, skip))
}

fn from(value: ValueRef<'_>, skip: usize) -> Shown {
    match value {
        ValueRef::Null => Shown::Null,
        ValueRef::Integer(number) => Shown::Integer(number),
        ValueRef::Real(number) => Shown::Real(number),
        ValueRef::Text(bytes) => {
            let text = String::from_utf8_lossy(bytes);
            let start = if skip > 0 { "…" } else { "" };
            let room = SHOWN_MAX - start.chars().count();
            Shown::Text(start.chars().chain(text.chars().skip(skip).take(room)).collect())
        }
        ValueRef::Blob(bytes) => Shown::Blob(hex(bytes)),
    }
}

fn hex(bytes: &[u8]) -> String {
    crate::wire::hex::hex(bytes.get(..SHOWN_MAX / 2).unwrap_or(bytes))
}

/// A value that says which row: as it is read, without quotes.
pub(super) fn key_text(value: ValueRef<'_>) -> String {
    match shown(value) {
        Shown::Text(text) => text,
        other => other.to_string(),
    }
}

const NULL: u8 = 0;
const INTEGER: u8 = 1;
const REAL: u8 = 2;
const TEXT: u8 = 3;
const BLOB: u8 = 4;

/// A row's compared columns: two are the same exactly when types and bytes are. Reused, so that reading on allocates
/// nothing.
#[derive(Clone, Debug, Default)]
pub(super) struct Line {
    pub(super) rowid: i64,
    bytes: Vec<u8>,
    /// Where each cell ends.
    ends: Vec<usize>,
}

impl Line {
    /// Reads `columns` cells of a row from the index `from` on.
    pub(super) fn read(&mut self, row: &Row<'_>, from: usize, columns: usize) -> Result<(), rusqlite::Error> {
        self.bytes.clear();
        self.ends.clear();
        for index in from..from + columns {
            match row.get_ref(index)? {
                ValueRef::Null => self.bytes.push(NULL),
                ValueRef::Integer(number) => {
                    self.bytes.push(INTEGER);
                    self.bytes.extend_from_slice(&number.to_be_bytes());
                }
                ValueRef::Real(number) => {
                    self.bytes.push(REAL);
                    self.bytes.extend_from_slice(&number.to_be_bytes());
                }
                ValueRef::Text(text) => {
                    self.bytes.push(TEXT);
                    self.bytes.extend_from_slice(text);
                }
                ValueRef::Blob(blob) => {
                    self.bytes.push(BLOB);
                    self.bytes.extend_from_slice(blob);
                }
            }
            self.ends.push(self.bytes.len());
        }
        Ok(())
    }

    pub(super) fn columns(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.bytes == other.bytes && self.ends == other.ends
    }

    /// A cell with its type; empty beyond the last.
    pub(super) fn raw(&self, column: usize) -> &[u8] {
        let start = column
            .checked_sub(1)
            .map_or(Some(0), |before| self.ends.get(before).copied());
        start
            .zip(self.ends.get(column).copied())
            .and_then(|(start, end)| self.bytes.get(start..end))
            .unwrap_or_default()
    }

    /// A cell as SQLite has it.
    pub(super) fn value(&self, column: usize) -> ValueRef<'_> {
        let Some((kind, bytes)) = self.raw(column).split_first() else {
            return ValueRef::Null;
        };
        match (*kind, <[u8; 8]>::try_from(bytes)) {
            (INTEGER, Ok(number)) => ValueRef::Integer(i64::from_be_bytes(number)),
            (REAL, Ok(number)) => ValueRef::Real(f64::from_be_bytes(number)),
            (TEXT, _) => ValueRef::Text(bytes),
            (BLOB, _) => ValueRef::Blob(bytes),
            _ => ValueRef::Null,
        }
    }

    /// The first two cells, which are a row's pair: in SQLite's order, since neither holds numbers.
    pub(super) fn pair(&self) -> (&[u8], &[u8]) {
        (self.raw(0), self.raw(1))
    }

    pub(super) fn pair_order(&self, other: &Self) -> Ordering {
        self.pair().cmp(&other.pair())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_shown_from_where_they_differ() {
        let one = format!("{}one", "ä".repeat(1_000));
        let other = format!("{}two{}", "ä".repeat(1_000), "x".repeat(1_000));
        let (found, expected) = shown_pair(ValueRef::Text(one.as_bytes()), ValueRef::Text(other.as_bytes()));
        assert_eq!(found, Shown::Text(format!("…{}one", "ä".repeat(20))));
        let Shown::Text(expected) = expected else { panic!() };
        assert_eq!(expected.chars().count(), 200);
        assert!(expected.starts_with(&format!("…{}twox", "ä".repeat(20))));
    }

    #[test]
    fn types_are_told_apart() {
        assert_ne!(shown(ValueRef::Integer(1)), shown(ValueRef::Real(1.0)));
        assert_ne!(shown(ValueRef::Text(b"1")), shown(ValueRef::Integer(1)));
        assert_eq!(
            serde_json::to_string(&[shown(ValueRef::Null), shown(ValueRef::Blob(&[255, 0]))]).unwrap(),
            r#"[{"type":"null"},{"type":"blob","value":"ff00"}]"#
        );
    }
}
