//! What a start finds wrong, and says: the configuration, the database, another process, the server.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::harness::projector::{catch_up, place, run, run_unprivileged, run_with, text};
use crate::harness::*;

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
