//! The contract's test vectors of exploded tables and feeds, on the statements that the service runs.

#[allow(
    dead_code,
    clippy::string_slice,
    reason = "shared with tests that need more of it"
)]
#[path = "../../../tests/support/mod.rs"]
mod support;

use std::borrow::Cow;
use std::sync::Arc;

use rusqlite::types::ValueRef;
use serde_json::{Map, json};

use super::parts::Parts;
use super::*;
use crate::projection::explode::ExplodeSpec;
use crate::projection::manifests::{Hints, SpecState};
use crate::store::migrate;
use crate::wire::sequence::StreamSeq;
use crate::wire::time::Timestamp;
use serde_json::Value;

/// Every case of a file of vectors, with scans that are read in their turn and before it.
fn check(name: &str, case: impl Fn(&Value, &Value, bool)) {
    for ahead in [false, true] {
        support::check(name, |input, expect| case(input, expect, ahead));
    }
}

fn database() -> Connection {
    let mut conn = Connection::open_in_memory().unwrap();
    migrate::run(&mut conn, true).unwrap();
    prepare_affinity(&conn).unwrap();
    conn
}

fn hints(more: &Value) -> Arc<Hints> {
    let mut document = json!({"id": "j", "version": "1", "execute": {"shell": "sh", "timeout": "1s"}});
    document
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    let manifests = Manifests::compile([("j".to_owned(), document.to_string().into())]);
    manifests.hints("j").unwrap().clone()
}

fn explode_hints(spec: &Value) -> Arc<Hints> {
    hints(&json!({"inventory": {"display": [], "explode": [spec]}}))
}

fn spec(hints: &Hints) -> &ExplodeSpec {
    match &hints.inventory.as_ref().unwrap().specs[0] {
        SpecState::Valid(spec) => spec,
        SpecState::Refused(refused) => panic!("{refused:?}"),
    }
}

/// A database, and what the writer knows of its tables.
struct Bench {
    /// Scans are read before their turn.
    ahead: bool,
    conn: Connection,
    shapes: Shapes,
}

impl Bench {
    fn new(ahead: bool) -> Self {
        Self {
            ahead,
            conn: database(),
            shapes: Shapes::default(),
        }
    }

    /// Applies a successful result with this payload.
    fn apply(
        &mut self,
        hints: &Arc<Hints>,
        pair: Pair<'_>,
        finished: &str,
        published: &str,
        payload: &Value,
    ) {
        let stored = |text| Timestamp::parse_wire(text).unwrap().stored();
        let stdout = payload.to_string();
        let scan = self.ahead.then(|| Scan::ahead(hints, &stdout));
        let evidence = Evidence {
            incarnation: 1,
            seq: StreamSeq(1),
            pair,
            result_id: "r",
            exit_code: 0,
            check_evidence: true,
            finished_at: &stored(finished),
            published: &stored(published),
            stdout: Presence::Here(Cow::Borrowed(&stdout)),
            stderr: Presence::Here(Cow::Borrowed("")),
        };
        let mut parts = Parts {
            conn: &self.conn,
            shapes: &mut self.shapes,
            isolated: true,
            mode: Mode::WithHistory,
            any_issues: &mut true,
            reported: true,
        };
        parts.apply(hints, &evidence, scan).unwrap();
    }

    fn shape(&mut self, hints: &Hints) {
        let shape = self.shapes.of(&self.conn, spec(hints)).unwrap();
        assert!(matches!(shape, shape::Shape::Ready(_)), "{shape:?}");
    }

    fn rows(&self, sql: &str) -> Vec<Value> {
        let mut select = self.conn.prepare(sql).unwrap();
        let names: Vec<String> = select.column_names().map(str::to_owned).collect();
        let rows = select.query_map([], |row| {
            let cell = |index| {
                Ok::<_, rusqlite::Error>(match row.get_ref(index)? {
                    ValueRef::Null => Value::Null,
                    ValueRef::Integer(number) => json!(number),
                    ValueRef::Real(number) => json!(number),
                    ValueRef::Text(text) | ValueRef::Blob(text) => json!(String::from_utf8_lossy(text)),
                })
            };
            let named = names
                .iter()
                .enumerate()
                .map(|(index, name)| Ok((name.clone(), cell(index)?)));
            Ok(Value::Object(
                named.collect::<Result<Map<_, _>, rusqlite::Error>>()?,
            ))
        });
        rows.unwrap().map(Result::unwrap).collect()
    }

    fn issues(&self) -> Vec<Value> {
        self.rows("SELECT part, code FROM projector_issues ORDER BY part, code")
    }
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap()
}

/// One after the other: each step sets the spec, brings rows, or only brings the table to its shape.
fn explode_steps(input: &Value, expect: &Value, ahead: bool) {
    let mut bench = Bench::new(ahead);
    let mut hints = None;
    let steps = input["steps"].as_array().unwrap();
    assert_eq!(steps.len(), expect.as_array().unwrap().len());
    for (step, expect) in steps.iter().zip(expect.as_array().unwrap()) {
        if step["spec"].is_object() {
            hints = Some(explode_hints(&step["spec"]));
        }
        let hints = hints.as_ref().unwrap();
        match step.get("payload") {
            None => bench.shape(hints),
            Some(payload) => {
                let pair = Pair {
                    pc_id: text(step, "pc_id"),
                    job_id: text(step, "job_id"),
                };
                let collected = text(step, "collected_at");
                bench.apply(hints, pair, collected, collected, payload);
            }
        }
        let rows = format!("SELECT * FROM \"{}\" ORDER BY rowid", spec(hints).table);
        assert_eq!(json!(bench.rows(&rows)), expect["rows"]);
        for issue in bench.issues() {
            assert_eq!(issue["code"], "explode_duplicate_identity");
        }
    }
}

#[test]
fn explode_replace_vectors_hold_on_the_table() {
    check("explode_replace", explode_steps);
}

#[test]
fn explode_schema_change_vectors_hold_on_the_table() {
    check("explode_schema_change", explode_steps);
}

#[test]
fn explode_spec_vectors_hold_on_the_table() {
    check("explode_spec", |input, expect, ahead| {
        let hints = explode_hints(input);
        if expect["ok"] == false {
            let state = &hints.inventory.as_ref().unwrap().specs[0];
            assert!(matches!(state, SpecState::Refused(_)));
            return;
        }
        let mut bench = Bench::new(ahead);
        bench.shape(&hints);
        let table = &spec(&hints).table;
        let columns = format!(
            "SELECT name, type, \"notnull\" AS not_null, pk FROM pragma_table_info('{table}') ORDER BY cid"
        );
        assert_eq!(json!(bench.rows(&columns)), expect["columns"]);
        let indexes = format!(
            "SELECT name FROM sqlite_schema WHERE type = 'index' AND sql NOT NULL AND tbl_name = '{table}'
             ORDER BY rowid"
        );
        let indexes: Vec<Value> = bench
            .rows(&indexes)
            .iter()
            .map(|row| row["name"].clone())
            .collect();
        assert_eq!(json!(indexes), expect["indexes"]);
    });
}

#[test]
fn explode_conversion_vectors_hold_in_the_table() {
    check("explode_conversion", |input, expect, ahead| {
        let mut column = json!({"field": "v"});
        if let Some(kind) = input.get("type") {
            column["type"] = kind.clone();
        }
        let hints = explode_hints(&json!({
            "field": "x", "table": "t", "primary_key": ["k"], "columns": [{"field": "k"}, column],
        }));
        let mut element = json!({"k": "a"});
        if let Some(value) = input.get("value") {
            element["v"] = value.clone();
        }
        let pair = Pair {
            pc_id: "p",
            job_id: "j",
        };
        let mut bench = Bench::new(ahead);
        let time = "2026-06-01T00:00:00Z";
        bench.apply(&hints, pair, time, time, &json!({ "x": [element] }));
        assert_eq!(bench.issues(), Vec::<Value>::new());
        let stored = &bench.rows("SELECT v AS value, typeof(v) AS storage FROM t")[0];
        assert_eq!(stored["storage"], expect["storage"]);
        match expect["storage"].as_str() {
            Some("real") => assert_eq!(stored["value"].as_f64(), expect["value"].as_f64()),
            _ => assert_eq!(stored["value"], expect["value"]),
        }
    });
}

#[test]
fn feed_replace_vectors_hold_on_the_tables() {
    check("feed_replace", |input, expect, ahead| {
        let mut bench = Bench::new(ahead);
        let steps = input["steps"].as_array().unwrap();
        assert_eq!(steps.len(), expect.as_array().unwrap().len());
        for (step, expect) in steps.iter().zip(expect.as_array().unwrap()) {
            let hints = hints(&json!({ "feed": [step["spec"]] }));
            let pair = Pair {
                pc_id: "p",
                job_id: "j",
            };
            let state = |bench: &Bench| {
                let all = |table: &str| bench.rows(&format!("SELECT * FROM {table} ORDER BY rowid"));
                (all("feeds"), all("feed_meta"))
            };
            let before = state(&bench);
            let (fetched, recorded) = (text(step, "fetched_at"), text(step, "recorded_at"));
            bench.apply(&hints, pair, fetched, recorded, &step["payload"]);
            let (feeds, meta) = state(&bench);
            let refused = bench
                .issues()
                .iter()
                .any(|issue| issue["code"] != "feed_item_without_key");
            let written = match before.1 == meta {
                _ if refused => Value::Null,
                true => json!(0),
                false => meta[0]["item_count"].clone(),
            };
            assert_eq!(
                (json!(refused), &written),
                (expect["error"].clone(), &expect["rows_written"])
            );
            assert_eq!(
                (json!(feeds), json!(meta)),
                (expect["feeds"].clone(), expect["feed_meta"].clone())
            );
        }
    });
}
