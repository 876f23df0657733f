//! The contract's scenarios that need nothing but RESULTS: from the payload through decoding, pointers and rules into a
//! real file, with the sequences and publish times of the case. The others wait for the tables they fill.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use bytestring::ByteString;
use results_projector::projection::output::Output;
use results_projector::projection::result::ResultMessage;
use results_projector::service::resolve::prejudge;
use results_projector::store::dead_letters::DeadLetter;
use results_projector::store::{Advance, Counts, Owner, Standing, Store, StoreOptions};
use results_projector::wire::kv::StreamName;
use results_projector::wire::output::{Attempt, Content};
use results_projector::wire::result::decode_shared;
use results_projector::wire::sequence::StreamSeq;
use results_projector::wire::time::Timestamp;
use serde_json::{Value, json};

use crate::harness::dump;

const TABLES: [&str; 3] = ["execution_results", "job_completions", "job_version_completions"];

fn bytes_of(value: &Value) -> Option<Bytes> {
    if let Some(text) = value["text"].as_str() {
        return Some(Bytes::copy_from_slice(text.as_bytes()));
    }
    if let Some(hex) = value["hex"].as_str() {
        let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        return Some((0..hex.len()).step_by(2).map(byte).collect::<Vec<_>>().into());
    }
    if let Some(repeat) = value["repeat"].as_array() {
        return Some(
            repeat[0]
                .as_str()
                .unwrap()
                .repeat(repeat[1].as_u64().unwrap() as usize)
                .into(),
        );
    }
    value.get("json").map(|json| Bytes::from(json.to_string()))
}

fn output(pointer: Option<ByteString>, request_id: &str, objects: &Value) -> Option<Output> {
    let object = pointer?;
    let attempt = prejudge(&object, request_id).unwrap_or_else(|| match bytes_of(&objects[&*object]) {
        Some(bytes) => Attempt::Fetched {
            content: Content::new(bytes),
            sha256: [0; 32],
            verified: true,
        },
        None if objects[&*object]["state"] == "unreachable" => Attempt::Pending("no answer".into()),
        None => Attempt::Gone("no such object".into()),
    });
    Some(Output { object, attempt })
}

/// Delivers all messages once, as one incarnation of the stream.
fn deliver(store: &mut Store, standing: &Standing, messages: &[Value], objects: &Value) -> Standing {
    let mut tx = store.begin(Timestamp::from_unix_nanos(0)).unwrap();
    tx.begin_incarnation(StreamName::Results, standing).unwrap();
    let (mut counts, mut last) = (Counts::default(), standing.position);
    for message in messages {
        let (seq, payload) = (
            StreamSeq(message["seq"].as_u64().unwrap()),
            bytes_of(message).unwrap(),
        );
        let published = Timestamp::parse_wire(message["published"].as_str().unwrap()).unwrap();
        counts.gap += seq.0 - last.0 - 1;
        match decode_shared(&payload) {
            Ok(result) => {
                let stdout = output(result.stdout_object.clone(), &result.request_id, objects);
                let stderr = output(result.stderr_object.clone(), &result.request_id, objects);
                let message = ResultMessage {
                    result,
                    stdout,
                    stderr,
                };
                tx.result(standing.incarnation, seq, published, &message).unwrap();
                counts.projected += 1;
            }
            Err(error) => {
                let letter = DeadLetter {
                    stream: StreamName::Results,
                    seq,
                    subject: message["subject"].as_str().unwrap().to_owned(),
                    published,
                    reason: error.to_string(),
                    headers: None,
                    payload,
                };
                tx.dead_letter(standing.incarnation, &letter).unwrap();
                counts.dead += 1;
            }
        }
        last = seq;
    }
    let mut to = standing.clone();
    to.advance(last, None, counts);
    tx.advance(&Advance {
        stream: StreamName::Results,
        from: standing.position,
        to: to.clone(),
    })
    .unwrap();
    tx.commit().unwrap();
    to
}

fn rows(db: &Path, sql: &str) -> Vec<Value> {
    let conn = dump::open(db);
    let mut statement = conn.prepare(sql).unwrap();
    let names: Vec<String> = statement.column_names().map(str::to_owned).collect();
    let mut found: Vec<Value> = statement
        .query_map([], |row| {
            let mut object = serde_json::Map::new();
            for (index, name) in names.iter().enumerate() {
                let value = match row.get_ref(index)? {
                    rusqlite::types::ValueRef::Null => Value::Null,
                    rusqlite::types::ValueRef::Integer(number) => json!(number),
                    other => json!(other.as_str().unwrap()),
                };
                object.insert(name.clone(), value);
            }
            Ok(Value::Object(object))
        })
        .unwrap()
        .map(Result::unwrap)
        .collect();
    found.sort_by_key(Value::to_string);
    found
}

fn expected(case: &Value, pointer: &str) -> Vec<Value> {
    let mut rows = case["expect"]
        .pointer(pointer)
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    rows.sort_by_key(Value::to_string);
    rows
}

fn check(case: &Value, db: &Path) {
    for table in TABLES {
        assert_eq!(
            rows(db, &format!("SELECT * FROM {table}")),
            expected(case, &format!("/tables/{table}")),
            "{table}"
        );
    }
    let letters = rows(
        db,
        "SELECT DISTINCT stream, stream_seq AS seq FROM projector_dead_letters",
    );
    assert_eq!(letters, expected(case, "/dead_letters"));
    let missing = rows(
        db,
        "SELECT result_id, field, object, state FROM projector_outputs WHERE state <> 'fetched'",
    );
    assert_eq!(missing, expected(case, "/missing_objects"));
}

/// Needs nothing but RESULTS and its objects, delivered in order.
fn is_ours(case: &Value) -> bool {
    let input = &case["input"];
    let tables = case["expect"]["tables"].as_object().into_iter().flatten();
    input["messages"]
        .as_array()
        .is_some_and(|messages| messages.iter().all(|message| message["stream"] == "RESULTS"))
        && ["kv_jobs", "executions", "steps"]
            .iter()
            .all(|name| input.get(*name).is_none())
        && case["expect"].get("issues").is_none()
        && tables
            .map(|(name, _)| name.as_str())
            .all(|name| TABLES.contains(&name))
}

#[test]
fn scenario_vectors_of_results_alone_hold_and_redelivering_them_changes_nothing() {
    let mut ran: BTreeMap<&str, usize> = BTreeMap::new();
    for file in ["completions", "duplicates", "malformed", "missing_objects"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/vectors/{file}.json"));
        let document: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        for case in document["cases"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|case| is_ours(case))
        {
            println!("{file}: {}", case["name"]);
            let folder = tempfile::tempdir().unwrap();
            let db = folder.path().join("results.db");
            let me = Owner {
                pid: 1,
                started_at: String::new(),
                host: String::new(),
            };
            let mut store = Store::open(&db, &StoreOptions::default(), &me).unwrap();
            let (messages, objects) = (
                case["input"]["messages"].as_array().unwrap(),
                &case["input"]["objects"],
            );
            let first = Standing::new(1, StreamSeq(1));
            let after = deliver(&mut store, &first, messages, objects);
            check(case, &db);
            // The same messages again, as a stream whose sequences begin a new life brings them.
            deliver(&mut store, &after.succeed(None, StreamSeq(1)), messages, objects);
            check(case, &db);
            *ran.entry(file).or_default() += 1;
        }
    }
    assert_eq!(ran.values().sum::<usize>(), 17, "{ran:?}");
}
