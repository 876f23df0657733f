//! What becomes of messages that meet each other in an order that no vector tells: the writer and its file, without a server.

use std::path::Path;

use results_projector::projection::manifests::Manifests;
use results_projector::wire::kv::StreamName;
use results_projector::wire::time::Timestamp;

use crate::harness::projector::place;
use crate::harness::*;
use crate::stage::{Object, Sent, Stage};

/// A result as the stream holds it, its own sequence told by its output.
pub fn sent(seq: u64, result_id: &str) -> Sent {
    Sent {
        stream: StreamName::Results,
        seq,
        subject: format!("results.q-{seq}"),
        published: Timestamp::from_unix_nanos(1_780_272_000_000_000_000 + i64::try_from(seq).unwrap()),
        payload: format!(
            r#"{{"result_id":"{result_id}","request_id":"q-{seq}","pc_id":"PC-1","exit_code":0,"stdout":"{seq}",
                "stderr":"","started_at":"2026-06-01T00:00:00Z","finished_at":"2026-06-01T00:00:01Z"}}"#
        )
        .into(),
    }
}

#[test]
fn a_row_of_an_older_life_of_the_stream_is_not_taken_over_by_a_dead_letter_of_a_newer_one() {
    let (_folder, db) = place();
    let mut stage = Stage::open(&db, Manifests::default());
    stage.deliver(&sent(1, "other"));
    stage.deliver(&sent(2, "r"));
    // The sequences begin anew: 1 comes before 2, and yet this one came later.
    stage.fails = true;
    stage.deliver(&sent(1, "r"));
    stage.fails = false;
    let letters = stage.letters();
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].incarnation, 2);
    stage.retry_letter(letters[0]);
    stage.settle_down();
    let stdout = "SELECT stdout FROM execution_results WHERE result_id = 'r'";
    assert_eq!(dump::text(&db, stdout), "2");
    assert!(stage.letters().is_empty());
    check_i3(&db);
}

#[test]
fn a_duplicate_is_not_derived_from_when_its_pair_is_derived_anew() {
    let scan = |seq: u64, result_id: &str, stdout: &str, pointer: &str| {
        Sent {
        payload: format!(
            r#"{{"result_id":"{result_id}","request_id":"q","pc_id":"PC-1","exit_code":0,"stdout":"{stdout}","stderr":"",
                "started_at":"2026-06-01T00:00:00Z","finished_at":"2026-06-01T00:00:01Z","manifest_id":"inv"{pointer}}}"#
        )
        .into(),
        ..sent(seq, result_id)
    }
    };
    let object = "q/PC-1/stdout";
    let facts = |db: &Path| {
        dump::text(
            db,
            "SELECT facts_json || ' ' || recorded_at || ' ' || (SELECT group_concat(observed_at) FROM inventory_history)
             FROM inventory_facts",
        )
    };
    // Once with the output of the first in time, once with it back after it had been given up.
    let mut told = Vec::new();
    for given_up in [false, true] {
        let (_folder, db) = place();
        let mut stage = Stage::open(&db, crate::properties::manifests());
        let there = Object::Here(r#"{"ram":1}"#.into());
        stage.objects.insert(
            object.to_owned(),
            if given_up { Object::Gone } else { there.clone() },
        );
        stage.deliver(&scan(1, "r-1", "", r#","stdout_object":"q/PC-1/stdout""#));
        stage.deliver(&scan(2, "r-2", r#"{\"ram\":2}"#, ""));
        stage.deliver(&scan(3, "r-2", r#"{\"ram\":2}"#, ""));
        stage.settle_down();
        stage.objects.insert(object.to_owned(), there);
        stage.retry_all();
        stage.settle_down();
        told.push(facts(&db));
    }
    assert_eq!(told[0], told[1]);
    assert!(told[0].contains("000000002"), "of the first message: {}", told[0]);
}

#[test]
fn what_waited_for_its_output_takes_no_newer_ones_place_that_another_job_has_left() {
    let (_folder, db) = place();
    let document = r#"{"id":"j","version":"1","execute":{"shell":"sh","script":"x","timeout":"5m"},"check":{"name":"av"},
        "feed":[{"id":"kev","field":"v","primary_key":["k"]}]}"#;
    let mut stage = Stage::open(
        &db,
        Manifests::compile(["a", "b"].map(|id| (id.to_owned(), document.into()))),
    );
    let report = |seq: u64, job: &str, stdout: &str, pointer: &str| {
        Sent {
        payload: format!(
            r#"{{"result_id":"r-{seq}","request_id":"q","pc_id":"PC-1","exit_code":0,"skipped":false,"stdout":"{stdout}",
                "stderr":"","started_at":"2026-06-01T00:00:00Z","finished_at":"2026-06-01T00:00:01Z",
                "manifest_id":"{job}"{pointer}}}"#
        )
        .into(),
        ..sent(seq, "")
    }
    };
    let object = "q/PC-1/stdout";
    stage.objects.insert(object.to_owned(), Object::Unreachable);
    stage.deliver(&report(1, "a", "", r#","stdout_object":"q/PC-1/stdout""#));
    stage.deliver(&report(
        2,
        "b",
        r#"{\"status\":\"ok\",\"v\":[{\"k\":\"new\"}]}"#,
        "",
    ));
    stage.settle_down();
    let there = Object::Here(r#"{"status":"fail","v":[{"k":"old"}]}"#.into());
    stage.objects.insert(object.to_owned(), there);
    stage.retry_pending();
    stage.settle_down();
    let waits = "SELECT count(*) FROM projector_derivations WHERE state <> 'settled'";
    assert_eq!(one(&db, waits), 0);
    assert_eq!(
        one(
            &db,
            "SELECT count(*) FROM execution_results WHERE stdout LIKE '{%'"
        ),
        2
    );
    let told = "SELECT (SELECT status FROM check_status) || ' ' || (SELECT group_concat(item_id) FROM feeds)";
    assert_eq!(dump::text(&db, told), "ok new");
}

#[test]
fn of_two_start_events_of_one_run_the_first_in_the_stream_counts() {
    let (_folder, db) = place();
    let mut stage = Stage::open(&db, Manifests::default());
    let start = |seq: u64, version: &str, pc_id: &str| Sent {
        stream: StreamName::Events,
        subject: format!("events.started.e.{pc_id}"),
        payload: format!(
            r#"{{"result_id":"r","request_id":"q","exec_id":"e-{seq}","pc_id":"{pc_id}","manifest_id":"j",
                "version":"{version}","started_at":"2026-06-01T00:00:0{seq}Z"}}"#
        )
        .into(),
        ..sent(seq, "r")
    };
    let row = "SELECT exec_id || ' ' || pc_id || ' ' || version || ' ' || started_at || ' ' || recorded_at
        FROM execution_results";
    stage.deliver(&start(1, "1.0", "PC-1"));
    stage.settle_down();
    let first = dump::text(&db, row);
    assert!(
        first.starts_with("e-1 PC-1 1.0 2026-06-01T00:00:01+00:00"),
        "{first}"
    );
    stage.deliver(&start(2, "2.0", "PC-2"));
    stage.settle_down();
    assert_eq!(dump::text(&db, row), first);
    stage.deliver(&sent(1, "r"));
    stage.deliver(&Sent {
        seq: 3,
        ..start(2, "2.0", "PC-2")
    });
    stage.settle_down();
    assert_eq!(dump::text(&db, row), first);
}
