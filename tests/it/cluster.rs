//! A cluster of three: one node at a time may die, leaders may move, and a majority may be away for a while.

use std::path::Path;
use std::time::Duration;

use async_nats::jetstream;
use futures_util::stream::{self, StreamExt};
use serde_json::Value;

use crate::harness::cluster::{ask, retrying};
use crate::harness::dump::position_of;
use crate::harness::projector::{catch_up, place, run};
use crate::harness::*;
use crate::survives::assert_all_there;

const STREAMS: [&str; 3] = ["RESULTS", "EVENTS", "INVENTORY"];
const DURABLE: &str = "results_projector_results";

/// All kinds of messages, and no bad ones: nothing may become a dead letter, or be missing.
fn everything(seed: u64, results: usize) -> Vec<Planned> {
    plan(
        seed,
        &Profile {
            malformed: 0,
            missing: 0,
            missing_scans: 0,
            ..Profile::everything(results)
        },
    )
}

/// Publishes as agents do: objects first, and each again until it is acknowledged. A publish whose acknowledgement was lost
/// may be in the stream twice.
async fn publish_until_acked(js: &jetstream::Context, planned: &[Planned]) {
    stream::iter(planned)
        .for_each_concurrent(100, |planned| async move {
            let one = std::slice::from_ref(planned);
            retrying("the objects are stored", async || {
                fleet::store_objects(js, one).await
            })
            .await;
            retrying("the message is acknowledged", async || {
                tokio::time::timeout(Duration::from_secs(2), fleet::publish_messages(js, one)).await?
            })
            .await;
        })
        .await;
}

/// Publishes on a thread of its own, beside what is done to the cluster.
fn publishing(js: &jetstream::Context, planned: Vec<Planned>) -> tokio::task::JoinHandle<()> {
    let js = js.clone();
    tokio::task::spawn_blocking(move || {
        tokio::runtime::Handle::current().block_on(publish_until_acked(&js, &planned));
    })
}

async fn last_seq(js: &jetstream::Context, stream: &str) -> u64 {
    let what = format!("STREAM.INFO.{stream}");
    let info = retrying("the leader says where the stream ends", async || {
        ask(js, &what).await.ok_or(())
    })
    .await;
    info["state"]["last_seq"].as_u64().unwrap()
}

/// What stands in the streams is projected, to the last message.
async fn wait_caught_up(js: &jetstream::Context, db: &Path) {
    for stream in STREAMS {
        let last = last_seq(js, stream).await;
        wait_until(&format!("{stream} is projected up to {last}"), PATIENCE, || {
            position_of(db, stream).unwrap_or(0) >= last
        });
    }
}

/// Nothing lost, nothing twice, nothing that an undisturbed run would not say too.
async fn assert_good(cluster: &Cluster, js: &jetstream::Context, db: &Path, planned: &[Planned]) {
    for stream in STREAMS {
        assert_eq!(
            position_of(db, stream),
            Some(last_seq(js, stream).await),
            "{stream}"
        );
    }
    assert_eq!(one(db, "SELECT count(*) FROM projector_gaps"), 0);
    assert_eq!(one(db, "SELECT count(*) FROM projector_dead_letters"), 0);
    assert_eq!(one(db, "SELECT max(incarnation) FROM projector_position"), 1);
    assert_eq!(
        one(
            db,
            "SELECT count(*) FROM projector_outputs WHERE state <> 'fetched'"
        ),
        0
    );
    check_i3(db);
    assert_all_there(db, planned);
    let (_folder, undisturbed) = place();
    catch_up(&undisturbed, &cluster.url());
    assert_same(db, &undisturbed);
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_die_one_after_the_other_and_leaders_that_move_during_a_drain_lose_nothing() {
    let mut cluster = Cluster::start().await;
    let js = cluster.jetstream().await;
    retrying("the manifests are stored", async || {
        fleet::put_manifests(&js).await
    })
    .await;
    let planned = everything(81, 3_000);
    // A part is published before all else, two beside each of the five things that are done.
    let mut parts = planned
        .chunks(planned.len().div_ceil(11))
        .map(<[Planned]>::to_vec);
    let mut part = || parts.next().unwrap();
    publish_until_acked(&js, &part()).await;
    let (_folder, db) = place();
    let projector = Projector::start(&db, &cluster.url());

    for node in 0..3 {
        let during = publishing(&js, part());
        cluster.kill_node(node);
        let before = position(&db);
        let after = publishing(&js, part());
        wait_until("it reads on from the other two", PATIENCE, || {
            position(&db) > before
        });
        cluster.start_node(node);
        cluster.wait_whole(&js).await;
        during.await.unwrap();
        after.await.unwrap();
    }
    for of_stream in [true, false] {
        wait_caught_up(&js, &db).await;
        // Nothing is committed while somebody locks the database: the leader goes in the middle of a drain, with deliveries
        // under way that are not acked.
        let lock = rusqlite::Connection::open(&db).unwrap();
        lock.busy_timeout(Duration::from_secs(30)).unwrap();
        lock.execute_batch("BEGIN IMMEDIATE").unwrap();
        let before = position(&db);
        let during = publishing(&js, part());
        let durable = format!("CONSUMER.INFO.RESULTS.{DURABLE}");
        retrying("deliveries are under way", async || {
            let info = ask(&js, &durable).await.ok_or(())?;
            (info["delivered"]["stream_seq"].as_u64() > Some(before))
                .then_some(())
                .ok_or(())
        })
        .await;
        let leader = async || match of_stream {
            true => cluster.leader(&js, "RESULTS").await,
            false => cluster.consumer_leader(&js, "RESULTS", DURABLE).await,
        };
        let step_down = match of_stream {
            true => "STREAM.LEADER.STEPDOWN.RESULTS".to_owned(),
            false => format!("CONSUMER.LEADER.STEPDOWN.RESULTS.{DURABLE}"),
        };
        let old = retrying("one leads", async || leader().await.ok_or(())).await;
        retrying("the leader steps down", async || {
            ask(&js, &step_down).await.ok_or(())
        })
        .await;
        retrying("another one leads", async || {
            leader().await.filter(|new| *new != old).ok_or(())
        })
        .await;
        assert_eq!(position(&db), before);
        drop(lock);
        let after = publishing(&js, part());
        during.await.unwrap();
        after.await.unwrap();
    }
    wait_caught_up(&js, &db).await;
    assert!(projector.terminate().success());
    assert_good(&cluster, &js, &db, &planned).await;
}

fn status(db: &Path, url: &str) -> Value {
    let output = run(db, url, &["status", "--json"]);
    assert!(output.status.success(), "{}", projector::text(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_it_waits_and_goes_on_once_there_is_one_again() {
    let mut cluster = Cluster::start().await;
    let js = cluster.jetstream().await;
    let planned = everything(82, 600);
    let (early, late) = planned.split_at(planned.len() / 2);
    publish_until_acked(&js, early).await;
    let (_folder, db) = place();
    let mut projector = Projector::start(&db, &cluster.url());
    wait_caught_up(&js, &db).await;
    let known = status(&db, &cluster.url());
    assert_eq!(known["server"]["unavailable"], Value::Null, "{known}");

    // The one that is left is a follower of RESULTS. It is silent for some seconds, then answers for a group without a leader;
    // of other streams it may be the leader, who believes for up to 20 s that he still is.
    let leader = cluster.leader(&js, "RESULTS").await.unwrap();
    let other = (leader + 1) % 3;
    cluster.kill_node(leader);
    cluster.kill_node(other);
    let before = STREAMS.map(|stream| position_of(&db, stream));
    let late = publishing(&js, late.to_vec());
    wait_until("status and service say that there is no leader", PATIENCE, || {
        let told = status(&db, &cluster.url());
        let why = told["server"]["unavailable"].as_str();
        assert!(why.is_some() && told["streams"][0]["position"].is_u64(), "{told}");
        assert_eq!(told["streams"][0]["last_seq"], Value::Null, "{told}");
        why.is_some_and(|why| why.contains("RESULTS: it has no leader"))
            && projector.stderr().contains("RESULTS: it has no leader")
    });
    assert!(projector.is_running());
    assert_eq!(before, STREAMS.map(|stream| position_of(&db, stream)));

    cluster.start_node(other);
    late.await.unwrap();
    wait_caught_up(&js, &db).await;
    assert_eq!(status(&db, &cluster.url())["server"]["unavailable"], Value::Null);
    assert!(projector.terminate().success());
    assert_good(&cluster, &js, &db, &planned).await;
}
