//! `replay`: what it fills, how far it reaches, and what it leaves alone.

use std::time::Duration;

use async_nats::jetstream;
use serde_json::json;

use super::*;
use crate::derived::{DISKS, Run, apps, disks, put_object};

async fn plain(js: &jetstream::Context, id: &str, exec_id: &str, exit_code: i32) {
    let message = json!({
        "result_id": id, "request_id": format!("q-{id}"), "pc_id": "PC-1", "manifest_id": "plain", "exec_id": exec_id,
        "exit_code": exit_code, "skipped": false, "stdout": format!("of {id}"), "stderr": "",
        "started_at": "2026-06-01T00:00:00Z", "finished_at": "2026-06-01T00:00:05Z",
    });
    crate::derived::send(js, &format!("results.q-{id}"), &message).await;
}

fn stdout_of(db: &Path, id: &str) -> String {
    dump::text(
        db,
        &format!("SELECT stdout FROM execution_results WHERE result_id = '{id}'"),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn outputs_that_came_back_are_filled_with_what_is_derived_from_them() {
    let server = NatsServer::start();
    let (js, url) = (server.fleet().await, server.url());
    put_manifests(&js).await.unwrap();
    let mut objects = Vec::new();
    for round in 1..=3 {
        for pc in ["PC-1", "PC-2"] {
            let id = format!("d-{pc}-{round}");
            let run = Run::new(&id, pc, DISKS, disks(round, 1.5 * round as f64));
            match (pc, round) {
                ("PC-1", 2) => objects.push(run.send_pointer(&js).await),
                _ => run.send(&js).await,
            }
        }
    }
    let early = Run::new("s-1", "PC-1", "inventory-software", apps(&[("Git", "2.1")]));
    objects.push(early.send_pointer(&js).await);
    let (_folder, db) = place();
    catch_up(&db, &url);
    let said = assert_proved(&db, &url);
    assert_eq!(
        said["not_compared"],
        json!({"outputs pending": 2, "waiting": 2}),
        "{said:#}"
    );
    assert_replay_changes_nothing(&db, &url, &[]);

    for object in &objects {
        put_object(&js, object).await;
    }
    // Still counted: the service has not asked again.
    let said = assert_proved(&db, &url);
    assert_eq!(said["not_compared"]["outputs pending"], json!(2), "{said:#}");
    let replayed = asked(&db, &url, &["replay"], 0);
    assert_eq!(replayed["mended"]["execution_results"], json!(2), "{replayed:#}");
    let (_folder, anew) = place();
    catch_up(&anew, &url);
    assert_equal(&dump(&db), &dump(&anew), "as if they had been there");
    assert_eq!(
        one(
            &db,
            "SELECT count(*) FROM projector_outputs WHERE state <> 'fetched'"
        ),
        0
    );
    assert_eq!(one(&db, "SELECT count(*) FROM projector_waiting"), 0);
    let said = assert_proved(&db, &url);
    assert_eq!(said["not_compared"], json!({}), "{said:#}");
    assert_replay_changes_nothing(&db, &url, &[]);
    // The service goes on from there as from anywhere.
    Run::new("d-last", "PC-1", DISKS, disks(1, 9.5)).send(&js).await;
    catch_up(&db, &url);
    catch_up(&anew, &url);
    assert_equal(&dump(&db), &dump(&anew), "and goes on");
    assert_proved(&db, &url);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_is_replayed_without_touching_what_lies_before_it() {
    let server = NatsServer::start();
    let (js, url) = (server.fleet().await, server.url());
    put_manifests(&js).await.unwrap();
    let (_folder, db) = place();
    with_executions(
        &db,
        &BTreeSet::from(["e-early".to_owned(), "e-late".to_owned(), "e-both".to_owned()]),
    );
    plain(&js, "r1", "e-early", 0).await;
    plain(&js, "r2", "e-early", 3).await;
    plain(&js, "r3", "e-both", 0).await;
    // A run that has started, too.
    let started = json!({
        "exec_id": "e-early", "pc_id": "PC-1", "manifest_id": "plain", "version": "1.0", "result_id": "r0",
        "request_id": "q-r0", "started_at": "2026-06-01T00:00:00Z",
    });
    crate::derived::send(&js, "events.started.e-early.PC-1", &started).await;
    plain(&js, "r0", "e-early", 0).await;
    // The streams' times tell the two halves apart.
    tokio::time::sleep(Duration::from_millis(20)).await;
    let since = chrono::Utc::now().to_rfc3339();
    tokio::time::sleep(Duration::from_millis(20)).await;
    plain(&js, "r1", "e-early", 7).await;
    plain(&js, "r4", "e-late", 0).await;
    plain(&js, "r5", "e-late", 1).await;
    plain(&js, "r6", "e-both", 0).await;
    crate::derived::send(&js, "results.bad", &json!("nothing")).await;
    catch_up(&db, &url);
    let good = dump(&db);
    assert_proved(&db, &url);

    for args in [["--from-seq", "5"], ["--since", since.as_str()]] {
        assert_replay_changes_nothing(&db, &url, &args);
        tamper(
            &db,
            "UPDATE execution_results SET stdout = 'by hand' WHERE result_id IN ('r1', 'r2', 'r4');
             DELETE FROM execution_results WHERE result_id IN ('r0', 'r3', 'r5')",
        );
        let said = asked(&db, &url, &[&["replay"], &args[..]].concat(), 0);
        assert_eq!(said["from_seq"], json!(5), "{said:#}");
        assert_eq!(said["mended"]["execution_results"], json!(2), "{said:#}");
        for (id, text) in [
            ("r1", "by hand"),
            ("r2", "by hand"),
            ("r4", "of r4"),
            ("r5", "of r5"),
        ] {
            assert_eq!(stdout_of(&db, id), text, "{id} after {args:?}");
        }
        assert_eq!(
            one(
                &db,
                "SELECT count(*) FROM execution_results WHERE result_id IN ('r0', 'r3')"
            ),
            0
        );
        assert_replay_changes_nothing(&db, &url, &args);
        let said = asked(&db, &url, &["verify"], 1);
        assert_eq!(said["found"], json!(4), "{said:#}");
        asked(&db, &url, &["replay"], 0);
        assert_equal(&dump(&db), &good, "replayed whole");
    }

    // Executions whose results all lie in the part are counted, others keep their counters.
    tamper(
        &db,
        &format!(
            "UPDATE executions SET success_count = 40, failure_count = 2;
             UPDATE executions SET initiated_at = '{}' WHERE exec_id = 'e-late'",
            chrono::Utc::now()
                .checked_add_signed(chrono::TimeDelta::hours(2))
                .unwrap()
                .format("%Y-%m-%dT%H:%M:%S+00:00")
        ),
    );
    asked(&db, &url, &["replay", "--from-seq", "5"], 0);
    let counters = "SELECT exec_id, success_count, failure_count FROM executions ORDER BY 1";
    assert_eq!(rows(&db, counters), ["e-both 40 2", "e-early 40 2", "e-late 1 1"]);
    asked(&db, &url, &["replay"], 0);
    assert_eq!(rows(&db, counters), ["e-both 2 0", "e-early 2 1", "e-late 1 1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_needs_the_database_for_itself_and_leaves_what_was_given_up() {
    let server = NatsServer::start();
    let (js, url) = (server.fleet().await, server.url());
    put_manifests(&js).await.unwrap();
    let (_folder, db) = place();
    publish(
        &js,
        &plan(
            550,
            &Profile {
                results: 100,
                malformed: 6,
                ..Profile::default()
            },
        ),
    )
    .await
    .unwrap();
    catch_up(&db, &url);
    let letters = asked(&db, &url, &["dead-letters", "list"], 0);
    let letters = letters["dead_letters"].as_array().unwrap().clone();
    assert_eq!(letters.len(), 6, "{letters:?}");
    let seq = letters[0]["stream_seq"]
        .as_u64()
        .unwrap_or_else(|| letters[0]["seq"].as_u64().unwrap());
    let discarded = run(
        &db,
        &url,
        &["dead-letters", "discard", "--yes", "RESULTS", &seq.to_string()],
    );
    assert!(discarded.status.success(), "{}", text(&discarded));
    assert_replay_changes_nothing(&db, &url, &[]);
    assert_proved(&db, &url);
    asked(&db, &url, &["rebuild"], 0);
    assert_eq!(
        one(
            &db,
            "SELECT count(*) FROM projector_dead_letters WHERE state = 'discarded'"
        ),
        1
    );
    check_i3(&db);

    let service = Projector::start(&db, &url);
    plain(&js, "one-more", "e", 0).await;
    wait_until("it is at work", PATIENCE, || {
        one(
            &db,
            "SELECT count(*) FROM execution_results WHERE result_id = 'one-more'",
        ) == 1
    });
    let refused = run(&db, &url, &["replay"]);
    let pid = service.pid().to_string();
    assert!(text(&refused).contains(&pid), "{}", text(&refused));
    assert_eq!(run(&db, &url, &["rebuild"]).status.code(), Some(2));
    assert!(service.terminate().success());
    assert_replay_changes_nothing(&db, &url, &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_a_busy_backend_always_overtakes_gives_up_and_has_changed_nothing() {
    let server = NatsServer::start();
    let (js, url) = (server.fleet().await, server.url());
    put_manifests(&js).await.unwrap();
    let (_folder, db) = place();
    let profile = Profile {
        results: 200,
        ..Profile::default()
    };
    publish(&js, &plan(551, &profile)).await.unwrap();
    catch_up(&db, &url);
    let good = dump(&db);
    assert!(tamper(&db, "UPDATE execution_results SET exit_code = 99") > 0);
    tamper(&db, "CREATE TABLE beats (id INTEGER PRIMARY KEY, beat INTEGER)");
    let (changed, stopped) = (dump(&db), std::sync::atomic::AtomicBool::new(false));
    let refused = std::thread::scope(|scope| {
        scope.spawn(|| {
            let backend = rusqlite::Connection::open(&db).unwrap();
            backend.busy_timeout(Duration::from_secs(30)).unwrap();
            while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
                backend
                    .execute("INSERT OR REPLACE INTO beats VALUES (1, random())", [])
                    .unwrap();
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let refused = run(&db, &url, &["replay"]);
        stopped.store(true, std::sync::atomic::Ordering::Relaxed);
        refused
    });
    assert_eq!(refused.status.code(), Some(3), "{}", text(&refused));
    assert!(text(&refused).contains("stop that process"), "{}", text(&refused));
    tamper(&db, "DELETE FROM beats");
    assert_equal(&dump(&db), &changed, "given up");
    tamper(&db, "DROP TABLE beats");
    asked(&db, &url, &["replay"], 0);
    assert_equal(&dump(&db), &good, "once it is quiet");
}
