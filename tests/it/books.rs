//! Commands that change the books or copy the database: dead letters tried again or given up, outputs asked for again,
//! backups, dumps. By the running service or without one, the outcome is that of a run in which nothing was wrong.

mod backup;
mod letters;
mod outputs;

use std::path::Path;
use std::process::Output;

use serde_json::Value;

use crate::harness::projector::{run, text};

/// A command's document; it must have ended with this exit code.
fn document(output: &Output, code: i32) -> Value {
    assert_eq!(output.status.code(), Some(code), "{}", text(output));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(output)))
}

/// Runs a command with `--json`.
fn asked(db: &Path, url: &str, args: &[&str], code: i32) -> Value {
    let args: Vec<&str> = args.iter().copied().chain(["--json"]).collect();
    document(&run(db, url, &args), code)
}

/// A number of a document.
fn number(document: &Value, name: &str) -> i64 {
    document[name]
        .as_i64()
        .unwrap_or_else(|| panic!("no {name} in {document}"))
}
