//! `dead-letters retry` and `discard`.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use async_nats::jetstream;
use bytes::Bytes;
use results_projector::store::{Owner, Store, StoreOptions};
use rusqlite::Connection;
use serde_json::{Value, json};

use super::{asked, number};
use crate::harness::fleet::put_manifests;
use crate::harness::projector::{catch_up, place, run, run_with, text};
use crate::harness::*;

/// What makes this version of the projector fail at good messages: a trigger of somebody's.
fn refuse(db: &Path, triggers: &str) {
    let me = Owner {
        pid: std::process::id(),
        ..Owner::default()
    };
    Store::open(db, &StoreOptions::default(), &me).unwrap().close();
    Connection::open(db).unwrap().execute_batch(triggers).unwrap();
}

const REFUSE_SOME: &str = "
    CREATE TRIGGER no_some BEFORE INSERT ON execution_results WHEN substr(NEW.result_id, -1) IN ('1', '5', 'b')
        BEGIN SELECT RAISE(ABORT, 'not with this version'); END;
    CREATE TRIGGER no_scan BEFORE INSERT ON execution_results WHEN NEW.job_id LIKE 'inventory-%'
            AND substr(NEW.result_id, -1) IN ('2', 'c')
        BEGIN SELECT RAISE(ABORT, 'not with this version'); END;
    CREATE TRIGGER no_snapshot BEFORE INSERT ON inventory_facts WHEN NEW.job_id LIKE 'inventory.%'
        BEGIN SELECT RAISE(ABORT, 'not with this version'); END;";
const UPGRADE: &str =
    "DROP TRIGGER IF EXISTS no_some; DROP TRIGGER IF EXISTS no_scan; DROP TRIGGER IF EXISTS no_snapshot;";

fn change(db: &Path, sql: &str) {
    let conn = Connection::open(db).unwrap();
    conn.busy_timeout(Duration::from_secs(30)).unwrap();
    conn.execute_batch(sql).unwrap();
}

fn kept(db: &Path) -> i64 {
    one(
        db,
        "SELECT count(*) FROM projector_dead_letters WHERE state = 'kept'",
    )
}

fn settled(db: &Path) -> bool {
    one(
        db,
        "SELECT count(*) FROM projector_derivations WHERE state = 'due'",
    ) == 0
}

async fn send(js: &jetstream::Context, subject: &str, payload: impl Into<Bytes>) {
    js.publish(subject.to_owned(), payload.into())
        .await
        .unwrap()
        .await
        .unwrap();
}

fn result(id: &str, stdout: &str) -> Value {
    json!({
        "result_id": id, "request_id": format!("q-{id}"), "pc_id": "PC-1", "exit_code": 0, "skipped": false,
        "stdout": stdout, "stderr": "", "started_at": "2026-06-01T00:00:00Z", "finished_at": "2026-06-01T00:00:05Z",
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_upgrade_dead_letters_become_what_they_would_have_been_in_their_turn() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    put_manifests(&js).await.unwrap();
    let planned = plan(301, &Profile::everything(scale(400, 4_000)));
    publish(&js, &planned).await.unwrap();
    let (_folder, undisturbed) = place();
    catch_up(&undisturbed, &server.url());
    let never = kept(&undisturbed);

    let (_folder, db) = place();
    refuse(&db, REFUSE_SOME);
    catch_up(&db, &server.url());
    let dead = kept(&db);
    assert!(dead > never + 100, "{dead} dead letters");
    let positions = "SELECT group_concat(stream || ' ' || position) FROM projector_position";
    let before = dump::text(&db, positions);
    // Nothing has changed yet: nothing does.
    let in_vain = asked(
        &db,
        &server.url(),
        &["dead-letters", "retry", "--all", "--stream", "events"],
        1,
    );
    assert_eq!(number(&in_vain, "projected"), 0);
    change(&db, UPGRADE);

    // Without a service: one stream.
    let alone = asked(
        &db,
        &server.url(),
        &["dead-letters", "retry", "--all", "--stream", "EVENTS"],
        1,
    );
    assert!(number(&alone, "projected") > 0, "{alone}");
    check_i3(&db);
    // With one: the rest.
    let projector = Projector::start(&db, &server.url());
    wait_until("the service listens", PATIENCE, || {
        db.with_extension("db.sock").exists()
    });
    let mode = std::fs::metadata(db.with_extension("db.sock"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let served = asked(&db, &server.url(), &["dead-letters", "retry", "--all"], 1);
    assert_eq!(
        number(&alone, "projected") + number(&served, "projected"),
        dead - never
    );
    assert_eq!(number(&served, "kept"), never);
    wait_until("all pairs are derived anew", PATIENCE, || settled(&db));
    assert_eq!(dump::text(&db, positions), before, "the position stays");
    assert_eq!(kept(&db), never);
    // The service goes on from its own counts.
    send(&js, "results.q-more", result("more", "more").to_string()).await;
    wait_until("what comes is projected", PATIENCE, || {
        one(
            &db,
            "SELECT count(*) FROM execution_results WHERE result_id = 'more'",
        ) == 1
    });
    check_i3(&db);
    assert_eq!(
        one(&db, "SELECT sum(dead) FROM projector_position"),
        one(&db, "SELECT count(*) FROM projector_dead_letters")
    );
    assert!(projector.terminate().success());
    assert!(!db.with_extension("db.sock").exists());
    catch_up(&undisturbed, &server.url());
    assert_same(&db, &undisturbed);
    // Once more is once too many, and changes nothing.
    let again = asked(&db, &server.url(), &["dead-letters", "retry", "--all"], 1);
    assert_eq!((number(&again, "projected"), number(&again, "kept")), (0, never));
    assert_same(&db, &undisturbed);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_message_in_the_stream_takes_its_row_over_from_a_later_one() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    put_manifests(&js).await.unwrap();
    let scan = |id: &str, pc: &str, note: &str, disks: &[(&str, f64)]| {
        let disks: Vec<Value> = disks
            .iter()
            .map(|(device, free)| {
                json!({"device": device, "model": "M", "size_gb": 500, "free_gb": free, "health": "Healthy"})
            })
            .collect();
        let mut message = result(
            id,
            &json!({"hostname": note, "disk_count": disks.len(), "disks": disks}).to_string(),
        );
        message["pc_id"] = json!(pc);
        message["manifest_id"] = json!("inventory-disks");
        message["exec_id"] = json!("exec-1");
        message["request_id"] = json!(format!("q-{note}"));
        message
    };
    let check = |id: &str, note: &str, status: &str| {
        let mut message = result(id, &json!({"state": status, "message": note}).to_string());
        message["manifest_id"] = json!("check-defender");
        message["request_id"] = json!(format!("q-{note}"));
        message
    };
    let mut failed = scan("b", "PC-2", "first-b", &[]);
    failed["exit_code"] = json!(7);
    failed["exec_id"] = json!("exec-2");
    let mut pointing = result("p", "");
    pointing["stdout_object"] = json!("q-p/PC-1/stdout");
    pointing["stderr"] = json!("first-p");
    for message in [
        scan("a", "PC-1", "first-a", &[("C:", 100.0)]),
        failed,
        check("c", "first-c", "ok"),
        pointing,
        scan("between", "PC-1", "between", &[("C:", 90.0), ("D:", 10.0)]),
        scan("a", "PC-1", "second-a", &[("C:", 80.0)]),
        scan("b", "PC-2", "second-b", &[("C:", 70.0)]),
        check("c", "second-c", "fail"),
        result("p", "second-p"),
        scan("after", "PC-1", "after", &[("C:", 60.0)]),
    ] {
        send(&js, "results.q", message.to_string()).await;
    }
    let objects = js.get_object_store("result_output").await.unwrap();
    objects
        .put("q-p/PC-1/stdout", &mut &b"behind a pointer"[..])
        .await
        .unwrap();
    let executions = "INSERT INTO executions (exec_id, job_id, version, initiated_by, initiated_at, target_count)
         VALUES ('exec-1', 'j', '1', 's', '2026-06-01T00:00:00+00:00', 9), ('exec-2', 'j', '1', 's', '2026-06-01T00:00:00+00:00', 9);";
    let (_folder, undisturbed) = place();
    refuse(&undisturbed, executions);
    catch_up(&undisturbed, &server.url());

    let (_folder, db) = place();
    refuse(
        &db,
        &format!(
            "{executions} CREATE TRIGGER no_some BEFORE INSERT ON execution_results
             WHEN NEW.request_id LIKE 'q-first-%' OR NEW.stderr = 'first-p'
             BEGIN SELECT RAISE(ABORT, 'not with this version'); END;"
        ),
    );
    catch_up(&db, &server.url());
    assert_eq!(kept(&db), 4);
    assert_eq!(
        dump::text(
            &db,
            "SELECT request_id FROM execution_results WHERE result_id = 'b'"
        ),
        "q-second-b"
    );
    change(&db, UPGRADE);
    let done = asked(
        &db,
        &server.url(),
        &["dead-letters", "retry", "RESULTS", "4", "3", "2", "1"],
        0,
    );
    assert_eq!(number(&done, "projected"), 4);
    // The ledger of a job keeps the success that is none any more: losing a key would run jobs again.
    change(
        &undisturbed,
        "INSERT INTO job_completions VALUES ('inventory-disks', 'PC-2', '2026-06-01T00:00:05+00:00')",
    );
    assert_same(&db, &undisturbed);
    check_i3(&db);
    assert_eq!(
        dump::text(
            &db,
            "SELECT group_concat(stream_seq || ' ' || counts, ', ') FROM (SELECT * FROM projector_results ORDER BY stream_seq)"
        ),
        "1 1, 2 1, 3 1, 4 1, 5 1, 6 0, 7 0, 8 0, 9 0, 10 1"
    );
    assert_eq!(
        dump::text(&db, "SELECT object FROM projector_outputs"),
        "q-p/PC-1/stdout"
    );
    assert_eq!(
        one(&db, "SELECT count(*) FROM inventory_history WHERE pc_id = 'PC-1'"),
        one(
            &undisturbed,
            "SELECT count(*) FROM inventory_history WHERE pc_id = 'PC-1'"
        )
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_that_only_the_stream_holds_is_taken_from_there_if_it_is_still_the_same() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    for id in ["there", "deleted", "other"] {
        send(&js, &format!("results.q-{id}"), result(id, id).to_string()).await;
    }
    let (_folder, db) = place();
    refuse(
        &db,
        "CREATE TRIGGER no_some BEFORE INSERT ON execution_results BEGIN SELECT RAISE(ABORT, 'no'); END;",
    );
    let output = run_with(
        &db,
        &server.url(),
        &["run", "--until-caught-up"],
        &[("RESULTS_PROJECTOR_DEAD_LETTERS_MAX_BYTES", "0")],
    );
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(
        one(
            &db,
            "SELECT count(*) FROM projector_dead_letters WHERE payload IS NULL"
        ),
        3
    );
    change(&db, UPGRADE);
    change(
        &db,
        "UPDATE projector_dead_letters SET sha256 = printf('%064d', 0) WHERE stream_seq = 3",
    );
    js.get_stream("RESULTS")
        .await
        .unwrap()
        .delete_message(2)
        .await
        .unwrap();
    let done = asked(&db, &server.url(), &["dead-letters", "retry", "--all"], 1);
    assert_eq!((number(&done, "projected"), number(&done, "kept")), (1, 2));
    let reason = |seq: u64| {
        dump::text(
            &db,
            &format!("SELECT reason FROM projector_dead_letters WHERE stream_seq = {seq}"),
        )
    };
    assert!(
        reason(2).contains("does not hold the message any more"),
        "{}",
        reason(2)
    );
    assert!(
        reason(3).contains("another message at its sequence"),
        "{}",
        reason(3)
    );
    let length = reason(3).len();
    asked(&db, &server.url(), &["dead-letters", "retry", "RESULTS", "3"], 1);
    assert_eq!(reason(3).len(), length, "a reason does not grow: {}", reason(3));
    check_i3(&db);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_discarded_one_stays_so_until_it_is_named() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    send(&js, "results.q-1", "not json").await;
    send(&js, "results.q-2", "nor this").await;
    send(&js, "results.q-3", result("good", "good").to_string()).await;
    let (_folder, db) = place();
    refuse(
        &db,
        "CREATE TRIGGER no_some BEFORE INSERT ON execution_results BEGIN SELECT RAISE(ABORT, 'no'); END;",
    );
    catch_up(&db, &server.url());
    let url = server.url();
    for (args, code, said) in [
        (vec!["--all"], 2, "gives up 3 dead letters"),
        (vec![], 2, "which dead letters"),
        (vec!["RESULTS"], 2, "SEQ"),
        (vec!["nothing", "1"], 2, "no stream"),
        (vec!["RESULTS", "99"], 1, "not there"),
    ] {
        let args: Vec<&str> = ["dead-letters", "discard"].into_iter().chain(args).collect();
        let output = run(&db, &url, &args);
        assert_eq!(output.status.code(), Some(code), "{}", text(&output));
        assert!(text(&output).contains(said), "{}", text(&output));
    }
    assert_eq!(kept(&db), 3);
    // Without a service, which needs no server either.
    let done = asked(
        &db,
        "nats://127.0.0.1:1",
        &["dead-letters", "discard", "RESULTS", "1"],
        0,
    );
    assert_eq!(number(&done, "discarded"), 1);
    let projector = Projector::start(&db, &url);
    wait_until("the service listens", PATIENCE, || {
        db.with_extension("db.sock").exists()
    });
    let done = asked(&db, &url, &["dead-letters", "discard", "--all", "--yes"], 0);
    assert_eq!(number(&done, "discarded"), 2);
    let status = asked(&db, &url, &["status"], 0);
    assert_eq!(number(&status, "dead_letters"), 0);
    let none = asked(&db, &url, &["dead-letters", "retry", "--all"], 0);
    assert_eq!(none["dead_letters"].as_array().unwrap().len(), 0);
    assert!(projector.terminate().success());
    check_i3(&db);

    // The stream is made anew from the same messages: met again, they stay discarded.
    let conn = Connection::open(&db).unwrap();
    let published: Vec<String> = conn
        .prepare("SELECT published_at FROM projector_dead_letters ORDER BY stream_seq")
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    conn.execute_batch(
        "UPDATE projector_position SET published_at = '2020-01-01T00:00:00+00:00', past = '[]' WHERE stream = 'RESULTS'",
    )
    .unwrap();
    drop(conn);
    catch_up(&db, &url);
    assert_eq!(
        one(
            &db,
            "SELECT max(incarnation) FROM projector_position WHERE stream = 'RESULTS'"
        ),
        2
    );
    assert_eq!(published.len(), 3);
    assert_eq!(kept(&db), 0);
    assert_eq!(
        one(
            &db,
            "SELECT count(*) FROM projector_dead_letters WHERE state = 'discarded'"
        ),
        3
    );
    check_i3(&db);

    // Named, it is tried again: projected, or kept.
    change(&db, UPGRADE);
    let named = asked(&db, &url, &["dead-letters", "retry", "RESULTS", "1", "3"], 1);
    assert_eq!((number(&named, "projected"), number(&named, "kept")), (1, 1));
    assert_eq!(kept(&db), 1);
    assert_eq!(
        one(
            &db,
            "SELECT count(*) FROM execution_results WHERE stdout = 'good'"
        ),
        1
    );
    check_i3(&db);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_stuck_or_does_not_listen_is_told_in_time() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    send(&js, "results.q-1", "not json").await;
    let (folder, db) = place();
    catch_up(&db, &server.url());
    let socket = db.with_extension("db.sock");
    // What a killed service leaves is nobody.
    let projector = Projector::start(&db, &server.url());
    wait_until("the service listens", PATIENCE, || socket.exists());
    projector.kill();
    assert!(socket.exists());
    asked(&db, &server.url(), &["dead-letters", "retry", "--all"], 1);

    let projector = Projector::start(&db, &server.url());
    wait_until("the service listens again", PATIENCE, || {
        std::os::unix::net::UnixStream::connect(&socket).is_ok()
    });
    projector.pause();
    let started = Instant::now();
    let output = run(&db, &server.url(), &["dead-letters", "retry", "--all"]);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    assert!(text(&output).contains("does not answer"), "{}", text(&output));
    assert!(
        started.elapsed() < Duration::from_secs(30),
        "{:?}",
        started.elapsed()
    );
    projector.resume();
    assert!(projector.terminate().success());

    // A path that no socket can have: the service says so, and the command who is there.
    let deep = folder.path().join("x".repeat(100));
    std::fs::create_dir(&deep).unwrap();
    let db = deep.join("results.db");
    catch_up(&db, &server.url());
    let projector = Projector::start(&db, &server.url());
    wait_until("the service says that it does not listen", PATIENCE, || {
        projector.stderr().contains("no socket for commands")
    });
    let output = run(&db, &server.url(), &["dead-letters", "retry", "--all"]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    assert!(text(&output).contains("stop that one first"), "{}", text(&output));
    assert!(projector.terminate().success());
    // And so without a server.
    let output = run(&db, "nats://127.0.0.1:1", &["dead-letters", "retry", "--all"]);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    assert_eq!(kept(&db), 1);
}
