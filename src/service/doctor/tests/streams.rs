//! Streams, stores, buckets: how they are made, how full, how far read.

use super::*;

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
            results(|s| s.max_bytes = Some(1 << 20)),
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
        results(|s| (s.max_age, s.max_bytes) = (Duration::ZERO, None)),
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
        (
            jobs(|s| s.max_bytes = Some(1_100)),
            "note bucket jobs: nearly full",
        ),
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
fn rows_that_go_before_their_messages_are_told() {
    let with = |max_age: Duration| {
        check(|world| {
            if let Ok(book) = &mut world.book {
                book.retention = Some(DAY * 31);
            }
            if let Ok(facts) = &mut world.server
                && let Some(Look::Seen(stream)) = facts.streams.get_mut("RESULTS")
            {
                stream.max_age = max_age;
            }
        })
    };
    assert_eq!(with(DAY * 30), Vec::<String>::new());
    let told = "note stream RESULTS: keeps messages for ever, and rows are deleted after 31 days";
    assert!(
        with(Duration::ZERO).iter().any(|found| found.starts_with(told)),
        "{:?}",
        with(Duration::ZERO)
    );
    assert!(
        with(DAY * 32)
            .iter()
            .any(|found| found.contains("keeps messages 32 days"))
    );
}
