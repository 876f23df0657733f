//! The fleet that the tests, benches and the demo publish is what agents publish, and the same for ever.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use results_projector::projection::check;
use results_projector::projection::feed::{self, FeedOutcome};
use results_projector::projection::manifests::{Manifests, SpecState};
use results_projector::wire::fence::{self, Hint};
use results_projector::wire::result::ExecResult;
use results_projector::wire::{inventory, result, started, subject};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::harness::fleet::{Kind, manifests};
use crate::harness::*;

fn hash(planned: &[Planned]) -> String {
    let mut hash = Sha256::new();
    for planned in planned {
        hash.update(&planned.subject);
        hash.update(&planned.payload);
        for (name, bytes) in &planned.objects {
            hash.update(name);
            hash.update(bytes);
        }
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn plain_results_are_the_same_bytes_as_ever() {
    let profile = Profile {
        overflow_permille: 20,
        overflow_bytes: (2_000, 3_000),
        duplicate_permille: 30,
        malformed: 13,
        missing: 5,
        ..Profile::default()
    };
    // The benches compare runs over years: whoever changes these changes what they measure.
    assert_eq!(
        hash(&plan(1, &Profile::default())),
        "7d118212ade5d96c9396346ec07e3f7e703ff85cb9d68fa3a89a3efa22ccb422"
    );
    assert_eq!(
        hash(&plan(1, &profile)),
        "a41c6581dd59d3e9d32bd8bf14a591acf7b31718fcb6c122b6dd00cb024a8a11"
    );
}

#[test]
fn all_the_rest_comes_beside_the_plain_results() {
    let everything = Profile::everything(2_000);
    let planned = plan(7, &everything);
    assert_eq!(hash(&planned), hash(&plan(7, &everything)));
    assert_ne!(hash(&planned), hash(&plan(8, &everything)));

    let plain = Profile {
        started_permille: 0,
        scans: 0,
        checks: 0,
        feeds: 0,
        legacy_inventory: 0,
        ..everything
    };
    let mut rest = planned.iter();
    for plain in plan(7, &plain) {
        assert!(rest.any(|planned| planned.subject == plain.subject && planned.payload == plain.payload));
    }
}

fn compiled() -> Manifests {
    Manifests::compile(
        manifests()
            .into_iter()
            .map(|(id, manifest)| (id.to_owned(), Bytes::from(manifest.to_string()))),
    )
}

#[test]
fn the_manifests_are_valid_in_every_part() {
    let jobs = compiled();
    let (mut specs, mut checks, mut feeds) = (0, 0, 0);
    for (id, job) in jobs.iter() {
        assert_eq!(job.undecodable, None, "{id}");
        assert!(job.timeout.is_some(), "{id}");
        let hints = job.hints.as_ref().unwrap();
        for spec in hints.inventory.iter().flat_map(|inventory| &inventory.specs) {
            assert!(matches!(spec, SpecState::Valid(_)), "{spec:?}");
            specs += 1;
        }
        checks += usize::from(hints.check.is_some());
        feeds += hints.feeds.len();
    }
    assert_eq!((specs, checks, feeds), (2, 2, 2));
}

/// Which of the fields that an agent may leave out it has sent. A new one is given here: no test, bench or storm has seen it
/// before the fleet sends it.
fn sent<T: AsRef<str>>(result: &ExecResult<T>) -> impl Iterator<Item = &'static str> {
    let ExecResult {
        result_id,
        request_id: _,
        exec_id,
        parent_result_id,
        pc_id: _,
        exit_code: _,
        skipped,
        stdout: _,
        stderr: _,
        started_at: _,
        finished_at: _,
        stdout_object,
        // As those of stdout.
        stderr_object: _,
        manifest_id,
        // Not projected.
        collect_object: _,
    } = result;
    let sent = [
        ("result_id", !result_id.as_ref().is_empty()),
        ("exec_id", exec_id.is_some()),
        ("parent_result_id", parent_result_id.is_some()),
        ("skipped", skipped.is_some()),
        ("stdout_object", stdout_object.is_some()),
        ("manifest_id", manifest_id.is_some()),
    ];
    sent.into_iter().filter_map(|(name, sent)| sent.then_some(name))
}

#[test]
fn the_fleet_sends_every_field_that_a_result_may_have() {
    let planned = plan(3, &Profile::everything(2_000));
    let results = planned.iter().filter(|planned| planned.stream() == "RESULTS");
    let decoded = results.filter_map(|planned| result::decode(&planned.payload).ok());
    let found: BTreeSet<&str> = decoded
        .flat_map(|result| sent(&result).collect::<Vec<_>>())
        .collect();
    assert_eq!(found.len(), 6, "{found:?}");
}

#[test]
fn every_message_is_what_its_kind_says() {
    let profile = Profile {
        overflow_permille: 20,
        ..Profile::everything(2_000)
    };
    let planned = plan(3, &profile);
    let jobs = compiled();
    let (mut kinds, mut results, mut overflowed_scans) = (BTreeMap::new(), BTreeSet::new(), 0);
    for planned in &planned {
        *kinds.entry(planned.kind).or_insert(0_usize) += 1;
        let decoded = match (planned.stream(), planned.kind) {
            ("RESULTS", kind) => result::decode(&planned.payload)
                .map(|result| {
                    assert_eq!(planned.subject, subject::results(&result.request_id));
                    let hints = jobs.hints(result.manifest_id.as_deref().unwrap());
                    let derives = matches!(kind, Kind::Inventory | Kind::Check | Kind::Feed);
                    assert!(derives == hints.is_some() || matches!(kind, Kind::Duplicate | Kind::Missing));
                    overflowed_scans += if derives { planned.objects.len() } else { 0 };
                    results.insert(planned.result_id.clone().unwrap());
                })
                .map_err(drop),
            ("EVENTS", Kind::Ignored) => {
                assert!(!planned.subject.starts_with("events.started."));
                Ok(())
            }
            ("EVENTS", _) => started::decode_shared(&planned.payload)
                .map(|event| {
                    assert_eq!(
                        planned.subject,
                        subject::events_started(&event.exec_id, &event.pc_id)
                    );
                    assert_eq!(planned.started_id.as_deref(), Some(&*event.result_id));
                })
                .map_err(drop),
            _ => inventory::decode(&planned.subject, &planned.payload)
                .map(|snapshot| assert_eq!(planned.subject, subject::inventory(&snapshot.pc_id, "hw")))
                .map_err(drop),
        };
        assert_eq!(decoded.is_err(), planned.kind == Kind::Malformed, "{planned:?}");
    }
    // Fieldless, and declared without a gap.
    assert_eq!(kinds.len(), Kind::Ignored as usize + 1, "{kinds:?}");
    assert!(overflowed_scans > 0);

    let (mut seen, mut early, mut late, mut in_flight) = (BTreeSet::new(), 0, 0, 0);
    for planned in &planned {
        seen.extend(&planned.result_id);
        match &planned.started_id {
            Some(id) if !results.contains(id) => in_flight += 1,
            Some(id) if seen.contains(id) => late += 1,
            Some(_) => early += 1,
            None => {}
        }
    }
    assert!(
        early > late && late > 0 && in_flight > 0,
        "{early} {late} {in_flight}"
    );
}

#[test]
fn scans_find_thirty_facts_and_forty_apps_of_which_few_change() {
    let profile = Profile {
        results: 0,
        pcs: 20,
        scans: 6,
        ..Profile::default()
    };
    let (mut last, mut apps, mut changed): (BTreeMap<String, Vec<Value>>, _, _) = (BTreeMap::new(), 0, 0);
    for planned in plan(1, &profile) {
        let result = result::decode(&planned.payload).unwrap();
        let block = fence::block(&result.stdout, Hint::Inventory);
        // One or two scans die half-way.
        let Ok(Value::Object(facts)) = serde_json::from_str(block) else {
            continue;
        };
        let fenced = block.len() < result.stdout.trim().len();
        assert_eq!(
            fenced,
            result.manifest_id.as_deref() == Some("inventory-software")
        );
        if !fenced {
            assert!((1..=3).contains(&facts["disks"].as_array().unwrap().len()));
            continue;
        }
        assert!((30..34).contains(&facts.len()), "{}", facts.len());
        let now = facts["apps"].as_array().unwrap();
        let keys: BTreeSet<_> = now
            .iter()
            .map(|app| (app["name"].as_str(), app["source"].as_str()))
            .collect();
        assert_eq!(keys.len(), now.len());
        assert!((28..=48).contains(&now.len()), "{}", now.len());
        if let Some(before) = last.insert(result.pc_id.into_owned(), now.clone()) {
            apps += now.len();
            changed += now.iter().filter(|app| !before.contains(app)).count();
        }
    }
    let permille = changed * 1_000 / apps;
    assert!((8..40).contains(&permille), "{permille} of {apps}");
}

#[test]
fn checks_and_feeds_say_all_that_they_can_say() {
    let profile = Profile {
        results: 0,
        pcs: 40,
        checks: 5,
        feeds: 30,
        ..Profile::default()
    };
    let jobs = compiled();
    let (mut states, mut runs) = (BTreeSet::new(), BTreeMap::new());
    for planned in plan(1, &profile) {
        let result = result::decode(&planned.payload).unwrap();
        let hints = jobs.hints(result.manifest_id.as_deref().unwrap()).unwrap();
        if let Some(check) = &hints.check {
            let said = check::evaluate(
                check,
                result.exit_code,
                Some(&result.stdout),
                Some(&result.stderr),
            );
            let said = said.unwrap();
            states.insert((check.name.clone(), said.status, said.detail.is_some()));
        }
        for feed in hints.feeds.iter().filter(|_| result.exit_code == 0) {
            let payload = serde_json::from_str(fence::block(&result.stdout, Hint::Feed)).unwrap();
            let FeedOutcome::Items {
                items, without_key, ..
            } = feed::items(feed, &payload)
            else {
                panic!("{payload}");
            };
            assert_eq!(without_key, 0);
            assert!(items.len() > 5, "{}", items.len());
            runs.entry(feed.id.clone())
                .or_insert_with(BTreeSet::new)
                .insert(items.iter().map(|item| item.data.clone()).collect::<Vec<_>>());
        }
    }
    for name in ["bitlocker", "defender"] {
        for (status, detail) in [("ok", false), ("warn", true), ("fail", true), ("unknown", true)] {
            assert!(
                states.contains(&(name.to_owned(), status, detail)),
                "{name} {status}"
            );
        }
    }
    // Each run says something new.
    assert!(runs.len() == 2 && runs.values().all(|said| said.len() > 15));
}
