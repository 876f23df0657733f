//! What is fuzzed: one function a target, which reads a case and asserts what must hold of it, whatever the case is.
//! The libFuzzer binary runs them on what it makes up, `tests/corpora.rs` on what was kept.

mod config;
mod fences;
mod hints;
mod history;
mod inventory;
mod manifests;
mod model;
mod names;
mod results;
mod starts;
mod stream;

/// A target's name, which is also that of its folders under `corpus`, `findings` and `dictionaries`, and what it runs.
pub(crate) type Target = (&'static str, fn(&[u8]));

/// All of them.
pub(crate) const TARGETS: [Target; 10] = [
    ("config", config::run),
    ("fences", fences::run),
    ("hints", hints::run),
    ("history", history::run),
    ("inventory", inventory::run),
    ("manifests", manifests::run),
    ("names", names::run),
    ("results", results::run),
    ("starts", starts::run),
    ("stream", stream::run),
];

/// Stands between the parts of a case, so that a case can be read and written by hand.
pub(crate) const BETWEEN_PARTS: &[u8] = b"\n---\n";

/// The parts of a case; there is always a first one.
pub(crate) fn parts(case: &[u8]) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    let mut rest = case;
    while let Some(at) = rest
        .windows(BETWEEN_PARTS.len())
        .position(|window| window == BETWEEN_PARTS)
    {
        let (part, after) = rest.split_at(at);
        parts.push(part);
        rest = after.get(BETWEEN_PARTS.len()..).unwrap_or_default();
    }
    parts.push(rest);
    parts
}
