//! Pairs whose first row retention has deleted, behind the server.

use results_projector::projection::manifests::Manifests;
use results_projector::store::retention::Retained;
use results_projector::wire::kv::StreamName;
use results_projector::wire::time::Timestamp;

use super::*;
use crate::stage::{Object, Sent, Stage};

/// Behind the server: five scans of one PC, the second and the third behind pointers, whose objects are `second` and
/// gone. Then the backend deletes the row of the first, as it does after ninety days.
fn without_its_first_row(db: &Path, second: Object) -> (Stage, [String; 2]) {
    let document = manifest(DISKS).to_string();
    let mut stage = Stage::open(db, Manifests::compile([(DISKS.to_owned(), document.into())]));
    let mut names = Vec::new();
    for seq in 1..=5 {
        let id = format!("r{seq}");
        let scan = Run::new(&id, "PC-1", DISKS, disks(seq, 1.5));
        let ((subject, message), (name, _)) = scan.pointing();
        let (subject, message) = match seq {
            2 | 3 => (subject, message),
            _ => scan.message(),
        };
        if seq == 2 {
            stage.objects.insert(name.clone(), second.clone());
        }
        names.push(name);
        stage.deliver(&Sent {
            stream: StreamName::Results,
            seq: seq as u64,
            subject,
            published: Timestamp::parse_wire(&format!("2026-06-01T00:01:0{seq}Z")).unwrap(),
            payload: Bytes::from(message.to_string()),
        });
    }
    stage.settle_down();
    let backend = Connection::open(db).unwrap();
    backend
        .execute("DELETE FROM execution_results WHERE result_id = 'r1'", [])
        .unwrap();
    (stage, [names.remove(1), names.remove(1)])
}

fn scanned(count: usize) -> Object {
    Object::Here(disks(count, 1.5).to_string().into())
}

/// Events as `disk_count` tells them: of which scan, and what came before.
fn counts(db: &Path) -> Vec<String> {
    rows(
        db,
        "SELECT strftime('%S', observed_at), before_json ->> 'value', after_json ->> 'value' FROM inventory_history
         WHERE field_path = 'disk_count' ORDER BY id",
    )
}

#[test]
fn a_pair_whose_first_row_is_deleted_keeps_its_events_up_to_the_oldest_scan_at_hand() {
    let (_folder, db) = place();
    let (mut stage, [second, third]) = without_its_first_row(&db, Object::Gone);
    assert_eq!(counts(&db), ["01 - 1", "04 1 4", "05 4 5"]);
    // Between two scans at hand its place is known.
    stage.objects.insert(third, scanned(3));
    stage.retry_all();
    assert_eq!(
        counts(&db),
        ["01 - 1", "04 3 4", "05 4 5"],
        "none is made anew for the oldest at hand"
    );
    stage.objects.insert(second, scanned(2));
    stage.retry_all();
    assert_eq!(counts(&db), ["01 - 1", "03 2 3", "04 3 4", "05 4 5"]);
    assert_eq!(one(&db, "SELECT count(*) FROM inventory_disks"), 5);
    assert_eq!(
        one(
            &db,
            "SELECT max(rowid) FROM inventory_facts WHERE facts_json LIKE '%\"disk_count\":5%'"
        ),
        1
    );
}

#[test]
fn a_due_pair_whose_oldest_scan_is_still_owed_is_derived_once_that_is_certain() {
    let (_folder, db) = place();
    let (mut stage, [second, third]) = without_its_first_row(&db, Object::Unreachable);
    assert_eq!(counts(&db), ["01 - 1"], "what is behind it waits");
    stage.objects.insert(third, scanned(3));
    stage.retry_all();
    assert_eq!(counts(&db), ["01 - 1"]);
    assert_eq!(
        one(
            &db,
            "SELECT count(*) FROM projector_derivations WHERE state = 'due'"
        ),
        1
    );
    stage.restart();
    stage.derive_due();
    assert_eq!(counts(&db), ["01 - 1"], "a restart makes nothing more certain");
    stage.objects.insert(second, scanned(2));
    stage.retry_all();
    assert_eq!(counts(&db), ["01 - 1", "03 2 3", "04 3 4", "05 4 5"]);
    assert_eq!(
        one(
            &db,
            "SELECT count(*) FROM projector_derivations WHERE state = 'settled'"
        ),
        1
    );
    assert_eq!(one(&db, "SELECT count(*) FROM projector_waiting"), 0);
}

/// A month and a day.
const MONTH: std::time::Duration = std::time::Duration::from_secs(31 * 86_400);

/// Results of PC-1, one a day from the first of June on; the third points to an output that is not there yet.
fn days(db: &Path, days: u32) -> Stage {
    let mut stage = Stage::open(db, Manifests::default());
    for day in 1..=days {
        let id = format!("r{day:02}");
        let run = Run::new(&id, "PC-1", "job", "printed");
        let (subject, message) = match day {
            3 => run.pointing().0,
            _ => run.message(),
        };
        if day == 3 {
            stage.objects.insert(run.pointing().1.0, Object::Unreachable);
        }
        stage.deliver(&Sent {
            stream: StreamName::Results,
            seq: u64::from(day),
            subject,
            published: Timestamp::parse_wire(&format!(
                "2026-0{}-{:02}T12:00:00Z",
                6 + (day - 1) / 30,
                (day - 1) % 30 + 1
            ))
            .unwrap(),
            payload: Bytes::from(message.to_string()),
        });
    }
    stage.settle_down();
    stage
}

#[test]
fn rows_go_by_the_age_that_the_server_gives_them_and_their_horizon_is_kept() {
    let (_folder, db) = place();
    let mut stage = days(&db, 60);
    stage.retention = vec![(Retained::Results, MONTH), (Retained::History, MONTH)];
    stage.restart();
    // The newest is of July the 30th by the server's clock; this machine's is years ahead of nothing.
    wait_until("the old ones are gone", PATIENCE, || {
        one(&db, "SELECT count(*) FROM execution_results") == 32 + 1
    });
    let oldest = "SELECT count(*) FROM execution_results WHERE recorded_at < '2026-06-29T12:00:00+00:00'";
    // But for the one whose output is still asked for.
    assert_eq!(one(&db, oldest), 1);
    assert_eq!(
        one(
            &db,
            "SELECT count(*) FROM execution_results WHERE result_id = 'r03'"
        ),
        1
    );
    assert_eq!(
        crate::harness::dump::text(
            &db,
            "SELECT value FROM projector_meta WHERE key = 'retention.execution_results'"
        ),
        "2026-06-29T12:00:00+00:00"
    );
    // What must outlive them: completions decide whether jobs run again, and every message stays accounted for.
    assert_eq!(
        one(&db, "SELECT count(*) FROM job_completions WHERE job_id = 'job'"),
        1
    );
    assert_eq!(one(&db, "SELECT count(*) FROM projector_results"), 60);
    check_i3(&db);
    // Once that output is there, its row is as old as it is.
    let name = crate::harness::dump::text(
        &db,
        "SELECT object FROM projector_outputs WHERE result_id = 'r03'",
    );
    stage.objects.insert(name, Object::Here("late".into()));
    stage.retry_all();
    stage.restart();
    wait_until("it is gone too", PATIENCE, || one(&db, oldest) == 0);
    assert_eq!(one(&db, "SELECT count(*) FROM projector_outputs"), 0);
}

#[test]
fn rows_that_a_pair_still_waits_to_derive_stay() {
    let (_folder, db) = place();
    let (mut stage, [second, third]) = without_its_first_row(&db, Object::Unreachable);
    // Months later, and that output has not come.
    stage.deliver(&Sent {
        stream: StreamName::Results,
        seq: 6,
        subject: "results.q-6".to_owned(),
        published: Timestamp::parse_wire("2026-09-01T00:00:00Z").unwrap(),
        payload: Bytes::from(Run::new("r6", "PC-2", "job", "printed").message().1.to_string()),
    });
    stage.settle_down();
    stage.retention = vec![(Retained::Results, MONTH)];
    stage.restart();
    wait_until("it has looked for old rows", PATIENCE, || {
        one(
            &db,
            "SELECT count(*) FROM projector_meta WHERE key = 'retention.execution_results'",
        ) == 1
    });
    assert_eq!(
        one(&db, "SELECT count(*) FROM execution_results WHERE pc_id = 'PC-1'"),
        4
    );
    stage.objects.insert(third, scanned(3));
    stage.objects.insert(second, scanned(2));
    stage.retry_all();
    assert_eq!(
        counts(&db),
        ["01 - 1", "02 1 2", "03 2 3", "04 3 4", "05 4 5"],
        "nothing of its history is lost"
    );
    stage.restart();
    wait_until("settled, they go", PATIENCE, || {
        one(&db, "SELECT count(*) FROM execution_results WHERE pc_id = 'PC-1'") == 0
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_deleted_for_its_age_is_no_difference_and_no_replay_brings_it_again() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    let (_folder, db) = place();
    let profile = Profile {
        results: 50,
        ..Profile::default()
    };
    publish(&js, &plan(950, &profile)).await.unwrap();
    catch_up(&db, &server.url());
    let conn = Connection::open(&db).unwrap();
    let gone = "DELETE FROM execution_results WHERE rowid <= 3";
    conn.execute(gone, []).unwrap();
    let verify = || run(&db, &server.url(), &["verify", "--json"]);
    assert_eq!(verify().status.code(), Some(1), "three rows are missing");
    // As the service records it.
    conn.execute(
        "INSERT INTO projector_meta VALUES ('retention.execution_results', '2999-01-01T00:00:00+00:00')",
        [],
    )
    .unwrap();
    let output = verify();
    assert!(output.status.success(), "{}", text(&output));
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(told.to_string().contains("\"cleaned_up\":3"), "{told}");
    let output = run(&db, &server.url(), &["replay"]);
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(one(&db, "SELECT count(*) FROM execution_results"), 47);
    let output = run(&db, &server.url(), &["status", "--json"]);
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        told["retention"]["execution_results"],
        "2999-01-01T00:00:00+00:00"
    );
}
