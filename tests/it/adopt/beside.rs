//! Beside a live backend that writes the same file: nothing of ours is lost to it, and it hardly waits for us.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use rusqlite::Connection;
use rusqlite::types::Value as Cell;
use serde_json::{Value, json};

use super::{Hand, status, words};
use crate::harness::backend::{self, BackendFile, Ledgers, deploy, reap, rows};
use crate::harness::fleet::{Kind, put_manifests};
use crate::harness::projector::{catch_up, place};
use crate::harness::*;
use crate::survives::assert_all_there;

/// Of the hammer: how it may wait, and how many rows the drain has.
const GROUP_MAX_TIME: f64 = 0.250;
const BACKLOG: usize = 20_000;

/// Another connection that writes a little, again and again.
struct Hammer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Blows>,
}

#[derive(Default)]
struct Blows {
    /// Seconds until each had the file.
    waits: Vec<f64>,
    /// Seconds until each was committed.
    wholes: Vec<f64>,
    errors: Vec<String>,
}

impl Hammer {
    fn start(db: &Path, pause: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (db, stopped) = (db.to_owned(), stop.clone());
        let thread = std::thread::spawn(move || {
            let conn = backend::connect(&db);
            conn.busy_timeout(Duration::from_secs(5)).unwrap();
            let mut blows = Blows::default();
            while !stopped.load(Ordering::Relaxed) {
                let began = Instant::now();
                let blow = conn.execute_batch("BEGIN IMMEDIATE").and_then(|()| {
                    blows.waits.push(began.elapsed().as_secs_f64());
                    conn.execute_batch(
                        "UPDATE agents SET last_heartbeat = strftime('%Y-%m-%dT%H:%M:%f+00:00') WHERE pc_id = 'PC-0001';
                         INSERT INTO audit_log (what) VALUES ('blow'); COMMIT",
                    )
                });
                match blow {
                    Ok(()) => blows.wholes.push(began.elapsed().as_secs_f64()),
                    Err(error) => blows.errors.push(format!("{error} after {:?}", began.elapsed())),
                }
                std::thread::sleep(pause);
            }
            blows
        });
        Self { stop, thread }
    }

    fn stop(self) -> Blows {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let index = ((values.len() as f64 * share) as usize).min(values.len().saturating_sub(1));
    values.get(index).copied().unwrap_or(f64::NAN)
}

/// Seconds of each commit, as the service tells at debug level.
fn commit_times(log: &str) -> Vec<f64> {
    log.lines()
        .filter_map(|line| {
            let line: Value = serde_json::from_str(line).ok()?;
            line["fields"]["commit_seconds"].as_f64()
        })
        .collect()
}

fn adopted(folder: &tempfile::TempDir, name: &str) -> PathBuf {
    let db = folder.path().join(name);
    BackendFile::with(Ledgers::LikeOurs).create(&db);
    db
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hammering_backend_is_never_refused_and_hardly_waits_while_a_backlog_is_drained() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    put_manifests(&js).await.unwrap();
    // With enough scans to make the writer the slowest of all.
    let profile = Profile {
        results: BACKLOG - 4_000,
        scans: 40,
        ..Profile::default()
    };
    let planned = plan(221, &profile);
    publish(&js, &planned).await.unwrap();
    // SQLite's lock knows no queue: how long one of several waits is also a matter between them.
    for (what, pause, connections) in [
        ("one without a pause", 0, 1),
        ("one every 20 ms", 20, 1),
        ("four every 50 ms", 50, 4),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let db = adopted(&folder, "backend.db");
        let hammers: Vec<Hammer> = (0..connections)
            .map(|_| Hammer::start(&db, Duration::from_millis(pause)))
            .collect();
        let args = ["--log-format", "json", "-v", "run", "--until-caught-up"];
        let started = Instant::now();
        let mut projector = Projector::start_with(&db, &server.url(), &args, &[]);
        // How long it takes says nothing here: the hammers and other tests share the machine with it.
        let ended = projector.wait_exit(PATIENCE * 5);
        let seconds = started.elapsed().as_secs_f64();
        let mut blows = Blows::default();
        for hammer in hammers {
            let one = hammer.stop();
            blows.waits.extend(one.waits);
            blows.wholes.extend(one.wholes);
            blows.errors.extend(one.errors);
        }
        assert!(ended.success(), "{}", projector.stderr());
        let mut commits = commit_times(&projector.stderr());
        let commit_p99 = quantile(&mut commits, 0.99);
        let [p50, p90, p99, max] = [0.5, 0.9, 0.99, 1.0].map(|share| quantile(&mut blows.waits, share));
        eprintln!(
            "hammer {what}: {} blows in {seconds:.1} s, waits p50 {:.1} p90 {:.1} p99 {:.1} max {:.1} ms, whole max {:.1} ms; \
             {} commits, p99 {:.1} ms",
            blows.waits.len(),
            p50 * 1e3,
            p90 * 1e3,
            p99 * 1e3,
            max * 1e3,
            quantile(&mut blows.wholes, 1.0) * 1e3,
            commits.len(),
            commit_p99 * 1e3
        );
        assert!(blows.errors.is_empty(), "{:?}", blows.errors);
        assert!(
            connections > 1 || p99 <= 2.0 * (GROUP_MAX_TIME + commit_p99),
            "p99 {p99} s, commits {commit_p99} s"
        );
        assert_all_there(&db, &planned);
        check_i3(&db);
        assert_eq!(one(&db, "SELECT count(*) FROM projector_dead_letters"), 0);
        assert_eq!(
            one(&db, "SELECT count(*) FROM projector_results") as usize,
            planned.len()
        );
        let written = one(&db, "SELECT count(*) FROM audit_log WHERE what = 'blow'");
        assert_eq!(written as usize, blows.waits.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_writes_only_now_and_then_gets_the_file_in_the_middle_of_a_backlog() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    put_manifests(&js).await.unwrap();
    // Scans are the work that keeps a writer busy: forty rows each, compared one by one.
    let profile = Profile {
        results: 10,
        scans: 20,
        ..Profile::default()
    };
    let published = Arc::new(AtomicU64::new(0));
    let publishing = tokio::spawn({
        let published = published.clone();
        async move {
            for seed in 300.. {
                let planned = plan(seed, &profile);
                // The test ends first.
                if publish(&js, &planned).await.is_err() {
                    return;
                }
                published.fetch_add(planned.len() as u64, Ordering::Relaxed);
            }
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let db = adopted(&folder, "backend.db");
    let projector = Projector::start(&db, &server.url());
    wait_until("it writes", PATIENCE, || position(&db) > 0);
    let conn = backend::connect(&db);
    conn.busy_timeout(Duration::from_secs(5)).unwrap();
    let mut writes = Vec::new();
    for _ in 0..3 {
        // Once every 3 s is what this is about.
        tokio::time::sleep(Duration::from_secs(3)).await;
        let behind = published.load(Ordering::Relaxed).saturating_sub(position(&db));
        let began = Instant::now();
        conn.execute("INSERT INTO audit_log (what) VALUES ('alone')", [])
            .unwrap();
        writes.push((began.elapsed(), behind));
    }
    publishing.abort();
    eprintln!("once every 3 s: waits, and results behind: {writes:?}");
    for (wait, behind) in writes {
        assert!(
            behind > 0 && wait < Duration::from_secs(2),
            "{wait:?}, {behind} behind"
        );
    }
    assert!(projector.terminate().success());
    check_i3(&db);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_holds_the_file_for_ten_seconds_costs_no_group_and_no_start() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    let folder = tempfile::tempdir().unwrap();
    let (running, starting) = (adopted(&folder, "running.db"), adopted(&folder, "starting.db"));
    let planned = plan(
        222,
        &Profile {
            results: 500,
            ..Profile::default()
        },
    );
    publish(&js, &planned[..100]).await.unwrap();
    catch_up(&starting, &server.url());
    let mut first = Projector::start(&running, &server.url());
    wait_until("it writes", PATIENCE, || position(&running) == 100);
    let held: Vec<Connection> = [&running, &starting]
        .map(|db| {
            let conn = backend::connect(db);
            conn.execute_batch("BEGIN IMMEDIATE; INSERT INTO audit_log (what) VALUES ('long')")
                .unwrap();
            conn
        })
        .into();
    let since = Instant::now();
    publish(&js, &planned[100..]).await.unwrap();
    let env = [("RESULTS_PROJECTOR_SOURCE_CONSUMER_PREFIX", "second")];
    let mut second = Projector::start_with(&starting, &server.url(), &["run"], &env);
    wait_until("both say why they do not write", PATIENCE, || {
        [&first, &second]
            .iter()
            .all(|projector| projector.stderr().contains("database is locked"))
    });
    wait_until("ten seconds have gone by", PATIENCE, || {
        since.elapsed() > Duration::from_secs(10)
    });
    assert!(first.is_running() && second.is_running());
    for conn in &held {
        conn.execute_batch("COMMIT").unwrap();
    }
    for (db, projector) in [(&running, first), (&starting, second)] {
        wait_until("it writes again", PATIENCE, || position(db) == 500);
        assert!(projector.terminate().success());
        assert_all_there(db, &planned);
        assert_eq!(one(db, "SELECT count(*) FROM projector_dead_letters"), 0);
        check_i3(db);
    }
}

/// A row that the backend's cleanup took away.
type Deleted = (String, Option<String>, bool);

/// What the backend does to its file all the time (§6.1).
fn backend_at_work(db: &Path, stop: &AtomicBool) -> (Vec<Deleted>, usize) {
    let mut conn = backend::connect(db);
    let (mut deleted, mut reaped) = (Vec::new(), 0);
    let mut turn = 0_u32;
    while !stop.load(Ordering::Relaxed) {
        turn += 1;
        match turn % 4 {
            // After the results of its command, as a slow backend would.
            0 => {
                let late: Vec<String> = conn
                    .prepare(
                        "SELECT DISTINCT exec_id FROM execution_results WHERE exec_id IS NOT NULL
                             AND exec_id NOT IN (SELECT exec_id FROM executions) LIMIT 3",
                    )
                    .unwrap()
                    .query_map([], |row| row.get(0))
                    .unwrap()
                    .map(Result::unwrap)
                    .collect();
                for exec_id in late {
                    deploy(&conn, &exec_id, "job", 5);
                }
            }
            1 => {
                let now = chrono::Utc::now() + TimeDelta::days(1);
                reaped += reap(
                    &mut conn,
                    &results_projector::wire::time::Timestamp::from(now).stored(),
                );
            }
            // Old rows, in batches; here those that have had their start event, and of executions that are settled, so
            // that the sum can be checked.
            2 => {
                let gone = conn
                    .prepare(
                        "DELETE FROM execution_results WHERE result_id IN (SELECT result_id FROM execution_results
                             WHERE finished_at IS NOT NULL AND reaped = 0 AND version IS NOT NULL
                                 AND exec_id IN (SELECT exec_id FROM executions)
                                 AND exec_id NOT IN (SELECT exec_id FROM projector_unsettled)
                             ORDER BY recorded_at LIMIT 5)
                         RETURNING result_id, exec_id, exit_code = 0",
                    )
                    .unwrap()
                    .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
                    .unwrap()
                    .map(Result::unwrap)
                    .collect::<Vec<Deleted>>();
                deleted.extend(gone);
            }
            _ => drop(conn.execute("DELETE FROM check_status WHERE check_name = 'bitlocker'", [])),
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    (deleted, reaped)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_at_work_on_the_same_file_costs_no_row_and_no_count() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    put_manifests(&js).await.unwrap();
    let profile = Profile {
        duplicate_permille: 0,
        malformed: 0,
        missing: 0,
        missing_scans: 0,
        overflow_permille: 0,
        ..Profile::everything(1_500)
    };
    let planned = plan(223, &profile);
    let (_folder, db) = place();
    BackendFile::default().create(&db);
    let projector = Projector::start(&db, &server.url());
    wait_until("it has its books", PATIENCE, || {
        dump::open(&db)
            .prepare("SELECT 1 FROM projector_unsettled")
            .is_ok()
    });
    let stop = Arc::new(AtomicBool::new(false));
    let backend = std::thread::spawn({
        let (db, stop) = (db.clone(), stop.clone());
        move || backend_at_work(&db, &stop)
    });
    let (first, second) = planned.split_at(planned.len() / 2);
    publish(&js, first).await.unwrap();
    let cleaned = "SELECT count(DISTINCT result_id) FROM projector_results
         WHERE result_id NOT IN (SELECT result_id FROM execution_results)";
    wait_until("some are cleaned up", PATIENCE, || one(&db, cleaned) > 50);
    // Reaped too early: their results come after all.
    let (starts, rest): (Vec<Planned>, Vec<Planned>) = second
        .iter()
        .cloned()
        .partition(|planned| planned.kind == Kind::Started);
    publish(&js, &starts).await.unwrap();
    let reaped = "SELECT count(*) FROM execution_results WHERE reaped = 1";
    wait_until("some are reaped", PATIENCE, || one(&db, reaped) > 50);
    publish(&js, &rest).await.unwrap();
    let caught_up = || {
        let said = status(&db, &server.url());
        said["streams"]
            .as_array()
            .unwrap()
            .iter()
            .all(|stream| stream["lag_messages"] == 0)
    };
    wait_until("all is projected", PATIENCE, caught_up);
    let conn = backend::connect(&db);
    wait_until("every execution has its row and is settled", PATIENCE, || {
        let open = "SELECT count(*) FROM execution_results WHERE exec_id IS NOT NULL
             AND exec_id NOT IN (SELECT exec_id FROM executions)";
        one(&db, open) == 0 && one(&db, "SELECT count(*) FROM projector_unsettled") == 0
    });
    stop.store(true, Ordering::Relaxed);
    let (deleted, reaped) = backend.join().unwrap();
    let still = one(&db, "SELECT count(*) FROM execution_results WHERE reaped = 1");
    assert!(still > 0 && reaped as i64 > still, "{reaped} {still}");

    // §7.3's law, with what the cleanup took away counted still.
    let mut wanted: BTreeMap<String, (i64, i64)> = BTreeMap::new();
    let rows_now = rows(
        &conn,
        "SELECT exec_id, exit_code = 0 FROM execution_results WHERE exec_id IS NOT NULL AND finished_at IS NOT NULL",
    );
    let ended = rows_now.iter().map(|row| match row.as_slice() {
        [Cell::Text(exec_id), Cell::Integer(good)] => (exec_id.clone(), *good == 1),
        other => panic!("{other:?}"),
    });
    let taken = deleted
        .iter()
        .map(|(_, exec_id, good)| (exec_id.clone().unwrap(), *good));
    for (exec_id, good) in ended.chain(taken) {
        let counts = wanted.entry(exec_id).or_default();
        *(if good { &mut counts.0 } else { &mut counts.1 }) += 1;
    }
    for row in rows(
        &conn,
        "SELECT exec_id, success_count, failure_count, status FROM executions",
    ) {
        let [
            Cell::Text(exec_id),
            Cell::Integer(good),
            Cell::Integer(bad),
            Cell::Text(status),
        ] = row.as_slice()
        else {
            panic!("{row:?}");
        };
        let counts = wanted.get(exec_id).copied().unwrap_or_default();
        assert_eq!((*good, *bad), counts, "{exec_id}");
        let wanted = if good + bad >= 5 { "completed" } else { "running" };
        assert_eq!(status, wanted, "{exec_id}");
    }

    // An execution that comes after its results is settled within two seconds, give or take a busy machine.
    let hand = Hand { js: js.clone() };
    for id in ["z1", "z2"] {
        hand.result(
            id,
            "PC-Z",
            Some("done"),
            json!({"exec_id": "z", "manifest_id": "plain"}),
        )
        .await;
    }
    wait_until("both are there", PATIENCE, || {
        one(&db, "SELECT count(*) FROM execution_results WHERE exec_id = 'z'") == 2
    });
    deploy(&conn, "z", "plain", 2);
    let since = Instant::now();
    wait_until("it is settled", Duration::from_secs(4), || {
        rows(
            &conn,
            "SELECT success_count, status FROM executions WHERE exec_id = 'z'",
        ) == [[Cell::Integer(2), words("completed")]]
    });
    eprintln!("settled after {:?}", since.elapsed());

    // A job is deleted: the manifest first, then its facts and history. Later results add nothing.
    let jobs = js.get_key_value("jobs").await.unwrap();
    jobs.delete("inventory-disks").await.unwrap();
    let disks = json!({"manifest_id": "inventory-disks"});
    for probe in 0.. {
        let id = format!("probe-{probe}");
        hand.result(&id, &id, Some(r#"{"disks": []}"#), disks.clone())
            .await;
        wait_until("the probe is there", PATIENCE, || {
            one(
                &db,
                &format!("SELECT count(*) FROM execution_results WHERE pc_id = '{id}'"),
            ) == 1
        });
        if one(
            &db,
            &format!("SELECT count(*) FROM inventory_facts WHERE pc_id = '{id}'"),
        ) == 0
        {
            break;
        }
    }
    conn.execute_batch(
        "DELETE FROM inventory_facts WHERE job_id = 'inventory-disks';
         DELETE FROM inventory_history WHERE job_id = 'inventory-disks'",
    )
    .unwrap();
    let exploded = one(&db, "SELECT count(*) FROM inventory_disks");
    hand.result("after", "PC-0001", Some(r#"{"disks": []}"#), disks)
        .await;
    wait_until("it is there", PATIENCE, || {
        one(
            &db,
            "SELECT count(*) FROM execution_results WHERE result_id = 'after'",
        ) == 1
    });
    assert_eq!(
        one(
            &db,
            "SELECT count(*) FROM inventory_facts WHERE job_id = 'inventory-disks'"
        ),
        0
    );
    assert_eq!(one(&db, "SELECT count(*) FROM inventory_disks"), exploded);
    assert!(projector.terminate().success());
    check_i3(&db);
    assert_eq!(one(&db, "SELECT count(*) FROM projector_dead_letters"), 0);

    // Row by row what an undisturbed run has, but for what the backend did.
    put_manifests(&js).await.unwrap();
    let (_folder, own) = place();
    catch_up(&own, &server.url());
    let gone: BTreeSet<&str> = deleted.iter().map(|(id, _, _)| id.as_str()).collect();
    let results = |db: &Path, sql: &str| rows(&dump::open(db), sql);
    let kept = |row: &Vec<Cell>| matches!(&row[0], Cell::Text(id) if !gone.contains(id.as_str()));
    let finished =
        "SELECT * FROM execution_results WHERE finished_at IS NOT NULL AND reaped = 0 ORDER BY result_id";
    let wanted: Vec<_> = results(&own, finished).into_iter().filter(kept).collect();
    assert!(wanted.len() > 1_000);
    assert!(
        results(&db, finished) == wanted,
        "{:?}",
        differing(&results(&db, finished), &wanted)
    );
    let in_flight = "SELECT result_id, version, expires_at FROM execution_results WHERE finished_at IS NULL OR reaped = 1 ORDER BY 1";
    assert_eq!(results(&db, in_flight), results(&own, in_flight));
    for sql in [
        "SELECT pc_id, job_id, field_path, identity_json, change_kind, before_json, after_json, observed_at
         FROM inventory_history WHERE job_id <> 'inventory-disks' ORDER BY pc_id, job_id, observed_at, id",
        "SELECT * FROM inventory_facts WHERE job_id <> 'inventory-disks' ORDER BY pc_id, job_id",
        "SELECT * FROM check_status WHERE check_name <> 'bitlocker' ORDER BY pc_id, check_name",
        "SELECT * FROM feeds ORDER BY feed_id, item_id",
        "SELECT * FROM job_completions ORDER BY job_id, pc_id",
        "SELECT * FROM job_version_completions ORDER BY job_id, version, pc_id",
    ] {
        let (here, there) = (results(&db, sql), results(&own, sql));
        assert!(here == there, "{sql}: {:?}", differing(&here, &there));
    }
}

fn differing(here: &[Vec<Cell>], there: &[Vec<Cell>]) -> Vec<String> {
    let only = |these: &[Vec<Cell>], those: &[Vec<Cell>], side: &str| {
        let only = these.iter().filter(|row| !those.contains(row)).take(2);
        only.map(|row| format!("{side}: {row:?}").chars().take(700).collect::<String>())
            .collect::<Vec<_>>()
    };
    [only(here, there, "here"), only(there, here, "there")].concat()
}
