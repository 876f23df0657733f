//! The contract's scenario vectors: every case in its given order, in every other order that it names, and redelivered.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use results_projector::projection::manifests::Manifests;
use results_projector::wire::kv::StreamName;
use results_projector::wire::time::Timestamp;
use rusqlite::Connection;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::harness::{backend, dump};
use crate::stage::{Object, Sent, Stage, eventually};

const FILES: [&str; 11] = [
    "check_projection",
    "completions",
    "duplicates",
    "executions_counters",
    "feeds",
    "inventory_and_history",
    "inventory_stream",
    "malformed",
    "missing_objects",
    "start_result_order",
    "whole_scenarios",
];

fn bytes_of(value: &Value) -> Option<Bytes> {
    if let Some(text) = value["text"].as_str() {
        return Some(Bytes::copy_from_slice(text.as_bytes()));
    }
    if let Some(hex) = value["hex"].as_str() {
        let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        return Some((0..hex.len()).step_by(2).map(byte).collect::<Vec<_>>().into());
    }
    if let Some(repeat) = value["repeat"].as_array() {
        let (text, count) = (repeat[0].as_str().unwrap(), repeat[1].as_u64().unwrap());
        return Some(text.repeat(count as usize).into());
    }
    None
}

fn object_of(value: &Value) -> Object {
    match (bytes_of(value), value["state"].as_str()) {
        (Some(bytes), _) => Object::Here(bytes),
        (None, Some("unreachable")) => Object::Unreachable,
        _ => Object::Gone,
    }
}

/// The payloads as the file writes them: blanks and the order of keys are part of some cases.
fn sent(message: &Value, raw: Option<&str>) -> Sent {
    let payload = bytes_of(message)
        .or_else(|| raw.map(|raw| Bytes::copy_from_slice(raw.as_bytes())))
        .unwrap();
    Sent {
        stream: StreamName::parse(message["stream"].as_str().unwrap()).unwrap(),
        seq: message["seq"].as_u64().unwrap(),
        subject: message["subject"].as_str().unwrap().to_owned(),
        published: Timestamp::parse_wire(message["published"].as_str().unwrap()).unwrap(),
        payload,
    }
}

/// JSON as the cases' payloads were written: keys in their order, one blank after each comma and colon.
fn as_written(json: &str) -> String {
    let (mut text, mut in_text, mut escaped) = (String::new(), false, false);
    for c in json.chars() {
        if in_text {
            text.push(c);
            in_text = escaped || c != '"';
            escaped = c == '\\' && !escaped;
        } else if !c.is_whitespace() {
            text.push(c);
            in_text = c == '"';
            if c == ',' || c == ':' {
                text.push(' ');
            }
        }
    }
    text
}

/// A message's `json`, as the file has it.
#[derive(Deserialize)]
struct RawMessage {
    json: Option<Box<RawValue>>,
}

#[derive(Deserialize)]
struct RawInput {
    messages: Vec<RawMessage>,
}

#[derive(Deserialize)]
struct RawCase {
    input: RawInput,
}

#[derive(Deserialize)]
struct RawFile {
    cases: Vec<RawCase>,
}

fn rows(conn: &Connection, sql: &str) -> Vec<Value> {
    let mut statement = conn.prepare(sql).unwrap();
    let names: Vec<String> = statement.column_names().map(str::to_owned).collect();
    let found = statement
        .query_map([], |row| {
            let mut object = Map::new();
            for (index, name) in names.iter().enumerate() {
                let value = match row.get_ref(index)? {
                    // On either side: the vectors do not name columns that are younger than they are.
                    rusqlite::types::ValueRef::Null => continue,
                    rusqlite::types::ValueRef::Integer(number) => json!(number),
                    rusqlite::types::ValueRef::Real(number) => json!(number),
                    other => json!(other.as_str().unwrap()),
                };
                object.insert(name.clone(), value);
            }
            Ok(Value::Object(object))
        })
        .unwrap();
    found.map(Result::unwrap).collect()
}

fn sorted(mut rows: Vec<Value>) -> Vec<Value> {
    rows.sort_by_key(Value::to_string);
    rows
}

/// Every row of every table that is not ours to keep books in.
pub fn tables(db: &Path) -> BTreeMap<String, Vec<Value>> {
    let conn = dump::open(db);
    let names: Vec<String> = conn
        .prepare("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'projector\\_%' ESCAPE '\\' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'")
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let mut tables = BTreeMap::new();
    for name in names {
        let order = if name == "inventory_history" {
            "id"
        } else {
            "rowid"
        };
        let mut found = rows(&conn, &format!("SELECT * FROM \"{name}\" ORDER BY {order}"));
        if name == "inventory_history" {
            for row in &mut found {
                row.as_object_mut().unwrap().remove("id");
            }
        } else {
            found = sorted(found);
        }
        if !found.is_empty() {
            tables.insert(name, found);
        }
    }
    tables
}

struct Case {
    value: Value,
    messages: Vec<Sent>,
}

impl Case {
    fn read(value: &Value, raw: &RawCase) -> Self {
        let messages = value["input"]["messages"].as_array().unwrap();
        let messages = messages
            .iter()
            .zip(&raw.input.messages)
            .map(|(message, raw)| {
                let json = raw.json.as_ref().map(|json| as_written(json.get()));
                sent(message, json.as_deref())
            })
            .collect();
        Self {
            value: value.clone(),
            messages,
        }
    }

    fn stage(&self, db: &Path) -> Stage {
        let input = &self.value["input"];
        let jobs = input["kv_jobs"].as_object().into_iter().flatten();
        let manifests = Manifests::compile(jobs.map(|(key, document)| {
            // A document that is no JSON at all is given as text.
            let text = document
                .as_str()
                .map_or_else(|| document.to_string(), str::to_owned);
            (key.clone(), text.into())
        }));
        let mut stage = Stage::open(db, manifests);
        for (name, object) in input["objects"].as_object().into_iter().flatten() {
            stage.objects.insert(name.clone(), object_of(object));
        }
        for row in input["executions"].as_array().into_iter().flatten() {
            insert_execution(db, row);
        }
        stage
    }

    fn step(&self, stage: &mut Stage, step: &Value) {
        if let Some(index) = step["deliver"].as_u64() {
            stage.deliver(&self.messages[index as usize]);
        } else if let Some(name) = step["object"].as_str() {
            stage.settle_down();
            stage.objects.insert(name.to_owned(), object_of(&step["becomes"]));
        } else if step["retry_objects"] == true {
            stage.retry_pending();
        } else if step["restart"] == true {
            stage.restart();
        } else if step["insert_execution"].is_object() {
            stage.settle_down();
            insert_execution(&stage.db, &step["insert_execution"]);
        } else if let Some(result_id) = step["reap"].as_str() {
            stage.settle_down();
            reap(&stage.db, result_id, step["at"].as_str().unwrap());
        } else {
            panic!("unknown step {step}");
        }
    }

    /// The given steps, or all messages in their order.
    fn steps(&self) -> Vec<Value> {
        match self.value["input"]["steps"].as_array() {
            Some(steps) => steps.clone(),
            None => (0..self.messages.len())
                .map(|index| json!({ "deliver": index }))
                .collect(),
        }
    }

    fn check(&self, stage: &Stage, in_order: bool) {
        stage.settle_down();
        let mut expected: BTreeMap<String, Vec<Value>> =
            serde_json::from_value(self.value["expect"]["tables"].clone()).unwrap_or_default();
        for (name, rows) in &mut expected {
            for row in rows.iter_mut().filter_map(Value::as_object_mut) {
                row.retain(|_, cell| !cell.is_null());
            }
            if name != "inventory_history" || !in_order {
                *rows = sorted(std::mem::take(rows));
            }
        }
        expected.retain(|_, rows| !rows.is_empty());
        let found = || {
            let mut found = tables(&stage.db);
            if let (false, Some(history)) = (in_order, found.get_mut("inventory_history")) {
                *history = sorted(std::mem::take(history));
            }
            found
        };
        // Executions whose row came late are settled within a second.
        let settled = || found().get("executions") == expected.get("executions");
        if self.value["input"].to_string().contains("insert_execution") {
            eventually("executions are settled", settled);
        }
        let found = found();
        for name in expected.keys().chain(found.keys()) {
            assert_eq!(found.get(name), expected.get(name), "{name}");
        }
        let conn = dump::open(&stage.db);
        let expect = |name: &str| sorted(self.value["expect"][name].as_array().cloned().unwrap_or_default());
        let letters = rows(
            &conn,
            "SELECT DISTINCT stream, stream_seq AS seq FROM projector_dead_letters",
        );
        assert_eq!(sorted(letters), expect("dead_letters"), "dead letters");
        let missing =
            "SELECT result_id, field, object, state FROM projector_outputs WHERE state <> 'fetched'";
        assert_eq!(
            sorted(rows(&conn, missing)),
            expect("missing_objects"),
            "missing objects"
        );
        let issues = "SELECT stream, stream_seq AS seq, code FROM projector_issues";
        assert_eq!(sorted(rows(&conn, issues)), expect("issues"), "issues");
        dump::check_i3(&stage.db);
    }
}

pub fn insert_execution(db: &Path, row: &Value) {
    let row = row.as_object().unwrap();
    let names: Vec<&str> = row.keys().map(String::as_str).collect();
    let marks: Vec<&str> = names.iter().map(|_| "?").collect();
    let values = row.values().map(|value| match value {
        Value::Number(number) => rusqlite::types::Value::Integer(number.as_i64().unwrap()),
        other => rusqlite::types::Value::Text(other.as_str().unwrap().to_owned()),
    });
    backend::connect(db)
        .execute(
            &format!(
                "INSERT INTO executions ({}) VALUES ({})",
                names.join(", "),
                marks.join(", ")
            ),
            rusqlite::params_from_iter(values),
        )
        .unwrap();
}

/// The backend's reaper.
pub fn reap(db: &Path, result_id: &str, at: &str) {
    let conn = backend::connect(db);
    let exec_id: Option<String> = conn
        .query_row(
            "UPDATE execution_results SET finished_at = ?2, exit_code = -1, reaped = 1, stderr = 'reaped by backend'
             WHERE result_id = ?1 RETURNING exec_id",
            [result_id, at],
            |row| row.get(0),
        )
        .unwrap();
    conn.execute(
        "UPDATE executions SET failure_count = failure_count + 1,
             status = CASE WHEN success_count + failure_count + 1 >= target_count THEN 'completed' ELSE 'running' END
         WHERE exec_id = ?1",
        [exec_id],
    )
    .unwrap();
}

fn run(case: &Case, name: &str, in_order: bool, play: impl FnOnce(&mut Stage)) {
    let played = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let folder = tempfile::tempdir().unwrap();
        let mut stage = case.stage(&folder.path().join("results.db"));
        play(&mut stage);
        case.check(&stage, in_order);
    }));
    assert!(played.is_ok(), "{name}");
}

fn scenario_vectors(file: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/vectors/{file}.json"));
    let text = std::fs::read_to_string(path).unwrap();
    let document: Value = serde_json::from_str(&text).unwrap();
    let raw: RawFile = serde_json::from_str(&text).unwrap();
    let cases = document["cases"].as_array().unwrap();
    assert!(!cases.is_empty());
    for (value, raw) in cases.iter().zip(&raw.cases) {
        let case = Case::read(value, raw);
        let name = format!("{file}: case {}", value["name"]);
        let steps = case.steps();
        run(&case, &format!("{name}, as given"), true, |stage| {
            for step in &steps {
                case.step(stage, step);
            }
        });
        for order in value["also_orders"].as_array().into_iter().flatten() {
            run(&case, &format!("{name}, in order {order}"), false, |stage| {
                for index in order.as_array().unwrap() {
                    stage.deliver(&case.messages[index.as_u64().unwrap() as usize]);
                }
            });
        }
        if value["also_redelivered"] == true {
            run(&case, &format!("{name}, redelivered"), false, |stage| {
                for step in &steps {
                    case.step(stage, step);
                    if let Some(index) = step["deliver"].as_u64() {
                        stage.deliver(&case.messages[index as usize]);
                    }
                }
                for message in &case.messages {
                    stage.deliver(message);
                }
            });
        }
    }
}

macro_rules! scenario_files {
    ($($test:ident $file:literal)*) => {
        $(
            #[test]
            fn $test() {
                scenario_vectors($file);
            }
        )*

        #[test]
        fn every_scenario_vector_file_is_run() {
            assert_eq!(FILES.as_slice(), [$($file),*].as_slice());
        }
    };
}

scenario_files! {
    check_projection_vectors_hold "check_projection"
    completions_vectors_hold "completions"
    duplicates_vectors_hold "duplicates"
    executions_counters_vectors_hold "executions_counters"
    feeds_vectors_hold "feeds"
    inventory_and_history_vectors_hold "inventory_and_history"
    inventory_stream_vectors_hold "inventory_stream"
    malformed_vectors_hold "malformed"
    missing_objects_vectors_hold "missing_objects"
    start_result_order_vectors_hold "start_result_order"
    whole_scenarios_vectors_hold "whole_scenarios"
}
