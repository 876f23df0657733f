//! Rebuild, replay and verify against real servers and real files: a live run, a rebuild and a replay say the same, verify
//! proves it, and names what is not so.

mod beside;
mod forgets;
mod hand;
mod hints;
mod mends;

use std::collections::BTreeSet;
use std::path::Path;

use results_projector::cli::GlobalArgs;
use results_projector::config::Config;
use results_projector::service::replay::{ReplayOptions, Replayed, replay};
use results_projector::service::verify::{Verified, verify};
use results_projector::wire::time::Timestamp;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::derived::{rows, with_executions};
use crate::harness::dump::{self, dump};
use crate::harness::fleet::put_manifests;
use crate::harness::projector::{catch_up, place, run, text};
use crate::harness::*;

/// A command's answer as JSON; it must end with this code.
fn asked(db: &Path, url: &str, args: &[&str], code: i32) -> Value {
    let output = run(db, url, &[args, &["--json"]].concat());
    assert_eq!(output.status.code(), Some(code), "{args:?}: {}", text(&output));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{args:?}: {}", text(&output)))
}

/// Nothing differs, and nothing is wrong.
fn assert_proved(db: &Path, url: &str) -> Value {
    let said = asked(db, url, &["verify"], 0);
    assert_eq!(
        (&said["good"], &said["found"], &said["wrong"]),
        (&json!(true), &json!(0), &json!([])),
        "{said:#}"
    );
    said
}

/// Everything in the file, the books and the clock's columns too.
fn everything(db: &Path) -> Vec<String> {
    let tables = rows(
        db,
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY 1",
    );
    tables
        .iter()
        .flat_map(|table| {
            let found = crate::harness::backend::rows(&dump::open(db), &format!("SELECT * FROM \"{table}\""));
            found.into_iter().map(move |row| format!("{table}: {row:?}"))
        })
        .collect()
}

fn assert_equal(found: &[String], expected: &[String], what: &str) {
    if found == expected {
        return;
    }
    let only = |these: &[String], those: &[String]| -> Vec<String> {
        let those: BTreeSet<&String> = those.iter().collect();
        let only = these.iter().filter(|line| !those.contains(line)).take(4);
        only.map(|line| line.chars().take(500).collect()).collect()
    };
    panic!(
        "{what}: {} and {} rows\nonly now: {:#?}\nonly before: {:#?}",
        found.len(),
        expected.len(),
        only(found, expected),
        only(expected, found)
    );
}

/// A replay finds nothing and writes nothing.
fn assert_replay_changes_nothing(db: &Path, url: &str, args: &[&str]) -> Value {
    let before = everything(db);
    let said = asked(db, url, &[&["replay"], args].concat(), 0);
    assert_eq!(
        (&said["mended"], &said["found"]),
        (&json!({}), &json!(0)),
        "{said:#}"
    );
    assert_equal(&everything(db), &before, "a replay of what is right");
    said
}

fn config(db: &Path, url: &str) -> Config {
    let flags = GlobalArgs {
        db: Some(db.to_str().unwrap().to_owned()),
        nats_url: Some(url.to_owned()),
        ..GlobalArgs::default()
    };
    Config::load(&flags, &|_| None).unwrap()
}

/// As the command does, at another time.
async fn verified_at(db: &Path, url: &str, now: Timestamp) -> Verified {
    let (_keep, stop) = watch::channel(false);
    verify(&config(db, url), now, stop, &|_| {}).await.unwrap()
}

fn now() -> Timestamp {
    Timestamp::from(chrono::Utc::now())
}

async fn replayed(db: &Path, url: &str, options: ReplayOptions) -> Replayed {
    let (_keep, stop) = watch::channel(false);
    replay(&config(db, url), &options, stop, &|_| {}).await.unwrap()
}

/// Changes the file as an operator's hand may; nobody's trigger fires.
fn tamper(db: &Path, sql: &str) -> usize {
    let conn = rusqlite::Connection::open(db).unwrap();
    conn.busy_timeout(std::time::Duration::from_secs(30)).unwrap();
    conn.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)
        .unwrap();
    let before = conn.total_changes();
    conn.execute_batch(sql)
        .unwrap_or_else(|error| panic!("{sql}: {error}"));
    (conn.total_changes() - before) as usize
}

/// Executions that the fleet's results name.
fn exec_ids(planned: &[Planned]) -> BTreeSet<String> {
    let named = |planned: &Planned| -> Option<String> {
        let message: Value = serde_json::from_slice(&planned.payload).ok()?;
        message["exec_id"].as_str().map(str::to_owned)
    };
    planned.iter().filter_map(named).collect()
}

/// Every so many runs that have started never end.
fn with_runs_in_flight(planned: Vec<Planned>, every: usize) -> Vec<Planned> {
    let started: BTreeSet<String> = planned
        .iter()
        .filter_map(|planned| planned.started_id.clone())
        .collect();
    let ended = planned.iter().filter_map(|planned| planned.result_id.as_ref());
    let endless: BTreeSet<String> = ended
        .filter(|id| started.contains(*id))
        .step_by(every)
        .cloned()
        .collect();
    let stays = |planned: &Planned| !planned.result_id.as_ref().is_some_and(|id| endless.contains(id));
    planned.into_iter().filter(stays).collect()
}

fn profiles() -> Vec<(&'static str, Profile)> {
    let results = scale(250, 3_000);
    let small = Profile {
        results,
        pcs: 12,
        ..Profile::default()
    };
    let with = |change: &dyn Fn(&mut Profile)| {
        let mut profile = small.clone();
        change(&mut profile);
        profile
    };
    vec![
        ("small only", small.clone()),
        ("everything", Profile::everything(results)),
        (
            "overflow",
            with(&|profile| {
                profile.overflow_permille = 300;
                profile.overflow_bytes = (2_000, 300_000);
                profile.missing = 6;
            }),
        ),
        ("starts", with(&|profile| profile.started_permille = 900)),
        (
            "inventory",
            with(&|profile| {
                profile.scans = 5;
                profile.missing_scans = 3;
                profile.legacy_inventory = 30;
                profile.overflow_permille = 200;
                profile.overflow_bytes = (2_000, 30_000);
            }),
        ),
        ("checks", with(&|profile| profile.checks = 5)),
        ("feeds", with(&|profile| profile.feeds = 15)),
        ("malformed", with(&|profile| profile.malformed = 20)),
        ("duplicates", with(&|profile| profile.duplicate_permille = 300)),
    ]
}

async fn prove_profile(seed: u64, name: &str, profile: Profile) {
    let server = NatsServer::start();
    let (js, url) = (server.fleet().await, server.url());
    put_manifests(&js).await.unwrap();
    let planned = plan(seed, &profile);
    let (_folder, db) = place();
    with_executions(&db, &exec_ids(&planned));
    publish(&js, &planned).await.unwrap();
    catch_up(&db, &url);
    let live = dump(&db);

    let said = assert_proved(&db, &url);
    assert_eq!(said["vouched"], json!({}), "{name}: everything can be proved");
    let missing = profile.missing + profile.missing_scans > 0;
    assert_eq!(said["not_compared"] == json!({}), !missing, "{name}: {said:#}");
    let compared = said["tables"]["execution_results"]["compared"].as_u64().unwrap();
    assert_eq!(
        compared as i64,
        one(&db, "SELECT count(*) FROM execution_results"),
        "{name}"
    );
    assert_replay_changes_nothing(&db, &url, &[]);

    let rebuilt = asked(&db, &url, &["rebuild"], 0);
    assert_equal(&dump(&db), &live, &format!("{name}, rebuilt: {rebuilt:#}"));
    check_i3(&db);
    assert_proved(&db, &url);
    assert_replay_changes_nothing(&db, &url, &[]);
    catch_up(&db, &url);
    assert_equal(&dump(&db), &live, &format!("{name}, rebuilt, and run once more"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_live_run_a_replay_and_a_rebuild_say_the_same_of_every_profile_and_verify_says_so() {
    let mut tasks = tokio::task::JoinSet::new();
    for (seed, (name, profile)) in profiles().into_iter().enumerate() {
        if tasks.len() == 3 {
            tasks.join_next().await.unwrap().unwrap();
        }
        tasks.spawn(prove_profile(500 + seed as u64, name, profile));
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
}
