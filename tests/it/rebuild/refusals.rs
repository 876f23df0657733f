//! What stands in a rebuild's way is told, and leaves the old database as it was.

use std::process::Output;
use std::time::{Duration, Instant};

use async_nats::jetstream::stream::{Config, RetentionPolicy};

use super::*;
use crate::harness::backend::{BackendFile, Ledgers};
use crate::harness::projector::run_with;

/// What is silent is waited for; less long in the everyday run.
fn silence() -> [(&'static str, &'static str); 1] {
    [("RESULTS_PROJECTOR_SILENCE_SECONDS", scale("5", "30"))]
}

const ANYHOW: [&str; 3] = ["rebuild", "--no-carry-over", "--forget-completions"];

fn refused(output: &Output, code: i32, why: &str) {
    let text = text(output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    let error: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("error: ") || line.contains("error: "))
        .collect();
    assert!(error.len() == 1 && error[0].contains(why), "{why}: {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_the_database_open_is_named_and_it_stays_as_it_is() {
    let fleet = Fleet::new(101, &Profile::everything(150)).await;
    fleet.say(0, 500).await;
    let database = fleet.read();
    let before = database.dump();

    // The service.
    let projector = Projector::start(&database.db, &fleet.url());
    fleet.say(500, 510).await;
    wait_until("it runs", PATIENCE, || projector.stderr().contains("RESULTS"));
    let output = run(&database.db, &fleet.url(), &["rebuild"]);
    refused(&output, 2, &format!("in use by process {}", projector.pid()));
    assert!(projector.terminate().success());
    catch_up(&database.db, &fleet.url());
    database.remove_empty_log();
    database.assert_alone(&[]);
    let now = database.dump();
    assert_ne!(now, before);

    // Somebody who reads, in a transaction and between two.
    fleet.say(510, 1_000).await;
    for reading in ["BEGIN", ""] {
        let reader = Connection::open(&database.db).unwrap();
        reader.execute_batch(reading).unwrap();
        let rows = "SELECT count(*) FROM execution_results";
        let count: i64 = reader.query_row(rows, [], |row| row.get(0)).unwrap();
        let output = run(&database.db, &fleet.url(), &["rebuild"]);
        refused(&output, 2, "is open in another process");
        let again: i64 = reader.query_row(rows, [], |row| row.get(0)).unwrap();
        assert_eq!(count, again);
        drop(reader);
        database.assert_as_it_was(&now);
    }
    fleet.rebuild(&database, &[]);
    assert_rebuilt(&database, &fleet.read(), &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_at_work_keeps_everybody_else_from_writing() {
    let fleet = Fleet::new(102, &Profile::everything(300)).await;
    fleet.say(0, 1_000).await;
    let database = fleet.read();
    let before = database.dump();
    let proxy = Proxy::start(fleet.server.address()).await;
    proxy.delay(Duration::from_millis(30));
    for interrupt in [false, true] {
        let rebuilding = Projector::start_with(&database.db, &proxy.url(), &["rebuild"], &[]);
        wait_until("it loads", PATIENCE, || {
            crate::harness::position(&database.beside(".rebuild")) > 0
        });
        for args in [&["rebuild"][..], &["run"]] {
            let output = run(&database.db, &fleet.url(), args);
            refused(&output, 2, &format!("in use by process {}", rebuilding.pid()));
        }
        // Whoever reads, reads the old one.
        assert_eq!(database.dump(), before);
        let stopped = Instant::now();
        let status = match interrupt {
            true => rebuilding.interrupt(),
            false => rebuilding.terminate(),
        };
        assert_eq!(status.code(), Some(3));
        assert!(
            stopped.elapsed() < Duration::from_secs(5),
            "{:?}",
            stopped.elapsed()
        );
        database.assert_as_it_was(&before);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_goes_away_in_the_middle_leaves_the_old_database() {
    let mut fleet = Fleet::new(103, &Profile::everything(600)).await;
    fleet.say(0, 500).await;
    let database = fleet.read();
    let before = database.dump();
    fleet.say(500, 1_000).await;
    let proxy = Proxy::start(fleet.server.address()).await;
    proxy.delay(Duration::from_millis(20));
    let mut rebuilding = Projector::start_with(&database.db, &proxy.url(), &["rebuild"], &silence());
    wait_until("it loads", PATIENCE, || {
        crate::harness::position(&database.beside(".rebuild")) > 0
    });
    fleet.server.kill();
    proxy.cut();
    let status = rebuilding.wait_exit(Duration::from_secs(scale(20, 45)));
    assert_eq!(status.code(), Some(3), "{}", rebuilding.stderr());
    let said = rebuilding.stderr();
    assert!(
        said.lines()
            .any(|line| line.starts_with("error: cannot catch up")),
        "{said}"
    );
    database.assert_as_it_was(&before);
    fleet.server.start_again();
    fleet.rebuild(&database, &[]);
    assert_rebuilt(&database, &fleet.read(), &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_cannot_be_read_are_refused() {
    let fleet = Fleet::new(104, &Profile::everything(100)).await;
    fleet.say(0, 1_000).await;
    let database = fleet.read();
    let before = database.dump();
    fleet.js.delete_stream("EVENTS").await.unwrap();
    let output = run(&database.db, &fleet.url(), &["rebuild"]);
    refused(&output, 3, "EVENTS does not exist");
    database.assert_as_it_was(&before);
    fleet
        .js
        .create_stream(Config {
            name: "EVENTS".into(),
            subjects: vec!["events.>".into()],
            retention: RetentionPolicy::WorkQueue,
            ..Default::default()
        })
        .await
        .unwrap();
    for args in [&["rebuild"][..], &ANYHOW] {
        let output = run(&database.db, &fleet.url(), args);
        refused(&output, 2, "retention");
        database.assert_as_it_was(&before);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_leaves_the_old_database() {
    let Some(disk) = SmallDisk::mount(16) else {
        eprintln!("SKIPPED: mounting a small file system needs root");
        return;
    };
    let fleet = Fleet::new(105, &Profile::everything(2_000)).await;
    fleet.say(0, 200).await;
    let db = disk.path().join("results.db");
    catch_up(&db, &fleet.url());
    let before = dump(&db);
    fleet.say(200, 1_000).await;
    let ballast = disk.path().join("ballast");
    let names = || -> BTreeSet<String> {
        fs::read_dir(disk.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !name.ends_with("-wal") && !name.ends_with("-shm"))
            .collect()
    };
    fs::write(&ballast, vec![0; 8 << 20]).unwrap();
    let output = run_with(&db, &fleet.url(), &["rebuild"], &silence());
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    assert!(text(&output).contains("full"), "{}", text(&output));
    fs::remove_file(&ballast).unwrap();
    assert_eq!(
        names(),
        BTreeSet::from(["results.db".to_owned(), "results.db.lock".to_owned()])
    );
    assert_eq!(dump(&db), before);
    assert_eq!(dump::text(&db, "PRAGMA integrity_check"), "ok");
    disk.remount("size=400m");
    rebuild(&db, &fleet.url(), &[]);
    assert_same(&db, &fleet.read().db);
    check_i3(&db);
}

/// A file from which nothing is to be taken must not be in the way of a new one, however it looks.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_file_is_refused_with_the_way_out_which_works() {
    let fleet = Fleet::new(106, &Profile::everything(150)).await;
    fleet.say(0, 1_000).await;
    let live = fleet.read();
    let bytes = fs::read(&live.db).unwrap();
    let (page, bytes_half) = (8_192, bytes.len() / 2);
    let with = |damage: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = bytes.clone();
        damage(&mut bytes);
        bytes
    };
    let cases = [
        (
            "no database",
            b"this is not a database, but a text\n".repeat(300),
            true,
        ),
        ("no header", with(&|bytes| bytes[..100].fill(0)), true),
        ("no schema", with(&|bytes| bytes[100..page].fill(0xff)), true),
        ("no pages", with(&|bytes| bytes[page..].fill(0xff)), true),
        // The tables' names can be read.
        (
            "few pages",
            with(&|bytes| bytes.iter_mut().skip(bytes_half).for_each(|byte| *byte = 0xff)),
            false,
        ),
        ("cut off", with(&|bytes| bytes.truncate(3 * page)), true),
    ];
    for (what, damaged, is_kept) in cases {
        let database = Database::nowhere();
        fs::write(&database.db, &damaged).unwrap();
        fs::set_permissions(&database.db, fs::Permissions::from_mode(0o640)).unwrap();
        fs::write(database.beside("-wal"), b"a log of other times").unwrap();
        // What is left of the last one may be the completions.
        let ways = [&["rebuild"][..], &["rebuild", "--no-carry-over"]];
        for args in &ways[..if is_kept { 2 } else { 1 }] {
            let output = run(&database.db, &fleet.url(), args);
            refused(&output, 2, "rebuild --no-carry-over --forget-completions");
            assert!(fs::read(&database.db).unwrap() == damaged, "{what}");
        }
        let said = fleet.rebuild(&database, &ANYHOW[1..]);
        match is_kept {
            true => {
                let kept = PathBuf::from(said["kept"].as_str().unwrap());
                assert!(fs::read(&kept).unwrap() == damaged, "{what}");
                let log = PathBuf::from(format!("{}-wal", kept.display()));
                assert_eq!(fs::read(&log).unwrap(), b"a log of other times", "{what}");
                assert_rebuilt(&database, &live, &[&kept, &log]);
            }
            false => assert_rebuilt(&database, &live, &[]),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_something_else_is_never_replaced() {
    let fleet = Fleet::new(107, &Profile::everything(100)).await;
    fleet.say(0, 1_000).await;
    let foreign = Database::nowhere();
    foreign.execute("CREATE TABLE letters (id INTEGER PRIMARY KEY); INSERT INTO letters VALUES (1)");
    let backends = Database::nowhere();
    BackendFile::with(Ledgers::LikeOurs).create(&backends.db);
    for (database, why) in [
        (&foreign, "something else"),
        (&backends, "the backend's database"),
    ] {
        let before = fs::read(&database.db).unwrap();
        for args in [&["rebuild"][..], &["rebuild", "--no-carry-over"], &ANYHOW] {
            let output = run(&database.db, &fleet.url(), args);
            refused(&output, 2, why);
            assert!(fs::read(&database.db).unwrap() == before);
        }
    }
    // What an adopted one knows is kept.
    let adopted = backends.copy();
    catch_up(&adopted.db, &fleet.url());
    for args in [&["rebuild", "--no-carry-over"][..], &ANYHOW] {
        refused(&run(&adopted.db, &fleet.url(), args), 2, "what it knows is kept");
    }
    // One of a later version.
    let newer = fleet.read();
    newer.execute("UPDATE projector_meta SET value = value + 1000 WHERE key = 'books_version'");
    let before = fs::read(&newer.db).unwrap();
    let output = run(&newer.db, &fleet.url(), &["rebuild"]);
    refused(&output, 2, "newer");
    assert!(fs::read(&newer.db).unwrap() == before);
}
