//! Real parts for the tests: a server each, the real binary, real files. No fixed ports, no sleeps for luck.

pub mod backend;
pub mod cluster;
pub mod disk;
pub mod dump;
#[path = "../../../examples/fleet/generator.rs"]
pub mod fleet;
pub mod nats;
pub mod projector;
pub mod proxy;
pub mod web;

use std::time::{Duration, Instant};

pub use cluster::Cluster;
pub use disk::SmallDisk;
pub use dump::{assert_same, check_i3, one, position, position_of};
pub use fleet::{Planned, Profile, plan, publish};
pub use nats::NatsServer;
pub use projector::Projector;
pub use proxy::Proxy;

/// Counts that fit into the everyday run, and those that the promise names (`scripts/test --full`).
pub fn scale<T>(quick: T, full: T) -> T {
    if std::env::var_os("RESULTS_PROJECTOR_TEST_FULL").is_some() {
        full
    } else {
        quick
    }
}

/// Long enough for a machine that is busy with other things.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Polls until it is so; the panic names what was awaited.
pub fn wait_until(what: &str, limit: Duration, mut so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !so() {
        assert!(started.elapsed() < limit, "waited {limit:?} in vain until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Results without anything beside them.
pub fn small(seed: u64, results: usize) -> Vec<Planned> {
    plan(
        seed,
        &Profile {
            results,
            ..Profile::default()
        },
    )
}
