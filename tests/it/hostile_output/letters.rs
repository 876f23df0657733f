//! The dead-letter book under a flood: bounded by bytes, and nothing unreadable is lost (DESIGN §6, I7).

use async_nats::HeaderMap;
use serde_json::{Value, json};

use super::{result, send};
use crate::harness::projector::{catch_up, place, run, run_with, text};
use crate::harness::*;

const LIMIT: i64 = 20_000;
const SENT: usize = 40;

/// As the book counts: payloads and headers.
const KEPT: &str = "SELECT coalesce(sum(length(payload) + coalesce(length(CAST(headers AS BLOB)), 0)), 0)
     FROM projector_dead_letters WHERE payload IS NOT NULL OR headers IS NOT NULL";

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_malformed_messages_fills_the_book_up_to_its_limit_and_the_stream_keeps_the_rest() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    let mut headers = HeaderMap::new();
    headers.insert("X-Long", "h".repeat(600).as_str());
    let payload = |number: usize| format!("{number} {}", "not json ".repeat(100));
    for number in 1..=SENT {
        let sending = js.publish_with_headers("results.q", headers.clone(), payload(number).into());
        sending.await.unwrap().await.unwrap();
    }
    send(&js, "results.q", &result("among-them", "PC-1", "job")).await;
    // Headers alone are bounded too.
    headers.insert("X-Long", "h".repeat(60_000).as_str());
    js.publish_with_headers("results.q", headers.clone(), "x".into())
        .await
        .unwrap()
        .await
        .unwrap();
    let (_folder, db) = place();
    let (url, limit) = (server.url(), LIMIT.to_string());
    let env = [("RESULTS_PROJECTOR_DEAD_LETTERS_MAX_BYTES", limit.as_str())];
    let caught_up = run_with(&db, &url, &["run", "--until-caught-up"], &env);
    assert!(caught_up.status.success(), "{}", text(&caught_up));
    assert!(
        text(&caught_up).contains("the dead-letter book is full"),
        "{}",
        text(&caught_up)
    );
    check_i3(&db);
    assert_eq!(one(&db, "SELECT count(*) FROM execution_results"), 1);
    assert_eq!(
        one(&db, "SELECT count(*) FROM projector_dead_letters"),
        SENT as i64 + 1
    );
    let kept = one(&db, KEPT);
    assert!(kept <= LIMIT && kept > LIMIT - 2_000, "{kept} bytes");
    let bare = one(
        &db,
        "SELECT count(*) FROM projector_dead_letters WHERE payload IS NULL AND headers IS NULL AND length(reason) > 5
             AND length(sha256) = 64",
    );
    assert_eq!(
        bare,
        one(
            &db,
            "SELECT count(*) FROM projector_dead_letters WHERE payload IS NULL"
        )
    );
    assert!(bare > 20);

    let status = run(&db, &url, &["status"]);
    assert!(
        text(&status).contains(&format!(
            "{bare} of them only in the stream, as long as it keeps them: dead_letters.max_bytes"
        )),
        "{}",
        text(&status)
    );
    let last = SENT.to_string();
    let show = || -> Value {
        let shown = run(&db, &url, &["dead-letters", "show", "RESULTS", &last, "--json"]);
        assert!(shown.status.success(), "{}", text(&shown));
        serde_json::from_slice(&shown.stdout).unwrap()
    };
    let shown = show();
    assert_eq!(shown["dead_letter"]["payload_kept"], false);
    assert_eq!(shown["payload_text"], payload(SENT), "from the stream");
    assert_eq!(shown["headers"]["X-Long"], json!(["h".repeat(600)]));
    let human = run(&db, &url, &["dead-letters", "show", "RESULTS", &last]);
    assert!(text(&human).contains("(from the stream)"), "{}", text(&human));

    // Started again, the book knows how full it is.
    js.publish("results.q", payload(0).into())
        .await
        .unwrap()
        .await
        .unwrap();
    let caught_up = run_with(&db, &url, &["run", "--until-caught-up"], &env);
    assert!(caught_up.status.success(), "{}", text(&caught_up));
    assert_eq!(one(&db, KEPT), kept);
    check_i3(&db);

    // The message gone, or another in its place: never shown as this one.
    let stream = js.get_stream("RESULTS").await.unwrap();
    stream.delete_message(SENT as u64).await.unwrap();
    let shown = show();
    assert_eq!(shown["payload_text"], Value::Null);
    let why = shown["payload_unavailable"].as_str().unwrap();
    assert!(why.contains("does not hold the message any more"), "{why}");
    drop(server);
    let why = show()["payload_unavailable"].as_str().unwrap().to_owned();
    assert!(why.contains("cannot connect"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_that_leaves_a_full_book_makes_room_for_its_payload_and_its_headers() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    let mut headers = HeaderMap::new();
    headers.insert("X", "h".repeat(500).as_str());
    let (_folder, db) = place();
    let env = [("RESULTS_PROJECTOR_DEAD_LETTERS_MAX_BYTES", "10000")];
    let url = server.url();
    let again = |what: &str| {
        let output = run_with(&db, &url, &["run", "--until-caught-up"], &env);
        assert!(output.status.success(), "{what}: {}", text(&output));
    };
    // In a stream that lets it in, the message is good but for its subject.
    let stream = js.get_stream("RESULTS").await.unwrap();
    let mut config = stream.cached_info().config.clone();
    config.subjects.push("elsewhere".to_owned());
    js.update_stream(config).await.unwrap();
    let mut message = result("r", "PC-1", "job");
    message["stdout"] = json!("x".repeat(1_500));
    let sending = js.publish_with_headers("elsewhere", headers, message.to_string().into());
    sending.await.unwrap().await.unwrap();
    again("the first");
    assert!(one(&db, KEPT) > 2_000);
    // As a projector that knows the subject would retry it.
    rusqlite::Connection::open(&db)
        .unwrap()
        .execute("UPDATE projector_dead_letters SET subject = 'results.q'", [])
        .unwrap();
    let retried = run_with(&db, &url, &["dead-letters", "retry", "--all"], &env);
    assert!(retried.status.success(), "{}", text(&retried));
    js.publish("results.q", "y".repeat(9_900).into())
        .await
        .unwrap()
        .await
        .unwrap();
    again("the second");
    assert_eq!(one(&db, KEPT), 9_900);
    check_i3(&db);
    catch_up(&db, &url);
}
