//! What changed between two scans (contract §7.4.4, §7.5).

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value, json};

use super::explode::{Cell, Element, ExplodeSpec};
use crate::wire::json::compact;

/// A row of `inventory_history`, without what the message gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The field, by its name.
    pub field_path: String,
    /// Which element; `None` for a scalar.
    pub identity_json: Option<String>,
    /// What happened.
    pub kind: ChangeKind,
    /// What was.
    pub before_json: Option<String>,
    /// What is.
    pub after_json: Option<String>,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChangeKind {
    /// It was not there before.
    Added,
    /// It is not there any more.
    Removed,
    /// It is another.
    Changed,
}

impl ChangeKind {
    /// The column's word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Removed => "removed",
            Self::Changed => "changed",
        }
    }
}

/// Changes of top-level fields, in the hint's order. `old`: the facts before; `None` without any, or when they do not
/// parse. A field that is absent now is never an event.
#[must_use]
pub fn scalar_events(names: &[String], old: Option<&Map<String, Value>>, new: &Value) -> Vec<Event> {
    let text = |value: &Value| Some(compact(&json!({ "value": value })));
    names
        .iter()
        .filter_map(|name| {
            let after = new.get(name)?;
            let before = old.and_then(|old| old.get(name));
            let kind = match before {
                None => ChangeKind::Added,
                Some(before) if before != after => ChangeKind::Changed,
                Some(_) => return None,
            };
            Some(Event {
                field_path: name.clone(),
                identity_json: None,
                kind,
                before_json: before.and_then(text),
                after_json: text(after),
            })
        })
        .collect()
}

/// Changes of a spec's elements. `old`: the stored rows in their order, each the declared columns in the spec's;
/// `new`: the elements with the values that will be stored (D6). Of equal identities the first counts on either side,
/// and here NULL equals NULL, so repeated elements may have been dropped before or not. One at a time: together the
/// texts would be many times the payload.
pub fn element_events<'a>(
    spec: &'a ExplodeSpec,
    old: &'a [impl AsRef<[Cell]>],
    new: &'a [Element<'_>],
) -> impl Iterator<Item = Event> {
    let mut before = HashMap::with_capacity(old.len());
    for row in old {
        let row = row.as_ref();
        before.entry(spec.identity(row)).or_insert(row);
    }
    let mut seen = HashSet::with_capacity(new.len());
    let added_and_changed = new.iter().map(|element| (None, Some(element)));
    let removed = old.iter().map(|row| (Some(row.as_ref()), None));
    added_and_changed
        .chain(removed)
        .filter_map(move |sides| match sides {
            (_, Some(element)) => {
                let identity = spec.identity(&element.cells);
                let row = before.get(&identity).copied();
                let is_news = seen.insert(identity) && row != Some(element.cells.as_slice());
                is_news.then(|| event(spec, row, Some(element)))
            }
            // What was seen is kept; of the others the first goes, once.
            (Some(row), None) => seen
                .insert(spec.identity(row))
                .then(|| event(spec, Some(row), None)),
            (None, None) => None,
        })
}

/// One of the two is there, or both.
fn event(spec: &ExplodeSpec, before: Option<&[Cell]>, after: Option<&Element<'_>>) -> Event {
    let kind = match (before, after) {
        (None, _) => ChangeKind::Added,
        (Some(_), None) => ChangeKind::Removed,
        (Some(_), Some(_)) => ChangeKind::Changed,
    };
    let cells = after.map(|element| element.cells.as_slice()).or(before);
    let all: Vec<usize> = (0..spec.columns.len()).collect();
    Event {
        field_path: spec.field.clone(),
        identity_json: cells.map(|cells| object(spec, &spec.key, cells)),
        kind,
        before_json: before.map(|cells| object(spec, &all, cells)),
        after_json: after.map(|element| compact(element.value)),
    }
}

/// Stored values by their columns' names.
fn object(spec: &ExplodeSpec, columns: &[usize], cells: &[Cell]) -> String {
    let object: Map<String, Value> = columns
        .iter()
        .filter_map(|at| Some((spec.columns.get(*at)?.name.clone(), cells.get(*at)?.to_json())))
        .collect();
    compact(&Value::Object(object))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::projection::explode::{Column, ColumnKind, drop_repeated, elements};
    use proptest::prelude::*;
    use serde_json::Number;

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
                column("name", ColumnKind::Text),
                column("size", ColumnKind::Integer),
                column("score", ColumnKind::Real),
            ],
            key: vec![0],
            track_history: true,
        }
    }

    fn rows(payload: &Value) -> Vec<Vec<Cell>> {
        elements(&spec(), payload)
            .into_iter()
            .map(|element| element.cells)
            .collect()
    }

    fn events(old: &Value, new: &Value) -> Vec<Event> {
        let (old, new) = (json!({ "apps": old }), json!({ "apps": new }));
        element_events(&spec(), &rows(&old), &elements(&spec(), &new)).collect()
    }

    /// Kind, identity, before, after.
    fn told(events: &[Event]) -> Vec<String> {
        let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        events
            .iter()
            .map(|event| {
                let [identity, before, after] =
                    [&event.identity_json, &event.before_json, &event.after_json].map(text);
                format!("{} {identity} {before} {after}", event.kind.as_str())
            })
            .collect()
    }

    fn values() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (-3_i64..3).prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(|real| Number::from_f64(real).map_or(Value::Null, Value::Number)),
            Just(json!(-0.0)),
            "[a-c0-9. ]{0,3}".prop_map(Value::from),
            Just(json!([1, "a"])),
            Just(json!({"b": 1, "a": null})),
        ]
    }

    fn scans() -> impl Strategy<Value = Value> {
        let element = prop_oneof![
            prop::collection::btree_map(
                prop::sample::select(vec!["name", "size", "score", "other"]),
                values(),
                0..4
            )
            .prop_map(|object| json!(object)),
            values(),
        ];
        prop::collection::vec(element, 0..12).prop_map(|elements| json!({ "apps": elements }))
    }

    proptest! {
        #[test]
        fn the_same_scan_again_is_no_event(scan in scans()) {
            let spec = spec();
            let (kept, _) = drop_repeated(&spec, elements(&spec, &scan));
            let stored: Vec<_> = kept.into_iter().map(|element| element.cells).collect();
            prop_assert_eq!(element_events(&spec, &stored, &elements(&spec, &scan)).next(), None);
        }

        #[test]
        fn repeated_elements_may_be_dropped_before_or_not(old in scans(), new in scans()) {
            let spec = spec();
            let (kept, _) = drop_repeated(&spec, elements(&spec, &new));
            let old = rows(&old);
            let all: Vec<_> = element_events(&spec, &old, &elements(&spec, &new)).collect();
            prop_assert_eq!(element_events(&spec, &old, &kept).collect::<Vec<_>>(), all);
        }

        #[test]
        fn each_identity_has_one_event_at_most_and_added_plus_kept_is_what_there_is(old in scans(), new in scans()) {
            let spec = spec();
            let identities = |rows: &[Vec<Cell>]| -> HashSet<String> {
                rows.iter().map(|row| object(&spec, &spec.key, row)).collect()
            };
            let (old, new_rows) = (rows(&old), rows(&new));
            let events: Vec<_> = element_events(&spec, &old, &elements(&spec, &new)).collect();
            let told: HashSet<_> = events.iter().map(|event| event.identity_json.clone()).collect();
            prop_assert_eq!(told.len(), events.len());
            let (old, new) = (identities(&old), identities(&new_rows));
            let of = |kind| {
                let events = events.iter().filter(move |event: &&Event| event.kind == kind);
                events.filter_map(|event| event.identity_json.clone()).collect::<HashSet<_>>()
            };
            prop_assert_eq!(of(ChangeKind::Added), new.difference(&old).cloned().collect());
            prop_assert_eq!(of(ChangeKind::Removed), old.difference(&new).cloned().collect());
        }
    }

    #[test]
    fn added_and_changed_go_in_payload_order_then_removed_in_row_order() {
        let events = events(
            &json!([{"name": "c"}, {"name": "a", "size": 1}, {"name": "b"}]),
            &json!([{"name": "d", "x": 1}, {"name": "a", "size": 2}]),
        );
        assert_eq!(
            told(&events),
            [
                r#"added {"name":"d"} - {"name":"d","x":1}"#,
                r#"changed {"name":"a"} {"name":"a","score":null,"size":1} {"name":"a","size":2}"#,
                r#"removed {"name":"c"} {"name":"c","score":null,"size":null} -"#,
                r#"removed {"name":"b"} {"name":"b","score":null,"size":null} -"#,
            ]
        );
    }

    #[test]
    fn elements_without_a_key_are_one_identity() {
        let events = events(&json!([{"size": 1}]), &json!(["x", {"size": 5}]));
        assert_eq!(
            told(&events),
            [r#"changed {"name":null} {"name":null,"score":null,"size":1} "x""#]
        );
    }

    #[test]
    fn ten_thousand_elements_take_no_time_worth_a_word() {
        let scan = |from: i64| -> Value {
            (from..from + 10_000)
                .map(|name| json!({ "name": name }))
                .collect()
        };
        let events = events(&scan(0), &scan(5_000));
        assert_eq!(events.len(), 10_000);
    }
}
