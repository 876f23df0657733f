//! A few storms of every kind of fault (`examples/torture`); the long run is `scripts/torture`.

use std::collections::BTreeSet;

use crate::harness::scale;

#[path = "../../examples/torture/engine.rs"]
mod engine;

use engine::plan::{Change, Strike};
use engine::{play, schedule};

/// Chosen so that together they strike with everything.
const SEEDS: [u64; 4] = [1, 2, 3, 4];

fn kinds(seed: u64) -> BTreeSet<&'static str> {
    let schedule = schedule(seed, 0);
    let strikes = schedule.acts.iter().flat_map(|act| &act.strikes);
    let changes = schedule.acts.iter().filter_map(|act| act.change.as_ref());
    strikes
        .map(|(_, strike)| strike.name())
        .chain(changes.map(Change::name))
        .collect()
}

#[test]
fn the_same_seed_gives_the_same_schedule() {
    for seed in 1..50 {
        assert_eq!(schedule(seed, 100), schedule(seed, 100));
        assert_ne!(schedule(seed, 100), schedule(seed + 1, 100));
    }
}

#[test]
fn two_hundred_seeds_know_every_fault() {
    let known: BTreeSet<&str> = (1..200).flat_map(kinds).collect();
    for name in Strike::NAMES.iter().chain(Change::NAMES) {
        assert!(known.contains(name), "no seed strikes with: {name}");
    }
}

async fn storm(seed: u64) {
    let schedule = schedule(seed, scale(1_000, 20_000));
    eprintln!("{schedule}");
    let tally = play(&schedule).await;
    assert!(tally.rows > 0 && tally.messages > 0, "{tally:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_changes_nothing() {
    storm(SEEDS[0]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_storm_changes_nothing() {
    storm(SEEDS[1]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_third_storm_changes_nothing() {
    storm(SEEDS[2]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fourth_storm_changes_nothing() {
    storm(SEEDS[3]).await;
}
