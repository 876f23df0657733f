//! An `inventory` hint, and scans one after the other: conversion, the table's rows, and what changed (contract §7.4, §7.5,
//! §7.6, §6.3).

use std::collections::{BTreeSet, HashMap};

use results_projector::projection::explode::{
    Cell, ColumnKind, Element, ExplodeSpec, array, cells, convert, edit, needs_affinity, repeated,
};
use results_projector::projection::history::{ChangeKind, Event, element_events, scalar_events};
use results_projector::projection::manifests::{Manifests, SpecState};
use results_projector::wire::json::{compact, fields};
use rusqlite::Connection;
use rusqlite::types::ValueRef;
use serde_json::{Map, Value, json};

use super::parts;

/// More of a kind only takes time.
const SCANS_MAX: usize = 6;
const CELLS_MAX: usize = 400;

pub(crate) fn run(data: &[u8]) {
    let parts = parts(data);
    let Some((hint, scans)) = parts.split_first() else {
        return;
    };
    let around = br#"{"id":"j","version":"1","execute":{"shell":"sh","timeout":"1s"},"inventory":"#;
    let document = [around.as_slice(), hint, b"}"].concat();
    let manifests = Manifests::compile([("j".to_owned(), document.into())]);
    let Some(hint) = manifests.hints("j").and_then(|hints| hints.inventory.as_ref()) else {
        return;
    };
    let texts: Vec<&str> = scans
        .iter()
        .filter_map(|scan| std::str::from_utf8(scan).ok())
        .take(SCANS_MAX)
        .collect();
    let scans: Vec<(&str, Value)> = texts
        .into_iter()
        .filter_map(|text| Some((text, serde_json::from_str(text).ok()?)))
        .collect();
    for (text, scan) in &scans {
        written(text, scan, &hint.scalars);
    }
    scalars(&hint.scalars, None, scans.first().map(|(_, scan)| scan));
    for pair in scans.windows(2) {
        scalars(&hint.scalars, Some(&pair[0].1), Some(&pair[1].1));
    }
    for spec in &hint.specs {
        let SpecState::Valid(spec) = spec else { continue };
        let mut rows: Vec<Vec<Cell>> = Vec::new();
        for (_, scan) in &scans {
            if array(spec, scan).len() * spec.columns.len() > CELLS_MAX {
                continue;
            }
            rows = replaced(spec, &rows, scan);
        }
    }
}

/// A value's text reads back as the value, and is written the same again; single fields are those of the whole.
fn written(text: &str, scan: &Value, names: &[String]) {
    let compacted = compact(scan);
    assert_eq!(
        serde_json::from_str::<Value>(&compacted)
            .as_ref()
            .map(compact)
            .ok(),
        Some(compacted)
    );
    let whole = scan.as_object().map(|object| -> Map<String, Value> {
        object
            .iter()
            .filter(|(key, _)| names.contains(key))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    });
    assert_eq!(fields(text, names), whole);
}

/// Both texts of a value, with one zero.
fn same(one: &Value, other: &Value) -> bool {
    let one_zero = |value: &Value| compact(value).replace("-0.0", "0.0");
    one_zero(one) == one_zero(other)
}

fn scalars(names: &[String], old: Option<&Value>, new: Option<&Value>) {
    let Some(new) = new else { return };
    let old = old.and_then(Value::as_object);
    let events = scalar_events(names, old, new);
    let mut expected = Vec::new();
    for name in names {
        let Some(after) = new.as_object().and_then(|new| new.get(name)) else {
            continue;
        };
        let before = old.and_then(|old| old.get(name));
        if before.is_some_and(|before| same(before, after)) {
            continue;
        }
        let text = |value: &Value| compact(&json!({ "value": value }));
        expected.push(Event {
            field_path: name.clone(),
            identity_json: None,
            kind: if before.is_none() {
                ChangeKind::Added
            } else {
                ChangeKind::Changed
            },
            before_json: before.map(text),
            after_json: Some(text(after)),
        });
    }
    assert_eq!(events, expected);
    if let Some(new) = new.as_object() {
        assert!(scalar_events(names, Some(new), &Value::Object(new.clone())).is_empty());
    }
}

/// The table of contract §7.6, before SQLite's affinity.
fn converted(kind: ColumnKind, value: Option<&Value>) -> Cell {
    match (kind, value) {
        (_, None | Some(Value::Null)) => Cell::Null,
        (_, Some(Value::String(text))) => Cell::Text(text.clone()),
        (ColumnKind::Integer, Some(Value::Number(number))) => {
            number.to_string().parse().map_or(Cell::Null, Cell::Integer)
        }
        (ColumnKind::Real, Some(Value::Number(number))) => {
            number.to_string().parse().map_or(Cell::Null, Cell::Real)
        }
        (_, Some(other)) => Cell::Text(compact(other)),
    }
}

/// What SQLite stores for a cell in a column of this type.
fn stored(kind: ColumnKind, cell: &Cell) -> Cell {
    thread_local! {
        static TABLE: Connection = {
            let conn = Connection::open_in_memory().unwrap();
            conn.execute_batch(
                "CREATE TABLE cell (\"TEXT\" TEXT, \"INTEGER\" INTEGER, \"REAL\" REAL);
                 INSERT INTO cell DEFAULT VALUES; BEGIN;",
            )
            .unwrap();
            conn
        };
    }
    let column = kind.as_sql();
    TABLE.with(|conn| {
        let mut update = conn
            .prepare_cached(&format!("UPDATE cell SET \"{column}\" = ?1"))
            .unwrap();
        match cell {
            Cell::Null => update.execute([None::<i64>]),
            Cell::Integer(value) => update.execute([value]),
            Cell::Real(value) => update.execute([value]),
            Cell::Text(value) => update.execute([value]),
        }
        .unwrap();
        let mut select = conn
            .prepare_cached(&format!("SELECT \"{column}\" FROM cell"))
            .unwrap();
        select
            .query_row([], |row| {
                Ok(match row.get_ref(0)? {
                    ValueRef::Null => Cell::Null,
                    ValueRef::Integer(value) => Cell::Integer(value),
                    ValueRef::Real(value) => Cell::Real(value),
                    ValueRef::Text(text) | ValueRef::Blob(text) => {
                        Cell::Text(String::from_utf8(text.to_vec()).unwrap())
                    }
                })
            })
            .unwrap()
    })
}

/// The elements as they will be stored.
fn at_rest<'a>(spec: &ExplodeSpec, scan: &'a Value) -> Vec<Element<'a>> {
    let values = array(spec, scan).iter().zip(cells(spec, scan));
    let mut found: Vec<Element<'a>> = values.map(|(value, cells)| Element { cells, value }).collect();
    for element in &mut found {
        for (column, cell) in spec.columns.iter().zip(&mut element.cells) {
            let sent = element.value.get(&column.name);
            assert_eq!(*cell, convert(column.kind, sent));
            assert_eq!(
                *cell,
                converted(column.kind, sent),
                "{sent:?} in a column of {:?}",
                column.kind
            );
            let stays = stored(column.kind, cell);
            assert!(
                needs_affinity(column.kind, cell) || stays == *cell,
                "{cell:?} becomes {stays:?} in a column of {:?}",
                column.kind
            );
            assert_eq!(stored(column.kind, &stays), stays);
            *cell = stays;
        }
    }
    found
}

fn owned(spec: &ExplodeSpec, cells: &[Cell]) -> Vec<Cell> {
    spec.identity(cells).into_iter().cloned().collect()
}

/// The columns that are declared, as `before_json` and `identity_json` show them.
fn shown(spec: &ExplodeSpec, columns: &[usize], cells: &[Cell]) -> String {
    let object: Map<String, Value> = columns
        .iter()
        .map(|at| (spec.columns[*at].name.clone(), cells[*at].to_json()))
        .collect();
    compact(&Value::Object(object))
}

/// The table after a scan, with all that must be true of the way there.
fn replaced(spec: &ExplodeSpec, old: &[Vec<Cell>], scan: &Value) -> Vec<Vec<Cell>> {
    let all = at_rest(spec, scan);
    let marked = all.iter().cloned().zip(repeated(spec, &all));
    let kept: Vec<Element<'_>> = marked
        .filter(|(_, repeated)| !repeated)
        .map(|(element, _)| element)
        .collect();
    let rows: Vec<Vec<Cell>> = kept.iter().map(|element| element.cells.clone()).collect();
    let mut identities = BTreeSet::new();
    for row in &rows {
        let identity = owned(spec, row);
        assert!(
            identity.contains(&Cell::Null) || identities.insert(format!("{identity:?}")),
            "one key twice"
        );
    }

    let events: Vec<Event> = element_events(spec, old, &all).collect();
    assert_eq!(
        element_events(spec, old, &kept).collect::<Vec<_>>(),
        events,
        "dropped before or not"
    );
    assert_eq!(
        element_events(spec, &rows, &all).next(),
        None,
        "the same scan again is no event"
    );
    assert_eq!(
        element_events(spec, &rows, &kept).next(),
        None,
        "the same rows again are no event"
    );
    told(spec, old, &all, &events);

    let edit = edit(spec, old, &kept);
    let mut edited = old.to_vec();
    for (row, element) in &edit.updated {
        assert!(
            !edit.removed.contains(row) && owned(spec, &edited[*row]) == owned(spec, &kept[*element].cells)
        );
        edited[*row] = kept[*element].cells.clone();
    }
    assert!(edit.removed.is_sorted());
    let mut edited: Vec<Vec<Cell>> = edited
        .into_iter()
        .enumerate()
        .filter(|(row, _)| !edit.removed.contains(row))
        .map(|(_, cells)| cells)
        .collect();
    edited.extend(
        kept[edit.appended_from..]
            .iter()
            .map(|element| element.cells.clone()),
    );
    assert_eq!(edited, rows, "an edit gives the new rows in their order");
    rows
}

/// The events are exactly what leads from the old rows to the new ones, in the contract's order.
fn told(spec: &ExplodeSpec, old: &[Vec<Cell>], new: &[Element<'_>], events: &[Event]) {
    let first_of = |rows: &mut dyn Iterator<Item = Vec<Cell>>| {
        let mut first: HashMap<Vec<Cell>, Vec<Cell>> = HashMap::new();
        let mut order = Vec::new();
        for row in rows {
            let identity = owned(spec, &row);
            first.entry(identity.clone()).or_insert_with(|| {
                order.push(identity);
                row
            });
        }
        (first, order)
    };
    let (before, old_order) = first_of(&mut old.iter().cloned());
    let (after, new_order) = first_of(&mut new.iter().map(|element| element.cells.clone()));
    let columns: Vec<usize> = (0..spec.columns.len()).collect();
    let mut expected = Vec::new();
    for identity in &new_order {
        let row = before.get(identity);
        if row == after.get(identity) {
            continue;
        }
        let element = new
            .iter()
            .find(|element| owned(spec, &element.cells) == *identity)
            .unwrap();
        expected.push(Event {
            field_path: spec.field.clone(),
            identity_json: Some(shown(spec, &spec.key, &element.cells)),
            kind: if row.is_none() {
                ChangeKind::Added
            } else {
                ChangeKind::Changed
            },
            before_json: row.map(|row| shown(spec, &columns, row)),
            after_json: Some(compact(element.value)),
        });
    }
    for identity in old_order.iter().filter(|identity| !after.contains_key(*identity)) {
        let row = &before[identity];
        expected.push(Event {
            field_path: spec.field.clone(),
            identity_json: Some(shown(spec, &spec.key, row)),
            kind: ChangeKind::Removed,
            before_json: Some(shown(spec, &columns, row)),
            after_json: None,
        });
    }
    assert_eq!(events, expected);
    assert!(events.len() <= old.len() + new.len());
}
