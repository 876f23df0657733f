//! Bursts leave nothing behind. The long version with figures is `benches/load.rs`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_nats::jetstream;
use futures_util::TryStreamExt;
use rusqlite::{Connection, OpenFlags};

use crate::harness::projector::{place, run, text};
use crate::harness::*;

#[path = "../../benches/support/malformed.rs"]
mod malformed;
#[path = "../../benches/support/process.rs"]
mod process;

use malformed::malformed;
use process::{files_beside, handles};

/// `store.wal_limit` and `dead_letters.max_bytes`, small enough for small bursts to pass them.
const WAL_LIMIT: (&str, u64) = ("4 MiB", 4 << 20);
const LETTERS_MAX: (&str, u64) = ("128 KiB", 128 << 10);
const MALFORMED: usize = 300;
const STREAMS: [&str; 3] = ["RESULTS", "EVENTS", "INVENTORY"];

/// All consumers on the server, as `stream/name`.
async fn consumers(js: &jetstream::Context) -> Vec<String> {
    let streams: Vec<String> = js.stream_names().try_collect().await.unwrap();
    let mut found = Vec::new();
    for stream in streams {
        let names: Vec<String> = js
            .get_stream(&stream)
            .await
            .unwrap()
            .consumer_names()
            .try_collect()
            .await
            .unwrap();
        found.extend(names.into_iter().map(|name| format!("{stream}/{name}")));
    }
    found.sort();
    found
}

/// Malformed messages in all three streams, long ones among them.
async fn flood(js: &jetstream::Context, from: usize) {
    let bad: Vec<Planned> = (from..from + MALFORMED)
        .map(|number| Planned {
            subject: ["results.bad", "events.started.bad", "inventory.PC-BAD.hw"][number % 3].into(),
            payload: malformed(number, if number % 50 == 7 { 100_000 } else { 500 }),
            ..plan(
                1,
                &Profile {
                    results: 1,
                    ..Profile::default()
                },
            )
            .remove(0)
        })
        .collect();
    fleet::publish_messages(js, &bad).await.unwrap();
    for number in 0..30 {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Note", "x".repeat(8_000));
        js.publish_with_headers("results.bad", headers, malformed(number, 0))
            .await
            .unwrap()
            .await
            .unwrap();
    }
}

/// Where the streams stand, on the server and in the database.
async fn caught_up(js: &jetstream::Context, db: &Path) {
    let mut ends = 0;
    for name in STREAMS {
        let stream = js.get_stream(name).await.unwrap();
        ends += stream.cached_info().state.last_sequence;
    }
    let read = || -> Result<u64, rusqlite::Error> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
        Connection::open_with_flags(db, flags)?.query_row(
            "SELECT sum(position) FROM projector_position",
            [],
            |row| row.get(0),
        )
    };
    // Before the first group there is no file, or no table in it.
    wait_until("it is caught up", PATIENCE, || {
        read().is_ok_and(|position| position == ends)
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn bursts_leave_no_handle_no_file_no_consumer_and_no_long_log_behind() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    fleet::put_manifests(&js).await.unwrap();
    let (_folder, db) = place();
    let service = Projector::start_with(
        &db,
        &server.url(),
        &["run"],
        &[
            ("RESULTS_PROJECTOR_STORE_WAL_LIMIT", WAL_LIMIT.0),
            ("RESULTS_PROJECTOR_DEAD_LETTERS_MAX_BYTES", LETTERS_MAX.0),
        ],
    );
    // Whatever is opened once is open after a little of everything.
    publish(&js, &plan(70, &Profile::everything(300))).await.unwrap();
    flood(&js, 0).await;
    caught_up(&js, &db).await;
    // A second connection too: SQLite keeps its handle for the next one, as closing it would drop the writer's locks.
    let retried = run(&db, &server.url(), &["outputs", "retry", "--all"]);
    assert!(matches!(retried.status.code(), Some(0 | 1)), "{}", text(&retried));
    let (open, files) = (handles(service.pid()), files_beside(&db));

    for round in 1..=2 {
        let small = Profile {
            results: 4_000,
            ..Profile::default()
        };
        publish(&js, &plan(70 + round, &small)).await.unwrap();
        let long = Profile {
            results: 20,
            overflow_permille: 1_000,
            overflow_bytes: (1_000_000, 1_000_001),
            ..Profile::default()
        };
        publish(&js, &plan(80 + round, &long)).await.unwrap();
        flood(&js, MALFORMED * round as usize).await;
        publish(&js, &plan(90 + round, &Profile::everything(500)))
            .await
            .unwrap();
        caught_up(&js, &db).await;
    }

    let wal = PathBuf::from(format!("{}-wal", db.display()));
    wait_until("the log is back under its limit", PATIENCE, || {
        std::fs::metadata(&wal).map_or(0, |meta| meta.len()) <= WAL_LIMIT.1
    });
    let mut now = handles(service.pid());
    wait_until(
        &format!("the handles are those of the start, {open} (first after the bursts: {now})"),
        PATIENCE,
        || {
            now = handles(service.pid());
            now == open
        },
    );
    assert_eq!(files_beside(&db), files);
    // The watch of the manifests is a consumer of its bucket, by the protocol.
    let (watching, reading): (Vec<String>, Vec<String>) = consumers(&js)
        .await
        .into_iter()
        .partition(|name| name.starts_with("KV_jobs/"));
    assert_eq!(
        reading,
        [
            "EVENTS/results_projector_events",
            "INVENTORY/results_projector_inventory",
            "RESULTS/results_projector_results"
        ]
    );
    assert_eq!(watching.len(), 1, "{watching:?}");
    let kept = one(
        &db,
        "SELECT sum(coalesce(octet_length(payload), 0) + coalesce(octet_length(headers), 0)) FROM projector_dead_letters",
    );
    assert!(
        kept as u64 <= LETTERS_MAX.1,
        "{kept} bytes of payloads and headers"
    );
    assert!(
        one(
            &db,
            "SELECT count(*) FROM projector_dead_letters WHERE payload IS NULL"
        ) > 0
    );
    assert!(one(&db, "SELECT count(*) FROM projector_dead_letters") as usize >= 3 * MALFORMED);
    check_i3(&db);
    assert!(service.terminate().success());
}

/// A quiet log is at most so long.
const QUIET: u64 = 32 << 20;

/// Outputs that make the log longer than a quiet one may be; returns what tells its length.
async fn grown_log(js: &jetstream::Context, db: &Path, seed: u64) -> impl Fn() -> u64 + use<> {
    let long = Profile {
        results: 60,
        overflow_permille: 1_000,
        overflow_bytes: (1_000_000, 1_000_001),
        ..Profile::default()
    };
    publish(js, &plan(seed, &long)).await.unwrap();
    caught_up(js, db).await;
    let wal = PathBuf::from(format!("{}-wal", db.display()));
    move || std::fs::metadata(&wal).map_or(0, |meta| meta.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_copied_a_moment_ago_is_cut_once_all_is_quiet() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    let (_folder, db) = place();
    let service = Projector::start(&db, &server.url());
    let wal_bytes = grown_log(&js, &db, 76).await;
    assert!(wal_bytes() > QUIET, "{} bytes", wal_bytes());
    let few = Profile {
        results: 100,
        ..Profile::default()
    };
    // So many lone commits that the log is copied as soon as there is a moment for it.
    for one in plan(77, &few).chunks(1) {
        publish(&js, one).await.unwrap();
        caught_up(&js, &db).await;
    }
    wait_until("the log is cut", Duration::from_secs(20), || wal_bytes() <= QUIET);
    assert!(service.terminate().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_log_that_a_reader_kept_from_being_cut_is_cut_when_the_reader_has_left() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    let (_folder, db) = place();
    let service = Projector::start(&db, &server.url());
    let wal_bytes = grown_log(&js, &db, 75).await;
    {
        let reader = dump::open(&db);
        reader
            .execute_batch("BEGIN; SELECT count(*) FROM execution_results")
            .unwrap();
        assert!(wal_bytes() > QUIET, "{} bytes", wal_bytes());
        // A quiet log is cut after three seconds; less waiting would only let a broken product pass.
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(wal_bytes() > QUIET, "the reader does not keep it");
    }
    wait_until("the log is cut", Duration::from_secs(20), || wal_bytes() <= QUIET);
    assert!(service.terminate().success());
}
