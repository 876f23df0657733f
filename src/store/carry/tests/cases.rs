//! One case after the other: what differs, what is kept, what others derived.

use super::*;

/// Differences between the two, by table: rows only in the scratch, rows only in the database.
fn differences(bench: &Bench) -> BTreeMap<String, (usize, usize)> {
    let (old, scratch) = (dump(&bench.old), dump(&bench.scratch));
    let mut differences = BTreeMap::new();
    for table in old.keys().chain(scratch.keys()) {
        let none = Vec::new();
        let (found, expected) = (
            scratch.get(table).unwrap_or(&none),
            old.get(table).unwrap_or(&none),
        );
        let only =
            |rows: &[String], others: &[String]| rows.iter().filter(|row| !others.contains(row)).count();
        let both = (only(found, expected), only(expected, found));
        if both != (0, 0) {
            differences.insert(table.clone(), both);
        }
    }
    differences
}

/// Scans of one pair, one a minute times ten.
fn scans(scans: &[(u64, &str)]) -> Streams {
    let results =
        scans
            .iter()
            .map(|(seq, ram)| {
                let payload = match *ram {
                "" => "no json".to_owned(),
                ram => json!({"ram": ram, "apps": [{"name": "b", "ver": ram}, {"name": "a"}], "status": "ok"})
                    .to_string(),
            };
                message(*seq, i64::try_from(*seq).unwrap() * 10, "PC-1", "all", &payload)
            })
            .collect();
    Streams {
        results,
        executions: vec![("e-0".to_owned(), at(0))],
        ..Streams::default()
    }
}

fn from(results: u64) -> Cut {
    Cut { results, ..WHOLE }
}

#[test]
fn what_was_changed_by_hand_differs_where_messages_tell_otherwise() {
    let streams = scans(&[(1, "1"), (2, "2"), (3, ""), (4, "4"), (5, "5")]);
    // What, and where it then differs: with everything at hand, and from the third message on.
    for (touch, whole, cut) in [
        ("UPDATE inventory_facts SET facts_json = '{}'", (1, 1), (1, 1)),
        ("DELETE FROM inventory_facts", (1, 0), (1, 0)),
        ("DELETE FROM all_apps WHERE name = 'a'", (1, 0), (1, 0)),
        (
            "INSERT INTO all_apps (pc_id, job_id, name) VALUES ('PC-1', 'all', 'z')",
            (0, 1),
            (0, 1),
        ),
        (
            "INSERT INTO all_apps (pc_id, job_id, name) VALUES ('PC-9', 'all', 'z')",
            (0, 1),
            (0, 0),
        ),
        (
            "UPDATE inventory_history SET after_json = '7' WHERE observed_at > '2026-06-01T00:45'",
            (2, 2),
            (2, 2),
        ),
        // Up to the oldest evidence at hand only the database knows.
        (
            "UPDATE inventory_history SET after_json = '7' WHERE observed_at < '2026-06-01T00:45'",
            (7, 7),
            (0, 0),
        ),
        ("UPDATE check_status SET status = 'warn'", (1, 1), (1, 1)),
        (
            "INSERT INTO check_status VALUES ('PC-9', 'disk', 'ok', NULL, '2026-06-01T00:00:00+00:00', NULL)",
            (0, 1),
            (0, 0),
        ),
        ("DELETE FROM feeds WHERE item_id = 'a'", (1, 0), (1, 0)),
        ("UPDATE feed_meta SET item_count = 9", (1, 1), (1, 1)),
        (
            "UPDATE job_completions SET last_success_at = '2027-01-01T00:00:00+00:00'",
            (1, 1),
            (0, 0),
        ),
        ("DELETE FROM job_completions", (1, 0), (1, 0)),
        (
            "INSERT INTO job_completions VALUES ('all', 'PC-9', '2026-01-01T00:00:00+00:00')",
            (0, 1),
            (0, 0),
        ),
        ("UPDATE executions SET success_count = 7", (1, 1), (1, 1)),
        ("UPDATE executions SET status = 'completed'", (1, 1), (1, 1)),
    ] {
        for (bound, complete, expected) in [(1, true, whole), (3, false, cut)] {
            for purpose in [Purpose::Verify, Purpose::Replay] {
                let mut streams = streams.clone();
                for result in &mut streams.results {
                    result.payload["exec_id"] = json!("e-0");
                }
                let bench = Bench::new(&streams, None, &from(bound), touch);
                bench.settle(purpose, complete);
                let mut found = differences(&bench);
                // Rows are not what is tested here.
                found.remove("execution_results");
                let sum = found
                    .values()
                    .fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
                assert_eq!(sum, expected, "{purpose:?} from {bound}: {touch}: {found:?}");
            }
        }
    }
}

#[test]
fn a_rebuild_keeps_what_messages_do_not_give_even_where_all_are_at_hand() {
    let streams = scans(&[(1, "1"), (2, "2")]);
    let touch = "INSERT INTO job_completions VALUES ('all', 'PC-9', '2026-01-01T00:00:00+00:00');
        INSERT INTO check_status VALUES ('PC-9', 'disk', 'ok', NULL, '2026-06-01T00:00:00+00:00', NULL);
        INSERT INTO inventory_facts VALUES ('PC-9', 'all', '{}', NULL, NULL, NULL, '2026-06-01T00:00:00+00:00');
        INSERT INTO inventory_facts VALUES ('PC-9', 'inventory.hw', '{}', NULL, NULL, NULL, '2026-01-01T00:00:00+00:00');
        CREATE TABLE \"an odd \"\"name\" (pc_id, job_id, collected_at, x UNIQUE, PRIMARY KEY (pc_id, job_id)) WITHOUT ROWID;
        CREATE INDEX \"idx odd\" ON \"an odd \"\"name\" (x);
        INSERT INTO \"an odd \"\"name\" VALUES ('PC-9', 'gone', NULL, 1);
        INSERT INTO all_apps (pc_id, job_id, name) VALUES ('PC-9', 'gone', 'z');
        CREATE TABLE users (pc_id, job_id, collected_at)";
    let bench = Bench::new(&streams, None, &WHOLE, touch);
    let vouched = bench.settle(Purpose::Rebuild, true);
    execute(&bench.old, "DROP TABLE users");
    bench.assert_same(Purpose::Rebuild, "rebuilt");
    let counts = [
        ("checks", 1),
        ("completions", 1),
        ("exploded_rows", 2),
        ("facts", 2),
    ];
    assert_eq!(vouched.counts, BTreeMap::from(counts));
    let index = "SELECT count(*) FROM sqlite_schema WHERE name = 'idx odd'";
    let indexes: i64 = Connection::open(&bench.scratch)
        .unwrap()
        .query_row(index, [], |row| row.get(0))
        .unwrap();
    assert_eq!(indexes, 1);
}

#[test]
fn a_table_that_no_manifest_names_any_more_comes_whole_and_in_its_order() {
    let mut streams = scans(&[(1, "1"), (2, "2"), (3, "3"), (4, "4")]);
    for (result, job) in streams.results.iter_mut().zip(["left", "other", "inv", "inv"]) {
        result.payload["manifest_id"] = json!(job);
    }
    for bound in 1..=5 {
        let bench = Bench::new(&streams, Some(3), &from(bound), "");
        bench.settle(Purpose::Rebuild, bound == 1);
        let mut found = differences(&bench);
        // What the job's new hints make of a result that is at hand.
        if bound <= 2 {
            assert_eq!(found.remove("check_status"), Some((1, 0)), "from {bound}");
        }
        assert_eq!(found, BTreeMap::new(), "from {bound}");
    }
}

#[test]
fn hints_that_came_later_than_results_made_nothing_of_these() {
    let mut streams = scans(&[(1, "1"), (2, "2"), (3, "3"), (4, "4")]);
    for result in &mut streams.results {
        result.payload["manifest_id"] = json!("new");
    }
    for changed in 1..=3 {
        for purpose in [Purpose::Verify, Purpose::Replay] {
            let bench = Bench::new(&streams, Some(changed), &WHOLE, "");
            let vouched = bench.settle(purpose, true);
            bench.assert_same(purpose, &format!("{purpose:?}, hints from {changed}"));
            assert_eq!(vouched.not_compared, BTreeMap::new());
        }
    }
    // No result since: nothing was derived under these hints.
    let bench = Bench::new(&streams, Some(4), &WHOLE, "");
    let vouched = bench.settle(Purpose::Verify, true);
    bench.assert_same(Purpose::Verify, "no result since");
    assert_eq!(vouched.not_compared, BTreeMap::from([("older hints", 1)]));
    let bench = Bench::new(&streams, Some(4), &WHOLE, "");
    bench.settle(Purpose::Replay, true);
    assert!(
        differences(&bench).contains_key("inventory_facts"),
        "a replay makes it"
    );
}

#[test]
fn a_jobs_deletion_is_recognised() {
    let streams = scans(&[(1, "1"), (2, "2"), (3, "3")]);
    let touch = "DELETE FROM inventory_facts WHERE job_id = 'all'; DELETE FROM inventory_history WHERE job_id = 'all'";
    for bound in 1..=3 {
        for purpose in [Purpose::Verify, Purpose::Replay] {
            let bench = Bench::new(&streams, None, &from(bound), touch);
            let vouched = bench.settle(purpose, bound == 1);
            bench.assert_same(purpose, &format!("{purpose:?} from {bound}"));
            assert_eq!(vouched.not_compared, BTreeMap::from([("jobs deleted", 1)]));
        }
    }
}

#[test]
fn pairs_that_others_derived_first_keep_what_these_made() {
    let streams = scans(&[(1, "1"), (2, "2"), (3, "3"), (4, "4")]);
    // The backend's projector saw to the first two, a second late by its clock, and in its own words.
    let touch = "CREATE TABLE _sqlx_migrations (version);
        UPDATE projector_derivations SET first_entry = 0;
        UPDATE projector_results SET counts = 0 WHERE stream_seq <= 2;
        UPDATE inventory_history SET before_json = 'theirs',
            observed_at = replace(observed_at, ':00+', ':01+') WHERE observed_at < '2026-06-01T00:25'";
    for purpose in [Purpose::Verify, Purpose::Replay] {
        let bench = Bench::new(&streams, None, &WHOLE, touch);
        bench.settle(purpose, false);
        bench.assert_same(purpose, &format!("{purpose:?}"));
    }
    // Made anew from the second evidence on; the first sets the state.
    let bench = Bench::new(&streams, None, &WHOLE, touch);
    bench.settle(Purpose::Rebuild, false);
    let theirs = dump(&bench.scratch)["inventory_history"]
        .iter()
        .filter(|event| event.contains("theirs"))
        .count();
    assert_eq!(theirs, 3);
    assert_eq!(differences(&bench)["inventory_history"], (2, 2));
    // All of it was the backend's.
    let touch = format!(
        "{touch}; DELETE FROM projector_derivations;
        UPDATE inventory_facts SET recorded_at = replace(recorded_at, ':00+', ':01+');
        UPDATE check_status SET recorded_at = replace(recorded_at, ':00+', ':01+')"
    );
    for purpose in [Purpose::Verify, Purpose::Replay] {
        let bench = Bench::new(&streams, None, &WHOLE, &touch);
        let vouched = bench.settle(purpose, false);
        bench.assert_same(purpose, &format!("{purpose:?}, without ours"));
        assert_eq!(vouched.not_compared, BTreeMap::from([("by the backend", 1)]));
    }
}

#[test]
fn executions_with_results_that_nobody_knows_keep_their_counters() {
    let mut streams = scans(&[(1, "1"), (2, "2"), (30, "3"), (31, "4")]);
    streams.executions = vec![("early".to_owned(), at(0)), ("late".to_owned(), at(290))];
    for (index, result) in streams.results.iter_mut().enumerate() {
        result.payload["exec_id"] = json!(if index < 3 { "early" } else { "late" });
        result.payload["result_id"] = json!(format!("r-{index}"));
    }
    for (touch, early) in [
        ("UPDATE executions SET success_count = 9", 3),
        // The backend's cleanup took a row whose message is gone as well.
        (
            "DELETE FROM execution_results WHERE result_id = 'r-0'; UPDATE executions SET success_count = 9",
            9,
        ),
    ] {
        for purpose in [Purpose::Rebuild, Purpose::Replay, Purpose::Verify] {
            let bench = Bench::new(&streams, None, &from(3), touch);
            let vouched = bench.settle(purpose, false);
            let counters: Vec<(String, i64)> = Connection::open(&bench.scratch)
                .unwrap()
                .prepare("SELECT exec_id, success_count FROM executions ORDER BY exec_id")
                .unwrap()
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
                .unwrap()
                .map(Result::unwrap)
                .collect();
            let expected = [("early".to_owned(), early), ("late".to_owned(), 1)];
            assert_eq!(counters, expected, "{purpose:?}: {touch}");
            assert_eq!(vouched.counts.get("executions"), (early == 9).then_some(&1));
        }
    }
}

/// Messages were deleted anywhere, and the server's clock stood still or went back for one.
#[test]
fn holes_in_the_stream_are_filled_from_the_database() {
    for early in [None, Some(1), Some(3), Some(4)] {
        let mut streams = scans(&[(1, "1"), (2, "2"), (3, "3"), (4, "4"), (5, "5")]);
        if let Some(early) = early {
            streams.results[early].published = at(15);
        }
        for missing in 1_u32..32 {
            let mut left = streams.clone();
            left.results
                .retain(|result| missing & (1 << result.seq) >> 1 == 0);
            let purpose = [Purpose::Rebuild, Purpose::Verify, Purpose::Replay][missing as usize % 3];
            let bench = Bench::of(&streams, &left, None, &WHOLE, "");
            bench.settle(purpose, false);
            bench.assert_same(
                purpose,
                &format!("{purpose:?}, {early:?} early, without {missing:05b}"),
            );
        }
    }
}
