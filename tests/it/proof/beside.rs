//! `verify` beside others: the running service, a backend and its cleanup, streams that live another life.

use std::time::Duration;

use async_nats::jetstream;
use chrono::TimeDelta;

use super::*;
use crate::derived::DISKS;
use crate::harness::backend::{self, BackendFile, Ledgers};
use crate::harness::fleet::create_output_store;
use crate::harness::nats::BYTES_MAX;

/// Consumers that a verify, a replay or a rebuild has left behind.
async fn left_over(js: &jetstream::Context) -> Vec<String> {
    let mut left = Vec::new();
    for stream in ["RESULTS", "EVENTS", "INVENTORY", "OBJ_result_output", "KV_jobs"] {
        let Ok(stream) = js.get_stream(stream).await else {
            continue;
        };
        let mut names = stream.consumer_names();
        while let Some(Ok(name)) = futures_util::StreamExt::next(&mut names).await {
            if ["verify", "replay", "rebuild"]
                .iter()
                .any(|purpose| name.contains(purpose))
            {
                left.push(name);
            }
        }
    }
    left
}

fn results(planned: &[Planned]) -> u64 {
    planned
        .iter()
        .filter(|planned| planned.stream() == "RESULTS")
        .count() as u64
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn verify_proves_a_database_at_work_again_and_again() {
    let server = NatsServer::start();
    let (js, url) = (server.fleet().await, server.url());
    put_manifests(&js).await.unwrap();
    let profile = Profile {
        missing: 1,
        missing_scans: 0,
        overflow_permille: 20,
        overflow_bytes: (2_000, 20_000),
        ..Profile::everything(scale(4_000, 40_000))
    };
    let planned = plan(560, &profile);
    let (folder, db) = place();
    with_executions(&db, &exec_ids(&planned));
    let env = [("RESULTS_PROJECTOR_STORE_WAL_LIMIT", "8 MiB")];
    let service = Projector::start_with(&db, &url, &["run"], &env);
    let publishing = tokio::spawn({
        let (js, planned) = (js.clone(), planned.clone());
        async move {
            for part in planned.chunks(60) {
                publish(&js, part).await.unwrap();
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    });
    wait_until("it has begun", PATIENCE, || position(&db) > 100);
    let mut positions = Vec::new();
    while positions.len() < 3 || (!publishing.is_finished() && positions.len() < 8) {
        let said = assert_proved(&db, &url);
        positions.push(said["streams"]["RESULTS"]["position"].as_u64().unwrap());
    }
    assert!(
        positions[1] > positions[0],
        "it was at work meanwhile: {positions:?}"
    );
    publishing.await.unwrap();
    wait_until("all is projected", PATIENCE, || {
        position(&db) == results(&planned)
    });
    let said = assert_proved(&db, &url);
    assert_eq!(said["streams"]["RESULTS"]["position"], json!(results(&planned)));
    assert_eq!(left_over(&js).await, Vec::<String>::new());
    let beside: Vec<String> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("verify"))
        .collect();
    assert_eq!(beside, Vec::<String>::new());

    // Nobody reads an old state any more: what is written next brings the log back to its limit.
    publish(
        &js,
        &plan(
            561,
            &Profile {
                results: 300,
                ..Profile::default()
            },
        ),
    )
    .await
    .unwrap();
    let wal = folder.path().join("results.db-wal");
    wait_until("the log is within its limit", PATIENCE, || {
        std::fs::metadata(&wal).map_or(0, |wal| wal.len()) <= 8 << 20 && position(&db) > results(&planned)
    });

    // Without the store of outputs: what is missing is counted.
    js.delete_object_store("result_output").await.unwrap();
    let overflowed = plan(
        562,
        &Profile {
            results: 12,
            overflow_permille: 1_000,
            overflow_bytes: (2_000, 3_000),
            ..Profile::default()
        },
    );
    crate::harness::fleet::publish_messages(&js, &overflowed)
        .await
        .unwrap();
    let last = results(&planned) + 300 + results(&overflowed);
    wait_until("the rows are there", PATIENCE, || position(&db) == last);
    let said = assert_proved(&db, &url);
    assert!(
        said["not_compared"]["outputs pending"].as_u64() >= Some(12),
        "{said:#}"
    );
    assert!(said["vouched"]["outputs"].as_u64() > Some(0), "{said:#}");
    create_output_store(&js, Some(BYTES_MAX)).await.unwrap();
    assert!(service.terminate().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_is_put_back_under_a_running_fleet_catches_up_and_is_proved() {
    let server = NatsServer::start();
    let (js, url) = (server.fleet().await, server.url());
    put_manifests(&js).await.unwrap();
    let planned = plan(
        563,
        &Profile {
            missing: 0,
            missing_scans: 0,
            ..Profile::everything(400)
        },
    );
    let (folder, db) = place();
    with_executions(&db, &exec_ids(&planned));
    publish(&js, &planned[..planned.len() / 3]).await.unwrap();
    catch_up(&db, &url);
    let backup = folder.path().join("backup.db");
    asked(&db, &url, &["backup", backup.to_str().unwrap()], 0);
    publish(&js, &planned[planned.len() / 3..planned.len() * 2 / 3])
        .await
        .unwrap();
    catch_up(&db, &url);
    for suffix in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(folder.path().join(format!("results.db{suffix}")));
    }
    std::fs::rename(&backup, &db).unwrap();
    let behind = assert_proved(&db, &url);
    let service = Projector::start(&db, &url);
    publish(&js, &planned[planned.len() * 2 / 3..]).await.unwrap();
    wait_until("it has caught up", PATIENCE, || {
        position(&db) == results(&planned)
    });
    let said = assert_proved(&db, &url);
    assert_ne!(said["streams"], behind["streams"]);
    assert!(service.terminate().success());
    let (_folder, anew) = place();
    with_executions(&anew, &exec_ids(&planned));
    catch_up(&anew, &url);
    assert_equal(&dump(&db), &dump(&anew), "caught up");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_another_life_is_told_and_good_once_the_service_has_met_it() {
    let mut server = NatsServer::start();
    let (js, url) = (server.fleet().await, server.url());
    put_manifests(&js).await.unwrap();
    let some = |seed, results| {
        plan(
            seed,
            &Profile {
                missing: 0,
                missing_scans: 0,
                ..Profile::everything(results)
            },
        )
    };
    let (first, second, third) = (some(564, 200), some(565, 150), some(566, 150));
    let (folder, db) = place();
    publish(&js, &first).await.unwrap();
    catch_up(&db, &url);
    let older = folder.path().join("older");
    server.stop();
    server.copy_store(&older);
    server.start_again();
    publish(&server.jetstream().await, &second).await.unwrap();
    catch_up(&db, &url);
    assert_proved(&db, &url);

    // Restored from the older copy: its sequences are used again.
    server.stop();
    server.restore_store(&older);
    server.start_again();
    let js = server.jetstream().await;
    publish(&js, &third).await.unwrap();
    let said = asked(&db, &url, &["verify"], 1);
    let wrong = said["wrong"].as_array().unwrap();
    assert!(
        wrong.len() == 3
            && wrong.iter().all(|wrong| wrong
                .as_str()
                .unwrap()
                .contains("not as the database has read it")),
        "{said:#}"
    );
    assert_eq!(said["found"], json!(0), "{said:#}");
    catch_up(&db, &url);
    check_i3(&db);
    let said = assert_proved(&db, &url);
    assert_eq!(said["streams"]["RESULTS"]["incarnation"], json!(2), "{said:#}");
    assert!(
        said["tables"]["execution_results"]["vouched"].as_u64() > Some(0),
        "{said:#}"
    );
    assert_replay_changes_nothing(&db, &url, &[]);
    let now = dump(&db);
    asked(&db, &url, &["rebuild"], 0);
    assert_equal(&dump(&db), &now, "rebuilt from what is left");
    check_i3(&db);
    assert_proved(&db, &url);

    // Made anew.
    for stream in ["RESULTS", "EVENTS"] {
        js.delete_stream(stream).await.unwrap();
    }
    let js = server.fleet().await;
    let said = asked(&db, &url, &["verify"], 1);
    assert_eq!(said["wrong"].as_array().unwrap().len(), 2, "{said:#}");
    publish(&js, &some(567, 60)).await.unwrap();
    catch_up(&db, &url);
    check_i3(&db);
    assert_proved(&db, &url);
    assert_replay_changes_nothing(&db, &url, &[]);
    let now = dump(&db);
    asked(&db, &url, &["rebuild"], 0);
    assert_equal(&dump(&db), &now, "rebuilt from the new streams");
    assert_proved(&db, &url);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_backend_does_to_the_rows_is_recognised() {
    let server = NatsServer::start();
    let (js, url) = (server.fleet().await, server.url());
    put_manifests(&js).await.unwrap();
    let planned = plan(
        568,
        &Profile {
            missing: 0,
            missing_scans: 0,
            ..Profile::everything(300)
        },
    );
    let (_folder, db) = place();
    with_executions(&db, &exec_ids(&planned));
    publish(&js, &with_runs_in_flight(planned, 9)).await.unwrap();
    catch_up(&db, &url);
    assert!(backend::reap(&mut backend::connect(&db), "2027-06-09T00:00:00+00:00") > 0);
    let said = assert_proved(&db, &url);
    assert!(said["vouched"]["results"].as_u64() > Some(0), "{said:#}");
    let reaped = dump(&db);
    assert_replay_changes_nothing(&db, &url, &[]);
    asked(&db, &url, &["rebuild"], 0);
    assert_equal(&dump(&db), &reaped, "reaped rows are carried");
    assert_replay_changes_nothing(&db, &url, &[]);

    // A job is deleted; its exploded rows are left.
    let rows_gone = tamper(
        &db,
        &format!(
            "DELETE FROM inventory_facts WHERE job_id = '{DISKS}'; DELETE FROM inventory_history WHERE job_id = '{DISKS}'"
        ),
    );
    assert!(rows_gone > 5);
    let said = assert_proved(&db, &url);
    assert_eq!(said["not_compared"], json!({"jobs deleted": 1}), "{said:#}");
    assert_replay_changes_nothing(&db, &url, &[]);
    // Its manifest with it.
    js.get_key_value("jobs")
        .await
        .unwrap()
        .delete(DISKS)
        .await
        .unwrap();
    assert_proved(&db, &url);
    assert_replay_changes_nothing(&db, &url, &[]);

    // Cleanup takes what is older than ninety days: seen from a hundred days on.
    let later = Timestamp::from(chrono::Utc::now() + TimeDelta::days(100));
    let cleaned = tamper(
        &db,
        "DELETE FROM execution_results WHERE rowid % 3 = 0;
         DELETE FROM inventory_history WHERE id % 4 = 0;
         DELETE FROM executions WHERE rowid % 5 = 0",
    );
    let verified = verified_at(&db, &url, later).await;
    assert!(
        verified.is_good(),
        "{:#?} {:?}",
        verified.comparison.differences,
        verified.wrong
    );
    let cleaned_up: u64 = verified
        .comparison
        .counted
        .values()
        .map(|counted| counted.cleaned_up)
        .sum();
    assert!(
        cleaned_up > 100 && cleaned_up <= cleaned as u64,
        "{cleaned_up} of {cleaned}"
    );
    let verified = verified_at(&db, &url, now()).await;
    assert!(!verified.is_good(), "and a difference before that");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adopted_file_is_proved_and_mended_beside_the_backends_own_rows() {
    let server = NatsServer::start();
    let (js, url) = (server.fleet().await, server.url());
    put_manifests(&js).await.unwrap();
    let planned = plan(
        569,
        &Profile {
            missing: 0,
            missing_scans: 0,
            ..Profile::everything(300)
        },
    );
    for ledgers in [Ledgers::InOtherWords, Ledgers::Absent] {
        let (_folder, db) = place();
        BackendFile::with(ledgers).create(&db);
        // The backend's own projector has seen older results, which no stream holds any more.
        tamper(
            &db,
            "INSERT INTO execution_results (result_id, request_id, pc_id, exit_code, stdout, started_at, finished_at, job_id)
                 VALUES ('old-1', 'q', 'PC-0001', 0, 'text', '2026-01-01T00:00:00+00:00', '2026-01-01T00:00:01+00:00', 'j');
             INSERT INTO inventory_facts (pc_id, job_id, facts_json) VALUES ('PC-9', 'inventory-disks', '{\"disk_count\":1}');
             INSERT INTO inventory_history (pc_id, job_id, field_path, change_kind, after_json)
                 VALUES ('PC-9', 'inventory-disks', 'disk_count', 'added', '{\"value\":1}');
             INSERT INTO check_status (pc_id, check_name, status) VALUES ('PC-9', 'bitlocker', 'ok')",
        );
        let conn = backend::connect(&db);
        for exec_id in exec_ids(&planned) {
            backend::deploy(&conn, &exec_id, "j", 30);
        }
        if ledgers == Ledgers::InOtherWords {
            publish(&js, &planned).await.unwrap();
        }
        catch_up(&db, &url);
        let (live, others) = (dump(&db), backend::others_rows(&conn));
        let said = assert_proved(&db, &url);
        assert!(
            said["tables"]["execution_results"]["vouched"].as_u64() > Some(0),
            "{said:#}"
        );
        assert_replay_changes_nothing(&db, &url, &[]);

        let changed = tamper(
            &db,
            "UPDATE execution_results SET exit_code = 77 WHERE result_id IN (
                 SELECT result_id FROM projector_results WHERE counts ORDER BY entry LIMIT 4);
             DELETE FROM execution_results WHERE result_id IN (
                 SELECT result_id FROM projector_results WHERE counts AND exit_code = 0 ORDER BY entry LIMIT 3 OFFSET 20);
             UPDATE check_status SET status = 'unknown', detail = 'by hand'
                 WHERE rowid = (SELECT min(rowid) FROM check_status WHERE pc_id <> 'PC-9' AND status = 'ok')",
        );
        let said = asked(&db, &url, &["verify"], 1);
        assert_eq!(said["found"], json!(changed), "{ledgers:?}: {said:#}");
        asked(&db, &url, &["replay"], 0);
        assert_equal(&dump(&db), &live, &format!("{ledgers:?}, mended"));
        assert_eq!(backend::others_rows(&conn), others, "{ledgers:?}");
        assert_proved(&db, &url);
        assert_replay_changes_nothing(&db, &url, &[]);
    }
}
