//! One case a finding.

mod keys;
mod streams;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::source::monitor::{Health, SyncPolicy};
use crate::source::survey::facts::{Clock, Contents, DurableFacts, Entry, Keys, StreamFacts};
use crate::source::survey::permissions;
use crate::store::Counts;
use crate::wire::backend::{BUCKETS, STORES, STREAMS, bucket_stream};
use crate::wire::object;

const DAY: Duration = Duration::from_secs(86_400);

fn at(text: &str) -> Timestamp {
    Timestamp::parse_wire(text).unwrap()
}

fn stream(subjects: &str, max_age: Duration, max_bytes: u64) -> StreamFacts {
    StreamFacts {
        subjects: vec![subjects.to_owned()],
        retention: "limits".to_owned(),
        discard: "old".to_owned(),
        storage: "file".to_owned(),
        max_age,
        max_bytes: Some(max_bytes).filter(|bytes| *bytes > 0),
        max_messages: -1,
        max_per_subject: -1,
        allow_direct: true,
        bytes: 1_000,
        messages: 10,
        first: 1,
        last: 10,
        subject_count: 1,
    }
}

fn entries(all: &[(&str, &str)]) -> Look<Contents> {
    let entries = all.iter().map(|(key, value)| {
        let entry = Entry {
            value: Bytes::copy_from_slice(value.as_bytes()),
            changed: at("2026-06-01T00:00:00Z"),
        };
        ((*key).to_owned(), entry)
    });
    Look::Seen(Contents {
        entries: entries.collect(),
        unasked: 0,
    })
}

/// A fleet in which all is as it should be, but for the age of its outputs.
fn healthy() -> World {
    let config = Config::load(&Default::default(), &|_| None).unwrap();
    let mut facts = Facts::default();
    facts.server.version = "2.15.1".to_owned();
    facts.server.max_payload = kv::NATS_DEFAULT_MAX_PAYLOAD;
    facts.clock = Some(Clock {
        ahead_millis: 3,
        uncertain_millis: 1,
    });
    for spec in STREAMS {
        let mut made = stream(
            spec.subjects,
            Duration::from_secs(spec.max_age_seconds),
            spec.max_bytes,
        );
        if spec.one_per_subject {
            made.max_per_subject = 1;
        }
        facts.streams.insert(spec.name.to_owned(), Look::Seen(made));
    }
    for spec in STORES {
        let age = Duration::from_secs(spec.max_age_seconds.unwrap_or(0));
        let made = StreamFacts {
            discard: "new".to_owned(),
            ..stream("$O.>", age, spec.max_bytes)
        };
        facts
            .streams
            .insert(object::stream_name(spec.name), Look::Seen(made));
    }
    for spec in BUCKETS {
        let made = StreamFacts {
            max_per_subject: spec.history.unwrap_or(1),
            ..stream("$KV.>", Duration::ZERO, 0)
        };
        facts.streams.insert(bucket_stream(spec.name), Look::Seen(made));
    }
    for bucket in survey::READ {
        facts.keys.insert(bucket, Look::Seen(Keys::default()));
        facts.contents.insert(bucket, entries(&[]));
    }
    let needed = permissions::needed(&config.nats, &config.source);
    facts.permissions = Ok(needed.into_iter().map(|need| (need, true)).collect());
    for (stream, durable) in kv::BACKEND_DURABLES {
        facts.durables.insert((stream, durable.to_owned()), Look::Missing);
    }
    let durable = ("RESULTS", "results_projector_results".to_owned());
    facts.durables.insert(durable, Look::Seen(reading()));
    let report = StreamReport {
        stream: "RESULTS".to_owned(),
        incarnation: 1,
        first: 1,
        position: 10,
        published_at: Some("2026-06-01T00:00:00+00:00".to_owned()),
        counts: Counts::default(),
    };
    World {
        now: at("2026-06-02T00:00:00Z"),
        server: Ok(facts),
        monitor: Some(MonitorFacts {
            health: Ok(Health {
                status: "ok".to_owned(),
                error: None,
            }),
            sync: Ok(SyncPolicy {
                interval: Some(Duration::from_secs(120)),
                always: true,
            }),
        }),
        book: Ok(Book {
            streams: vec![report],
            silent: BTreeMap::from([(kv::BUCKET_AGENT_GROUPS, Vec::new())]),
            ..Book::default()
        }),
    }
}

fn reading() -> DurableFacts {
    DurableFacts {
        waiting: 1,
        pending: 0,
        paused: None,
        max_deliver: -1,
        moved: false,
    }
}

/// What is found besides a healthy fleet's, as `severity subject: what`.
fn check(sicken: impl FnOnce(&mut World)) -> Vec<String> {
    let mut world = healthy();
    sicken(&mut world);
    let told = |finding: Finding| {
        assert_eq!(
            finding.severity == Severity::Good,
            finding.why.is_empty(),
            "{finding:?}"
        );
        assert_eq!(finding.why.is_empty(), finding.to_do.is_empty(), "{finding:?}");
        let word = match finding.severity {
            Severity::Bad => "bad",
            Severity::Note => "note",
            Severity::Good => return None,
        };
        (finding.check != "expiry" || finding.severity == Severity::Bad)
            .then(|| format!("{word} {}: {}", finding.subject, finding.what))
    };
    judge(&world).into_iter().filter_map(told).collect()
}

fn with_facts(change: impl FnOnce(&mut Facts)) -> Vec<String> {
    check(|world| change(world.server.as_mut().unwrap()))
}

fn with_book(change: impl FnOnce(&mut Book)) -> Vec<String> {
    check(|world| change(world.book.as_mut().unwrap()))
}

fn with_stream(name: &str, change: impl FnOnce(&mut StreamFacts)) -> Vec<String> {
    with_facts(|facts| match facts.streams.get_mut(name) {
        Some(Look::Seen(stream)) => change(stream),
        other => panic!("{name}: {other:?}"),
    })
}

fn with_contents(bucket: &'static str, all: &[(&str, &str)]) -> Vec<String> {
    with_facts(|facts| {
        let names = all.iter().map(|(key, _)| (*key).to_owned()).collect();
        let keys = Keys { names, cut_of: None };
        facts.keys.insert(bucket, Look::Seen(keys));
        facts.contents.insert(bucket, entries(all));
    })
}

#[track_caller]
fn only(found: Vec<String>, wanted: &str) {
    assert!(
        matches!(found.as_slice(), [one] if one.starts_with(wanted)),
        "wanted {wanted:?}, found {found:#?}"
    );
}

#[test]
fn nothing_is_found_where_all_is_well() {
    assert_eq!(check(|_| {}), Vec::<String>::new());
    let expiry: Vec<String> = judge(&healthy())
        .into_iter()
        .filter(|finding| finding.check == "expiry")
        .map(|finding| finding.what)
        .collect();
    assert_eq!(expiry, ["outputs are kept 7 days, their messages 30 days"]);
}

#[test]
fn what_was_not_seen_is_not_judged() {
    let hidden = with_facts(|facts| {
        for (name, look) in &mut facts.streams {
            *look = Look::NotAllowed(format!("$JS.API.STREAM.INFO.{name}"));
        }
        facts.keys.clear();
        facts.contents.clear();
    });
    only(hidden, "note permissions [doctor]: 32 not looked at");
    only(
        with_facts(|facts| facts.permissions = Err("silence".to_owned())),
        "note permissions: not known: silence",
    );
    only(with_facts(|facts| facts.clock = None), "note clock: not known");
    only(
        check(|world| world.monitor = None),
        "note monitoring port: nats.monitor_url is not set",
    );
    only(
        check(|world| world.book = Err("no such file".to_owned())),
        "note database: no such file",
    );
    let silent = with_facts(|facts| {
        for look in facts.streams.values_mut() {
            *look = Look::Failed("not enabled".to_owned());
        }
    });
    only(silent, "bad JetStream: does not answer: not enabled");
    let gone = check(|world| {
        world.server = Err("cannot connect".to_owned());
        world.monitor = None;
    });
    only(gone, "bad server: cannot connect");
}

#[test]
fn the_server_is_told_by_its_clock_its_limit_its_port_and_what_it_forbids() {
    let ahead = |millis| {
        with_facts(|facts| {
            facts.clock = Some(Clock {
                ahead_millis: millis,
                uncertain_millis: 500,
            });
        })
    };
    assert_eq!(ahead(2_400), Vec::<String>::new());
    only(
        ahead(2_600),
        "note clock: the server's clock is 2.6 s ahead of ours",
    );
    only(
        ahead(-31_000),
        "bad clock: the server's clock is 31 s behind ours",
    );
    let payload = |bytes| with_facts(|facts| facts.server.max_payload = bytes);
    only(
        payload(1_000_000),
        "note max_payload: 976.6 KiB, less than the default",
    );
    only(
        payload(400_000),
        "bad max_payload: 390.6 KiB, less than the default",
    );
    let monitor = |health: Result<Health, String>, sync| {
        check(|world| world.monitor = Some(MonitorFacts { health, sync }))
    };
    let always = SyncPolicy {
        interval: None,
        always: true,
    };
    let full = Health {
        status: "unavailable".to_owned(),
        error: Some("no space left on device".to_owned()),
    };
    only(
        monitor(Ok(full), Ok(always)),
        "bad monitoring port: the server says no space left on device",
    );
    only(
        monitor(Err("silence".to_owned()), Ok(always)),
        "note monitoring port: silence",
    );
    let ok = || {
        Ok(Health {
            status: "ok".to_owned(),
            error: None,
        })
    };
    let every = SyncPolicy {
        interval: Some(Duration::from_secs(120)),
        always: false,
    };
    only(monitor(ok(), Ok(every)), "note sync_interval: 2 min");
    only(
        monitor(ok(), Err("silence".to_owned())),
        "note sync_interval: not known",
    );
    let deny = |part: &str| {
        with_facts(|facts| {
            for (need, allowed) in facts.permissions.as_mut().unwrap() {
                *allowed = !need.subject.contains(part);
            }
        })
    };
    only(
        deny("MSG.NEXT.RESULTS.results"),
        "bad permissions [run]: not allowed: publish to \"$JS.API.CONSUMER.MSG.NEXT.RESULTS.results_projector_results\"",
    );
    only(
        deny("_INBOX"),
        "bad permissions [run]: not allowed: subscribe to \"_INBOX_results_projector.>\"",
    );
    only(
        deny("backend_"),
        "note permissions [adopted]: not allowed: none of 2, beginning with: publish to",
    );
    only(
        deny("CONSUMER.DELETE.KV_jobs.*"),
        "note permissions [watch]: not allowed: publish to",
    );
}

#[test]
fn the_backends_projector_matters_where_it_writes_the_same_file() {
    let key = ("RESULTS", "backend_results_projector".to_owned());
    let both = |look: Look<DurableFacts>| {
        [false, true].map(|adopted| {
            check(|world| {
                let book = world.book.as_mut().unwrap();
                book.adopted = adopted;
                book.written_by = vec![SqliteVersion(3_054_000)];
                let facts = world.server.as_mut().unwrap();
                for look in facts.durables.values_mut() {
                    let paused = Some(DAY * 300);
                    *look = Look::Seen(DurableFacts { paused, ..reading() });
                }
                facts.durables.retain(|(_, name), _| name.starts_with("backend"));
                facts.durables.insert(key.clone(), look.clone());
            })
        })
    };
    let at = "durable backend_results_projector on RESULTS";
    let [own, adopted] = both(Look::Seen(reading()));
    only(
        own,
        &format!("note {at}: consuming, into the backend's own database"),
    );
    only(adopted, &format!("bad {at}: consuming, on the file"));
    let moved = DurableFacts {
        waiting: 0,
        moved: true,
        ..reading()
    };
    only(
        both(Look::Seen(moved))[1].clone(),
        &format!("bad {at}: consuming"),
    );
    let idle = DurableFacts {
        waiting: 0,
        pending: 5,
        ..reading()
    };
    let [own, adopted] = both(Look::Seen(idle));
    assert_eq!(own, Vec::<String>::new());
    only(adopted, &format!("note {at}: idle, not paused; 5 messages wait"));
    let pause = |days: u32| DurableFacts {
        paused: Some(DAY * days),
        ..reading()
    };
    assert_eq!(both(Look::Seen(pause(100)))[1], Vec::<String>::new());
    only(
        both(Look::Seen(pause(2)))[1].clone(),
        &format!("note {at}: paused for 2 days more"),
    );
    let [own, adopted] = both(Look::Missing);
    assert_eq!(own, Vec::<String>::new());
    only(adopted, &format!("note {at}: gone"));
    only(
        both(Look::Failed("no leader".to_owned()))[1].clone(),
        &format!("note {at}: does not answer"),
    );
}

#[test]
fn our_own_durable_is_told_when_nobody_reads_or_somebody_changed_it() {
    let ours = |change: fn(&mut DurableFacts)| {
        with_facts(|facts| {
            let mut durable = reading();
            change(&mut durable);
            let key = ("RESULTS", "results_projector_results".to_owned());
            facts.durables.insert(key, Look::Seen(durable));
        })
    };
    let at = "durable results_projector_results on RESULTS";
    only(
        ours(|durable| durable.waiting = 0),
        &format!("note {at}: nobody pulls"),
    );
    only(
        ours(|durable| durable.max_deliver = 5),
        &format!("bad {at}: somebody has changed it: max_deliver is 5"),
    );
    only(
        ours(|durable| durable.paused = Some(DAY)),
        &format!("bad {at}: paused"),
    );
    let gone = with_facts(|facts| {
        let key = ("RESULTS", "results_projector_results".to_owned());
        facts.durables.insert(key, Look::Missing);
    });
    only(gone, &format!("note {at}: not there"));
}

#[test]
fn the_backends_sqlite_matters_on_its_own_file_only() {
    let seen = |adopted, versions: &[i32]| {
        check(|world| {
            let book = world.book.as_mut().unwrap();
            book.adopted = adopted;
            book.written_by = versions.iter().map(|version| SqliteVersion(*version)).collect();
            world.server.as_mut().unwrap().durables.clear();
        })
    };
    let ours = SqliteVersion::ours().0;
    assert_eq!(seen(false, &[3_046_000]), Vec::<String>::new());
    assert_eq!(seen(true, &[3_051_003, ours]), Vec::<String>::new());
    only(
        seen(true, &[3_046_000, ours]),
        "bad the backend's SQLite: the file was written by SQLite 3.46.0",
    );
    only(seen(true, &[ours]), "note the backend's SQLite: not known");
    only(seen(true, &[]), "note the backend's SQLite: not known");
}
