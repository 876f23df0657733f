//! `doctor` against real servers: a healthy fleet is called healthy, and each sickness that is brought about is found.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use async_nats::jetstream::{self, consumer, kv, object_store, stream};
use bytes::Bytes;
use futures_util::StreamExt;
use serde_json::{Value, json};

use crate::derived::{Run, put_object};
use crate::harness::backend::{BackendFile, Ledgers};
use crate::harness::projector::{catch_up, place, run, run_with, text};
use crate::harness::*;

const DAY: Duration = Duration::from_secs(86_400);

/// Name, subjects, days, mebibytes (contract §2.3).
const STREAMS: [(&str, &str, u32, i64); 7] = [
    ("INVENTORY", "inventory.>", 90, 1_024),
    ("RESULTS", "results.>", 30, 2_048),
    ("EXEC", "commands.>", 7, 64),
    ("EVENTS", "events.>", 7, 256),
    ("AUDIT", "audit.>", 90, 512),
    ("OBS_EVENTS", "obs.>", 90, 512),
    ("NOTIFICATIONS", "notifications.>", 90, 512),
];
/// Contract §2.5.
const BUCKETS: [(&str, i64); 15] = [
    ("agents_state", 1),
    ("agent_config", 1),
    ("agent_groups", 1),
    ("agent_groups_derived", 1),
    ("fleet_config", 1),
    ("server_settings", 1),
    ("notifications_read", 1),
    ("script_current", 5),
    ("script_status", 5),
    ("agent_meta", 5),
    ("group_contacts", 5),
    ("schedules", 5),
    ("jobs", 5),
    ("jobs_yaml", 5),
    ("schedules_yaml", 5),
];
/// Name, days, mebibytes (contract §2.4).
const STORES: [(&str, u32, i64); 5] = [
    ("result_output", 7, 1_024),
    ("collections", 30, 5_120),
    ("agent_releases", 0, 2_048),
    ("app_packages", 0, 5_120),
    ("scripts", 0, 256),
];

fn stream_config(name: &str) -> stream::Config {
    let (_, subjects, days, mebibytes) = STREAMS.into_iter().find(|(known, ..)| *known == name).unwrap();
    stream::Config {
        name: name.into(),
        subjects: vec![subjects.into()],
        max_age: DAY * days,
        max_bytes: mebibytes << 20,
        max_messages_per_subject: if name == "EXEC" { 1 } else { -1 },
        storage: stream::StorageType::File,
        ..Default::default()
    }
}

async fn make_store(js: &jetstream::Context, name: &str, days: u32, bytes: i64) {
    js.create_object_store(object_store::Config {
        bucket: name.into(),
        max_age: DAY * days,
        max_bytes: bytes,
        ..Default::default()
    })
    .await
    .unwrap();
}

/// Everything as the backend makes it, with a job and a result.
pub async fn healthy(js: &jetstream::Context) {
    for (name, ..) in STREAMS {
        js.create_stream(stream_config(name)).await.unwrap();
    }
    for (bucket, history) in BUCKETS {
        js.create_key_value(kv::Config {
            bucket: bucket.into(),
            history,
            ..Default::default()
        })
        .await
        .unwrap();
    }
    for (name, days, mebibytes) in STORES {
        make_store(js, name, days, mebibytes << 20).await;
    }
    put(
        js,
        "jobs",
        "other",
        json!({"id": "other", "version": "1.0.0", "execute": {"shell": "powershell", "script": "x", "timeout": "1s"}}).to_string(),
    )
    .await;
    put(
        js,
        "jobs_yaml",
        "other",
        "id: other\nversion: \"1.0.0\" # first\nexecute:\n  timeout: 1s\n",
    )
    .await;
    put(js, "script_current", "other", "1.0.0").await;
    put(js, "script_status", "other", "ACTIVE").await;
    put(js, "agent_config", "global", "{}").await;
    put(js, "agent_config", "groups.wave-1", "{}").await;
    put(js, "agent_config", "pcs.PC-1", "{}").await;
    put(js, "agent_groups", "PC-1", "{\"groups\":[\"wave-1\"]}").await;
    put(
        js,
        "server_settings",
        "current",
        "{\"result_output_retention_days\":7}",
    )
    .await;
    Run::new("r1", "PC-1", "other", "x").send(js).await;
}

async fn put(js: &jetstream::Context, bucket: &str, key: &str, value: impl Into<String>) {
    let bucket = js.get_key_value(bucket).await.unwrap();
    bucket.put(key, Bytes::from(value.into())).await.unwrap();
}

/// The findings that are not good: severity, check, subject, what.
pub fn found(output: &Output) -> Vec<(String, String, String, String)> {
    let document: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!("{error}: {}", text(output));
    });
    assert_eq!(document["schema_version"], 1);
    let findings = document["findings"].as_array().unwrap();
    let word = |finding: &Value, name: &str| finding[name].as_str().unwrap().to_owned();
    for finding in findings {
        let good = finding["severity"] == "good";
        assert_eq!(word(finding, "why").is_empty(), good, "{finding}");
        assert_eq!(word(finding, "to_do").is_empty(), good, "{finding}");
    }
    findings
        .iter()
        .filter(|finding| finding["severity"] != "good")
        .map(|finding| {
            let [severity, check, subject, what] =
                ["severity", "check", "subject", "what"].map(|name| word(finding, name));
            (severity, check, subject, what)
        })
        .collect()
}

#[track_caller]
fn assert_found(output: &Output, severity: &str, subject: &str, what: &str) {
    let all = found(output);
    assert!(
        all.iter()
            .any(|(s, _, at, w)| s == severity && at.starts_with(subject) && w.contains(what)),
        "no {severity} {subject}: {what} in {all:#?}"
    );
}

#[track_caller]
fn assert_not_found(output: &Output, subject: &str) {
    let all = found(output);
    assert!(
        !all.iter().any(|(_, _, at, _)| at.starts_with(subject)),
        "{all:#?}"
    );
}

fn doctor(db: &Path, url: &str) -> Output {
    run(db, url, &["doctor", "--json"])
}

/// Every consumer of every stream: when it was made, and what it has delivered.
pub async fn consumers(js: &jetstream::Context) -> Vec<String> {
    let mut all = Vec::new();
    let mut names = js.stream_names();
    while let Some(name) = names.next().await {
        let stream = js.get_stream(name.unwrap()).await.unwrap();
        let mut found = stream.consumers();
        while let Some(info) = found.next().await {
            let info = info.unwrap();
            let numbers =
                [info.delivered, info.ack_floor].map(|at| (at.consumer_sequence, at.stream_sequence));
            let counts = (info.num_pending, info.num_ack_pending, info.num_redelivered);
            all.push(format!(
                "{} {} {} {numbers:?} {counts:?}",
                info.stream_name, info.name, info.created
            ));
        }
    }
    all.sort();
    all
}

/// Whether every stream has been opened.
pub fn reads(projector: &Projector) -> bool {
    projector.stderr().matches(" generation=1 ").count() == 3
}

/// None was made or moved. The server takes away what an earlier watch of the manifests has left, whenever it likes.
#[track_caller]
pub fn assert_none_touched(before: &[String], after: &[String]) {
    let watch = |consumer: &&String| consumer.starts_with("KV_jobs ");
    assert!(
        after.iter().all(|consumer| before.contains(consumer)),
        "{before:#?} {after:#?}"
    );
    let kept = |all: &[String]| all.iter().filter(|consumer| !watch(consumer)).count();
    assert_eq!((kept(before), kept(after)), (3, 3), "{before:#?} {after:#?}");
}

fn monitor_url(server: &NatsServer) -> String {
    let mut ports = fs::read_dir(server.folder().join("ports")).unwrap();
    let ports = fs::read_to_string(ports.next().unwrap().unwrap().path()).unwrap();
    let ports: Value = serde_json::from_str(&ports).unwrap();
    ports["monitoring"][0].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_healthy_fleet_is_called_healthy_and_nothing_of_it_changes() {
    let server = NatsServer::start_with("http: \"127.0.0.1:-1\"\n");
    let js = server.jetstream().await;
    healthy(&js).await;
    let (_folder, db) = place();
    catch_up(&db, &server.url());
    let projector = Projector::start(&db, &server.url());
    wait_until("it reads all three", PATIENCE, || reads(&projector));
    let monitor = monitor_url(&server);
    let env = [("RESULTS_PROJECTOR_NATS_MONITOR_URL", monitor.as_str())];
    let before = consumers(&js).await;
    let output = run_with(&db, &server.url(), &["doctor", "--json"], &env);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let notes: Vec<String> = found(&output).into_iter().map(|(_, check, ..)| check).collect();
    assert_eq!(notes, ["sync_interval", "expiry"], "{}", text(&output));
    assert_none_touched(&before, &consumers(&js).await);
    let log = server.log();
    assert!(!log.contains("Violation"), "{log}");
    Run::new("r2", "PC-1", "other", "x").send(&js).await;
    wait_until("it still reads", PATIENCE, || position(&db) == 2);
    assert!(projector.terminate().success());
    let shown = run_with(&db, &server.url(), &["doctor", "-v"], &env);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("good  stream RESULTS: 2 messages"), "{shown}");
    assert!(shown.ends_with(" good\n"), "{shown}");
}

/// What can be sick at once of how things are made.
async fn sicken_streams(js: &jetstream::Context) {
    js.delete_stream("AUDIT").await.unwrap();
    js.delete_stream("KV_group_contacts").await.unwrap();
    js.delete_stream("OBJ_scripts").await.unwrap();
    js.delete_stream("EVENTS").await.unwrap();
    js.create_stream(stream::Config {
        retention: stream::RetentionPolicy::WorkQueue,
        ..stream_config("EVENTS")
    })
    .await
    .unwrap();
    js.update_stream(stream::Config {
        max_age: DAY * 3,
        ..stream_config("RESULTS")
    })
    .await
    .unwrap();
    js.update_stream(stream::Config {
        subjects: vec![
            "notifications.all".into(),
            "notifications.pc.>".into(),
            "elsewhere".into(),
        ],
        ..stream_config("NOTIFICATIONS")
    })
    .await
    .unwrap();
    js.update_stream(stream::Config {
        discard: stream::DiscardPolicy::New,
        max_messages: 1_000,
        ..stream_config("INVENTORY")
    })
    .await
    .unwrap();
    // Stores nearly full.
    js.delete_object_store("collections").await.unwrap();
    make_store(js, "collections", 30, 1 << 20).await;
    js.delete_object_store("app_packages").await.unwrap();
    make_store(js, "app_packages", 0, 1 << 20).await;
    for (name, bytes) in [("collections", 1_020_000), ("app_packages", 880_000)] {
        let store = js.get_object_store(name).await.unwrap();
        let all = vec![7_u8; bytes];
        store.put("big", &mut &all[..]).await.unwrap();
    }
}

/// What can be sick at once of what things hold.
async fn sicken_contents(js: &jetstream::Context) {
    // Twins.
    put(
        js,
        "jobs",
        "drifted",
        json!({"id": "drifted", "version": "2.0.0", "execute": {"shell": "powershell", "script": "x", "timeout": "1s"}}).to_string(),
    )
    .await;
    put(js, "jobs_yaml", "drifted", "id: drifted\nversion: '1.0.0'\n").await;
    put(
        js,
        "jobs",
        "alone",
        json!({"id": "alone", "version": "1", "execute": {"shell": "powershell", "script": "x", "timeout": "1s"}}).to_string(),
    )
    .await;
    put(js, "schedules_yaml", "draft", "id: draft\n").await;
    put(js, "jobs", "broken", "{").await;
    put(js, "jobs_yaml", "broken", "id: broken\n").await;
    put(js, "script_current", "drifted", "1.0.0").await;
    // Keys.
    for key in ["globl", "pcs.a.b.c.d.e", "Groups.x", "deleted"] {
        put(js, "agent_config", key, "{}").await;
    }
    js.get_key_value("agent_config")
        .await
        .unwrap()
        .delete("deleted")
        .await
        .unwrap();
    put(js, "fleet_config", "freeze", "{\"reason\":\"migration\"}").await;
    put(js, "fleet_config", "frezee", "{}").await;
    put(
        js,
        "server_settings",
        "current",
        "{\"result_output_retention_days\":14}",
    )
    .await;
    // PCs that never sent a result, and one whose key was deleted.
    for (bucket, pc) in [
        ("agents_state", "PC-GONE"),
        ("agent_groups", "PC-TYPO"),
        ("agent_groups", "PC-OLD"),
    ] {
        put(js, bucket, pc, "{}").await;
    }
    js.get_key_value("agent_groups")
        .await
        .unwrap()
        .delete("PC-OLD")
        .await
        .unwrap();
    // Revoked, and yet it runs.
    put(js, "script_status", "other", "REVOKED").await;
    put(js, "script_status", "alone", "revoked").await;
    let later = chrono::Utc::now() + chrono::TimeDelta::seconds(60);
    // As agents name the result of a refused signature (§3.3); and a script that exits with the same number.
    let refusal = results_projector::wire::result::refusal_id("refused", "PC-1");
    for (id, request, code, skipped) in [
        ("runs", "runs", 0, false),
        ("obeys", "obeys", 126, true),
        (&refusal, "refused", 123, false),
        ("own", "own", 123, false),
    ] {
        let message = json!({"result_id": id, "request_id": request, "pc_id": "PC-1", "manifest_id": "other", "exit_code": code,
            "skipped": skipped, "stdout": "", "stderr": "", "started_at": later, "finished_at": later});
        crate::derived::send(js, &format!("results.{id}"), &message).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_sickness_is_found_and_named() {
    let server = NatsServer::start();
    let js = server.jetstream().await;
    healthy(&js).await;
    let (_folder, db) = place();
    sicken_contents(&js).await;
    catch_up(&db, &server.url());
    sicken_streams(&js).await;
    let output = doctor(&db, &server.url());
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    for (severity, subject, what) in [
        ("note", "streams", "AUDIT"),
        ("note", "buckets", "group_contacts"),
        ("note", "object stores", "scripts"),
        ("bad", "stream EVENTS", "retention is workqueue"),
        ("note", "stream RESULTS", "kept 3 days, not 30 days"),
        (
            "note",
            "stream NOTIFICATIONS",
            "does not take notifications.group.",
        ),
        ("note", "stream NOTIFICATIONS", "takes elsewhere besides"),
        ("bad", "stream INVENTORY", "discard is new"),
        ("bad", "stream INVENTORY", "at most 1000 messages"),
        ("bad", "object store collections", "% full"),
        ("note", "object store app_packages", "% full"),
        (
            "note",
            "object store result_output",
            "server_settings would keep them 14 days",
        ),
        (
            "bad",
            "buckets jobs and jobs_yaml",
            "drifted (version 2.0.0 and 1.0.0)",
        ),
        ("note", "buckets jobs and jobs_yaml", "only in jobs: alone"),
        (
            "note",
            "buckets schedules and schedules_yaml",
            "only in schedules_yaml: draft",
        ),
        ("bad", "manifests", "broken"),
        ("note", "bucket script_current", "drifted"),
        (
            "note",
            "bucket agent_config",
            "unknown keys: Groups.x, globl (besides global for all, 1 of groups, 2 of PCs)",
        ),
        ("note", "bucket agent_config", "pcs.a.b.c.d.e"),
        ("note", "bucket fleet_config", "migration"),
        ("note", "bucket fleet_config", "frezee"),
        (
            "note",
            "PCs",
            "2 in agent_groups and agents_state never sent a result: PC-GONE, PC-TYPO",
        ),
        ("bad", "script other", "run 2 times since, on 1 PCs"),
        ("note", "bucket script_status", "alone"),
        (
            "note",
            "runs of the last day",
            "1 with 123 (the command's signature was refused), 1 with 126",
        ),
        ("note", "durable results_projector_results", "nobody pulls"),
        ("note", "monitoring port", "not set"),
    ] {
        assert_found(&output, severity, subject, what);
    }
    // The same for people.
    let shown = run(&db, &server.url(), &["doctor"]);
    assert_eq!(shown.status.code(), Some(1));
    let shown = String::from_utf8(shown.stdout).unwrap();
    let mut redacted = String::new();
    for line in shown.lines() {
        let line = match line.split_once("give or take") {
            Some((before, _)) => before.to_owned(),
            None => line.to_owned(),
        };
        // Times of this moment, the temporary folder.
        let line: Vec<&str> = line
            .split(' ')
            .map(|word| {
                let is_time = word.starts_with("20") && word.contains('T');
                if is_time { "<time>" } else { word }
            })
            .collect();
        redacted.push_str(&line.join(" "));
        redacted.push('\n');
    }
    insta::assert_snapshot!(redacted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_full_or_short_of_messages_is_bad_while_it_is_not_read() {
    let server = NatsServer::start();
    let js = server.jetstream().await;
    healthy(&js).await;
    let (_folder, db) = place();
    catch_up(&db, &server.url());
    let small = stream::Config {
        max_bytes: 100_000,
        ..stream_config("RESULTS")
    };
    js.update_stream(small).await.unwrap();
    for number in 0..9 {
        Run::new(&format!("n{number}"), "PC-1", "other", "x".repeat(9_900))
            .send(&js)
            .await;
    }
    let output = doctor(&db, &server.url());
    assert_found(&output, "bad", "stream RESULTS", "and 9 messages are unread");
    assert_found(
        &output,
        "note",
        "stream RESULTS",
        "holds at most 97.7 KiB, not 2.0 GiB",
    );
    for number in 0..9 {
        Run::new(&format!("m{number}"), "PC-1", "other", "x".repeat(9_900))
            .send(&js)
            .await;
    }
    let output = doctor(&db, &server.url());
    assert_found(
        &output,
        "bad",
        "stream RESULTS",
        "were gone before they were read (2..",
    );
    // Read, it is only full.
    catch_up(&db, &server.url());
    let output = doctor(&db, &server.url());
    assert_found(&output, "note", "stream RESULTS", "nearly full");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    // Its tail is lost.
    js.delete_stream("RESULTS").await.unwrap();
    js.create_stream(stream_config("RESULTS")).await.unwrap();
    let output = doctor(&db, &server.url());
    assert_found(
        &output,
        "note",
        "stream RESULTS",
        "ends at 0, and the database has read up to 19",
    );
    js.delete_stream("RESULTS").await.unwrap();
    js.delete_stream("OBJ_result_output").await.unwrap();
    js.delete_stream("KV_jobs").await.unwrap();
    let output = doctor(&db, &server.url());
    for subject in ["stream RESULTS", "object store result_output", "bucket jobs"] {
        assert_found(&output, "bad", subject, "does not exist");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn outputs_that_will_expire_before_they_are_fetched_are_bad() {
    let server = NatsServer::start();
    let js = server.jetstream().await;
    healthy(&js).await;
    let (_folder, db) = place();
    catch_up(&db, &server.url());
    let object = Run::new("late", "PC-1", "other", "long").send_pointer(&js).await;
    let store = js.get_stream("OBJ_result_output").await.unwrap();
    let mut config = store.cached_info().config.clone();
    js.delete_stream("OBJ_result_output").await.unwrap();
    catch_up(&db, &server.url());
    config.max_age = Duration::from_secs(2);
    config.duplicate_window = Duration::from_secs(1);
    js.create_stream(config).await.unwrap();
    let mut last = None;
    wait_until("half of its age is over", PATIENCE, || {
        let output = doctor(&db, &server.url());
        let bad = found(&output).iter().any(|(severity, check, _, what)| {
            severity == "bad" && check == "expiry" && what.contains("1 outputs are pending")
        });
        last = Some(output);
        bad
    });
    put_object(&js, &object).await;
}

async fn make_durable(js: &jetstream::Context, stream: &str, name: &str) -> consumer::PullConsumer {
    let stream = js.get_stream(stream).await.unwrap();
    let config = consumer::pull::Config {
        durable_name: Some(name.into()),
        ..Default::default()
    };
    stream.create_consumer(config).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_backends_projector_is_seen_consuming_idle_paused_and_gone() {
    let server = NatsServer::start();
    let js = server.jetstream().await;
    healthy(&js).await;
    let (_folder, db) = place();
    BackendFile::with(Ledgers::LikeOurs).create(&db);
    catch_up(&db, &server.url());
    let (_other, own) = place();
    catch_up(&own, &server.url());
    let at = "durable backend_results_projector on RESULTS";
    let output = doctor(&db, &server.url());
    assert_found(&output, "note", at, "gone");
    assert_not_found(&doctor(&own, &server.url()), at);

    let durable = make_durable(&js, "RESULTS", "backend_results_projector").await;
    assert_found(
        &doctor(&db, &server.url()),
        "note",
        at,
        "idle, not paused; 1 messages wait",
    );
    assert_not_found(&doctor(&own, &server.url()), at);

    let mut messages = durable.messages().await.unwrap();
    messages.next().await.unwrap().unwrap().ack().await.unwrap();
    let pulling = tokio::spawn(async move { while messages.next().await.is_some() {} });
    let output = doctor(&db, &server.url());
    assert_found(
        &output,
        "bad",
        at,
        "consuming, on the file that this service writes",
    );
    assert_eq!(output.status.code(), Some(1));
    let output = doctor(&own, &server.url());
    assert_found(&output, "note", at, "consuming, into the backend's own database");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    pulling.abort();

    let stream = js.get_stream("RESULTS").await.unwrap();
    let until = |days: u64| time(std::time::SystemTime::now() + DAY * u32::try_from(days).unwrap());
    stream
        .pause_consumer("backend_results_projector", until(300))
        .await
        .unwrap();
    assert_not_found(&doctor(&db, &server.url()), at);
    stream
        .pause_consumer("backend_results_projector", until(2))
        .await
        .unwrap();
    assert_found(&doctor(&db, &server.url()), "note", at, "paused for");

    // Ours, tampered with.
    let ours = js.get_stream("RESULTS").await.unwrap();
    ours.pause_consumer("results_projector_results", until(1))
        .await
        .unwrap();
    assert_found(
        &doctor(&own, &server.url()),
        "bad",
        "durable results_projector_results",
        "paused",
    );

    // The file itself: only our hand is seen, then an older one's.
    let output = doctor(&db, &server.url());
    assert_found(&output, "note", "the backend's SQLite", "not known");
    let conn = rusqlite::Connection::open(&db).unwrap();
    conn.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    drop(conn);
    use std::os::unix::fs::FileExt;
    let file = fs::OpenOptions::new().write(true).open(&db).unwrap();
    file.write_all_at(&3_046_000_u32.to_be_bytes(), 96).unwrap();
    let output = doctor(&db, &server.url());
    assert_found(
        &output,
        "bad",
        "the backend's SQLite",
        "SQLite 3.46.0, which has the WAL-reset bug",
    );
}

fn time(at: std::time::SystemTime) -> chrono::DateTime<chrono::Utc> {
    at.into()
}

/// Answers each connection with one answer.
pub fn fake_monitor(answer: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0_u8; 4_096];
            let _read = stream.read(&mut request);
            let _written = write!(
                stream,
                "HTTP/1.1 503 Service Unavailable\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{answer}",
                answer.len()
            );
        }
    });
    url
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_monitoring_port_says_is_told() {
    let server = NatsServer::start_with("http: \"127.0.0.1:-1\"\n");
    let js = server.jetstream().await;
    healthy(&js).await;
    let (_folder, db) = place();
    let ask = |url: &str| {
        let env = [("RESULTS_PROJECTOR_NATS_MONITOR_URL", url)];
        run_with(&db, &server.url(), &["doctor", "--json"], &env)
    };
    let output = ask(&monitor_url(&server));
    assert_not_found(&output, "monitoring port");
    assert_found(&output, "note", "sync_interval", "2 min");
    let output = ask(&fake_monitor(
        r#"{"status":"error","error":"write error: no space left on device"}"#,
    ));
    assert_found(&output, "bad", "monitoring port", "no space left on device");
    assert_eq!(output.status.code(), Some(1));
    let output = ask(&fake_monitor("<html>"));
    assert_found(&output, "note", "monitoring port", "is none of a NATS server");
    let output = ask("http://127.0.0.1:1");
    assert_found(&output, "note", "monitoring port", "does not answer");
    let output = ask("https://127.0.0.1:8222");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output).contains("without TLS"), "{}", text(&output));

    let always = NatsServer::start_with(
        "http: \"127.0.0.1:-1\"\njetstream { store_dir: \"@\", sync_interval: always }\n"
            .replace('@', _folder.path().join("js").to_str().unwrap())
            .as_str(),
    );
    let monitor = monitor_url(&always);
    let env = [("RESULTS_PROJECTOR_NATS_MONITOR_URL", monitor.as_str())];
    let output = run_with(&db, &always.url(), &["doctor", "--json"], &env);
    assert_not_found(&output, "sync_interval");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_server_or_a_database_it_tells_what_it_can() {
    let mut server = NatsServer::start();
    let js = server.jetstream().await;
    healthy(&js).await;
    let (_folder, db) = place();
    let output = doctor(&db, &server.url());
    assert_found(&output, "note", "database", "results.db");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(!db.exists());
    catch_up(&db, &server.url());
    server.stop();
    let output = doctor(&db, &server.url());
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    assert_found(&output, "bad", "server", "cannot connect");
    assert_not_found(&output, "database");
    let shown = run(&db, &server.url(), &["doctor"]);
    assert_eq!(shown.status.code(), Some(3));
    assert!(
        text(&shown).contains("bad   server: cannot connect"),
        "{}",
        text(&shown)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_without_jetstream_is_told_once() {
    let server = NatsServer::start_with(
        "accounts { PLAIN { users: [ { user: u, password: p } ] }, OTHER { jetstream: enabled } }\n",
    );
    let (folder, db) = place();
    let password = folder.path().join("password");
    fs::write(&password, "p").unwrap();
    let env = [
        ("RESULTS_PROJECTOR_NATS_USER", "u"),
        ("RESULTS_PROJECTOR_NATS_PASSWORD_FILE", password.to_str().unwrap()),
    ];
    let output = run_with(&db, &server.url(), &["doctor", "--json"], &env);
    assert_eq!(output.status.code(), Some(1));
    assert_found(&output, "bad", "JetStream", "does not answer");
    assert!(found(&output).len() < 5, "{}", text(&output));
}

#[tokio::test(flavor = "multi_thread")]
async fn trying_a_permission_acks_nothing_pulls_nothing_and_deletes_nothing() {
    let server = NatsServer::start();
    let js = server.jetstream().await;
    healthy(&js).await;
    for number in 2..=6 {
        Run::new(&format!("r{number}"), "PC-1", "other", "x")
            .send(&js)
            .await;
    }
    // As ours are, with deliveries that wait for their acks, and more to come.
    let stream = js.get_stream("RESULTS").await.unwrap();
    for name in ["results_projector_results", "backend_results_projector"] {
        let config = consumer::pull::Config {
            durable_name: Some(name.into()),
            ack_policy: consumer::AckPolicy::All,
            max_ack_pending: 100,
            ..Default::default()
        };
        let durable: consumer::PullConsumer = stream.create_consumer(config).await.unwrap();
        let mut batch = durable.fetch().max_messages(4).messages().await.unwrap();
        let mut delivered = Vec::new();
        while let Some(message) = batch.next().await {
            delivered.push(message.unwrap());
        }
        delivered[1].ack().await.unwrap();
        wait_until_acked(&stream, name).await;
    }
    let state = || async {
        let mut all = Vec::new();
        for name in ["results_projector_results", "backend_results_projector"] {
            let info = stream.consumer_info(name).await.unwrap();
            all.push((
                info.created,
                (info.delivered.consumer_sequence, info.delivered.stream_sequence),
                (info.ack_floor.consumer_sequence, info.ack_floor.stream_sequence),
                (
                    info.num_ack_pending,
                    info.num_pending,
                    info.num_redelivered,
                    info.num_waiting,
                ),
            ));
        }
        all
    };
    let before = state().await;
    assert_eq!((before[0].1, before[0].2), ((4, 4), (2, 2)));
    let streams = stream.consumer_names().count().await;
    let (_folder, db) = place();
    let output = doctor(&db, &server.url());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert_eq!(state().await, before);
    assert_eq!(stream.consumer_names().count().await, streams);
    let inventory = js.get_stream("INVENTORY").await.unwrap();
    assert_eq!(inventory.consumer_names().count().await, 0);
}

async fn wait_until_acked(stream: &stream::Stream, name: &str) {
    let started = std::time::Instant::now();
    while stream
        .consumer_info(name)
        .await
        .unwrap()
        .ack_floor
        .stream_sequence
        < 2
    {
        assert!(started.elapsed() < PATIENCE, "{name} was not acked");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Many keys at once.
async fn put_many(js: &jetstream::Context, bucket: &str, count: usize) {
    let mut acks = Vec::new();
    for number in 0..count {
        let subject = format!("$KV.{bucket}.k{number}");
        acks.push(js.publish(subject, "{}".into()).await.unwrap());
        if acks.len() == 500 {
            for ack in acks.drain(..) {
                ack.await.unwrap();
            }
        }
    }
    for ack in acks {
        ack.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_very_many_keys_a_part_is_looked_at_and_that_is_said() {
    let server = NatsServer::start();
    let js = server.jetstream().await;
    healthy(&js).await;
    put_many(&js, "schedules", 5_200).await;
    put_many(&js, "agent_groups", 20_000).await;
    let (_folder, db) = place();
    catch_up(&db, &server.url());
    let started = std::time::Instant::now();
    let output = doctor(&db, &server.url());
    assert!(started.elapsed() < PATIENCE, "{:?}", started.elapsed());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert_found(&output, "note", "bucket schedules", "200 keys were not read");
    assert_found(
        &output,
        "note",
        "PCs",
        "500 in agent_groups never sent a result: k0, k1, k10, k100, k1000 and 495 more (and up to 19500 that were not looked at)",
    );
}
