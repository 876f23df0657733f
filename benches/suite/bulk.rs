//! The bare bulk load: rows appended with nothing but their keys, in one transaction without a journal; derived rows once,
//! as they end; then completions by one statement each, the indexes, the check, a log, and all of it on disk under its name.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use results_projector::projection::check::CheckState;
use results_projector::projection::feed::Item;
use results_projector::projection::history::Event;
use results_projector::projection::manifests::Hints;
use results_projector::wire::inventory::Snapshot;
use results_projector::wire::manifest::Check;
use rusqlite::{Connection, Transaction, params};

use crate::known::{Derived, Known, Pair, Row, Start, Writes};
use crate::live::{CHECK, FACTS, FEED, FEED_META, HISTORY, enter, insert_element};
use crate::messages::{Does, Groups};

const ROW: &str =
    "INSERT INTO execution_results (result_id, request_id, exec_id, pc_id, exit_code, stdout, stderr, started_at,
         finished_at, recorded_at, job_id, parent_result_id, skipped, version, expires_at)
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, coalesce(?9, ?8), ?10, ?11, ?12, ?13, ?14)
     ON CONFLICT (result_id) DO NOTHING";

/// The derived tables as they are in the end.
#[derive(Default)]
struct Ends {
    facts: BTreeMap<Pair, (String, Arc<Hints>, String)>,
    history: Vec<(Pair, String, Vec<Event>)>,
    checks: BTreeMap<Pair, (String, Check, CheckState)>,
    feeds: BTreeMap<String, (String, Vec<Item>, i64)>,
    snapshots: BTreeMap<String, Snapshot>,
}

impl Ends {
    fn note(&mut self, row: &mut Row) {
        let derived = std::mem::take(&mut row.derived);
        let Some(job) = row.result.manifest_id.clone() else {
            return;
        };
        let (pair, at) = ((row.result.pc_id.clone(), job), &row.finished);
        for derived in derived {
            match derived {
                Derived::Facts { facts, hints, .. } => {
                    self.facts.insert(pair.clone(), (facts, hints, at.clone()));
                }
                // Their ends are what is known last.
                Derived::Elements(_) => {}
                Derived::History(events) => self.history.push((pair.clone(), at.clone(), events)),
                Derived::Check { check, state, .. } => {
                    self.checks.insert(pair.clone(), (at.clone(), check, state));
                }
                Derived::Feed { id, items, count } => {
                    self.feeds.insert(id, (at.clone(), items, count));
                }
            }
        }
    }

    fn write(&self, tx: &Transaction<'_>, known: &Known) {
        let mut insert = tx.prepare(FACTS).unwrap();
        for ((pc, job), (facts, hints, at)) in &self.facts {
            let hint = hints.inventory.as_ref().unwrap();
            insert
                .execute(params![
                    facts,
                    hint.display_json,
                    hint.summary_json,
                    at,
                    at,
                    &**pc,
                    &**job
                ])
                .unwrap();
        }
        for snapshot in self.snapshots.values() {
            let at = snapshot.collected_at.map(|at| at.stored());
            let (facts, display) = (&*snapshot.facts_json, snapshot.display_json);
            insert
                .execute(params![
                    facts,
                    display,
                    None::<&str>,
                    at,
                    at,
                    snapshot.pc_id,
                    snapshot.job_id
                ])
                .unwrap();
        }
        for (name, table) in &known.tables {
            let mut insert = tx.prepare(&table.insert).unwrap();
            let mut rows: Vec<_> = known.rows.iter().filter(|((_, of), _)| of == name).collect();
            rows.sort_by_key(|((pair, _), _)| pair);
            for ((pair, _), rows) in rows {
                let at = self.facts.get(pair).map_or("", |(_, _, at)| at);
                for cells in rows {
                    insert_element(&mut insert, &pair.0, &pair.1, at, cells);
                }
            }
        }
        let mut history = tx.prepare(HISTORY).unwrap();
        for ((pc, job), at, events) in &self.history {
            enter(&mut history, pc, job, at, events);
        }
        let mut insert = tx.prepare(CHECK).unwrap();
        for ((pc, _), (at, check, state)) in &self.checks {
            insert
                .execute(params![
                    state.status,
                    state.detail,
                    at,
                    check.label,
                    &**pc,
                    check.name
                ])
                .unwrap();
        }
        let (mut insert, mut meta) = (tx.prepare(FEED).unwrap(), tx.prepare(FEED_META).unwrap());
        for (id, (at, items, count)) in &self.feeds {
            for item in items {
                insert.execute(params![id, item.item_id, item.data, at]).unwrap();
            }
            meta.execute(params![id, at, count]).unwrap();
        }
    }
}

/// All start events, by the key of their row.
fn starts(messages: &Path) -> HashMap<String, Start> {
    let mut known = Known::new();
    Groups::open(messages)
        .flat_map(|mut group| {
            group.retain(|message| matches!(message.does, Does::Start | Does::LateStart));
            known.group(group)
        })
        .filter_map(|writes| match writes {
            Writes::Start(start) => Some((start.event.result_id.to_string(), *start)),
            _ => None,
        })
        .collect()
}

/// Fills a new file; returns the seconds of each phase. Nothing that only reads and decodes is in them.
pub fn load(messages: &Path, schema: &str, db: &Path) -> Vec<(&'static str, f64)> {
    let mut starts = starts(messages);
    let any_starts = !starts.is_empty();
    let (mut known, mut ends) = (Known::new(), Ends::default());
    let mut phases = Vec::new();
    let mut since = Instant::now();
    let side = db.with_extension("side");
    let mut conn = Connection::open(&side).unwrap();
    conn.execute_batch(
        "PRAGMA page_size=16384; PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-262144;
         PRAGMA mmap_size=1099511627776;",
    )
    .unwrap();
    let (tables, others): (Vec<&str>, Vec<&str>) = schema
        .split_inclusive(crate::SCHEMA_END)
        .partition(|statement| statement.starts_with("CREATE TABLE"));
    conn.execute_batch(&tables.concat()).unwrap();
    let tx = conn.transaction().unwrap();
    {
        let mut insert = tx.prepare(ROW).unwrap();
        let mut loading = since.elapsed();
        for group in Groups::open(messages) {
            let mut group = known.group(group);
            for writes in &mut group {
                match writes {
                    Writes::Result(row) => ends.note(row),
                    Writes::Snapshot(snapshot, _) => {
                        ends.snapshots
                            .insert(snapshot.pc_id.clone(), (**snapshot).clone());
                    }
                    _ => {}
                }
            }
            since = Instant::now();
            for writes in &group {
                if let Writes::Result(row) = writes {
                    insert_row(&mut insert, row, starts.remove(&row.key).as_ref());
                }
            }
            loading += since.elapsed();
        }
        since = Instant::now();
        for start in starts.values() {
            insert_start(&mut insert, start);
        }
        phases.push(("load", (loading + since.elapsed()).as_secs_f64()));
    }
    since = Instant::now();
    let mut phase = |name: &'static str| {
        phases.push((name, since.elapsed().as_secs_f64()));
        since = Instant::now();
    };
    ends.write(&tx, &known);
    tx.commit().unwrap();
    phase("derived");
    conn.execute_batch(
        "INSERT INTO job_completions SELECT job_id, pc_id, max(finished_at) FROM execution_results
             WHERE job_id IS NOT NULL AND exit_code = 0 AND finished_at IS NOT NULL GROUP BY 1, 2",
    )
    .unwrap();
    if any_starts {
        conn.execute_batch(
            "INSERT INTO job_version_completions SELECT job_id, pc_id, version, max(finished_at)
                 FROM execution_results WHERE version IS NOT NULL AND job_id IS NOT NULL AND exit_code = 0
                     AND finished_at IS NOT NULL GROUP BY 1, 3, 2",
        )
        .unwrap();
    }
    phase("completions");
    conn.execute_batch(&others.concat()).unwrap();
    phase("indexes");
    let sound: String = conn
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .unwrap();
    assert_eq!(sound, "ok");
    phase("check");
    conn.query_row("PRAGMA journal_mode=WAL", [], |_| Ok(())).unwrap();
    conn.close().unwrap();
    std::fs::File::open(&side).unwrap().sync_all().unwrap();
    std::fs::rename(&side, db).unwrap();
    std::fs::File::open(db.parent().unwrap())
        .unwrap()
        .sync_all()
        .unwrap();
    phase("sync");
    phases
}

fn insert_row(insert: &mut rusqlite::Statement<'_>, row: &Row, start: Option<&Start>) {
    let result = &row.result;
    insert
        .execute(params![
            row.key,
            &*result.request_id,
            start
                .map(|start| &*start.event.exec_id)
                .or(result.exec_id.as_deref()),
            &*result.pc_id,
            result.exit_code,
            &*result.stdout,
            &*result.stderr,
            start.map_or(&row.started, |start| &start.started),
            row.finished,
            result.manifest_id.as_deref(),
            result.parent_result_id.as_deref(),
            result.skipped_column(),
            start.map(|start| &*start.event.version),
            start.and_then(|start| start.expires.as_deref()),
        ])
        .unwrap();
}

fn insert_start(insert: &mut rusqlite::Statement<'_>, start: &Start) {
    let event = &start.event;
    let none = None::<&str>;
    insert
        .execute(params![
            &*event.result_id,
            &*event.request_id,
            &*event.exec_id,
            &*event.pc_id,
            none,
            "",
            "",
            start.started,
            none,
            &*event.manifest_id,
            none,
            false,
            &*event.version,
            start.expires,
        ])
        .unwrap();
}
