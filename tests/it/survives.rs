//! What must survive anything: every result a row, once, with its whole output.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::harness::fleet::Dice;
use crate::harness::projector::{catch_up, place};
use crate::harness::{self, *};
use crate::writer::durable;

/// Every planned result is a row whose outputs have their hashes; other rows are of runs that started.
pub fn assert_all_there(db: &Path, planned: &[Planned]) {
    let mut expected: HashMap<&str, &Planned> = HashMap::new();
    let mut started: HashSet<&str> = HashSet::new();
    for planned in planned {
        started.extend(planned.started_id.as_deref());
        if let Some(id) = planned.result_id.as_deref() {
            // The first in the stream counts.
            expected.entry(id).or_insert(planned);
        }
    }
    let conn = harness::dump::open(db);
    let mut statement = conn
        .prepare("SELECT result_id, stdout, stderr FROM execution_results")
        .unwrap();
    let mut rows = statement.query([]).unwrap();
    let mut found = 0;
    while let Some(row) = rows.next().unwrap() {
        let id: String = row.get(0).unwrap();
        let Some(planned) = expected.get(id.as_str()) else {
            assert!(started.contains(id.as_str()), "row {id} was never published");
            continue;
        };
        for (column, wanted) in [(1, planned.stdout_sha256), (2, planned.stderr_sha256)] {
            let text: String = row.get(column).unwrap();
            if let Some(wanted) = wanted {
                let hash: [u8; 32] = Sha256::digest(text.as_bytes()).into();
                assert_eq!(
                    hash,
                    wanted,
                    "{id} column {column}: {}",
                    &text[..text.len().min(200)]
                );
            }
        }
        found += 1;
    }
    assert_eq!(found, expected.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_kills_at_random_moments_lose_nothing_and_repeat_nothing() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    let results = scale(6_000, 20_000);
    let profile = Profile {
        results,
        duplicate_permille: 20,
        malformed: 12,
        overflow_permille: 4,
        ..Profile::default()
    };
    let planned = plan(11, &profile);
    let (_folder, db) = place();

    let publishing = tokio::spawn({
        let planned = planned.clone();
        async move {
            for part in planned.chunks(200) {
                publish(&js, part).await.unwrap();
                // Spread over the kills.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    });
    let mut dice = Dice::new(7);
    for _ in 0..20 {
        let projector = Projector::start(&db, &server.url());
        std::thread::sleep(Duration::from_millis(30 + dice.below(400)));
        projector.kill();
    }
    publishing.await.unwrap();
    catch_up(&db, &server.url());

    assert_all_there(&db, &planned);
    check_i3(&db);
    let (_folder, undisturbed) = place();
    catch_up(&undisturbed, &server.url());
    assert_same(&db, &undisturbed);
    assert_eq!(one(&db, "SELECT count(*) FROM projector_dead_letters"), 12);
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_cuts_of_the_connection_lose_nothing_and_repeat_nothing() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    let planned = plan(
        12,
        &Profile {
            results: scale(15_000, 40_000),
            overflow_permille: 4,
            ..Profile::default()
        },
    );
    publish(&js, &planned).await.unwrap();
    let proxy = Proxy::start(server.address()).await;
    let (_folder, db) = place();
    let mut dice = Dice::new(3);
    // Some cuts come in the middle of the burst that follows an opening, some while connecting, some in between.
    proxy.cut_after(60_000);
    let projector = Projector::start_with(
        &db,
        &proxy.url(),
        &["run"],
        &[("RESULTS_PROJECTOR_SOURCE_BATCH_MESSAGES", "500")],
    );
    let last = planned.len() as u64;
    for number in 1..=50 {
        let armed = proxy.cuts();
        wait_until("the connection is cut", PATIENCE, || {
            // Nothing flows any more once all is read: then the cut is made by hand.
            if position(&db) == last {
                proxy.cut();
            }
            proxy.cuts() > armed
        });
        if number % 7 == 0 {
            proxy.delay(Duration::from_millis(3));
        } else {
            proxy.delay(Duration::ZERO);
        }
        proxy.cut_after(1_000 + dice.below(900_000));
    }
    proxy.cut_after(u64::MAX >> 2);
    proxy.delay(Duration::ZERO);
    wait_until("everything is projected", PATIENCE, || position(&db) == last);
    assert!(projector.terminate().success());
    assert_all_there(&db, &planned);
    check_i3(&db);
    let (_folder, undisturbed) = place();
    catch_up(&undisturbed, &server.url());
    assert_same(&db, &undisturbed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_and_comes_back_is_read_on_from_the_position() {
    let mut server = NatsServer::start();
    let js = server.fleet().await;
    let planned = plan(
        13,
        &Profile {
            results: 4_000,
            ..Profile::default()
        },
    );
    let (_folder, db) = place();
    let projector = Projector::start(&db, &server.url());
    for part in planned.chunks(1_000) {
        publish(&js, part).await.unwrap();
        server.kill();
        server.start_again();
        wait_until("the publisher is connected again", PATIENCE, || {
            js.client().connection_state() == async_nats::connection::State::Connected
        });
    }
    wait_until("everything is projected", PATIENCE, || position(&db) == 4_000);
    assert!(projector.terminate().success());
    assert_all_there(&db, &planned);
    check_i3(&db);
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_it_within_five_seconds_with_everything_in_hand_committed() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    let planned = plan(
        14,
        &Profile {
            results: 20_000,
            ..Profile::default()
        },
    );
    publish(&js, &planned).await.unwrap();
    let (_folder, db) = place();
    let projector = Projector::start(&db, &server.url());
    wait_until("it writes", PATIENCE, || position(&db) > 0);
    let started = std::time::Instant::now();
    let status = projector.terminate();
    assert!(
        status.success() && started.elapsed() < Duration::from_secs(5),
        "{status} after {:?}",
        started.elapsed()
    );
    assert!(
        !db.with_extension("db-wal").exists(),
        "a clean stop leaves no log behind"
    );
    assert_eq!(
        durable(&js).await.ack_floor.stream_sequence,
        position(&db),
        "the last commit is acked"
    );
    check_i3(&db);
    catch_up(&db, &server.url());
    assert_all_there(&db, &planned);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_group_in_hand_when_it_is_stopped_is_committed_and_acked() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    let planned = plan(
        16,
        &Profile {
            results: 200,
            ..Profile::default()
        },
    );
    publish(&js, &planned[..100]).await.unwrap();
    let (_folder, db) = place();
    let projector = Projector::start(&db, &server.url());
    wait_until("it writes", PATIENCE, || position(&db) == 100);
    // The writer waits for somebody's lock, the group in hand.
    let lock = rusqlite::Connection::open(&db).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    publish(&js, &planned[100..]).await.unwrap();
    let delivered = async {
        while durable(&js).await.num_ack_pending < 100 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, delivered)
        .await
        .expect("all is delivered");
    // The reader has ended by then; the sooner the lock goes, the less this can show.
    let released = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(500));
        drop(lock);
    });
    assert!(projector.terminate().success());
    released.join().unwrap();
    assert_eq!(durable(&js).await.ack_floor.stream_sequence, position(&db));
    check_i3(&db);
}

/// What a database says of RESULTS: rows, lines of messages, the position.
fn told(db: &Path) -> (i64, i64, u64) {
    let count = |table: &str| one(db, &format!("SELECT count(*) FROM {table}"));
    (
        count("execution_results"),
        count("projector_results"),
        position(db),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_death_just_before_a_commit_leaves_nothing_of_its_group_and_one_just_after_it_all() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    let planned = plan(
        15,
        &Profile {
            results: 1_000,
            duplicate_permille: 20,
            ..Profile::default()
        },
    );
    let (first, rest) = planned.split_at(100);
    publish(&js, first).await.unwrap();
    let (_folder, db) = place();
    catch_up(&db, &server.url());
    let before = told(&db);
    publish(&js, rest).await.unwrap();
    let die_at = |point: &str| {
        let mut projector = Projector::start_with(
            &db,
            &server.url(),
            &["run"],
            &[("RESULTS_PROJECTOR_DIE_AT", point)],
        );
        assert!(!projector.wait_exit(PATIENCE).success());
        told(&db)
    };
    assert_eq!(die_at("before-commit"), before);
    let after = die_at("after-commit");
    assert!(after.2 > before.2 && after.1 as u64 == after.2, "{after:?}");
    check_i3(&db);
    catch_up(&db, &server.url());
    assert_all_there(&db, &planned);
    check_i3(&db);
    let (_folder, undisturbed) = place();
    catch_up(&undisturbed, &server.url());
    assert_same(&db, &undisturbed);
}

/// The copy holds the consumers of an earlier process: no reason to believe that it has taken over.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_restored_from_a_copy_of_an_earlier_process_is_read_on_by_the_one_that_runs() {
    let mut server = NatsServer::start();
    let js = server.fleet().await;
    let planned = plan(
        15,
        &Profile {
            results: 900,
            ..Profile::default()
        },
    );
    let (early, rest) = planned.split_at(300);
    let (lost, fresh) = rest.split_at(300);
    publish(&js, early).await.unwrap();
    let (_folder, db) = place();
    catch_up(&db, &server.url());
    let earlier = Projector::start(&db, &server.url());
    wait_until("it reads", PATIENCE, || earlier.stderr().contains(" reading "));
    earlier.kill();
    server.stop();
    let copies = tempfile::tempdir().unwrap();
    server.copy_store(copies.path());
    server.start_again();
    let mut projector = Projector::start(&db, &server.url());
    publish(&server.jetstream().await, lost).await.unwrap();
    wait_until("what will be lost is projected", PATIENCE, || {
        position(&db) == 600
    });
    server.kill();
    server.restore_store(copies.path());
    server.start_again();
    publish(&server.jetstream().await, fresh).await.unwrap();
    wait_until("it has read on", PATIENCE, || {
        one(&db, "SELECT count(*) FROM execution_results") == 900
    });
    assert!(projector.is_running(), "{}", projector.stderr());
    assert!(projector.terminate().success());
    assert_all_there(&db, &planned);
    check_i3(&db);
}
