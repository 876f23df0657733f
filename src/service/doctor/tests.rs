//! One case a finding.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::cli::GlobalArgs;
use crate::source::monitor::{Health, Sync};
use crate::source::survey::facts::{Clock, Contents, DurableFacts, Entry, Keys, StreamFacts};
use crate::source::survey::permissions;
use crate::store::position::Counts;
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
        max_bytes: i64::try_from(max_bytes).unwrap(),
        max_messages: -1,
        max_per_subject: -1,
        replicas: 1,
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
    let config = Config::load(&GlobalArgs::default(), &|_| None).unwrap();
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
            sync: Ok(Sync {
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
    let gone = check(|world| {
        world.server = Err("cannot connect".to_owned());
        world.monitor = None;
    });
    only(gone, "bad server: cannot connect");
}

#[test]
fn a_stream_that_is_made_otherwise_is_told_by_what_it_does() {
    let results = |change: fn(&mut StreamFacts)| with_stream("RESULTS", change);
    let audit = |change: fn(&mut StreamFacts)| with_stream("AUDIT", change);
    let exec = |change: fn(&mut StreamFacts)| with_stream("EXEC", change);
    for (found, wanted) in [
        (
            results(|s| s.retention = "workqueue".into()),
            "bad stream RESULTS: retention is workqueue",
        ),
        (
            audit(|s| s.retention = "interest".into()),
            "note stream AUDIT: retention is interest",
        ),
        (
            results(|s| s.storage = "memory".into()),
            "bad stream RESULTS: storage is memory",
        ),
        (
            results(|s| s.discard = "new".into()),
            "bad stream RESULTS: discard is new",
        ),
        (
            results(|s| s.max_age = DAY),
            "note stream RESULTS: messages are kept 1 day, not 30 days",
        ),
        (
            results(|s| s.max_bytes = 1 << 20),
            "note stream RESULTS: holds at most 1.0 MiB, not 2.0 GiB",
        ),
        (
            results(|s| s.max_messages = 9),
            "bad stream RESULTS: holds at most 9 messages",
        ),
        (
            results(|s| s.max_per_subject = 1),
            "bad stream RESULTS: holds at most 1 messages of a subject",
        ),
        (
            exec(|s| s.max_per_subject = -1),
            "note stream EXEC: keeps more than the newest",
        ),
        (
            exec(|s| s.subjects = vec!["commands.*".into(), "commands.*.*".into()]),
            "note stream EXEC: does not take commands.pc.>",
        ),
        (
            results(|s| s.subjects.push(">".into())),
            "note stream RESULTS: takes > besides results.>",
        ),
    ] {
        only(found, wanted);
    }
    // More room than the backend gives is no fault.
    assert_eq!(
        results(|s| (s.max_age, s.max_bytes) = (Duration::ZERO, -1)),
        Vec::<String>::new()
    );
    for (stream, wanted) in [
        ("RESULTS", "bad stream RESULTS: does not exist"),
        ("AUDIT", "note streams: not there: AUDIT"),
    ] {
        let found = with_facts(|facts| {
            facts.streams.insert(stream.to_owned(), Look::Missing);
        });
        only(found, wanted);
    }
    let silent = with_facts(|facts| {
        facts
            .streams
            .insert("RESULTS".to_owned(), Look::Failed("no leader".to_owned()));
    });
    only(silent, "bad stream RESULTS: does not answer: no leader");
}

#[test]
fn a_stream_is_compared_with_how_far_it_was_read() {
    let results = |change: fn(&mut StreamFacts)| with_stream("RESULTS", change);
    for (found, wanted) in [
        (
            results(|s| s.last = 9),
            "note stream RESULTS: ends at 9, and the database has read up to 10",
        ),
        (
            results(|s| (s.first, s.last) = (15, 20)),
            "bad stream RESULTS: 4 messages were gone before they were read (11..14)",
        ),
        (
            results(|s| s.bytes = 1_800 << 20),
            "note stream RESULTS: nearly full",
        ),
        (
            results(|s| (s.bytes, s.last) = (1_800 << 20, 12)),
            "bad stream RESULTS: nearly full (1.8 GiB of 2.0 GiB), and 2 messages",
        ),
        // One message of many is no lag.
        (
            results(|s| (s.bytes, s.messages, s.last) = (1_800 << 20, 1_000, 11)),
            "note stream RESULTS: nearly full",
        ),
    ] {
        only(found, wanted);
    }
    let old = check(|world| {
        world.now = at("2026-06-28T00:00:00Z");
        let facts = world.server.as_mut().unwrap();
        if let Some(Look::Seen(stream)) = facts.streams.get_mut("RESULTS") {
            stream.last = 11;
        }
    });
    only(
        old,
        "bad stream RESULTS: 1 messages unread, the next of them after one of 27 days ago",
    );
}

#[test]
fn a_store_is_told_by_its_room_its_age_and_how_it_is_made() {
    let outputs = |change: fn(&mut StreamFacts)| with_stream("OBJ_result_output", change);
    let releases = |change: fn(&mut StreamFacts)| with_stream("OBJ_agent_releases", change);
    for (found, wanted) in [
        (
            outputs(|s| s.bytes = 860 << 20),
            "note object store result_output: 83 % full",
        ),
        (
            outputs(|s| s.bytes = 980 << 20),
            "bad object store result_output: 95 % full",
        ),
        (
            releases(|s| s.bytes = 2_040 << 20),
            "bad object store agent_releases: 99 % full",
        ),
        (
            outputs(|s| s.discard = "old".into()),
            "bad object store result_output: discard is old",
        ),
        (
            outputs(|s| s.storage = "memory".into()),
            "bad object store result_output: storage is memory",
        ),
        (
            outputs(|s| s.allow_direct = false),
            "note object store result_output: does not allow direct gets",
        ),
        (
            outputs(|s| s.max_age = DAY),
            "note object store result_output: objects are kept 1 day; the backend would keep them 7 days",
        ),
        (
            releases(|s| s.max_age = DAY),
            "note object store agent_releases: objects are kept 1 day; the backend would keep them for ever",
        ),
    ] {
        only(found, wanted);
    }
    for (store, wanted) in [
        (
            "OBJ_result_output",
            "bad object store result_output: does not exist",
        ),
        ("OBJ_scripts", "note object stores: not there: scripts"),
    ] {
        let found = with_facts(|facts| {
            facts.streams.insert(store.to_owned(), Look::Missing);
        });
        only(found, wanted);
    }
    // What an operator has set is what counts.
    let set = [(
        kv::KEY_SERVER_SETTINGS,
        r#"{"result_output_retention_days":30,"collect_retention_days":30}"#,
    )];
    only(
        with_contents(kv::BUCKET_SERVER_SETTINGS, &set),
        "note object store result_output: objects are kept 7 days; server_settings would keep them 30 days",
    );
    let pending = |oldest| with_book(|book| book.pending = (3, Some(at(oldest))));
    only(
        pending("2026-05-29T00:00:00Z"),
        "bad outputs' age: 3 outputs are pending, the oldest for 4 days; the store keeps them 7 days",
    );
    assert_eq!(pending("2026-06-01T00:00:00Z"), Vec::<String>::new());
}

#[test]
fn a_bucket_is_told_by_its_history_its_age_and_its_absence() {
    let jobs = |change: fn(&mut StreamFacts)| with_stream("KV_jobs", change);
    for (found, wanted) in [
        (
            jobs(|s| s.max_per_subject = 1),
            "note bucket jobs: keeps 1 revisions of a key, not 5",
        ),
        (
            jobs(|s| s.max_age = DAY),
            "bad bucket jobs: its documents expire after 1 day",
        ),
        (jobs(|s| s.max_bytes = 1_100), "note bucket jobs: nearly full"),
    ] {
        only(found, wanted);
    }
    let without = |bucket: &str| {
        with_facts(|facts| {
            facts.streams.insert(bucket_stream(bucket), Look::Missing);
        })
    };
    only(without(kv::BUCKET_JOBS), "bad bucket jobs: does not exist");
    only(
        without(kv::BUCKET_AGENT_META),
        "note buckets: not there: agent_meta",
    );
    assert_eq!(without(kv::BUCKET_VIEWS), Vec::<String>::new());
    let cut = with_facts(|facts| {
        let keys = Keys {
            names: Vec::new(),
            cut_of: Some(250_000),
        };
        facts.keys.insert(kv::BUCKET_AGENTS_STATE, Look::Seen(keys));
    });
    only(cut, "note bucket agents_state: too many keys to list: 250000");
    let unread = with_facts(|facts| {
        let contents = Contents {
            unasked: 7,
            ..Contents::default()
        };
        facts.contents.insert(kv::BUCKET_JOBS, Look::Seen(contents));
    });
    only(unread, "note bucket jobs: 7 keys were not read");
}

#[test]
fn keys_that_nobody_reads_are_named_by_their_scope() {
    let config = |all: &[(&str, &str)]| with_contents(kv::BUCKET_AGENT_CONFIG, all);
    assert_eq!(
        config(&[
            ("global", "{}"),
            ("target_version", "1"),
            ("groups.a.b", "{}"),
            ("pcs.a.b.c.d", "{}")
        ]),
        Vec::<String>::new()
    );
    only(
        config(&[("Global", "{}"), ("pcs", "{}"), ("groups.x", "{}")]),
        "note bucket agent_config: unknown keys: Global, pcs (besides none for all, 1 of groups, 0 of PCs)",
    );
    only(
        config(&[("pcs.a.b.c.d.e", "{}")]),
        "note bucket agent_config: keys of no group and no PC: pcs.a.b.c.d.e",
    );
    only(
        config(&[("groups.", "{}")]),
        "note bucket agent_config: keys of no group and no PC: groups.",
    );
    let fleet = |all: &[(&str, &str)]| with_contents(kv::BUCKET_FLEET_CONFIG, all);
    only(
        fleet(&[("freeze", r#"{"reason":"x"}"#)]),
        "note bucket fleet_config: the fleet is frozen since 2026-06-01",
    );
    only(
        fleet(&[("thaw", "{}")]),
        "note bucket fleet_config: unknown keys: thaw",
    );
    for off in ["", "null", "false", "{}", r#"{"active":false}"#] {
        assert_eq!(
            fleet(&[("freeze", off), ("support_codes", "[]")]),
            Vec::<String>::new(),
            "{off}"
        );
    }
    let settings = |all: &[(&str, &str)]| with_contents(kv::BUCKET_SERVER_SETTINGS, all);
    only(
        settings(&[("current", "[]")]),
        "note bucket server_settings: current is no JSON object",
    );
    only(
        settings(&[("last", "{}")]),
        "note bucket server_settings: unknown keys: last",
    );
}

#[test]
fn twins_are_compared_by_keys_by_what_they_say_and_by_when_they_were_written() {
    let twins = |yaml: &str, changed: &str| {
        with_facts(|facts| {
            let json = entries(&[("a", r#"{"id":"a","version":"1.0"}"#)]);
            facts.contents.insert(kv::BUCKET_SCHEDULES, json);
            let mut source = entries(&[("a", yaml)]);
            if let Look::Seen(source) = &mut source {
                source.entries.get_mut("a").unwrap().changed = at(changed);
            }
            facts.contents.insert(kv::BUCKET_SCHEDULES_YAML, source);
        })
    };
    let now = "2026-06-01T00:00:00Z";
    for same in [
        "id: a\nversion: '1.0'\n",
        "version: \"1.0\" # x",
        "version:   1.0",
        "x: y",
        r#"{"version":"1.0"}"#,
        "version: |\n  2",
    ] {
        assert_eq!(twins(same, now), Vec::<String>::new(), "{same}");
    }
    only(
        twins("version: 2.0", now),
        "bad buckets schedules and schedules_yaml: drifted apart: a (version 1.0 and 2.0)",
    );
    only(
        twins("id: b", now),
        "bad buckets schedules and schedules_yaml: drifted apart: a (id a and b)",
    );
    only(
        twins("id: a", "2026-06-01T00:02:00Z"),
        "note buckets schedules and schedules_yaml: drifted apart: a (the YAML was written 120 s after the other)",
    );
    only(
        with_contents(kv::BUCKET_VIEWS, &[("v", "{}")]),
        "note buckets views and views_yaml: only in views: v",
    );
    only(
        with_contents(kv::BUCKET_GROUP_DEFS_YAML, &[("g", "")]),
        "note buckets group_defs and group_defs_yaml: only in group_defs_yaml: g",
    );
}

#[test]
fn scripts_manifests_and_pcs_are_told_by_name() {
    let status = |value: &str| with_contents(kv::BUCKET_SCRIPT_STATUS, &[("s", value)]);
    for good in ["ACTIVE", "REVOKED", "\"ACTIVE\"\n"] {
        assert_eq!(status(good), Vec::<String>::new(), "{good}");
    }
    only(
        status("Revoked"),
        "note bucket script_status: neither ACTIVE nor REVOKED: s",
    );
    let runs = |book: &mut Book| {
        let runs = RunsAfter {
            runs: 2,
            pcs: 1,
            last: "2026-06-01".to_owned(),
        };
        book.revoked_runs.insert("s".to_owned(), runs);
    };
    only(
        with_book(runs),
        "bad script s: revoked, and run 2 times since, on 1 PCs",
    );
    let broken = with_facts(|facts| {
        facts.contents.insert(kv::BUCKET_JOBS, entries(&[("j", "{")]));
        facts.contents.insert(kv::BUCKET_JOBS_YAML, entries(&[("j", "")]));
    });
    only(broken, "bad manifests: cannot be read: j");
    let manifest = r#"{"id":"j","version":"2","execute":{"shell":"pwsh","timeout":"1s"}}"#;
    let pinned = with_facts(|facts| {
        facts
            .contents
            .insert(kv::BUCKET_JOBS, entries(&[("j", manifest)]));
        facts
            .contents
            .insert(kv::BUCKET_JOBS_YAML, entries(&[("j", "version: 2")]));
        facts
            .contents
            .insert(kv::BUCKET_SCRIPT_CURRENT, entries(&[("j", "1"), ("gone", "1")]));
    });
    only(
        pinned,
        "note bucket script_current: another version than jobs has: j",
    );
    let silent = with_book(|book| {
        let all = vec!["PC-1".to_owned(), "a.b.c.d.e".to_owned()];
        book.silent.insert(kv::BUCKET_AGENTS_STATE, all);
        book.silent_unasked = 4;
    });
    assert_eq!(
        silent,
        [
            "note PCs: no PC has such an id: a.b.c.d.e",
            "note PCs: 1 in agents_state never sent a result: PC-1 (and up to 4 that were not looked at)"
        ]
    );
    only(
        with_book(|book| book.left_out = vec![(123, 2), (125, 7)]),
        "note runs of the last day: agents left out 2 with 123 (the command's signature was refused), 7 with 125",
    );
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
    let always = Sync {
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
    let every = Sync {
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
