//! A database from a whole stream, a scratch from what is left of it: settled, the scratch says the same.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use rusqlite::OpenFlags;
use rusqlite::config::DbConfig;
use rusqlite::types::Value as SqlValue;
use serde_json::{Value, json};

use super::derived::settle_derived;
use super::executions::settle_ledgers_and_executions;
use super::*;
use crate::projection::manifests::Manifests;
use crate::projection::output::Output;
use crate::projection::result::ResultMessage;
use crate::store::derive::due_pairs;
use crate::store::names::quoted;
use crate::store::{Owner, Store, StoreOptions, Synchronous};
use crate::wire::output::{Attempt, Content};
use crate::wire::sequence::StreamSeq;
use crate::wire::time::Timestamp;
use crate::wire::{inventory, result, started};

mod cases;
mod random;

const BEGIN_NS: i64 = 1_780_272_000_000_000_000;
const MINUTE_NS: i64 = 60_000_000_000;

/// What becomes of a pointer's object, in either database.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Object {
    Here,
    Gone,
    Pending,
}

#[derive(Clone)]
struct Message {
    seq: u64,
    published: Timestamp,
    payload: Value,
    object: Object,
}

impl Message {
    fn id(&self) -> &str {
        self.payload["result_id"].as_str().unwrap()
    }
}

/// The streams, whole.
#[derive(Default, Clone)]
struct Streams {
    results: Vec<Message>,
    starts: Vec<(Timestamp, Value)>,
    /// PC and payload.
    snapshots: Vec<(Timestamp, String, Value)>,
    executions: Vec<(String, Timestamp)>,
}

fn at(minute: i64) -> Timestamp {
    Timestamp::from_unix_nanos(BEGIN_NS + minute * MINUTE_NS)
}

fn document(id: &str, hints: &Value) -> (String, Bytes) {
    let mut document = json!({"id": id, "version": "1", "execute": {"shell": "sh", "timeout": "5m"}});
    for (name, hint) in hints.as_object().unwrap() {
        document[name] = hint.clone();
    }
    (id.to_owned(), Bytes::from(document.to_string()))
}

fn inventory_hint(table: &str) -> Value {
    json!({"inventory": {
        "display": [{"field": "ram", "label": "RAM"}], "history_scalars": ["ram"],
        "explode": [
            {"field": "apps", "table": table, "primary_key": ["name"], "track_history": true,
             "columns": [{"field": "name"}, {"field": "ver"}, {"field": "size", "type": "integer", "index": true}]},
            {"field": "disks", "table": format!("{table}_disks"), "primary_key": ["id"],
             "columns": [{"field": "id", "type": "integer"}]},
        ],
    }})
}

fn feed(id: &str) -> Value {
    json!({"feed": [{"id": id, "field": "apps", "primary_key": ["name"]}]})
}

fn with(mut one: Value, other: Value) -> Value {
    one.as_object_mut()
        .unwrap()
        .extend(other.as_object().unwrap().clone());
    one
}

/// What jobs want, at first and in the end.
fn jobs(now: bool) -> Manifests {
    let mut jobs = vec![
        document("inv", &inventory_hint("inv_apps")),
        document("chk", &json!({"check": {"name": "av"}})),
        document(
            "all",
            &with(
                with(inventory_hint("all_apps"), json!({"check": {"name": "disk"}})),
                feed("kev"),
            ),
        ),
        document("bare", &json!({})),
    ];
    if now {
        jobs.push(document("new", &with(inventory_hint("new_apps"), feed("new"))));
        jobs.push(document("other", &json!({"check": {"name": "other now"}})));
    } else {
        jobs.push(document("left", &with(inventory_hint("left_apps"), feed("left"))));
        jobs.push(document(
            "other",
            &with(inventory_hint("other_apps"), json!({"check": {"name": "other"}})),
        ));
    }
    Manifests::compile(jobs)
}

fn message(seq: u64, minute: i64, pc: &str, job: &str, stdout: &str) -> Message {
    Message {
        seq,
        published: at(minute),
        payload: json!({
            "result_id": format!("r-{seq:03}"), "request_id": format!("q-{seq:03}"), "pc_id": pc,
            "manifest_id": job, "exit_code": 0, "skipped": false, "stdout": stdout, "stderr": "",
            "started_at": "2026-06-01T00:00:00Z", "finished_at": at(minute).stored(),
        }),
        object: Object::Here,
    }
}

fn decoded(message: &Message) -> ResultMessage {
    let result = result::decode_shared(&Bytes::from(message.payload.to_string())).unwrap();
    let output = |pointer: &Option<bytestring::ByteString>, text: &str| {
        let object = pointer.clone()?;
        let attempt = match message.object {
            Object::Here => Attempt::Fetched {
                content: Content::new(Bytes::copy_from_slice(text.as_bytes())),
                sha256: [0; 32],
                verified: true,
            },
            Object::Gone => Attempt::Gone("no such object".into()),
            Object::Pending => Attempt::Pending("no answer".into()),
        };
        Some(Output { object, attempt })
    };
    ResultMessage {
        stdout: output(&result.stdout_object, &result.stdout),
        stderr: output(&result.stderr_object, &result.stderr),
        result,
    }
}

fn store(path: &Path) -> Store {
    let me = Owner {
        pid: std::process::id(),
        ..Owner::default()
    };
    let options = StoreOptions {
        synchronous: Synchronous::Normal,
        ..StoreOptions::default()
    };
    Store::open(path, &options, &me).unwrap()
}

fn execute(path: &Path, sql: &str) {
    let conn = Connection::open(path).unwrap();
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)
        .unwrap();
    conn.execute_batch(sql).unwrap();
}

/// Projects results as their turn comes; what lies before the bounds was cut off.
struct Cut {
    results: u64,
    starts: usize,
    snapshots: usize,
}

const WHOLE: Cut = Cut {
    results: 1,
    starts: 0,
    snapshots: 0,
};

fn project_results(store: &mut Store, manifests: &Arc<Manifests>, messages: &[Message], older: &[Message]) {
    for message in messages {
        // Its first message is no longer at hand: the scratch knows that from the database.
        if older.iter().any(|older| older.id() == message.id()) {
            let line = (message.seq, message.published.unix_nanos().unwrap(), message.id());
            store
                .conn
                .execute(
                    "INSERT INTO projector_results (incarnation, stream_seq, published_ns, result_id, pc_id, job_id,
                         counts, evidence) VALUES (1, ?1, ?2, ?3, 'pc', 'job', 0, 0)",
                    line,
                )
                .unwrap();
            continue;
        }
        let mut group = store.begin(manifests, at(0)).unwrap();
        group
            .result(
                1,
                StreamSeq(message.seq),
                message.published,
                &decoded(message),
                None,
            )
            .unwrap();
        group.commit().unwrap();
    }
    let due = due_pairs(&store.conn).unwrap();
    let mut group = store.begin(manifests, at(0)).unwrap();
    for due in due {
        group.rederive(&due).unwrap();
    }
    group.commit().unwrap();
}

impl Streams {
    fn database(&self, path: &Path, changes_at: Option<usize>) {
        let mut store = store(path);
        for (exec_id, initiated_at) in &self.executions {
            store
                .conn
                .execute(
                    "INSERT INTO executions (exec_id, job_id, version, initiated_by, initiated_at, target_count)
                     VALUES (?1, 'inv', '1', 'op', ?2, 8)",
                    [exec_id, &initiated_at.stored()],
                )
                .unwrap();
        }
        let (before, after) = self.results.split_at(changes_at.unwrap_or(0));
        project_results(&mut store, &Arc::new(jobs(false)), before, &[]);
        let now = Arc::new(jobs(true));
        project_results(&mut store, &now, after, &[]);
        self.project_rest(&mut store, &now, &WHOLE);
        store.close();
    }

    fn scratch(&self, path: &Path, cut: &Cut, old: &Path) {
        let mut store = store(path);
        let last: i64 = Connection::open(old)
            .unwrap()
            .query_row(
                "SELECT coalesce(max(entry), 0) FROM projector_results",
                [],
                |row| row.get(0),
            )
            .unwrap();
        // Entries go on behind the database's.
        store
            .conn
            .execute(
                "INSERT INTO projector_results VALUES (?1, 0, 0, 0, '', '', NULL, 0, 0)",
                [last],
            )
            .unwrap();
        let now = Arc::new(jobs(true));
        let (older, at_hand) = self.results.split_at(cut.results as usize - 1);
        project_results(&mut store, &now, at_hand, older);
        self.project_rest(&mut store, &now, cut);
        store
            .conn
            .execute("DELETE FROM projector_results WHERE entry = ?1", [last])
            .unwrap();
        store
            .conn
            .execute_batch(
                "DELETE FROM job_completions; DELETE FROM job_version_completions; DELETE FROM projector_unsettled",
            )
            .unwrap();
        store.close();
    }

    fn project_rest(&self, store: &mut Store, manifests: &Arc<Manifests>, cut: &Cut) {
        let mut group = store.begin(manifests, at(0)).unwrap();
        for (published, start) in self.starts.iter().skip(cut.starts) {
            let event = started::decode_shared(&Bytes::from(start.to_string())).unwrap();
            group.started(&event, *published).unwrap();
        }
        for (published, pc, payload) in self.snapshots.iter().skip(cut.snapshots) {
            let subject = format!("inventory.{pc}.net");
            let snapshot = inventory::decode(&subject, &Bytes::from(payload.to_string())).unwrap();
            group.snapshot(&snapshot, *published).unwrap();
        }
        group.commit().unwrap();
    }
}

/// A folder with a database and a scratch.
struct Bench {
    _folder: tempfile::TempDir,
    old: PathBuf,
    scratch: PathBuf,
}

impl Bench {
    fn new(streams: &Streams, changes_at: Option<usize>, cut: &Cut, touch: &str) -> Self {
        Self::of(streams, streams, changes_at, cut, touch)
    }

    /// `left`: what the streams still hold.
    fn of(streams: &Streams, left: &Streams, changes_at: Option<usize>, cut: &Cut, touch: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let bench = Self {
            old: folder.path().join("old.db"),
            scratch: folder.path().join("scratch.db"),
            _folder: folder,
        };
        streams.database(&bench.old, changes_at);
        execute(&bench.old, touch);
        left.scratch(&bench.scratch, cut, &bench.old);
        bench
    }

    fn attached(&self) -> Connection {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_URI;
        let conn = Connection::open_with_flags(&self.scratch, flags).unwrap();
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)
            .unwrap();
        conn.execute(
            "ATTACH ?1 AS old",
            [format!("file:{}?mode=ro", self.old.display())],
        )
        .unwrap();
        conn
    }

    /// Rows as they are settled before, and what is not at hand; then what is tested.
    fn settle(&self, purpose: Purpose, all_at_hand: bool) -> Vouched {
        let conn = self.attached();
        conn.execute_batch(
            "BEGIN;
             CREATE TEMP TABLE not_at_hand (entry INTEGER PRIMARY KEY, result_id, job_id, pc_id, published TEXT, counts);
             CREATE INDEX temp.not_at_hand_pair ON not_at_hand (job_id, pc_id);
             CREATE INDEX temp.not_at_hand_result ON not_at_hand (result_id);
             DELETE FROM main.execution_results WHERE result_id IN (SELECT result_id FROM old.execution_results);",
        )
        .unwrap();
        let there = "SELECT 1 FROM main.projector_results s WHERE s.stream_seq = l.stream_seq
             AND s.published_ns = l.published_ns";
        let mut select = conn
            .prepare(&format!(
                "SELECT entry, result_id, job_id, pc_id, published_ns, counts FROM old.projector_results l
                 WHERE NOT EXISTS ({there})"
            ))
            .unwrap();
        let mut rows = select.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            let mut values: Vec<SqlValue> = (0..6).map(|index| row.get(index).unwrap()).collect();
            let published = Timestamp::from_unix_nanos(row.get(4).unwrap()).stored();
            values[4] = SqlValue::Text(published);
            conn.execute(
                "INSERT INTO temp.not_at_hand VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                rusqlite::params_from_iter(values),
            )
            .unwrap();
        }
        drop(rows);
        drop(select);
        // Rows are another's work: here they are as the database has them.
        let which = match purpose {
            Purpose::Rebuild => "true".to_owned(),
            _ => "result_id IN (SELECT result_id FROM main.projector_results)".to_owned(),
        };
        conn.execute_batch(&format!(
            "INSERT INTO main.execution_results SELECT * FROM old.execution_results WHERE {which}"
        ))
        .unwrap();
        let mut vouched = Vouched::default();
        let basis = Basis {
            purpose,
            adopted: hand::is_adopted(&conn).unwrap(),
            all_at_hand,
        };
        settle_derived(&conn, &jobs(true), &basis, &mut vouched).unwrap();
        let now = Timestamp::from_unix_nanos(0);
        settle_ledgers_and_executions(&conn, &basis, now, &mut vouched).unwrap();
        let left: i64 = conn
            .query_row(
                "SELECT count(*) FROM temp.sqlite_schema WHERE type = 'table' AND name <> 'not_at_hand'",
                [],
                |row| row.get(0),
            )
            .unwrap();
        assert_eq!(left, 0, "scratch tables are cleared up");
        conn.execute_batch("COMMIT").unwrap();
        vouched
    }

    fn assert_same(&self, purpose: Purpose, what: &str) {
        let (mut expected, mut found) = (dump(&self.old), dump(&self.scratch));
        if purpose != Purpose::Rebuild {
            expected.remove("execution_results");
            found.remove("execution_results");
        }
        expected.retain(|_, rows| !rows.is_empty());
        found.retain(|_, rows| !rows.is_empty());
        for table in expected.keys().chain(found.keys()) {
            let (left, right) = (found.get(table), expected.get(table));
            if left != right {
                let only = |rows: Option<&Vec<String>>, others: Option<&Vec<String>>| -> Vec<String> {
                    let others = others.cloned().unwrap_or_default();
                    let rows = rows.into_iter().flatten();
                    rows.filter(|row| !others.contains(row)).cloned().collect()
                };
                panic!(
                    "{what}: {table}\nonly in the scratch: {:#?}\nonly in the database: {:#?}",
                    only(left, right),
                    only(right, left)
                );
            }
        }
    }
}

/// The canonical dump (contract §6.9).
fn dump(path: &Path) -> BTreeMap<String, Vec<String>> {
    let conn = Connection::open(path).unwrap();
    let names: Vec<String> = conn
        .prepare(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'projector\\_%' ESCAPE '\\'
                 AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND name NOT LIKE '\\_sqlx%' ESCAPE '\\'",
        )
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let mut tables = BTreeMap::new();
    for name in names {
        let order = match name.as_str() {
            "inventory_history" => "pc_id, job_id, observed_at, id",
            "execution_results" => "result_id",
            "executions" => "exec_id",
            "check_status" => "pc_id, check_name",
            "feeds" => "feed_id, item_id",
            "feed_meta" => "feed_id",
            "job_version_completions" => "job_id, version, pc_id",
            "inventory_facts" | "job_completions" => "pc_id, job_id",
            // A pair's rows in their order.
            _ => "pc_id, job_id, rowid",
        };
        let order = match name.contains("odd") {
            true => "pc_id, job_id",
            false => order,
        };
        let mut select = conn
            .prepare(&format!("SELECT * FROM {} ORDER BY {order}", quoted(&name)))
            .unwrap();
        let columns: Vec<String> = select.column_names().map(str::to_owned).collect();
        let rows = select
            .query_map([], |row| {
                Ok(columns
                    .iter()
                    .enumerate()
                    .filter(|(_, column)| *column != "id" || name != "inventory_history")
                    .map(|(index, column)| format!("{column}={:?}", row.get::<_, SqlValue>(index).unwrap()))
                    .collect::<Vec<_>>()
                    .join(" "))
            })
            .unwrap()
            .map(Result::unwrap)
            .collect();
        tables.insert(name, rows);
    }
    tables
}
