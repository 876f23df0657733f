//! Outputs behind pointers: present, late, gone, too large, refused, broken.

use std::path::Path;
use std::time::{Duration, Instant};

use async_nats::jetstream;
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use serde_json::json;

use crate::harness::fleet::{create_output_store, publish_messages, store_objects};
use crate::harness::nats::BYTES_MAX;
use crate::harness::projector::{catch_up, place, run, run_with, text};
use crate::harness::*;
use crate::survives::assert_all_there;

/// A result that points to an object for its stdout, and maybe one for its stderr.
fn pointing(id: &str, stdout: &str, stderr: Option<&str>) -> (String, Bytes) {
    let mut message = json!({
        "result_id": id, "request_id": format!("q-{id}"), "pc_id": "PC-1", "exit_code": 0, "skipped": false,
        "stdout": "", "stderr": "", "started_at": "2026-06-01T00:00:00Z", "finished_at": "2026-06-01T00:00:05Z",
        "stdout_object": stdout,
    });
    if let Some(stderr) = stderr {
        message["stderr_object"] = json!(stderr);
    }
    (format!("results.q-{id}"), Bytes::from(message.to_string()))
}

async fn send(js: &jetstream::Context, (subject, payload): (String, Bytes)) {
    js.publish(subject, payload).await.unwrap().await.unwrap();
}

async fn put(js: &jetstream::Context, name: &str, bytes: &[u8]) {
    js.get_object_store("result_output")
        .await
        .unwrap()
        .put(name, &mut &bytes[..])
        .await
        .unwrap();
}

fn state(db: &Path, id: &str) -> String {
    let conn = dump::open(db);
    conn.query_row(
        "SELECT state FROM projector_outputs WHERE result_id = ?1 AND field = 'stdout'",
        [id],
        |row| row.get(0),
    )
    .unwrap_or_else(|_| "none".to_owned())
}

fn stdout(db: &Path, id: &str) -> String {
    dump::open(db)
        .query_row(
            "SELECT stdout FROM execution_results WHERE result_id = ?1",
            [id],
            |row| row.get(0),
        )
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn outputs_that_come_back_late_leave_the_rows_of_an_undisturbed_run() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    let results = scale(200, 2_000);
    let profile = Profile {
        results,
        overflow_permille: 1_000,
        overflow_bytes: (300_000, 1_000_000),
        ..Profile::default()
    };
    let planned = plan(51, &profile);
    let (_folder, db) = place();
    let projector = Projector::start(&db, &server.url());
    publish(&js, &planned[..results / 2]).await.unwrap();
    wait_until("the first half is projected", PATIENCE * 3, || {
        position(&db) == (results / 2) as u64
    });
    js.delete_object_store("result_output").await.unwrap();
    publish_messages(&js, &planned[results / 2..]).await.unwrap();
    let started = Instant::now();
    wait_until("every row is there at once", PATIENCE, || {
        position(&db) == results as u64
    });
    assert!(
        started.elapsed() < Duration::from_secs(20),
        "rows waited for outputs: {:?}",
        started.elapsed()
    );
    let missing = one(
        &db,
        "SELECT count(*) FROM projector_outputs WHERE state = 'pending'",
    );
    assert_eq!(missing as usize, results - results / 2);
    let listed = run(&db, &server.url(), &["outputs", "list", "--json"]);
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!(listed["outputs"].as_array().unwrap().len(), results - results / 2);
    let last = planned.last().unwrap();
    let text = stdout(&db, last.result_id.as_deref().unwrap());
    assert!(
        text.starts_with("[results-projector] stdout is in object ") && text.ends_with(", not fetched yet"),
        "{text}"
    );

    // The whole store comes back: the deleted first half too, for the run to compare with.
    create_output_store(&js, Some(BYTES_MAX)).await.unwrap();
    store_objects(&js, &planned).await.unwrap();
    wait_until("all outputs are repaired", PATIENCE * 6, || {
        one(
            &db,
            "SELECT count(*) FROM projector_outputs WHERE state <> 'fetched'",
        ) == 0
    });
    assert!(projector.terminate().success());
    assert_all_there(&db, &planned);
    check_i3(&db);
    let (_folder, undisturbed) = place();
    catch_up(&undisturbed, &server.url());
    assert_same(&db, &undisturbed);
}

#[tokio::test(flavor = "multi_thread")]
async fn three_thousand_objects_in_one_go_leave_no_consumer_at_the_server() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    let results = scale(1_200, 3_000);
    let profile = Profile {
        results,
        overflow_permille: 1_000,
        overflow_bytes: (262_145, 262_400),
        ..Profile::default()
    };
    let planned = plan(52, &profile);
    publish(&js, &planned).await.unwrap();
    let (_folder, db) = place();
    catch_up(&db, &server.url());
    assert_all_there(&db, &planned);
    assert_eq!(
        one(
            &db,
            "SELECT count(*) FROM projector_outputs WHERE state <> 'fetched'"
        ),
        0
    );
    let store = js.get_stream("OBJ_result_output").await.unwrap();
    assert_eq!(store.cached_info().state.consumer_count, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_as_large_as_the_budget_and_two_that_exceed_it_together_pass() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    // 64 MiB alone; then two of 40 MiB in one result, with a budget of 64 MiB; small ones around them.
    let large = vec![b'x'; 64 << 20];
    let half = vec![b'y'; 40 << 20];
    for id in ["s1", "s2"] {
        put(&js, &format!("q-{id}/PC-1/stdout"), b"small").await;
    }
    put(&js, "q-large/PC-1/stdout", &large).await;
    put(&js, "q-two/PC-1/stdout", &half).await;
    put(&js, "q-two/PC-1/stderr", &half).await;
    for (id, stderr) in [("s1", false), ("large", false), ("two", true), ("s2", false)] {
        let stderr = stderr.then(|| format!("q-{id}/PC-1/stderr"));
        send(
            &js,
            pointing(id, &format!("q-{id}/PC-1/stdout"), stderr.as_deref()),
        )
        .await;
    }
    let (_folder, db) = place();
    // The time limits are not what this is about: a busy machine reads 64 MiB slowly.
    let env = [
        ("RESULTS_PROJECTOR_OUTPUTS_BASE_TIMEOUT", "60 s"),
        ("RESULTS_PROJECTOR_OUTPUTS_IDLE_TIMEOUT", "20 s"),
    ];
    let output = run_with(&db, &server.url(), &["run", "--until-caught-up"], &env);
    assert!(output.status.success(), "{}", text(&output));
    let lengths = |id: &str| {
        one(
            &db,
            &format!(
                "SELECT length(stdout) + length(stderr) FROM execution_results WHERE result_id = '{id}'"
            ),
        )
    };
    assert_eq!(
        (lengths("large"), lengths("two"), lengths("s2")),
        (64 << 20, 80 << 20, 5)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn each_state_has_its_words_and_its_place_in_the_list() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    put(&js, "q-good/PC-1/stdout", b"a\xffb").await;
    put(&js, "q-other/PC-1/stdout", b"somebody else's").await;
    put(&js, "q-long/PC-1/stdout", &vec![b'z'; 3 << 20]).await;
    send(&js, pointing("good", "q-good/PC-1/stdout", None)).await;
    send(&js, pointing("absent", "q-absent/PC-1/stdout", None)).await;
    send(&js, pointing("thief", "q-other/PC-1/stdout", None)).await;
    send(&js, pointing("long", "q-long/PC-1/stdout", None)).await;
    send(&js, pointing("empty", "", None)).await;
    let (_folder, db) = place();
    let env = [("RESULTS_PROJECTOR_OUTPUTS_MAX_BYTES", "2 MiB")];
    let output = run_with(&db, &server.url(), &["run", "--until-caught-up"], &env);
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(stdout(&db, "good"), "a\u{fffd}b");
    assert_eq!(
        stdout(&db, "absent"),
        "[results-projector] stdout is in object q-absent/PC-1/stdout, not fetched yet"
    );
    assert_eq!(
        stdout(&db, "thief"),
        "[results-projector] stdout points to object q-other/PC-1/stdout, which belongs to another result"
    );
    assert_eq!(
        stdout(&db, "long"),
        "[results-projector] stdout in object q-long/PC-1/stdout is longer than the limit of 2097152 bytes"
    );
    assert_eq!(
        stdout(&db, "empty"),
        "[results-projector] stdout was in object , which is gone"
    );
    for (id, wanted) in [
        ("good", "fetched"),
        ("absent", "pending"),
        ("thief", "refused"),
        ("long", "too_large"),
        ("empty", "gone"),
    ] {
        assert_eq!(state(&db, id), wanted, "{id}");
    }
    // The limit raised: the one that was too large is fetched.
    let projector = Projector::start(&db, &server.url());
    wait_until("the long one is fetched", PATIENCE, || {
        state(&db, "long") == "fetched"
    });
    assert_eq!(stdout(&db, "long").len(), 3 << 20);
    assert!(projector.terminate().success());
}

/// Certain only when the message is two minutes old by the server's clock: the full run waits for that.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_whole_is_never_taken_for_whole_and_never_called_gone_while_fresh() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    let body = vec![b'k'; 400_000];
    for id in ["nochunks", "cut", "flipped", "deleted"] {
        put(&js, &format!("q-{id}/PC-1/stdout"), &body).await;
    }
    let store = js.get_object_store("result_output").await.unwrap();
    let bucket = js.get_stream("OBJ_result_output").await.unwrap();
    // All chunks of one, one chunk of another; bytes that do not have the digest; a deletion marker.
    let chunks = |nuid: String| format!("$O.result_output.C.{nuid}");
    let nuid = store.info("q-nochunks/PC-1/stdout").await.unwrap().nuid;
    bucket.purge().filter(chunks(nuid)).await.unwrap();
    let nuid = store.info("q-cut/PC-1/stdout").await.unwrap().nuid;
    let second = bucket
        .direct_get_next_for_subject(chunks(nuid), None)
        .await
        .unwrap()
        .sequence
        + 1;
    bucket.delete_message(second).await.unwrap();
    let info = store.info("q-flipped/PC-1/stdout").await.unwrap();
    let subject = chunks(info.nuid.clone());
    bucket.purge().filter(subject.clone()).await.unwrap();
    for part in vec![b'j'; 400_000].chunks(131_072) {
        js.publish(subject.clone(), part.to_vec().into())
            .await
            .unwrap()
            .await
            .unwrap();
    }
    store.delete("q-deleted/PC-1/stdout").await.unwrap();
    for id in ["nochunks", "cut", "flipped", "deleted"] {
        send(&js, pointing(id, &format!("q-{id}/PC-1/stdout"), None)).await;
    }
    let (_folder, db) = place();
    let started = Instant::now();
    catch_up(&db, &server.url());
    assert!(
        started.elapsed() < Duration::from_secs(20),
        "a fetch hung: {:?}",
        started.elapsed()
    );
    let reasons = |id: &str| {
        dump::text(
            &db,
            &format!("SELECT reason FROM projector_outputs WHERE result_id = '{id}'"),
        )
    };
    for (id, reason) in [
        ("nochunks", "chunk 1 of 4 is missing"),
        ("cut", "chunk 4 of 4 is missing"),
        ("flipped", "do not have its digest"),
        ("deleted", "deleted"),
    ] {
        assert_eq!(state(&db, id), "pending", "{id}: {}", reasons(id));
        assert!(
            reasons(id).contains(reason) && reasons(id).contains("not certain yet"),
            "{id}: {}",
            reasons(id)
        );
    }
    if !scale(false, true) {
        return;
    }
    let projector = Projector::start(&db, &server.url());
    wait_until("two minutes have passed", Duration::from_secs(400), || {
        ["nochunks", "cut", "flipped", "deleted"]
            .iter()
            .all(|id| state(&db, id) == "gone")
    });
    assert!(stdout(&db, "cut").ends_with("which is gone"));
    assert!(projector.terminate().success());
}

/// Rewrites an object's metadata, as a damaged or a dishonest store would have it.
async fn rewrite(js: &jetstream::Context, name: &str, change: impl FnOnce(&mut serde_json::Value)) {
    use base64::Engine;
    let encoded = base64::engine::general_purpose::URL_SAFE.encode(name);
    let subject = format!("$O.result_output.M.{encoded}");
    let bucket = js.get_stream("OBJ_result_output").await.unwrap();
    let message = bucket.get_last_raw_message_by_subject(&subject).await.unwrap();
    let mut meta: serde_json::Value = serde_json::from_slice(&message.payload).unwrap();
    change(&mut meta);
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Nats-Rollup", "sub");
    js.publish_with_headers(subject, headers, meta.to_string().into())
        .await
        .unwrap()
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_has_more_bytes_or_fewer_than_it_says_is_not_taken_for_whole() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    let body = vec![b'k'; 400_000];
    for id in ["longer", "shorter", "fewer"] {
        put(&js, &format!("q-{id}/PC-1/stdout"), &body).await;
        send(&js, pointing(id, &format!("q-{id}/PC-1/stdout"), None)).await;
    }
    rewrite(&js, "q-longer/PC-1/stdout", |meta| meta["size"] = json!(399_999)).await;
    rewrite(&js, "q-shorter/PC-1/stdout", |meta| meta["size"] = json!(400_001)).await;
    // No digest either, as by an older client: then the length is all that there is.
    rewrite(&js, "q-fewer/PC-1/stdout", |meta| {
        meta["chunks"] = json!(3);
        meta["digest"] = json!("");
    })
    .await;
    let (_folder, db) = place();
    catch_up(&db, &server.url());
    for id in ["longer", "shorter", "fewer"] {
        assert_eq!(state(&db, id), "pending", "{id}");
        let sql = format!("SELECT reason FROM projector_outputs WHERE result_id = '{id}'");
        let reason = dump::text(&db, &sql);
        assert!(reason.contains("its chunks hold"), "{id}: {reason}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn outputs_behind_a_database_that_is_held_are_not_taken_into_memory() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    let body = vec![b'k'; 2 << 20];
    for number in 0..20 {
        put(&js, &format!("q-{number}/PC-1/stdout"), &body).await;
    }
    send(&js, pointing("first", "", None)).await;
    let proxy = Proxy::start(server.address()).await;
    let (_folder, db) = place();
    let env = [
        ("RESULTS_PROJECTOR_OUTPUTS_IN_FLIGHT_BYTES", "4 MiB"),
        ("RESULTS_PROJECTOR_OUTPUTS_MAX_BYTES", "4 MiB"),
    ];
    let projector = Projector::start_with(&db, &proxy.url(), &["run"], &env);
    wait_until("it reads", PATIENCE, || position(&db) == 1);
    let lock = rusqlite::Connection::open(&db).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    for number in 0..20 {
        let id = number.to_string();
        send(&js, pointing(&id, &format!("q-{id}/PC-1/stdout"), None)).await;
    }
    // SQLite waits for the lock for seconds: all that will be asked for has been by then.
    wait_until("it has said that it cannot write", PATIENCE, || {
        projector.stderr().contains("database is locked")
    });
    let taken = proxy.forwarded();
    assert!(taken < 10 << 20, "{taken} bytes were taken");
    drop(lock);
    wait_until("all is projected", PATIENCE, || position(&db) == 21);
    assert!(projector.terminate().success());
    assert_eq!(
        one(
            &db,
            "SELECT count(*) FROM execution_results WHERE length(stdout) = 2097152"
        ),
        20
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn outputs_of_old_messages_that_are_not_there_are_gone_at_once() {
    let mut server = NatsServer::start();
    let js = server.fleet().await;
    send(&js, pointing("old", "q-old/PC-1/stdout", None)).await;
    send(&js, pointing("older", "q-older/PC-1/stdout", None)).await;
    server.stop();
    age_messages(&server, Duration::from_secs(600));
    server.start_again();
    let (_folder, db) = place();
    catch_up(&db, &server.url());
    assert_eq!(
        (state(&db, "old").as_str(), state(&db, "older").as_str()),
        ("gone", "gone")
    );
    assert_eq!(
        stdout(&db, "old"),
        "[results-projector] stdout was in object q-old/PC-1/stdout, which is gone"
    );
    // It is asked for again after an hour: not before, and it can come back.
    assert_eq!(
        one(
            &db,
            "SELECT count(*) FROM projector_outputs WHERE next_try_wall IS NOT NULL"
        ),
        2
    );
}

/// Moves the publish times of all stored results into the past, in the server's own file: a message is a header with
/// its time in nanoseconds, subject and payload, closed by a keyed checksum.
pub fn age_messages(server: &NatsServer, by: Duration) {
    use highway::HighwayHash;
    use sha2::Digest;
    let block = server.store().join("jetstream/$G/streams/RESULTS/msgs/1.blk");
    let mut bytes = std::fs::read(&block).unwrap();
    // The block's key: the SHA-256 of stream name and block number.
    let key = sha2::Sha256::digest(b"RESULTS-1");
    let word = |at: usize| u64::from_le_bytes(key[at * 8..at * 8 + 8].try_into().unwrap());
    let key = highway::Key([word(0), word(1), word(2), word(3)]);
    let mut at = 0;
    while at + 22 <= bytes.len() {
        let number = |from: usize, len: usize| {
            bytes[from..from + len]
                .iter()
                .rev()
                .fold(0_u64, |sum, byte| (sum << 8) | u64::from(*byte))
        };
        let length = number(at, 4) as usize & 0x7fff_ffff;
        let headers = number(at, 4) & 0x8000_0000 != 0;
        assert!(!headers, "agents set no headers");
        let time = number(at + 12, 8) - by.as_nanos() as u64;
        let subject = number(at + 20, 2) as usize;
        bytes[at + 12..at + 20].copy_from_slice(&time.to_le_bytes());
        let mut hasher = highway::HighwayHasher::new(key);
        hasher.append(&bytes[at + 4..at + 20]);
        hasher.append(&bytes[at + 22..at + 22 + subject]);
        hasher.append(&bytes[at + 22 + subject..at + length - 8]);
        let sum = hasher.finalize64().to_le_bytes();
        bytes[at + length - 8..at + length].copy_from_slice(&sum);
        at += length;
    }
    std::fs::write(&block, bytes).unwrap();
    // Made anew from the blocks.
    let _ = std::fs::remove_file(block.with_file_name("index.db"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_falls_silent_holds_up_results_for_no_longer_than_one_fetch_may_take() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    js.delete_object_store("result_output").await.unwrap();
    // Somebody listens where the store would, and never answers.
    let client = server.client().await;
    let _silent = client
        .subscribe("$JS.API.DIRECT.GET.OBJ_result_output.>")
        .await
        .unwrap();
    client.flush().await.unwrap();
    for number in 0..60 {
        send(
            &js,
            pointing(&format!("n{number}"), &format!("q-n{number}/PC-1/stdout"), None),
        )
        .await;
    }
    publish(
        &js,
        &plan(
            53,
            &Profile {
                results: 10,
                ..Profile::default()
            },
        ),
    )
    .await
    .unwrap();
    let (_folder, db) = place();
    let started = Instant::now();
    let projector = Projector::start(&db, &server.url());
    wait_until("the results behind are projected", PATIENCE, || {
        position(&db) == 70
    });
    // Two seconds for those under way when the breaker opens, and some for a busy machine; one after the other they
    // would have taken fifteen.
    assert!(
        started.elapsed() < Duration::from_secs(6),
        "{:?}",
        started.elapsed()
    );
    assert_eq!(
        one(
            &db,
            "SELECT count(*) FROM projector_outputs WHERE state = 'pending'"
        ),
        60
    );
    assert!(
        projector.stderr().contains("the object store does not answer"),
        "{}",
        projector.stderr()
    );
    assert!(projector.terminate().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_was_wrong_gives_up_no_output_and_postpones_none() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    send(&js, pointing("late", "q-late/PC-1/stdout", None)).await;
    let (_folder, db) = place();
    catch_up(&db, &server.url());
    let set = |columns: &str| {
        let conn = rusqlite::Connection::open(&db).unwrap();
        conn.busy_timeout(PATIENCE).unwrap();
        conn.execute(&format!("UPDATE projector_outputs SET {columns}"), [])
            .unwrap();
    };
    // Entered with a clock of three months ago: pending for long, as it seems, of a message that is fresh.
    set("since_wall = '2026-01-01T00:00:00+00:00', next_try_wall = since_wall, attempts = 1");
    let projector = Projector::start(&db, &server.url());
    wait_until("it has asked again twice", PATIENCE, || {
        one(&db, "SELECT attempts FROM projector_outputs") >= 3
    });
    assert_eq!(state(&db, "late"), "pending");
    assert!(projector.terminate().success());
    // Entered with a clock of the next century.
    set("next_try_wall = '2126-01-01T00:00:00+00:00'");
    put(&js, "q-late/PC-1/stdout", b"here after all").await;
    let projector = Projector::start(&db, &server.url());
    wait_until("it is fetched", PATIENCE, || state(&db, "late") == "fetched");
    assert_eq!(stdout(&db, "late"), "here after all");
    assert!(projector.terminate().success());
}

/// Listens in on what is asked of the store's chunks; returns the questions so far.
async fn questions(client: &async_nats::Client) -> impl FnMut() -> Vec<serde_json::Value> + use<> {
    let mut wire = client
        .subscribe("$JS.API.DIRECT.GET.OBJ_result_output")
        .await
        .unwrap();
    client.flush().await.unwrap();
    move || {
        std::iter::from_fn(|| wire.next().now_or_never().flatten())
            .map(|question| serde_json::from_slice(&question.payload).unwrap())
            .collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_of_many_chunks_is_asked_for_once_and_brings_no_more_than_it_says() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    let body = "a chunk is 131072 bytes\n".repeat(60_000);
    put(&js, "q-long/PC-1/stdout", body.as_bytes()).await;
    // One that says it has 300 chunks of one byte, and has three of 128 KiB.
    put(&js, "q-more/PC-1/stdout", &vec![b'k'; 400_000]).await;
    rewrite(&js, "q-more/PC-1/stdout", |info| {
        info["chunks"] = json!(300);
        info["size"] = json!(300);
    })
    .await;
    for id in ["long", "more"] {
        send(&js, pointing(id, &format!("q-{id}/PC-1/stdout"), None)).await;
    }
    let mut asked = questions(&server.client().await).await;
    let (_folder, db) = place();
    catch_up(&db, &server.url());
    assert_eq!(stdout(&db, "long"), body);
    assert_eq!(state(&db, "more"), "pending");
    let asked = asked();
    let long: Vec<_> = asked.iter().filter(|asked| asked["batch"] == 11).collect();
    assert_eq!(long.len(), 1, "{asked:#?}");
    let bytes = long[0]["max_bytes"].as_u64().unwrap();
    assert!(
        bytes >= body.len() as u64 && bytes < body.len() as u64 + 10_000,
        "{bytes}"
    );
    let more: Vec<_> = asked.iter().filter(|asked| asked["batch"] == 256).collect();
    assert!(!more.is_empty(), "{asked:#?}");
    assert!(
        more.iter()
            .all(|asked| asked["max_bytes"].as_u64().unwrap() < 100_000),
        "{asked:#?}"
    );
    assert!(asked.len() <= 3, "a question for each chunk: {asked:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_knows_no_batches_is_asked_for_one_chunk_after_the_other() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    js.delete_object_store("result_output").await.unwrap();
    let client = server.client().await;
    let mut wire = client
        .subscribe("$JS.API.DIRECT.GET.OBJ_result_output.>")
        .await
        .unwrap();
    let mut chunks = client
        .subscribe("$JS.API.DIRECT.GET.OBJ_result_output")
        .await
        .unwrap();
    client.flush().await.unwrap();
    let parts = ["first, ", "second, ", "third"];
    let body = parts.concat();
    let digest = {
        use base64::Engine;
        use sha2::Digest;
        base64::engine::general_purpose::URL_SAFE.encode(sha2::Sha256::digest(body.as_bytes()))
    };
    let meta = json!({"name": "q-old/PC-1/stdout", "nuid": "N1", "size": body.len(), "chunks": parts.len(),
        "digest": format!("SHA-256={digest}")});
    // As servers before 2.11 answer: the first message from a sequence on, whatever else was asked.
    let answering = client.clone();
    let answer = move |question: &async_nats::Message, seq: usize, payload: String| {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Nats-Stream", "OBJ_result_output");
        headers.insert("Nats-Subject", "$O.result_output.C.N1");
        headers.insert("Nats-Sequence", seq.to_string());
        headers.insert("Nats-Time-Stamp", "2026-06-01T00:00:00Z");
        let (client, reply) = (answering.clone(), question.reply.clone().unwrap());
        async move {
            client
                .publish_with_headers(reply, headers, payload.into())
                .await
                .unwrap()
        }
    };
    let store = tokio::spawn(async move {
        let mut asked = Vec::new();
        loop {
            tokio::select! {
                Some(question) = wire.next() => answer(&question, 9, meta.to_string()).await,
                Some(question) = chunks.next() => {
                    let from = serde_json::from_slice::<serde_json::Value>(&question.payload).unwrap()["seq"]
                        .as_u64()
                        .unwrap()
                        .max(1) as usize;
                    asked.push(from);
                    answer(&question, from, parts[from - 1].to_owned()).await;
                    if asked.len() == parts.len() {
                        return asked;
                    }
                }
            }
        }
    });
    send(&js, pointing("old", "q-old/PC-1/stdout", None)).await;
    let (_folder, db) = place();
    catch_up(&db, &server.url());
    assert_eq!(stdout(&db, "old"), body);
    assert_eq!(state(&db, "old"), "fetched");
    assert_eq!(store.await.unwrap(), [1, 2, 3], "each once, in order");
}
