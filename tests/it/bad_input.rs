//! Bad input: each with a clear outcome, nothing lost, neighbours untouched.

use bytes::Bytes;
use serde_json::json;

use crate::harness::projector::{catch_up, place, run, run_with, text};
use crate::harness::*;

fn good(id: &str) -> serde_json::Value {
    json!({
        "result_id": id, "request_id": format!("q-{id}"), "pc_id": "PC-1", "exit_code": 0, "skipped": false,
        "stdout": "fine", "stderr": "", "started_at": "2026-06-01T00:00:00Z", "finished_at": "2026-06-01T00:00:05Z",
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_bad_message_is_kept_whole_with_its_reason_and_its_neighbours_are_rows() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    let with = |field: &str, value: serde_json::Value| {
        let mut message = good("bad");
        message[field] = value;
        message.to_string().into_bytes()
    };
    let mut without = good("bad");
    without.as_object_mut().unwrap().remove("pc_id");
    let nested = |field: &str| {
        let message = good("bad").to_string();
        let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
        message
            .replacen('{', &format!("{{\"{field}\":{deep},"), 1)
            .into_bytes()
    };
    let bad: Vec<(Vec<u8>, &str)> = vec![
        (b"".to_vec(), "EOF"),
        (b"\x1b[31mnot json".to_vec(), "expected value"),
        (b"[1,2]".to_vec(), "invalid"),
        (b"{\"a\":1}".to_vec(), "missing field"),
        (without.to_string().into_bytes(), "missing field `pc_id`"),
        (with("exit_code", json!("0")), "invalid type: string"),
        (with("exit_code", json!(4_294_967_295_u64)), "invalid value"),
        (
            b"{\"request_id\":\"\xff\"}".to_vec(),
            "not valid UTF-8 at byte 15",
        ),
        (nested("stdout"), "invalid type"),
        (with("started_at", json!("+99999-01-01T00:00:00Z")), "not a time"),
        (
            with("finished_at", json!("2026-06-01T00:00:00")),
            "not a time with a zone",
        ),
    ];
    for (number, (payload, _)) in bad.iter().enumerate() {
        js.publish("results.q-bad", payload.clone().into())
            .await
            .unwrap()
            .await
            .unwrap();
        let fine = good(&format!("after-{number}")).to_string();
        js.publish("results.q-good", fine.into())
            .await
            .unwrap()
            .await
            .unwrap();
    }
    let (_folder, db) = place();
    catch_up(&db, &server.url());
    let conn = dump::open(&db);
    let mut statement = conn
        .prepare("SELECT payload, reason FROM projector_dead_letters ORDER BY stream_seq")
        .unwrap();
    let kept: Vec<(Vec<u8>, String)> = statement
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert_eq!(kept.len(), bad.len());
    for ((payload, reason), (sent, wanted)) in kept.iter().zip(&bad) {
        assert_eq!(payload, sent, "kept whole");
        assert!(reason.contains(wanted), "{reason:?} says nothing of {wanted:?}");
    }
    check_i3(&db);
    assert_eq!(
        one(
            &db,
            "SELECT count(*) FROM execution_results WHERE stdout = 'fine'"
        ) as usize,
        bad.len()
    );

    let shown = run(&db, &server.url(), &["dead-letters", "show", "RESULTS", "3"]);
    assert!(
        text(&shown).contains("\\u{1b}[31mnot json"),
        "control characters are escaped: {}",
        text(&shown)
    );
    assert!(!shown.stdout.contains(&0x1b));
    let listed = run(
        &db,
        &server.url(),
        &[
            "dead-letters",
            "list",
            "--stream",
            "results",
            "--limit",
            "4",
            "--json",
        ],
    );
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!(listed["dead_letters"].as_array().unwrap().len(), 4);
    let none = run(&db, &server.url(), &["dead-letters", "show", "RESULTS", "2"]);
    assert_eq!(none.status.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_book_of_dead_letters_holds_no_more_bytes_than_it_may_and_every_hash() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    for number in 0..50 {
        let payload = format!("{number} {}", "x".repeat(1_000 + number));
        js.publish("results.q-bad", payload.into())
            .await
            .unwrap()
            .await
            .unwrap();
    }
    let (_folder, db) = place();
    let env = [("RESULTS_PROJECTOR_DEAD_LETTERS_MAX_BYTES", "10000")];
    let output = run_with(&db, &server.url(), &["run", "--until-caught-up"], &env);
    assert!(output.status.success(), "{}", text(&output));
    let count = |which: &str| {
        one(
            &db,
            &format!("SELECT count(*) FROM projector_dead_letters WHERE {which}"),
        )
    };
    assert_eq!(count("length(sha256) = 64 AND payload_bytes > 1000"), 50);
    assert_eq!(count("length(payload) = payload_bytes"), 9);
    assert_eq!(count("payload IS NULL"), 41);
    check_i3(&db);
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_but_legal_messages_are_rows() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    let line = "x".repeat(900_000);
    for (id, stdout) in [
        ("nul", "a\u{0}b"),
        ("long", line.as_str()),
        ("sql", "'); DROP TABLE execution_results;--"),
    ] {
        let mut message = good(id);
        message["stdout"] = json!(stdout);
        // The subject says another request: the payload decides.
        js.publish("results.something.else", message.to_string().into())
            .await
            .unwrap()
            .await
            .unwrap();
    }
    let mut nested = good("nested").to_string();
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    nested = nested.replacen('{', &format!("{{\"unknown\":{deep},"), 1);
    js.publish("results.q-nested", Bytes::from(nested))
        .await
        .unwrap()
        .await
        .unwrap();
    let (_folder, db) = place();
    catch_up(&db, &server.url());
    let length = |id: &str| {
        one(
            &db,
            &format!("SELECT length(CAST(stdout AS BLOB)) FROM execution_results WHERE result_id = '{id}'"),
        )
    };
    assert_eq!(
        (length("nul"), length("long"), length("sql"), length("nested")),
        (3, 900_000, 35, 4)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subject_that_the_stream_should_not_hold_is_a_dead_letter() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    js.update_stream(async_nats::jetstream::stream::Config {
        name: "RESULTS".into(),
        subjects: vec!["results.>".into(), "elsewhere.>".into()],
        max_bytes: nats::BYTES_MAX,
        max_age: std::time::Duration::from_secs(30 * 86_400),
        ..Default::default()
    })
    .await
    .unwrap();
    js.publish("elsewhere.q-1", good("r1").to_string().into())
        .await
        .unwrap()
        .await
        .unwrap();
    js.publish("results.q-2", good("r2").to_string().into())
        .await
        .unwrap()
        .await
        .unwrap();
    let (_folder, db) = place();
    catch_up(&db, &server.url());
    assert_eq!(one(&db, "SELECT count(*) FROM execution_results"), 1);
    let reason = dump::text(&db, "SELECT reason FROM projector_dead_letters");
    assert!(
        reason.contains("elsewhere.q-1") && reason.contains("RESULTS"),
        "{reason}"
    );
}
