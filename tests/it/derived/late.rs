//! Outputs that hints wait for, and outputs that come back after they were given up.

use std::time::Duration;

use super::*;
use crate::harness::fleet::{Dice, create_output_store, publish_messages, store_objects};
use crate::harness::nats::BYTES_MAX;
use crate::outputs::age_messages;
use crate::survives::assert_all_there;

#[tokio::test(flavor = "multi_thread")]
async fn scans_behind_a_missing_one_wait_and_are_derived_in_their_order_once_it_is_there() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    put_manifests(&js).await.unwrap();
    let profile = Profile {
        results: 100,
        pcs: 6,
        scans: 10,
        checks: 3,
        feeds: 4,
        overflow_permille: 400,
        overflow_bytes: (262_145, 262_400),
        ..Profile::default()
    };
    let planned = plan(64, &profile);
    let (first, second) = planned.split_at(planned.len() / 2);
    let (_folder, db) = place();
    let projector = Projector::start(&db, &server.url());
    publish(&js, first).await.unwrap();
    wait_until("the first half is projected", PATIENCE, || {
        position(&db) == first.len() as u64
    });
    let pairs = || {
        let status = status(&db, &server.url());
        (
            status["pairs"]["waiting"].as_u64().unwrap(),
            status["pairs"]["due"].clone(),
        )
    };
    assert_eq!(pairs(), (0, json!(0)));

    js.delete_object_store("result_output").await.unwrap();
    publish_messages(&js, second).await.unwrap();
    wait_until("every row is there at once", PATIENCE, || {
        position(&db) == planned.len() as u64
    });
    assert_all_rows(&db, &planned);
    assert!(pairs().0 > 3, "scans wait");
    let newest_fact =
        "SELECT count(*) FROM inventory_facts AS fact WHERE job_id = 'inventory-software' AND recorded_at < (
        SELECT max(recorded_at) FROM execution_results AS row
        WHERE row.pc_id = fact.pc_id AND row.job_id = fact.job_id AND exit_code = 0)";
    assert!(one(&db, newest_fact) > 3, "facts wait");
    // Jobs whose outputs are all there do not.
    let other = newest_fact.replace("inventory-software", DISKS);
    assert!(
        one(&db, &other) <= 1,
        "only a scan that is no JSON is newer than its facts"
    );

    create_output_store(&js, Some(BYTES_MAX)).await.unwrap();
    store_objects(&js, &planned).await.unwrap();
    wait_until("nothing waits any more", PATIENCE * 2, || {
        one(
            &db,
            "SELECT count(*) FROM projector_outputs WHERE state <> 'fetched'",
        ) == 0
            && one(
                &db,
                "SELECT count(*) FROM projector_derivations WHERE state <> 'settled'",
            ) == 0
    });
    assert_eq!(pairs(), (0, json!(0)));
    assert!(projector.terminate().success());
    assert_all_there(&db, &planned);
    assert_undisturbed(&db, &server.url());
}

fn assert_all_rows(db: &Path, planned: &[Planned]) {
    let ids: BTreeSet<&str> = planned
        .iter()
        .filter_map(|planned| planned.result_id.as_deref())
        .collect();
    assert_eq!(
        one(db, "SELECT count(*) FROM execution_results"),
        ids.len() as i64
    );
}

/// Outputs that were given up come back: results before, between and after them are derived already.
#[tokio::test(flavor = "multi_thread")]
async fn what_comes_back_after_it_was_given_up_is_derived_in_its_place() {
    let mut server = NatsServer::start();
    let js = server.fleet().await;
    put_manifests(&js).await.unwrap();
    let mut back = Vec::new();
    // In the middle, first, last, and twice in a row.
    Run::new("a1", "PC-1", DISKS, disks(2, 1.5)).send(&js).await;
    back.push(
        Run::new("a2", "PC-1", DISKS, disks(3, 2.5))
            .send_pointer(&js)
            .await,
    );
    Run::new("a3", "PC-1", DISKS, disks(1, 2.5)).send(&js).await;
    back.push(
        Run::new("b1", "PC-2", SOFTWARE, apps(&[("Git", "1"), ("Zoom", "1")]))
            .send_pointer(&js)
            .await,
    );
    Run::new("b2", "PC-2", SOFTWARE, apps(&[("Git", "2"), ("Git", "3")]))
        .send(&js)
        .await;
    back.push(
        Run::new("c1", "PC-3", DISKS, disks(1, 0.5))
            .send_pointer(&js)
            .await,
    );
    back.push(
        Run::new("c2", "PC-3", DISKS, disks(2, 0.5))
            .send_pointer(&js)
            .await,
    );
    // A check's stdout, and the stderr of one that failed.
    let verdict = |state: &str| json!({"state": state, "message": "as found"});
    Run::new("k1", "PC-1", DEFENDER, verdict("ok")).send(&js).await;
    back.push(
        Run::new("k2", "PC-1", DEFENDER, verdict("fail"))
            .send_pointer(&js)
            .await,
    );
    Run::new("k3", "PC-2", DEFENDER, verdict("ok")).send(&js).await;
    let failed = Run::new("k4", "PC-2", DEFENDER, "").failed(3, "no such service");
    back.push(failed.send_pointer(&js).await);
    // A feed whose newest run is there: it names an element without its key.
    let list = |cves: Value| json!({"vulnerabilities": cves, "products": []});
    back.push(
        Run::new("f1", "PC-1", KEV, list(json!([{"cve": "CVE-1"}])))
            .send_pointer(&js)
            .await,
    );
    Run::new(
        "f2",
        "PC-1",
        KEV,
        list(json!([{"cve": "CVE-2"}, {"vendor": "none"}])),
    )
    .send(&js)
    .await;
    server.stop();
    age_messages(&server, Duration::from_secs(600));
    server.start_again();

    let (_folder, db) = place();
    catch_up(&db, &server.url());
    let gone = "SELECT count(*) FROM projector_outputs WHERE state = 'gone'";
    assert_eq!(one(&db, gone), back.len() as i64);
    assert_eq!(
        status(&db, &server.url())["pairs"]["waiting"],
        0,
        "what is gone releases the wait"
    );
    assert_eq!(
        rows(
            &db,
            "SELECT pc_id, status, detail FROM check_status ORDER BY pc_id"
        ),
        ["PC-1 ok as found", "PC-2 unknown check script exited 3"]
    );
    assert_eq!(
        one(&db, "SELECT count(*) FROM inventory_facts WHERE pc_id = 'PC-3'"),
        0
    );

    for object in &back {
        put_object(&js, object).await;
    }
    // Not to wait for an hour.
    Connection::open(&db)
        .unwrap()
        .execute("UPDATE projector_outputs SET next_try_wall = since_wall", [])
        .unwrap();
    let projector = Projector::start(&db, &server.url());
    wait_until("all are back", PATIENCE, || one(&db, gone) == 0);
    projector.kill();
    // Killed before a pair was derived, at the latest: what is due is in the database.
    let as_if_killed_before = || {
        let by_hand = Connection::open(&db).unwrap();
        for sql in [
            "UPDATE projector_derivations SET state = 'due' WHERE job_id LIKE 'inventory-%'",
            "DELETE FROM inventory_facts",
            "DELETE FROM inventory_history",
        ] {
            by_hand.execute(sql, []).unwrap();
        }
    };
    as_if_killed_before();
    catch_up(&db, &server.url());
    assert_undisturbed(&db, &server.url());
    as_if_killed_before();
    // A newer scan is under way, and not there yet.
    let fresh = Run::new("a4", "PC-1", DISKS, disks(2, 3.5))
        .send_pointer(&js)
        .await;
    Run::new("a5", "PC-1", DISKS, disks(3, 3.5)).send(&js).await;
    catch_up(&db, &server.url());
    assert_eq!(
        status(&db, &server.url())["pairs"],
        json!({"waiting": 1, "due": 0, "older_hints": 0})
    );
    assert_eq!(
        history(&db, "PC-1"),
        [
            r#"disk_count added {"value":2}"#,
            r#"disks added {"device":"D0:"}"#,
            r#"disks added {"device":"D1:"}"#,
            r#"disk_count changed {"value":3}"#,
            r#"disks changed {"device":"D0:"}"#,
            r#"disks changed {"device":"D1:"}"#,
            r#"disks added {"device":"D2:"}"#,
            r#"disk_count changed {"value":1}"#,
            r#"disks removed {"device":"D1:"}"#,
            r#"disks removed {"device":"D2:"}"#,
        ]
    );
    assert_eq!(
        rows(
            &db,
            "SELECT pc_id, status, detail FROM check_status ORDER BY pc_id"
        ),
        [
            "PC-1 fail as found",
            "PC-2 unknown check script exited 3: no such service"
        ]
    );
    put_object(&js, &fresh).await;
    catch_up(&db, &server.url());
    assert_undisturbed(&db, &server.url());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_stops_while_pairs_wait_loses_nothing() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    put_manifests(&js).await.unwrap();
    js.delete_object_store("result_output").await.unwrap();
    let (_folder, db) = place();
    // More behind one missing scan than one transaction applies, and two more missing ones among them.
    let mut back = Vec::new();
    let mut sent = 0;
    let projected = |db: &Path, sent: u64| wait_until("it is projected", PATIENCE, || position(db) == sent);
    for (part, ends) in [(0, "terminate"), (1, "kill"), (2, "terminate")] {
        let projector = Projector::start(&db, &server.url());
        for number in 0..60_usize {
            let id = format!("r{part}-{number}");
            let scan = Run::new(&id, "PC-1", DISKS, disks(1 + (part + number) % 4, 1.5));
            if number == 1 {
                back.push(scan.send_pointer(&js).await);
            } else {
                scan.send(&js).await;
            }
            sent += 1;
        }
        projected(&db, sent);
        match ends {
            "kill" => projector.kill(),
            _ => assert!(projector.terminate().success()),
        }
        let status = status(&db, &server.url());
        assert_eq!(status["pairs"]["waiting"], 1);
        assert_eq!(
            one(&db, "SELECT count(*) FROM projector_waiting") as u64,
            sent - 1
        );
    }
    // A start without the manifest, which comes back before the outputs do.
    let jobs = js.get_key_value("jobs").await.unwrap();
    jobs.delete(DISKS).await.unwrap();
    catch_up(&db, &server.url());
    assert_eq!(
        one(&db, "SELECT count(*) FROM projector_waiting") as u64,
        sent - 1
    );
    put_manifest(&js, DISKS, &manifest(DISKS)).await;
    create_output_store(&js, Some(BYTES_MAX)).await.unwrap();
    // The second and the third first: they do not release what waits for the first.
    for object in &back[1..] {
        put_object(&js, object).await;
    }
    catch_up(&db, &server.url());
    assert_eq!(
        one(&db, "SELECT count(*) FROM projector_waiting") as u64,
        sent - 1
    );
    put_object(&js, &back[0]).await;
    // Killed while it applies what waited, at whatever point.
    for pause in [150, 250, 350] {
        let projector = Projector::start(&db, &server.url());
        std::thread::sleep(Duration::from_millis(pause));
        projector.kill();
    }
    catch_up(&db, &server.url());
    assert_eq!(
        one(
            &db,
            "SELECT count(*) FROM projector_derivations WHERE state <> 'settled'"
        ),
        0
    );
    assert_eq!(one(&db, "SELECT count(*) FROM projector_waiting"), 0);
    assert_undisturbed(&db, &server.url());
}

#[tokio::test(flavor = "multi_thread")]
async fn outages_of_the_store_and_kills_at_random_change_nothing_in_the_end() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    put_manifests(&js).await.unwrap();
    let profile = Profile {
        results: scale(150, 1_500),
        pcs: 4,
        scans: scale(16, 60),
        checks: 4,
        feeds: 6,
        started_permille: 900,
        duplicate_permille: 30,
        overflow_permille: 250,
        overflow_bytes: (262_145, 262_400),
        ..Profile::default()
    };
    let planned = plan(65, &profile);
    let mut dice = Dice::new(65);
    let (_folder, db) = place();
    let (mut sent, mut is_there) = (0, true);
    for part in planned.chunks(planned.len() / 10 + 1) {
        let projector = Projector::start(&db, &server.url());
        sent += part.len();
        publish_messages(&js, part).await.unwrap();
        if dice.below(2) == 0 {
            if is_there {
                js.delete_object_store("result_output").await.unwrap();
            } else {
                create_output_store(&js, Some(BYTES_MAX)).await.unwrap();
            }
            is_there = !is_there;
        }
        // Some of what was sent so far, old and new.
        let some: Vec<Planned> = planned[..sent]
            .iter()
            .filter(|_| is_there && dice.below(3) > 0)
            .cloned()
            .collect();
        store_objects(&js, &some).await.unwrap();
        std::thread::sleep(Duration::from_millis(dice.below(600)));
        match dice.below(3) {
            0 => assert!(projector.terminate().success()),
            _ => projector.kill(),
        }
    }
    if !is_there {
        create_output_store(&js, Some(BYTES_MAX)).await.unwrap();
    }
    store_objects(&js, &planned).await.unwrap();
    catch_up(&db, &server.url());
    for (table, what) in [
        ("projector_outputs WHERE state <> 'fetched'", "an output is owed"),
        (
            "projector_derivations WHERE state <> 'settled'",
            "a pair is not settled",
        ),
        ("projector_waiting", "a result waits"),
    ] {
        assert_eq!(one(&db, &format!("SELECT count(*) FROM {table}")), 0, "{what}");
    }
    assert_all_there(&db, &planned);
    assert_undisturbed(&db, &server.url());
}
