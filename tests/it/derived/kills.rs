//! Kills at random moments, with start events before, after and among their results.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;

use super::*;
use crate::harness::fleet::{Dice, Kind};
use crate::survives::assert_all_there;

/// Where the start events of a fleet's runs are published.
#[derive(Clone, Copy, PartialEq)]
enum Starts {
    Before,
    After,
    Mixed,
}

/// A fleet of everything, published while the projector is killed again and again.
async fn survive(seed: u64, starts: Starts) {
    let server = NatsServer::start();
    let js = server.fleet().await;
    put_manifests(&js).await.unwrap();
    let mut planned = plan(seed, &Profile::everything(scale(1_200, 10_000)));
    // Stable: within a stream the order stays.
    planned.sort_by_key(|planned| {
        let event = planned.stream() == "EVENTS";
        match starts {
            Starts::Before => !event,
            Starts::After => event,
            Starts::Mixed => false,
        }
    });
    // Every other execution has a row.
    let exec_ids: BTreeSet<String> = planned
        .iter()
        .filter_map(|planned| serde_json::from_slice::<Value>(&planned.payload).ok())
        .filter_map(|message| Some(message["exec_id"].as_str()?.to_owned()))
        .collect();
    let exec_ids: BTreeSet<String> = exec_ids.into_iter().step_by(2).collect();
    let (_folder, db) = place();
    with_executions(&db, &exec_ids);

    let publishing = tokio::spawn({
        let planned = planned.clone();
        async move {
            for part in planned.chunks(planned.len() / 20 + 1) {
                publish(&js, part).await.unwrap();
                // Spread over the kills.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    });
    let mut dice = Dice::new(seed);
    for _ in 0..10 {
        let projector = Projector::start(&db, &server.url());
        std::thread::sleep(Duration::from_millis(40 + dice.below(400)));
        projector.kill();
    }
    publishing.await.unwrap();
    catch_up(&db, &server.url());

    let (_folder, undisturbed) = place();
    with_executions(&undisturbed, &exec_ids);
    catch_up(&undisturbed, &server.url());
    // On a slow machine what is missing has become certain in between.
    catch_up(&db, &server.url());
    assert_same(&db, &undisturbed);
    assert_eq!(rows(&db, ISSUES), rows(&undisturbed, ISSUES));
    check_i3(&db);
    assert_all_there(&db, &planned);
    // Nothing of it is there for want of messages.
    for table in [
        "executions WHERE status = 'completed'",
        "executions WHERE status = 'running'",
        "inventory_facts WHERE job_id = 'inventory.hw'",
        "inventory_history WHERE change_kind = 'removed'",
        "inventory_software_apps",
        "inventory_disks",
        "check_status WHERE status = 'unknown'",
        "feeds",
        "job_version_completions",
        "execution_results WHERE finished_at IS NULL",
        "projector_outputs WHERE state <> 'fetched'",
    ] {
        assert!(one(&db, &format!("SELECT count(*) FROM {table}")) > 0, "{table}");
    }
    let count = |kind: Kind, stream: &str| {
        let is = |planned: &&Planned| planned.kind == kind && planned.stream() == stream;
        planned.iter().filter(is).count() as i64
    };
    let dead = |stream: &str| {
        let sql = format!("SELECT count(*) FROM projector_dead_letters WHERE stream = '{stream}'");
        (one(&db, &sql), count(Kind::Malformed, stream))
    };
    for stream in ["RESULTS", "EVENTS", "INVENTORY"] {
        let (found, planned) = dead(stream);
        assert_eq!(found, planned, "{stream}");
    }
    let ignored = "SELECT ignored FROM projector_position WHERE stream = 'EVENTS'";
    assert_eq!(one(&db, ignored), count(Kind::Ignored, "EVENTS"));
    // The law of the counters (contract §7.3).
    let unlawful = "SELECT count(*) FROM executions WHERE (success_count, failure_count) IS NOT (
        SELECT count(*) FILTER (WHERE exit_code = 0), count(*) FILTER (WHERE exit_code <> 0)
        FROM execution_results AS result WHERE result.exec_id = executions.exec_id AND finished_at IS NOT NULL)";
    assert_eq!(one(&db, unlawful), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_change_nothing_while_starts_come_before_their_results() {
    survive(61, Starts::Before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_change_nothing_while_starts_come_after_their_results() {
    survive(62, Starts::After).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_change_nothing_while_starts_come_among_the_results() {
    survive(63, Starts::Mixed).await;
}
