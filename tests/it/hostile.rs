//! Explode specs and inventories that mean no good, or nothing at all: the row stands, the siblings go on, the issue is
//! shown, nobody's table is touched (contract D8, §7.5), and a scan that says the same is no event (D6).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use results_projector::projection::explode::CELLS_MAX;
use results_projector::projection::manifests::Manifests;
use results_projector::wire::kv::StreamName;
use results_projector::wire::time::Timestamp;
use rusqlite::Connection;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::projector::{place, run};
use crate::harness::{check_i3, dump, one};
use crate::stage::{Object, Sent, Stage};

const NOWHERE: &str = "nats://127.0.0.1:1";

/// Delivers results, each a second after the last.
struct Play {
    stage: Stage,
    seq: u64,
    _folder: TempDir,
}

impl Play {
    fn new(jobs: &[(&str, Value)]) -> Self {
        let (folder, db) = place();
        Self {
            stage: Stage::open(&db, manifests(jobs)),
            seq: 0,
            _folder: folder,
        }
    }

    fn db(&self) -> PathBuf {
        self.stage.db.clone()
    }

    fn deliver(&mut self, job: &str, pc: &str, stdout: &str) {
        self.deliver_with(job, pc, stdout, &json!({}));
    }

    fn deliver_with(&mut self, job: &str, pc: &str, stdout: &str, more: &Value) {
        self.seq += 1;
        let seconds = self.seq;
        let time = format!(
            "2026-06-01T{:02}:{:02}:{:02}Z",
            seconds / 3600,
            seconds / 60 % 60,
            seconds % 60
        );
        let mut message = json!({
            "result_id": format!("r-{}", self.seq), "request_id": "q", "pc_id": pc, "exit_code": 0, "skipped": false,
            "stdout": stdout, "stderr": "", "started_at": time, "finished_at": time, "manifest_id": job,
        });
        message
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        self.stage.deliver(&Sent {
            stream: StreamName::Results,
            seq: self.seq,
            subject: "results.q".to_owned(),
            published: Timestamp::parse_wire(&time).unwrap(),
            payload: Bytes::from(message.to_string()),
        });
    }

    fn settle(&self) {
        self.stage.settle_down();
    }

    fn one(&self, sql: &str) -> i64 {
        self.settle();
        one(&self.stage.db, sql)
    }

    fn lines(&self, sql: &str) -> Vec<String> {
        self.settle();
        lines(&self.stage.db, sql)
    }

    /// What another program does to the file.
    fn somebody(&self, sql: &str) {
        self.settle();
        let conn = Connection::open(&self.stage.db).unwrap();
        conn.busy_timeout(Duration::from_secs(30)).unwrap();
        conn.execute_batch(sql).unwrap();
    }

    /// `part: code`, of all pairs.
    fn issues(&self) -> Vec<String> {
        self.lines("SELECT part || ': ' || code FROM projector_issues ORDER BY 1")
    }

    /// Nothing became a dead letter, every result has its row, every message is accounted for.
    fn check_rows(&self) {
        self.settle();
        let db = &self.stage.db;
        assert_eq!(one(db, "SELECT count(*) FROM projector_dead_letters"), 0);
        assert_eq!(one(db, "SELECT count(*) FROM execution_results"), self.seq as i64);
        check_i3(db);
    }
}

fn manifests(jobs: &[(&str, Value)]) -> Manifests {
    Manifests::compile(jobs.iter().map(|(id, hints)| {
        let mut document = json!({"id": id, "version": "1", "execute": {"shell": "sh", "timeout": "30s"}});
        document
            .as_object_mut()
            .unwrap()
            .extend(hints.as_object().unwrap().clone());
        ((*id).to_owned(), document.to_string().into())
    }))
}

fn inventory(specs: &[Value]) -> Value {
    json!({"inventory": {"display": [], "explode": specs}})
}

/// All columns text, the first the key.
fn spec(table: &str, columns: &[&str]) -> Value {
    let list: Vec<Value> = columns.iter().map(|name| json!({ "field": name })).collect();
    json!({
        "field": "items", "table": table, "primary_key": [columns[0]], "columns": list, "track_history": true,
    })
}

fn lines(db: &Path, sql: &str) -> Vec<String> {
    let conn = dump::open(db);
    let mut select = conn.prepare(sql).unwrap();
    let rows = select.query_map([], |row| row.get(0)).unwrap();
    rows.map(Result::unwrap).collect()
}

/// Schema and rows of all that is not ours to write, and not `made` by these specs.
fn belongings(db: &Path, made: &[&str]) -> BTreeMap<String, Vec<String>> {
    let conn = dump::open(db);
    let ours = [
        "execution_results",
        "inventory_facts",
        "inventory_history",
        "job_completions",
        "sqlite_sequence",
    ];
    let mut all = BTreeMap::new();
    let mut select = conn
        .prepare("SELECT type, name, tbl_name, coalesce(sql, '') FROM sqlite_schema")
        .unwrap();
    let entries: Vec<[String; 4]> = select
        .query_map([], |row| Ok([row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?]))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    for [kind, name, table, sql] in entries {
        if made.contains(&table.as_str()) {
            continue;
        }
        let mut held = vec![sql];
        if kind == "table" && !name.starts_with("projector_") && !ours.contains(&name.as_str()) {
            let mut select = conn.prepare(&format!("SELECT * FROM \"{name}\"")).unwrap();
            let columns = select.column_count();
            let rows = select.query_map([], |row| {
                let cells = (0..columns).map(|index| row.get_ref(index).map(|cell| format!("{cell:?}")));
                Ok(cells.collect::<Result<Vec<_>, _>>()?.join(" "))
            });
            held.extend(rows.unwrap().map(Result::unwrap));
        }
        all.insert(format!("{kind} {name}"), held);
    }
    all
}

fn assert_untouched(before: &BTreeMap<String, Vec<String>>, after: &BTreeMap<String, Vec<String>>) {
    for what in before.keys().chain(after.keys()) {
        assert_eq!(before.get(what), after.get(what), "{what}");
    }
}

/// Tables that are somebody's by the contract.
const TAKEN: [&str; 31] = [
    "execution_results",
    "executions",
    "inventory_facts",
    "inventory_history",
    "check_status",
    "feeds",
    "feed_meta",
    "job_completions",
    "job_version_completions",
    "agents",
    "agent_meta",
    "audit_log",
    "backend_notices",
    "deploy_plan_applications",
    "deploy_plans",
    "host_perf_samples",
    "install_attempts",
    "install_events",
    "nats_auth_audit_state",
    "nats_auth_occurrences",
    "notification_ack_events",
    "notification_acks",
    "object_store_meta",
    "obs_events",
    "password_setup_tokens",
    "permission_groups",
    "process_perf_samples",
    "user_passkeys",
    "users",
    "_sqlx_migrations",
    "_sqlx_anything",
];
const TAKEN_BEGINNINGS: [&str; 7] = [
    "sqlite_sequence",
    "sqlite_x",
    "projector_results",
    "projector_x",
    "projector_position",
    "projector_",
    "_explode_migrate_items",
];
const NO_NAMES: [&str; 22] = [
    "",
    " ",
    "a b",
    "a-b",
    "1a",
    "é",
    "a.b",
    "main.users",
    "a\"; DROP TABLE executions; --",
    "a\"b",
    "a'b",
    "[a]",
    "`a`",
    "a;b",
    "a,b",
    "a)",
    "a\u{0}b",
    "a\n",
    "\u{1b}[31mred\u{7}",
    "\u{9b}31m",
    "\u{202e}nam",
    "?1",
];

fn mixed(name: &str) -> String {
    let case = |(at, c): (usize, char)| if at % 2 == 0 { c.to_ascii_uppercase() } else { c };
    name.chars().enumerate().map(case).collect()
}

/// Every kind of spec that has no table, with its code.
fn hostile_specs() -> Vec<(Value, &'static str)> {
    const INVALID: &str = "explode_spec_invalid";
    const REFUSED: &str = "explode_table_refused";
    let mut specs = Vec::new();
    for name in TAKEN.iter().chain(&TAKEN_BEGINNINGS) {
        for name in [(*name).to_owned(), name.to_uppercase(), mixed(name)] {
            specs.push((spec(&name, &["k", "v"]), REFUSED));
        }
    }
    let (fits, long) = ("n".repeat(64), "n".repeat(65));
    let huge = "x".repeat(100_000);
    for name in NO_NAMES.iter().copied().chain([long.as_str(), huge.as_str()]) {
        specs.push((spec(name, &["k"]), INVALID));
        specs.push((spec("fine", &["k", name]), INVALID));
        specs.push((spec("fine", &[name]), INVALID));
    }
    for columns in [
        &["k", "K"][..],
        &["k", "v", "k"],
        &["k", "PC_ID"],
        &["job_id"],
        &["k", "Collected_At"],
    ] {
        specs.push((spec("fine", columns), INVALID));
    }
    specs.push((spec("fine", &["rowid", "OID", "_rowid_"]), INVALID));
    for key in [
        json!([]),
        json!(["b"]),
        json!(["K"]),
        json!(["k", "b"]),
        json!(["pc_id"]),
        json!([""]),
    ] {
        let mut no_key = spec("fine", &["k"]);
        no_key["primary_key"] = key;
        specs.push((no_key, INVALID));
    }
    for kind in ["TEXT", "blob", "", "integer ", "text); DROP TABLE executions; --"] {
        let mut odd = spec("fine", &["k"]);
        odd["columns"][0]["type"] = json!(kind);
        specs.push((odd, INVALID));
    }
    let names: Vec<String> = (0..1_998).map(|at| format!("c{at}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    specs.push((spec("fine", &names), INVALID));
    for table in [
        "NOTES",
        "almost",
        "Overview",
        "assets",
        "flat",
        "generated",
        "seen",
    ] {
        specs.push((spec(table, &["k", "v"]), REFUSED));
    }
    // Somebody's key cannot be changed under a view that reads the table.
    specs.push((spec("siblings", &["k"]), REFUSED));
    specs.push((spec("Siblings", &["v", "k"]), REFUSED));
    let mut index = spec("execution_results_started", &["at"]);
    index["columns"][0]["index"] = json!(true);
    specs.push((index, REFUSED));
    assert_eq!(fits.len(), 64);
    specs
}

const SOMEBODYS: &str = "
    CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT);
    INSERT INTO notes VALUES (1, 'mine'), (2, 'too');
    CREATE TABLE almost (pc_id TEXT, job_id TEXT, k TEXT, v TEXT);
    INSERT INTO almost VALUES ('PC-1', 'j', 'k', 'v');
    CREATE VIEW overview AS SELECT pc_id, job_id, k, v, 'x' AS collected_at FROM almost;
    CREATE INDEX assets ON notes (text);
    CREATE INDEX idx_odd_v ON notes (id, text);
    CREATE TRIGGER odd AFTER INSERT ON notes BEGIN DELETE FROM notes; END;
    CREATE TABLE flat (pc_id TEXT NOT NULL, job_id TEXT NOT NULL, collected_at TIMESTAMP, k TEXT NOT NULL, v TEXT,
        PRIMARY KEY (pc_id, job_id, k)) WITHOUT ROWID;
    INSERT INTO flat VALUES ('PC-1', 'j', 'x', 'k', 'v');
    CREATE TABLE generated (pc_id TEXT NOT NULL, job_id TEXT NOT NULL, collected_at TIMESTAMP, k TEXT,
        v TEXT AS (k || 'x'), PRIMARY KEY (pc_id, job_id, k));
    CREATE TABLE seen (pc_id TEXT NOT NULL, job_id TEXT NOT NULL, collected_at TIMESTAMP, k TEXT, more TEXT,
        PRIMARY KEY (pc_id, job_id, k));
    INSERT INTO seen VALUES ('PC-1', 'other', 'x', 'k', 'more');
    CREATE VIEW sees AS SELECT more FROM seen;
";

#[test]
fn whatever_a_spec_asks_for_its_siblings_go_on_and_nobodys_table_is_touched() {
    let specs = hostile_specs();
    let names: Vec<String> = (0..specs.len())
        .map(|number| format!("job-{number:04}"))
        .collect();
    let siblings = |hostile: &Value| {
        let before = spec("siblings", &["k", "v"]);
        let mut after = spec("others", &["k", "v"]);
        after["track_history"] = json!(false);
        let mut hints = inventory(&[before, hostile.clone(), after]);
        hints["inventory"]["history_scalars"] = json!(["scalar"]);
        hints["feed"] = json!([{"id": "feed", "field": "items", "primary_key": ["k"]}]);
        hints["check"] = json!({"name": "check"});
        hints
    };
    let jobs: Vec<(&str, Value)> = names
        .iter()
        .zip(&specs)
        .map(|(name, (spec, _))| (name.as_str(), siblings(spec)))
        .collect();
    let mut play = Play::new(&jobs);
    let own: BTreeSet<String> = play.lines("SELECT name FROM sqlite_schema").into_iter().collect();
    for table in TAKEN
        .iter()
        .filter(|table| !own.contains(**table) && **table != "_sqlx_migrations")
    {
        play.somebody(&format!(
            "CREATE TABLE {table} (x); INSERT INTO {table} VALUES ('kept')"
        ));
    }
    play.somebody(SOMEBODYS);
    play.somebody("INSERT INTO executions (exec_id, job_id, version, initiated_by, target_count) VALUES ('e', 'j', '1', 'a', 1000)");
    let made = [
        "siblings",
        "others",
        "feeds",
        "feed_meta",
        "check_status",
        "job_completions",
    ];
    let before = belongings(&play.db(), &made);
    assert!(before.len() > 80, "{}", before.len());
    for name in &names {
        let stdout = json!({"items": [{"k": "a", "v": 1}, {"k": "b"}], "scalar": 1, "status": "ok"});
        play.deliver(name, "PC-1", &stdout.to_string());
    }
    play.check_rows();
    let db = play.db();
    assert_untouched(&before, &belongings(&db, &made));
    for (name, (spec, code)) in names.iter().zip(&specs) {
        let count = |sql: &str| one(&db, &sql.replace('?', &format!("'{name}'")));
        let shown: String = spec.to_string().chars().take(200).collect();
        assert_eq!(
            count("SELECT count(*) FROM inventory_facts WHERE job_id = ?"),
            1,
            "{shown}"
        );
        assert_eq!(
            count("SELECT count(*) FROM siblings WHERE job_id = ?"),
            2,
            "{shown}"
        );
        assert_eq!(
            count("SELECT count(*) FROM others WHERE job_id = ?"),
            2,
            "{shown}"
        );
        assert_eq!(
            count("SELECT count(*) FROM inventory_history WHERE job_id = ?"),
            3,
            "{shown}"
        );
        let issues = lines(
            &db,
            &format!("SELECT code FROM projector_issues WHERE job_id = '{name}'"),
        );
        assert_eq!(issues, [*code], "{shown}");
    }
    assert_eq!(one(&db, "SELECT count(*) FROM feeds"), 2);
    assert_eq!(
        one(&db, "SELECT count(*) FROM check_status WHERE status = 'ok'"),
        1
    );
    assert!(
        one(
            &db,
            "SELECT max(length(part) + length(reason)) FROM projector_issues"
        ) < 800
    );
    shown_by_status(&db, specs.len());
}

/// All of them, and nothing that a terminal obeys.
fn shown_by_status(db: &Path, issues: usize) {
    let text = run(db, NOWHERE, &["status"]);
    let json = run(db, NOWHERE, &["status", "--json"]);
    for output in [&text, &json] {
        let shown = String::from_utf8(output.stdout.clone()).unwrap();
        let steers = |c: char| c != '\n' && (c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c));
        assert!(!shown.contains(steers), "{shown}");
    }
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains(&format!("issues     {issues}\n")), "{text}");
    assert!(
        text.contains("explode items into execution_results of job-0000 on PC-1: explode_table_refused"),
        "{text}"
    );
    let document: Value = serde_json::from_slice(&json.stdout).unwrap();
    let listed = document["issues"].as_array().unwrap();
    assert_eq!(listed.len(), issues);
    assert!(
        listed
            .iter()
            .any(|issue| issue["part"].as_str().unwrap().contains("\u{1b}[31mred\u{7}"))
    );
}

#[test]
fn odd_names_that_are_valid_are_had_and_a_taken_index_stays_its_owners() {
    let wide = "n".repeat(64);
    let mut odd = spec("odd", &["rowid", "v", "oid"]);
    odd["columns"][1]["index"] = json!(true);
    let specs = [
        spec(
            "select",
            &[
                "from", "where", "group", "order", "index", "table", "values", "null", "rowid",
            ],
        ),
        spec("Order", &["_rowid_", "oid", "abort"]),
        spec(&wide, &[wide.as_str()]),
        spec("_", &["_", "__"]),
        odd,
    ];
    let mut play = Play::new(&[("j", inventory(&specs))]);
    play.somebody(SOMEBODYS);
    let made = ["select", "Order", wide.as_str(), "_", "odd"];
    let before = belongings(&play.db(), &made);
    for value in [1, 1, 2] {
        let element = json!({
            "rowid": "r", "v": value, "oid": 7, "from": "f", "where": value, "null": null, "_rowid_": "x", "_": true,
            wide.as_str(): "w",
        });
        play.deliver("j", "PC-1", &json!({ "items": [element] }).to_string());
        play.stage.restart();
    }
    assert_eq!(play.issues(), Vec::<String>::new());
    assert_untouched(&before, &belongings(&play.db(), &made));
    for table in made {
        assert_eq!(
            play.one(&format!("SELECT count(*) FROM \"{table}\" WHERE job_id = 'j'")),
            1,
            "{table}"
        );
    }
    assert_eq!(
        play.one("SELECT count(*) FROM inventory_history WHERE change_kind = 'added'"),
        5
    );
    assert_eq!(
        play.one("SELECT count(*) FROM inventory_history WHERE change_kind = 'changed'"),
        2
    );
    assert_eq!(
        play.one("SELECT count(*) FROM odd WHERE v = '2' AND oid = '7' AND rowid = 'r'"),
        1
    );
    play.check_rows();
}

/// Every kind of value that JSON has, and those between which SQLite sees no difference or too many.
fn kinds() -> Vec<Value> {
    let numbers = [
        "0",
        "1",
        "-1",
        "42",
        "9007199254740993",
        "9223372036854775807",
        "-9223372036854775808",
        "9223372036854775808",
        "18446744073709551615",
        "123456789012345678901234567890",
        "0.0",
        "-0.0",
        "3.0",
        "1.5",
        "1.50",
        "1e3",
        "1e300",
        "-2.5e-300",
        "0.1",
        "100000000000000000.0",
    ];
    let texts = [
        "",
        " ",
        "42",
        " 42 ",
        "042",
        "4.0",
        "4.5",
        "-0",
        "+5",
        ".5",
        "5.",
        "1e3",
        "1e400",
        "0x10",
        "inf",
        "nan",
        "abc",
        "4a",
        "9223372036854775807",
        "9223372036854775808",
        "true",
        "null",
        "\u{0}",
        "1\u{0}2",
        "12\u{0}",
        "é",
        "日本語",
        "\u{1f600}",
        "a\"b\\c\n\t\u{1b}",
        "\u{b}7",
        "\u{a0}8",
    ];
    let mut kinds: Vec<Value> = numbers
        .iter()
        .map(|number| serde_json::from_str(number).unwrap())
        .collect();
    kinds.extend(texts.map(Value::from));
    kinds.extend([
        json!(null),
        json!(true),
        json!(false),
        json!([]),
        json!({}),
        json!([1, [2.0, {"b": 1, "a": [null]}]]),
    ]);
    kinds.extend([json!({"z": 1, "a": {"é": [true, "\u{0}"]}}), json!([u64::MAX])]);
    kinds
}

fn every_kind() -> (Vec<(&'static str, Value)>, Value) {
    let typed = |table: &str, key: &[&str]| {
        json!({
            "field": "items", "table": table, "primary_key": key, "track_history": true,
            "columns": [
                {"field": "n", "type": "integer", "index": true}, {"field": "t", "type": "text"},
                {"field": "i", "type": "integer"}, {"field": "r", "type": "real"}, {"field": "none"},
                {"field": "never", "type": "real"},
            ],
        })
    };
    let mut hints = inventory(&[
        typed("by_number", &["n"]),
        typed("by_text", &["t"]),
        typed("by_integer", &["i"]),
        typed("by_real", &["r"]),
        typed("by_all", &["r", "none", "i", "t"]),
        typed("by_nothing", &["never"]),
    ]);
    let mut payload = json!({});
    let mut names = Vec::new();
    let mut items = Vec::new();
    for (number, value) in kinds().into_iter().enumerate() {
        names.push(format!("s{number}"));
        payload[format!("s{number}")] = value.clone();
        items.push(json!({"n": number, "t": value, "i": value, "r": value, "none": value, "more": value}));
    }
    // Keys that are absent, repeated, NULL, of another letter case; elements that are none.
    items.extend([
        json!({}),
        json!({"n": 1}),
        json!({"n": "1", "t": "other"}),
        json!({"N": 900}),
        json!({"n": null, "t": 1}),
    ]);
    items.extend(kinds());
    names.push("absent".to_owned());
    hints["inventory"]["history_scalars"] = json!(names);
    payload["items"] = json!(items);
    (vec![("j", hints)], payload)
}

#[test]
fn the_same_scan_a_hundred_times_is_one_scan() {
    let (jobs, payload) = every_kind();
    let mut play = Play::new(&jobs);
    let tables = [
        "by_number",
        "by_text",
        "by_integer",
        "by_real",
        "by_all",
        "by_nothing",
    ];
    let rows = |play: &Play| -> Vec<Vec<String>> {
        play.settle();
        let mut held = Vec::new();
        for table in tables {
            held.push(play.lines(&format!(
                    "SELECT pc_id || quote(n) || quote(hex(t)) || typeof(i) || quote(hex(i)) || typeof(r) || quote(hex(r)) || quote(none)
                     FROM {table} ORDER BY rowid"
                ),
            ));
        }
        held
    };
    let text = payload.to_string();
    for pc in ["PC-1", "PC-2"] {
        play.deliver("j", pc, &text);
    }
    let history = "SELECT count(*) FROM inventory_history";
    let (events, first) = (play.one(history), rows(&play));
    assert!(events > 2 * 6 * 40, "{events}");
    assert!(
        play.issues()
            .iter()
            .all(|issue| issue.ends_with("explode_duplicate_identity")),
        "{:?}",
        play.issues()
    );
    let issues = play.issues();
    for scan in 1..100 {
        // Keys in another order, and blanks, are no change.
        let text = if scan % 2 == 0 {
            text.clone()
        } else {
            serde_json::to_string_pretty(&payload).unwrap()
        };
        for pc in ["PC-2", "PC-1"] {
            play.deliver("j", pc, &text);
        }
        match scan % 10 {
            3 => play.settle(),
            7 => play.stage.restart(),
            _ => {}
        }
    }
    assert_eq!(play.one(history), events);
    assert_eq!(rows(&play), first);
    assert_eq!(play.issues(), issues);
    let latest = "SELECT count(DISTINCT collected_at) FROM by_number WHERE pc_id = 'PC-1'";
    assert_eq!(play.one(latest), 1);

    // One value changes, by itself in one table and one scalar: a row each, naming it.
    let news = |play: &Play| {
        play.settle();
        let sql = format!(
            "SELECT field_path || ' ' || pc_id || ' ' || change_kind || ' ' || ifnull(identity_json, '-') FROM inventory_history
             WHERE id > {events} ORDER BY id"
        );
        play.lines(&sql)
    };
    let mut changed = payload.clone();
    changed["s1"] = json!(1.0);
    play.deliver("j", "PC-1", &changed.to_string());
    assert_eq!(news(&play), ["s1 PC-1 changed -"]);
    let mut hints = jobs[0].1.clone();
    hints["inventory"]["explode"] = json!([hints["inventory"]["explode"][0]]);
    play.stage.set_manifests(manifests(&[("j", hints)]));
    play.stage.restart();
    let at = kinds().iter().position(|kind| *kind == json!("abc")).unwrap();
    changed["items"][at]["r"] = json!("abd");
    play.deliver("j", "PC-1", &changed.to_string());
    play.deliver("j", "PC-1", &changed.to_string());
    let told = format!("items PC-1 changed {{\"n\":{at}}}");
    assert_eq!(news(&play), ["s1 PC-1 changed -", told.as_str()]);
    let last = "SELECT json_extract(before_json, '$.r') || ' ' || json_extract(after_json, '$.r') FROM inventory_history
                ORDER BY id DESC LIMIT 1";
    assert_eq!(play.lines(last), ["abc abd"]);
    play.check_rows();
}

fn within(what: &str, seconds: u64, run: impl FnOnce()) {
    let started = Instant::now();
    run();
    let took = started.elapsed();
    eprintln!("{what}: {took:?}");
    assert!(took < Duration::from_secs(seconds), "{what} took {took:?}");
}

#[test]
fn ten_thousand_elements_and_thousands_of_events_go_in_one_scan() {
    let mut play = Play::new(&[("j", inventory(&[spec("apps", &["name", "ver"])]))]);
    let scan = |changed: usize| {
        let items = (0..10_000).map(|at| json!({"name": format!("app {at}"), "ver": u8::from(at < changed)}));
        json!({ "items": items.collect::<Vec<_>>() }).to_string()
    };
    within("ten thousand elements", 20, || {
        play.deliver("j", "PC-1", &scan(0));
        play.settle();
        play.deliver("j", "PC-1", &scan(4_096));
        play.settle();
    });
    assert_eq!(play.one("SELECT count(*) FROM apps"), 10_000);
    assert_eq!(
        play.one("SELECT count(*) FROM inventory_history WHERE change_kind = 'changed'"),
        4_096
    );
    assert_eq!(play.one("SELECT count(*) FROM inventory_history"), 14_096);
    assert_eq!(play.issues(), Vec::<String>::new());
    play.check_rows();
}

fn wide(table: &str, columns: usize) -> Value {
    let names: Vec<String> = (0..columns).map(|at| format!("{:_<60}{at:04}", "c")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    spec(table, &names)
}

#[test]
fn a_thousand_columns_and_the_widest_table_outgrow_no_statement() {
    let mut indexed = wide("indexed", 1_000);
    for column in indexed["columns"].as_array_mut().unwrap() {
        column["index"] = json!(true);
    }
    let mut all_key = wide("all_key", 1_997);
    all_key["primary_key"] = all_key["columns"]
        .as_array()
        .unwrap()
        .iter()
        .map(|column| column["field"].clone())
        .collect();
    let mut play = Play::new(&[("j", inventory(&[wide("widens", 1), wide("thousand", 1_000)]))]);
    let scan = |value: &str| {
        let element = |name: usize| {
            let cells =
                (0..1_997).map(|at| (format!("{:_<60}{at:04}", "c"), json!(format!("{value}{name}"))));
            Value::Object(cells.collect())
        };
        json!({ "items": (0..20).map(element).collect::<Vec<_>>() }).to_string()
    };
    within("a thousand columns", 20, || {
        play.deliver("j", "PC-1", &scan("a"));
        play.settle();
    });
    let specs = [wide("widens", 500), wide("thousand", 1_000), indexed, all_key];
    for (count, spec) in specs.iter().enumerate() {
        let jobs = inventory(&specs[..=count]);
        play.stage.set_manifests(manifests(&[("j", jobs)]));
        within(spec["table"].as_str().unwrap(), 30, || {
            play.deliver("j", "PC-1", &scan("a"));
            play.deliver("j", "PC-1", &scan("b"));
            play.settle();
        });
    }
    for table in ["widens", "thousand", "indexed"] {
        assert_eq!(play.one(&format!("SELECT count(*) FROM {table}")), 20, "{table}");
    }
    assert_eq!(play.issues(), Vec::<String>::new());
    play.check_rows();
}

#[test]
fn more_cells_than_memory_should_hold_are_an_issue_and_leave_the_rows() {
    let mut keyless = wide("wide", 1_997);
    keyless["track_history"] = json!(false);
    let jobs = |wide: &Value| [("j", inventory(&[wide.clone(), spec("sibling", &["k"])]))];
    let mut play = Play::new(&jobs(&keyless));
    let scan = |elements: usize| json!({ "items": vec![json!({}); elements] }).to_string();
    let most = CELLS_MAX / 2_000;
    within("as many cells as are taken", 30, || {
        play.deliver("j", "PC-1", &scan(3));
        play.deliver("j", "PC-1", &scan(most));
        play.settle();
    });
    assert_eq!(play.one("SELECT count(*) FROM wide"), most as i64);
    play.deliver("j", "PC-1", &scan(most + 1));
    // Three bytes an element, in the megabytes that one output may have.
    play.deliver("j", "PC-1", &scan(100_000));
    assert_eq!(play.issues(), ["explode items into wide: not_stored"]);
    assert_eq!(play.one("SELECT count(*) FROM wide"), most as i64);
    assert_eq!(play.one("SELECT count(*) FROM sibling"), 100_000);
    play.deliver("j", "PC-1", &scan(2));
    assert_eq!(play.issues(), Vec::<String>::new());
    assert_eq!(play.one("SELECT count(*) FROM wide"), 2);

    // Many rows of few columns, and then the spec grows columns: too many to compare, not too many to replace.
    let rows = CELLS_MAX / 503 + 1;
    play.deliver("j", "PC-1", &scan(rows));
    let mut grown = wide("sibling", 499);
    grown["columns"]
        .as_array_mut()
        .unwrap()
        .insert(0, json!({"field": "k"}));
    grown["primary_key"] = json!(["k"]);
    for (track_history, rows, issues) in [
        (true, rows as i64, vec!["explode items into sibling: not_stored"]),
        (false, 1, vec![]),
    ] {
        grown["track_history"] = json!(track_history);
        play.stage
            .set_manifests(manifests(&[("j", inventory(&[grown.clone()]))]));
        play.deliver("j", "PC-1", &scan(1));
        assert_eq!(play.issues(), issues);
        assert_eq!(play.one("SELECT count(*) FROM sibling"), rows);
    }
    play.check_rows();
}

#[test]
fn a_table_that_takes_no_value_is_an_issue_and_all_else_stands_counted_once() {
    let mut hints = inventory(&[
        spec("guarded", &["k", "v"]),
        spec("tripped", &["k", "v"]),
        spec("parsed", &["k", "v"]),
        spec("healthy", &["k", "v"]),
    ]);
    hints["feed"] = json!([{"id": "f", "field": "items", "primary_key": ["k"]}, {"id": "g", "field": "items", "primary_key": ["k"]}]);
    hints["check"] = json!({"name": "c"});
    let mut play = Play::new(&[("j", hints)]);
    let columns = "pc_id TEXT NOT NULL, job_id TEXT NOT NULL, collected_at TIMESTAMP, k TEXT, v TEXT";
    play.somebody(&format!(
        "CREATE TABLE guarded ({columns} CHECK (v <> 'bad'), PRIMARY KEY (pc_id, job_id, k));
         CREATE TABLE tripped ({columns}, PRIMARY KEY (pc_id, job_id, k));
         CREATE TRIGGER trip BEFORE INSERT ON tripped WHEN new.v = 'bad' BEGIN SELECT raise(ABORT, 'no'); END;
         CREATE TRIGGER trip_too BEFORE UPDATE ON tripped WHEN new.v = 'bad' BEGIN SELECT raise(ABORT, 'no'); END;
         CREATE TABLE parsed ({columns}, PRIMARY KEY (pc_id, job_id, k));
         CREATE INDEX parsed_x ON parsed (json_extract('{{\"x\":' || v || '}}', '$.x'));
         CREATE TRIGGER feed BEFORE INSERT ON feeds WHEN new.feed_id = 'f' AND new.data LIKE '%bad%'
             BEGIN SELECT raise(FAIL, 'no'); END;
         CREATE TRIGGER checks BEFORE INSERT ON check_status WHEN new.status <> 'ok' BEGIN SELECT raise(ABORT, 'no'); END;
         INSERT INTO executions (exec_id, job_id, version, initiated_by, target_count) VALUES ('e', 'j', '1', 'a', 40)"
    ));
    let scan = |value: &str| {
        json!({"items": [{"k": "a", "v": "1"}, {"k": "b", "v": value}], "status": "ok"}).to_string()
    };
    let deliver = |play: &mut Play, pc: &str, value: &str| {
        play.deliver_with("j", pc, &scan(value), &json!({"exec_id": "e"}));
    };
    for round in 0..10 {
        deliver(&mut play, "PC-1", "7");
        deliver(&mut play, "PC-2", if round == 9 { "bad" } else { "8" });
    }
    let failed = [
        "explode items into guarded",
        "explode items into parsed",
        "explode items into tripped",
        "feed f",
    ];
    assert_eq!(play.issues(), failed.map(|part| format!("{part}: not_stored")));
    for table in ["guarded", "tripped", "parsed"] {
        let rows = play.lines(&format!("SELECT pc_id || v FROM {table} ORDER BY pc_id, k"));
        assert_eq!(
            rows,
            ["PC-11", "PC-17", "PC-21", "PC-28"],
            "{table}: the rows before stay"
        );
    }
    assert_eq!(
        play.lines("SELECT v FROM healthy WHERE pc_id = 'PC-2' ORDER BY k"),
        ["1", "bad"]
    );
    assert_eq!(
        play.one("SELECT count(*) FROM feeds WHERE feed_id = 'f' AND data LIKE '%7%'"),
        1
    );
    assert_eq!(
        play.one("SELECT count(*) FROM feeds WHERE feed_id = 'g' AND data LIKE '%bad%'"),
        1
    );
    assert_eq!(play.one("SELECT success_count FROM executions"), 20);
    assert_eq!(play.one("SELECT count(*) FROM job_completions"), 2);
    // No event of what was not stored: four tables had two elements of each PC, and one of them changed.
    assert_eq!(play.one("SELECT count(*) FROM inventory_history"), 2 * 4 * 2 + 1);
    play.deliver_with("j", "PC-2", "x", &json!({"exit_code": 1, "exec_id": "e"}));
    assert!(
        play.issues().contains(&"check: not_stored".to_owned()),
        "{:?}",
        play.issues()
    );
    assert_eq!(play.one("SELECT failure_count FROM executions"), 1);
    play.check_rows();

    // What is taken again is no issue any more.
    play.somebody("DROP TRIGGER checks");
    deliver(&mut play, "PC-2", "9");
    assert_eq!(play.issues(), Vec::<String>::new());
    assert_eq!(play.one("SELECT success_count FROM executions"), 21);
    let events = play.lines("SELECT after_json FROM inventory_history ORDER BY id DESC LIMIT 4");
    assert!(events.iter().all(|after| after.contains("\"9\"")), "{events:?}");
    play.check_rows();
}

#[test]
fn a_broken_trigger_on_an_exploded_table_holds_up_nothing() {
    let mut play = Play::new(&[("j", inventory(&[spec("apps", &["k"]), spec("healthy", &["k"])]))]);
    let scan = |key: &str| json!({"items": [{ "k": key }]}).to_string();
    play.deliver("j", "PC-1", &scan("a"));
    play.somebody("CREATE TRIGGER broken AFTER DELETE ON apps BEGIN INSERT INTO nowhere VALUES (1); END");
    play.deliver("j", "PC-1", &scan("b"));
    assert_eq!(play.issues(), ["explode items into apps: explode_table_refused"]);
    play.deliver("j", "PC-2", &scan("c"));
    assert_eq!(play.lines("SELECT k FROM healthy ORDER BY 1"), ["b", "c"]);
    assert_eq!(play.lines("SELECT k FROM apps"), ["a"]);
    play.somebody("DROP TRIGGER broken");
    for pc in ["PC-1", "PC-2"] {
        play.deliver("j", pc, &scan("d"));
    }
    assert_eq!(play.issues(), Vec::<String>::new());
    assert_eq!(play.lines("SELECT k FROM apps"), ["d", "d"]);
    play.check_rows();
}

#[test]
fn a_table_made_in_a_part_that_is_undone_is_made_again() {
    // The table is new, its first rows are refused: with the rows goes the table.
    let mut play = Play::new(&[("j", inventory(&[spec("fresh", &["k"])]))]);
    play.somebody(
        "CREATE TRIGGER no_history BEFORE INSERT ON inventory_history WHEN new.after_json LIKE '%bad%'
             BEGIN SELECT raise(ABORT, 'no'); END",
    );
    let scan = |key: &str| json!({"items": [{ "k": key }]}).to_string();
    play.deliver("j", "PC-1", &scan("bad"));
    assert_eq!(play.issues(), ["explode items into fresh: not_stored"]);
    // Another's table brings the schema's version to where ours had been.
    play.somebody("CREATE TABLE elsewhere (x)");
    play.deliver("j", "PC-1", &scan("good"));
    assert_eq!(play.issues(), Vec::<String>::new());
    assert_eq!(play.lines("SELECT k FROM fresh"), ["good"]);
    play.check_rows();
}

#[test]
fn a_pair_that_cannot_be_derived_anew_stays_due_and_holds_up_nobody() {
    let mut play = Play::new(&[("j", inventory(&[spec("apps", &["k"])]))]);
    let scan = |key: &str| json!({"items": [{ "k": key }]}).to_string();
    let lost = json!({"stdout_object": "q/PC-1/stdout"});
    play.deliver_with("j", "PC-1", "", &lost);
    play.deliver("j", "PC-1", &scan("b"));
    play.deliver("j", "PC-2", &scan("c"));
    play.somebody("CREATE TRIGGER keeps BEFORE DELETE ON apps BEGIN SELECT raise(ABORT, 'kept'); END");
    play.stage
        .objects
        .insert("q/PC-1/stdout".to_owned(), Object::Here(scan("a").into()));
    play.stage.retry_all();
    assert_eq!(play.issues(), ["derivation: not_stored"]);
    assert_eq!(
        play.lines("SELECT state FROM projector_derivations ORDER BY pc_id"),
        ["due", "settled"]
    );
    assert_eq!(play.lines("SELECT k FROM apps ORDER BY k"), ["b", "c"]);
    assert_eq!(play.one("SELECT count(*) FROM inventory_history"), 2);
    play.deliver("j", "PC-1", &scan("d"));
    play.deliver("j", "PC-3", &scan("e"));
    assert_eq!(play.issues(), ["derivation: not_stored"]);
    assert_eq!(play.lines("SELECT k FROM apps ORDER BY k"), ["b", "c", "e"]);
    play.somebody("DROP TRIGGER keeps");
    play.stage.derive_due();
    assert_eq!(play.issues(), Vec::<String>::new());
    assert_eq!(play.lines("SELECT k FROM apps ORDER BY k"), ["c", "d", "e"]);
    let told = "SELECT change_kind || ifnull(identity_json, '') FROM inventory_history WHERE pc_id = 'PC-1' ORDER BY id";
    let (a, b, d) = (r#"{"k":"a"}"#, r#"{"k":"b"}"#, r#"{"k":"d"}"#);
    assert_eq!(
        play.lines(told),
        [
            format!("added{a}"),
            format!("added{b}"),
            format!("removed{a}"),
            format!("added{d}"),
            format!("removed{b}")
        ]
    );
    play.check_rows();
}

#[test]
fn an_issue_goes_with_its_part() {
    let bad = |table: &str| spec(table, &["k", "K"]);
    let feeds = json!([{"id": "f", "field": "no_array", "primary_key": ["k"]}, {"id": "g", "field": "items", "primary_key": ["x"]}]);
    let mut hints = inventory(&[bad("one"), bad("two"), spec("three", &["k"])]);
    hints["feed"] = feeds.clone();
    let mut play = Play::new(&[("j", hints.clone())]);
    let stdout = json!({"items": [{"k": "a"}, {"k": "a"}], "no_array": 1}).to_string();
    let all = [
        "explode items into one: explode_spec_invalid",
        "explode items into three: explode_duplicate_identity",
        "explode items into two: explode_spec_invalid",
        "feed f: feed_field_not_array",
        "feed g: feed_item_without_key",
    ];
    for pc in ["PC-1", "PC-2"] {
        play.deliver("j", pc, &stdout);
    }
    play.somebody("DELETE FROM projector_issues WHERE pc_id = 'PC-2'");
    assert_eq!(play.issues(), all);

    // A spec and a feed are taken out; the rest stays, also where the result says nothing of them.
    let mut fewer = inventory(&[bad("two"), spec("three", &["k"])]);
    fewer["feed"] = json!([feeds[1]]);
    play.stage.set_manifests(manifests(&[("j", fewer)]));
    play.deliver_with("j", "PC-1", "", &json!({"exit_code": 1}));
    assert_eq!(play.issues(), [all[1], all[2], all[4]]);

    // Hints, or the whole manifest, gone; a manifest that does not decode is an issue until it does, hints or not.
    for (next, issues) in [
        (
            vec![("j", json!({"version": 7}))],
            vec!["manifest: manifest_undecodable"],
        ),
        (vec![("j", json!({}))], vec![]),
        (vec![("j", hints.clone())], all.to_vec()),
        (vec![], vec![]),
        (
            vec![("j", json!({"version": 7}))],
            vec!["manifest: manifest_undecodable"],
        ),
        (vec![("j", json!({"check": {"name": "c"}}))], vec![]),
    ] {
        play.stage.set_manifests(manifests(&next));
        play.deliver("j", "PC-1", &stdout);
        assert_eq!(play.issues(), issues);
    }
    play.check_rows();
}

#[test]
fn two_parts_of_one_name_do_not_clear_each_others_issues() {
    let mut hints = inventory(&[spec("apps", &["k", "K"]), spec("apps", &["k"])]);
    hints["feed"] = json!([
        {"id": "f", "field": "no_array", "primary_key": ["k"]}, {"id": " f ", "field": "items", "primary_key": ["k"]},
    ]);
    let mut play = Play::new(&[("j", hints)]);
    play.deliver(
        "j",
        "PC-1",
        &json!({"items": [{"k": "a"}], "no_array": 1}).to_string(),
    );
    assert_eq!(
        play.issues(),
        [
            "explode items into apps: explode_spec_invalid",
            "feed f: feed_field_not_array"
        ]
    );
    assert_eq!(play.one("SELECT count(*) FROM apps"), 1);
    assert_eq!(play.one("SELECT count(*) FROM feeds"), 1);
    play.check_rows();
}
