//! What the streams and the object store have forgotten: the horizons differ, and a database never knows less for it.

use async_nats::jetstream;

use super::*;
use crate::harness::backend;

async fn last(js: &jetstream::Context, stream: &str) -> u64 {
    js.get_stream(stream)
        .await
        .unwrap()
        .cached_info()
        .state
        .last_sequence
}

async fn purge_until(js: &jetstream::Context, stream: &str, seq: u64) {
    js.get_stream(stream)
        .await
        .unwrap()
        .purge()
        .sequence(seq)
        .await
        .unwrap();
}

/// Deletes all objects but every `keep`th.
async fn forget_objects(js: &jetstream::Context, planned: &[Planned], keep: usize) -> usize {
    let store = js.get_object_store("result_output").await.unwrap();
    let names = planned.iter().flat_map(|planned| &planned.objects);
    let mut forgotten = 0;
    for (number, (name, _)) in names.enumerate() {
        if number % keep != 0 {
            store.delete(name).await.unwrap();
            forgotten += 1;
        }
    }
    forgotten
}

/// A fleet that was projected as it came, with the backend's reaper and retention at work, of which the server has
/// forgotten most.
struct Aged {
    server: NatsServer,
    js: jetstream::Context,
    folder: tempfile::TempDir,
    db: std::path::PathBuf,
    live: Vec<String>,
}

async fn aged(seed: u64, stages: &[f64]) -> Aged {
    let server = NatsServer::start();
    let js = server.fleet().await;
    put_manifests(&js).await.unwrap();
    let profile = Profile {
        overflow_permille: 80,
        overflow_bytes: (2_000, 20_000),
        duplicate_permille: 60,
        scans: 6,
        checks: 4,
        missing: 2,
        ..Profile::everything(scale(500, 5_000))
    };
    let planned = plan(seed, &profile);
    let (folder, db) = place();
    with_executions(&db, &exec_ids(&planned));
    // The results come late: their runs are in flight meanwhile.
    let (starts, others): (Vec<Planned>, Vec<Planned>) = planned
        .iter()
        .cloned()
        .partition(|planned| planned.stream() == "EVENTS");
    let (mut starts, mut others) = (&starts[..], &others[..]);
    let all = (starts.len(), others.len());
    let mut reaped = 0;
    for stage in stages {
        for (list, all, until) in [(&mut starts, all.0, stage + 0.1), (&mut others, all.1, *stage)] {
            let published = all - list.len();
            let until = ((all as f64 * until) as usize).clamp(published, all);
            let (now, later) = list.split_at(until - published);
            publish(&js, now).await.unwrap();
            *list = later;
        }
        catch_up(&db, &server.url());
        // Most of these will have a result after all.
        if !others.is_empty() {
            reaped += backend::reap(&mut backend::connect(&db), "2027-06-09T00:00:00+00:00");
        }
    }
    assert!(reaped > 2, "{reaped}");
    let results = last(&js, "RESULTS").await;
    purge_until(&js, "RESULTS", results / 3).await;
    purge_until(&js, "EVENTS", last(&js, "EVENTS").await * 4 / 5).await;
    assert!(forget_objects(&js, &planned, 5).await > 5);
    // Retention takes rows of what is gone, and completions outlive them; an operator may take anything of what is gone.
    let rows = tamper(
        &db,
        &format!(
            "DELETE FROM execution_results WHERE result_id IN (SELECT result_id FROM projector_results WHERE counts
                 AND stream_seq < {}) AND finished_at IS NOT NULL",
            results / 6
        ),
    );
    assert!(rows > 10, "{rows}");
    let live = dump(&db);
    Aged {
        server,
        js,
        folder,
        db,
        live,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_after_everything_has_expired_knows_what_the_database_knew() {
    for seed in 530..530 + scale(1, 8) {
        rebuild_what_is_forgotten(aged(seed, &[0.4, 0.7, 1.0]).await).await;
    }
}

async fn rebuild_what_is_forgotten(aged: Aged) {
    let (db, url) = (&aged.db, aged.server.url());
    let said = assert_proved(db, &url);
    for kind in ["starts", "outputs", "history_events", "completions", "executions"] {
        assert!(said["vouched"][kind].as_u64() > Some(0), "{kind}: {said:#}");
    }
    assert!(
        said["tables"]["execution_results"]["vouched"].as_u64() > Some(0),
        "{said:#}"
    );
    assert_replay_changes_nothing(db, &url, &[]);

    let spare = aged.folder.path().join("spare.db");
    std::fs::copy(db, &spare).unwrap();
    let completions = rows(db, "SELECT * FROM job_completions ORDER BY 1, 2");
    let rebuilt = asked(db, &url, &["rebuild"], 0);
    assert_equal(&dump(db), &aged.live, &format!("rebuilt: {rebuilt:#}"));
    assert!(
        rebuilt["carried"]["execution_results"].as_u64() > Some(0),
        "{rebuilt:#}"
    );
    check_i3(db);
    assert_proved(db, &url);
    assert_replay_changes_nothing(db, &url, &[]);
    // And once more, from the one that was made.
    asked(db, &url, &["rebuild"], 0);
    assert_equal(&dump(db), &aged.live, "rebuilt once more");
    catch_up(db, &url);
    assert_equal(&dump(db), &aged.live, "and run");

    // Nothing is taken over but the completions.
    asked(&spare, &url, &["rebuild", "--no-carry-over"], 0);
    let kept = rows(&spare, "SELECT job_id, pc_id FROM job_completions ORDER BY 1, 2");
    let keys: Vec<String> = rows(db, "SELECT job_id, pc_id FROM job_completions ORDER BY 1, 2");
    assert_equal(&kept, &keys, "every completion is kept");
    assert_equal(
        &rows(&spare, "SELECT * FROM job_completions ORDER BY 1, 2"),
        &completions,
        "with its time",
    );

    // Without an old file: what the streams hold, all accounted for, and what is gone is said.
    std::fs::remove_file(&spare).unwrap();
    let rebuilt = asked(&spare, &url, &["rebuild"], 0);
    check_i3(&spare);
    let first = aged
        .js
        .get_stream("RESULTS")
        .await
        .unwrap()
        .cached_info()
        .state
        .first_sequence;
    assert_eq!(
        rebuilt["streams"]["RESULTS"]["first"],
        json!(first),
        "{rebuilt:#}"
    );
    assert_eq!(rebuilt["carried"], json!({}), "{rebuilt:#}");
    let missing = one(
        &spare,
        "SELECT count(*) FROM projector_outputs WHERE state <> 'fetched'",
    );
    let listed = asked(&spare, &url, &["outputs", "list"], 0);
    assert_eq!(listed["outputs"].as_array().unwrap().len() as i64, missing);
    assert!(missing > 0);
    let said = assert_proved(&spare, &url);
    assert!(
        said["not_compared"]["outputs pending"].as_u64() > Some(0),
        "{said:#}"
    );
    let (_folder, anew) = place();
    catch_up(&anew, &url);
    assert_equal(&dump(&spare), &dump(&anew), "as a run on what is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_streams_still_hold_is_proved_and_mended_beside_what_they_have_forgotten() {
    for seed in 540..540 + scale(1, 8) {
        mend_beside_what_is_forgotten(aged(seed, &[0.5, 1.0]).await).await;
    }
}

async fn mend_beside_what_is_forgotten(aged: Aged) {
    let (db, url) = (&aged.db, aged.server.url());
    let first = aged
        .js
        .get_stream("RESULTS")
        .await
        .unwrap()
        .cached_info()
        .state
        .first_sequence;
    let at_hand = format!(
        "SELECT result_id FROM projector_results WHERE counts AND stream_seq >= {first}
             AND result_id NOT IN (SELECT result_id FROM projector_outputs)"
    );
    let changed = tamper(
        db,
        &format!(
            "UPDATE execution_results SET stdout = 'by hand', exit_code = exit_code + 1
             WHERE result_id IN ({at_hand} ORDER BY entry LIMIT 3);
             DELETE FROM execution_results WHERE version IS NULL AND result_id IN ({at_hand} ORDER BY entry LIMIT 20 OFFSET 10);
             UPDATE inventory_facts SET facts_json = '{{}}' WHERE job_id = 'inventory-disks'
                 AND pc_id = (SELECT min(pc_id) FROM inventory_facts);
             DELETE FROM feeds WHERE rowid IN (SELECT rowid FROM feeds LIMIT 4);
             DELETE FROM check_status WHERE rowid IN (SELECT rowid FROM check_status LIMIT 2)"
        ),
    );
    assert!(changed > 12, "{changed}");
    let said = asked(db, &url, &["verify"], 1);
    assert_eq!(said["found"], json!(changed), "{said:#}");
    let mended = asked(db, &url, &["replay"], 0);
    assert_eq!(mended["found"], json!(changed), "{mended:#}");
    assert_equal(&dump(db), &aged.live, "mended");
    assert_proved(db, &url);
    assert_replay_changes_nothing(db, &url, &[]);
}
