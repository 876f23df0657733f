//! The libFuzzer binary of all targets: `FUZZ_TARGET` says which one it is. Made and run by `scripts/fuzz`.
#![no_main]

mod mutate;
#[path = "../targets/mod.rs"]
mod targets;

use std::sync::OnceLock;

use libfuzzer_sys::{fuzz_mutator, fuzz_target};

static RUN: OnceLock<fn(&[u8])> = OnceLock::new();

fn chosen() -> fn(&[u8]) {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    let found = targets::TARGETS.into_iter().find(|(target, _)| *target == name);
    let (_, run) = found.unwrap_or_else(|| {
        let names = targets::TARGETS.map(|(name, _)| name).join(", ");
        eprintln!("FUZZ_TARGET is {name:?}; it must be one of {names}");
        std::process::exit(2);
    });
    run
}

fuzz_target!(|data: &[u8]| RUN.get_or_init(chosen)(data));

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    mutate::mutate(data, size, max_size, seed)
});
