//! The contract's test vectors of what EVENTS, INVENTORY and manifests bring: decoding and pure rules.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::string_slice
)]

mod support;

use bytes::Bytes;
use proptest::prelude::*;
use results_projector::projection::check::{CheckState, evaluate};
use results_projector::projection::explode::{Cell, ColumnKind, convert, needs_affinity};
use results_projector::projection::feed::item_id;
use results_projector::projection::history::scalar_events;
use results_projector::projection::issue::IssueCode;
use results_projector::projection::manifests::{Manifests, SpecState};
use results_projector::projection::spec::{check as check_spec, index_name, is_name, is_taken};
use results_projector::wire::fence::{Hint, block};
use results_projector::wire::inventory::{HW_DISPLAY, decode as decode_inventory, decode_hw};
use results_projector::wire::json::{compact, fields};
use results_projector::wire::manifest::{self, Check, Explode, Inventory, display_json, expires_at};
use results_projector::wire::started;
use results_projector::wire::time::Timestamp;
use rusqlite::Connection;
use rusqlite::types::{ToSqlOutput, Value as Stored};
use serde_json::{Value, json};
use support::{check, folder, payload};

/// As the wire writes a time: with `Z`.
fn wire_time(time: Timestamp) -> String {
    let time: chrono::DateTime<chrono::Utc> = time.into();
    time.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true)
}

fn texts(value: &Value) -> Vec<String> {
    serde_json::from_value(value.clone()).unwrap()
}

#[test]
fn check_status_eval_vectors_hold() {
    check("check_status_eval", |input, expect| {
        let hint: Check = serde_json::from_value(input["hint"].clone()).unwrap();
        let exit_code = i32::try_from(input["exit_code"].as_i64().unwrap()).unwrap();
        let (stdout, stderr) = (input["stdout"].as_str(), input["stderr"].as_str());
        let CheckState { status, detail } = evaluate(&hint, exit_code, stdout, stderr).unwrap();
        assert_eq!(
            (json!(status), json!(hint.label)),
            (expect["status"].clone(), expect["label"].clone())
        );
        match expect["detail_prefix"].as_str() {
            Some(prefix) => assert!(detail.unwrap().starts_with(prefix)),
            None => assert_eq!(json!(detail), expect["detail"]),
        }
    });
}

#[test]
fn compact_json_vectors_hold() {
    check("compact_json", |input, expect| {
        let value = serde_json::from_str(input.as_str().unwrap()).unwrap();
        assert_eq!(json!(compact(&value)), *expect);
    });
}

#[test]
fn event_started_decode_vectors_hold() {
    check("event_started_decode", |input, expect| {
        let event = started::decode_shared(&Bytes::from(payload(input)));
        assert_eq!(json!(event.is_ok()), expect["ok"], "{:?}", event.err());
        if let Ok(event) = event {
            let found = json!({
                "result_id": &*event.result_id, "request_id": &*event.request_id, "exec_id": &*event.exec_id,
                "pc_id": &*event.pc_id, "manifest_id": &*event.manifest_id, "version": &*event.version,
                "started_at": wire_time(event.started_at),
            });
            assert_eq!(found, expect["value"]);
        }
    });
}

#[test]
fn hw_inventory_decode_vectors_hold() {
    check("hw_inventory_decode", |input, expect| {
        let bytes = payload(input);
        let hardware = decode_hw(&bytes);
        let snapshot = decode_inventory("inventory.elsewhere.hw", &Bytes::from(bytes));
        assert_eq!(json!(hardware.is_ok()), expect["ok"], "{:?}", hardware.err());
        assert_eq!(hardware.as_ref().err(), snapshot.as_ref().err());
        if let (Ok(hardware), Ok(snapshot)) = (hardware, snapshot) {
            let disks = hardware.disks.iter().map(|disk| {
                json!({
                    "device_id": disk.device_id, "size_bytes": disk.size_bytes, "free_bytes": disk.free_bytes,
                    "file_system": disk.file_system,
                })
            });
            let found = json!({
                "pc_id": hardware.pc_id, "hostname": hardware.hostname, "os_name": hardware.os_name,
                "os_version": hardware.os_version, "os_build": hardware.os_build, "cpu_model": hardware.cpu_model,
                "cpu_cores": hardware.cpu_cores, "ram_bytes": hardware.ram_bytes,
                "disks": disks.collect::<Vec<_>>(), "collected_at": wire_time(hardware.collected_at),
            });
            assert_eq!(found, expect["value"]);
            assert_eq!(
                (snapshot.pc_id, &*snapshot.job_id),
                (hardware.pc_id, "inventory.hw")
            );
            assert_eq!(snapshot.collected_at, Some(hardware.collected_at));
        }
    });
}

/// The scenarios are run elsewhere; the text that they show is a constant of ours.
#[test]
fn hardware_is_displayed_as_the_inventory_stream_vector_shows() {
    let text = std::fs::read_to_string(folder().join("inventory_stream.json")).unwrap();
    let document: Value = serde_json::from_str(&text).unwrap();
    let row = &document["cases"][0]["expect"]["tables"]["inventory_facts"][0];
    assert_eq!(row["display_json"], json!(HW_DISPLAY));
}

#[test]
fn fences_vectors_hold() {
    check("fences", |input, expect| {
        let stdout = input.as_str().unwrap();
        let found = json!({
            "inventory": block(stdout, Hint::Inventory), "check": block(stdout, Hint::Check),
            "feed": block(stdout, Hint::Feed),
        });
        assert_eq!(&found, expect);
    });
}

#[test]
fn reap_deadline_vectors_hold() {
    check("reap_deadline", |input, expect| {
        let published = Timestamp::parse_wire(input["published"].as_str().unwrap()).unwrap();
        let deadline = expires_at(published, input["timeout"].as_str().unwrap());
        assert_eq!(json!(deadline.map(|time| time.stored())), *expect);
    });
}

/// The decoded hint as the wire crate writes it back: what is absent or a default of an option is left out.
fn written_back(inventory: &Inventory) -> Value {
    let parsed = |text: &str| -> Value { serde_json::from_str(text).unwrap() };
    let mut value = json!({"display": parsed(&display_json(&inventory.display))});
    if let Some(summary) = &inventory.summary {
        value["summary"] = parsed(&display_json(summary));
    }
    if !inventory.history_scalars.is_empty() {
        value["history_scalars"] = json!(inventory.history_scalars);
    }
    let column = |column: &manifest::Column| {
        let mut value = json!({"field": column.field, "index": column.index});
        if let Some(kind) = &column.kind {
            value["type"] = json!(kind);
        }
        value
    };
    if !inventory.explode.is_empty() {
        let specs = inventory.explode.iter().map(|spec| {
            json!({
                "field": spec.field, "table": spec.table, "primary_key": spec.primary_key,
                "columns": spec.columns.iter().map(column).collect::<Vec<_>>(), "track_history": spec.track_history,
            })
        });
        value["explode"] = specs.collect();
    }
    value
}

/// The wire crate leaves a false `index` out or not; for the comparison it is always there.
fn with_index(mut value: Value) -> Value {
    if let Some(specs) = value
        .pointer_mut("/inventory/explode")
        .and_then(Value::as_array_mut)
    {
        for column in specs
            .iter_mut()
            .flat_map(|spec| spec["columns"].as_array_mut().unwrap())
        {
            let index = column["index"].as_bool().unwrap_or(false);
            column["index"] = json!(index);
        }
    }
    value
}

#[test]
fn manifest_decode_vectors_hold() {
    check("manifest_decode", |input, expect| {
        let decoded = manifest::decode(&payload(input));
        assert_eq!(json!(decoded.is_ok()), expect["ok"], "{:?}", decoded.err());
        if let Ok(decoded) = decoded {
            let found = json!({
                "id": decoded.id, "version": decoded.version, "timeout": decoded.timeout,
                "inventory": decoded.inventory.as_ref().map(written_back),
                "check": decoded.check.as_ref().map(|check| json!({
                    "name": check.name, "label": check.label, "status_field": check.status_field,
                    "detail_field": check.detail_field, "fleet": check.fleet,
                })),
                "feed": decoded.feeds.iter().map(|feed| json!({
                    "id": feed.id, "field": feed.field, "primary_key": feed.primary_key,
                })).collect::<Vec<_>>(),
            });
            assert_eq!(found, with_index(expect["value"].clone()));
        }
    });
}

#[test]
fn explode_identifiers_vectors_hold() {
    check("explode_identifiers", |input, expect| {
        assert_eq!(json!(is_name(input.as_str().unwrap())), *expect);
    });
}

#[test]
fn explode_table_refusal_vectors_hold() {
    check("explode_table_refusal", |input, expect| {
        let spec = json!({"field": "x", "table": input, "primary_key": ["a"], "columns": [{"field": "a"}]});
        let spec: Explode = serde_json::from_value(spec).unwrap();
        let refused = check_spec(&spec).is_err_and(|refusal| refusal.code == IssueCode::ExplodeTableRefused);
        assert_eq!(json!(refused), expect["refused"]);
        assert_eq!(refused, is_taken(&spec.table));
    });
}

#[test]
fn explode_spec_vectors_hold() {
    check("explode_spec", |input, expect| {
        let document = json!({
            "id": "j", "version": "1", "execute": {"shell": "sh", "timeout": "1s"},
            "inventory": {"display": [], "explode": [input]},
        });
        let manifests = Manifests::compile([("j".to_owned(), Bytes::from(document.to_string()))]);
        let spec = match &manifests.hints("j").unwrap().inventory.as_ref().unwrap().specs[0] {
            SpecState::Valid(spec) => spec,
            SpecState::Refused(refused) => {
                assert_eq!(json!(false), expect["ok"], "{}", refused.reason);
                assert_eq!(refused.code, IssueCode::ExplodeSpecInvalid);
                return;
            }
        };
        assert_eq!(json!(true), expect["ok"]);
        // The table itself is the store's to test; here the parts that it is made of, behind the built-in columns.
        let place = |at: usize| {
            spec.key
                .iter()
                .position(|key| *key == at)
                .map_or(0, |place| place + 3)
        };
        let columns = spec.columns.iter().enumerate().map(|(at, column)| {
            json!({"name": column.name, "type": column.kind.as_sql(), "not_null": 0, "pk": place(at)})
        });
        assert_eq!(
            columns.collect::<Vec<_>>(),
            expect["columns"].as_array().unwrap()[3..]
        );
        let indexed = spec.columns.iter().filter(|column| column.index);
        let indexes: Vec<_> = indexed
            .map(|column| index_name(&spec.table, &column.name))
            .collect();
        assert_eq!(json!(indexes), expect["indexes"]);
    });
}

fn bound(cell: &Cell) -> ToSqlOutput<'static> {
    ToSqlOutput::Owned(match cell {
        Cell::Null => Stored::Null,
        Cell::Integer(value) => Stored::Integer(*value),
        Cell::Real(value) => Stored::Real(*value),
        Cell::Text(value) => Stored::Text(value.clone()),
    })
}

/// What SQLite keeps of a cell in a column of this type.
fn stored(connection: &Connection, kind: ColumnKind, cell: &Cell) -> Cell {
    let table = format!("CREATE TEMP TABLE IF NOT EXISTS {0} (v {0})", kind.as_sql());
    connection.execute(&table, []).unwrap();
    let insert = format!("INSERT INTO {} VALUES (?1) RETURNING rowid", kind.as_sql());
    let row: i64 = connection
        .query_one(&insert, [bound(cell)], |row| row.get(0))
        .unwrap();
    let select = format!("SELECT v FROM {} WHERE rowid = ?1", kind.as_sql());
    match connection.query_one(&select, [row], |row| row.get(0)).unwrap() {
        Stored::Null => Cell::Null,
        Stored::Integer(value) => Cell::Integer(value),
        Stored::Real(value) => Cell::Real(value),
        Stored::Text(value) => Cell::Text(value),
        Stored::Blob(_) => panic!("a blob"),
    }
}

#[test]
fn explode_conversion_vectors_hold_and_only_what_says_so_is_changed_by_sqlite() {
    let connection = Connection::open_in_memory().unwrap();
    check("explode_conversion", |input, expect| {
        let kind = input["type"]
            .as_str()
            .map_or(ColumnKind::Text, |kind| ColumnKind::parse(kind).unwrap());
        let cell = convert(kind, input.get("value"));
        let stored = stored(&connection, kind, &cell);
        if !needs_affinity(kind, &cell) {
            assert_eq!(stored, cell);
        }
        let expected = match (expect["storage"].as_str().unwrap(), &expect["value"]) {
            ("null", Value::Null) => Cell::Null,
            ("integer", value) => Cell::Integer(value.as_i64().unwrap()),
            ("real", value) => Cell::Real(value.as_f64().unwrap()),
            ("text", value) => Cell::Text(value.as_str().unwrap().to_owned()),
            other => panic!("{other:?}"),
        };
        assert_eq!(stored, expected);
    });
}

proptest! {
    #[test]
    fn a_cell_that_needs_no_affinity_is_stored_as_it_is(
        text in prop_oneof!["[ \t\n\u{b}\u{c}\r0-9a-fxIN.+-]{0,8}", any::<String>()],
        number in any::<f64>(), integer in any::<i64>()
    ) {
        let connection = Connection::open_in_memory().unwrap();
        for value in [json!(text), json!(number), json!(integer), json!([text]), json!({ "a": number })] {
            for kind in [ColumnKind::Text, ColumnKind::Integer, ColumnKind::Real] {
                let cell = convert(kind, Some(&value));
                if !needs_affinity(kind, &cell) {
                    prop_assert_eq!(stored(&connection, kind, &cell), cell);
                }
            }
        }
    }
}

#[test]
fn feed_item_id_vectors_hold() {
    check("feed_item_id", |input, expect| {
        let found = item_id(&texts(&input["primary_key"]), &input["element"]);
        assert_eq!(json!(found), *expect);
    });
}

#[test]
fn history_scalars_vectors_hold() {
    check("history_scalars", |input, expect| {
        let names = texts(&input["history_scalars"]);
        let old = input["prior_facts_json"]
            .as_str()
            .and_then(|text| fields(text, &names));
        let events = scalar_events(&names, old.as_ref(), &input["new"]);
        let found = events.iter().map(|event| {
            json!({
                "field_path": event.field_path, "identity_json": event.identity_json,
                "change_kind": event.kind.as_str(), "before_json": event.before_json, "after_json": event.after_json,
            })
        });
        assert_eq!(found.collect::<Vec<_>>(), *expect.as_array().unwrap());
    });
}
