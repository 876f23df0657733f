//! One kind of knowledge at a time.

use bytes::Bytes;
use results_projector::projection::manifests::Manifests;
use results_projector::store::compare::Scope;
use results_projector::store::retention::Horizons;
use results_projector::store::{Owner, Store, StoreError, StoreOptions};
use results_projector::wire::manifest::Posted;
use results_projector::wire::time::Timestamp;
use serde_json::{Value, json};

use super::*;

const DAY: &str = "2026-06-01T00:00";

fn at(second: u64) -> Timestamp {
    Timestamp::parse_wire(&format!("{DAY}:{second:02}Z")).unwrap()
}

/// Published at the second of its sequence.
fn message(stream: StreamName, seq: u64, subject: &str, payload: &Value) -> Sent {
    Sent {
        stream,
        seq,
        subject: subject.to_owned(),
        published: at(seq),
        payload: payload.to_string().into(),
    }
}

fn result(seq: u64, id: &str, more: Value) -> Sent {
    let mut payload = json!({
        "result_id": id, "request_id": format!("q-{id}"), "pc_id": "PC-1", "exit_code": 0, "skipped": false,
        "stdout": "", "stderr": "", "manifest_id": "inv", "exec_id": "e-1",
        "started_at": format!("{DAY}:00Z"), "finished_at": format!("{DAY}:{seq:02}Z"),
    });
    payload
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    message(StreamName::Results, seq, &format!("results.q-{id}"), &payload)
}

fn start(seq: u64, id: &str) -> Sent {
    let payload = json!({
        "result_id": id, "request_id": format!("q-{id}"), "exec_id": "e-1", "pc_id": "PC-1", "manifest_id": "inv",
        "version": "1.0", "started_at": format!("{DAY}:00Z"),
    });
    message(StreamName::Events, seq, "events.started.e-1.PC-1", &payload)
}

fn pointer(id: &str) -> String {
    format!("q-{id}/PC-1/stdout")
}

fn pointing(seq: u64, id: &str) -> Sent {
    result(seq, id, json!({"stdout_object": pointer(id)}))
}

/// A database and a scratch beside it, each from its own part of the streams.
struct Both {
    folder: tempfile::TempDir,
    starts: BTreeMap<StreamName, StreamSeq>,
}

impl Both {
    fn new(starts: &[(StreamName, u64)]) -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            starts: starts
                .iter()
                .map(|(stream, seq)| (*stream, StreamSeq(*seq)))
                .collect(),
        }
    }

    fn old(&self) -> std::path::PathBuf {
        self.folder.path().join("old.db")
    }

    fn scratch(&self) -> std::path::PathBuf {
        self.folder.path().join("scratch.db")
    }

    fn database(&self, manifests: Manifests, sent: &[Sent], objects: &[(&str, Object)]) -> Stage {
        let mut stage = Stage::open(&self.old(), manifests);
        Self::deliver(&mut stage, sent, objects);
        stage
    }

    fn load(&self, manifests: Manifests, sent: &[Sent], objects: &[(&str, Object)]) {
        let known = Foreknowledge::read(&self.old(), &self.starts).unwrap();
        let mut stage = Stage::beside(&self.scratch(), manifests, Some(known));
        stage.begin(&self.starts);
        let held: Vec<Sent> = sent
            .iter()
            .filter(|sent| sent.seq >= self.starts[&sent.stream].0)
            .cloned()
            .collect();
        Self::deliver(&mut stage, &held, objects);
    }

    fn deliver(stage: &mut Stage, sent: &[Sent], objects: &[(&str, Object)]) {
        for (id, object) in objects {
            stage.objects.insert(pointer(id), object.clone());
        }
        for sent in sent {
            stage.deliver(sent);
        }
        stage.settle_down();
    }

    fn change(&self, sql: &str) {
        Connection::open(self.old()).unwrap().execute_batch(sql).unwrap();
    }

    fn carry(&self, purpose: Purpose) -> Vouched {
        carried(&self.scratch(), &self.old(), purpose).0
    }

    /// A copy of both, for another purpose.
    fn again(&self) -> Self {
        let copy = Self {
            folder: tempfile::tempdir().unwrap(),
            starts: self.starts.clone(),
        };
        std::fs::copy(self.scratch(), copy.scratch()).unwrap();
        Connection::open(self.old())
            .unwrap()
            .execute("VACUUM INTO ?1", [copy.old().to_str().unwrap()])
            .unwrap();
        copy
    }
}

fn here(text: &str) -> Object {
    Object::Here(Bytes::from(text.to_owned()))
}

fn column(db: &Path, column: &str) -> Vec<String> {
    texts(
        db,
        &format!("SELECT result_id || ': ' || ifnull({column}, 'NULL') FROM execution_results ORDER BY 1"),
    )
    .into_iter()
    .map(|text| {
        text.trim_start_matches("Text(\"")
            .trim_end_matches("\")")
            .to_owned()
    })
    .collect()
}

#[test]
fn a_scratch_that_was_overtaken_is_as_it_was_and_completed_again() {
    let both = Both::new(&[(StreamName::Events, 1)]);
    let sent = [start(1, "a"), start(2, "b"), start(9, "c")];
    drop(both.database(manifests(), &sent, &[]));
    both.load(manifests(), &sent, &[]);
    let backend = Connection::open(both.old()).unwrap();
    let scratch = Scratch::open(&both.scratch(), Beside::Mended(&both.old()), BULK_MEMORY).unwrap();
    let scope = Scope {
        all_at_hand: true,
        whole: true,
        horizons: Horizons::default(),
    };
    let find = || {
        scratch.snapshot().unwrap();
        let completed = scratch.complete(&manifests(), Purpose::Replay, at(0)).unwrap();
        assert!(completed.vouched.all_at_hand);
        scratch.find(&scope).unwrap()
    };
    let reap = |id: &str| {
        let sql = "UPDATE execution_results SET finished_at = '2026-06-09T00:00:00+00:00', exit_code = -1, reaped = 1,
                       stderr = 'reaped by backend' WHERE result_id = ?1";
        assert_eq!(backend.execute(sql, [id]).unwrap(), 1);
    };
    reap("a");
    let change = "UPDATE execution_results SET pc_id = 'PC-x' WHERE result_id = 'c'";
    assert_eq!(backend.execute(change, []).unwrap(), 1);
    let (found, findings) = find();
    assert_eq!(found.found(), 1, "{found:?}");
    // Between the completing and the mending.
    reap("b");
    let refused = scratch.mend(&findings, at(0)).unwrap_err();
    assert!(matches!(refused, StoreError::Overtaken { .. }), "{refused}");
    let (again, findings) = find();
    assert_eq!(again.differences, found.differences);
    let mended = scratch.mend(&findings, at(0)).unwrap();
    assert_eq!(mended.rows, BTreeMap::from([("execution_results".to_owned(), 1)]));
    assert_eq!(column(&both.old(), "reaped"), ["a: 1", "b: 1", "c: 0"]);
    assert!(scratch.compare(&scope).unwrap().is_same());
}

#[test]
fn a_deadline_is_believed_only_under_a_manifest_that_is_older_than_the_start() {
    let posted = |timeout: &str, changed: Option<u64>| {
        let document = json!({"id": "inv", "version": "1", "execute": {"shell": "sh", "script": "x", "timeout": timeout}});
        let posted = Posted {
            document: document.to_string().into(),
            changed: changed.map(at),
        };
        Manifests::of_bucket([("inv".to_owned(), posted)])
    };
    let both = Both::new(&[(StreamName::Events, 1)]);
    let sent = [start(1, "a"), start(2, "b"), start(9, "c")];
    drop(both.database(posted("10m", Some(0)), &sent, &[]));
    let now = posted("20m", Some(5));
    both.load(now.clone(), &sent, &[]);
    let vouched = Scratch::open(&both.scratch(), Beside::Database(&both.old()), BULK_MEMORY)
        .unwrap()
        .complete(&now, Purpose::Verify, at(0))
        .unwrap()
        .vouched;
    assert!(vouched.all_at_hand);
    assert_eq!(vouched.counts, BTreeMap::from([("deadlines", 2)]));
    let found = column(&both.scratch(), "expires_at");
    assert_eq!(
        found,
        [
            "a: 2026-06-01T00:15:01+00:00",
            "b: 2026-06-01T00:15:02+00:00",
            "c: 2026-06-01T00:30:09+00:00"
        ]
    );
}

#[test]
fn what_explains_itself_stands_and_what_nothing_explains_does_not() {
    let both = Both::new(&[(StreamName::Results, 1), (StreamName::Events, 1)]);
    let sent = [
        start(1, "a"),
        start(2, "b"),
        start(3, "c"),
        result(1, "c", json!({"stdout": "c"})),
    ];
    drop(both.database(manifests(), &sent, &[]));
    both.change(
        "UPDATE execution_results SET finished_at = 'x', exit_code = -1, reaped = 1, stderr = 'reaped' WHERE result_id = 'a';
         UPDATE execution_results SET finished_at = 'x', exit_code = 0, stdout = 'made up' WHERE result_id = 'b';
         UPDATE execution_results SET stdout = 'changed', version = '2' WHERE result_id = 'c';
         INSERT INTO execution_results (result_id, request_id, pc_id, started_at) VALUES ('d', 'q', 'PC-1', 'x')",
    );
    both.load(manifests(), &sent, &[]);
    let (vouched, brought) = carried(&both.scratch(), &both.old(), Purpose::Rebuild);
    assert!(vouched.all_at_hand);
    // The ledgers' triggers have fired for what was made up: no key of theirs is ever lost.
    let counts = BTreeMap::from([("results", 1), ("completions", 3)]);
    assert_eq!(vouched.counts, counts);
    // The row of e-1 has never come.
    assert_eq!(brought, BTreeMap::from([("projector_unsettled", 1)]));
    let found = column(&both.scratch(), "reaped || ' ' || stdout || ' ' || version");
    assert_eq!(found, ["a: 1  1.0", "b: 0  1.0", "c: 0 c 1.0"]);
}

#[test]
fn a_copy_whose_first_message_is_gone_stays_a_duplicate() {
    let both = Both::new(&[(StreamName::Results, 2), (StreamName::Events, 1)]);
    let sent = [
        start(1, "a"),
        result(1, "a", json!({"stdout": "first"})),
        result(2, "b", json!({"stdout": "b"})),
        result(3, "a", json!({"stdout": "second", "exit_code": 7})),
    ];
    drop(both.database(manifests(), &sent, &[]));
    both.load(manifests(), &sent, &[]);
    assert_eq!(
        column(&both.scratch(), "stdout"),
        ["a: ", "b: b"],
        "in flight, as its start tells"
    );
    let vouched = both.carry(Purpose::Verify);
    assert!(!vouched.all_at_hand);
    assert_eq!(vouched.counts, BTreeMap::from([("results", 1)]));
    assert_eq!(texts(&both.scratch(), ROWS), texts(&both.old(), ROWS));
}

#[test]
fn of_outputs_the_better_known_state_counts_and_each_purpose_shows_its_own() {
    let both = Both::new(&[(StreamName::Results, 1)]);
    let ids = ["a", "b", "c", "d", "e"];
    let sent: Vec<Sent> = ids
        .into_iter()
        .zip(1..)
        .map(|(id, seq)| pointing(seq, id))
        .collect();
    let there = [
        ("a", Object::Unreachable),
        ("b", Object::Gone),
        ("c", here("{\"ram\": 1}")),
        ("d", Object::Gone),
        ("e", Object::Unreachable),
    ];
    let stage = both.database(manifests(), &sent, &there);
    drop(stage);
    // Somebody has changed what stands for a missing one; another one is said to be too large.
    both.change(
        "UPDATE execution_results SET stdout = 'made up' WHERE result_id = 'b';
         UPDATE projector_outputs SET state = 'too_large', reason = '9 bytes, the limit is 8' WHERE result_id = 'd'",
    );
    let now = [
        ("a", here("{\"ram\": 2}")),
        ("b", here("{\"ram\": 3}")),
        ("c", Object::Gone),
        ("d", here("{\"ram\": 4}")),
        ("e", Object::Gone),
    ];
    both.load(manifests(), &sent, &now);
    let words = |words: &str, id: &str, end: &str| {
        format!("{id}: [results-projector] stdout {words} {}{end}", pointer(id))
    };

    let verify = both.again();
    let vouched = verify.carry(Purpose::Verify);
    assert_eq!(
        vouched.not_compared,
        BTreeMap::from([
            ("outputs pending", 2),
            ("outputs gone", 1),
            ("outputs too_large", 1),
            ("waiting", 1)
        ])
    );
    assert_eq!(
        column(&verify.scratch(), "stdout"),
        [
            words("is in object", "a", ", not fetched yet"),
            words("was in object", "b", ", which is gone"),
            "c: {\"ram\": 1}".replace('"', "\\\""),
            words("in object", "d", " is longer than the limit of 8 bytes"),
            words("is in object", "e", ", not fetched yet"),
        ]
    );

    let replay = both.again();
    assert_eq!(
        replay.carry(Purpose::Replay).not_compared,
        BTreeMap::from([("outputs pending", 1)])
    );
    let found = column(&replay.scratch(), "stdout");
    assert_eq!(found[1], "b: {\\\"ram\\\": 3}");
    assert_eq!(found[4], words("is in object", "e", ", not fetched yet"));

    both.carry(Purpose::Rebuild);
    let found = column(&both.scratch(), "stdout");
    assert_eq!(found[0], "a: {\\\"ram\\\": 2}");
    assert_eq!(found[4], words("was in object", "e", ", which is gone"));
    let kept = "SELECT size_bytes, sha256, state FROM projector_outputs WHERE result_id = 'c'";
    assert_eq!(texts(&both.scratch(), kept), texts(&both.old(), kept));
}

#[test]
fn an_output_that_the_database_got_meanwhile_is_derived_from_too() {
    let both = Both::new(&[(StreamName::Results, 1)]);
    let sent = [
        pointing(1, "a"),
        result(2, "b", json!({"stdout": "{\"ram\": 2}"})),
    ];
    for (object, repaired) in [
        (Object::Unreachable, here("{\"ram\": 1}")),
        (Object::Gone, here("{\"ram\": 1}")),
    ] {
        let both = Both {
            folder: tempfile::tempdir().unwrap(),
            ..Both::new(&[(StreamName::Results, both.starts[&StreamName::Results].0)])
        };
        let mut stage = both.database(manifests(), &sent, &[("a", object.clone())]);
        both.load(manifests(), &sent, &[("a", object)]);
        stage.objects.insert(pointer("a"), repaired);
        stage.retry_all();
        stage.settle_down();
        drop(stage);

        let me = Owner {
            pid: std::process::id(),
            ..Owner::default()
        };
        let mut store = Store::open(&both.scratch(), &StoreOptions::default(), &me).unwrap();
        store.set_foreknown(Foreknowledge::read(&both.old(), &both.starts).unwrap());
        let manifests = std::sync::Arc::new(manifests());
        assert_eq!(store.take_late_outputs(&manifests, at(30)).unwrap(), 1);
        assert_eq!(store.take_late_outputs(&manifests, at(30)).unwrap(), 0);
        store.end_shared_transaction(true).unwrap();
        assert_eq!(store.foreknown().unwrap().carried_outputs(), 1);
        store.close();
        assert_eq!(dump::dump(&both.scratch()), dump::dump(&both.old()));
        let history = "SELECT observed_at, before_json, after_json FROM inventory_history";
        assert_eq!(texts(&both.scratch(), history), texts(&both.old(), history));
        assert!(!texts(&both.old(), history).is_empty());
    }
}

#[test]
fn a_text_of_the_backends_own_projector_is_kept_and_its_failures_are_not() {
    let both = Both::new(&[(StreamName::Results, 1)]);
    let sent = [pointing(1, "a"), pointing(2, "b"), pointing(3, "c")];
    drop(both.database(
        manifests(),
        &sent,
        &[("a", here("{\"ram\": 1}")), ("b", here("")), ("c", Object::Gone)],
    ));
    both.change(
        "CREATE TABLE _sqlx_migrations (version INTEGER); DELETE FROM projector_outputs WHERE result_id <> 'c'",
    );
    both.load(manifests(), &sent, &[]);
    let vouched = both.carry(Purpose::Replay);
    assert!(!vouched.all_at_hand);
    let found = column(&both.scratch(), "stdout");
    assert_eq!(found[0], "a: {\\\"ram\\\": 1}");
    assert!(found[1].ends_with("which is gone"), "{found:?}");
    let facts = "SELECT facts_json FROM inventory_facts";
    assert_eq!(
        texts(&both.scratch(), facts),
        texts(&both.old(), facts),
        "it is evidence as well"
    );
}

#[test]
fn what_was_discarded_is_not_projected_again_and_the_counts_follow_what_was() {
    let both = Both::new(&[(StreamName::Results, 1)]);
    let sent: Vec<Sent> = (1..=3)
        .map(|seq| result(seq, &format!("r{seq}"), json!({"stdout": "x"})))
        .collect();
    drop(both.database(manifests(), &sent, &[]));
    // An earlier version could not read any of them.
    let letter = |seq: u64, state: &str| {
        format!(
            "INSERT INTO projector_dead_letters VALUES
                 ('RESULTS', 1, {seq}, 'results.q-r{seq}', '{}', 'why', 'x', '{state}', 1, NULL, NULL);",
            at(seq).stored()
        )
    };
    both.change(&format!(
        "DELETE FROM execution_results; DELETE FROM projector_results; {}{}{}
         UPDATE projector_position SET projected = 0, dead = 3",
        letter(1, "kept"),
        letter(2, "discarded"),
        letter(3, "kept"),
    ));
    both.load(manifests(), &sent, &[]);
    let dead = "SELECT stream_seq, state, reason FROM projector_dead_letters";
    assert_eq!(
        texts(&both.scratch(), dead),
        ["Integer(2) Text(\"discarded\") Text(\"why\")"]
    );
    let (_, brought) = carried(&both.scratch(), &both.old(), Purpose::Rebuild);
    assert!(
        !brought.contains_key("projector_dead_letters"),
        "the scratch met it too"
    );
    assert_eq!(column(&both.scratch(), "stdout"), ["r1: x", "r3: x"]);
    let counts = "SELECT projected, dead FROM projector_position";
    assert_eq!(texts(&both.scratch(), counts), ["Integer(2) Integer(1)"]);
    check_i3(&both.scratch());
}
