//! What the buckets hold.

use super::*;

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
