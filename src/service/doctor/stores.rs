//! Object stores and buckets against contract §2.4 and §2.5.

use std::time::Duration;

use serde_json::Value;

use super::finding::{Findings, Severity};
use super::{Book, filled, kept};
use crate::source::survey::facts::{Facts, Look, StreamFacts};
use crate::wire::backend::{BUCKETS, STORES, StoreSpec, bucket_stream};
use crate::wire::kv;
use crate::wire::object;
use crate::wire::shown::{names, size, span};
use crate::wire::time::Timestamp;

/// Percent of a store's limit.
const FILLING: u128 = 80;
/// Percent of a store's limit.
const FULL: u128 = 95;
/// Seconds of a day.
const DAY: u64 = 86_400;

/// Judges each store and each bucket.
pub(super) fn judge(facts: &Facts, book: Option<&Book>, now: Timestamp, found: &mut Findings) {
    stores(facts, found);
    expiry(facts, book, now, found);
    buckets(facts, found);
}

fn stores(facts: &Facts, found: &mut Findings) {
    let mut missing = Vec::new();
    for spec in STORES {
        let looked_at = ("object_store", format!("object store {}", spec.name));
        let reads = spec == StoreSpec::OUTPUTS;
        match facts.streams.get(&object::stream_name(spec.name)) {
            Some(Look::Seen(stream)) => {
                let before = found.wrong();
                shape(&spec, stream, reads, set_age(facts, &spec), found);
                room(&spec, stream, reads, found);
                if found.wrong() == before {
                    found.good(looked_at, size(stream.bytes));
                }
            }
            Some(Look::Missing) if reads => found.add(
                Severity::Bad,
                looked_at,
                "does not exist",
                "agents cannot store long outputs, and those of results that came stay pending",
                "start the backend once, which makes it; or the service with `run --create-missing`",
            ),
            Some(Look::Missing) => missing.push(spec.name),
            Some(Look::Failed(why)) => found.silent(
                if reads { Severity::Bad } else { Severity::Note },
                looked_at,
                why,
                "a store without a leader takes and gives no objects",
            ),
            Some(Look::NotAllowed(_)) | None => {}
        }
    }
    if !missing.is_empty() {
        found.add(
            Severity::Note,
            ("object_store", "object stores"),
            format!("not there: {}", names(missing)),
            "the service does not read them, but agents and the backend do",
            "start the backend, which makes them",
        );
    }
}

/// The age that an operator has set, where the settings can be seen.
fn set_age(facts: &Facts, spec: &StoreSpec) -> Option<Duration> {
    let settings = facts.contents.get(kv::BUCKET_SERVER_SETTINGS)?.seen()?;
    let document = settings.entries.get(kv::KEY_SERVER_SETTINGS)?;
    let document: Value = serde_json::from_slice(&document.value).ok()?;
    let days = document.get(spec.setting?)?.as_u64()?;
    Some(Duration::from_secs(days.saturating_mul(DAY)))
}

fn shape(spec: &StoreSpec, store: &StreamFacts, reads: bool, set: Option<Duration>, found: &mut Findings) {
    let grave = if reads { Severity::Bad } else { Severity::Note };
    let looked_at = || ("object_store", format!("object store {}", spec.name));
    if store.storage != "file" {
        found.add(
            grave,
            looked_at(),
            format!("storage is {}, not file", store.storage),
            "all its objects are gone when the server restarts",
            "storage cannot be changed: delete the store, and let the backend make it anew",
        );
    }
    if store.discard != "new" {
        found.add(
            grave,
            looked_at(),
            format!("discard is {}, not new", store.discard),
            "once it is full it deletes the oldest chunks without a word, and leaves metadata that points to nothing",
            "set discard to new (`nats stream edit`)",
        );
    }
    if reads && !store.allow_direct {
        found.add(
            Severity::Note,
            looked_at(),
            "does not allow direct gets",
            "every output is asked of the leader, chunk by chunk, which is slow",
            "allow them (`nats stream edit --allow-direct`)",
        );
    }
    let (wanted, by) = match (set, spec.max_age_seconds) {
        (Some(set), _) => (set, "server_settings"),
        (None, Some(seconds)) => (Duration::from_secs(seconds), "the backend"),
        (None, None) => (Duration::ZERO, "the backend"),
    };
    if store.max_age != wanted {
        let shorter = !store.max_age.is_zero() && (wanted.is_zero() || store.max_age < wanted);
        found.add(
            Severity::Note,
            looked_at(),
            format!(
                "objects are kept {}; {by} would keep them {}",
                kept(store.max_age),
                kept(wanted)
            ),
            if shorter {
                "they are gone sooner than their users expect"
            } else {
                "it fills up sooner, and a full store refuses uploads"
            },
            "start the backend, or save its settings: both set the age anew",
        );
    }
}

fn room(spec: &StoreSpec, store: &StreamFacts, reads: bool, found: &mut Findings) {
    let Some(percent) = store.percent_full().filter(|percent| *percent >= FILLING) else {
        return;
    };
    found.add(
        if percent >= FULL {
            Severity::Bad
        } else {
            Severity::Note
        },
        ("object_store", format!("object store {}", spec.name)),
        format!("{percent} % full: {}", filled(store)),
        if reads {
            "a full store refuses uploads: agents hold such results back, and set them aside after ten tries"
        } else {
            "a full store refuses every upload"
        },
        "delete what nobody needs, shorten its age in the backend's settings, or raise its max_bytes",
    );
}

/// Outputs that expire before their messages.
fn expiry(facts: &Facts, book: Option<&Book>, now: Timestamp, found: &mut Findings) {
    let store = facts.streams.get(&object::stream_name(kv::OBJECT_RESULT_OUTPUT));
    let Some(store) = store.and_then(Look::seen) else {
        return;
    };
    let looked_at = ("expiry", "outputs' age");
    let oldest = book.and_then(|book| book.pending.1.map(|oldest| (book.pending.0, oldest)));
    if let Some((pending, age)) = oldest.and_then(|(pending, oldest)| Some((pending, now.since(oldest)?)))
        && !store.max_age.is_zero()
        && age * 2 > store.max_age
    {
        return found.add(
            Severity::Bad,
            looked_at,
            format!(
                "{pending} outputs are pending, the oldest for {}; the store keeps them {}",
                span(age),
                span(store.max_age)
            ),
            "once they have expired their text is lost for good",
            "see `outputs list --state pending` for the reason, mend it, then `outputs retry --state pending`",
        );
    }
    let results = facts.streams.get(kv::STREAM_RESULTS).and_then(Look::seen);
    let Some(results) = results else { return };
    let outlive = results.max_age.is_zero() || results.max_age > store.max_age;
    if store.max_age.is_zero() || !outlive {
        return found.good(looked_at, "outputs are kept as long as their messages");
    }
    found.add(
        Severity::Note,
        looked_at,
        format!(
            "outputs are kept {}, their messages {}",
            span(store.max_age),
            kept(results.max_age)
        ),
        format!(
            "a service that is away for longer than {} gets results whose long outputs are gone; a rebuild takes those from the \
             old database only",
            span(store.max_age)
        ),
        "raise result_output_retention_days in the backend's settings (at most 30), if the store has room",
    );
}

fn buckets(facts: &Facts, found: &mut Findings) {
    let mut missing = Vec::new();
    for spec in BUCKETS {
        let looked_at = || ("bucket", format!("bucket {}", spec.name));
        let reads = spec.name == kv::BUCKET_JOBS;
        match facts.streams.get(&bucket_stream(spec.name)) {
            Some(Look::Seen(stream)) => {
                let before = found.wrong();
                if spec
                    .history
                    .is_some_and(|history| stream.max_per_subject < history)
                {
                    found.add(
                        Severity::Note,
                        looked_at(),
                        format!(
                            "keeps {} revisions of a key, not {}",
                            stream.max_per_subject,
                            spec.history.unwrap_or_default()
                        ),
                        "what was overwritten cannot be looked up",
                        "raise its history (`nats stream edit --max-msgs-per-subject`)",
                    );
                }
                if !stream.max_age.is_zero() {
                    found.add(
                        if reads { Severity::Bad } else { Severity::Note },
                        looked_at(),
                        format!("its documents expire after {}", span(stream.max_age)),
                        "what it holds is meant to stay until it is deleted",
                        "take the limit away (`nats stream edit --max-age 0`)",
                    );
                }
                if stream.percent_full().is_some_and(|percent| percent >= FILLING) {
                    found.add(
                        Severity::Note,
                        looked_at(),
                        format!("nearly full: {}", filled(stream)),
                        "a full bucket refuses what is saved",
                        "take the limit away (`nats stream edit --max-bytes -1`)",
                    );
                }
                if found.wrong() == before {
                    found.good(looked_at(), format!("{} keys", stream.subject_count));
                }
            }
            Some(Look::Missing) if reads => found.add(
                Severity::Bad,
                looked_at(),
                "does not exist",
                "no job has hints, so inventory, checks and feeds are not projected",
                "start the backend, which makes it",
            ),
            // Made when it is first used.
            Some(Look::Missing) if spec.history.is_none() => {
                found.good(looked_at(), "not used yet");
            }
            Some(Look::Missing) => missing.push(spec.name),
            Some(Look::Failed(why)) => found.silent(
                if reads { Severity::Bad } else { Severity::Note },
                looked_at(),
                why,
                "a bucket without a leader takes and gives nothing",
            ),
            Some(Look::NotAllowed(_)) | None => {}
        }
    }
    if !missing.is_empty() {
        found.add(
            Severity::Note,
            ("bucket", "buckets"),
            format!("not there: {}", names(missing)),
            "the service does not read them, but the backend makes them at every start: an old one, or none, has been here",
            "start the backend, or bring it up to date",
        );
    }
}
