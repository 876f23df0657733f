//! What the vector tests share: the folder, the cases, the payloads.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors")
}

/// Runs every case of a file; a failure names file and case.
pub(crate) fn check(file: &str, case: impl Fn(&Value, &Value)) {
    let text = fs::read_to_string(folder().join(format!("{file}.json"))).unwrap();
    let document: Value = serde_json::from_str(&text).unwrap();
    let cases = document["cases"].as_array().unwrap();
    assert!(!cases.is_empty());
    for found in cases {
        let (input, expect) = (&found["input"], &found["expect"]);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| case(input, expect)));
        assert!(outcome.is_ok(), "{file}: case {}", found["name"]);
    }
}

pub(crate) fn payload(input: &Value) -> Vec<u8> {
    if let Some(text) = input["text"].as_str() {
        return text.as_bytes().to_vec();
    }
    if let Some(hex) = input["hex"].as_str() {
        return (0..hex.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
            .collect();
    }
    input["json"].to_string().into_bytes()
}
