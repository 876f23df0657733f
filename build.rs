//! Which commit a release is built from: `RESULTS_PROJECTOR_COMMIT` where it is set, else what git says; "unknown" without
//! either. A development build does not ask, so that a commit does not make all tests be built anew.

use std::path::Path;
use std::process::Command;

fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
}

fn commit() -> Option<String> {
    // Sources unpacked within somebody else's repository are no commit of that one.
    let top = git(&["rev-parse", "--show-toplevel"])?;
    let here = std::env::var("CARGO_MANIFEST_DIR").ok()?;
    if Path::new(&top).canonicalize().ok()? != Path::new(&here).canonicalize().ok()? {
        return None;
    }
    // HEAD moves with a checkout, its log with each commit. A file that is not there would make each build a new one.
    for name in ["HEAD", "logs/HEAD"] {
        if let Some(path) = git(&["rev-parse", "--git-path", name]).filter(|path| Path::new(path).exists()) {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    git(&["rev-parse", "--short=12", "HEAD"])
}

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=RESULTS_PROJECTOR_COMMIT");
    let is_release = std::env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let commit = match std::env::var("RESULTS_PROJECTOR_COMMIT") {
        Ok(commit) if !commit.is_empty() => commit,
        _ if is_release => commit().unwrap_or_else(|| "unknown".to_owned()),
        _ => "unknown (a development build)".to_owned(),
    };
    println!("cargo::rustc-env=RESULTS_PROJECTOR_COMMIT={commit}");
}
