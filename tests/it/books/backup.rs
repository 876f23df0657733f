//! `backup` and `dump`.

use std::path::{Path, PathBuf};
use std::process::Command;

use rusqlite::Connection;
use serde_json::Value;

use super::asked;
use crate::harness::backend::BackendFile;
use crate::harness::fleet::put_manifests;
use crate::harness::projector::{catch_up, place, run, text};
use crate::harness::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_a_database_at_work_is_sound_and_catches_up_once_it_is_put_back() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    put_manifests(&js).await.unwrap();
    let planned = plan(311, &Profile::everything(scale(3_000, 30_000)));
    let (folder, db) = place();
    let projector = Projector::start(&db, &server.url());
    let publishing = tokio::spawn({
        let (js, planned) = (js.clone(), planned.clone());
        async move { publish(&js, &planned).await.unwrap() }
    });
    let mut backups = Vec::new();
    let mut at = 0;
    for number in 0..3 {
        wait_until("the service has written more", PATIENCE, || position(&db) > at);
        at = position(&db);
        let to = folder.path().join(format!("backup-{number}.db"));
        let done = asked(&db, &server.url(), &["backup", to.to_str().unwrap()], 0);
        let names = COMPANIONS.map(|suffix| beside(&to, suffix));
        assert!(
            names.iter().all(|name| !name.exists()),
            "nothing is left beside it"
        );
        let streams = done["backup"]["streams"].as_array().unwrap();
        let results = streams
            .iter()
            .find(|stream| stream["stream"] == "RESULTS")
            .unwrap();
        assert!(results["position"].as_u64().unwrap() >= at, "{done}");
        assert_eq!(position(&to), results["position"].as_u64().unwrap());
        check_i3(&to);
        backups.push(to);
    }
    publishing.await.unwrap();
    wait_until("everything is projected", PATIENCE * 3, || {
        let last = planned
            .iter()
            .filter(|planned| planned.stream() == "RESULTS")
            .count();
        position(&db) == last as u64
    });
    assert!(projector.terminate().success());
    catch_up(&db, &server.url());
    for backup in backups {
        let sound: String = Connection::open(&backup)
            .unwrap()
            .query_row("PRAGMA integrity_check", [], |row| row.get(0))
            .unwrap();
        assert_eq!(sound, "ok");
        catch_up(&backup, &server.url());
        assert_same(&backup, &db);
        check_i3(&backup);
    }
}

const COMPANIONS: [&str; 4] = [".part", "-wal", "-shm", "-journal"];

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// A database that takes a while to copy.
async fn large(server: &NatsServer, db: &Path) {
    let js = server.fleet().await;
    js.publish("results.q", "not json".into())
        .await
        .unwrap()
        .await
        .unwrap();
    catch_up(db, &server.url());
    Connection::open(db)
        .unwrap()
        .execute_batch(&format!(
            "CREATE TABLE projector_ballast (bytes BLOB);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {})
             INSERT INTO projector_ballast SELECT randomblob(1000000) FROM n",
            scale(200, 1_000)
        ))
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_is_killed_leaves_no_file_and_the_next_one_cleans_up() {
    let server = NatsServer::start();
    let (folder, db) = place();
    large(&server, &db).await;
    let to = folder.path().join("backup.db");
    let part = beside(&to, ".part");
    for round in 0..3 {
        let mut child = Command::new(env!("CARGO_BIN_EXE_results-projector"))
            .args(["--db", db.to_str().unwrap(), "backup", to.to_str().unwrap()])
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        wait_until("the copy is under way", PATIENCE, || {
            std::fs::metadata(&part).is_ok_and(|part| part.len() > 1 << 20)
                || child.try_wait().unwrap().is_some()
        });
        child.kill().unwrap();
        let status = child.wait().unwrap();
        assert!(
            !status.success(),
            "it was killed in the middle, not after the end"
        );
        assert!(!to.exists() && part.exists(), "round {round}");
    }
    let done = run(&db, &server.url(), &["backup", to.to_str().unwrap()]);
    assert!(done.status.success(), "{}", text(&done));
    assert!(text(&done).contains("checked"), "{}", text(&done));
    assert!(to.exists() && !part.exists());
    let taken = run(&db, &server.url(), &["backup", to.to_str().unwrap()]);
    assert_eq!(taken.status.code(), Some(2), "{}", text(&taken));
    // It waited neither for the lock nor left a trace in the database.
    check_i3(&db);
    assert_same(&db, &to);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_backends_own_file_is_backed_up_whole() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    put_manifests(&js).await.unwrap();
    publish(&js, &plan(312, &Profile::everything(200))).await.unwrap();
    let (folder, db) = place();
    BackendFile::default().create(&db);
    catch_up(&db, &server.url());
    let to = folder.path().join("backup.db");
    asked(&db, &server.url(), &["backup", to.to_str().unwrap()], 0);
    let tables = "SELECT group_concat(name || sql) FROM (SELECT name, sql FROM sqlite_schema ORDER BY name)";
    assert_eq!(dump::text(&db, tables), dump::text(&to, tables));
    assert_eq!(own_dump(&db, &server.url()), own_dump(&to, &server.url()));
    let rows = |db: &Path| dump::one(db, "SELECT count(*) FROM execution_results");
    assert!(rows(&to) > 0);
    catch_up(&to, &server.url());
}

fn own_dump(db: &Path, url: &str) -> Vec<String> {
    let output = run(db, url, &["dump"]);
    assert!(output.status.success(), "{}", text(&output));
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect()
}

/// The lines of `dump` in the words of the tests' own dump.
fn in_other_words(lines: &[String]) -> Vec<String> {
    let (mut table, mut columns) = (String::new(), Vec::new());
    let mut words = Vec::new();
    for line in lines {
        match serde_json::from_str::<Value>(line).unwrap() {
            Value::Object(head) => {
                table = head["table"].as_str().unwrap().to_owned();
                columns = head["columns"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|column| column.as_str().unwrap().to_owned())
                    .collect();
            }
            Value::Array(cells) => {
                let cells: Vec<String> = columns
                    .iter()
                    .zip(cells)
                    .map(|(column, cell)| match cell {
                        Value::Null => format!("{column}=NULL"),
                        Value::Number(number) if number.is_i64() => format!("{column}={number}"),
                        Value::Number(number) => format!("{column}={:?}", number.as_f64().unwrap()),
                        Value::String(text) => format!("{column}={text:?}"),
                        other => panic!("{other}"),
                    })
                    .collect();
                words.push(format!("{table}: {}", cells.join(" ")));
            }
            other => panic!("{other}"),
        }
    }
    words
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dump_is_the_read_model_row_by_row_and_nothing_else() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    put_manifests(&js).await.unwrap();
    publish(&js, &plan(313, &Profile::everything(500))).await.unwrap();
    let (folder, db) = place();
    catch_up(&db, &server.url());
    let lines = own_dump(&db, &server.url());
    let expected = dump::dump(&db);
    assert!(expected.len() > 1_000);
    assert_eq!(in_other_words(&lines), expected);
    // Into a file, some tables only, also while the service runs.
    let projector = Projector::start(&db, &server.url());
    let socket = folder.path().join("results.db.sock");
    wait_until("the service is at work", PATIENCE, || socket.exists());
    let to = folder.path().join("some.jsonl");
    let output = run(
        &db,
        &server.url(),
        &[
            "dump",
            "--table",
            "feeds",
            "--table",
            "check_status",
            "--out",
            to.to_str().unwrap(),
        ],
    );
    assert!(
        output.status.success() && output.stdout.is_empty(),
        "{}",
        text(&output)
    );
    let some: Vec<String> = std::fs::read_to_string(&to)
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect();
    let wanted: Vec<String> = expected
        .into_iter()
        .filter(|line| line.starts_with("feeds: ") || line.starts_with("check_status: "))
        .collect();
    assert_eq!(in_other_words(&some), wanted);
    assert!(projector.terminate().success());
    let unknown = run(&db, &server.url(), &["dump", "--table", "projector_results"]);
    assert_eq!(unknown.status.code(), Some(2), "{}", text(&unknown));
    let over_it = run(&db, &server.url(), &["dump", "--out", db.to_str().unwrap()]);
    assert_eq!(over_it.status.code(), Some(2), "{}", text(&over_it));
    check_i3(&db);
}
