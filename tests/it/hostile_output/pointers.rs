//! An agent that names others' objects, or objects that are none (D18): refused, or asked for by exactly that name, and
//! never at the cost of its neighbours.

use std::path::Path;

use async_nats::jetstream;
use serde_json::json;

use super::{result, send};
use crate::harness::projector::{catch_up, place, run, text};
use crate::harness::*;

const SECRET: &str = "somebody else's output";

async fn put(js: &jetstream::Context, name: &str, text: &str) {
    let store = js.get_object_store("result_output").await.unwrap();
    store.put(name, &mut text.as_bytes()).await.unwrap();
}

fn column(db: &Path, id: &str, sql: &str) -> String {
    dump::open(db)
        .query_row(sql, [id], |row| row.get::<_, Option<String>>(0))
        .unwrap()
        .unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pointer_to_anothers_object_is_refused_or_means_only_itself_whatever_its_spelling() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    for name in [
        "victim/PC-1/stdout",
        "q-1/PC-1/stdout",
        "VICTIM",
        "/",
        "..",
        "victim",
    ] {
        put(&js, name, SECRET).await;
    }
    let long = "n".repeat(10_000);
    let refused = [
        "victim/PC-1/stdout",
        "../victim/PC-1/stdout",
        "./mine/../victim/PC-1/stdout",
        "/victim/PC-1/stdout",
        "/mine/PC-1/stdout",
        "//mine/PC-1/stdout",
        "mine",
        "mine\u{0}/PC-1/stdout",
        "\u{0}mine/PC-1/stdout",
        "MINE/PC-1/stdout",
        "Mine/PC-1/stdout",
        "min/PC-1/stdout",
        "mine2/PC-1/stdout",
        "mine%2F..%2Fvictim/PC-1/stdout",
        "mine\\..\\victim",
        "%6dine/PC-1/stdout",
        " mine/PC-1/stdout",
        "mine /PC-1/stdout",
        "m\u{131}ne/PC-1/stdout",
        ">",
        "*",
        "$O.result_output.M.>",
        "mine.>",
        &long,
        &format!("victim/{long}"),
    ]
    .map(str::to_owned);
    // In its own folder: a name like any other, and no path.
    let literal = [
        "mine/../victim/PC-1/stdout",
        "mine/%2e%2e/victim/PC-1/stdout",
        "mine//victim/PC-1/stdout",
        "mine/",
        "mine/\u{0}/stdout",
        "mine/>",
        "mine/*",
        "mine/\r\nPUB results.forged 2\r\n{}\r\n",
        &format!("mine/{long}"),
        &format!("mine/{}", "é".repeat(100_000)),
    ]
    .map(str::to_owned);
    let names: Vec<(String, &str)> = refused
        .into_iter()
        .map(|name| (name, "refused"))
        .chain(literal.into_iter().map(|name| (name, "asked for")))
        .collect();
    for (number, (name, _)) in names.iter().enumerate() {
        let mut message = result(&format!("r{number}"), "PC-1", "job");
        message["request_id"] = json!("mine");
        message["stdout"] = json!("");
        message[if number % 2 == 0 {
            "stdout_object"
        } else {
            "stderr_object"
        }] = json!(name);
        send(&js, "results.mine", &message).await;
    }
    put(&js, "mine/PC-1/stdout", "mine").await;
    let mut own = result("own", "PC-1", "job");
    (own["request_id"], own["stdout_object"]) = (json!("mine"), json!("mine/PC-1/stdout"));
    send(&js, "results.mine", &own).await;
    let (_folder, db) = place();
    let caught_up = catch_up(&db, &server.url());
    assert!(
        !text(&caught_up).contains("connection to NATS was lost"),
        "{}",
        text(&caught_up)
    );
    check_i3(&db);
    assert_eq!(
        column(
            &db,
            "own",
            "SELECT stdout FROM execution_results WHERE result_id = ?1"
        ),
        "mine"
    );
    for (number, (name, wanted)) in names.iter().enumerate() {
        let id = format!("r{number}");
        let state = column(
            &db,
            &id,
            "SELECT state FROM projector_outputs WHERE result_id = ?1",
        );
        let shown: String = name.chars().take(60).collect();
        match *wanted {
            "refused" => assert_eq!(state, "refused", "{shown:?}"),
            _ => assert!(
                ["pending", "gone"].contains(&state.as_str()),
                "{shown:?} is {state}"
            ),
        }
        let attempts = column(
            &db,
            &id,
            "SELECT CAST(attempts AS TEXT) FROM projector_outputs WHERE result_id = ?1",
        );
        if *wanted == "refused" {
            assert!(
                attempts == "0" || attempts == "1",
                "{shown:?} was asked for {attempts} times"
            );
        }
    }
    let leaked = "SELECT count(*) FROM execution_results WHERE stdout LIKE '%somebody else%' OR stderr LIKE '%somebody else%'";
    assert_eq!(one(&db, leaked), 0);
    assert_eq!(one(&db, "SELECT count(*) FROM projector_dead_letters"), 0);
    let retried = run(&db, &server.url(), &["outputs", "retry", "--all"]);
    assert!(!text(&retried).contains("lost"), "{}", text(&retried));
    assert_eq!(one(&db, leaked), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_that_names_the_chunks_of_others_or_none_is_not_followed() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    put(&js, "victim/PC-1/stdout", SECRET).await;
    let size = SECRET.len();
    for (number, nuid) in [">", "*", "", "x y", "x\r\ny", "x.y", "\u{1b}[31m"]
        .iter()
        .enumerate()
    {
        use base64::Engine;
        let name = format!("mine/{number}");
        let subject = format!(
            "$O.result_output.M.{}",
            base64::engine::general_purpose::URL_SAFE.encode(&name)
        );
        let meta = json!({"name": name, "bucket": "result_output", "nuid": nuid, "size": size, "chunks": 1, "mtime": "2026-06-01T00:00:00Z"});
        js.publish(subject, meta.to_string().into())
            .await
            .unwrap()
            .await
            .unwrap();
        let mut message = result(&format!("r{number}"), "PC-1", "job");
        message["request_id"] = json!("mine");
        message["stdout"] = json!("");
        message["stdout_object"] = json!(name);
        send(&js, "results.mine", &message).await;
    }
    let (_folder, db) = place();
    catch_up(&db, &server.url());
    assert_eq!(
        one(
            &db,
            "SELECT count(*) FROM execution_results WHERE stdout LIKE '%somebody else%'"
        ),
        0
    );
    assert_eq!(
        one(
            &db,
            "SELECT count(*) FROM projector_outputs WHERE state = 'pending' AND reason LIKE '%names no chunks%'"
        ),
        7
    );
    check_i3(&db);
}
