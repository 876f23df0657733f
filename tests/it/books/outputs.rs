//! `outputs retry`.

use bytes::Bytes;
use serde_json::json;

use super::{asked, number};
use crate::harness::fleet::create_output_store;
use crate::harness::nats::BYTES_MAX;
use crate::harness::projector::{catch_up, place, run, run_with, text};
use crate::harness::*;

#[tokio::test(flavor = "multi_thread")]
async fn outputs_come_back_when_they_are_asked_for_again() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    js.delete_object_store("result_output").await.unwrap();
    let name = |id: &str| format!("q-{id}/PC-1/stdout");
    for id in ["a", "b", "c", "d"] {
        let pointer = if id == "d" {
            "other/PC-1/stdout".to_owned()
        } else {
            name(id)
        };
        let message = json!({
            "result_id": id, "request_id": format!("q-{id}"), "pc_id": "PC-1", "exit_code": 0, "skipped": false,
            "stdout": "", "stderr": "", "started_at": "2026-06-01T00:00:00Z", "finished_at": "2026-06-01T00:00:05Z",
            "stdout_object": pointer,
        });
        js.publish(format!("results.q-{id}"), Bytes::from(message.to_string()))
            .await
            .unwrap()
            .await
            .unwrap();
    }
    let (_folder, db) = place();
    let url = server.url();
    catch_up(&db, &url);
    let states = || {
        dump::text(
            &db,
            "SELECT group_concat(state, ' ') FROM (SELECT state FROM projector_outputs ORDER BY result_id)",
        )
    };
    assert_eq!(states(), "pending pending pending refused");
    // Nobody would ask for them by himself for a while.
    let later = "UPDATE projector_outputs SET next_try_wall = strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now', '+250 seconds')
         WHERE state <> 'refused'";
    rusqlite::Connection::open(&db)
        .unwrap()
        .execute_batch(later)
        .unwrap();
    create_output_store(&js, Some(BYTES_MAX)).await.unwrap();
    let objects = js.get_object_store("result_output").await.unwrap();
    for (id, text) in [("a", "text of a"), ("c", "a longer text of c")] {
        objects
            .put(name(id).as_str(), &mut text.as_bytes())
            .await
            .unwrap();
    }
    for (args, said) in [
        (vec!["--state", "refused"], "never asked for"),
        (vec![], "which outputs"),
        (vec!["--field", "stdout"], "--result"),
    ] {
        let args: Vec<&str> = ["outputs", "retry"].into_iter().chain(args).collect();
        let output = run(&db, &url, &args);
        assert_eq!(output.status.code(), Some(2), "{}", text(&output));
        assert!(text(&output).contains(said), "{}", text(&output));
    }
    // Without a service, within a limit that one of them exceeds.
    let limited = run_with(
        &db,
        &url,
        &["outputs", "retry", "--all"],
        &[("RESULTS_PROJECTOR_OUTPUTS_MAX_BYTES", "12")],
    );
    assert_eq!(limited.status.code(), Some(1), "{}", text(&limited));
    assert!(
        text(&limited).contains("1 came back, 1 pending, 0 gone, 1 too large")
            && text(&limited).contains("more than outputs.max_bytes (12 bytes)"),
        "{}",
        text(&limited)
    );
    assert_eq!(states(), "fetched pending too_large refused");
    // By the service.
    let projector = Projector::start(&db, &url);
    wait_until("the service listens", PATIENCE, || {
        db.with_extension("db.sock").exists()
    });
    // Only the one that is asked for below: the service may still be about to fetch the large one by itself.
    rusqlite::Connection::open(&db)
        .unwrap()
        .execute_batch(&format!("{later} AND result_id = 'b'"))
        .unwrap();
    objects
        .put(name("b").as_str(), &mut "text of b".as_bytes())
        .await
        .unwrap();
    let one_of_them = asked(
        &db,
        &url,
        &["outputs", "retry", "--result", "b", "--field", "stdout"],
        0,
    );
    assert_eq!(number(&one_of_them, "fetched"), 1);
    wait_until(
        "the limit of this service lets the large one in",
        PATIENCE,
        || states() == "fetched fetched fetched refused",
    );
    let none = asked(&db, &url, &["outputs", "retry", "--all"], 0);
    assert_eq!(none["outputs"].as_array().unwrap().len(), 0);
    assert!(projector.terminate().success());
    let (_folder, undisturbed) = place();
    catch_up(&undisturbed, &url);
    assert_same(&db, &undisturbed);
}
