//! Two recorded fleets, and what the incumbent made of them (tests/recorded): our tables are its tables. Where a
//! deliberate difference (contract §8) could show and why none does is in tests/recorded/DIFFERENCES.md; what that
//! rests on is looked at here as well.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use results_projector::store::{Owner, Store, StoreOptions};
use rusqlite::Connection;
use serde_json::Value;

use crate::harness::projector::{catch_up, place, run, text};
use crate::harness::*;

fn recorded(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/recorded")
        .join(file)
}

fn python(arguments: &[&Path]) -> Output {
    Command::new("python3").args(arguments).output().unwrap()
}

/// A server that holds a recording as it was published.
fn server_of(name: &str) -> NatsServer {
    NatsServer::start_on(|folder| {
        let archive = recorded(&format!("{name}.store.tar.xz"));
        let [module, tarfile, extract] = ["-m", "tarfile", "-e"].map(Path::new);
        let unpacked = python(&[module, tarfile, extract, &archive, folder]);
        assert!(unpacked.status.success(), "{}", text(&unpacked));
    })
}

/// A database with the recording's rows of `executions` and nothing else.
fn begin(db: &Path, name: &str) {
    let me = Owner {
        pid: std::process::id(),
        ..Owner::default()
    };
    Store::open(db, &StoreOptions::default(), &me).unwrap().close();
    let executions = std::fs::read_to_string(recorded(&format!("{name}.executions.sql"))).unwrap();
    Connection::open(db).unwrap().execute_batch(&executions).unwrap();
}

/// The comparison's own words, and whether all is equal.
fn compared(db: &Path, name: &str) -> (bool, String) {
    let (script, dump) = (recorded("dump.py"), recorded(&format!("{name}.jsonl.xz")));
    let output = python(&[&script, db, Path::new("--diff"), &dump]);
    (output.status.success(), text(&output))
}

fn assert_the_incumbents(db: &Path, name: &str) {
    let (equal, said) = compared(db, name);
    assert!(
        equal,
        "a row differs that tests/recorded/DIFFERENCES.md does not explain:\n{said}"
    );
}

/// What every recording has in common, and what keeps deliberate differences away: see DIFFERENCES.md.
fn assert_nothing_calls_for_a_difference(db: &Path) {
    for (sql, expected, why) in [
        (
            "SELECT count(*) FROM execution_results",
            2_000,
            "D4, D9: each message is a row, none comes twice",
        ),
        (
            "SELECT count(*) FROM projector_results WHERE counts",
            2_000,
            "D9: no duplicates",
        ),
        (
            "SELECT count(*) FROM projector_dead_letters",
            0,
            "D4: all can be read",
        ),
        (
            "SELECT count(*) FROM projector_outputs WHERE state <> 'fetched'",
            0,
            "D3, D11, D12, D15, D18: all outputs are there",
        ),
        (
            "SELECT sum(position) FROM projector_position WHERE stream <> 'RESULTS'",
            0,
            "D7, D13, D17: no start events, no snapshots",
        ),
        ("SELECT count(*) FROM projector_gaps", 0, "D10: no gaps"),
        ("SELECT count(*) FROM executions", 0, "D9: no counters"),
        (
            "SELECT count(*) FROM execution_results WHERE reaped",
            0,
            "D9: nothing was reaped",
        ),
        (
            "SELECT count(*) FROM projector_issues WHERE code = 'explode_table_refused'",
            0,
            "D8: no table is refused",
        ),
    ] {
        assert_eq!(one(db, sql), expected, "{why}");
    }
    check_i3(db);
}

fn status(db: &Path, server: &NatsServer) -> Value {
    let output = run(db, &server.url(), &["status", "--json"]);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output)))
}

#[test]
fn the_tables_of_recorded_checks_are_the_incumbents() {
    let server = server_of("check");
    let (_folder, db) = place();
    begin(&db, "check");
    catch_up(&db, &server.url());
    assert_the_incumbents(&db, "check");
    assert_nothing_calls_for_a_difference(&db);
    // Skips, and codes that an agent before 0.48.2 would have meant as such, are in it.
    assert_eq!(
        one(&db, "SELECT count(*) FROM execution_results WHERE skipped"),
        47
    );
    assert_eq!(
        one(
            &db,
            "SELECT count(*) FROM execution_results WHERE NOT skipped AND exit_code IN (126, 127)"
        ),
        96
    );
    let status = status(&db, &server);
    assert_eq!(status["issues"], serde_json::json!([]));
    assert_eq!(status["unsettled_executions"], 5, "no row of theirs was recorded");
    assert_eq!(status["pairs"]["older_hints"], 0);

    // The comparison sees a single letter.
    Connection::open(&db)
        .unwrap()
        .execute("UPDATE check_status SET detail = detail || '.' WHERE rowid = (SELECT min(rowid) FROM check_status WHERE detail IS NOT NULL)", [])
        .unwrap();
    let (equal, said) = compared(&db, "check");
    assert!(!equal && said.contains("different: 2 differing rows"), "{said}");
}

#[test]
fn the_tables_of_recorded_inventories_are_the_incumbents() {
    let server = server_of("inventory");
    let (_folder, db) = place();
    begin(&db, "inventory");
    catch_up(&db, &server.url());
    assert_the_incumbents(&db, "inventory");
    assert_nothing_calls_for_a_difference(&db);
    assert_eq!(one(&db, "SELECT count(*) FROM projector_outputs"), 4);
    // What the comparison leaves out (D2): each event was observed when a result of its pair was published.
    let elsewhen = "SELECT count(*) FROM inventory_history AS event WHERE NOT EXISTS (
        SELECT 1 FROM execution_results AS result WHERE result.pc_id = event.pc_id AND result.job_id = event.job_id
            AND result.recorded_at = event.observed_at)";
    assert_eq!(one(&db, elsewhen), 0);
    // D6 has nothing to do: the recorded columns hold what the elements held. One of another type would be here.
    let converted = "SELECT (SELECT count(*) FROM inventory_sw_apps, json_each(json_array(name, source, version)) AS cell
            WHERE cell.type <> 'text')
        + (SELECT count(*) FROM inventory_sw_apps WHERE typeof(size_kb) <> 'integer')
        + (SELECT count(*) FROM inventory_hw_disks
            WHERE typeof(device_id) <> 'text' OR typeof(size_bytes) <> 'integer' OR typeof(free_pct) <> 'real')";
    assert_eq!(one(&db, converted), 0);

    // The newest scans of three pairs are no JSON, those of two list an application twice.
    let status = status(&db, &server);
    let issues: Vec<(u64, &str)> = status["issues"]
        .as_array()
        .unwrap()
        .iter()
        .map(|issue| {
            (
                issue["stream_seq"].as_u64().unwrap(),
                issue["code"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        issues,
        [
            (1_648, "inventory_not_json"),
            (1_518, "inventory_not_json"),
            (1_966, "explode_duplicate_identity"),
            (1_727, "explode_duplicate_identity"),
            (1_883, "inventory_not_json"),
        ]
    );
    assert_eq!(
        status["pairs"],
        serde_json::json!({"waiting": 0, "due": 0, "older_hints": 0})
    );
}
