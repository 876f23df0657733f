//! The writer: poisoned groups, an environment that does not allow a commit, files that move, a second process.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use async_nats::jetstream;
use results_projector::projection::manifests::Manifests;
use results_projector::wire::kv::StreamName;
use results_projector::wire::time::Timestamp;
use rusqlite::Connection;

use crate::harness::projector::{catch_up, place, run, run_unprivileged, run_with, text};
use crate::harness::*;
use crate::stage::{Object, Sent, Stage};
use crate::survives::assert_all_there;

fn small(seed: u64, results: usize) -> Vec<Planned> {
    plan(
        seed,
        &Profile {
            results,
            ..Profile::default()
        },
    )
}

/// The durable on RESULTS, as the server knows it.
pub async fn durable(js: &jetstream::Context) -> jetstream::consumer::Info {
    let stream = js.get_stream("RESULTS").await.unwrap();
    stream.consumer_info("results_projector_results").await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poison_message_does_not_hold_back_its_group() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    let (_folder, db) = place();
    publish(&js, &small(61, 1)).await.unwrap();
    catch_up(&db, &server.url());
    let planned = small(62, 3_000);
    let poisoned: Vec<&str> = [5, 6, 900, 2_999]
        .iter()
        .map(|at| planned[*at].result_id.as_deref().unwrap())
        .collect();
    {
        // Somebody's own rule in the database refuses these rows.
        let conn = Connection::open(&db).unwrap();
        let list = poisoned
            .iter()
            .map(|id| format!("'{id}'"))
            .collect::<Vec<_>>()
            .join(",");
        conn.execute_batch(&format!(
            "CREATE TRIGGER somebody BEFORE INSERT ON execution_results WHEN NEW.result_id IN ({list})
             BEGIN SELECT raise(ABORT, 'refused by somebody'); END"
        ))
        .unwrap();
    }
    publish(&js, &planned).await.unwrap();
    catch_up(&db, &server.url());
    assert_eq!(one(&db, "SELECT count(*) FROM execution_results"), 2_997);
    assert_eq!(
        one(
            &db,
            "SELECT count(*) FROM projector_dead_letters WHERE reason LIKE '%refused by somebody%'"
        ),
        4
    );
    // Their trigger is on, so are the ledgers': the rows' successes are all there.
    let wanted = one(
        &db,
        "SELECT count(DISTINCT job_id || '/' || pc_id) FROM execution_results WHERE exit_code = 0",
    );
    assert_eq!(one(&db, "SELECT count(*) FROM job_completions"), wanted);
    check_i3(&db);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poison_message_leaves_nothing_of_itself_but_its_dead_letter() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    let (_folder, db) = place();
    publish(&js, &small(73, 1)).await.unwrap();
    catch_up(&db, &server.url());
    let planned = small(74, 200);
    let poisoned = planned[100].result_id.as_deref().unwrap();
    // Refused where its row is written already, and its line in the book is not.
    Connection::open(&db)
        .unwrap()
        .execute_batch(&format!(
            "CREATE TRIGGER somebody BEFORE INSERT ON projector_results WHEN NEW.result_id = '{poisoned}'
             BEGIN SELECT raise(ABORT, 'refused by somebody'); END"
        ))
        .unwrap();
    publish(&js, &planned).await.unwrap();
    catch_up(&db, &server.url());
    let of_it = |table: &str| {
        let sql = format!("SELECT count(*) FROM {table} WHERE result_id = '{poisoned}'");
        one(&db, &sql)
    };
    assert_eq!((of_it("execution_results"), of_it("projector_results")), (0, 0));
    assert_eq!(one(&db, "SELECT count(*) FROM execution_results"), 200);
    assert_eq!(one(&db, "SELECT count(*) FROM projector_dead_letters"), 1);
    check_i3(&db);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_held_by_another_process_is_waited_out_and_nothing_becomes_a_dead_letter() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    let (_folder, db) = place();
    let projector = Projector::start(&db, &server.url());
    let planned = small(63, 500);
    publish(&js, &planned[..100]).await.unwrap();
    wait_until("it writes", PATIENCE, || position(&db) == 100);
    let conn = Connection::open(&db).unwrap();
    conn.execute_batch("BEGIN IMMEDIATE").unwrap();
    publish(&js, &planned[100..]).await.unwrap();
    wait_until("it says why it does not write", PATIENCE, || {
        projector.stderr().contains("database is locked")
    });
    assert_eq!(position(&db), 100);
    let durable = durable(&js).await;
    assert!(durable.delivered.stream_sequence > 100, "{durable:?}");
    assert_eq!(
        durable.ack_floor.stream_sequence, 100,
        "what is not committed was acked"
    );
    conn.execute_batch("ROLLBACK").unwrap();
    wait_until("it writes again", PATIENCE, || position(&db) == 500);
    assert!(projector.terminate().success());
    assert_all_there(&db, &planned);
    assert_eq!(one(&db, "SELECT count(*) FROM projector_dead_letters"), 0);
    check_i3(&db);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_waited_out_and_nothing_becomes_a_dead_letter() {
    let Some(disk) = SmallDisk::mount(24) else {
        eprintln!("SKIPPED: mounting a small file system needs root");
        return;
    };
    let server = NatsServer::start();
    let js = server.fleet().await;
    let db = disk.path().join("results.db");
    let projector = Projector::start(&db, &server.url());
    let planned = small(64, 12_000);
    publish(&js, &planned[..100]).await.unwrap();
    wait_until("it writes", PATIENCE, || position(&db) == 100);
    fs::write(disk.path().join("ballast"), vec![0; 6 << 20]).unwrap();
    publish(&js, &planned[100..]).await.unwrap();
    wait_until("the disk is full", PATIENCE, || {
        projector.stderr().contains("cannot write")
    });
    let acked = durable(&js).await.ack_floor.stream_sequence;
    let committed = position(&db);
    assert!(acked <= committed, "{acked} was acked, {committed} is committed");
    fs::remove_file(disk.path().join("ballast")).unwrap();
    disk.remount("size=400m");
    wait_until("it writes again", PATIENCE, || position(&db) == 12_000);
    assert!(projector.terminate().success());
    assert_all_there(&db, &planned);
    assert_eq!(one(&db, "SELECT count(*) FROM projector_dead_letters"), 0);
    check_i3(&db);
}

#[tokio::test(flavor = "multi_thread")]
async fn below_the_reserve_nothing_is_written_until_there_is_space() {
    let Some(disk) = SmallDisk::mount(64) else {
        eprintln!("SKIPPED: mounting a small file system needs root");
        return;
    };
    let server = NatsServer::start();
    let js = server.fleet().await;
    publish(&js, &small(64, 200)).await.unwrap();
    let db = disk.path().join("results.db");
    let env = [("RESULTS_PROJECTOR_STORE_DISK_RESERVE", "80 MiB")];
    let projector = Projector::start_with(&db, &server.url(), &["run"], &env);
    wait_until("it names the reserve", PATIENCE, || {
        projector.stderr().contains("store.disk_reserve")
    });
    assert_eq!(position(&db), 0);
    disk.remount("size=400m");
    wait_until("it writes", PATIENCE, || position(&db) == 200);
    assert!(projector.terminate().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_moved_or_replaced_under_it_ends_the_service_so_that_it_starts_on_the_new_one() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    let (folder, db) = place();
    let mut projector = Projector::start(&db, &server.url());
    publish(&js, &small(66, 10)).await.unwrap();
    wait_until("it writes", PATIENCE, || position(&db) == 10);
    fs::rename(&db, folder.path().join("moved.db")).unwrap();
    fs::write(&db, b"").unwrap();
    publish(&js, &small(67, 10)).await.unwrap();
    let status = projector.wait_exit(PATIENCE);
    assert_eq!(status.code(), Some(3), "{}", projector.stderr());
    assert!(
        projector.stderr().contains("no longer names the file"),
        "{}",
        projector.stderr()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_changed_under_it_is_refused_and_read_anew() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    let (_folder, db) = place();
    let projector = Projector::start(&db, &server.url());
    let planned = small(68, 300);
    publish(&js, &planned[..200]).await.unwrap();
    wait_until("it writes", PATIENCE, || position(&db) == 200);
    {
        // As if an older copy had been restored in place, row by row.
        let conn = Connection::open(&db).unwrap();
        conn.busy_timeout(Duration::from_secs(10)).unwrap();
        conn.execute_batch(
            "BEGIN IMMEDIATE;
             DELETE FROM execution_results WHERE result_id IN
                 (SELECT result_id FROM projector_results WHERE stream_seq > 100);
             DELETE FROM projector_results WHERE stream_seq > 100;
             UPDATE projector_position SET position = 100, projected = 100, published_at = NULL, subject_hash = NULL,
                 past = '[]';
             COMMIT;",
        )
        .unwrap();
    }
    publish(&js, &planned[200..]).await.unwrap();
    wait_until("everything is there again", PATIENCE, || position(&db) == 300);
    assert!(
        projector.stderr().contains("not the expected one"),
        "{}",
        projector.stderr()
    );
    assert!(projector.terminate().success());
    assert_all_there(&db, &planned);
    check_i3(&db);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_is_refused_with_the_first_ones_pid_and_start_time() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    publish(&js, &small(69, 5)).await.unwrap();
    let (_folder, db) = place();
    let mut first = Projector::start(&db, &server.url());
    wait_until("the first runs", PATIENCE, || position(&db) == 5);
    let second = run(&db, &server.url(), &["run"]);
    assert_eq!(second.status.code(), Some(2), "{}", text(&second));
    let said = text(&second);
    assert!(
        said.contains(&format!("process {}", first.pid()))
            && said.contains("running since 20")
            && said.contains("one process writes a database"),
        "{said}"
    );
    assert!(first.is_running());
    // Reading is allowed.
    assert!(run(&db, &server.url(), &["status"]).status.success());
}

#[test]
fn unusable_databases_each_have_one_clear_line_and_exit_code_2() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(
        path("text.db"),
        "this is no database, it only looks like one\n".repeat(100),
    )
    .unwrap();
    fs::create_dir(path("folder.db")).unwrap();
    Connection::open(path("foreign.db"))
        .unwrap()
        .execute_batch("CREATE TABLE customers (id INTEGER)")
        .unwrap();
    Connection::open(path("backend.db"))
        .unwrap()
        .execute_batch(
            "CREATE TABLE _sqlx_migrations (version BIGINT PRIMARY KEY, success BOOLEAN NOT NULL);
             INSERT INTO _sqlx_migrations VALUES (20260604000000, 1), (20260928000000, 0)",
        )
        .unwrap();
    Connection::open(path("newer.db"))
        .unwrap()
        .execute_batch(
            "CREATE TABLE projector_meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
             INSERT INTO projector_meta VALUES ('books_version', '99')",
        )
        .unwrap();
    for (name, wanted) in [
        ("missing/results.db", "make it, or name another file"),
        ("folder.db", "not a file"),
        ("text.db", "is not an SQLite database"),
        ("foreign.db", "a table \"customers\""),
        (
            "backend.db",
            "at migration 20260604000000; 20260927000000 is needed",
        ),
        ("newer.db", "written by a newer results-projector"),
    ] {
        let output = run(&path(name), "nats://127.0.0.1:9", &["run"]);
        assert_eq!(output.status.code(), Some(2), "{name}: {}", text(&output));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(wanted), "{name}: {said}");
        assert_eq!(said.lines().count(), 1, "{name}: {said}");
    }
}

#[test]
fn a_read_only_database_is_refused_with_the_way_out() {
    let Some(disk) = SmallDisk::mount(16) else {
        eprintln!("SKIPPED: mounting a small file system needs root");
        return;
    };
    let db = disk.path().join("results.db");
    fs::write(&db, b"").unwrap();
    fs::write(disk.path().join("results.db.lock"), b"").unwrap();
    disk.remount("ro");
    let output = run(&db, "nats://127.0.0.1:9", &["run"]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    assert!(text(&output).contains("read-only"), "{}", text(&output));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_may_only_read_a_database_that_nobody_has_open_is_told_its_status() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    publish(&js, &plan(905, &Profile::default())).await.unwrap();
    let (folder, db) = place();
    catch_up(&db, &server.url());
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    mode(&db, 0o644);
    mode(folder.path(), 0o555);
    let output = run_unprivileged(&db, "nats://127.0.0.1:9", &["status"]);
    mode(folder.path(), 0o755);
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("RESULTS"), "{}", text(&output));
}

#[test]
fn no_server_is_said_within_seconds_and_exits_3_where_waiting_is_not_asked_for() {
    let (_folder, db) = place();
    let started = Instant::now();
    let output = run(&db, "nats://127.0.0.1:9", &["run", "--until-caught-up"]);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    assert!(
        text(&output).contains("cannot connect to nats://127.0.0.1:9"),
        "{}",
        text(&output)
    );
    assert!(started.elapsed() < Duration::from_secs(10));
    // Status works without a server.
    let status = run(&db, "nats://127.0.0.1:9", &["status"]);
    assert!(
        status.status.success() && text(&status).contains("cannot connect"),
        "{}",
        text(&status)
    );
    // The service waits, and ends on SIGTERM.
    let projector = Projector::start(&db, "nats://127.0.0.1:9");
    wait_until("it says that it waits", PATIENCE, || {
        projector.stderr().contains("waiting for the server")
    });
    assert!(projector.terminate().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_never_ends_is_survived_and_the_log_is_cut_back_after_it() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    let (_folder, db) = place();
    let env = [
        ("RESULTS_PROJECTOR_STORE_WAL_LIMIT", "4 MiB"),
        ("RESULTS_PROJECTOR_GROUP_MAX_ROWS", "500"),
    ];
    let projector = Projector::start_with(&db, &server.url(), &["run"], &env);
    publish(&js, &small(70, 100)).await.unwrap();
    wait_until("it writes", PATIENCE, || position(&db) == 100);
    let reader = dump::open(&db);
    reader
        .execute_batch("BEGIN; SELECT count(*) FROM execution_results")
        .unwrap();
    publish(&js, &small(71, 6_000)).await.unwrap();
    wait_until("it goes on beside the reader", PATIENCE, || {
        position(&db) == 6_100
    });
    let wal = db.with_extension("db-wal");
    assert!(
        fs::metadata(&wal).unwrap().len() > 8 << 20,
        "the reader holds the log"
    );
    drop(reader);
    publish(&js, &small(72, 100)).await.unwrap();
    wait_until("the log is cut back", PATIENCE, || {
        fs::metadata(&wal).unwrap().len() < 8 << 20
    });
    assert!(projector.terminate().success());
}

#[test]
fn configuration_errors_name_the_place_and_exit_2() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    fs::write(&file, "[store]\npage_cach = \"1 GiB\"\n").unwrap();
    let output = run_with(
        &folder.path().join("r.db"),
        "nats://127.0.0.1:9",
        &["config", "check", "--config", file.to_str().unwrap()],
        &[],
    );
    assert_eq!(output.status.code(), Some(2));
    assert!(
        text(&output).contains("config.toml:2: unknown setting \"store.page_cach\""),
        "{}",
        text(&output)
    );
    let output = run(
        &folder.path().join("r.db"),
        "nats://me:secret@127.0.0.1:9",
        &["config", "show"],
    );
    assert_eq!(output.status.code(), Some(2));
    assert!(
        text(&output).contains("a name or password does not belong here")
            && !text(&output).contains("secret"),
        "{}",
        text(&output)
    );
}

/// A result as the broker holds it, its own sequence told by its output.
fn sent(seq: u64, result_id: &str) -> Sent {
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
fn a_message_that_would_leave_a_hole_is_refused_and_the_one_that_is_missing_is_taken() {
    let (_folder, db) = place();
    let mut stage = Stage::open(&db, Manifests::default());
    stage.deliver(&sent(1, "r-1"));
    stage.settle_down();
    // As if 2 had been delivered, or were known to be gone, and nobody had told the writer.
    stage.go_on_after(&[(StreamName::Results, 2)].into());
    stage.deliver(&sent(3, "r-3"));
    stage.settle_down();
    assert_eq!(position(&db), 1);
    assert_eq!(one(&db, "SELECT count(*) FROM execution_results"), 1);
    stage.go_on_after(&[(StreamName::Results, 1)].into());
    for seq in 2..=3 {
        stage.deliver(&sent(seq, &format!("r-{seq}")));
    }
    stage.settle_down();
    assert_eq!(position(&db), 3);
    assert_eq!(one(&db, "SELECT count(*) FROM execution_results"), 3);
    check_i3(&db);
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

#[test]
fn a_foreign_trigger_on_any_column_of_a_result_fires_when_its_row_is_finished() {
    let (_folder, db) = place();
    let mut stage = Stage::open(&db, Manifests::default());
    let start = |seq: u64, id: &str| {
        Sent {
        stream: StreamName::Events,
        subject: "events.started.e.PC-1".to_owned(),
        payload: format!(
            r#"{{"result_id":"{id}","request_id":"q-{seq}","exec_id":"e","pc_id":"PC-1","manifest_id":"j","version":"1.0",
                "started_at":"2026-06-01T00:00:00Z"}}"#
        )
        .into(),
        ..sent(seq, id)
    }
    };
    stage.deliver(&start(1, "before"));
    stage.deliver(&sent(1, "before"));
    stage.settle_down();
    {
        let conn = Connection::open(&db).unwrap();
        conn.busy_timeout(PATIENCE).unwrap();
        conn.execute_batch(
            "CREATE TABLE noticed (id TEXT);
             CREATE TRIGGER somebody AFTER UPDATE OF request_id ON execution_results
             BEGIN INSERT INTO noticed VALUES (NEW.result_id); END",
        )
        .unwrap();
    }
    stage.deliver(&start(2, "after"));
    let later = Timestamp::from_unix_nanos(1_790_000_000_000_000_000);
    stage.deliver(&Sent {
        published: later,
        ..sent(2, "after")
    });
    stage.settle_down();
    assert_eq!(
        one(
            &db,
            "SELECT count(*) FROM execution_results WHERE finished_at IS NOT NULL"
        ),
        2
    );
    assert_eq!(dump::text(&db, "SELECT group_concat(id) FROM noticed"), "after");
    // Whichever way it was finished, the row says when its start was recorded.
    let recorded = dump::text(
        &db,
        "SELECT recorded_at FROM execution_results WHERE result_id = 'after'",
    );
    assert_eq!(recorded, start(2, "after").published.stored());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_only_the_commit_refuses_is_found_in_its_group_and_in_a_backlog() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    let (_folder, db) = place();
    publish(&js, &small(64, 1)).await.unwrap();
    catch_up(&db, &server.url());
    {
        // Counters are written once a group, behind its rows.
        let conn = Connection::open(&db).unwrap();
        conn.execute_batch(
            "INSERT INTO executions (exec_id, job_id, version, initiated_by, target_count) VALUES ('bad', 'j', '1.0', 'me', 9);
             CREATE TRIGGER somebody BEFORE UPDATE ON executions WHEN NEW.exec_id = 'bad'
             BEGIN SELECT raise(ABORT, 'refused by somebody'); END",
        )
        .unwrap();
    }
    publish(&js, &small(65, 700)).await.unwrap();
    let bad = r#"{"result_id":"bad","request_id":"q","exec_id":"bad","pc_id":"PC-1","exit_code":0,"stdout":"","stderr":"",
        "started_at":"2026-06-01T00:00:00Z","finished_at":"2026-06-01T00:00:01Z"}"#;
    js.publish("results.q", bad.into()).await.unwrap().await.unwrap();
    publish(&js, &small(66, 700)).await.unwrap();
    let small_groups = [("RESULTS_PROJECTOR_GROUP_MAX_ROWS", "500")];
    let said = run_with(&db, &server.url(), &["run", "--until-caught-up"], &small_groups);
    assert!(said.status.success(), "{}", text(&said));
    assert_eq!(one(&db, "SELECT count(*) FROM execution_results"), 1_401);
    let reasons = "SELECT group_concat(reason) FROM projector_dead_letters";
    assert!(dump::text(&db, reasons).contains("refused by somebody"));
    assert_eq!(one(&db, "SELECT count(*) FROM projector_dead_letters"), 1);
    assert!(!text(&said).contains("opening anew"), "{}", text(&said));
    check_i3(&db);
}

/// What this process has locked of a file, as the kernel tells it.
fn locks(pid: u32, file: &Path) -> usize {
    use std::os::unix::fs::MetadataExt;
    let inode = format!(":{}", fs::metadata(file).unwrap().ino());
    let pid = pid.to_string();
    fs::read_to_string("/proc/locks")
        .unwrap()
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|line| line.contains(&"POSIX") && line.contains(&pid.as_str()))
        .filter(|line| line.iter().any(|part| part.ends_with(&inode)))
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_opened_anew_is_still_locked_and_keeps_its_log_from_those_who_close_it() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    let (_folder, db) = place();
    let projector = Projector::start(&db, &server.url());
    let planned = small(77, 60);
    publish(&js, &planned[..20]).await.unwrap();
    wait_until("it writes", PATIENCE, || position(&db) == 20);
    assert!(
        locks(projector.pid(), &db) > 0,
        "a database with a log is locked while it is open"
    );
    // Somebody's trigger names a table that is not there: the service doubts its connection and opens the file anew.
    let trigger =
        "CREATE TRIGGER somebody AFTER INSERT ON execution_results BEGIN INSERT INTO nowhere VALUES (1); END";
    Connection::open(&db).unwrap().execute_batch(trigger).unwrap();
    publish(&js, &planned[20..40]).await.unwrap();
    wait_until("it cannot write", PATIENCE, || {
        projector.stderr().contains("cannot write")
    });
    Connection::open(&db)
        .unwrap()
        .execute_batch("DROP TRIGGER somebody")
        .unwrap();
    wait_until("it writes again", PATIENCE, || position(&db) == 40);
    assert!(projector.stderr().contains("writing again"));
    assert!(locks(projector.pid(), &db) > 0, "the file is open and not locked");
    // Whoever opens and closes it now is not the last one: the log stays where it is.
    drop(Connection::open(&db).unwrap());
    let log = db.with_file_name("results.db-wal");
    assert!(log.exists(), "the log was taken away from under the service");
    publish(&js, &planned[40..]).await.unwrap();
    wait_until("what it writes is seen", PATIENCE, || position(&db) == 60);
    projector.kill();
    assert_eq!(one(&db, "SELECT count(*) FROM execution_results"), 60);
    check_i3(&db);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_taken_away_ends_the_service_before_it_writes_into_nothing() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    let (_folder, db) = place();
    let mut projector = Projector::start(&db, &server.url());
    let planned = small(78, 40);
    publish(&js, &planned[..20]).await.unwrap();
    wait_until("it writes", PATIENCE, || position(&db) == 20);
    fs::remove_file(db.with_file_name("results.db-wal")).unwrap();
    publish(&js, &planned[20..]).await.unwrap();
    assert_eq!(projector.wait_exit(PATIENCE).code(), Some(3));
    assert!(
        projector
            .stderr()
            .contains("results.db-wal no longer names the file that was opened")
    );
    // Whatever the log held comes again from the stream.
    let _ = fs::remove_file(db.with_file_name("results.db-shm"));
    catch_up(&db, &server.url());
    assert_all_there(&db, &planned);
    check_i3(&db);
}
