//! Streams against contract §2.3, and against how far the database has read them.

use std::time::Duration;

use super::finding::{Findings, Severity};
use super::{Book, filled, kept};
use crate::source::survey::facts::{Facts, Look, StreamFacts};
use crate::store::report::StreamReport;
use crate::wire::backend::{STREAMS, StreamSpec};
use crate::wire::kv;
use crate::wire::shown::{names, size, span};
use crate::wire::subject::covers;
use crate::wire::time::Timestamp;

/// Percent of a stream's limit from which on it counts as nearly full.
const NEARLY_FULL: u128 = 80;
/// Percent of a stream's age from which on an unread message counts as nearly gone.
const NEARLY_GONE: u128 = 80;

/// What the backend does about it.
const ANEW: &str = "start the backend, which sets its streams anew";

/// Rows that go before their messages do.
fn retention(stream: &StreamFacts, book: Option<&Book>, found: &mut Findings) {
    let Some(retention) = book.and_then(|book| book.retention) else {
        return;
    };
    if !stream.max_age.is_zero() && stream.max_age <= retention {
        return;
    }
    found.add(
        Severity::Note,
        ("stream", format!("stream {}", kv::STREAM_RESULTS)),
        format!(
            "keeps messages {}, and rows are deleted after {}",
            kept(stream.max_age),
            span(retention)
        ),
        "whatever reads the stream from its start (a rebuild, a stream that was made anew) makes those rows again, until they are \
         deleted again",
        "give retention.execution_results at least the stream's age",
    );
}

/// Judges each stream.
pub(super) fn judge(facts: &Facts, book: Option<&Book>, now: Timestamp, found: &mut Findings) {
    let mut missing = Vec::new();
    for spec in STREAMS {
        let looked_at = ("stream", format!("stream {}", spec.name));
        match facts.streams.get(spec.name) {
            Some(Look::Seen(stream)) => {
                let before = found.wrong();
                shape(&spec, stream, found);
                if spec.name == kv::STREAM_RESULTS {
                    retention(stream, book, found);
                }
                let report = book.and_then(|book| {
                    let mut all = book.streams.iter();
                    all.find(|report| report.stream == spec.name)
                });
                progress(&spec, stream, report, now, found);
                if found.wrong() == before {
                    found.good(
                        looked_at,
                        format!("{} messages, {}", stream.messages, filled(stream)),
                    );
                }
            }
            Some(Look::Missing) if spec.ours().is_some() => found.add(
                Severity::Bad,
                looked_at,
                "does not exist",
                "what agents publish to it is lost, and there is nothing to read",
                "start the backend once, which makes it; or the service with `run --create-missing`",
            ),
            Some(Look::Missing) => missing.push(spec.name),
            Some(Look::Failed(why)) => found.silent(
                if spec.ours().is_some() {
                    Severity::Bad
                } else {
                    Severity::Note
                },
                looked_at,
                why,
                "a stream without a leader takes and gives no messages",
            ),
            Some(Look::NotAllowed(_)) | None => {}
        }
    }
    if !missing.is_empty() {
        found.add(
            Severity::Note,
            ("stream", "streams"),
            format!("not there: {}", names(missing)),
            "the service does not read them, but the backend makes them at every start: an old one, or none, has been here",
            "start the backend, or bring it up to date",
        );
    }
}

/// How the stream is made.
fn shape(spec: &StreamSpec, stream: &StreamFacts, found: &mut Findings) {
    let ours = spec.ours().is_some();
    let grave = if ours { Severity::Bad } else { Severity::Note };
    let looked_at = || ("stream", format!("stream {}", spec.name));
    if stream.retention != "limits" {
        let why = if ours {
            "every ack of this service would delete the message for all others: it refuses to read such a stream"
        } else {
            "whoever acks a message deletes it for all others"
        };
        found.add(
            grave,
            looked_at(),
            format!("retention is {}, not limits", stream.retention),
            why,
            "retention cannot be changed: save the messages, delete the stream, and let the backend make it anew",
        );
    }
    if stream.storage != "file" {
        found.add(
            grave,
            looked_at(),
            format!("storage is {}, not file", stream.storage),
            "all its messages are gone when the server restarts",
            "storage cannot be changed: delete the stream, and let the backend make it anew",
        );
    }
    if stream.discard != "old" {
        found.add(
            grave,
            looked_at(),
            format!("discard is {}, not old", stream.discard),
            "once it is full it refuses messages, and after ten tries an agent sets its result aside for good",
            ANEW,
        );
    }
    let not_taken: Vec<String> = spec
        .carried()
        .filter(|subject| !stream.subjects.iter().any(|pattern| covers(pattern, subject)))
        .collect();
    if !not_taken.is_empty() {
        found.add(
            grave,
            looked_at(),
            format!(
                "does not take {}; it takes {}",
                names(not_taken.iter().map(String::as_str)),
                names(stream.subjects.iter().map(String::as_str))
            ),
            "what is published there is stored nowhere",
            ANEW,
        );
    }
    let beyond: Vec<&str> = stream
        .subjects
        .iter()
        .map(String::as_str)
        .filter(|pattern| !covers(spec.subjects, pattern))
        .collect();
    if !beyond.is_empty() {
        let amends = beyond
            .iter()
            .any(|pattern| covers(pattern, kv::NOTIFICATIONS_AMEND_SUBJECT));
        let why = match (amends, ours) {
            (true, _) => "it keeps even what is meant to be heard once, and everybody's answers",
            (false, true) => "messages that come by them are no results, and become dead letters",
            (false, false) => "it keeps messages that do not belong there",
        };
        found.add(
            Severity::Note,
            looked_at(),
            format!("takes {} besides {}", names(beyond), spec.subjects),
            why,
            ANEW,
        );
    }
    let age = Duration::from_secs(spec.max_age_seconds);
    if !stream.max_age.is_zero() && stream.max_age < age {
        found.add(
            Severity::Note,
            looked_at(),
            format!("messages are kept {}, not {}", span(stream.max_age), span(age)),
            "the service may be away for so long only, and a rebuild or verify sees no further back",
            format!("{ANEW} (and undoes changes made by hand)"),
        );
    }
    if let Some(max_bytes) = stream.max_bytes.filter(|max| *max < spec.max_bytes) {
        found.add(
            Severity::Note,
            looked_at(),
            format!("holds at most {}, not {}", size(max_bytes), size(spec.max_bytes)),
            "the oldest messages go earlier than their age",
            ANEW,
        );
    }
    let per_subject = stream.max_per_subject > 0;
    if stream.max_messages > 0 || (per_subject && !spec.one_per_subject) {
        let (limit, what) = if per_subject && !spec.one_per_subject {
            (stream.max_per_subject, "messages of a subject")
        } else {
            (stream.max_messages, "messages")
        };
        found.add(
            grave,
            looked_at(),
            format!("holds at most {limit} {what}"),
            "results go that may not have been read: all PCs of a broadcast share a subject",
            ANEW,
        );
    }
    if spec.one_per_subject && stream.max_per_subject != 1 {
        found.add(
            Severity::Note,
            looked_at(),
            "keeps more than the newest message of a subject",
            "agents that come back may run commands that were superseded",
            ANEW,
        );
    }
}

/// How far it has been read, and how full it is.
fn progress(
    spec: &StreamSpec,
    stream: &StreamFacts,
    report: Option<&StreamReport>,
    now: Timestamp,
    found: &mut Findings,
) {
    let looked_at = || ("stream", format!("stream {}", spec.name));
    let unread = report.map_or(0, |report| stream.last.saturating_sub(report.position));
    if let Some(report) = report {
        let next = report.position.saturating_add(1);
        if stream.last < report.position {
            found.add(
                Severity::Note,
                looked_at(),
                format!(
                    "ends at {}, and the database has read up to {}",
                    stream.last, report.position
                ),
                "it was restored from an older copy, lost its end with a power cut, or was made anew",
                "let the service run: it finds the last message in common, and goes on after it",
            );
        } else if next < stream.first {
            found.add(
                Severity::Bad,
                looked_at(),
                format!(
                    "{} messages were gone before they were read ({next}..{})",
                    stream.first - next,
                    stream.first - 1
                ),
                "their results will never be in the database; the service records the gap",
                "start the service, and see that it is not away for longer than messages are kept",
            );
        }
        let waits = report
            .published_at
            .as_deref()
            .and_then(|text| Timestamp::parse_stored(text).ok())
            .filter(|_| unread > 0 && next >= stream.first)
            .and_then(|published| now.since(published));
        if let Some(waits) = waits.filter(|waits| {
            !stream.max_age.is_zero() && waits.as_millis() * 100 >= stream.max_age.as_millis() * NEARLY_GONE
        }) {
            found.add(
                Severity::Bad,
                looked_at(),
                format!(
                    "{unread} messages unread, the next of them after one of {} ago; they are kept {}",
                    span(waits),
                    span(stream.max_age)
                ),
                "what is not read in time is lost",
                "start the service now, or see in `status` what holds it up",
            );
        }
    }
    if stream.percent_full().is_none_or(|percent| percent < NEARLY_FULL) {
        return;
    }
    // A stream that is written is always a little ahead.
    let lags = unread.saturating_mul(10) > stream.messages;
    if lags {
        found.add(
            Severity::Bad,
            looked_at(),
            format!(
                "nearly full ({}), and {unread} messages are unread",
                filled(stream)
            ),
            "when it is full the oldest messages are deleted, read or not",
            "start the service, or see in `status` what holds it up; raise max_bytes until it has caught up",
        );
    } else {
        found.add(
            Severity::Note,
            looked_at(),
            format!("nearly full: {}", filled(stream)),
            "messages go before their age is reached: so much sooner when the service is away, or for a rebuild",
            "raise max_bytes (the backend sets its own at every start), or send less",
        );
    }
}
