//! The bucket `jobs`: read whole, watched, missing, undecodable, changed.

use std::time::{Duration, Instant};

use async_nats::jetstream::kv;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn the_bucket_is_read_whole_before_the_first_result_is_projected() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    // The one that matters comes last of many.
    let jobs = js.get_key_value("jobs").await.unwrap();
    let filler =
        json!({"id": "x", "version": "1", "execute": {"timeout": "1s", "script": "#".repeat(20_000)}});
    for number in 0..200 {
        jobs.put(format!("job-{number}"), filler.to_string().into())
            .await
            .unwrap();
    }
    put_manifest(&js, DISKS, &manifest(DISKS)).await;
    for number in 1..=3 {
        let id = format!("r{number}");
        Run::new(&id, "PC-1", DISKS, disks(number, 1.5)).send(&js).await;
    }
    let (_folder, db) = place();
    let mut projector = Projector::start_with(&db, &server.url(), &["run", "--until-caught-up"], &[]);
    assert!(projector.wait_exit(PATIENCE).success());
    let events = history(&db, "PC-1");
    assert_eq!(
        (events.len(), events[0].as_str(), events[1].as_str()),
        (
            6,
            r#"disk_count added {"value":1}"#,
            r#"disks added {"device":"D0:"}"#
        ),
        "from the very first on: {events:#?}"
    );
    assert!(
        status(&db, &server.url())["issues"]
            .as_array()
            .unwrap()
            .is_empty()
    );
}

/// Sends scans, each of a PC of its own, until one of them is derived, or until one is not any more. When that is, only
/// the watch of the bucket knows.
async fn scans_until(js: &jetstream::Context, db: &Path, name: &str, derived: bool) {
    let started = Instant::now();
    for number in 1_u32.. {
        assert!(started.elapsed() < PATIENCE, "{name}: waited in vain");
        let id = format!("{name}-{number}");
        Run::new(&id, &id, DISKS, disks(2, 1.5)).send(js).await;
        let there = |table: &str, column: &str| {
            one(
                db,
                &format!("SELECT count(*) FROM {table} WHERE {column} = '{id}'"),
            ) > 0
        };
        wait_until("the scan has its row", PATIENCE, || {
            db.exists() && position(db) > 0 && there("execution_results", "result_id")
        });
        if there("inventory_facts", "pc_id") == derived {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_come_and_go_while_the_service_runs() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    js.delete_key_value("jobs").await.unwrap();
    let (_folder, db) = place();
    Run::new("early", "PC-1", DISKS, disks(1, 1.5)).send(&js).await;
    let projector = Projector::start(&db, &server.url());

    // No bucket: results are rows and nothing else, said once, however often it is looked for.
    wait_until("the row is there", PATIENCE, || position(&db) == 1);
    let look_again = Instant::now() + Duration::from_millis(2_500);
    wait_until("it was looked for again", PATIENCE, || {
        Instant::now() > look_again
    });
    assert_eq!(one(&db, "SELECT count(*) FROM inventory_facts"), 0);
    let warnings = projector
        .stderr()
        .matches("the bucket jobs does not exist")
        .count();
    assert_eq!(warnings, 1, "{}", projector.stderr());

    // A bucket that is made later, and a manifest in it.
    let bucket = kv::Config {
        bucket: "jobs".into(),
        history: 5,
        ..Default::default()
    };
    js.create_key_value(bucket).await.unwrap();
    put_manifest(&js, DISKS, &manifest(DISKS)).await;
    scans_until(&js, &db, "made", true).await;
    assert_eq!(
        one(&db, "SELECT count(*) FROM inventory_facts WHERE pc_id = 'PC-1'"),
        0,
        "what came before it stays as it was"
    );
    Run::new("first", "PC-1", DISKS, disks(2, 1.5)).send(&js).await;
    wait_until("it is derived", PATIENCE, || history(&db, "PC-1").len() == 3);

    // Deleted: what there is stays, and nothing is added.
    let jobs = js.get_key_value("jobs").await.unwrap();
    jobs.delete(DISKS).await.unwrap();
    scans_until(&js, &db, "deleted", false).await;
    let derived = "SELECT * FROM inventory_facts WHERE pc_id = 'PC-1'";
    let before = (rows(&db, derived), history(&db, "PC-1"));
    Run::new("second", "PC-1", DISKS, disks(3, 2.5)).send(&js).await;
    let last = js
        .get_stream("RESULTS")
        .await
        .unwrap()
        .cached_info()
        .state
        .last_sequence;
    wait_until("it is projected", PATIENCE, || position(&db) == last);
    assert_eq!((rows(&db, derived), history(&db, "PC-1")), before);
    assert_eq!(
        one(&db, "SELECT count(*) FROM inventory_disks WHERE pc_id = 'PC-1'"),
        2
    );

    // Put again: it goes on from what there is.
    put_manifest(&js, DISKS, &manifest(DISKS)).await;
    scans_until(&js, &db, "again", true).await;
    Run::new("third", "PC-1", DISKS, disks(3, 1.5)).send(&js).await;
    wait_until("it is derived", PATIENCE, || history(&db, "PC-1").len() == 5);
    assert_eq!(
        history(&db, "PC-1")[3..],
        [
            r#"disk_count changed {"value":3}"#,
            r#"disks added {"device":"D2:"}"#
        ]
    );

    // Purged behind the watch's back: its last sequence stays what it was.
    let stream = js.get_stream("KV_jobs").await.unwrap();
    stream.purge().await.unwrap();
    scans_until(&js, &db, "purged", false).await;

    // The bucket is gone again: that is said again.
    js.delete_key_value("jobs").await.unwrap();
    wait_until("it is said once more", PATIENCE, || {
        projector
            .stderr()
            .matches("the bucket jobs does not exist")
            .count()
            == 2
    });
    assert!(projector.terminate().success());
    check_i3(&db);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undecodable_manifest_is_an_issue_of_its_results_until_it_is_mended() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    put_manifest(&js, DISKS, &json!({"id": DISKS, "inventory": {"display": 7}})).await;
    Run::new("r1", "PC-1", DISKS, disks(1, 1.5)).send(&js).await;
    let (_folder, db) = place();
    catch_up(&db, &server.url());
    let found = status(&db, &server.url());
    let issue = &found["issues"][0];
    assert_eq!(
        (&issue["job_id"], &issue["pc_id"], &issue["part"], &issue["code"]),
        (
            &json!(DISKS),
            &json!("PC-1"),
            &json!("manifest"),
            &json!("manifest_undecodable")
        )
    );
    assert_eq!(found["dead_letters"], 0, "the result itself is a good one");
    assert_eq!(one(&db, "SELECT count(*) FROM execution_results"), 1);
    assert_eq!(one(&db, "SELECT count(*) FROM inventory_facts"), 0);
    let shown = run(&db, &server.url(), &["status"]);
    assert!(text(&shown).contains("manifest_undecodable"), "{}", text(&shown));

    put_manifest(&js, DISKS, &manifest(DISKS)).await;
    Run::new("r2", "PC-1", DISKS, disks(2, 1.5)).send(&js).await;
    catch_up(&db, &server.url());
    assert_eq!(status(&db, &server.url())["issues"], json!([]));
    assert_eq!(
        history(&db, "PC-1").len(),
        3,
        "the first that could be derived begins"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_hints_rewrite_nothing_by_themselves_and_are_counted() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    put_manifests(&js).await.unwrap();
    for pc in 1..=3 {
        let (id, pc_id) = (format!("d{pc}"), format!("PC-{pc}"));
        Run::new(&id, &pc_id, DISKS, disks(pc, 1.5)).send(&js).await;
    }
    Run::new("s1", "PC-1", SOFTWARE, apps(&[("Git", "2.1")]))
        .send(&js)
        .await;
    let (_folder, db) = place();
    catch_up(&db, &server.url());
    let older_hints = || status(&db, &server.url())["pairs"]["older_hints"].clone();
    assert_eq!(older_hints(), 0);
    let before = dump(&db);

    // Another version of the same hints are no other hints.
    let mut changed = manifest(DISKS);
    changed["version"] = json!("9.9.9");
    put_manifest(&js, DISKS, &changed).await;
    assert_eq!(older_hints(), 0);

    let columns = changed["inventory"]["explode"][0]["columns"]
        .as_array_mut()
        .unwrap();
    columns.push(json!({"field": "temperature", "type": "integer"}));
    put_manifest(&js, DISKS, &changed).await;
    assert_eq!(older_hints(), 3);
    let shown = run(&db, &server.url(), &["status"]);
    assert!(text(&shown).contains("3 under older hints"), "{}", text(&shown));
    catch_up(&db, &server.url());
    assert_eq!(dump(&db), before, "nothing was rewritten");
    assert_eq!(older_hints(), 3);

    // A new result is derived under the new hints; what is older in its pair is not, so the pair still counts.
    Run::new("d4", "PC-2", DISKS, disks(2, 2.5)).send(&js).await;
    catch_up(&db, &server.url());
    assert_eq!(older_hints(), 3);
    assert_eq!(
        rows(
            &db,
            "SELECT pc_id, device, free_gb, temperature FROM inventory_disks ORDER BY 1, 2"
        ),
        [
            "PC-1 D0: 1.5 -",
            "PC-2 D0: 2.5 -",
            "PC-2 D1: 2.5 -",
            "PC-3 D0: 1.5 -",
            "PC-3 D1: 1.5 -",
            "PC-3 D2: 1.5 -"
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn when_a_manifest_was_changed_is_told_by_the_servers_clock() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    put_manifest(&js, DISKS, &manifest(DISKS)).await;
    let flags = results_projector::cli::GlobalArgs {
        nats_url: Some(server.url()),
        ..Default::default()
    };
    let config = results_projector::config::Config::load(&flags, &|_| None).unwrap();
    let connection = results_projector::source::connect::once(&config.nats)
        .await
        .unwrap();
    let asked = connection.js();
    let changed = async || {
        let documents = results_projector::source::manifests::snapshot(&asked)
            .await
            .unwrap();
        let manifests =
            results_projector::projection::manifests::Manifests::of_bucket(documents.unwrap_or_default());
        manifests.job(DISKS).unwrap().changed.unwrap()
    };
    let first = changed().await;
    let jobs = js.get_key_value("jobs").await.unwrap();
    let created = jobs.entry(DISKS).await.unwrap().unwrap().created;
    assert_eq!(first, created.into());
    assert_eq!(changed().await, first);
    put_manifest(&js, DISKS, &manifest(DISKS)).await;
    assert!(changed().await > first);
}
