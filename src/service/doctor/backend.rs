//! The backend beside us: its projector's durables, its SQLite; and what agents left out.

use std::time::Duration;

use super::Book;
use super::finding::{Findings, Severity};
use crate::service::outside::TWO_WRITERS;
use crate::source::survey::facts::{DurableFacts, Facts, Look};
use crate::store::checkup::SqliteVersion;
use crate::wire::exit;
use crate::wire::kv::{self, BACKEND_DURABLES};
use crate::wire::shown::span;

/// A pause that ends within this is soon over.
const PAUSE_LEAST: Duration = Duration::from_secs(7 * 86_400);

/// The durables of the backend's own projector, and ours.
pub(super) fn durables(facts: &Facts, book: Option<&Book>, found: &mut Findings) {
    let adopted = book.is_some_and(|book| book.adopted);
    for ((stream, name), look) in &facts.durables {
        let looked_at = ("durable", format!("durable {name} on {stream}"));
        let is_backends = BACKEND_DURABLES.contains(&(*stream, name.as_str()));
        match look {
            Look::Seen(durable) if is_backends => incumbent(durable, adopted, looked_at, found),
            Look::Seen(durable) => ours(durable, looked_at, found),
            Look::Missing if is_backends && adopted => found.add(
                Severity::Note,
                looked_at,
                "gone",
                "the backend makes it anew at its next start and then writes the same tables as this service",
                "pause it right after that start (`nats consumer pause`); a pause survives restarts",
            ),
            Look::Missing if is_backends => {
                found.good(looked_at, "gone: the backend's projector does not run here")
            }
            Look::Missing if facts.streams.get(*stream).and_then(Look::seen).is_none() => {}
            Look::Missing => found.add(
                Severity::Note,
                looked_at,
                "not there",
                "the service has not read this stream yet",
                "start it (`results-projector run`)",
            ),
            Look::Failed(why) => found.add(
                Severity::Note,
                looked_at,
                format!("does not answer: {why}"),
                "whether it reads is not known",
                "try again; a consumer without a leader stands still",
            ),
            // Told among the permissions.
            Look::NotAllowed(_) => {}
        }
    }
}

fn incumbent(durable: &DurableFacts, adopted: bool, looked_at: (&'static str, String), found: &mut Findings) {
    if let Some(left) = durable.paused {
        let what = format!("paused for {} more", span(left));
        if !adopted || left >= PAUSE_LEAST {
            return found.good(looked_at, what);
        }
        return found.add(
            Severity::Note,
            looked_at,
            what,
            "after that the backend's projector writes the same tables again",
            "pause it for longer (`nats consumer pause`, for instance 8760h)",
        );
    }
    let consuming = durable.waiting > 0 || durable.moved;
    match (consuming, adopted) {
        (true, true) => found.add(
            Severity::Bad,
            looked_at,
            "consuming, on the file that this service writes",
            TWO_WRITERS,
            "pause it, as said; or give this service a database of its own",
        ),
        (true, false) => found.add(
            Severity::Note,
            looked_at,
            "consuming, into the backend's own database",
            "both projectors run, each with its own file; the backend's goes on to send the alerts of checks",
            "nothing",
        ),
        (false, true) => found.add(
            Severity::Note,
            looked_at,
            format!("idle, not paused; {} messages wait for it", durable.pending),
            "when the backend starts it projects all of them into the file that this service writes",
            "pause it before that (`nats consumer pause`)",
        ),
        (false, false) => found.good(looked_at, "idle"),
    }
}

fn ours(durable: &DurableFacts, looked_at: (&'static str, String), found: &mut Findings) {
    if durable.max_deliver > 0 {
        return found.add(
            Severity::Bad,
            looked_at,
            format!("somebody has changed it: max_deliver is {}", durable.max_deliver),
            "a message that was delivered so often is never delivered again",
            "restart the service, which makes it anew",
        );
    }
    if durable.paused.is_some() {
        return found.add(
            Severity::Bad,
            looked_at,
            "paused",
            "nothing is delivered, and the consumer looks healthy",
            "`nats consumer resume`, or restart the service, which makes it anew",
        );
    }
    if durable.waiting == 0 && !durable.moved {
        return found.add(
            Severity::Note,
            looked_at,
            format!("nobody pulls from it; {} messages wait", durable.pending),
            "the service is not running, or has stopped reading",
            "start it, or see what it logs",
        );
    }
    found.good(looked_at, format!("read; {} messages wait", durable.pending));
}

/// The SQLite of others who write the file.
pub(super) fn file(book: &Book, found: &mut Findings) {
    if !book.adopted {
        return;
    }
    let looked_at = ("sqlite", "the backend's SQLite");
    let why = "SQLite 3.7.0 to 3.51.2 may lose a reset of the write-ahead log (WAL) against a checkpoint of another connection, and corrupt the \
         file; on this file there are at least two";
    let to_do = "use a backend that was built with SQLite 3.51.3 or later, and keep backups until then";
    let ours = SqliteVersion::ours();
    let seen = &book.written_by;
    if let Some(old) = seen.iter().find(|version| version.has_wal_reset_bug()) {
        return found.add(
            Severity::Bad,
            looked_at,
            format!("the file was written by SQLite {old}, which has the WAL-reset bug"),
            why,
            to_do,
        );
    }
    match seen.iter().find(|version| **version != ours) {
        Some(other) => found.good(looked_at, format!("the file was written by SQLite {other}")),
        None => found.add(
            Severity::Note,
            looked_at,
            format!(
                "not known: no hand but that of SQLite {ours}, which this service has, is seen in the file"
            ),
            why,
            to_do,
        ),
    }
}

/// What agents did not run.
pub(super) fn left_out(book: &Book, found: &mut Findings) {
    let looked_at = ("left_out", "runs of the last day");
    let refused = |code: &i32| *code == kv::EXIT_REJECTED_UNSIGNED;
    let told: Vec<String> = book
        .left_out
        .iter()
        .map(|(code, runs)| {
            format!(
                "{runs} with {code} ({})",
                exit::meaning(*code).unwrap_or("reserved")
            )
        })
        .collect();
    if told.is_empty() {
        return found.good(looked_at, "agents left none out");
    }
    let why = if book.left_out.iter().any(|(code, _)| refused(code)) {
        "a refused signature means that agents do not trust who sends commands; the others are the schedules' own rules"
    } else {
        "by the rules of their schedules; many of one kind may be a rule that was not meant so"
    };
    found.add(
        Severity::Note,
        looked_at,
        format!("agents left out {}", told.join(", ")),
        why,
        "see execution_results by exit_code and job_id",
    );
}
