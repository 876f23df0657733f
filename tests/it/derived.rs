//! The derived tables behind a real server: facts, history, exploded tables, checks, feeds, snapshots, start events, and
//! the counters of executions. Whatever happens on the way, in the end they are those of an undisturbed run.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use async_nats::jetstream::{self, kv};
use bytes::Bytes;
use results_projector::projection::manifests::Manifests;
use results_projector::store::{Owner, Store, StoreOptions};
use results_projector::wire::kv::StreamName;
use results_projector::wire::time::Timestamp;
use rusqlite::Connection;
use serde_json::{Value, json};

use crate::harness::dump::{self, dump};
use crate::harness::fleet::{
    Dice, Kind, create_output_store, manifests, publish_messages, put_manifests, store_objects,
};
use crate::harness::nats::BYTES_MAX;
use crate::harness::projector::{catch_up, place, run, text};
use crate::harness::*;
use crate::outputs::age_messages;
use crate::stage::{Object, Sent, Stage};
use crate::survives::assert_all_there;

const DISKS: &str = "inventory-disks";
const SOFTWARE: &str = "inventory-software";
const DEFENDER: &str = "check-defender";
const KEV: &str = "feed-kev";

/// A finished run with its stdout in the message.
struct Run<'a> {
    id: &'a str,
    pc_id: &'a str,
    job: &'a str,
    exit_code: i32,
    stdout: String,
    stderr: String,
}

impl<'a> Run<'a> {
    fn new(id: &'a str, pc_id: &'a str, job: &'a str, stdout: impl ToString) -> Self {
        Self {
            id,
            pc_id,
            job,
            exit_code: 0,
            stdout: stdout.to_string(),
            stderr: String::new(),
        }
    }

    fn failed(self, exit_code: i32, stderr: &str) -> Self {
        Self {
            exit_code,
            stdout: String::new(),
            stderr: stderr.to_owned(),
            ..self
        }
    }

    fn message(&self) -> (String, Value) {
        let message = json!({
            "result_id": self.id, "request_id": format!("q-{}", self.id), "pc_id": self.pc_id,
            "manifest_id": self.job, "exit_code": self.exit_code, "skipped": false, "stdout": self.stdout,
            "stderr": self.stderr, "started_at": "2026-06-01T00:00:00Z", "finished_at": "2026-06-01T00:00:05Z",
        });
        (format!("results.q-{}", self.id), message)
    }

    async fn send(&self, js: &jetstream::Context) {
        let (subject, message) = self.message();
        send(js, &subject, &message).await;
    }

    /// The message with its output behind a pointer, and the object.
    fn pointing(&self) -> ((String, Value), (String, String)) {
        let (subject, mut message) = self.message();
        let field = if self.exit_code == 0 { "stdout" } else { "stderr" };
        let name = format!("q-{}/{}/{field}", self.id, self.pc_id);
        let text = message[field].as_str().unwrap().to_owned();
        message[field] = json!("");
        message[format!("{field}_object")] = json!(name);
        ((subject, message), (name, text))
    }

    /// Sends it with its output behind a pointer, and stores no object: that is returned.
    async fn send_pointer(&self, js: &jetstream::Context) -> (String, String) {
        let ((subject, message), object) = self.pointing();
        send(js, &subject, &message).await;
        object
    }
}

async fn send(js: &jetstream::Context, subject: &str, message: &Value) {
    let payload = Bytes::from(message.to_string());
    js.publish(subject.to_owned(), payload)
        .await
        .unwrap()
        .await
        .unwrap();
}

async fn put_object(js: &jetstream::Context, (name, text): &(String, String)) {
    let store = js.get_object_store("result_output").await.unwrap();
    store.put(name.as_str(), &mut text.as_bytes()).await.unwrap();
}

/// What a scan of disks prints: so many, each so full.
fn disks(count: usize, free_gb: f64) -> Value {
    let disks: Vec<Value> = (0..count)
        .map(|number| {
            json!({"device": format!("D{number}:"), "model": "NVMe", "size_gb": 512, "free_gb": free_gb, "health": "Healthy"})
        })
        .collect();
    json!({"hostname": "h", "disk_count": count, "disks": disks})
}

fn apps(versions: &[(&str, &str)]) -> Value {
    let apps: Vec<Value> = versions
        .iter()
        .map(|(name, version)| json!({"name": name, "source": "machine", "version": version, "size_kb": 12}))
        .collect();
    json!({"os_version": "10", "apps": apps})
}

fn manifest(id: &str) -> Value {
    manifests().into_iter().find(|(known, _)| *known == id).unwrap().1
}

async fn put_manifest(js: &jetstream::Context, id: &str, manifest: &Value) {
    let jobs = js.get_key_value("jobs").await.unwrap();
    jobs.put(id, manifest.to_string().into()).await.unwrap();
}

fn status(db: &Path, url: &str) -> Value {
    let output = run(db, url, &["status", "--json"]);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output)))
}

/// A query's rows, each as one text.
fn rows(db: &Path, sql: &str) -> Vec<String> {
    let conn = dump::open(db);
    let mut select = conn.prepare(sql).unwrap();
    let columns = select.column_count();
    select
        .query_map([], |row| {
            let cells: Result<Vec<String>, rusqlite::Error> = (0..columns)
                .map(|index| {
                    Ok(match row.get_ref(index)? {
                        rusqlite::types::ValueRef::Null => "-".to_owned(),
                        rusqlite::types::ValueRef::Integer(number) => number.to_string(),
                        rusqlite::types::ValueRef::Real(number) => number.to_string(),
                        other => other.as_str().unwrap().to_owned(),
                    })
                })
                .collect();
            Ok(cells?.join(" "))
        })
        .unwrap()
        .map(Result::unwrap)
        .collect()
}

fn history(db: &Path, pc_id: &str) -> Vec<String> {
    rows(
        db,
        &format!(
            "SELECT field_path, change_kind, coalesce(identity_json, after_json) FROM inventory_history
             WHERE pc_id = '{pc_id}' ORDER BY id"
        ),
    )
}

const ISSUES: &str = "SELECT job_id, pc_id, part, code, stream_seq, result_id, reason FROM projector_issues ORDER BY 1, 2, 3, 4";

/// All that is derived, and what is reported beside it, is that of a run to which nothing happened.
fn assert_undisturbed(db: &Path, url: &str) {
    let (_folder, undisturbed) = place();
    catch_up(&undisturbed, url);
    assert_same(db, &undisturbed);
    assert_eq!(rows(db, ISSUES), rows(&undisturbed, ISSUES));
    check_i3(db);
}

/// A file with rows of `executions`, as the backend has made them.
fn with_executions(db: &Path, exec_ids: &BTreeSet<String>) {
    let me = Owner {
        pid: std::process::id(),
        started_at: String::new(),
        host: String::new(),
    };
    Store::open(db, &StoreOptions::default(), &me).unwrap().close();
    let conn = Connection::open(db).unwrap();
    for (number, exec_id) in exec_ids.iter().enumerate() {
        conn.execute(
            "INSERT INTO executions (exec_id, job_id, version, initiated_by, initiated_at, target_count)
             VALUES (?1, 'j', '1', 'somebody', '2026-06-01T00:00:00+00:00', ?2)",
            rusqlite::params![exec_id, 3 + 200 * (number % 2)],
        )
        .unwrap();
    }
}

/// Where the start events of a fleet's runs are published.
#[derive(Clone, Copy, PartialEq)]
enum Starts {
    Before,
    After,
    Mixed,
}

/// A fleet of everything, published while the projector is killed again and again.
async fn survive(seed: u64, starts: Starts) {
    let server = NatsServer::start();
    let js = server.fleet().await;
    put_manifests(&js).await.unwrap();
    let mut planned = plan(seed, &Profile::everything(scale(1_200, 10_000)));
    // Stable: within a stream the order stays.
    planned.sort_by_key(|planned| {
        let event = planned.stream() == "EVENTS";
        match starts {
            Starts::Before => !event,
            Starts::After => event,
            Starts::Mixed => false,
        }
    });
    // Every other execution has a row.
    let exec_ids: BTreeSet<String> = planned
        .iter()
        .filter_map(|planned| serde_json::from_slice::<Value>(&planned.payload).ok())
        .filter_map(|message| Some(message["exec_id"].as_str()?.to_owned()))
        .collect();
    let exec_ids: BTreeSet<String> = exec_ids.into_iter().step_by(2).collect();
    let (_folder, db) = place();
    with_executions(&db, &exec_ids);

    let publishing = tokio::spawn({
        let planned = planned.clone();
        async move {
            for part in planned.chunks(planned.len() / 20 + 1) {
                publish(&js, part).await.unwrap();
                // Spread over the kills.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    });
    let mut dice = Dice::new(seed);
    for _ in 0..10 {
        let projector = Projector::start(&db, &server.url());
        std::thread::sleep(Duration::from_millis(40 + dice.below(400)));
        projector.kill();
    }
    publishing.await.unwrap();
    catch_up(&db, &server.url());

    let (_folder, undisturbed) = place();
    with_executions(&undisturbed, &exec_ids);
    catch_up(&undisturbed, &server.url());
    assert_same(&db, &undisturbed);
    assert_eq!(rows(&db, ISSUES), rows(&undisturbed, ISSUES));
    check_i3(&db);
    assert_all_there(&db, &planned);
    // Nothing of it is there for want of messages.
    for table in [
        "executions WHERE status = 'completed'",
        "executions WHERE status = 'running'",
        "inventory_facts WHERE job_id = 'inventory.hw'",
        "inventory_history WHERE change_kind = 'removed'",
        "inventory_software_apps",
        "inventory_disks",
        "check_status WHERE status = 'unknown'",
        "feeds",
        "job_version_completions",
        "execution_results WHERE finished_at IS NULL",
        "projector_derivations WHERE state = 'waiting'",
    ] {
        assert!(one(&db, &format!("SELECT count(*) FROM {table}")) > 0, "{table}");
    }
    let count = |kind: Kind, stream: &str| {
        let is = |planned: &&Planned| planned.kind == kind && planned.stream() == stream;
        planned.iter().filter(is).count() as i64
    };
    let dead = |stream: &str| {
        let sql = format!("SELECT count(*) FROM projector_dead_letters WHERE stream = '{stream}'");
        (one(&db, &sql), count(Kind::Malformed, stream))
    };
    for stream in ["RESULTS", "EVENTS", "INVENTORY"] {
        let (found, planned) = dead(stream);
        assert_eq!(found, planned, "{stream}");
    }
    let ignored = "SELECT ignored FROM projector_position WHERE stream = 'EVENTS'";
    assert_eq!(one(&db, ignored), count(Kind::Ignored, "EVENTS"));
    // The law of the counters (contract §7.3).
    let unlawful = "SELECT count(*) FROM executions WHERE (success_count, failure_count) IS NOT (
        SELECT count(*) FILTER (WHERE exit_code = 0), count(*) FILTER (WHERE exit_code <> 0)
        FROM execution_results AS result WHERE result.exec_id = executions.exec_id AND finished_at IS NOT NULL)";
    assert_eq!(one(&db, unlawful), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_change_nothing_while_starts_come_before_their_results() {
    survive(61, Starts::Before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_change_nothing_while_starts_come_after_their_results() {
    survive(62, Starts::After).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_change_nothing_while_starts_come_among_the_results() {
    survive(63, Starts::Mixed).await;
}

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
