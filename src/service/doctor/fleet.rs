//! Jobs, scripts and PCs: what the buckets name against what the database has heard of.

use std::collections::BTreeSet;

use super::Book;
use super::finding::{Findings, Severity};
use super::keys::{contents, is_no_pc, scalar};
use crate::projection::manifests::Manifests;
use crate::source::survey::facts::{Entry, Facts};
use crate::wire::inert::inert;
use crate::wire::kv;
use crate::wire::manifest::Posted;
use crate::wire::shown::names;

/// Judges them.
pub(super) fn judge(facts: &Facts, book: Option<&Book>, found: &mut Findings) {
    manifests(facts, found);
    scripts(facts, book, found);
    pcs(book, found);
}

fn manifests(facts: &Facts, found: &mut Findings) {
    let Some(jobs) = contents(facts, kv::BUCKET_JOBS) else {
        return;
    };
    let documents = jobs.entries.iter().map(|(key, entry)| {
        let posted = Posted {
            document: entry.value.clone(),
            changed: Some(entry.changed),
        };
        (key.clone(), posted)
    });
    let manifests = Manifests::of_bucket(documents);
    let unreadable: Vec<&str> = manifests
        .iter()
        .filter(|(_, job)| job.undecodable.is_some())
        .map(|(id, _)| id)
        .collect();
    let looked_at = ("manifests", "manifests");
    if unreadable.is_empty() {
        return found.good(looked_at, format!("{} can be read", jobs.entries.len()));
    }
    found.add(
        Severity::Bad,
        looked_at,
        format!("cannot be read: {}", names(unreadable)),
        "the rows of these jobs are written, but none of what their outputs say",
        "mend them in the backend; `status` says what is wrong under issues",
    );
}

/// Whether a script's status says that it may not run.
pub(super) fn is_revoked(entry: &Entry) -> bool {
    status(entry) == kv::SCRIPT_STATUS_REVOKED
}

fn status(entry: &Entry) -> String {
    let text = String::from_utf8_lossy(&entry.value);
    text.trim().trim_matches('"').to_owned()
}

fn scripts(facts: &Facts, book: Option<&Book>, found: &mut Findings) {
    let looked_at = || ("scripts", format!("bucket {}", kv::BUCKET_SCRIPT_STATUS));
    if let Some(there) = contents(facts, kv::BUCKET_SCRIPT_STATUS) {
        let before = found.wrong();
        let known = [kv::SCRIPT_STATUS_ACTIVE, kv::SCRIPT_STATUS_REVOKED];
        let odd: Vec<&str> = there
            .entries
            .iter()
            .filter(|(_, entry)| !known.contains(&status(entry).as_str()))
            .map(|(id, _)| id.as_str())
            .collect();
        if !odd.is_empty() {
            found.add(
                Severity::Note,
                looked_at(),
                format!(
                    "neither {} nor {}: {}",
                    kv::SCRIPT_STATUS_ACTIVE,
                    kv::SCRIPT_STATUS_REVOKED,
                    names(odd)
                ),
                "what is not exactly REVOKED does not stop a script",
                "set them again in the backend",
            );
        }
        for (job_id, runs) in book.iter().flat_map(|book| &book.revoked_runs) {
            found.add(
                Severity::Bad,
                ("scripts", format!("script {}", inert(job_id, 80))),
                format!(
                    "revoked, and run {} times since, on {} PCs, the last result at {}",
                    runs.runs, runs.pcs, runs.last
                ),
                "agents do not know of it, or do not obey: what was meant to be stopped goes on",
                "see which PCs (execution_results by job_id), whether they are connected, and which agent they have",
            );
        }
        if found.wrong() == before {
            let revoked = there.entries.values().filter(|entry| is_revoked(entry)).count();
            found.good(looked_at(), format!("{revoked} revoked, none of them still runs"));
        }
    }
    let (Some(pins), Some(jobs)) = (
        contents(facts, kv::BUCKET_SCRIPT_CURRENT),
        contents(facts, kv::BUCKET_JOBS),
    ) else {
        return;
    };
    let pinned: Vec<&str> = pins
        .entries
        .iter()
        .filter(|(id, pin)| {
            let version = jobs
                .entries
                .get(*id)
                .and_then(|job| scalar(&job.value, "version"));
            version.is_some_and(|version| version != status(pin))
        })
        .map(|(id, _)| id.as_str())
        .collect();
    let looked_at = ("scripts", format!("bucket {}", kv::BUCKET_SCRIPT_CURRENT));
    if pinned.is_empty() {
        return found.good(looked_at, format!("{} versions, as in jobs", pins.entries.len()));
    }
    found.add(
        Severity::Note,
        looked_at,
        format!("another version than jobs has: {}", names(pinned)),
        format!(
            "agents leave out a run whose version is not the one here (exit code {})",
            kv::EXIT_SKIP_VERSION_PIN
        ),
        "save the job again in the backend, which writes both",
    );
}

fn pcs(book: Option<&Book>, found: &mut Findings) {
    let Some(book) = book else { return };
    let silent: BTreeSet<&str> = book.silent.values().flatten().map(String::as_str).collect();
    let looked_at = ("pcs", "PCs");
    if silent.is_empty() {
        if !book.silent.is_empty() {
            found.good(looked_at, "of each one that is named a result is held");
        }
        return;
    }
    let (impossible, silent): (Vec<&str>, Vec<&str>) = silent.into_iter().partition(|id| is_no_pc(id));
    if !impossible.is_empty() {
        found.add(
            Severity::Note,
            ("pcs", "PCs"),
            format!("no PC has such an id: {}", names(impossible)),
            format!("an id has at most {} labels", kv::MAX_PC_ID_LABELS),
            "delete them from the bucket",
        );
    }
    if silent.is_empty() {
        return;
    }
    let more = match book.silent_unasked {
        0 => String::new(),
        more => format!(" (and up to {more} that were not looked at)"),
    };
    let buckets: Vec<&str> = book
        .silent
        .iter()
        .filter(|(_, pcs)| !pcs.is_empty())
        .map(|(bucket, _)| *bucket)
        .collect();
    found.add(
        Severity::Note,
        looked_at,
        format!(
            "{} in {} never sent a result: {}{more}",
            silent.len(),
            buckets.join(" and "),
            names(silent.iter().copied())
        ),
        "the PC is off, gone, or misspelt, or its agent cannot publish; or its results are older than the 90 days that are kept",
        "look at each; delete those that are gone from the bucket",
    );
}
