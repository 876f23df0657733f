//! The bare live loop: the same rows into the same tables, message by message, with the settings that were measured to be
//! best. No books, no position; nothing is read and nothing compared, since all is known beforehand.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use results_projector::projection::explode::Cell;
use results_projector::projection::history::Event;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, Statement, Transaction, TransactionBehavior, params};

use crate::known::{Change, Derived, Elements, Known, Row, Start, Writes};
use crate::messages::Groups;
use crate::support::{Usage, bare};

const INSERT: &str =
    "INSERT INTO execution_results (result_id, request_id, exec_id, pc_id, exit_code, stdout, stderr, started_at,
         finished_at, recorded_at, job_id, parent_result_id, skipped)
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?9, ?10, ?11, ?12)";
const FINISH: &str =
    "UPDATE execution_results SET request_id = ?2, exit_code = ?3, stdout = ?4, stderr = ?5, finished_at = ?6,
         recorded_at = min(recorded_at, ?6), parent_result_id = ?7, skipped = ?8
     WHERE result_id = ?1";
const START: &str =
    "INSERT INTO execution_results (result_id, request_id, exec_id, pc_id, started_at, recorded_at, job_id, version,
         expires_at)
     VALUES (?1, ?2, ?3, ?4, ?5, ?5, ?6, ?7, ?8)";
const JOIN: &str =
    "UPDATE execution_results SET exec_id = ?2, pc_id = ?3, started_at = ?4, recorded_at = min(recorded_at, ?4),
         version = ?5, expires_at = ?6
     WHERE result_id = ?1";
const COMPLETE: &str = "INSERT INTO job_completions (job_id, pc_id, last_success_at) VALUES (?1, ?2, ?3)
     ON CONFLICT (job_id, pc_id) DO UPDATE SET last_success_at = max(last_success_at, excluded.last_success_at)";
const COMPLETE_VERSION: &str = "INSERT INTO job_version_completions (job_id, pc_id, version, last_success_at)
     VALUES (?1, ?2, ?3, ?4)
     ON CONFLICT (job_id, version, pc_id)
         DO UPDATE SET last_success_at = max(last_success_at, excluded.last_success_at)";
/// A result's success, once its start event has come after it and told the version.
const COMPLETE_LATE: &str = "INSERT INTO job_version_completions (job_id, pc_id, version, last_success_at)
     SELECT job_id, pc_id, version, finished_at FROM execution_results
     WHERE result_id = ?1 AND exit_code = 0 AND job_id IS NOT NULL
     ON CONFLICT (job_id, version, pc_id)
         DO UPDATE SET last_success_at = max(last_success_at, excluded.last_success_at)";
pub const FACTS: &str =
    "INSERT INTO inventory_facts (facts_json, display_json, summary_json, collected_at, recorded_at, pc_id, job_id)
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
const FACTS_ANEW: &str =
    "UPDATE inventory_facts SET facts_json = ?1, display_json = ?2, summary_json = ?3, collected_at = ?4,
         recorded_at = ?5
     WHERE pc_id = ?6 AND job_id = ?7";
pub const HISTORY: &str =
    "INSERT INTO inventory_history (pc_id, job_id, field_path, identity_json, change_kind, before_json, after_json,
         observed_at)
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
pub const CHECK: &str = "INSERT INTO check_status (status, detail, recorded_at, label, pc_id, check_name) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
const CHECK_ANEW: &str = "UPDATE check_status SET status = ?1, detail = ?2, recorded_at = ?3, label = ?4
     WHERE pc_id = ?5 AND check_name = ?6";
pub const FEED: &str =
    "INSERT INTO feeds (feed_id, item_id, data, fetched_at, recorded_at) VALUES (?1, ?2, ?3, ?4, ?4)";
pub const FEED_META: &str =
    "INSERT OR REPLACE INTO feed_meta (feed_id, recorded_at, fetched_at, item_count) VALUES (?1, ?2, ?2, ?3)";

fn text(text: &str) -> ValueRef<'_> {
    ValueRef::Text(text.as_bytes())
}

fn cell(cell: &Cell) -> ValueRef<'_> {
    match cell {
        Cell::Null => ValueRef::Null,
        Cell::Integer(value) => ValueRef::Integer(*value),
        Cell::Real(value) => ValueRef::Real(*value),
        Cell::Text(value) => text(value),
    }
}

fn run<'a>(statement: &mut Statement<'_>, values: impl Iterator<Item = ValueRef<'a>>) {
    for (number, value) in values.enumerate() {
        statement
            .raw_bind_parameter(number + 1, ToSqlOutput::Borrowed(value))
            .unwrap();
    }
    statement.raw_execute().unwrap();
}

/// Inserts a row of an exploded table.
pub fn insert_element(insert: &mut Statement<'_>, pc: &str, job: &str, at: &str, cells: &[Cell]) {
    let built_in = [pc, job, at].into_iter().map(text);
    run(insert, built_in.chain(cells.iter().map(cell)));
}

/// Enters history.
pub fn enter(statement: &mut Statement<'_>, pc: &str, job: &str, at: &str, events: &[Event]) {
    for event in events {
        statement
            .execute(params![
                pc,
                job,
                event.field_path,
                event.identity_json,
                event.kind.as_str(),
                event.before_json,
                event.after_json,
                at
            ])
            .unwrap();
    }
}

fn elements(tx: &Transaction<'_>, pc: &str, job: &str, at: &str, elements: &Elements) {
    let table = &elements.table;
    let by_key = |row| {
        let key = table.spec.identity(row).into_iter().map(cell);
        [pc, job].into_iter().map(text).chain(key)
    };
    for row in &elements.removed {
        run(&mut tx.prepare_cached(&table.remove).unwrap(), by_key(row));
    }
    for row in &elements.changed {
        let others = table.spec.others().map(|at| cell(&row[at]));
        run(
            &mut tx.prepare_cached(&table.update).unwrap(),
            others.chain(by_key(row)),
        );
    }
    if elements.stay {
        tx.prepare_cached(&table.touch)
            .unwrap()
            .execute([at, pc, job])
            .unwrap();
    }
    if !elements.added.is_empty() {
        let mut insert = tx.prepare_cached(&table.insert).unwrap();
        for row in &elements.added {
            insert_element(&mut insert, pc, job, at, row);
        }
    }
}

fn derived(tx: &Transaction<'_>, row: &Row) {
    let (pc, at) = (&*row.result.pc_id, &*row.finished);
    let job = row.result.manifest_id.as_deref().unwrap_or_default();
    for derived in &row.derived {
        match derived {
            Derived::Facts { change, facts, hints } => {
                let hint = hints.inventory.as_ref().unwrap();
                let (display, summary) = (&hint.display_json, &hint.summary_json);
                by_change(tx, *change, FACTS, FACTS_ANEW)
                    .execute(params![facts, display, summary, at, at, pc, job])
                    .unwrap();
            }
            Derived::Elements(changes) => elements(tx, pc, job, at, changes),
            Derived::History(events) => {
                enter(&mut tx.prepare_cached(HISTORY).unwrap(), pc, job, at, events);
            }
            Derived::Check { change, check, state } => {
                by_change(tx, *change, CHECK, CHECK_ANEW)
                    .execute(params![
                        state.status,
                        state.detail,
                        at,
                        check.label,
                        pc,
                        check.name
                    ])
                    .unwrap();
            }
            Derived::Feed { id, items, count } => {
                tx.prepare_cached("DELETE FROM feeds WHERE feed_id = ?1")
                    .unwrap()
                    .execute([id])
                    .unwrap();
                let mut insert = tx.prepare_cached(FEED).unwrap();
                for item in items {
                    insert.execute(params![id, item.item_id, item.data, at]).unwrap();
                }
                let mut meta = tx.prepare_cached(FEED_META).unwrap();
                meta.execute(params![id, at, count]).unwrap();
            }
        }
    }
}

fn by_change<'a>(
    tx: &'a Transaction<'_>,
    change: Change,
    insert: &str,
    update: &str,
) -> rusqlite::CachedStatement<'a> {
    tx.prepare_cached(if change == Change::Insert { insert } else { update })
        .unwrap()
}

fn result(insert: &mut Statement<'_>, finish: &mut Statement<'_>, row: &Row) {
    let result = &row.result;
    let (request, stdout, stderr) = (&*result.request_id, &*result.stdout, &*result.stderr);
    let (parent, skipped) = (result.parent_result_id.as_deref(), result.skipped_column());
    match row.change {
        Change::Insert => insert.execute(params![
            row.key,
            request,
            result.exec_id.as_deref(),
            &*result.pc_id,
            result.exit_code,
            stdout,
            stderr,
            row.started,
            row.finished,
            result.manifest_id.as_deref(),
            parent,
            skipped,
        ]),
        Change::Update => finish.execute(params![
            row.key,
            request,
            result.exit_code,
            stdout,
            stderr,
            row.finished,
            parent,
            skipped,
        ]),
    }
    .unwrap();
}

fn start(tx: &Transaction<'_>, start: &Start) {
    let event = &start.event;
    let (id, exec, pc) = (&*event.result_id, &*event.exec_id, &*event.pc_id);
    let (request, job, version) = (&*event.request_id, &*event.manifest_id, &*event.version);
    let (at, expires) = (&start.started, &start.expires);
    match start.change {
        Change::Insert => tx
            .prepare_cached(START)
            .unwrap()
            .execute(params![id, request, exec, pc, at, job, version, expires]),
        Change::Update => {
            let mut join = tx.prepare_cached(JOIN).unwrap();
            join.execute(params![id, exec, pc, at, version, expires]).unwrap();
            tx.prepare_cached(COMPLETE_LATE).unwrap().execute([id])
        }
    }
    .unwrap();
}

/// The newest success by job and PC, and by version where a start event has told it.
#[derive(Default)]
struct Successes<'a> {
    of_jobs: BTreeMap<(&'a str, &'a str), &'a str>,
    of_versions: BTreeMap<(&'a str, &'a str, &'a str), &'a str>,
}

impl<'a> Successes<'a> {
    fn note(&mut self, row: &'a Row) {
        let (0, Some(job)) = (row.result.exit_code, row.result.manifest_id.as_deref()) else {
            return;
        };
        let (pc, at) = (&*row.result.pc_id, &*row.finished);
        let newest = self.of_jobs.entry((job, pc)).or_insert(at);
        *newest = at.max(*newest);
        if let Some(version) = row.version.as_deref() {
            let newest = self.of_versions.entry((job, version, pc)).or_insert(at);
            *newest = at.max(*newest);
        }
    }

    fn write(&self, tx: &Transaction<'_>) {
        let mut complete = tx.prepare_cached(COMPLETE).unwrap();
        for ((job, pc), at) in &self.of_jobs {
            complete.execute([job, pc, at]).unwrap();
        }
        let mut complete = tx.prepare_cached(COMPLETE_VERSION).unwrap();
        for ((job, version, pc), at) in &self.of_versions {
            complete.execute([job, pc, version, at]).unwrap();
        }
    }
}

fn commit_group(conn: &mut Connection, group: &[Writes]) {
    let tx = conn
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .unwrap();
    {
        let mut successes = Successes::default();
        let (mut insert, mut finish) = (
            tx.prepare_cached(INSERT).unwrap(),
            tx.prepare_cached(FINISH).unwrap(),
        );
        for writes in group {
            match writes {
                Writes::Result(row) => {
                    result(&mut insert, &mut finish, row);
                    successes.note(row);
                    derived(&tx, row);
                }
                Writes::Start(event) => start(&tx, event),
                Writes::Snapshot(snapshot, change) => {
                    let at = snapshot.collected_at.map(|at| at.stored());
                    let (facts, display) = (&*snapshot.facts_json, snapshot.display_json);
                    let (pc, job) = (&snapshot.pc_id, &snapshot.job_id);
                    by_change(&tx, *change, FACTS, FACTS_ANEW)
                        .execute(params![facts, display, None::<&str>, at, at, pc, job])
                        .unwrap();
                }
                Writes::Nothing => {}
            }
        }
        successes.write(&tx);
    }
    tx.commit().unwrap();
}

/// What the loop took.
#[derive(serde::Serialize, serde::Deserialize)]
pub struct Took {
    pub seconds: f64,
    /// Bytes given to write calls.
    pub written: u64,
    /// Of each transaction: messages, and seconds since the loop began.
    pub groups: Vec<(usize, f64)>,
}

/// Writes all messages of a file into a new database.
pub fn insert(messages: &Path, schema: &str, db: &Path) -> Took {
    let mut known = Known::new();
    let mut usage = Usage::default();
    usage.sample(std::process::id());
    let before = usage.written;
    let began = Instant::now();
    let mut conn = bare::open(db, schema);
    let mut seconds = began.elapsed().as_secs_f64();
    let mut groups = Vec::new();
    for group in Groups::open(messages) {
        let count = group.len();
        let group = known.group(group);
        let began = Instant::now();
        commit_group(&mut conn, &group);
        seconds += began.elapsed().as_secs_f64();
        groups.push((count, seconds));
    }
    let began = Instant::now();
    // Copies the log into the file: part of the work.
    conn.close().unwrap();
    seconds += began.elapsed().as_secs_f64();
    usage.sample(std::process::id());
    Took {
        seconds,
        written: usage.written - before,
        groups,
    }
}
