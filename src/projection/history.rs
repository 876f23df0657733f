//! What changed between two scans (contract §7.4.4, §7.5).

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value, json};

use super::explode::{Cell, Element, ExplodeSpec, is_same};
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
    news_in_place(spec, old, new)
        .unwrap_or_else(|| news(spec, old, new))
        .into_iter()
        .map(|(before, after)| event(spec, before, after))
}

/// What an event is about: the row before, the element after; one of them, or both.
type News<'a> = (Option<&'a [Cell]>, Option<&'a Element<'a>>);

/// Differences that are looked for element by element.
const IN_PLACE_MAX: usize = 64;

/// The news where every element has the identity of the row in its place: then only values differ. `None` where that is not
/// so, or where much differs. What [`news`] would say, without a table of all identities.
fn news_in_place<'a>(
    spec: &ExplodeSpec,
    old: &'a [impl AsRef<[Cell]>],
    new: &'a [Element<'_>],
) -> Option<Vec<News<'a>>> {
    if old.len() != new.len() {
        return None;
    }
    let mut differing = Vec::new();
    for (place, (row, element)) in old.iter().zip(new).enumerate() {
        let row = row.as_ref();
        if is_same(row, &element.cells) {
            continue;
        }
        if differing.len() == IN_PLACE_MAX || !spec.is_same_identity(row, &element.cells) {
            return None;
        }
        differing.push((place, row, element));
    }
    // Of equal identities the first counts.
    let is_first = |place: usize, element: &Element<'_>| {
        let mut earlier = new.iter().take(place);
        !earlier.any(|other| spec.is_same_identity(&other.cells, &element.cells))
    };
    differing.retain(|(place, _, element)| is_first(*place, element));
    Some(
        differing
            .into_iter()
            .map(|(_, row, element)| (Some(row), Some(element)))
            .collect(),
    )
}

fn news<'a>(spec: &ExplodeSpec, old: &'a [impl AsRef<[Cell]>], new: &'a [Element<'_>]) -> Vec<News<'a>> {
    let mut before = HashMap::with_capacity(old.len());
    for row in old {
        let row = row.as_ref();
        before.entry(spec.identity(row)).or_insert(row);
    }
    let mut seen = HashSet::with_capacity(new.len());
    let mut news = Vec::new();
    for element in new {
        let identity = spec.identity(&element.cells);
        let row = before.get(&identity).copied();
        if seen.insert(identity) && row != Some(element.cells.as_slice()) {
            news.push((row, Some(element)));
        }
    }
    // What was seen is kept; of the others the first goes, once.
    for row in old {
        let row = row.as_ref();
        if seen.insert(spec.identity(row)) {
            news.push((Some(row), None));
        }
    }
    news
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
    use crate::projection::explode::{Column, ColumnKind, cells, with_cells};
    use crate::projection::scan::Found;
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

    fn elements<'a>(spec: &ExplodeSpec, payload: &'a Value) -> Vec<Element<'a>> {
        with_cells(spec, payload, cells(spec, payload))
    }

    fn kept<'a>(spec: &ExplodeSpec, payload: &'a Value) -> Vec<Element<'a>> {
        let found = Found::of(spec, payload).elements(spec, payload, |_| Ok::<_, ()>(()));
        found.unwrap().0
    }

    fn rows(payload: &Value) -> Vec<Vec<Cell>> {
        cells(&spec(), payload)
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
            let stored: Vec<_> = kept(&spec, &scan).into_iter().map(|element| element.cells).collect();
            prop_assert_eq!(element_events(&spec, &stored, &elements(&spec, &scan)).next(), None);
        }

        #[test]
        fn what_is_found_in_place_is_what_a_table_of_identities_finds(
            scan in scans(), edits in prop::collection::vec((any::<prop::sample::Index>(), values()), 0..5)
        ) {
            let spec = spec();
            let mut edited = scan.clone();
            let apps = edited["apps"].as_array_mut().unwrap();
            for (at, value) in edits.iter().filter(|_| !scan["apps"].as_array().unwrap().is_empty()) {
                let at = at.index(apps.len());
                if let Some(app) = apps[at].as_object_mut() {
                    app.insert("size".to_owned(), value.clone());
                }
            }
            let (old, new) = (rows(&scan), elements(&spec, &edited));
            let told = |news: Vec<News<'_>>| -> Vec<Event> {
                news.into_iter().map(|(before, after)| event(&spec, before, after)).collect()
            };
            let in_place = news_in_place(&spec, &old, &new).map(told);
            prop_assert_eq!(in_place, Some(told(news(&spec, &old, &new))));
        }

        #[test]
        fn repeated_elements_may_be_dropped_before_or_not(old in scans(), new in scans()) {
            let spec = spec();
            let kept = kept(&spec, &new);
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
    fn half_of_ten_thousand_elements_replaced_gives_ten_thousand_events() {
        let scan = |from: i64| -> Value {
            (from..from + 10_000)
                .map(|name| json!({ "name": name }))
                .collect()
        };
        let events = events(&scan(0), &scan(5_000));
        assert_eq!(events.len(), 10_000);
    }
}
