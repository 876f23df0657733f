//! A few storms of every kind of fault (`examples/torture`); the long run is `scripts/torture`.

use std::collections::BTreeSet;

use crate::harness::scale;

#[path = "../../examples/torture/engine.rs"]
mod engine;

use engine::plan::{Change, Strike};
use engine::{play, schedule};

macro_rules! storms {
    ($($name:ident: $seed:literal),+ $(,)?) => {
        /// Chosen so that together they strike with everything.
        const SEEDS: &[u64] = &[$($seed),+];
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                storm($seed).await;
            }
        )+
    };
}

storms! {
    a_storm_changes_nothing: 80,
    a_second_storm_changes_nothing: 403,
    a_third_storm_changes_nothing: 423,
    a_fourth_storm_changes_nothing: 680,
    a_fifth_storm_changes_nothing: 691,
    a_sixth_storm_changes_nothing: 8,
    a_seventh_storm_changes_nothing: 73,
}

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
fn the_chosen_seeds_strike_with_everything() {
    let known: BTreeSet<&str> = SEEDS.iter().copied().flat_map(kinds).collect();
    for name in Strike::NAMES.iter().chain(Change::NAMES) {
        assert!(known.contains(name), "no chosen seed strikes with: {name}");
    }
    let schedules: Vec<_> = SEEDS.iter().map(|seed| schedule(*seed, 0)).collect();
    assert!(
        schedules
            .iter()
            .any(|schedule| schedule.dies_in_migration.is_some())
    );
    assert!(schedules.iter().any(|schedule| schedule.adopted));
}

async fn storm(seed: u64) {
    let schedule = schedule(seed, scale(1_000, 20_000));
    eprintln!("{schedule}");
    let tally = play(&schedule).await;
    assert!(tally.rows > 0 && tally.messages > 0, "{tally:?}");
}
