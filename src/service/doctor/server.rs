//! The server itself: connection, clock, limits, permissions, monitoring port; and whether there is a database.

use std::time::Duration;

use super::World;
use super::finding::{Findings, Severity};
use crate::source::monitor::SyncPolicy;
use crate::source::survey::facts::{Facts, Look, MonitorFacts};
use crate::source::survey::permissions::{Need, Section};
use crate::wire::inert::inert;
use crate::wire::kv;
use crate::wire::shown::{names, size, span};

/// Milliseconds: clocks that differ by more mislead people.
const CLOCK_NOTE: i64 = 2_000;
/// Milliseconds: clocks that differ by more mislead machines.
const CLOCK_BAD: i64 = 30_000;
/// Two texts of the longest that agents put into a message.
const PAYLOAD_LEAST: usize = 2 * kv::STDOUT_INLINE_THRESHOLD;

/// Judges them.
pub(super) fn judge(world: &World, found: &mut Findings) {
    match &world.server {
        Err(why) => found.add(
            Severity::Bad,
            ("server", "server"),
            why.clone(),
            "nothing can be read from it, and nothing of it could be looked at",
            "start it, or mend nats.url and the login",
        ),
        Ok(facts) => {
            let Facts { server, .. } = facts;
            found.good(
                ("server", "server"),
                format!("answers, version {}", server.version),
            );
            payload(server.max_payload, found);
            permissions(facts, found);
            match silence(facts) {
                Some(why) => found.add(
                    Severity::Bad,
                    ("jetstream", "JetStream"),
                    format!("does not answer: {why}"),
                    "streams, buckets and object stores are all kept by it",
                    "enable it for this login's account (jetstream in the server's configuration), or mend nats.js_domain",
                ),
                None => {
                    clock(facts, found);
                    out_of_sight(facts, found);
                }
            }
        }
    }
    monitor(world.monitor.as_ref(), world.server.is_ok(), found);
    match &world.book {
        Ok(book) => found.good(
            ("database", "database"),
            if book.adopted { "the backend's own file" } else { "its own file" },
        ),
        Err(why) => found.add(
            Severity::Note,
            ("database", "database"),
            why.clone(),
            "whether PCs and jobs are heard of, and how far streams are read, could not be compared",
            "run this where the database is, with --db or RESULTS_PROJECTOR_DB, or let the service make it first",
        ),
    }
}

/// Whether nothing of JetStream answers.
pub(super) fn is_silent(facts: &Facts) -> bool {
    silence(facts).is_some()
}

/// Why no stream at all answers; `None` when one does, or may not be asked.
fn silence(facts: &Facts) -> Option<&str> {
    let mut reasons = facts.streams.values().map(|look| match look {
        Look::Failed(why) => Some(why.as_str()),
        _ => None,
    });
    let first = reasons.next()??;
    reasons.all(|reason| reason.is_some()).then_some(first)
}

fn payload(max_payload: usize, found: &mut Findings) {
    let looked_at = ("max_payload", "max_payload");
    let bytes = |number: usize| size(u64::try_from(number).unwrap_or(u64::MAX));
    if max_payload >= kv::NATS_DEFAULT_MAX_PAYLOAD {
        return found.good(looked_at, bytes(max_payload));
    }
    let severity = if max_payload < PAYLOAD_LEAST {
        Severity::Bad
    } else {
        Severity::Note
    };
    found.add(
        severity,
        looked_at,
        format!(
            "{}, less than the default {}",
            bytes(max_payload),
            bytes(kv::NATS_DEFAULT_MAX_PAYLOAD)
        ),
        format!(
            "agents reckon with the default, a quarter of which ({}) each text of a result may take; a message that is longer than \
             the server takes is set aside on the PC after ten tries, and never arrives",
            bytes(kv::NATS_PAYLOAD_BUDGET)
        ),
        "raise max_payload in the server's configuration",
    );
}

fn clock(facts: &Facts, found: &mut Findings) {
    let looked_at = ("clock", "clock");
    let Some(clock) = facts.clock else {
        return found.add(
            Severity::Note,
            looked_at,
            "not known: no stream told the time",
            "a wrong clock misleads whoever reads times",
            "allow the questions of the section run (docs/PERMISSIONS.md)",
        );
    };
    // As far as it is certain.
    let apart = (clock.ahead_millis.abs() - clock.uncertain_millis).max(0);
    let far = span(Duration::from_millis(clock.ahead_millis.unsigned_abs()));
    let which = if clock.ahead_millis < 0 {
        "behind"
    } else {
        "ahead of"
    };
    let what = format!(
        "the server's clock is {far} {which} ours (give or take {})",
        span(Duration::from_millis(clock.uncertain_millis.unsigned_abs()))
    );
    let severity = match apart {
        CLOCK_BAD.. => Severity::Bad,
        CLOCK_NOTE.. => Severity::Note,
        _ => return found.good(looked_at, what),
    };
    found.add(
        severity,
        looked_at,
        what,
        "publish times are the server's, ages and lag are reckoned with ours, and when an output counts as gone with both",
        "let both machines keep time by NTP",
    );
}

fn permissions(facts: &Facts, found: &mut Findings) {
    let tried = match &facts.permissions {
        Ok(tried) => tried,
        Err(why) => {
            return found.add(
                Severity::Note,
                ("permissions", "permissions"),
                format!("not known: {why}"),
                "what is missing is then named by the command that needs it",
                "try again",
            );
        }
    };
    for (section, severity, why, to_do) in [
        (
            Section::Run,
            Severity::Bad,
            "the service needs it",
            "add it to the user's permissions; deploy/nats-permissions.conf lists all",
        ),
        (
            Section::Watch,
            Severity::Note,
            "a watch of the manifests that is begun anew leaves its consumer until the server takes it away",
            "add it to the user's permissions",
        ),
        (
            Section::Load,
            Severity::Note,
            "verify, replay, rebuild and the first load in bulk need it",
            "add it, or run those commands as a user who has it",
        ),
        (
            Section::Adopted,
            Severity::Note,
            "on the backend's own file it is not seen whether its projector writes, too",
            "add it to the user's permissions",
        ),
    ] {
        let of: Vec<&(Need, bool)> = tried.iter().filter(|(need, _)| need.section == section).collect();
        let looked_at = ("permissions", format!("permissions [{}]", section.as_str()));
        let missing: Vec<String> = of
            .iter()
            .filter(|(_, allowed)| !allowed)
            .map(|(need, _)| {
                let verb = if need.subscribe {
                    "subscribe to"
                } else {
                    "publish to"
                };
                format!("{verb} {:?}", need.subject)
            })
            .collect();
        if of.is_empty() {
            continue;
        }
        if missing.is_empty() {
            found.good(looked_at, format!("{} tried, all allowed", of.len()));
        } else {
            let list = match missing.as_slice() {
                all if all.len() == of.len() && all.len() > 1 => {
                    format!(
                        "none of {}, beginning with: {}",
                        all.len(),
                        all.first().map_or("", |first| first)
                    )
                }
                all => all.join(", "),
            };
            found.add(severity, looked_at, format!("not allowed: {list}"), why, to_do);
        }
    }
}

/// What this login may not look at, told once.
fn out_of_sight(facts: &Facts, found: &mut Findings) {
    let denied = |subject: &String| {
        let Ok(tried) = &facts.permissions else {
            return true;
        };
        // Those that the service needs are told already.
        !tried
            .iter()
            .any(|(need, allowed)| !allowed && need.subject == *subject)
    };
    let mut hidden: Vec<&str> = Vec::new();
    let mut subjects: Vec<&String> = Vec::new();
    let streams = facts
        .streams
        .iter()
        .map(|(name, look)| (name.as_str(), subject_of(look)));
    let keys = facts.keys.iter().map(|(name, look)| (*name, subject_of(look)));
    let contents = facts
        .contents
        .iter()
        .map(|(name, look)| (*name, subject_of(look)));
    for (name, subject) in streams.chain(keys).chain(contents) {
        if let Some(subject) = subject.filter(|subject| denied(subject)) {
            let name = name
                .strip_prefix("KV_")
                .or(name.strip_prefix("OBJ_"))
                .unwrap_or(name);
            hidden.push(name);
            subjects.push(subject);
        }
    }
    let Some(first) = subjects.first() else { return };
    found.add(
        Severity::Note,
        ("permissions", "permissions [doctor]"),
        format!(
            "{} not looked at: this login may not ask ({})",
            hidden.len(),
            names(hidden.iter().copied())
        ),
        "the service does not need it; only this look at everything does",
        format!(
            "allow publishing to {first:?} and the like (the section doctor of deploy/nats-permissions.conf), or give --nats-user \
             a login that sees more"
        ),
    );
}

fn subject_of<T>(look: &Look<T>) -> Option<&String> {
    match look {
        Look::NotAllowed(subject) => Some(subject),
        _ => None,
    }
}

fn monitor(monitor: Option<&MonitorFacts>, connected: bool, found: &mut Findings) {
    let why_sync = "messages that agents were told are stored live in memory for so long: a power cut loses them, and their \
         sequences are used again for others";
    let Some(monitor) = monitor else {
        if connected {
            found.add(
                Severity::Note,
                ("monitor", "monitoring port"),
                "nats.monitor_url is not set",
                "after its disk was full a server refuses every publish until it is restarted, and only that port says so; \
                 sync_interval is not known without it either",
                "set nats.monitor_url to the server's http address, for instance http://127.0.0.1:8222",
            );
        }
        return;
    };
    match &monitor.health {
        Ok(health) if health.is_ok() => found.good(("monitor", "monitoring port"), "the server calls itself healthy"),
        Ok(health) => found.add(
            Severity::Bad,
            ("monitor", "monitoring port"),
            format!(
                "the server says {}",
                inert(health.error.as_deref().unwrap_or(&health.status), 300)
            ),
            "while it is like that it may refuse what agents publish, though everything looks calm from a connection",
            "mend what it says, free its disk, and restart it: after a full disk nothing else helps",
        ),
        Err(why) => found.add(
            Severity::Note,
            ("monitor", "monitoring port"),
            why.clone(),
            "only that port says when the server refuses publishes",
            "open it in the server's configuration (http), or correct nats.monitor_url",
        ),
    }
    let looked_at = ("sync_interval", "sync_interval");
    match &monitor.sync {
        Ok(SyncPolicy { always: true, .. }) => found.good(looked_at, "always: every message is on disk when it is acknowledged"),
        Ok(SyncPolicy {
            interval: Some(interval),
            ..
        }) => found.add(
            Severity::Note,
            looked_at,
            span(*interval),
            why_sync,
            "set sync_interval: always in jetstream { } of the server's configuration, or keep streams in three copies",
        ),
        Ok(SyncPolicy { interval: None, .. }) | Err(_) => found.add(
            Severity::Note,
            looked_at,
            "not known: the monitoring port does not say",
            why_sync,
            "look at jetstream { sync_interval } in the server's configuration",
        ),
    }
}
