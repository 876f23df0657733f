//! Pairs whose first row retention has deleted, behind the server.

use results_projector::projection::manifests::Manifests;
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
