//! The derived tables behind a real server: facts, history, exploded tables, checks, feeds, snapshots, start events, and
//! the counters of executions. Whatever happens on the way, in the end they are those of an undisturbed run.

mod kills;
mod late;
mod manifests;
mod retention;
mod starts;

use std::collections::BTreeSet;
use std::path::Path;

use async_nats::jetstream;
use bytes::Bytes;
use results_projector::store::{Owner, Store, StoreOptions};
use rusqlite::Connection;
use serde_json::{Value, json};

use crate::harness::dump::{self, dump};
use crate::harness::fleet::put_manifests;
use crate::harness::projector::{catch_up, place, run, text};
use crate::harness::*;

pub const DISKS: &str = "inventory-disks";
pub const SOFTWARE: &str = "inventory-software";
pub const DEFENDER: &str = "check-defender";
pub const KEV: &str = "feed-kev";

/// A finished run with its stdout in the message.
pub struct Run<'a> {
    id: &'a str,
    pc_id: &'a str,
    job: &'a str,
    exit_code: i32,
    stdout: String,
    stderr: String,
}

impl<'a> Run<'a> {
    pub fn new(id: &'a str, pc_id: &'a str, job: &'a str, stdout: impl ToString) -> Self {
        Self {
            id,
            pc_id,
            job,
            exit_code: 0,
            stdout: stdout.to_string(),
            stderr: String::new(),
        }
    }

    pub fn failed(self, exit_code: i32, stderr: &str) -> Self {
        Self {
            exit_code,
            stdout: String::new(),
            stderr: stderr.to_owned(),
            ..self
        }
    }

    fn message(&self) -> (String, Value) {
        let message = json!({
            "result_id": self.id, "request_id": format!("q-{}", self.id), "pc_id": self.pc_id,
            "manifest_id": self.job, "exit_code": self.exit_code, "skipped": false, "stdout": self.stdout,
            "stderr": self.stderr, "started_at": "2026-06-01T00:00:00Z", "finished_at": "2026-06-01T00:00:05Z",
        });
        (format!("results.q-{}", self.id), message)
    }

    pub async fn send(&self, js: &jetstream::Context) {
        let (subject, message) = self.message();
        send(js, &subject, &message).await;
    }

    /// The message with its output behind a pointer, and the object.
    pub fn pointing(&self) -> ((String, Value), (String, String)) {
        let (subject, mut message) = self.message();
        let field = if self.exit_code == 0 { "stdout" } else { "stderr" };
        let name = format!("q-{}/{}/{field}", self.id, self.pc_id);
        let text = message[field].as_str().unwrap().to_owned();
        message[field] = json!("");
        message[format!("{field}_object")] = json!(name);
        ((subject, message), (name, text))
    }

    /// Sends it with its output behind a pointer, and stores no object: that is returned.
    pub async fn send_pointer(&self, js: &jetstream::Context) -> (String, String) {
        let ((subject, message), object) = self.pointing();
        send(js, &subject, &message).await;
        object
    }
}

pub async fn send(js: &jetstream::Context, subject: &str, message: &Value) {
    let payload = Bytes::from(message.to_string());
    js.publish(subject.to_owned(), payload)
        .await
        .unwrap()
        .await
        .unwrap();
}

pub async fn put_object(js: &jetstream::Context, (name, text): &(String, String)) {
    let store = js.get_object_store("result_output").await.unwrap();
    store.put(name.as_str(), &mut text.as_bytes()).await.unwrap();
}

/// What a scan of disks prints: so many, each so full.
pub fn disks(count: usize, free_gb: f64) -> Value {
    let disks: Vec<Value> = (0..count)
        .map(|number| {
            json!({"device": format!("D{number}:"), "model": "NVMe", "size_gb": 512, "free_gb": free_gb, "health": "Healthy"})
        })
        .collect();
    json!({"hostname": "h", "disk_count": count, "disks": disks})
}

pub fn apps(versions: &[(&str, &str)]) -> Value {
    let apps: Vec<Value> = versions
        .iter()
        .map(|(name, version)| json!({"name": name, "source": "machine", "version": version, "size_kb": 12}))
        .collect();
    json!({"os_version": "10", "apps": apps})
}

pub fn manifest(id: &str) -> Value {
    fleet::manifests()
        .into_iter()
        .find(|(known, _)| *known == id)
        .unwrap()
        .1
}

pub async fn put_manifest(js: &jetstream::Context, id: &str, manifest: &Value) {
    let jobs = js.get_key_value("jobs").await.unwrap();
    jobs.put(id, manifest.to_string().into()).await.unwrap();
}

pub fn status(db: &Path, url: &str) -> Value {
    let output = run(db, url, &["status", "--json"]);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output)))
}

/// A query's rows, each as one text.
pub fn rows(db: &Path, sql: &str) -> Vec<String> {
    let conn = dump::open(db);
    let mut select = conn.prepare(sql).unwrap();
    let columns = select.column_count();
    select
        .query_map([], |row| {
            let cells: Result<Vec<String>, rusqlite::Error> = (0..columns)
                .map(|index| {
                    Ok(match row.get_ref(index)? {
                        rusqlite::types::ValueRef::Null => "-".to_owned(),
                        rusqlite::types::ValueRef::Integer(number) => number.to_string(),
                        rusqlite::types::ValueRef::Real(number) => number.to_string(),
                        other => other.as_str().unwrap().to_owned(),
                    })
                })
                .collect();
            Ok(cells?.join(" "))
        })
        .unwrap()
        .map(Result::unwrap)
        .collect()
}

fn history(db: &Path, pc_id: &str) -> Vec<String> {
    rows(
        db,
        &format!(
            "SELECT field_path, change_kind, coalesce(identity_json, after_json) FROM inventory_history
             WHERE pc_id = '{pc_id}' ORDER BY id"
        ),
    )
}

pub const ISSUES: &str = "SELECT job_id, pc_id, part, code, stream_seq, result_id, reason FROM projector_issues ORDER BY 1, 2, 3, 4";

/// All that is derived, and what is reported beside it, is that of a run to which nothing happened.
fn assert_undisturbed(db: &Path, url: &str) {
    let (_folder, undisturbed) = place();
    catch_up(&undisturbed, url);
    assert_same(db, &undisturbed);
    assert_eq!(rows(db, ISSUES), rows(&undisturbed, ISSUES));
    check_i3(db);
}

/// A file with rows of `executions`, as the backend has made them.
pub fn with_executions(db: &Path, exec_ids: &BTreeSet<String>) {
    let me = Owner {
        pid: std::process::id(),
        ..Owner::default()
    };
    Store::open(db, &StoreOptions::default(), &me).unwrap().close();
    let conn = Connection::open(db).unwrap();
    for (number, exec_id) in exec_ids.iter().enumerate() {
        conn.execute(
            "INSERT INTO executions (exec_id, job_id, version, initiated_by, initiated_at, target_count)
             VALUES (?1, 'j', '1', 'somebody', '2026-06-01T00:00:00+00:00', ?2)",
            rusqlite::params![exec_id, 3 + 200 * (number % 2)],
        )
        .unwrap();
    }
}
