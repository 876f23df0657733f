//! A service that has no database yet loads long streams in bulk, and goes over to live without a seam.

use std::time::Duration;

use super::*;
use crate::harness::fleet::Dice;
use crate::harness::projector::run_with;

/// In builds for tests, so many messages are many.
const BULK: [(&str, &str); 1] = [("RESULTS_PROJECTOR_STORE_BULK_FROM", "100")];
const LOADED: &str = "nothing had been read yet: loaded in bulk";
const READ: &str = "SELECT count(*) FROM projector_position";

#[tokio::test(flavor = "multi_thread")]
async fn catching_up_without_a_database_loads_in_bulk_and_is_an_undisturbed_run() {
    let fleet = Fleet::new(91, &Profile::everything(400)).await;
    fleet.say(0, 900).await;
    let database = Database::nowhere();
    let output = run_with(
        &database.db,
        &fleet.url(),
        &["run", "--until-caught-up"],
        &[BULK[0], ("RESULTS_PROJECTOR_LOG_LEVEL", "info")],
    );
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains(LOADED), "{}", text(&output));
    database.remove_empty_log();
    let undisturbed = fleet.read();
    assert_rebuilt(&database, &undisturbed, &[]);
    fleet.assert_no_consumers_of_loads().await;

    fleet.say(900, 1_000).await;
    for database in [&database, &undisturbed] {
        let output = run_with(&database.db, &fleet.url(), &["run", "--until-caught-up"], &BULK);
        assert!(output.status.success(), "{}", text(&output));
        // Where there is a database, it is gone on with.
        assert!(!text(&output).contains("in bulk"), "{}", text(&output));
    }
    assert_same(&database.db, &undisturbed.db);
    check_i3(&database.db);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_not_there_yet_is_waited_for_and_no_reason_to_warn() {
    let fleet = Fleet::new(94, &Profile::everything(100)).await;
    fleet.say(0, 1_000).await;
    fleet.js.delete_stream("EVENTS").await.unwrap();
    let database = Database::nowhere();
    let output = run_with(
        &database.db,
        &fleet.url(),
        &["run", "--until-caught-up"],
        &[BULK[0], ("RESULTS_PROJECTOR_SILENCE_SECONDS", "2")],
    );
    let said = text(&output);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(
        said.contains("error: cannot catch up: the stream EVENTS does not exist"),
        "{said}"
    );
    assert!(!said.contains("in bulk"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_while_it_loads_and_afterwards_is_all_there() {
    let mut fleet = Fleet::new(92, &Profile::everything(scale(800, 8_000))).await;
    fleet.say(0, 500).await;
    // The server is away at first.
    fleet.server.stop();
    let database = Database::nowhere();
    let projector = Projector::start_with(&database.db, &fleet.url(), &["run"], &BULK);
    wait_until("it waits for the server", PATIENCE, || {
        projector.stderr().contains("waiting for the server")
    });
    assert_eq!(one(&database.db, READ), 0);
    fleet.server.start_again();
    fleet.js = fleet.server.jetstream().await;
    let mut part = 500;
    wait_until("it loads in bulk", PATIENCE, || {
        projector.stderr().contains("loading the streams in bulk")
    });
    while !projector.stderr().contains(LOADED) && part < 900 {
        fleet.say(part, part + 10).await;
        part += 10;
    }
    let while_loading = part;
    wait_until("it has loaded", PATIENCE, || projector.stderr().contains(LOADED));
    for _ in 0..10 {
        let next = (part + 10).min(1_000);
        fleet.say(part, next).await;
        part = next;
    }
    fleet.say(part, 1_000).await;
    assert!(while_loading > 500);
    let mut lasts = 0;
    for stream in ["RESULTS", "EVENTS", "INVENTORY"] {
        let mut stream = fleet.js.get_stream(stream).await.unwrap();
        lasts += stream.info().await.unwrap().state.last_sequence as i64;
    }
    wait_until("all is projected", PATIENCE, || {
        database.db.exists() && one(&database.db, "SELECT sum(position) FROM projector_position") == lasts
    });
    fleet.assert_no_consumers_of_loads().await;
    assert!(projector.terminate().success());
    database.assert_alone(&[]);
    // What was pending when the service ended is tried again.
    catch_up(&database.db, &fleet.url());
    assert_same(&database.db, &fleet.read().db);
    check_i3(&database.db);
    crate::survives::assert_all_there(&database.db, &fleet.planned);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_or_stopped_in_the_first_load_it_begins_again() {
    let profile = Profile {
        missing: 0,
        missing_scans: 0,
        ..Profile::everything(400)
    };
    let fleet = Fleet::new(93, &profile).await;
    fleet.say(0, 1_000).await;
    let proxy = Proxy::start(fleet.server.address()).await;
    proxy.delay(Duration::from_millis(20));
    let database = Database::nowhere();
    let mut dice = Dice::new(93);
    for number in 0..scale(4, 20) {
        let url = if number == 0 { proxy.url() } else { fleet.url() };
        let projector = Projector::start_with(&database.db, &url, &["run"], &BULK);
        wait_until("it loads", PATIENCE, || {
            projector.stderr().contains("loading the streams in bulk")
        });
        if number == 0 {
            // Within the promised five seconds, as any service.
            assert!(projector.terminate().success());
            database.remove_empty_log();
            database.assert_alone(&[]);
            assert_eq!(one(&database.db, READ), 0);
            continue;
        }
        std::thread::sleep(Duration::from_millis(dice.below(600)));
        projector.kill();
        // Nothing of it, or all.
        if one(&database.db, READ) > 0 {
            check_i3(&database.db);
            database.assert_sound();
            assert!(one(&database.db, "SELECT count(*) FROM execution_results") > 0);
            for suffix in ["", "-wal", "-shm"] {
                let _gone = fs::remove_file(database.beside(suffix));
            }
        }
    }
    let output = run_with(&database.db, &fleet.url(), &["run", "--until-caught-up"], &BULK);
    assert!(output.status.success(), "{}", text(&output));
    database.remove_empty_log();
    assert_rebuilt(&database, &fleet.read(), &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_whose_database_was_lost_is_not_played_into_the_new_one() {
    let fleet = Fleet::new(94, &Profile::everything(150)).await;
    fleet.say(0, 1_000).await;
    let live = fleet.read();
    let hold = Connection::open(&live.db).unwrap();
    hold.execute_batch("UPDATE execution_results SET stdout = 'of another time', pc_id = 'PC-X'")
        .unwrap();
    let lost = live.copy();
    drop(hold);
    let undisturbed = fleet.read();
    for args in [&["rebuild"][..], &["run", "--until-caught-up"]] {
        for env in [&BULK[..], &[]] {
            let database = lost.copy();
            fs::remove_file(&database.db).unwrap();
            assert!(fs::metadata(database.beside("-wal")).unwrap().len() > 0);
            let output = run_with(&database.db, &fleet.url(), args, env);
            assert!(output.status.success(), "{}", text(&output));
            database.remove_empty_log();
            assert_rebuilt(&database, &undisturbed, &[]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_who_reads_the_empty_database_does_not_keep_the_service_from_its_work() {
    let fleet = Fleet::new(95, &Profile::everything(150)).await;
    fleet.say(0, 1_000).await;
    let database = Database::nowhere();
    let waiting = Projector::start(&database.db, "nats://127.0.0.1:1");
    wait_until("it waits for the server", PATIENCE, || {
        waiting.stderr().contains("waiting for the server")
    });
    assert!(waiting.terminate().success());
    let reader = Connection::open(&database.db).unwrap();
    let read: i64 = reader.query_row(READ, [], |row| row.get(0)).unwrap();
    assert_eq!(read, 0);
    let output = run_with(&database.db, &fleet.url(), &["run", "--until-caught-up"], &BULK);
    assert!(output.status.success(), "{}", text(&output));
    let said = text(&output);
    assert!(
        said.contains("is open in another process") && said.contains("message by message"),
        "{said}"
    );
    // It is the same file still.
    let read: i64 = reader.query_row(READ, [], |row| row.get(0)).unwrap();
    assert_eq!(read, 3);
    drop(reader);
    database.remove_empty_log();
    assert_rebuilt(&database, &fleet.read(), &[]);
}

#[test]
fn a_folder_that_is_not_there_is_refused_at_once() {
    let (folder, _) = place();
    let db = folder.path().join("not-there/results.db");
    for args in [&["run"][..], &["run", "--until-caught-up"], &["rebuild"]] {
        // Nor is the server.
        let output = run(&db, "nats://127.0.0.1:1", args);
        assert_eq!(output.status.code(), Some(2), "{}", text(&output));
        assert!(text(&output).contains("no folder"), "{}", text(&output));
    }
}
