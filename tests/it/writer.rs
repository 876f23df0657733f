//! The writer: poisoned groups, an environment that does not allow a commit, files that move.

use std::fs;
use std::path::Path;
use std::time::Duration;

use async_nats::jetstream;
use results_projector::projection::manifests::Manifests;
use results_projector::wire::kv::StreamName;
use results_projector::wire::time::Timestamp;
use rusqlite::Connection;

use crate::harness::projector::{catch_up, place, run_with, text};
use crate::harness::*;
use crate::rules::sent;
use crate::stage::{Sent, Stage};
use crate::survives::assert_all_there;

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
