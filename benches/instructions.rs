//! Instructions of decoding and of a group of inserts, as callgrind counts them: a guard against regressions that no
//! other load on the machine disturbs. `cargo bench --bench instructions -- [--record]`.
//!
//! Compares with `benches/instructions.json`. Exit codes: 0 no more than was recorded, 1 more, 3 nothing to compare with
//! (no valgrind, or another compiler). `--record` writes the file anew.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout
)]
#![allow(clippy::let_underscore_must_use, clippy::string_slice)]

mod support;

use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::Path;
use std::process::{Command, ExitCode};

use bytes::Bytes;
use results_projector::wire::result::decode_shared;
use serde::{Deserialize, Serialize};
use support::store::{Groups, without_outputs};
use support::{argument, flag, fleet};

/// Messages of each part.
const MESSAGES: usize = 5_000;
/// What a rebuild with the same compiler may differ by.
const TOLERANCE: f64 = 0.03;
/// What is measured, and the function whose instructions count.
const PARTS: [(&str, &str); 2] = [("decode", "*decode_messages*"), ("insert", "*project_group*")];

#[derive(Serialize, Deserialize)]
struct Recorded {
    compiler: String,
    /// Instructions per message of each part.
    parts: BTreeMap<String, u64>,
}

#[inline(never)]
fn decode_messages(payloads: &[Bytes]) {
    for payload in payloads {
        black_box(decode_shared(black_box(payload)).unwrap());
    }
}

#[inline(never)]
fn project_group(groups: &mut Groups, messages: &[results_projector::projection::result::ResultMessage]) {
    groups.project(messages);
}

/// What runs under callgrind: `--part NAME`.
fn part(name: &str) {
    let profile = fleet::Profile {
        results: 2 * MESSAGES,
        ..Default::default()
    };
    let payloads: Vec<Bytes> = fleet::plan(1, &profile)
        .into_iter()
        .map(|planned| planned.payload)
        .collect();
    let (before, measured) = payloads.split_at(MESSAGES);
    if name == "decode" {
        return decode_messages(measured);
    }
    let messages = |payloads: &[Bytes]| {
        let decoded: Vec<_> = payloads
            .iter()
            .map(|payload| decode_shared(payload).unwrap())
            .collect();
        without_outputs(&decoded)
    };
    let folder = tempfile::tempdir().unwrap();
    let mut groups = Groups::create(&folder.path().join("results.db"));
    // A tree that is there, and statements that are prepared.
    groups.project(&messages(before));
    project_group(&mut groups, &messages(measured));
    groups.close();
}

/// Instructions per message; `None` without valgrind.
fn count(name: &str, function: &str) -> Option<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(format!("--toggle-collect={function}"))
        .arg(std::env::current_exe().unwrap())
        .args(["--part", name])
        .output()
        .ok()?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let collected = said
        .lines()
        .find_map(|line| line.split_once("Collected :"))
        .and_then(|(_, number)| number.trim().parse::<u64>().ok())
        .expect(&said);
    assert!(collected > 0, "{function} was inlined:\n{said}");
    Some(collected / MESSAGES as u64)
}

fn compiler() -> String {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let said = Command::new(rustc).arg("--version").output().unwrap();
    String::from_utf8_lossy(&said.stdout).trim().to_owned()
}

fn main() -> ExitCode {
    let name = argument("part", String::new());
    if !name.is_empty() {
        part(&name);
        return ExitCode::SUCCESS;
    }
    let mut found = Recorded {
        compiler: compiler(),
        parts: BTreeMap::new(),
    };
    for (name, function) in PARTS {
        let Some(count) = count(name, function) else {
            println!("instructions: not counted, valgrind is missing (Debian: valgrind)");
            return ExitCode::from(3);
        };
        found.parts.insert(name.to_owned(), count);
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/instructions.json");
    let recorded: Option<Recorded> = std::fs::read(&file)
        .ok()
        .map(|text| serde_json::from_slice(&text).unwrap());
    if flag("record") {
        std::fs::write(&file, serde_json::to_string_pretty(&found).unwrap() + "\n").unwrap();
        println!("recorded: {:?} instructions a message", found.parts);
        return ExitCode::SUCCESS;
    }
    let Some(recorded) = recorded else {
        println!(
            "instructions a message: {:?}; nothing was recorded yet",
            found.parts
        );
        return ExitCode::from(3);
    };
    let mut more = false;
    for (name, now) in &found.parts {
        let before = recorded.parts.get(name).copied().unwrap_or(0);
        let change = *now as f64 / before as f64 - 1.0;
        more |= change > TOLERANCE;
        println!(
            "{name:<8}{now:>9} instructions a message, recorded {before:>9}: {:>+6.1} %{}",
            change * 100.0,
            if change > TOLERANCE { ", MORE" } else { "" }
        );
    }
    if recorded.compiler != found.compiler {
        println!(
            "recorded with {}, this is {}: no verdict",
            recorded.compiler, found.compiler
        );
        return ExitCode::from(3);
    }
    if more {
        println!(
            "where they go: valgrind --tool=callgrind --toggle-collect='*project_group*' …; if they are meant: --record"
        );
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
