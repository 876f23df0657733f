//! Start events and snapshots, by hand.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn runs_in_flight_late_starts_other_subjects_and_snapshots_all_have_their_place() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    put_manifests(&js).await.unwrap();
    let start = |id: &str| {
        json!({
            "result_id": id, "request_id": format!("q-{id}"), "exec_id": "e1", "pc_id": "PC-1", "manifest_id": DISKS,
            "version": "1.4.1", "started_at": "2026-06-01T00:00:00Z",
        })
    };
    let (_folder, db) = place();
    with_executions(&db, &["e1".to_owned()].into());
    let projector = Projector::start(&db, &server.url());
    let row = |id: &str| {
        let sql = format!(
            "SELECT version, exit_code, finished_at IS NULL, expires_at IS NULL, stdout FROM execution_results WHERE result_id = '{id}'"
        );
        rows(&db, &sql)
    };
    let eventually = |what: &str, mut so: Box<dyn FnMut() -> bool + '_>| wait_until(what, PATIENCE, &mut so);

    // In flight, and its result later.
    send(&js, "events.started.e1.PC-1", &start("r1")).await;
    eventually("the run is in flight", Box::new(|| row("r1") == ["1.4.1 - 1 0 "]));
    assert_eq!(dump::text(&db, "SELECT status FROM executions"), "running");
    assert_eq!(one(&db, "SELECT count(*) FROM job_completions"), 0);
    let expires = "SELECT expires_at FROM execution_results";
    let recorded = "SELECT strftime('%s', expires_at) - strftime('%s', recorded_at) FROM execution_results";
    assert_eq!(one(&db, recorded), 90 + 120, "{}", dump::text(&db, expires));
    let versions = "SELECT count(*) FROM job_version_completions";
    let (subject, mut message) = Run::new("r1", "PC-1", DISKS, disks(1, 1.5)).message();
    message["exec_id"] = json!("e1");
    send(&js, &subject, &message).await;
    eventually(
        "the run has ended",
        Box::new(|| one(&db, "SELECT count(*) FROM inventory_facts") == 1),
    );
    assert!(row("r1")[0].starts_with("1.4.1 0 0 0 {"), "{:?}", row("r1"));
    assert_eq!(one(&db, versions), 1);

    // A result first: its start completes the version's ledger.
    let (subject, mut message) = Run::new("r2", "PC-2", DISKS, disks(1, 1.5)).message();
    message["exec_id"] = json!("e1");
    send(&js, &subject, &message).await;
    eventually("the row is there", Box::new(|| !row("r2").is_empty()));
    assert_eq!(
        (
            one(&db, "SELECT count(*) FROM job_completions"),
            one(&db, versions)
        ),
        (2, 1)
    );
    let mut late = start("r2");
    late["pc_id"] = json!("PC-2");
    send(&js, "events.started.e1.PC-2", &late).await;
    eventually(
        "the version's ledger is complete",
        Box::new(|| one(&db, versions) == 2),
    );
    assert_eq!(
        rows(&db, "SELECT success_count, failure_count, status FROM executions"),
        ["2 0 running"]
    );

    // Not ours, not readable, and one more in flight behind them.
    send(
        &js,
        "events.notifications.acked.PC-1",
        &json!({"notification": 1}),
    )
    .await;
    send(&js, "events.something.new", &json!(null)).await;
    send(&js, "events.started.e1.PC-1", &json!({"exec_id": "e1"})).await;
    send(&js, "events.started.e1.PC-1", &start("r3")).await;
    eventually("the last is in flight", Box::new(|| row("r3").len() == 1));
    let counts =
        "SELECT projected, dead, ignored, gap, position FROM projector_position WHERE stream = 'EVENTS'";
    assert_eq!(rows(&db, counts), ["3 1 2 0 6"]);

    // Snapshots, known and unknown, and a broken one.
    let hw = json!({
        "pc_id": "OLD-1", "hostname": "OLD-1", "os_name": "Windows 10", "os_version": "10.0", "cpu_model": "i5",
        "cpu_cores": 4, "ram_bytes": 1, "disks": [], "collected_at": "2026-06-01T00:00:00Z",
    });
    send(&js, "inventory.OLD-1.hw", &hw).await;
    send(&js, "inventory.OLD.2.sw", &json!({"any": 1})).await;
    send(&js, "inventory.OLD-3.net", &json!([1])).await;
    eventually(
        "the snapshots are read",
        Box::new(|| {
            rows(
                &db,
                "SELECT projected, dead, position FROM projector_position WHERE stream = 'INVENTORY'",
            ) == ["2 1 3"]
        }),
    );
    assert_eq!(
        rows(
            &db,
            "SELECT pc_id, job_id, collected_at FROM inventory_facts WHERE job_id LIKE 'inventory.%' ORDER BY 1"
        ),
        [
            "OLD-1 inventory.hw 2026-06-01T00:00:00+00:00",
            "OLD.2 inventory.sw -"
        ]
    );
    assert!(projector.terminate().success());
    check_i3(&db);
    assert_eq!(status(&db, &server.url())["dead_letters"], 2);
    let (_folder, undisturbed) = place();
    with_executions(&undisturbed, &["e1".to_owned()].into());
    catch_up(&undisturbed, &server.url());
    assert_same(&db, &undisturbed);
}
