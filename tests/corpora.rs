//! Everything that fuzzing has kept, once more: the corpora that reach every corner, and each case that found something
//! (`fuzz/`, scripts/fuzz). No libFuzzer here; a case that fails is named.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::string_slice
)]

#[path = "../fuzz/targets/mod.rs"]
mod targets;

use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

fn cases(folder: &str, target: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz")
        .join(folder)
        .join(target);
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut cases: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    cases
}

fn replay(folder: &str) -> usize {
    let mut failed = Vec::new();
    let mut replayed = 0;
    for (target, run) in targets::TARGETS {
        for path in cases(folder, target) {
            let case = fs::read(&path).unwrap();
            replayed += 1;
            if catch_unwind(|| run(&case)).is_err() {
                failed.push(path);
            }
        }
    }
    assert!(failed.is_empty(), "these cases fail: {failed:#?}");
    replayed
}

#[test]
fn every_kept_case_of_every_target_holds() {
    for (target, _) in targets::TARGETS {
        assert!(!cases("corpus", target).is_empty(), "no cases for {target}");
    }
    let replayed = replay("corpus");
    println!("{replayed} cases");
}

#[test]
fn every_case_that_once_found_something_holds() {
    let replayed = replay("findings");
    println!("{replayed} cases");
}
