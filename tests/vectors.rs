//! The contract's test vectors: those of the wire's pure functions, and that every file is run somewhere.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::string_slice
)]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use results_projector::wire::result::{ExecResult, Field, decode, decode_shared};
use results_projector::wire::subject::Subject;
use results_projector::wire::time::Timestamp;
use results_projector::wire::{kv, object, subject};
use serde_json::{Value, json};
use support::{check, folder, payload};

/// Where vector files are run, and what stands before a file's name there.
const RUN_IN: [(&str, &str); 4] = [
    ("tests/vectors.rs", "check(\""),
    ("tests/vectors_rules.rs", "check(\""),
    ("src/store/derive/tests.rs", "check(\""),
    ("tests/it/scenarios.rs", "_vectors_hold \""),
];

#[test]
fn every_vector_file_is_run_by_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut run = BTreeSet::new();
    for (path, before) in RUN_IN {
        let source = fs::read_to_string(root.join(path)).unwrap();
        let names = source.split(before).skip(1);
        run.extend(names.map(|rest| rest.split('"').next().unwrap().to_owned()));
    }
    let found: BTreeSet<String> = fs::read_dir(folder())
        .unwrap()
        .filter_map(|entry| {
            let name = entry.unwrap().file_name();
            Some(name.to_str()?.strip_suffix(".json")?.to_owned())
        })
        .collect();
    assert_eq!(found, run);
}

#[test]
fn constants_vectors_are_the_constants_of_the_code() {
    macro_rules! table {
        ($($name:ident)*) => { [$((stringify!($name), json!(kv::$name))),*] };
    }
    let known = table! {
        BUCKET_AGENTS_STATE BUCKET_AGENT_CONFIG BUCKET_AGENT_GROUPS BUCKET_AGENT_GROUPS_DERIVED BUCKET_AGENT_META
        BUCKET_FLEET_CONFIG BUCKET_GROUP_CONTACTS BUCKET_GROUP_DEFS BUCKET_GROUP_DEFS_YAML BUCKET_JOBS BUCKET_JOBS_YAML
        BUCKET_NOTIFICATIONS_READ BUCKET_SCHEDULER_DISPATCH BUCKET_SCHEDULES BUCKET_SCHEDULES_YAML
        BUCKET_SCRIPT_CURRENT BUCKET_SCRIPT_STATUS BUCKET_SERVER_SETTINGS BUCKET_VIEWS BUCKET_VIEWS_YAML
        CHECK_BLOCK_BEGIN CHECK_BLOCK_END COLLECT_BLOCK_BEGIN COLLECT_BLOCK_END COMMANDS_ALL
        EVENTS_NOTIFICATIONS_ACKED_FILTER EVENTS_NOTIFICATIONS_FILTER EVENTS_STARTED_FILTER EXIT_REJECTED_UNSIGNED
        EXIT_RESTARTED_OUTCOME_UNKNOWN EXIT_SKIP_DEADLINE EXIT_SKIP_REVOKED EXIT_SKIP_STALENESS EXIT_SKIP_UNSUPPORTED
        EXIT_SKIP_VERSION_PIN FEED_BLOCK_BEGIN FEED_BLOCK_END INVENTORY_BLOCK_BEGIN INVENTORY_BLOCK_END INVENTORY_HW
        INVENTORY_NET INVENTORY_SW KEY_AGENT_CONFIG_GLOBAL KEY_AGENT_TARGET_VERSION KEY_FREEZE KEY_SERVER_SETTINGS
        KEY_SUPPORT_CODES MAX_PC_ID_LABELS NATS_DEFAULT_MAX_PAYLOAD NATS_PAYLOAD_BUDGET NOTIFICATIONS_ALL
        NOTIFICATIONS_AMEND_SUBJECT NOTIFICATIONS_GROUP_PREFIX NOTIFICATIONS_PC_PREFIX OBJECT_AGENT_RELEASES
        OBJECT_APP_PACKAGES OBJECT_COLLECTIONS OBJECT_RESULT_OUTPUT OBJECT_SCRIPTS OBS_FILTER
        PREFIX_AGENT_CONFIG_GROUPS PREFIX_AGENT_CONFIG_PCS SCRIPT_STATUS_ACTIVE SCRIPT_STATUS_REVOKED
        STDOUT_INLINE_THRESHOLD STREAM_AUDIT STREAM_EVENTS STREAM_EXEC STREAM_INVENTORY STREAM_NOTIFICATIONS
        STREAM_OBS_EVENTS STREAM_RESULTS
    };
    check("constants", |input, expect| {
        let name = input.as_str().unwrap();
        let (_, value) = known
            .iter()
            .find(|(known, _)| *known == name)
            .expect("a constant of the code");
        assert_eq!(value, expect);
    });
}

#[test]
fn config_keys_vectors_hold() {
    check("config_keys", |input, expect| {
        let value = input["value"].as_str().unwrap();
        let found = match input["fn"].as_str().unwrap() {
            "build" => json!({
                "group_key": kv::agent_config_group_key(value), "pc_key": kv::agent_config_pc_key(value),
            }),
            "parse" => json!({
                "group": kv::parse_agent_config_group_key(value), "pc": kv::parse_agent_config_pc_key(value),
            }),
            other => panic!("function {other}"),
        };
        assert_eq!(&found, expect);
    });
}

#[test]
fn subjects_vectors_hold() {
    check("subjects", |input, expect| {
        let text = |name: &str| input[name].as_str().unwrap();
        let found = match text("fn") {
            "results" => json!(subject::results(text("request_id"))),
            "events_started" => json!(subject::events_started(text("exec_id"), text("pc_id"))),
            "inventory" => json!(subject::inventory(text("pc_id"), text("category"))),
            "parse" => match subject::parse(text("subject")) {
                None => Value::Null,
                Some(Subject::Result { request_id }) => {
                    json!({"stream": "RESULTS", "request_id": request_id})
                }
                Some(Subject::Started { exec_id, pc_id }) => {
                    json!({"stream": "EVENTS", "exec_id": exec_id, "pc_id": pc_id})
                }
                Some(Subject::Inventory { pc_id, category }) => {
                    json!({"stream": "INVENTORY", "pc_id": pc_id, "category": category})
                }
            },
            other => panic!("function {other}"),
        };
        assert_eq!(&found, expect);
    });
}

#[test]
fn object_names_vectors_hold() {
    check("object_names", |input, expect| {
        let text = |name: &str| input[name].as_str().unwrap();
        let found = match text("fn") {
            "candidates" => {
                let field = Field::parse(text("stream")).unwrap();
                let content = text("bytes_utf8").as_bytes();
                json!(object::candidates(
                    text("request_id"),
                    text("pc_id"),
                    field,
                    content
                ))
            }
            "parse" => match object::parse(text("object")) {
                None => Value::Null,
                Some(name) => json!({
                    "request_id": name.request_id, "pc_id": name.pc_id, "stream": name.field.as_str(),
                    "alternate": name.alternate,
                }),
            },
            other => panic!("function {other}"),
        };
        assert_eq!(&found, expect);
    });
}

#[test]
fn timestamps_vectors_hold() {
    check("timestamps", |input, expect| {
        let time = Timestamp::parse_wire(input.as_str().unwrap()).unwrap();
        assert_eq!(json!(time.stored()), *expect);
        assert_eq!(Timestamp::parse_stored(&time.stored()).unwrap(), time);
    });
}

/// The decoded record as the wire crate writes it back: absent options left out, `skipped` always there.
fn written_back<T: AsRef<str>>(result: &ExecResult<T>) -> Value {
    let time = |time: Timestamp| {
        let time: chrono::DateTime<chrono::Utc> = time.into();
        json!(time.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true))
    };
    let mut value = json!({
        "result_id": result.result_id.as_ref(), "request_id": result.request_id.as_ref(),
        "pc_id": result.pc_id.as_ref(), "exit_code": result.exit_code, "skipped": result.skipped,
        "stdout": result.stdout.as_ref(), "stderr": result.stderr.as_ref(),
        "started_at": time(result.started_at), "finished_at": time(result.finished_at),
    });
    for (name, text) in [
        ("exec_id", &result.exec_id),
        ("parent_result_id", &result.parent_result_id),
        ("stdout_object", &result.stdout_object),
        ("stderr_object", &result.stderr_object),
        ("manifest_id", &result.manifest_id),
        ("collect_object", &result.collect_object),
    ] {
        if let Some(text) = text {
            value[name] = json!(text.as_ref());
        }
    }
    value
}

#[test]
fn exec_result_decode_vectors_hold_borrowed_and_shared() {
    check("exec_result_decode", |input, expect| {
        let bytes = payload(input);
        let (borrowed, shared) = (decode(&bytes), decode_shared(&bytes.clone().into()));
        assert_eq!(borrowed.is_ok(), shared.is_ok());
        // The incumbent takes a JSON array of the fields in order; ours may take it or not (§3.2).
        if input["text"]
            .as_str()
            .is_some_and(|text| text.trim_start().starts_with('['))
        {
            return;
        }
        assert_eq!(json!(borrowed.is_ok()), expect["ok"], "{:?}", borrowed.err());
        if let (Ok(borrowed), Ok(shared)) = (&borrowed, &shared) {
            assert_eq!(written_back(borrowed), expect["value"]);
            assert_eq!(written_back(shared), expect["value"]);
        }
    });
}

#[test]
fn exec_result_identity_vectors_hold() {
    check("exec_result_identity", |input, expect| {
        let bytes = payload(input);
        let result = decode(&bytes).unwrap();
        let found = json!({
            "result_id": result.row_key(), "skipped_column": i32::from(result.skipped_column()),
            "check_ignored": result.carries_no_check_evidence(),
        });
        assert_eq!(&found, expect);
    });
}
