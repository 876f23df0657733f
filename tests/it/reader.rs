//! Each row of the reader's table (DESIGN §3) against a real server.

use std::path::Path;
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::consumer::pull;
use serde_json::json;

use crate::harness::projector::{catch_up, place, run, run_with, text};
use crate::harness::*;
use crate::survives::assert_all_there;
use crate::writer::durable;

const DURABLE: &str = "results_projector_results";

async fn stream(js: &jetstream::Context) -> jetstream::stream::Stream {
    js.get_stream("RESULTS").await.unwrap()
}

fn rows(db: &Path) -> i64 {
    one(db, "SELECT count(*) FROM execution_results")
}

fn gaps(db: &Path) -> Vec<(i64, i64, i64)> {
    let conn = dump::open(db);
    let mut statement = conn
        .prepare(
            "SELECT incarnation, first_seq, last_seq FROM projector_gaps ORDER BY incarnation, first_seq",
        )
        .unwrap();
    let rows = statement
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .unwrap();
    rows.map(Result::unwrap).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_deleted_while_we_read_is_made_again_at_the_position() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    let planned = small(21, 3_000);
    let (_folder, db) = place();
    let projector = Projector::start(&db, &server.url());
    for (number, part) in planned.chunks(500).enumerate() {
        publish(&js, part).await.unwrap();
        wait_until("the part is projected", PATIENCE, || {
            position(&db) == (number as u64 + 1) * 500
        });
        js.delete_consumer_from_stream(DURABLE, "RESULTS").await.unwrap();
    }
    publish(&js, &small(22, 10)).await.unwrap();
    wait_until("reading goes on", PATIENCE, || position(&db) == 3_010);
    assert!(projector.terminate().success());
    check_i3(&db);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_deleted_while_we_are_away_is_not_missed() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    publish(&js, &small(21, 300)).await.unwrap();
    let (_folder, db) = place();
    catch_up(&db, &server.url());
    js.delete_consumer_from_stream(DURABLE, "RESULTS").await.unwrap();
    publish(&js, &small(22, 300)).await.unwrap();
    catch_up(&db, &server.url());
    assert_eq!((rows(&db), position(&db)), (600, 600));
    check_i3(&db);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_left_behind_by_a_kill_with_deliveries_outstanding_is_taken_over_at_once() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    let planned = small(23, 5_000);
    publish(&js, &planned[..100]).await.unwrap();
    let (_folder, db) = place();
    let projector = Projector::start(&db, &server.url());
    wait_until("it writes", PATIENCE, || position(&db) == 100);
    // While somebody locks the database nothing is committed, so nothing is acked.
    let lock = rusqlite::Connection::open(&db).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    publish(&js, &planned[100..]).await.unwrap();
    let mut consumer: jetstream::consumer::PullConsumer =
        stream(&js).await.get_consumer(DURABLE).await.unwrap();
    let outstanding = async {
        while consumer.info().await.unwrap().num_ack_pending < 500 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, outstanding)
        .await
        .expect("hundreds of deliveries are outstanding");
    projector.kill();
    drop(lock);
    let started = std::time::Instant::now();
    catch_up(&db, &server.url());
    assert!(
        started.elapsed() < Duration::from_secs(10),
        "it waited for a process that is gone"
    );
    assert_all_there(&db, &planned);
    check_i3(&db);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_below_the_position_changes_nothing_and_one_above_it_is_a_gap() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    publish(&js, &small(24, 100)).await.unwrap();
    let (_folder, db) = place();
    catch_up(&db, &server.url());
    stream(&js).await.purge().sequence(50).await.unwrap();
    publish(&js, &small(25, 100)).await.unwrap();
    catch_up(&db, &server.url());
    assert_eq!((rows(&db), gaps(&db)), (200, vec![]));
    publish(&js, &small(26, 100)).await.unwrap();
    stream(&js).await.purge().sequence(251).await.unwrap();
    catch_up(&db, &server.url());
    assert_eq!((rows(&db), gaps(&db)), (250, vec![(1, 201, 250)]));
    check_i3(&db);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_purged_whole_while_we_are_away_leaves_one_gap_up_to_its_end() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    publish(&js, &small(24, 100)).await.unwrap();
    let (_folder, db) = place();
    catch_up(&db, &server.url());
    publish(&js, &small(25, 40)).await.unwrap();
    stream(&js).await.purge().await.unwrap();
    catch_up(&db, &server.url());
    assert_eq!(
        (rows(&db), position(&db), gaps(&db)),
        (100, 140, vec![(1, 101, 140)])
    );
    publish(&js, &small(26, 10)).await.unwrap();
    catch_up(&db, &server.url());
    assert_eq!((rows(&db), position(&db)), (110, 150));
    check_i3(&db);
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_deleted_in_the_middle_are_gaps_in_their_place() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    publish(&js, &small(27, 30)).await.unwrap();
    for seq in [3, 10, 11, 12] {
        stream(&js).await.delete_message(seq).await.unwrap();
    }
    let (_folder, db) = place();
    catch_up(&db, &server.url());
    assert_eq!(
        (rows(&db), position(&db), gaps(&db)),
        (26, 30, vec![(1, 3, 3), (1, 10, 12)])
    );
    check_i3(&db);
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_deleted_at_the_end_before_they_were_read_are_a_gap() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    publish(&js, &small(27, 20)).await.unwrap();
    let (_folder, db) = place();
    catch_up(&db, &server.url());
    // The service looks on: it must find out by itself that nothing comes any more.
    publish(&js, &small(28, 3)).await.unwrap();
    for seq in 21..=23 {
        stream(&js).await.delete_message(seq).await.unwrap();
    }
    let projector = Projector::start(&db, &server.url());
    wait_until("the end is known to be gone", PATIENCE, || position(&db) == 23);
    assert_eq!(gaps(&db), vec![(1, 21, 23)]);
    publish(&js, &small(29, 5)).await.unwrap();
    wait_until("reading goes on behind it", PATIENCE, || position(&db) == 28);
    assert!(projector.terminate().success());
    check_i3(&db);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_message_at_the_position_deleted_is_no_reason_to_start_over() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    publish(&js, &small(27, 20)).await.unwrap();
    let (_folder, db) = place();
    catch_up(&db, &server.url());
    stream(&js).await.delete_message(20).await.unwrap();
    publish(&js, &small(28, 5)).await.unwrap();
    catch_up(&db, &server.url());
    assert_eq!((rows(&db), gaps(&db)), (25, vec![]));
    assert_eq!(one(&db, "SELECT max(incarnation) FROM projector_position"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_made_anew_begins_an_incarnation_and_overwrites_nothing() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    publish(&js, &small(31, 50)).await.unwrap();
    let (_folder, db) = place();
    catch_up(&db, &server.url());
    js.delete_stream("RESULTS").await.unwrap();
    server.fleet().await;
    // Longer than before: only the identity of the message at the position tells.
    publish(&js, &small(32, 80)).await.unwrap();
    catch_up(&db, &server.url());
    assert_eq!((rows(&db), position(&db)), (130, 80));
    assert_eq!(one(&db, "SELECT max(incarnation) FROM projector_position"), 2);
    assert_eq!(
        one(
            &db,
            "SELECT count(*) FROM projector_results WHERE incarnation = 1"
        ),
        50
    );
    check_i3(&db);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_server_is_noticed_while_we_run() {
    let mut server = NatsServer::start();
    let js = server.fleet().await;
    publish(&js, &small(31, 50)).await.unwrap();
    let (_folder, db) = place();
    let projector = Projector::start(&db, &server.url());
    wait_until("it is projected", PATIENCE, || position(&db) == 50);
    server.kill();
    server.wipe_store();
    server.start_again();
    let js = server.fleet().await;
    publish(&js, &small(32, 7)).await.unwrap();
    wait_until("the new stream is projected", PATIENCE, || rows(&db) == 57);
    assert!(projector.terminate().success());
    assert_eq!(position(&db), 7);
    check_i3(&db);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_restored_from_an_older_copy_is_read_on_after_the_last_message_in_common() {
    let mut server = NatsServer::start();
    let js = server.fleet().await;
    let early = small(33, 1_000);
    publish(&js, &early).await.unwrap();
    let copies = tempfile::tempdir().unwrap();
    server.stop();
    server.copy_store(copies.path());
    server.start_again();
    let js = server.jetstream().await;
    let lost = small(34, 300);
    publish(&js, &lost).await.unwrap();
    let (_folder, db) = place();
    // In small groups, so that there are positions to compare.
    let env = [("RESULTS_PROJECTOR_GROUP_MAX_ROWS", "50")];
    assert!(
        run_with(&db, &server.url(), &["run", "--until-caught-up"], &env)
            .status
            .success()
    );
    server.stop();
    server.restore_store(copies.path());
    server.start_again();
    // More than were lost: sequences 1001.. stand for other messages now, and the stream is longer than our position.
    let js = server.jetstream().await;
    let fresh = small(35, 400);
    publish(&js, &fresh).await.unwrap();
    catch_up(&db, &server.url());
    let all: Vec<Planned> = early.into_iter().chain(lost).chain(fresh).collect();
    assert_all_there(&db, &all);
    assert_eq!(position(&db), 1_400);
    let first = one(&db, "SELECT first FROM projector_position WHERE incarnation = 2");
    assert!(
        (2..=1_001).contains(&first),
        "the last kept position in common is used, not the start: {first}"
    );
    check_i3(&db);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_met_again_in_a_new_life_of_the_stream_keeps_its_entry() {
    let mut server = NatsServer::start();
    let js = server.fleet().await;
    publish(
        &js,
        &plan(
            36,
            &Profile {
                results: 40,
                malformed: 4,
                ..Profile::default()
            },
        ),
    )
    .await
    .unwrap();
    let copies = tempfile::tempdir().unwrap();
    server.stop();
    server.copy_store(copies.path());
    server.start_again();
    publish(&server.jetstream().await, &small(37, 20)).await.unwrap();
    let (_folder, db) = place();
    catch_up(&db, &server.url());
    // Which positions are kept depends on how the messages fell into groups; without any, all are met again.
    rusqlite::Connection::open(&db)
        .unwrap()
        .execute("UPDATE projector_position SET past = '[]'", [])
        .unwrap();
    server.stop();
    server.restore_store(copies.path());
    server.start_again();
    publish(&server.jetstream().await, &small(38, 5)).await.unwrap();
    catch_up(&db, &server.url());
    assert_eq!(one(&db, "SELECT count(*) FROM projector_dead_letters"), 4);
    assert_eq!(
        one(
            &db,
            "SELECT sum(dead) FROM projector_position WHERE incarnation = 2"
        ),
        4
    );
    check_i3(&db);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_restored_from_an_older_copy_catches_up_behind_the_ack_floor() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    let planned = small(39, 900);
    let (folder, db) = place();
    publish(&js, &planned[..300]).await.unwrap();
    catch_up(&db, &server.url());
    let old = folder.path().join("old.db");
    std::fs::copy(&db, &old).unwrap();
    publish(&js, &planned[300..]).await.unwrap();
    catch_up(&db, &server.url());
    std::fs::rename(&old, &db).unwrap();
    catch_up(&db, &server.url());
    assert_all_there(&db, &planned);
    assert_eq!(one(&db, "SELECT max(incarnation) FROM projector_position"), 1);
    check_i3(&db);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_streams_creation_time_changed_is_the_same_stream() {
    let mut server = NatsServer::start();
    let js = server.fleet().await;
    publish(&js, &small(40, 100)).await.unwrap();
    let (_folder, db) = place();
    catch_up(&db, &server.url());
    let before = stream(&js).await.cached_info().created;
    server.stop();
    // The server keeps the time in the stream's metadata, which has a keyed checksum beside it.
    let meta_file = server.store().join("jetstream/$G/streams/RESULTS/meta.inf");
    let mut meta: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(&meta_file).unwrap()).unwrap();
    meta["created"] = json!("2026-01-01T00:00:00Z");
    let meta = meta.to_string();
    std::fs::write(&meta_file, &meta).unwrap();
    std::fs::write(
        meta_file.with_file_name("meta.sum"),
        store_checksum("RESULTS", meta.as_bytes()),
    )
    .unwrap();
    server.start_again();
    let js = server.jetstream().await;
    assert_ne!(stream(&js).await.cached_info().created, before);
    publish(&js, &small(41, 10)).await.unwrap();
    catch_up(&db, &server.url());
    assert_eq!((rows(&db), position(&db)), (110, 110));
    assert_eq!(one(&db, "SELECT max(incarnation) FROM projector_position"), 1);
    check_i3(&db);
}

/// The checksum of a stream's metadata file: HighwayHash under the SHA-256 of the stream's name, in hexadecimal.
fn store_checksum(stream: &str, bytes: &[u8]) -> String {
    use highway::HighwayHash;
    use sha2::Digest;
    let key = sha2::Sha256::digest(stream.as_bytes());
    let word = |at: usize| u64::from_le_bytes(key[at * 8..at * 8 + 8].try_into().unwrap());
    let mut hasher = highway::HighwayHasher::new(highway::Key([word(0), word(1), word(2), word(3)]));
    hasher.append(bytes);
    hasher
        .finalize64()
        .to_le_bytes()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_whose_retention_deletes_on_ack_is_refused() {
    let server = NatsServer::start();
    let js = server.jetstream().await;
    js.create_stream(jetstream::stream::Config {
        name: "RESULTS".into(),
        subjects: vec!["results.>".into()],
        retention: jetstream::stream::RetentionPolicy::WorkQueue,
        ..Default::default()
    })
    .await
    .unwrap();
    let (_folder, db) = place();
    let output = run(&db, &server.url(), &["run"]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    assert!(text(&output).contains("retention is workqueue") && text(&output).contains("set it to limits"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_another_process_is_using_is_refused_and_can_be_taken_over() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    publish(&js, &small(42, 50)).await.unwrap();
    let (folder, db) = place();
    let mut first = Projector::start(&db, &server.url());
    wait_until("the first is reading", PATIENCE, || position(&db) == 50);
    // A copy of the database: the same database id, another file, another lock.
    let copy = folder.path().join("copy.db");
    dump::open(&db)
        .execute("VACUUM INTO ?1", [copy.to_str().unwrap()])
        .unwrap();
    let env = [
        ("RESULTS_PROJECTOR_SOURCE_EXPIRES", "2 s"),
        ("RESULTS_PROJECTOR_SOURCE_HEARTBEAT", "500 ms"),
    ];
    let refused = run_with(&copy, &server.url(), &["run"], &env);
    assert_eq!(refused.status.code(), Some(2), "{}", text(&refused));
    let said = text(&refused);
    assert!(
        said.contains(&format!("process {}", first.pid())) && said.contains("--take-over-consumers"),
        "{said}"
    );
    assert!(first.is_running());
    // Another database altogether, with the same names at the server.
    let (_elsewhere, other) = place();
    let refused = run_with(&other, &server.url(), &["run"], &env);
    assert_eq!(refused.status.code(), Some(2), "{}", text(&refused));
    assert!(text(&refused).contains(&format!("process {}", first.pid())) && first.is_running());

    let second = Projector::start_with(&copy, &server.url(), &["run", "--take-over-consumers"], &[]);
    let ended = first.wait_exit(PATIENCE);
    assert_eq!(ended.code(), Some(2), "{}", first.stderr());
    assert!(
        first
            .stderr()
            .contains(&format!("taken over by process {}", second.pid())),
        "{}",
        first.stderr()
    );
    publish(&js, &small(43, 5)).await.unwrap();
    wait_until("the second reads on", PATIENCE, || position(&copy) == 55);
    assert!(second.terminate().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_consumer_of_somebody_else_is_taken_over_and_said() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    publish(&js, &small(44, 20)).await.unwrap();
    let config = pull::Config {
        durable_name: Some(DURABLE.into()),
        ..Default::default()
    };
    stream(&js).await.create_consumer(config).await.unwrap();
    let (_folder, db) = place();
    let output = catch_up(&db, &server.url());
    assert!(
        text(&output).contains("taking over the consumer"),
        "{}",
        text(&output)
    );
    assert_eq!(rows(&db), 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_stream_is_waited_for_or_made_when_asked() {
    let server = NatsServer::start();
    let (_folder, db) = place();
    let output = run(&db, &server.url(), &["run", "--until-caught-up"]);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    assert!(
        text(&output).contains("RESULTS does not exist"),
        "{}",
        text(&output)
    );
    let mut waiting = Projector::start(&db, &server.url());
    wait_until("it says what it waits for", PATIENCE, || {
        waiting.stderr().contains("RESULTS does not exist")
    });
    let js = server.fleet().await;
    publish(&js, &small(45, 5)).await.unwrap();
    wait_until("it reads the stream once it is there", PATIENCE, || {
        position(&db) == 5
    });
    assert!(waiting.is_running() && waiting.terminate().success());

    let server = NatsServer::start();
    let (_folder, db) = place();
    let output = run(
        &db,
        &server.url(),
        &["run", "--until-caught-up", "--create-missing"],
    );
    assert!(output.status.success(), "{}", text(&output));
    let js = server.jetstream().await;
    assert!(js.get_stream("RESULTS").await.is_ok() && js.get_object_store("result_output").await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_ack_of_an_older_opening_cannot_stop_the_reader_for_good() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    publish(&js, &small(46, 500)).await.unwrap();
    let (_folder, db) = place();
    let projector = Projector::start(&db, &server.url());
    wait_until("it is caught up", PATIENCE, || position(&db) == 500);
    // Far beyond what this consumer has delivered: its floor is then above its deliveries.
    let client = server.client().await;
    client
        .publish(format!("$JS.ACK.RESULTS.{DURABLE}.1.5000.5000.1.0"), "".into())
        .await
        .unwrap();
    client.flush().await.unwrap();
    publish(&js, &small(47, 500)).await.unwrap();
    wait_until("it reads on", PATIENCE, || position(&db) == 1_000);
    assert!(projector.terminate().success());
    check_i3(&db);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_acked_in_time_comes_again_and_is_dropped() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    publish(&js, &small(48, 2_000)).await.unwrap();
    let (_folder, db) = place();
    let env = [("RESULTS_PROJECTOR_SOURCE_ACK_WAIT", "1 s")];
    let projector = Projector::start_with(&db, &server.url(), &["run"], &env);
    wait_until("it reads", PATIENCE, || position(&db) > 0);
    // Longer than the ack wait: the server delivers again what it has no ack of.
    projector.pause();
    std::thread::sleep(Duration::from_millis(2_500));
    projector.resume();
    publish(&js, &small(49, 500)).await.unwrap();
    wait_until("all is projected", PATIENCE, || position(&db) == 2_500);
    assert!(projector.terminate().success());
    assert_eq!(rows(&db), 2_500);
    check_i3(&db);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redelivery_of_what_is_not_committed_is_not_acked() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    let planned = small(50, 300);
    publish(&js, &planned[..100]).await.unwrap();
    let (_folder, db) = place();
    let env = [("RESULTS_PROJECTOR_SOURCE_ACK_WAIT", "1 s")];
    let projector = Projector::start_with(&db, &server.url(), &["run"], &env);
    wait_until("it reads", PATIENCE, || position(&db) == 100);
    let lock = rusqlite::Connection::open(&db).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    publish(&js, &planned[100..]).await.unwrap();
    let redelivered = async {
        while durable(&js).await.num_redelivered == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, redelivered)
        .await
        .expect("the server delivers again");
    // The answer to a check proves that everything which came before it was judged.
    wait_until("it has said that it cannot write", PATIENCE, || {
        projector.stderr().contains("database is locked")
    });
    assert_eq!(durable(&js).await.ack_floor.stream_sequence, 100);
    drop(lock);
    wait_until("all is projected", PATIENCE, || position(&db) == 300);
    assert!(projector.terminate().success());
    assert_all_there(&db, &planned);
    check_i3(&db);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_published_while_the_reader_looks_at_itself_is_no_gap() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    publish(&js, &small(51, 10)).await.unwrap();
    // A look asks several questions, one after the other: far from the server most of the time goes by between them.
    let proxy = Proxy::start(server.address()).await;
    let (_folder, db) = place();
    let env = [("RESULTS_PROJECTOR_SOURCE_CHECK_INTERVAL", "100 ms")];
    let projector = Projector::start_with(&db, &proxy.url(), &["run"], &env);
    wait_until("it reads", PATIENCE, || position(&db) == 10);
    proxy.delay(Duration::from_millis(40));
    let planned = small(52, 30);
    let mut dice = fleet::Dice::new(52);
    for message in &planned {
        publish(&js, std::slice::from_ref(message)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(250 + dice.below(200))).await;
    }
    wait_until("all is projected", PATIENCE, || position(&db) == 40);
    assert!(projector.terminate().success());
    assert_eq!(gaps(&db), []);
    assert_eq!(rows(&db), 40);
    check_i3(&db);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_behind_a_database_that_is_held_is_not_taken_into_memory() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    let planned = small(53, 8_000);
    publish(&js, &planned[..10]).await.unwrap();
    let (_folder, db) = place();
    let env = [
        ("RESULTS_PROJECTOR_SOURCE_IN_FLIGHT_BYTES", "4 MiB"),
        ("RESULTS_PROJECTOR_SOURCE_BATCH_MESSAGES", "100"),
        ("RESULTS_PROJECTOR_SOURCE_CHECK_INTERVAL", "1 h"),
    ];
    let projector = Projector::start_with(&db, &server.url(), &["run"], &env);
    wait_until("it reads", PATIENCE, || position(&db) == 10);
    let lock = rusqlite::Connection::open(&db).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    publish(&js, &planned[10..]).await.unwrap();
    // SQLite waits for the lock for seconds: all that will be asked for has been by then.
    wait_until("it has said that it cannot write", PATIENCE, || {
        projector.stderr().contains("database is locked")
    });
    let delivered = durable(&js).await.delivered.stream_sequence;
    // 4 MiB hold 2,048 messages of nothing; the client has asked for some more.
    assert!(delivered <= 2_500, "{delivered} messages were taken");
    drop(lock);
    wait_until("all is projected", PATIENCE, || position(&db) == 8_000);
    assert!(projector.terminate().success());
    assert_all_there(&db, &planned);
}
