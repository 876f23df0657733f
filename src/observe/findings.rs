//! In words: what is wrong, and what to do about it.

use std::time::Duration;

use serde::Serialize;

use self::Severity::{Bad, Note, Warning};
use super::document::{Document, Server, Service, Stream};
use crate::service::outside::TWO_WRITERS;
use crate::wire::shown::{grouped, size, span};
use crate::wire::time::Timestamp;

/// A pending output is normal for a while: agents upload before they publish, but stores have bad hours.
const PENDING_FOR_LONG: Duration = Duration::from_secs(3_600);
/// A reader that keeps the write-ahead log from being cut for longer has forgotten to end its transaction.
const LOG_HELD_FOR_LONG: Duration = Duration::from_secs(300);

const GOES_ON: &str = "the service tries again by itself; where a permission is missing, it is named here and in docs/PERMISSIONS.md";

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Somebody must act now.
    Bad,
    /// Somebody should look.
    Warning,
    /// A fact that stays.
    Note,
}

impl Severity {
    /// The word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bad => "bad",
            Self::Warning => "warning",
            Self::Note => "note",
        }
    }
}

/// One thing that an operator would want to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What it is.
    pub what: String,
    /// The way out.
    pub to_do: String,
}

/// Findings as they are made.
struct Found(Vec<Finding>);

impl Found {
    fn say(&mut self, severity: Severity, what: impl Into<String>, to_do: &str) {
        self.0.push(Finding {
            severity,
            what: what.into(),
            to_do: to_do.to_owned(),
        });
    }
}

/// Everything that is wrong, the worst first.
pub(super) fn findings(document: &Document, now: Timestamp) -> Vec<Finding> {
    let mut found = Found(Vec::new());
    if let Some(why) = &document.database.unreadable {
        found.say(
            Bad,
            format!("the database cannot be read: {why}"),
            "until it can, what the books say is not shown here",
        );
    }
    if let Some(it) = &document.service {
        service(it, document.database.wal_bytes, now, &mut found);
    }
    server(&document.server, &mut found);
    streams(&document.streams, &mut found);
    dead_letters(document, &mut found);
    pending(document, now, &mut found);
    output_store(document, &mut found);
    if !document.issues.is_empty() {
        found.say(
            Warning,
            format!(
                "{} parts of good messages could not be projected",
                grouped(document.issues_total)
            ),
            "each is listed with its reason; it goes with the pair's next good result, or when the manifest is put right",
        );
    }
    backend(document, &mut found);
    facts(document, &mut found);
    found.0.sort_by_key(|finding| finding.severity);
    found.0
}

/// Said by the findings and by readiness.
pub(super) const MOSTLY_DEAD: &str = "more than half of the last thousand messages became dead letters";

fn service(service: &Service, wal_bytes: u64, now: Timestamp, found: &mut Found) {
    if let Some(why) = &service.not_writing {
        found.say(
            Bad,
            format!("nothing is written: {why}"),
            "nothing is lost or acked meanwhile; the service goes on by itself once it can write",
        );
    }
    for why in &service.told_here {
        found.say(Bad, why, GOES_ON);
    }
    if service.mostly_dead {
        found.say(
            Bad,
            MOSTLY_DEAD,
            "look at their reasons below: a newer wire version needs a newer results-projector; then `dead-letters retry \
             --all`",
        );
    }
    let held = age(service.log_held_since.as_deref(), now);
    if let Some(held) = held.filter(|held| *held > LOG_HELD_FOR_LONG) {
        found.say(
            Warning,
            format!(
                "a reader has kept the write-ahead log from being cut for {}; it holds {}",
                span(held),
                size(wal_bytes)
            ),
            "find the program with an open read transaction on the database, and end it",
        );
    }
}

fn server(server: &Server, found: &mut Found) {
    if let Some(why) = &server.unavailable {
        found.say(
            Bad,
            format!("no answer from the server: {why}"),
            "positions are as the database has them; see that the server runs and can be reached from here",
        );
    }
    if let Some(why) = &server.unhealthy {
        found.say(
            Bad,
            format!("the server calls itself unhealthy: {why}"),
            "after its disk was full it refuses every publish, without a word to publishers, until it is restarted: make room, \
             then restart it",
        );
    }
    if let Some(why) = &server.health_unknown {
        found.say(
            Warning,
            format!("whether the server is well is not known: {why}"),
            "the service works without it",
        );
    }
}

fn streams(streams: &[Stream], found: &mut Found) {
    for stream in streams {
        let full = share(stream.bytes, stream.bytes_max);
        if let (Some(full), Some(lag @ 1..)) = (full.filter(|full| *full >= 0.8), stream.lag_messages) {
            found.say(
                Bad,
                format!(
                    "{} is {:.0} % full and {} messages are still to be read: the oldest go when it is full",
                    stream.report.stream,
                    full * 100.0,
                    grouped(lag)
                ),
                "raise the stream's limit of bytes at the server until it is caught up (the backend sets it back when it starts)",
            );
        }
    }
}

fn dead_letters(document: &Document, found: &mut Found) {
    if document.dead_letters == 0 {
        return;
    }
    let without = document.dead_letters_without_payload;
    found.say(
        if without > 0 { Bad } else { Warning },
        format!(
            "{} messages could not be projected{}",
            grouped(document.dead_letters),
            if without > 0 {
                format!(", and of {} only the stream holds the payload", grouped(without))
            } else {
                String::new()
            }
        ),
        "`results-projector dead-letters list` says why; `dead-letters retry` projects them after an upgrade, \
         `dead-letters discard` gives them up; dead_letters.max_bytes says how much is kept here",
    );
}

fn output_store(document: &Document, found: &mut Found) {
    let store = document.output_store.as_ref();
    let full = store.and_then(|store| share(Some(store.bytes), store.bytes_max));
    if let Some(full) = full.filter(|full| *full >= 0.9) {
        found.say(
            Bad,
            format!(
                "the object store of outputs is {:.0} % full, and refuses uploads when it is",
                full * 100.0
            ),
            "shorten result_output_retention_days in the backend's settings, or raise the store's limit of bytes",
        );
    }
}

fn backend(document: &Document, found: &mut Found) {
    if document.backend_is_projecting == Some(true) {
        found.say(
            Warning,
            TWO_WRITERS,
            "pause its two durables at the server, as said",
        );
    }
    if let Some(why) = &document.backend_unknown {
        found.say(
            Warning,
            format!("whether the backend's own projector is at work is not known: {why}"),
            "allow what docs/PERMISSIONS.md lists under adopted",
        );
    }
}

/// What has happened, and stays.
fn facts(document: &Document, found: &mut Found) {
    if let Some(pairs @ 1..) = document.pairs.older_hints {
        found.say(
            Note,
            format!(
                "{} pairs of a PC and a job stand under older hints than their manifest has now",
                grouped(pairs)
            ),
            "each follows with its next result; `replay --job ID` brings a job's up to date at once",
        );
    }
    let gone = document.outputs.get("gone").copied().unwrap_or(0);
    if gone > 0 {
        found.say(
            Note,
            format!("{} outputs are gone from the object store", grouped(gone)),
            "`outputs list --state gone`; after the store was restored, `outputs retry --state gone`",
        );
    }
    let missing = document.gap_messages;
    if missing > 0 {
        found.say(
            Note,
            format!(
                "{} messages were gone before they could be read, in {} gaps",
                grouped(missing),
                grouped(document.gaps_total)
            ),
            "they are in no stream any more; keep the service running, or give the streams more age and bytes",
        );
    }
}

fn pending(document: &Document, now: Timestamp, found: &mut Found) {
    let Some(oldest) = age(document.oldest_pending_output.as_deref(), now) else {
        return;
    };
    let count = document.outputs.get("pending").copied().unwrap_or(0);
    let store_age = document
        .output_store
        .as_ref()
        .and_then(|store| store.max_age_seconds)
        .map(Duration::from_secs);
    let expires_soon = store_age.is_some_and(|age| oldest > age / 2);
    if oldest < PENDING_FOR_LONG && !expires_soon {
        return;
    }
    let what = format!(
        "{} outputs are pending, the oldest of a result of {} ago",
        grouped(count),
        span(oldest)
    );
    match store_age.filter(|_| expires_soon) {
        Some(age) => found.say(
            Bad,
            format!("{what}; the store keeps them for {}", span(age)),
            "see why in `outputs list --state pending` before they expire: then they are gone for good",
        ),
        None => found.say(
            Warning,
            what,
            "they are fetched as soon as the store has them; `outputs list --state pending` says why not yet",
        ),
    }
}

/// How long ago a stored time was.
fn age(stored: Option<&str>, now: Timestamp) -> Option<Duration> {
    let then = Timestamp::parse_stored(stored?).ok()?;
    Some(now.since(then).unwrap_or_default())
}

#[expect(clippy::cast_precision_loss, reason = "a share of bytes, for people")]
fn share(bytes: Option<u64>, bytes_max: Option<u64>) -> Option<f64> {
    let max = bytes_max.filter(|max| *max > 0)?;
    Some(bytes? as f64 / max as f64)
}
