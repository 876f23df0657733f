//! Manifests that change between results: older hints are counted, and `replay --job` derives anew.

use super::*;
use crate::derived::{DISKS, manifest, put_manifest};

const BITLOCKER: &str = "check-bitlocker";

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_hints_have_changed_is_counted_and_derived_anew_on_request() {
    let server = NatsServer::start();
    let (js, url) = (server.fleet().await, server.url());
    put_manifests(&js).await.unwrap();
    let profile = Profile {
        missing: 0,
        missing_scans: 0,
        ..Profile::everything(300)
    };
    let planned = plan(540, &profile);
    publish(&js, &planned).await.unwrap();
    let (_folder, db) = place();
    catch_up(&db, &url);
    let before = dump(&db);
    assert_proved(&db, &url);

    let mut changed = manifest(DISKS);
    let inventory = &mut changed["inventory"];
    inventory["history_scalars"] = json!(["disk_count", "hostname"]);
    inventory["explode"][0]["columns"]
        .as_array_mut()
        .unwrap()
        .push(json!({"field": "temperature", "type": "integer"}));
    put_manifest(&js, DISKS, &changed).await;
    let said = assert_proved(&db, &url);
    let pairs = one(
        &db,
        &format!("SELECT count(*) FROM projector_derivations WHERE job_id = '{DISKS}'"),
    );
    assert_eq!(said["not_compared"], json!({"older hints": pairs}), "{said:#}");
    assert_equal(&dump(&db), &before, "verify only looks");

    // A rebuild derives nothing anew that it need not: it follows the hints of now.
    let replayed = asked(&db, &url, &["replay", "--job", DISKS], 0);
    assert!(
        replayed["mended"]["inventory_history"].as_u64() > Some(0),
        "{replayed:#}"
    );
    let (_folder, anew) = place();
    catch_up(&anew, &url);
    assert_equal(&dump(&db), &dump(&anew), "as under these hints from the start");
    assert_replay_changes_nothing(&db, &url, &["--job", DISKS]);
    assert_eq!(assert_proved(&db, &url)["not_compared"], json!({}));
    assert_replay_changes_nothing(&db, &url, &[]);
    asked(&db, &url, &["rebuild"], 0);
    assert_equal(&dump(&db), &dump(&anew), "rebuilt");

    // A replay of everything does so too.
    put_manifest(&js, DISKS, &manifest(DISKS)).await;
    assert_eq!(
        assert_proved(&db, &url)["not_compared"],
        json!({"older hints": pairs})
    );
    asked(&db, &url, &["replay"], 0);
    let said = assert_proved(&db, &url);
    assert_eq!(said["not_compared"], json!({}), "{said:#}");
    assert_replay_changes_nothing(&db, &url, &[]);

    // Taken away: what there is stays.
    let jobs = js.get_key_value("jobs").await.unwrap();
    jobs.delete(DISKS).await.unwrap();
    let now = dump(&db);
    assert_proved(&db, &url);
    let refused = run(&db, &url, &["replay", "--job", DISKS]);
    assert_eq!(refused.status.code(), Some(2), "{}", text(&refused));
    assert!(text(&refused).contains("nothing to derive"), "{}", text(&refused));
    assert_replay_changes_nothing(&db, &url, &[]);
    asked(&db, &url, &["rebuild"], 0);
    assert_equal(&dump(&db), &now, "rebuilt without the manifest");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_gains_an_inventory_is_not_taken_for_one_that_was_deleted() {
    let server = NatsServer::start();
    let (js, url) = (server.fleet().await, server.url());
    put_manifests(&js).await.unwrap();
    let profile = Profile {
        results: 20,
        pcs: 5,
        checks: 4,
        ..Profile::default()
    };
    publish(&js, &plan(541, &profile)).await.unwrap();
    let (_folder, db) = place();
    let (_other, whole) = place();
    catch_up(&db, &url);
    catch_up(&whole, &url);
    let mut changed = manifest(BITLOCKER);
    changed["inventory"] =
        json!({"display": [{"field": "volumes", "label": "Volumes"}], "history_scalars": ["volumes"]});
    put_manifest(&js, BITLOCKER, &changed).await;
    let said = assert_proved(&db, &url);
    assert_eq!(said["not_compared"], json!({"older hints": 5}), "{said:#}");
    let (_folder, anew) = place();
    catch_up(&anew, &url);
    assert!(one(&anew, "SELECT count(*) FROM inventory_history") > 0);
    for (db, args) in [(&db, &["replay", "--job", BITLOCKER][..]), (&whole, &["replay"])] {
        asked(db, &url, args, 0);
        assert_equal(&dump(db), &dump(&anew), &format!("{args:?}"));
        assert_eq!(assert_proved(db, &url)["not_compared"], json!({}));
    }
}

/// Its results in between were derived under others, or under none: what there is is not what these hints make of them.
#[tokio::test(flavor = "multi_thread")]
async fn hints_that_went_and_came_back_are_older_hints_until_derived_anew() {
    for (seed, meanwhile) in [(542, "other hints"), (543, "no manifest"), (544, "no document")] {
        let server = NatsServer::start();
        let (js, url) = (server.fleet().await, server.url());
        put_manifests(&js).await.unwrap();
        let jobs = js.get_key_value("jobs").await.unwrap();
        let profile = Profile {
            missing: 0,
            missing_scans: 0,
            ..Profile::everything(300)
        };
        let planned = plan(seed, &profile);
        let (_folder, db) = place();
        for (number, part) in planned.chunks(planned.len().div_ceil(3)).enumerate() {
            let now = if number == 1 { meanwhile } else { "" };
            match now {
                "other hints" => {
                    let mut other = manifest(DISKS);
                    other["inventory"]["history_scalars"] = json!(["disk_count", "hostname"]);
                    put_manifest(&js, DISKS, &other).await;
                }
                "no manifest" => jobs.delete(DISKS).await.unwrap(),
                "no document" => drop(jobs.put(DISKS, "{".into()).await.unwrap()),
                _ => put_manifest(&js, DISKS, &manifest(DISKS)).await,
            }
            publish(&js, part).await.unwrap();
            catch_up(&db, &url);
        }
        let pairs = one(
            &db,
            &format!(
                "SELECT count(*) FROM projector_derivations WHERE job_id = '{DISKS}' AND hints_hash = 'several'"
            ),
        );
        assert!(pairs > 0, "{meanwhile}");
        let said = assert_proved(&db, &url);
        assert_eq!(
            said["not_compared"],
            json!({"older hints": pairs}),
            "{meanwhile}: {said:#}"
        );
        asked(&db, &url, &["replay", "--job", DISKS], 0);
        let (_folder, anew) = place();
        catch_up(&anew, &url);
        // Deadlines were made of the manifest in force when the run began.
        let derived = |db: &Path| -> Vec<String> {
            let all = dump(db).into_iter();
            all.filter(|line| !line.starts_with("execution_results"))
                .collect()
        };
        assert_equal(&derived(&db), &derived(&anew), meanwhile);
        assert_eq!(assert_proved(&db, &url)["not_compared"], json!({}), "{meanwhile}");
        assert_replay_changes_nothing(&db, &url, &[]);
    }
}
