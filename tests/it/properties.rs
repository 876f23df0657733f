//! Random streams: results, start events, duplicates, any order between the streams, outputs that are missing for a
//! while or given up in between, the reaper and job deletion at work. However a run was disturbed, it ends in the tables of an
//! undisturbed one (I4, I5).

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use results_projector::projection::manifests::Manifests;
use results_projector::wire::kv::StreamName;
use results_projector::wire::time::Timestamp;
use serde_json::{Value, json};

use crate::harness::backend::delete_job;
use crate::harness::fleet::Dice;
use crate::harness::{dump, scale};
use crate::scenarios::{insert_execution, reap, tables};
use crate::stage::{Object, Sent, Stage};

pub fn manifests() -> Manifests {
    let job = |id: &str, hints: Value| {
        let mut document = json!({
            "id": id, "version": "1.0", "execute": {"shell": "sh", "script": "x", "timeout": "5m"},
        });
        for (name, hint) in hints.as_object().unwrap() {
            document[name] = hint.clone();
        }
        (id.to_owned(), Bytes::from(document.to_string()))
    };
    let inventory = |table: &str| {
        json!({
            "display": [{"field": "ram", "label": "RAM"}], "history_scalars": ["ram", "os"],
            "explode": [
                {"field": "apps", "table": table, "primary_key": ["name"], "track_history": true,
                 "columns": [{"field": "name"}, {"field": "ver"}, {"field": "size", "type": "integer"},
                             {"field": "score", "type": "real", "index": true}]},
                {"field": "disks", "table": format!("{table}_disks"), "primary_key": ["id"],
                 "columns": [{"field": "id", "type": "integer"}, {"field": "free"}]},
            ],
        })
    };
    let feed = json!([{"id": "kev", "field": "apps", "primary_key": ["name"]}]);
    Manifests::compile([
        job("inv", json!({"inventory": inventory("inv_apps")})),
        job("chk", json!({"check": {"name": "av"}})),
        job(
            "all",
            json!({"inventory": inventory("all_apps"), "check": {"name": "disk"}, "feed": feed}),
        ),
        job("bare", json!({})),
    ])
}

/// A stream's worth of trouble.
pub struct World {
    /// In the order of a straight run; each stream in its own order.
    pub sent: Vec<Sent>,
    pub objects: BTreeMap<String, Bytes>,
    executions: Vec<Value>,
    started: Vec<String>,
}

fn document(dice: &mut Dice) -> String {
    let value = |dice: &mut Dice| match dice.below(7) {
        0 => json!(null),
        1 => json!(dice.below(3)),
        2 => json!(dice.below(3).to_string()),
        3 => json!(1.5),
        4 => json!(true),
        5 => json!([1, "a"]),
        _ => json!("text"),
    };
    let apps: Vec<Value> = (0..dice.below(5))
        .map(|_| {
            let mut app = json!({"name": format!("app-{}", dice.below(6))});
            for field in ["ver", "size", "score"] {
                if dice.below(4) > 0 {
                    app[field] = value(dice);
                }
            }
            app
        })
        .collect();
    let status = ["ok", "warn", "fail", "odd"][dice.below(4) as usize];
    let mut document = json!({"apps": apps, "status": status});
    if dice.below(4) > 0 {
        document["ram"] = value(dice);
    }
    if dice.below(3) > 0 {
        document["os"] = json!(dice.below(2));
    }
    if dice.below(3) > 0 {
        document["disks"] = json!([{"id": 1, "free": dice.below(2)}, {"id": "2"}]);
    }
    match dice.below(12) {
        0 => "no json at all".to_owned(),
        1 => "[1,2]".to_owned(),
        2 => format!("log\n#KANADE-INVENTORY-BEGIN\n{document}\n#KANADE-INVENTORY-END\n"),
        _ => document.to_string(),
    }
}

pub fn world(seed: u64, results: u64) -> World {
    let mut dice = Dice::new(seed);
    let (mut result_payloads, mut start_payloads) = (Vec::new(), Vec::new());
    let mut objects = BTreeMap::new();
    let mut started = Vec::new();
    for number in 0..results {
        let job = ["inv", "inv", "chk", "all", "all", "bare", "none"][dice.below(7) as usize];
        let (id, request) = (format!("r-{number:03}"), format!("q-{number:03}"));
        let pc = format!("PC-{}", dice.below(3));
        let exec = format!("e-{}", dice.below(4));
        let exit_code = if dice.below(5) == 0 {
            [1, 3, 126, -1][dice.below(4) as usize]
        } else {
            0
        };
        let mut payload = json!({
            "result_id": id, "request_id": request, "pc_id": pc, "exit_code": exit_code, "skipped": false,
            "stdout": document(&mut dice), "stderr": "",
            "started_at": "2026-06-01T00:00:00Z",
            "finished_at": format!("2026-06-01T00:{:02}:{:02}Z", dice.below(60), dice.below(60)),
        });
        if dice.below(8) > 0 {
            payload["exec_id"] = json!(exec);
        }
        if dice.below(8) > 0 {
            payload["manifest_id"] = json!(job);
        }
        for field in ["stdout", "stderr"] {
            if dice.below(4) == 0 {
                let name = format!("{request}/{pc}/{field}");
                objects.insert(name.clone(), Bytes::from(document(&mut dice)));
                payload[format!("{field}_object")] = json!(name);
                payload[field] = json!("");
            }
        }
        result_payloads.push((request.clone(), payload.to_string()));
        if dice.below(6) == 0 {
            // Published again: the same, or the same id with other content.
            let mut again = payload.clone();
            if dice.below(2) == 0 {
                again["exit_code"] = json!(9);
                again["stdout"] = json!("other");
            }
            result_payloads.push((request.clone(), again.to_string()));
        }
        if dice.below(12) == 0 {
            result_payloads.push(("broken".to_owned(), "{".to_owned()));
        }
        if dice.below(3) > 0 {
            let exec = if dice.below(6) == 0 {
                "e-9".to_owned()
            } else {
                exec
            };
            let start = json!({
                "result_id": id, "request_id": request, "exec_id": exec, "pc_id": pc,
                "manifest_id": job, "version": "1.0", "started_at": "2026-06-01T00:00:01Z",
            });
            start_payloads.push((format!("events.started.{exec}.{pc}"), start.to_string()));
            if dice.below(8) == 0 {
                start_payloads.push(start_payloads.last().unwrap().clone());
            }
            started.push(id);
        }
        if dice.below(10) == 0 {
            start_payloads.push(("events.notifications.acked.x".to_owned(), "{}".to_owned()));
        }
    }
    let number = |stream, payloads: Vec<(String, String)>, dice: &mut Dice| -> Vec<Sent> {
        let mut at = 1_780_272_000_000_000_000_i64 + dice.below(1_000) as i64;
        payloads
            .into_iter()
            .zip(1..)
            .map(|((subject, payload), seq)| {
                at += 1 + dice.below(3_000_000_000) as i64;
                let subject = match stream {
                    StreamName::Results => format!("results.{subject}"),
                    _ => subject,
                };
                Sent {
                    stream,
                    seq,
                    subject,
                    published: Timestamp::from_unix_nanos(at),
                    payload: payload.into(),
                }
            })
            .collect()
    };
    let results = number(StreamName::Results, result_payloads, &mut dice);
    let starts = number(StreamName::Events, start_payloads, &mut dice);
    let executions = (0..4)
        .map(|number| {
            json!({"exec_id": format!("e-{number}"), "job_id": "inv", "version": "1.0", "initiated_by": "op",
                   "initiated_at": "2026-06-01T00:00:00+00:00", "target_count": 1 + dice.below(12)})
        })
        .collect();
    World {
        sent: interleave(results, starts, &mut dice),
        objects,
        executions,
        started,
    }
}

/// Some order between the two, each in its own.
fn interleave(one: Vec<Sent>, other: Vec<Sent>, dice: &mut Dice) -> Vec<Sent> {
    let (mut one, mut other) = (one.into_iter().peekable(), other.into_iter().peekable());
    let mut order = Vec::new();
    while one.peek().is_some() || other.peek().is_some() {
        // In runs: one stream is often far ahead of the other.
        let first = dice.below(2) == 0;
        for _ in 0..1 + dice.below(6) {
            order.extend(if first { one.next() } else { other.next() });
        }
    }
    order
}

impl World {
    pub fn stage(&self, db: &Path) -> Stage {
        let mut stage = Stage::open(db, manifests());
        for row in &self.executions {
            insert_execution(db, row);
        }
        let here = |bytes: &Bytes| Object::Here(bytes.clone());
        stage.objects = self
            .objects
            .iter()
            .map(|(name, bytes)| (name.clone(), here(bytes)))
            .collect();
        stage
    }

    /// The same messages in another order between the streams.
    fn reordered(&self, dice: &mut Dice) -> Vec<Sent> {
        let of = |stream| {
            self.sent
                .iter()
                .filter(|sent| sent.stream == stream)
                .cloned()
                .collect()
        };
        interleave(of(StreamName::Results), of(StreamName::Events), dice)
    }
}

/// Everything in the file that is not ours to keep books in, history as the canonical dump sorts it (contract §6.9).
fn canonical(db: &Path) -> BTreeMap<String, Vec<Value>> {
    let mut tables = tables(db);
    if let Some(history) = tables.get_mut("inventory_history") {
        let key = |row: &Value| {
            ["pc_id", "job_id", "observed_at"].map(|name| row[name].as_str().unwrap().to_owned())
        };
        history.sort_by_key(key);
    }
    tables
}

fn assert_same(stage: &Stage, expected: &BTreeMap<String, Vec<Value>>, what: &str) {
    stage.settle_down();
    let started = Instant::now();
    // Executions that came before their row are settled within a second.
    while canonical(&stage.db) != *expected && started.elapsed() < Duration::from_secs(3) {
        std::thread::sleep(Duration::from_millis(50));
    }
    let found = canonical(&stage.db);
    for name in expected.keys().chain(found.keys()) {
        let (left, right) = (found.get(name), expected.get(name));
        if left != right {
            let only = |rows: Option<&Vec<Value>>, others: Option<&Vec<Value>>| -> Vec<String> {
                let others = others.cloned().unwrap_or_default();
                let rows = rows.into_iter().flatten();
                rows.filter(|row| !others.contains(row))
                    .map(Value::to_string)
                    .take(6)
                    .collect()
            };
            panic!(
                "{what}: {name} differs: {} and {} rows\nonly here: {:#?}\nonly in the straight run: {:#?}",
                left.map_or(0, Vec::len),
                right.map_or(0, Vec::len),
                only(left, right),
                only(right, left)
            );
        }
    }
    dump::check_i3(&stage.db);
    let conn = dump::open(&stage.db);
    let open: i64 = conn
        .query_row(
            "SELECT (SELECT count(*) FROM projector_waiting)
                 + (SELECT count(*) FROM projector_derivations WHERE state <> 'settled')",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(open, 0, "{what}: nothing waits any more");
    let unlawful: i64 = conn
        .query_row(
            "SELECT count(*) FROM executions WHERE (success_count, failure_count) IS NOT (
                 SELECT count(*) FILTER (WHERE exit_code = 0), count(*) FILTER (WHERE exit_code <> 0)
                 FROM execution_results result WHERE result.exec_id = executions.exec_id AND finished_at IS NOT NULL)",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(unlawful, 0, "{what}: counters count the rows (contract §7.3)");
}

fn check(seed: u64) {
    let world = world(seed, 40);
    let mut dice = Dice::new(seed ^ 0x5eed);
    let folder = tempfile::tempdir().unwrap();
    let db = |name: &str| folder.path().join(format!("{name}.db"));

    let mut straight = world.stage(&db("straight"));
    for sent in &world.sent {
        straight.deliver(sent);
    }
    straight.settle_down();
    let expected = canonical(&straight.db);

    let mut other_order = world.stage(&db("order"));
    for sent in world.reordered(&mut dice) {
        other_order.deliver(&sent);
    }
    assert_same(&other_order, &expected, "another order between the streams");

    let mut cut = world.stage(&db("cut"));
    let mut redelivered = world.stage(&db("redelivered"));
    for (index, sent) in world.sent.iter().enumerate() {
        cut.deliver(sent);
        if dice.below(15) == 0 {
            cut.restart();
        }
        redelivered.deliver(sent);
        if dice.below(10) == 0 {
            // Some range before, in its order.
            let from = dice.below(index as u64 + 1) as usize;
            for again in &world.sent[from..=index] {
                redelivered.deliver(again);
            }
        }
    }
    assert_same(&cut, &expected, "cut and resumed");
    assert_same(&redelivered, &expected, "redelivered");

    let mut late = world.stage(&db("late"));
    let names: Vec<String> = world.objects.keys().cloned().collect();
    for name in &names {
        let missing =
            [Object::Unreachable, Object::Unreachable, Object::Gone][dice.below(3) as usize].clone();
        if dice.below(3) > 0 {
            late.objects.insert(name.clone(), missing);
        }
    }
    for sent in &world.sent {
        late.deliver(sent);
        match dice.below(20) {
            0 => late.restart(),
            1 => {
                // One comes back, or is given up.
                let name = &names[dice.below(names.len() as u64) as usize];
                late.settle_down();
                let back = Object::Here(world.objects[name].clone());
                let object = if dice.below(3) == 0 && late.objects[name] == Object::Unreachable {
                    Object::Gone
                } else {
                    back
                };
                late.objects.insert(name.clone(), object);
                if dice.below(2) == 0 {
                    late.retry_pending();
                } else {
                    late.retry_all();
                }
            }
            _ => {}
        }
    }
    for name in &names {
        late.objects
            .insert(name.clone(), Object::Here(world.objects[name].clone()));
        if dice.below(4) == 0 {
            late.retry_pending();
        }
    }
    late.retry_all();
    assert_same(&late, &expected, "outputs that came late");
}

/// Some messages fail at first, among them the first of several copies; they are tried again at any time, in any order,
/// while outputs are missing or come back.
fn check_retried(seed: u64) {
    let world = world(seed, 40);
    let mut dice = Dice::new(seed ^ 0xdead);
    let folder = tempfile::tempdir().unwrap();
    let mut straight = world.stage(&folder.path().join("straight.db"));
    for sent in &world.sent {
        straight.deliver(sent);
    }
    let never = straight.letters().len();
    let expected = canonical(&straight.db);

    let mut stage = world.stage(&folder.path().join("retried.db"));
    for name in world.objects.keys() {
        let missing = [Object::Unreachable, Object::Gone][dice.below(2) as usize].clone();
        if dice.below(3) == 0 {
            stage.objects.insert(name.clone(), missing);
        }
    }
    let retry_one = |stage: &Stage, dice: &mut Dice| {
        let letters = stage.letters();
        if !letters.is_empty() {
            stage.retry_letter(letters[dice.below(letters.len() as u64) as usize]);
        }
    };
    for sent in &world.sent {
        stage.fails = dice.below(3) == 0;
        stage.deliver(sent);
        match dice.below(24) {
            0 => stage.restart(),
            1..4 => retry_one(&stage, &mut dice),
            4 => stage.retry_all(),
            5 => stage.derive_due(),
            _ => {}
        }
    }
    let back = |(name, bytes): (&String, &Bytes)| (name.clone(), Object::Here(bytes.clone()));
    let some = dice.below(2) == 0;
    if some {
        stage.objects.extend(world.objects.iter().map(back));
        stage.retry_pending();
    }
    while stage.letters().len() > never {
        retry_one(&stage, &mut dice);
        if dice.below(10) == 0 {
            stage.derive_due();
        }
    }
    stage.objects.extend(world.objects.iter().map(back));
    stage.retry_all();
    assert_same(&stage, &expected, "dead letters that were tried again");
}

fn check_beside_the_backend(seed: u64) {
    let world = world(seed, 30);
    let folder = tempfile::tempdir().unwrap();
    let run = |name: &str, disturb: &mut dyn FnMut(&mut Stage, usize)| -> Stage {
        let mut stage = world.stage(&folder.path().join(format!("{name}.db")));
        let mut dice = Dice::new(seed ^ 0x4ea9);
        for (index, sent) in world.sent.iter().enumerate() {
            stage.deliver(sent);
            if dice.below(6) == 0 {
                stage.settle_down();
                let id = &world.started[dice.below(world.started.len() as u64) as usize];
                let in_flight = dump::one(
                    &stage.db,
                    &format!(
                        "SELECT count(*) FROM execution_results WHERE result_id = '{id}' AND finished_at IS NULL"
                    ),
                );
                if in_flight == 1 {
                    reap(&stage.db, id, "2026-06-01T12:00:00+00:00");
                }
            }
            if dice.below(12) == 0 {
                // A job is deleted: its facts and history go, its exploded rows stay (contract §6.1).
                stage.settle_down();
                let job = ["inv", "all"][dice.below(2) as usize];
                delete_job(&stage.db, job);
            }
            disturb(&mut stage, index);
        }
        stage
    };
    let straight = run("straight", &mut |_, _| {});
    straight.settle_down();
    let expected = canonical(&straight.db);
    assert_same(&straight, &expected, "straight, beside the backend");
    let mut dice = Dice::new(seed ^ 7);
    let disturbed = run("disturbed", &mut |stage, index| match dice.below(12) {
        0 => stage.restart(),
        1 => {
            let from = dice.below(index as u64 + 1) as usize;
            for again in &world.sent[from..=index] {
                stage.deliver(again);
            }
        }
        _ => {}
    });
    assert_same(&disturbed, &expected, "disturbed beside the backend");
}

#[test]
fn random_streams_end_in_the_same_tables_however_they_were_disturbed() {
    for seed in 1..=scale(12, 400) {
        println!("seed {seed}");
        check(seed);
    }
}

#[test]
fn random_streams_end_in_the_same_tables_when_dead_letters_are_tried_again() {
    for seed in 1..=scale(16, 400) {
        println!("seed {seed}");
        check_retried(seed);
    }
}

#[test]
fn random_streams_beside_a_reaper_and_deleted_jobs_end_in_the_same_tables() {
    for seed in 1..=scale(8, 200) {
        println!("seed {seed}");
        check_beside_the_backend(seed);
    }
}
