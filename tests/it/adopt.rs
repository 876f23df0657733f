//! The backend's own file: recognised or refused, mended in the first pass, never altered (contract §6.8, §7.2).

mod beside;
mod rebuild;

use std::path::Path;

use async_nats::jetstream;
use bytes::Bytes;
use rusqlite::types::Value as Cell;
use rusqlite::{Connection, params};
use serde_json::{Value, json};

use crate::harness::backend::{self, BackendFile, Ledgers, create_ledgers, others_rows, rows, schema};
use crate::harness::fleet::put_manifests;
use crate::harness::projector::{catch_up, place, run, text};
use crate::harness::*;

const LEDGER_TABLES: [(&str, &str); 2] = [
    ("job_completions", "job_id, pc_id"),
    ("job_version_completions", "job_id, version, pc_id"),
];
const ROW_TABLES: [(&str, &str); 7] = [
    ("execution_results", "result_id"),
    ("inventory_facts", "pc_id, job_id"),
    ("check_status", "pc_id, check_name"),
    ("feeds", "feed_id, item_id"),
    ("feed_meta", "feed_id"),
    ("inventory_software_apps", "pc_id, job_id, rowid"),
    ("inventory_disks", "pc_id, job_id, rowid"),
];

/// The canonical dump (contract §6.9), `executions` left out; exploded tables in the order of their elements.
fn read_model(db: &Path, ledgers: bool) -> Vec<Vec<Cell>> {
    let conn = dump::open(db);
    let ledgers = if ledgers { &LEDGER_TABLES[..] } else { &[] };
    let mut all: Vec<Vec<Cell>> = ROW_TABLES
        .iter()
        .chain(ledgers)
        .flat_map(|(table, key)| rows(&conn, &format!("SELECT '{table}', * FROM {table} ORDER BY {key}")))
        .collect();
    all.extend(rows(
        &conn,
        "SELECT pc_id, job_id, field_path, identity_json, change_kind, before_json, after_json, observed_at
         FROM inventory_history ORDER BY pc_id, job_id, observed_at, id",
    ));
    all
}

fn assert_same_read_model(one: &Path, other: &Path, ledgers: bool) {
    let (one, other) = (read_model(one, ledgers), read_model(other, ledgers));
    let only = |these: &[Vec<Cell>], those: &[Vec<Cell>]| -> Vec<String> {
        let only = these.iter().filter(|row| !those.contains(row)).take(3);
        only.map(|row| format!("{row:?}").chars().take(600).collect())
            .collect()
    };
    if one != other {
        panic!(
            "only in the first: {:#?}\nonly in the second: {:#?}",
            only(&one, &other),
            only(&other, &one)
        );
    }
}

fn status(db: &Path, url: &str) -> Value {
    let output = run(db, url, &["status", "--json"]);
    assert!(output.status.success(), "{}", text(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A fleet that does everything, its manifests in place.
async fn fleet(server: &NatsServer, seed: u64, results: usize) -> (jetstream::Context, Vec<Planned>) {
    let js = server.fleet().await;
    put_manifests(&js).await.unwrap();
    (js, plan(seed, &Profile::everything(results)))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_backends_file_is_filled_like_our_own_and_nothing_of_its_own_changes() {
    let server = NatsServer::start();
    let (js, planned) = fleet(&server, 201, 600).await;
    publish(&js, &planned).await.unwrap();
    let (_folder, own) = place();
    catch_up(&own, &server.url());
    for ledgers in [Ledgers::LikeOurs, Ledgers::InOtherWords, Ledgers::Absent] {
        let (_folder, db) = place();
        BackendFile::with(ledgers).create(&db);
        let backend = backend::connect(&db);
        let (before, others) = (schema(&backend), others_rows(&backend));
        let output = catch_up(&db, &server.url());
        assert_eq!(schema(&backend), before, "{ledgers:?}");
        assert_eq!(others_rows(&backend), others, "{ledgers:?}");
        let foreign = rows(
            &backend,
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND sql LIKE '%STRICT%' AND name NOT LIKE 'projector\\_%' ESCAPE '\\'",
        );
        assert!(foreign.is_empty(), "{foreign:?}");
        assert_same_read_model(&db, &own, ledgers != Ledgers::Absent);
        check_i3(&db);
        assert_eq!(
            text(&output).contains("they stay on"),
            ledgers == Ledgers::InOtherWords,
            "{}",
            text(&output)
        );
        let said = status(&db, &server.url());
        assert_eq!(said["database"]["adopted"], true);
        assert_eq!(said["database"]["first_pass"], false);
        let sound: String = backend
            .query_row("PRAGMA integrity_check", [], |row| row.get(0))
            .unwrap();
        assert_eq!(sound, "ok");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ledgers_that_appear_later_are_kept_from_then_on() {
    let server = NatsServer::start();
    let (js, planned) = fleet(&server, 202, 600).await;
    let half = planned.len() / 2;
    publish(&js, &planned[..half]).await.unwrap();
    for (ledgers, prefix) in [(Ledgers::LikeOurs, "one"), (Ledgers::InOtherWords, "two")] {
        let (_folder, db) = place();
        BackendFile::with(Ledgers::Absent).create(&db);
        let env = [("RESULTS_PROJECTOR_SOURCE_CONSUMER_PREFIX", prefix)];
        let projector = Projector::start_with(&db, &server.url(), &["run"], &env);
        let caught_up = || {
            let output = run(&db, &server.url(), &["status", "--json"]);
            // At first there is nothing of ours to be read.
            let said: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
            let streams = said["streams"].as_array().cloned().unwrap_or_default();
            streams.len() == 3 && streams.iter().all(|stream| stream["lag_messages"] == 0)
        };
        wait_until("the first part is projected", PATIENCE, caught_up);
        // A newer backend migrates the file under the running service.
        let mut backend = backend::connect(&db);
        let tx = backend
            .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
            .unwrap();
        create_ledgers(&tx, ledgers);
        tx.commit().unwrap();
        if ledgers == Ledgers::LikeOurs {
            publish(&js, &planned[half..]).await.unwrap();
            wait_until("the rest is projected", PATIENCE, caught_up);
        } else {
            // The stream is whole by now: one more is enough.
            publish(
                &js,
                &plan(
                    203,
                    &Profile {
                        results: 50,
                        ..Profile::default()
                    },
                ),
            )
            .await
            .unwrap();
            wait_until("the rest is projected", PATIENCE, caught_up);
        }
        assert!(projector.terminate().success());
        for (table, keys) in LEDGER_TABLES {
            let kept = rows(
                &backend,
                &format!("SELECT {keys}, last_success_at FROM {table} ORDER BY {keys}"),
            );
            let version = if table == "job_completions" {
                ""
            } else {
                "AND version IS NOT NULL"
            };
            let wanted = rows(
                &backend,
                &format!(
                    "SELECT {keys}, max(finished_at) FROM execution_results
                     WHERE job_id IS NOT NULL AND exit_code = 0 AND finished_at IS NOT NULL {version}
                     GROUP BY {keys} ORDER BY {keys}"
                ),
            );
            assert!(!kept.is_empty());
            assert_eq!(kept, wanted, "{table} {ledgers:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn triggers_of_others_on_any_table_that_is_written_stay_on() {
    let server = NatsServer::start();
    let (js, planned) = fleet(&server, 204, 300).await;
    publish(&js, &planned).await.unwrap();
    let (_folder, db) = place();
    BackendFile::with(Ledgers::LikeOurs).create(&db);
    let backend = backend::connect(&db);
    backend.execute_batch("CREATE TABLE seen (what TEXT)").unwrap();
    let watched = [
        "executions",
        "inventory_facts",
        "inventory_history",
        "check_status",
        "feeds",
    ];
    for (table, event) in
        watched.map(|table| (table, if table == "executions" { "UPDATE" } else { "INSERT" }))
    {
        backend
            .execute_batch(&format!(
                "CREATE TRIGGER see_{table} AFTER {event} ON {table} BEGIN INSERT INTO seen VALUES ('{table}'); END"
            ))
            .unwrap();
    }
    backend::deploy(&backend, "exec-0", "patch-scan", 10);
    catch_up(&db, &server.url());
    let seen = rows(&backend, "SELECT DISTINCT what FROM seen ORDER BY what");
    assert_eq!(seen.len(), watched.len(), "{seen:?}");
    let (_folder, own) = place();
    catch_up(&own, &server.url());
    assert_same_read_model(&db, &own, true);
}

#[test]
fn a_file_that_is_too_old_or_lacks_a_column_is_refused_in_one_line_and_stays_as_it_is() {
    let old = |last, last_succeeded| BackendFile {
        last,
        last_succeeded,
        ledgers: Ledgers::Absent,
        without: None,
    };
    let needed = |found| format!("is a backend's database at migration {found}; 20260927000000 is needed");
    let without = |table, column| BackendFile {
        without: Some((table, column)),
        ..BackendFile::default()
    };
    for (file, wanted) in [
        (old(20260802000000, true), needed(20260802000000_i64)),
        (old(20260604000000, true), needed(20260604000000)),
        (old(11, true), needed(11)),
        // Begun and failed is not there.
        (old(20260927000000, false), needed(20260802000000)),
        (
            without("check_status", "label"),
            "no column check_status.label; the backend's migrations make it".to_owned(),
        ),
        (
            without("execution_results", "skipped"),
            "no column execution_results.skipped".to_owned(),
        ),
        (
            without("job_version_completions", "last_success_at"),
            "no column job_version_completions.last_success_at".to_owned(),
        ),
    ] {
        // As a stopped backend leaves it, and as one with an older journal does.
        for mode in ["wal", "delete"] {
            let (_folder, db) = place();
            file.create(&db);
            Connection::open(&db)
                .unwrap()
                .pragma_update(None, "journal_mode", mode)
                .unwrap();
            let before = std::fs::read(&db).unwrap();
            let output = run(&db, "nats://127.0.0.1:9", &["run"]);
            assert_eq!(output.status.code(), Some(2), "{}", text(&output));
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(said.contains(&wanted), "{said}");
            assert_eq!(said.lines().count(), 1, "{said}");
            assert_eq!(std::fs::read(&db).unwrap(), before, "{wanted} {mode}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_later_migration_is_the_backends_to_mend_and_does_not_stop_us() {
    let server = NatsServer::start();
    let (js, planned) = fleet(&server, 205, 50).await;
    publish(&js, &planned).await.unwrap();
    let (_folder, db) = place();
    let file = BackendFile {
        last_succeeded: false,
        ledgers: Ledgers::Absent,
        ..BackendFile::default()
    };
    file.create(&db);
    catch_up(&db, &server.url());
    let (_folder, own) = place();
    catch_up(&own, &server.url());
    assert_same_read_model(&db, &own, false);
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_commands_work_on_an_adopted_file_and_say_when_there_is_nothing_of_ours() {
    let server = NatsServer::start();
    let (js, planned) = fleet(&server, 206, 100).await;
    publish(&js, &planned).await.unwrap();
    let (_folder, db) = place();
    BackendFile::default().create(&db);
    for args in [&["status"][..], &["dead-letters", "list"], &["outputs", "list"]] {
        let output = run(&db, &server.url(), args);
        assert_eq!(output.status.code(), Some(2), "{}", text(&output));
        assert!(
            text(&output).contains("nothing has been projected into it yet"),
            "{}",
            text(&output)
        );
    }
    catch_up(&db, &server.url());
    for (args, wanted) in [
        (&["status"][..], "the backend's own file"),
        (&["dead-letters", "list"], "RESULTS"),
        (&["outputs", "list"], "pending"),
    ] {
        let output = run(&db, &server.url(), args);
        assert!(output.status.success(), "{}", text(&output));
        assert!(text(&output).contains(wanted), "{}", text(&output));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_backends_own_projector_at_work_is_told_once_with_the_way_to_pause_it() {
    let server = NatsServer::start();
    let (js, planned) = fleet(&server, 207, 20).await;
    publish(&js, &planned).await.unwrap();
    let streams = [
        ("RESULTS", "backend_results_projector", ""),
        ("EVENTS", "backend_events_projector", "events.started.>"),
    ];
    for (stream, durable, filter) in streams {
        let config = jetstream::consumer::pull::Config {
            durable_name: Some(durable.to_owned()),
            filter_subject: filter.to_owned(),
            ..Default::default()
        };
        js.get_stream(stream)
            .await
            .unwrap()
            .create_consumer(config)
            .await
            .unwrap();
    }
    let warning = "the backend's own projector is consuming as well";
    let warned = |stderr: &str| stderr.matches(warning).count();
    let (_folder, db) = place();
    BackendFile::default().create(&db);
    let projector = Projector::start(&db, &server.url());
    wait_until("it warns", PATIENCE, || warned(&projector.stderr()) == 1);
    let said = projector.stderr();
    assert!(
        said.contains("nats consumer pause RESULTS backend_results_projector")
            && said.contains("nats consumer pause EVENTS backend_events_projector")
            && said.contains("notifications and mails"),
        "{said}"
    );
    wait_until("the fleet is there", PATIENCE, || position(&db) > 20);
    assert_eq!(status(&db, &server.url())["backend_is_projecting"], true);
    assert!(text(&run(&db, &server.url(), &["status"])).contains(warning));
    // One of the two is as bad as both.
    let until = chrono_in_a_year();
    for (stream, durable, left) in [("RESULTS", streams[0].1, true), ("EVENTS", streams[1].1, false)] {
        js.get_stream(stream)
            .await
            .unwrap()
            .pause_consumer(durable, until)
            .await
            .unwrap();
        assert_eq!(status(&db, &server.url())["backend_is_projecting"], left);
    }
    wait_until("it says that this is over", PATIENCE, || {
        projector.stderr().contains("no longer consumes")
    });
    assert_eq!(warned(&projector.stderr()), 1);
    assert!(projector.terminate().success());

    // Paused from the start: no word of it. Nor on a file of our own.
    let again = catch_up(&db, &server.url());
    assert!(!text(&again).contains(warning), "{}", text(&again));
    assert!(!text(&run(&db, &server.url(), &["status"])).contains(warning));
    js.get_stream("RESULTS")
        .await
        .unwrap()
        .resume_consumer(streams[0].1)
        .await
        .unwrap();
    let (_folder, own) = place();
    let output = catch_up(&own, &server.url());
    assert!(!text(&output).contains(warning), "{}", text(&output));
    assert_eq!(status(&own, &server.url())["backend_is_projecting"], Value::Null);
}

fn chrono_in_a_year() -> chrono::DateTime<chrono::Utc> {
    chrono::Utc::now() + chrono::TimeDelta::days(365)
}

/// Messages by hand, each with its publish time as the server has it.
struct Hand {
    js: jetstream::Context,
}

impl Hand {
    async fn put(&self, stream: &str, subject: String, payload: Value) -> String {
        let ack = self
            .js
            .publish(subject, Bytes::from(payload.to_string()))
            .await
            .unwrap()
            .await
            .unwrap();
        let stream = self.js.get_stream_no_info(stream).await.unwrap();
        let message = stream.get_raw_message(ack.sequence).await.unwrap();
        let nanos = message.time.timestamp_nanos_opt().unwrap();
        results_projector::wire::time::Timestamp::from_unix_nanos(nanos).stored()
    }

    /// A successful result of job `inv`; `stdout`: a text, or none for an object.
    async fn result(&self, id: &str, pc: &str, stdout: Option<&str>, more: Value) -> String {
        let mut message = json!({
            "result_id": id, "request_id": format!("q-{id}"), "pc_id": pc, "exit_code": 0, "skipped": false,
            "stdout": stdout.unwrap_or(""), "stderr": "", "started_at": "2026-06-01T00:00:00Z",
            "finished_at": "2026-06-01T00:00:05Z", "manifest_id": "inv",
        });
        if stdout.is_none() {
            message["stdout_object"] = json!(format!("q-{id}/{pc}/stdout"));
        }
        message
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        self.put("RESULTS", format!("results.q-{id}"), message).await
    }

    async fn started(&self, id: &str, exec_id: &str, pc: &str) -> String {
        let event = json!({
            "result_id": id, "request_id": format!("q-{id}"), "exec_id": exec_id, "pc_id": pc,
            "manifest_id": "inv", "version": "1.0.0", "started_at": "2026-06-01T00:00:00Z",
        });
        self.put("EVENTS", format!("events.started.{exec_id}.{pc}"), event)
            .await
    }

    async fn object(&self, name: &str, content: &str) {
        let store = self.js.get_object_store("result_output").await.unwrap();
        store.put(name, &mut content.as_bytes()).await.unwrap();
    }
}

async fn by_hand(server: &NatsServer) -> Hand {
    let js = server.fleet().await;
    let manifest = json!({
        "id": "inv", "version": "1.0.0", "execute": {"shell": "powershell", "script": "x", "timeout": "10m"},
        "inventory": {
            "display": [{"field": "a", "label": "A"}], "history_scalars": ["a"],
            "explode": [{"field": "apps", "table": "inventory_software_x", "primary_key": ["name"],
                "track_history": true, "columns": [{"field": "name"}, {"field": "v"}]}],
        },
    });
    let check = json!({
        "id": "chk", "version": "1.0.0", "execute": {"shell": "powershell", "script": "x", "timeout": "10m"},
        "check": {"name": "c"},
    });
    let jobs = js.get_key_value("jobs").await.unwrap();
    for (id, manifest) in [("inv", manifest), ("chk", check)] {
        jobs.put(id, manifest.to_string().into()).await.unwrap();
    }
    Hand { js }
}

/// What the backend's projector left of a result: whole, or without its output.
fn projected_by_backend(conn: &Connection, id: &str, pc: &str, stdout: &str, recorded_at: &str) {
    conn.execute(
        "INSERT INTO execution_results (result_id, request_id, pc_id, exit_code, stdout, started_at, finished_at,
             recorded_at, job_id)
         VALUES (?1, 'q-' || ?1, ?2, 0, ?3, '2026-06-01T00:00:00+00:00', '2026-06-01T00:00:05+00:00', ?4, 'inv')",
        params![id, pc, stdout, recorded_at],
    )
    .unwrap();
}

/// What it left of an inventory: the facts, and an event for the scalar `a`.
fn scanned_by_backend(conn: &Connection, pc: &str, facts: &str, event: (&str, Option<i64>, i64), at: &str) {
    conn.execute(
        "INSERT INTO inventory_facts VALUES (?1, 'inv', ?2, '[]', NULL, '2026-06-01T00:00:05+00:00', ?3)
         ON CONFLICT DO UPDATE SET facts_json = excluded.facts_json, recorded_at = excluded.recorded_at",
        params![pc, facts, at],
    )
    .unwrap();
    let (kind, before, after) = event;
    let value = |value: i64| json!({"value": value}).to_string();
    conn.execute(
        "INSERT INTO inventory_history (pc_id, job_id, field_path, change_kind, before_json, after_json, observed_at)
         VALUES (?1, 'inv', 'a', ?2, ?3, ?4, ?5)",
        params![pc, kind, before.map(value), value(after), at],
    )
    .unwrap();
}

/// The changes of the scalar `a`, from → to, with their times.
fn changes(conn: &Connection, pc: &str) -> Vec<(String, String)> {
    let mut select = conn
        .prepare(
            "SELECT coalesce(json_extract(before_json, '$.value'), '') || '>' || json_extract(after_json, '$.value'),
                 observed_at FROM inventory_history WHERE pc_id = ?1 AND field_path = 'a' ORDER BY id",
        )
        .unwrap();
    let found = select.query_map([pc], |row| Ok((row.get(0)?, row.get(1)?)));
    found.unwrap().map(Result::unwrap).collect()
}

fn step(step: &str, at: &str) -> (String, String) {
    (step.to_owned(), at.to_owned())
}

fn cell(conn: &Connection, sql: &str) -> Cell {
    conn.query_row(sql, [], |row| row.get(0)).unwrap()
}

fn words(cell: &str) -> Cell {
    Cell::Text(cell.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_pass_fills_what_was_lost_and_leaves_the_backends_rows_alone() {
    let server = NatsServer::start();
    let hand = by_hand(&server).await;
    let (_folder, db) = place();
    BackendFile::default().create(&db);
    let conn = backend::connect(&db);

    // PC-1: the second scan's output was lost, the fourth is not projected yet.
    let scan = |a: i64| json!({"a": a, "apps": [{"name": "x", "v": a}]}).to_string();
    let in_e1 = json!({"exec_id": "e1"});
    hand.object("q-r2/PC-1/stdout", &scan(2)).await;
    hand.object("q-r2/PC-1/stdout.r1", &scan(99)).await;
    let r1 = hand.result("r1", "PC-1", Some(&scan(1)), in_e1.clone()).await;
    let r2 = hand.result("r2", "PC-1", None, in_e1.clone()).await;
    let r3 = hand.result("r3", "PC-1", Some(&scan(3)), in_e1.clone()).await;
    let other = json!({"exec_id": "e1", "stdout_object": "q-r2/PC-1/stdout.r1", "exit_code": 7});
    hand.result("r2", "PC-1", None, other).await;
    let r4 = hand.result("r4", "PC-1", Some(&scan(4)), in_e1).await;
    for (id, stdout, at) in [
        ("r1", scan(1), &r1),
        ("r2", String::new(), &r2),
        ("r3", scan(3), &r3),
    ] {
        projected_by_backend(&conn, id, "PC-1", &stdout, at);
    }
    conn.execute_batch("UPDATE execution_results SET exec_id = 'e1'")
        .unwrap();
    backend::deploy(&conn, "e1", "inv", 4);
    // As it counts: a success too many, from a duplicate.
    conn.execute_batch("UPDATE executions SET success_count = 4, status = 'completed'")
        .unwrap();
    scanned_by_backend(&conn, "PC-1", &scan(1), ("added", None, 1), &r1);
    scanned_by_backend(&conn, "PC-1", &scan(3), ("changed", Some(1), 3), &r3);

    // PC-2: nothing was lost; its history is the backend's own, odd as it may be.
    let b1 = hand.result("b1", "PC-2", Some(&scan(1)), json!({})).await;
    let b2 = hand.result("b2", "PC-2", Some(&scan(2)), json!({})).await;
    for (id, a, at) in [("b1", 1, &b1), ("b2", 2, &b2)] {
        projected_by_backend(&conn, id, "PC-2", &scan(a), at);
    }
    scanned_by_backend(
        &conn,
        "PC-2",
        &scan(2),
        ("added", None, 77),
        "2026-06-01T12:00:00.123+00:00",
    );

    // Odd rows: a text where there is a pointer, an empty text without one, other columns not as sent.
    hand.object("q-odd/PC-3/stdout", "from the store").await;
    let odd = hand
        .result("odd", "PC-3", None, json!({"exit_code": 3, "stderr": "sent"}))
        .await;
    projected_by_backend(&conn, "odd", "PC-3", "the backend's", &odd);
    let empty = hand.result("empty", "PC-3", Some("sent"), json!({})).await;
    projected_by_backend(&conn, "empty", "PC-3", "", &empty);

    // Checks without their output: the backend wrote `unknown`; on PC-6 a later run has said more since.
    let check = json!({"manifest_id": "chk"});
    for (id, pc) in [("c1", "PC-5"), ("c2", "PC-6")] {
        hand.object(
            &format!("q-{id}/{pc}/stdout"),
            r#"{"status": "warn", "detail": "old"}"#,
        )
        .await;
        let at = hand.result(id, pc, None, check.clone()).await;
        projected_by_backend(&conn, id, pc, "", &at);
        conn.execute(
            "INSERT INTO check_status VALUES (?1, 'c', 'unknown', 'check stdout was not JSON: EOF', ?2, NULL)",
            [pc, &at],
        )
        .unwrap();
    }
    let said = r#"{"status": "ok"}"#;
    let c3 = hand.result("c3", "PC-6", Some(said), check).await;
    projected_by_backend(&conn, "c3", "PC-6", said, &c3);
    conn.execute_batch("UPDATE execution_results SET job_id = 'chk' WHERE pc_id IN ('PC-5', 'PC-6')")
        .unwrap();
    conn.execute(
        "UPDATE check_status SET status = 'ok', detail = NULL, recorded_at = ?1 WHERE pc_id = 'PC-6'",
        [&c3],
    )
    .unwrap();

    // Starts that came late for the backend: no version; or no deadline, since its cache was cold.
    let late = hand
        .result("late", "PC-4", Some("done"), json!({"exec_id": "e2"}))
        .await;
    projected_by_backend(&conn, "late", "PC-4", "done", &late);
    let started = hand.started("late", "e2", "PC-4").await;
    let flying = hand.started("flying", "e2", "PC-4").await;
    let dated = hand.started("dated", "e2", "PC-4").await;
    for (id, at, expires_at) in [
        ("flying", &flying, None),
        ("dated", &dated, Some("2026-12-31T00:00:00+00:00")),
    ] {
        conn.execute(
            "INSERT INTO execution_results (result_id, request_id, exec_id, pc_id, started_at, recorded_at, job_id, version,
                 expires_at) VALUES (?1, 'q', 'e2', 'PC-4', '2026-06-01T00:00:00+00:00', ?2, 'inv', 'odd', ?3)",
            params![id, at, expires_at],
        )
        .unwrap();
    }
    backend::deploy(&conn, "e2", "inv", 9);

    catch_up(&db, &server.url());

    assert_eq!(
        cell(
            &conn,
            "SELECT stdout FROM execution_results WHERE result_id = 'r2'"
        ),
        words(&scan(2))
    );
    assert_eq!(
        changes(&conn, "PC-1"),
        [
            step(">1", &r1),
            step("1>2", &r2),
            step("2>3", &r3),
            step("3>4", &r4)
        ]
    );
    assert_eq!(
        cell(
            &conn,
            "SELECT facts_json FROM inventory_facts WHERE pc_id = 'PC-1'"
        ),
        words(&scan(4))
    );
    assert_eq!(
        cell(&conn, "SELECT v FROM inventory_software_x WHERE pc_id = 'PC-1'"),
        words("4")
    );
    // Its rows are not counted again; the fourth is.
    assert_eq!(
        rows(
            &conn,
            "SELECT success_count, failure_count, status FROM executions WHERE exec_id = 'e1'"
        ),
        [[Cell::Integer(5), Cell::Integer(0), words("completed")]]
    );
    assert_eq!(
        changes(&conn, "PC-2"),
        [step(">77", "2026-06-01T12:00:00.123+00:00")]
    );
    assert_eq!(
        rows(
            &conn,
            "SELECT stdout, stderr, exit_code FROM execution_results WHERE pc_id = 'PC-3' ORDER BY result_id"
        ),
        [
            [words(""), words(""), Cell::Integer(0)],
            [words("the backend's"), words(""), Cell::Integer(0)]
        ]
    );
    assert_eq!(
        rows(&conn, "SELECT status, detail FROM check_status ORDER BY pc_id"),
        [[words("warn"), words("old")], [words("ok"), Cell::Null]]
    );
    let deadline = |at: &str| {
        let at = chrono::DateTime::parse_from_rfc3339(at).unwrap() + chrono::TimeDelta::seconds(900);
        results_projector::wire::time::Timestamp::from(at.to_utc()).stored()
    };
    assert_eq!(
        rows(
            &conn,
            "SELECT result_id, version, expires_at, exec_id FROM execution_results WHERE pc_id = 'PC-4' ORDER BY 1"
        ),
        [
            [
                words("dated"),
                words("odd"),
                words("2026-12-31T00:00:00+00:00"),
                words("e2")
            ],
            [
                words("flying"),
                words("odd"),
                words(&deadline(&flying)),
                words("e2")
            ],
            [
                words("late"),
                words("1.0.0"),
                words(&deadline(&started)),
                words("e2")
            ],
        ]
    );
    // The backend had not counted a result without an execution; its start event gave it one.
    assert_eq!(
        cell(&conn, "SELECT success_count FROM executions WHERE exec_id = 'e2'"),
        Cell::Integer(1)
    );
    assert_eq!(one(&db, "SELECT count(*) FROM projector_first_pass"), 0);
    assert_eq!(
        one(
            &db,
            "SELECT count(*) FROM projector_derivations WHERE state <> 'settled'"
        ),
        0
    );
    assert_eq!(status(&db, &server.url())["database"]["first_pass"], false);
    check_i3(&db);

    // The pass is over: what the backend's projector loses from now on is a duplicate like any other.
    hand.object("q-r5/PC-1/stdout", &scan(5)).await;
    projected_by_backend(&conn, "r5", "PC-1", "", &r4);
    hand.result("r5", "PC-1", None, json!({})).await;
    catch_up(&db, &server.url());
    assert_eq!(
        cell(
            &conn,
            "SELECT stdout FROM execution_results WHERE result_id = 'r5'"
        ),
        words("")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_that_comes_back_after_the_first_pass_fills_its_row_and_derives_its_pair_anew() {
    let server = NatsServer::start();
    let hand = by_hand(&server).await;
    let (_folder, db) = place();
    BackendFile::default().create(&db);
    let conn = backend::connect(&db);
    let scan = |a: i64| json!({ "a": a }).to_string();
    let p1 = hand.result("p1", "PC-1", Some(&scan(1)), json!({})).await;
    let p2 = hand.result("p2", "PC-1", None, json!({})).await;
    let p3 = hand.result("p3", "PC-1", Some(&scan(3)), json!({})).await;
    for (id, stdout, at) in [
        ("p1", scan(1), &p1),
        ("p2", String::new(), &p2),
        ("p3", scan(3), &p3),
    ] {
        projected_by_backend(&conn, id, "PC-1", &stdout, at);
    }
    scanned_by_backend(&conn, "PC-1", &scan(1), ("added", None, 1), &p1);
    scanned_by_backend(&conn, "PC-1", &scan(3), ("changed", Some(1), 3), &p3);

    let projector = Projector::start(&db, &server.url());
    wait_until("the first pass is over", PATIENCE, || position(&db) == 3);
    let stdout = || {
        cell(
            &conn,
            "SELECT stdout FROM execution_results WHERE result_id = 'p2'",
        )
    };
    assert_eq!(
        stdout(),
        words("[results-projector] stdout is in object q-p2/PC-1/stdout, not fetched yet")
    );
    // Until then the pair is what the backend made of it, and goes on from there.
    assert_eq!(changes(&conn, "PC-1"), [step(">1", &p1), step("1>3", &p3)]);
    let p4 = hand.result("p4", "PC-1", Some(&scan(4)), json!({})).await;
    wait_until("it goes on", PATIENCE, || changes(&conn, "PC-1").len() == 3);
    hand.object("q-p2/PC-1/stdout", &scan(2)).await;
    let wanted = [
        step(">1", &p1),
        step("1>2", &p2),
        step("2>3", &p3),
        step("3>4", &p4),
    ];
    wait_until("its pair is derived anew", PATIENCE, || {
        changes(&conn, "PC-1") == wanted
    });
    assert_eq!(stdout(), words(&scan(2)));
    assert_eq!(
        cell(&conn, "SELECT facts_json FROM inventory_facts"),
        words(&scan(4))
    );
    assert!(projector.terminate().success());
    check_i3(&db);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pair_is_derived_anew_only_when_the_first_pass_has_met_all_its_results() {
    let server = NatsServer::start();
    let hand = by_hand(&server).await;
    let (_folder, db) = place();
    BackendFile::default().create(&db);
    let conn = backend::connect(&db);
    let scan = |a: i64| json!({ "a": a }).to_string();
    hand.object("q-p2/PC-1/stdout", &scan(2)).await;
    let p1 = hand.result("p1", "PC-1", Some(&scan(1)), json!({})).await;
    let p2 = hand.result("p2", "PC-1", None, json!({})).await;
    // The pass takes a while: the pair is due long before its last result is met.
    let between = plan(
        208,
        &Profile {
            results: 1_500,
            ..Profile::default()
        },
    );
    publish(&hand.js, &between).await.unwrap();
    let p3 = hand.result("p3", "PC-1", Some(&scan(3)), json!({})).await;
    for (id, stdout, at) in [
        ("p1", scan(1), &p1),
        ("p2", String::new(), &p2),
        ("p3", scan(3), &p3),
    ] {
        projected_by_backend(&conn, id, "PC-1", &stdout, at);
    }
    scanned_by_backend(&conn, "PC-1", &scan(1), ("added", None, 1), &p1);
    scanned_by_backend(&conn, "PC-1", &scan(3), ("changed", Some(1), 3), &p3);
    let env = [("RESULTS_PROJECTOR_GROUP_MAX_ROWS", "1")];
    let projector = Projector::start_with(&db, &server.url(), &["run"], &env);
    wait_until("the pass is on its way", PATIENCE, || position(&db) > 2);
    assert_eq!(status(&db, &server.url())["database"]["first_pass"], true);
    projector.kill();
    let projector = Projector::start_with(&db, &server.url(), &["run"], &env);
    wait_until("the pass is over", PATIENCE, || position(&db) == 1_503);
    let wanted = [step(">1", &p1), step("1>2", &p2), step("2>3", &p3)];
    wait_until("the pair is derived anew", PATIENCE, || {
        one(
            &db,
            "SELECT count(*) FROM projector_derivations WHERE state <> 'settled'",
        ) == 0
    });
    assert_eq!(changes(&conn, "PC-1"), wanted);
    assert_eq!(
        cell(&conn, "SELECT facts_json FROM inventory_facts"),
        words(&scan(3))
    );
    assert!(projector.terminate().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_pass_over_an_empty_stream_is_over_at_once() {
    let server = NatsServer::start();
    let hand = by_hand(&server).await;
    let (_folder, db) = place();
    BackendFile::default().create(&db);
    catch_up(&db, &server.url());
    assert_eq!(status(&db, &server.url())["database"]["first_pass"], false);
    // The first message ever is not one that the backend could have lost before us.
    hand.object("q-r1/PC-1/stdout", "text").await;
    projected_by_backend(
        &backend::connect(&db),
        "r1",
        "PC-1",
        "",
        "2026-06-01T00:00:06+00:00",
    );
    hand.result("r1", "PC-1", None, json!({})).await;
    catch_up(&db, &server.url());
    assert_eq!(
        one(&db, "SELECT count(*) FROM execution_results WHERE stdout = ''"),
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_that_the_backend_projected_in_part_ends_as_if_we_had_projected_all_of_it() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    put_manifests(&js).await.unwrap();
    let profile = Profile {
        overflow_permille: 60,
        missing: 0,
        missing_scans: 0,
        ..Profile::everything(600)
    };
    publish(&js, &plan(209, &profile)).await.unwrap();
    let (_folder, own) = place();
    catch_up(&own, &server.url());
    let (_folder, db) = place();
    BackendFile::default().create(&db);
    let conn = backend::connect(&db);
    {
        // Of the first two thirds it has every row; of the plain jobs' outputs behind pointers every second is lost, of
        // their versions a third.
        conn.execute("ATTACH ?1 AS own", [own.to_str().unwrap()]).unwrap();
        conn.execute_batch(
            "BEGIN IMMEDIATE;
             CREATE TEMP TABLE theirs AS SELECT DISTINCT result_id, min(stream_seq) AS seq FROM own.projector_results
                 WHERE stream_seq * 3 < 2 * (SELECT max(stream_seq) FROM own.projector_results)
                     AND job_id NOT IN ('inventory-software', 'inventory-disks', 'check-bitlocker', 'check-defender', 'feed-kev')
                 GROUP BY result_id;
             INSERT INTO execution_results SELECT * FROM own.execution_results
                 WHERE result_id IN (SELECT result_id FROM theirs);
             UPDATE execution_results SET stdout = '' WHERE result_id IN (SELECT result_id FROM
                 (SELECT result_id, row_number() OVER (ORDER BY result_id) AS n FROM own.projector_outputs) WHERE n % 2);
             UPDATE execution_results SET version = NULL, expires_at = NULL WHERE rowid % 3 = 0;
             DELETE FROM job_version_completions;
             COMMIT;
             DETACH own",
        )
        .unwrap();
    }
    let theirs = one(&db, "SELECT count(*) FROM execution_results");
    let lost = one(
        &db,
        "SELECT count(*) FROM execution_results WHERE stdout = '' AND stderr = '' AND skipped = 0 AND exit_code = 0",
    );
    assert!(theirs > 300 && lost > 5, "{theirs} {lost}");
    catch_up(&db, &server.url());
    // The version ledger had been emptied: it holds what was written since.
    conn.execute_batch(
        "DELETE FROM job_version_completions;
         UPDATE execution_results SET version = version WHERE version IS NOT NULL",
    )
    .unwrap();
    assert_same_read_model(&db, &own, true);
    check_i3(&db);
}

#[tokio::test(flavor = "multi_thread")]
async fn detached_the_file_and_the_broker_are_as_if_we_had_never_been_there() {
    let server = NatsServer::start();
    let (js, planned) = fleet(&server, 231, 200).await;
    publish(&js, &planned).await.unwrap();
    let (folder, db) = place();
    BackendFile::with(Ledgers::LikeOurs).create(&db);
    let backend = backend::connect(&db);
    // Exploded tables are what was projected.
    let everything = "SELECT type, name, tbl_name, sql FROM sqlite_schema
                      WHERE tbl_name NOT IN ('inventory_disks', 'inventory_software_apps') ORDER BY 1, 2";
    let before = rows(&backend, everything);
    let files = || {
        let mut names: Vec<String> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    let files_before = files();
    catch_up(&db, &server.url());
    let projected = read_model(&db, true);
    assert!(rows(&backend, everything).len() > before.len());

    let refused = run(&db, &server.url(), &["detach"]);
    assert_eq!(refused.status.code(), Some(2), "{}", text(&refused));
    assert!(text(&refused).contains("say --yes"), "{}", text(&refused));
    let service = Projector::start(&db, &server.url());
    let durables = || async {
        let mut names = Vec::new();
        for stream in ["RESULTS", "EVENTS", "INVENTORY"] {
            let stream = js.get_stream(stream).await.unwrap();
            let mut found = stream.consumer_names();
            while let Some(name) = futures_util::StreamExt::next(&mut found).await {
                names.push(name.unwrap());
            }
        }
        names
    };
    wait_until("it reads", PATIENCE, || {
        service.stderr().matches("reading stream").count() == 3
    });
    let refused = run(&db, &server.url(), &["detach", "--yes"]);
    assert_eq!(refused.status.code(), Some(2), "it is in use: {}", text(&refused));
    assert!(service.terminate().success());
    assert_eq!(durables().await.len(), 3);

    let output = run(&db, &server.url(), &["detach", "--yes"]);
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(durables().await, Vec::<String>::new());
    assert!(rows(&backend, everything) == before, "the schema is as it was");
    assert_eq!(files(), files_before);
    assert_eq!(read_model(&db, true), projected, "what was projected stays");
    // Once more there is nothing to do, and after a kill nothing is left either.
    let output = run(&db, &server.url(), &["detach", "--yes"]);
    assert!(output.status.success(), "{}", text(&output));
    let service = Projector::start(&db, &server.url());
    wait_until("it reads", PATIENCE, || {
        service.stderr().matches("reading stream").count() == 3
    });
    service.kill();
    assert!(db.with_file_name("results.db.sock").exists());
    let output = run(&db, &server.url(), &["detach", "--yes", "--database-only"]);
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(files(), files_before);
    assert_eq!(durables().await.len(), 3);
    let output = run(&db, &server.url(), &["detach", "--yes"]);
    assert!(
        text(&output).contains("deleted results_projector_"),
        "{}",
        text(&output)
    );
    assert_eq!(durables().await, Vec::<String>::new());
    assert_eq!(files(), files_before);
    // Whoever comes back adopts it anew.
    catch_up(&db, &server.url());
    assert_eq!(read_model(&db, true), projected);
    check_i3(&db);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_our_own_is_left_as_it_is_when_detached() {
    let server = NatsServer::start();
    let (js, planned) = fleet(&server, 232, 50).await;
    publish(&js, &planned).await.unwrap();
    let (_folder, db) = place();
    catch_up(&db, &server.url());
    let before = dump::dump(&db);
    let output = run(&db, &server.url(), &["detach", "--yes"]);
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("left as it is"), "{}", text(&output));
    assert_eq!(dump::dump(&db), before);
    let output = run(&db, "nats://127.0.0.1:1", &["detach", "--yes"]);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    let output = run(&db, "nats://127.0.0.1:1", &["detach", "--yes", "--database-only"]);
    assert!(output.status.success(), "{}", text(&output));
}
