//! A scratch and a database, compared and mended: what differs is named to the cell, is copied, and nothing else is.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use results_projector::projection::manifests::Manifests;
use results_projector::store::StoreError;
use results_projector::store::compare::{
    Comparison, Difference, Kind, Mended, Scope, Shown, compare, find, mend,
};
use results_projector::store::retention::Horizons;
use results_projector::wire::kv::StreamName;
use results_projector::wire::time::Timestamp;
use rusqlite::Connection;
use rusqlite::config::DbConfig;
use rusqlite::types::Value as Cell;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::backend::{BackendFile, Ledgers};
use crate::harness::dump;
use crate::scenarios::insert_execution;
use crate::stage::{Object, Sent, Stage};

/// The read model's tables and their keys; a list's key is what names a row.
const TABLES: [(&str, &[&str]); 11] = [
    ("execution_results", &["result_id"]),
    ("executions", &["exec_id"]),
    ("inventory_facts", &["pc_id", "job_id"]),
    (
        "inventory_history",
        &[
            "pc_id",
            "job_id",
            "observed_at",
            "field_path",
            "identity_json",
            "change_kind",
        ],
    ),
    ("check_status", &["pc_id", "check_name"]),
    ("feeds", &["feed_id", "item_id"]),
    ("feed_meta", &["feed_id"]),
    ("job_completions", &["job_id", "pc_id"]),
    ("job_version_completions", &["job_id", "version", "pc_id"]),
    ("inv_apps", &["pc_id", "job_id", "name", "ver"]),
    ("inv_disks", &["pc_id", "job_id", "id"]),
];

fn manifests() -> Manifests {
    let job = |id: &str, hints: Value| {
        let mut document =
            json!({"id": id, "version": "1.0", "execute": {"shell": "sh", "script": "x", "timeout": "5m"}});
        for (name, hint) in hints.as_object().unwrap() {
            document[name] = hint.clone();
        }
        (id.to_owned(), Bytes::from(document.to_string()))
    };
    Manifests::compile([
        job(
            "inv",
            json!({"inventory": {
                "display": [{"field": "ram", "label": "RAM"}], "summary": [{"field": "ram", "label": "RAM"}],
                "history_scalars": ["ram", "os"],
                "explode": [
                    {"field": "apps", "table": "inv_apps", "primary_key": ["name", "ver"], "track_history": true,
                     "columns": [{"field": "name"}, {"field": "ver"}, {"field": "size", "type": "integer"},
                                 {"field": "score", "type": "real", "index": true}]},
                    {"field": "disks", "table": "inv_disks", "primary_key": ["id"],
                     "columns": [{"field": "id", "type": "integer"}, {"field": "free"}]},
                ],
            }}),
        ),
        job("chk", json!({"check": {"name": "av", "label": "Antivirus"}})),
        job(
            "feed",
            json!({"feed": [{"id": "kev", "field": "items", "primary_key": ["id"], "fetched_at": "at"}]}),
        ),
    ])
}

/// A database that was projected, and a scratch that says the same.
struct World {
    _folder: TempDir,
    good: PathBuf,
    scratch: PathBuf,
    lines: Vec<String>,
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_unix_nanos(1_780_272_000_000_000_000 + second * 1_000_000_000)
}

fn inventory(round: u64) -> Value {
    json!({
        "ram": 16 + round, "os": "10",
        "apps": [{"name": "a", "ver": "1", "size": 5, "score": 1.0}, {"name": "b", "ver": format!("{round}"), "size": 1},
                 {"ver": "1", "size": 7}, {"ver": "1", "size": 7}, {"ver": "1", "size": 8}, {}],
        "disks": [{"id": 1, "free": "5"}, {"id": 2, "free": "6"}, {"free": "7"}],
    })
}

fn world() -> World {
    let folder = TempDir::new().unwrap();
    let (good, scratch) = (folder.path().join("good.db"), folder.path().join("scratch.db"));
    let mut stage = Stage::open(&good, manifests());
    for exec in ["e-1", "e-2"] {
        insert_execution(
            &good,
            &json!({"exec_id": exec, "job_id": "inv", "version": "1.0", "initiated_by": "op",
                    "initiated_at": "2026-06-01T00:00:00+00:00", "target_count": 3}),
        );
    }
    stage
        .objects
        .insert("q-9/PC-1/stdout".into(), Object::Here("fetched".into()));
    stage
        .objects
        .insert("q-8/PC-1/stdout".into(), Object::Unreachable);
    let mut seq = 0;
    let mut result = |stage: &mut Stage, pc: &str, job: &str, stdout: String, more: Value| {
        seq += 1;
        let id = format!("r-{seq:02}");
        let mut payload = json!({
            "result_id": id, "request_id": format!("q-{seq}"), "pc_id": pc, "exit_code": 0, "skipped": false,
            "stdout": stdout, "stderr": "", "manifest_id": job, "exec_id": "e-1",
            "started_at": "2026-06-01T00:00:00Z", "finished_at": format!("2026-06-01T00:00:{seq:02}Z"),
        });
        for (name, value) in more.as_object().unwrap() {
            payload[name] = value.clone();
        }
        stage.deliver(&Sent {
            stream: StreamName::Results,
            seq,
            subject: format!("results.q-{seq}"),
            published: at(seq as i64 * 10),
            payload: payload.to_string().into(),
        });
    };
    for round in 0..2 {
        for pc in ["PC-1", "PC-2"] {
            result(&mut stage, pc, "inv", inventory(round).to_string(), json!({}));
        }
    }
    result(
        &mut stage,
        "PC-1",
        "chk",
        json!({"status": "ok", "detail": "d"}).to_string(),
        json!({}),
    );
    result(
        &mut stage,
        "PC-2",
        "chk",
        json!({"status": "warn"}).to_string(),
        json!({"exec_id": "e-2"}),
    );
    let items =
        json!({"at": "2026-06-01T00:00:00Z", "items": [{"id": "1", "x": 1}, {"id": "2"}, {"id": "3"}]});
    result(&mut stage, "PC-1", "feed", items.to_string(), json!({}));
    let pointer = |name: &str, more: Value| {
        let mut result =
            json!({"request_id": name.split('/').next().unwrap(), "stdout": "", "stdout_object": name});
        for (name, value) in more.as_object().unwrap() {
            result[name] = value.clone();
        }
        result
    };
    let bare = json!({"manifest_id": "bare", "exit_code": 3, "exec_id": null});
    result(
        &mut stage,
        "PC-1",
        "",
        String::new(),
        pointer("q-8/PC-1/stdout", bare.clone()),
    );
    result(
        &mut stage,
        "PC-1",
        "",
        String::new(),
        pointer("q-9/PC-1/stdout", bare),
    );
    for (seq, id) in [(1, "r-01"), (2, "r-77")] {
        let start = json!({
            "result_id": id, "request_id": "q-77", "exec_id": "e-1", "pc_id": "PC-1", "manifest_id": "inv",
            "version": "1.0", "started_at": "2026-06-01T00:00:01Z",
        });
        stage.deliver(&Sent {
            stream: StreamName::Events,
            seq,
            subject: "events.started.e-1.PC-1".into(),
            published: at(500 + seq as i64),
            payload: start.to_string().into(),
        });
    }
    stage.settle_down();
    drop(stage);
    let conn = Connection::open(&good).unwrap();
    conn.execute_batch("PRAGMA journal_mode = DELETE").unwrap();
    std::fs::copy(&good, &scratch).unwrap();
    make_scratch(&scratch);
    let lines = dump::dump(&good);
    for (table, _) in TABLES {
        let filled = lines.iter().any(|line| line.starts_with(&format!("{table}:")));
        assert!(filled, "{table} is empty: {lines:#?}");
    }
    World {
        _folder: folder,
        good,
        scratch,
        lines,
    }
}

/// No indexes but keys, and entry numbers of its own.
fn make_scratch(scratch: &Path) {
    let conn = Connection::open(scratch).unwrap();
    let indexes: Vec<String> = conn
        .prepare("SELECT name FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL")
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    for index in indexes.iter().filter(|name| *name != "idx_inv_apps_score") {
        conn.execute_batch(&format!("DROP INDEX \"{index}\"")).unwrap();
    }
    conn.execute_batch(
        "UPDATE projector_results SET entry = entry + 1000;
         UPDATE projector_outputs SET entry = entry + 1000;
         UPDATE projector_derivations SET first_entry = first_entry + 1000;
         UPDATE projector_waiting SET entry = entry + 1000",
    )
    .unwrap();
}

impl World {
    /// A copy of the database, changed by hand; nobody's trigger fires.
    fn tampered(&self, sql: &str) -> Case {
        let folder = TempDir::new().unwrap();
        let old = folder.path().join("old.db");
        std::fs::copy(&self.good, &old).unwrap();
        let conn = Connection::open(&old).unwrap();
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)
            .unwrap();
        conn.execute_batch("PRAGMA synchronous = OFF").unwrap();
        conn.execute_batch(sql)
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
        drop(conn);
        self.case(folder, old)
    }

    fn case(&self, folder: TempDir, old: PathBuf) -> Case {
        let conn = Connection::open(&self.scratch).unwrap();
        conn.execute("ATTACH ?1 AS old", [old.to_str().unwrap()]).unwrap();
        conn.execute_batch("PRAGMA main.journal_mode = OFF; PRAGMA old.synchronous = OFF")
            .unwrap();
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)
            .unwrap();
        Case {
            _folder: folder,
            old,
            conn,
        }
    }

    /// Another scratch than the world's own.
    fn scratch(&self, sql: &str) -> World {
        let folder = TempDir::new().unwrap();
        let scratch = folder.path().join("scratch.db");
        std::fs::copy(&self.scratch, &scratch).unwrap();
        Connection::open(&scratch).unwrap().execute_batch(sql).unwrap();
        World {
            good: self.good.clone(),
            lines: self.lines.clone(),
            scratch,
            _folder: folder,
        }
    }
}

/// One database beside the scratch.
struct Case {
    _folder: TempDir,
    old: PathBuf,
    conn: Connection,
}

impl Case {
    fn compare(&self, scope: &Scope) -> Comparison {
        compare(&self.conn, scope).unwrap()
    }

    fn mend(&self, scope: &Scope) -> Mended {
        let (found, findings) = find(&self.conn, scope).unwrap();
        let mended = mend(&self.conn, &findings, at(100_000)).unwrap();
        assert!(
            found.is_same() || !mended.is_nothing() || !mended.left.is_empty(),
            "{found:?}"
        );
        mended
    }

    fn assert_mended(&self, world: &World, what: &str) {
        let scope = all();
        self.mend(&scope);
        let found = dump::dump(&self.old);
        let differ: Vec<_> = found.iter().filter(|line| !world.lines.contains(line)).collect();
        assert!(found == world.lines, "{what}: {} rows, {differ:#?}", found.len());
        let again = self.compare(&scope);
        assert!(
            again.is_same() && again.differences.is_empty(),
            "{what}: {again:?}"
        );
        let before = self.conn.total_changes();
        assert!(self.mend(&scope).is_nothing(), "{what}");
        assert_eq!(self.conn.total_changes(), before, "{what}");
    }

    fn one(&self, sql: &str) -> Cell {
        self.conn.query_row(sql, [], |row| row.get(0)).unwrap()
    }
}

fn all() -> Scope {
    Scope {
        all_at_hand: true,
        whole: true,
        horizons: Horizons::default(),
    }
}

fn rows(conn: &Connection, sql: &str) -> Vec<Vec<Cell>> {
    crate::harness::backend::rows(conn, sql)
}

fn text(cell: &Cell) -> String {
    match cell {
        Cell::Null => "NULL".to_owned(),
        Cell::Integer(number) => number.to_string(),
        Cell::Real(number) => format!("{number:?}"),
        Cell::Text(text) => text.clone(),
        Cell::Blob(bytes) => format!(
            "x'{}'",
            bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
        ),
    }
}

/// The name of a row.
fn key(conn: &Connection, schema: &str, table: &str, key: &[&str], rowid: i64) -> BTreeMap<String, String> {
    let sql = format!(
        "SELECT {} FROM {schema}.{table} WHERE rowid = {rowid}",
        key.join(", ")
    );
    let row = rows(conn, &sql).remove(0);
    key.iter()
        .map(|column| (*column).to_owned())
        .zip(row.iter().map(text))
        .collect()
}

fn missing(table: &str, key: BTreeMap<String, String>) -> Difference {
    Difference {
        table: table.to_owned(),
        key,
        kind: Kind::Missing,
    }
}

fn unexpected(table: &str, key: BTreeMap<String, String>) -> Difference {
    Difference {
        table: table.to_owned(),
        key,
        kind: Kind::Unexpected,
    }
}

#[test]
fn what_is_the_same_is_found_to_be_and_nothing_is_written() {
    let world = world();
    for scope in [all(), Scope::default()] {
        let case = world.tampered("");
        let comparison = case.compare(&scope);
        assert!(comparison.is_same(), "{comparison:?}");
        assert_eq!(comparison.counted["execution_results"].compared, 10);
        assert_eq!(comparison.counted["inv_apps"].compared, 12);
        let before = case.conn.total_changes();
        let mended = case.mend(&scope);
        assert!(mended.is_nothing() && mended.left.is_empty(), "{mended:?}");
        assert_eq!(case.conn.total_changes(), before);
        assert_eq!(
            std::fs::read(&case.old).unwrap(),
            std::fs::read(&world.good).unwrap()
        );
    }
}

#[test]
fn every_cell_of_every_table_is_compared_and_mended() {
    let world = world();
    let good = dump::open(&world.good);
    let mut checked = 0;
    let ends = TABLES.into_iter().flat_map(|(table, keys)| {
        let ends = rows(&good, &format!("SELECT min(rowid), max(rowid) FROM {table}")).remove(0);
        ends.into_iter().map(move |end| (table, keys, end))
    });
    for (table, keys, end) in ends.collect::<Vec<_>>() {
        let Cell::Integer(rowid) = end else { panic!() };
        let columns = rows(
            &good,
            &format!(
                "SELECT name, \"notnull\" FROM pragma_table_info('{table}') WHERE name <> 'id' OR '{table}' = 'inv_disks'"
            ),
        );
        for column in columns {
            let (name, not_null) = (text(&column[0]), column[1] == Cell::Integer(1));
            let now = rows(
                &good,
                &format!("SELECT {name} FROM {table} WHERE rowid = {rowid}"),
            )
            .remove(0)
            .remove(0);
            let mut changes = match (&now, name.as_str()) {
                (Cell::Text(now), "change_kind") => {
                    vec![if now == "changed" { "'added'" } else { "'changed'" }]
                }
                (_, "status") if table == "check_status" => vec!["'fail'"],
                (Cell::Null, _) => vec!["'was nothing'", "''", "0"],
                (Cell::Text(_), _) => vec!["{} || 'x'", "CAST({} AS BLOB)", "''"],
                (_, _) => vec!["{} + 5", "CAST({} AS BLOB)", "'word'"],
            };
            if !not_null && now != Cell::Null {
                changes.push("NULL");
            }
            for change in changes {
                let value = change.replace("{}", &name);
                let what = format!("{table}.{name} = {value} of {rowid}");
                let is_none = format!(
                    "SELECT {value} IS {name} FROM {table} WHERE rowid = {rowid} AND typeof({name}) = typeof({value})"
                );
                if rows(&good, &is_none).concat() == [Cell::Integer(1)] {
                    continue;
                }
                let case = world.tampered(&format!(
                    "UPDATE {table} SET {name} = {value} WHERE rowid = {rowid}"
                ));
                let found = case.compare(&all()).differences;
                // In a list the row's cells say which it is, as far as they can: the time of an event is its place.
                let names_row = keys.contains(&name.as_str())
                    && !["field_path", "identity_json", "change_kind"].contains(&name.as_str());
                let should = key(&case.conn, "main", table, keys, rowid);
                let is = key(&case.conn, "old", table, keys, rowid);
                if names_row {
                    assert_eq!(found.len(), 2, "{what}: {found:?}");
                    assert!(found.contains(&missing(table, should)), "{what}: {found:?}");
                    assert!(found.contains(&unexpected(table, is)), "{what}: {found:?}");
                } else {
                    let [
                        Difference {
                            table: at,
                            key,
                            kind:
                                Kind::Column {
                                    name: column,
                                    found,
                                    expected,
                                },
                        },
                    ] = found.as_slice()
                    else {
                        panic!("{what}: {found:?}")
                    };
                    assert_eq!((at.as_str(), column), (table, &name), "{what}");
                    assert_eq!(key, &should, "{what}");
                    assert_ne!(found, expected, "{what}");
                }
                if table == "executions" && names_row {
                    let left = case.mend(&all()).left;
                    assert_eq!(left.keys().collect::<Vec<_>>(), ["executions"], "{what}");
                } else {
                    case.assert_mended(&world, &what);
                }
                checked += 1;
            }
        }
    }
    assert!(checked > 350, "{checked}");
}

#[test]
fn every_row_too_few_or_too_many_is_named_and_mended() {
    let world = world();
    let good = dump::open(&world.good);
    for (table, keys) in TABLES {
        for row in rows(&good, &format!("SELECT rowid FROM {table}")) {
            let Cell::Integer(rowid) = row[0] else { panic!() };
            let what = format!("without {table} {rowid}");
            let case = world.tampered(&format!("DELETE FROM {table} WHERE rowid = {rowid}"));
            let comparison = case.compare(&all());
            let named = key(&case.conn, "main", table, keys, rowid);
            assert_eq!(comparison.differences, [missing(table, named)], "{what}");
            assert_eq!(comparison.counted[table].missing, 1, "{what}");
            if table == "executions" {
                assert!(case.mend(&all()).is_nothing(), "{what}");
            } else {
                case.assert_mended(&world, &what);
            }
        }
        let id = if table == "inventory_history" { "id, " } else { "" };
        let columns = rows(&good, &format!("SELECT name FROM pragma_table_info('{table}')"));
        let columns: Vec<String> = columns
            .iter()
            .map(|row| text(&row[0]))
            .filter(|name| id.is_empty() || name != "id")
            .collect();
        let last = keys
            .iter()
            .rev()
            .find(|key| !["change_kind", "identity_json"].contains(key))
            .unwrap();
        let values: Vec<String> = columns
            .iter()
            .map(|name| {
                if name == last {
                    "'zz'".to_owned()
                } else {
                    name.clone()
                }
            })
            .collect();
        let what = format!("one more {table}");
        let case = world.tampered(&format!(
            "INSERT INTO {table} ({}) SELECT {} FROM {table} WHERE rowid = (SELECT min(rowid) FROM {table})",
            columns.join(", "),
            values.join(", ")
        ));
        let Cell::Integer(rowid) = case.one(&format!("SELECT max(rowid) FROM old.{table}")) else {
            panic!()
        };
        let comparison = case.compare(&all());
        assert_eq!(
            comparison.differences,
            [unexpected(table, key(&case.conn, "old", table, keys, rowid))],
            "{what}"
        );
        if table == "executions" {
            assert!(case.mend(&all()).is_nothing(), "{what}");
        } else {
            case.assert_mended(&world, &what);
        }
    }
}

#[test]
fn another_order_of_a_pairs_events_is_a_difference_and_of_pairs_none() {
    let world = world();
    // Of one message: swap the first two that it brought.
    let swap = "CREATE TEMP TABLE two AS SELECT min(id) AS one, min(id) + 1 AS two FROM inventory_history
                    WHERE pc_id = 'PC-1' AND observed_at = (SELECT min(observed_at) FROM inventory_history);
                UPDATE inventory_history SET id = -id WHERE id IN (SELECT one FROM two UNION SELECT two FROM two);
                UPDATE inventory_history SET id = CASE -id WHEN one THEN two ELSE one END FROM two WHERE id < 0";
    let case = world.tampered(swap);
    let comparison = case.compare(&all());
    assert!(
        comparison.counted["inventory_history"].different == 2,
        "{comparison:?}"
    );
    assert!(
        comparison
            .differences
            .iter()
            .all(|found| found.key["pc_id"] == "PC-1"),
        "{comparison:?}"
    );
    case.assert_mended(&world, "swapped");

    let case = world.tampered("UPDATE inventory_history SET id = id + 1000 WHERE pc_id = 'PC-1'");
    assert!(case.compare(&all()).is_same());
    let case = world.tampered(
        "UPDATE inv_apps SET rowid = rowid + 1000 WHERE pc_id = 'PC-1'; UPDATE feeds SET rowid = 100 - rowid;
         UPDATE execution_results SET rowid = 100 - rowid",
    );
    assert!(case.compare(&all()).is_same());
}

#[test]
fn rows_with_nothing_in_their_keys_are_told_apart_by_their_place() {
    let world = world();
    let blank = "pc_id = 'PC-1' AND name IS NULL AND ver = '1'";
    for (sql, count) in [
        (
            format!(
                "DELETE FROM inv_apps WHERE rowid = (SELECT max(rowid) FROM inv_apps WHERE {blank} AND size = 7)"
            ),
            1,
        ),
        (
            format!("INSERT INTO inv_apps SELECT * FROM inv_apps WHERE {blank} AND size = 8"),
            1,
        ),
        (
            format!(
                "UPDATE inv_apps SET size = 8 WHERE rowid = (SELECT max(rowid) FROM inv_apps WHERE {blank} AND size = 7)"
            ),
            1,
        ),
        (
            format!("UPDATE inv_apps SET rowid = 1000 - rowid WHERE {blank}"),
            2,
        ),
    ] {
        let case = world.tampered(&sql);
        assert_eq!(case.compare(&all()).found(), count, "{sql}");
        case.assert_mended(&world, &sql);
    }
}

#[test]
fn what_the_cleanup_took_is_no_difference_and_stays_away() {
    let world = world();
    let cutoff: String = dump::text(
        &world.good,
        "SELECT min(observed_at) || 'x' FROM inventory_history",
    );
    let scope = Scope {
        horizons: Horizons::before(cutoff.clone()),
        ..all()
    };
    let cleanup = format!(
        "DELETE FROM inventory_history WHERE observed_at < '{cutoff}';
         DELETE FROM execution_results WHERE recorded_at < '{cutoff}'"
    );
    let case = world.tampered(&cleanup);
    let comparison = case.compare(&scope);
    assert!(comparison.is_same(), "{comparison:?}");
    assert_eq!(comparison.counted["execution_results"].cleaned_up, 1);
    assert!(comparison.counted["inventory_history"].cleaned_up > 1);
    assert!(case.mend(&scope).is_nothing());
    // Beside it one is missing that no cleanup took: it alone comes back.
    let case = world.tampered(&format!(
        "{cleanup}; DELETE FROM inventory_history WHERE id = (SELECT max(id) FROM inventory_history WHERE pc_id = 'PC-1')"
    ));
    assert_eq!(case.compare(&scope).found(), 1);
    let clean = world.tampered(&cleanup);
    case.mend(&scope);
    assert_eq!(dump::dump(&case.old), dump::dump(&clean.old));
    assert!(case.compare(&scope).is_same());
    // Not yet cleaned up is compared like any other.
    let case = world.tampered("UPDATE execution_results SET stderr = 'x' WHERE result_id = 'r-01'");
    assert_eq!(case.compare(&scope).found(), 1);
}

#[test]
fn what_the_scratch_cannot_know_is_vouched_for_and_stays() {
    let world = world();
    let older = "CREATE TEMP TABLE older AS SELECT * FROM execution_results WHERE result_id = 'r-01';
                 UPDATE older SET result_id = 'older';
                 INSERT INTO execution_results SELECT * FROM older;
                 INSERT INTO inventory_facts SELECT 'PC-9', job_id, facts_json, display_json, summary_json, collected_at,
                     recorded_at FROM inventory_facts LIMIT 1;
                 INSERT INTO inv_disks SELECT 'PC-9', job_id, collected_at, id, free FROM inv_disks WHERE id = 1 LIMIT 1";
    let incomplete = Scope {
        whole: true,
        ..Scope::default()
    };
    let case = world.tampered(older);
    let before = dump::dump(&case.old);
    let comparison = case.compare(&incomplete);
    assert_eq!(comparison.counted["execution_results"].vouched, 1);
    assert_eq!(comparison.counted["execution_results"].unexpected, 0);
    assert_eq!(comparison.counted["inventory_facts"].unexpected, 1);
    assert_eq!(comparison.found(), 2);
    let mended = case.mend(&incomplete);
    assert!(mended.is_nothing(), "{mended:?}");
    assert_eq!(
        mended.left.keys().collect::<Vec<_>>(),
        ["inv_disks", "inventory_facts"]
    );
    assert_eq!(dump::dump(&case.old), before);
    // From a sequence on: only what the scratch has is looked at.
    let comparison = case.compare(&Scope::default());
    assert!(comparison.is_same(), "{comparison:?}");
    assert_eq!(comparison.counted["execution_results"].vouched, 0);
    assert!(case.mend(&Scope::default()).left.is_empty());
    // A pair and a feed that the scratch has are its own as a whole.
    let case = world.tampered(
        "INSERT INTO inv_disks SELECT 'PC-1', job_id, collected_at, 77, free FROM inv_disks WHERE id = 1 LIMIT 1;
         INSERT INTO feeds SELECT feed_id, '77', data, fetched_at, recorded_at FROM feeds LIMIT 1",
    );
    assert_eq!(case.compare(&Scope::default()).found(), 2);
    case.mend(&Scope::default());
    assert_eq!(dump::dump(&case.old), world.lines);
}

#[test]
fn an_exploded_table_that_is_gone_or_has_drifted_is_named_and_made_anew() {
    let world = world();
    for (sql, reason) in [
        ("DROP TABLE inv_apps", "no such table"),
        ("ALTER TABLE inv_disks DROP COLUMN free", "no column \"free\""),
        (
            "ALTER TABLE inv_disks ADD COLUMN Note TEXT",
            "column \"Note\" should not be",
        ),
        (
            "DROP TABLE inv_disks; CREATE TABLE Inv_Disks (pc_id TEXT NOT NULL, job_id TEXT NOT NULL,
                 collected_at TIMESTAMP, id TEXT, free TEXT, PRIMARY KEY (pc_id, job_id, free));
             INSERT INTO inv_disks SELECT pc_id, 'inv', collected_at, '1', '5' FROM inventory_facts",
            "column \"id\" is TEXT, should be INTEGER",
        ),
    ] {
        let case = world.tampered(sql);
        let comparison = case.compare(&all());
        let shape = Kind::Shape {
            reason: reason.to_owned(),
        };
        assert!(
            comparison.differences.iter().any(|found| found.kind == shape),
            "{sql}: {comparison:#?}"
        );
        case.assert_mended(&world, sql);
        let schema = |schema: &str| {
            rows(
                &case.conn,
                &format!("SELECT sql FROM {schema}.sqlite_schema WHERE tbl_name LIKE 'inv_%' ORDER BY name"),
            )
        };
        if sql == "DROP TABLE inv_apps" {
            assert!(schema("old").contains(&vec![Cell::Text(
                "CREATE INDEX \"idx_inv_apps_score\" ON \"inv_apps\" (\"score\")".into()
            )]));
        }
    }
    // Pairs that no message explains need it as it is.
    let case = world.tampered(
        "ALTER TABLE inv_disks ADD COLUMN note TEXT; INSERT INTO inv_disks SELECT 'PC-9', job_id, collected_at, 1, free, 'n'
             FROM inv_disks LIMIT 1",
    );
    let before = dump::dump(&case.old);
    let mended = case.mend(&Scope {
        whole: true,
        ..Scope::default()
    });
    assert!(mended.left["inv_disks"].contains("should not be"), "{mended:?}");
    assert_eq!(dump::dump(&case.old), before);
    // The order of columns and the letter case are nothing.
    let case = world.tampered(
        "CREATE TABLE aside (Free TEXT, ID INTEGER, collected_at TIMESTAMP, job_id TEXT NOT NULL, pc_id TEXT NOT NULL,
             PRIMARY KEY (pc_id, id, job_id));
         INSERT INTO aside SELECT free, id, collected_at, job_id, pc_id FROM inv_disks ORDER BY rowid;
         DROP TABLE inv_disks; ALTER TABLE aside RENAME TO INV_disks",
    );
    let comparison = case.compare(&all());
    assert!(comparison.is_same(), "{comparison:?}");
    // A table of somebody's without row ids is never written.
    let case = world.tampered(
        "CREATE TABLE theirs (pc_id TEXT PRIMARY KEY, job_id TEXT, collected_at TIMESTAMP) WITHOUT ROWID;
         INSERT INTO theirs VALUES ('PC-1', 'inv', 'x')",
    );
    let comparison = case.compare(&all());
    assert!(
        comparison.is_same() && comparison.left_out.contains_key("theirs"),
        "{comparison:?}"
    );
    assert!(case.mend(&all()).is_nothing());
}

#[test]
fn a_table_under_older_hints_takes_its_shape_when_it_is_mended() {
    let world = world();
    let older = world.tampered(
        "UPDATE projector_derivations SET hints_hash = 'older' WHERE job_id = 'inv';
         ALTER TABLE inv_disks DROP COLUMN free",
    );
    let comparison = older.compare(&all());
    assert!(comparison.is_same(), "{comparison:?}");
    assert!(
        comparison.left_out["inv_disks"].contains("older hints"),
        "{comparison:?}"
    );
    let mended = older.mend(&all());
    assert_eq!(mended.rows["projector_derivations"], 2);
    assert_eq!(dump::dump(&older.old), world.lines);
    assert!(older.mend(&all()).is_nothing());
}

#[test]
fn types_that_sqlite_takes_for_equal_are_told_apart() {
    let world = world();
    let case = world.tampered(
        "DROP TABLE feed_meta;
         CREATE TABLE feed_meta (item_count, fetched_at COLLATE NOCASE, recorded_at TEXT, feed_id TEXT PRIMARY KEY);
         INSERT INTO feed_meta SELECT 3.0, '2026-06-01t00:00:07+00:00', recorded_at, feed_id FROM
             (SELECT recorded_at, feed_id FROM feeds LIMIT 1)",
    );
    let differences = case.compare(&all()).differences;
    let cells: Vec<_> = differences
        .iter()
        .map(|found| match &found.kind {
            Kind::Column {
                name,
                found,
                expected,
            } => (name.as_str(), found.clone(), expected.clone()),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        cells,
        [
            (
                "fetched_at",
                Shown::Text("2026-06-01t00:00:07+00:00".into()),
                Shown::Text("2026-06-01T00:00:07+00:00".into())
            ),
            ("item_count", Shown::Real(3.0), Shown::Integer(3)),
        ]
    );
    case.mend(&all());
    assert!(case.compare(&all()).is_same());
    assert_eq!(dump::dump(&case.old), world.lines);
}

#[test]
fn the_books_follow_what_was_mended() {
    let world = world();
    // An output that came back in the meantime.
    let case = world.tampered(
        "UPDATE execution_results SET stdout = 'placeholder' WHERE result_id = 'r-09';
         UPDATE projector_outputs SET state = 'gone', size_bytes = NULL, sha256 = NULL, next_try_wall = 'x', since_wall = 'x'
             WHERE result_id = 'r-09'",
    );
    case.assert_mended(&world, "an output");
    let book = |schema: &str, table: &str, columns: &str| {
        rows(
            &case.conn,
            &format!("SELECT {columns} FROM {schema}.{table} ORDER BY 1, 2"),
        )
    };
    let outputs = "result_id, field, object, state, size_bytes, sha256";
    assert_eq!(
        book("old", "projector_outputs", outputs),
        book("main", "projector_outputs", outputs)
    );
    assert_eq!(case.one("SELECT count(*) FROM old.projector_outputs WHERE result_id = 'r-09' AND next_try_wall IS NULL AND since_wall IS NULL"), Cell::Integer(1));
    // Rows that were lost with their books.
    let case = world.tampered(
        "DELETE FROM execution_results; DELETE FROM projector_outputs; DELETE FROM projector_derivations;
         DELETE FROM inventory_facts; DELETE FROM inventory_history; DELETE FROM inv_apps;
         INSERT INTO projector_waiting VALUES ('inv', 'PC-1', 1);
         INSERT INTO projector_issues VALUES ('inv', 'PC-1', 'inventory', 'stale', 'RESULTS', 1, 1, 'r-01', 'gone')",
    );
    let positions = book("old", "projector_position", "*");
    case.assert_mended(&world, "everything");
    assert_eq!(book("old", "projector_position", "*"), positions);
    let good = dump::open(&world.good);
    for sql in [
        "SELECT result_id, field, entry, object, state, size_bytes, sha256 FROM projector_outputs ORDER BY 1, 2",
        "SELECT * FROM projector_derivations WHERE job_id = 'inv' ORDER BY 1, 2",
        "SELECT * FROM projector_waiting",
        "SELECT * FROM projector_issues ORDER BY 1, 2, 3",
    ] {
        assert_eq!(rows(&dump::open(&case.old), sql), rows(&good, sql), "{sql}");
    }
    let owed =
        "SELECT count(*) FROM old.projector_outputs WHERE state = 'pending' AND next_try_wall IS NOT NULL";
    assert_eq!(case.one(owed), Cell::Integer(1));
    // Hints that changed no row count as taken all the same; a pair that still waits keeps waiting.
    let case = world.tampered("UPDATE projector_derivations SET hints_hash = 'older' WHERE pc_id = 'PC-1'");
    assert_eq!(
        case.mend(&all()).rows.keys().collect::<Vec<_>>(),
        ["projector_derivations"]
    );
    let waiting = world.scratch("UPDATE projector_derivations SET state = 'waiting' WHERE job_id = 'inv'");
    let case = waiting.tampered(
        "UPDATE projector_derivations SET state = 'waiting' WHERE job_id = 'inv';
         INSERT INTO projector_waiting VALUES ('inv', 'PC-1', 1); DELETE FROM inv_apps WHERE pc_id = 'PC-1'",
    );
    case.assert_mended(&waiting, "a pair that waits");
    assert_eq!(
        case.one("SELECT count(*) FROM old.projector_waiting"),
        Cell::Integer(1)
    );
}

/// The backend's file, with what was projected in it.
fn backends(world: &World, ledgers: Ledgers, folder: &TempDir) -> PathBuf {
    let old = folder.path().join("old.db");
    BackendFile::with(ledgers).create(&old);
    let conn = Connection::open(&old).unwrap();
    conn.execute("ATTACH ?1 AS good", [world.good.to_str().unwrap()])
        .unwrap();
    // Another order, and columns of a version to come.
    conn.execute_batch(
        "DROP TABLE check_status;
         CREATE TABLE check_status (label TEXT, recorded_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP, detail TEXT,
             since TEXT DEFAULT 'then', status TEXT NOT NULL, check_name TEXT NOT NULL, pc_id TEXT NOT NULL,
             PRIMARY KEY (pc_id, check_name));
         ALTER TABLE execution_results ADD COLUMN host_name TEXT;
         CREATE TABLE inv_apps (score REAL, size INTEGER, ver TEXT, name TEXT, collected_at TIMESTAMP, job_id TEXT NOT NULL,
             pc_id TEXT NOT NULL, PRIMARY KEY (pc_id, job_id, name, ver));",
    )
    .unwrap();
    for row in rows(
        &conn,
        "SELECT name, coalesce(sql, '') FROM good.sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name <> 'execution_results'",
    ) {
        let (name, sql) = (text(&row[0]), text(&row[1]));
        if ledgers == Ledgers::Absent && name.contains("completions") {
            continue;
        }
        let there: bool = conn
            .query_row(
                "SELECT EXISTS (SELECT 1 FROM main.sqlite_schema WHERE name = ?1)",
                [&name],
                |row| row.get(0),
            )
            .unwrap();
        if !there {
            conn.execute_batch(&sql).unwrap();
        }
        let columns: Vec<String> = rows(
            &conn,
            &format!("SELECT name FROM pragma_table_info('{name}', 'good')"),
        )
        .iter()
        .map(|row| format!("\"{}\"", text(&row[0])))
        .collect();
        let columns = columns.join(", ");
        conn.execute_batch(&format!(
            "INSERT OR IGNORE INTO main.{name} ({columns}) SELECT {columns} FROM good.{name} ORDER BY rowid"
        ))
        .or_else(|_| {
            conn.execute_batch(&format!(
                "INSERT OR IGNORE INTO main.{name} ({columns}) SELECT {columns} FROM good.{name}"
            ))
        })
        .unwrap();
    }
    old
}

#[test]
fn the_backends_file_is_compared_and_mended_in_the_contracts_columns() {
    let world = world();
    for ledgers in [Ledgers::InOtherWords, Ledgers::LikeOurs, Ledgers::Absent] {
        let folder = TempDir::new().unwrap();
        let old = backends(&world, ledgers, &folder);
        // The dump is of both ledgers.
        let dump = |old: &Path| (ledgers != Ledgers::Absent).then(|| dump::dump(old));
        let before = dump(&old);
        let others = crate::harness::backend::others_rows(&Connection::open(&old).unwrap());
        let case = world.case(folder, old);
        let comparison = case.compare(&all());
        assert!(comparison.is_same(), "{ledgers:?}: {comparison:#?}");
        assert_eq!(
            comparison.left_out.contains_key("job_completions"),
            ledgers == Ledgers::Absent
        );
        assert!(case.mend(&all()).is_nothing());
        let conn = Connection::open(&case.old).unwrap();
        conn.execute_batch(
            "UPDATE check_status SET detail = 'other' WHERE pc_id = 'PC-1'; DELETE FROM check_status WHERE pc_id = 'PC-2';
             UPDATE execution_results SET exit_code = 1, host_name = 'theirs' WHERE result_id = 'r-01';
             DELETE FROM inv_apps WHERE pc_id = 'PC-1'; DELETE FROM inventory_history WHERE pc_id = 'PC-2'",
        )
        .unwrap();
        assert_eq!(case.compare(&all()).counted["execution_results"].different, 1);
        case.mend(&all());
        assert!(case.compare(&all()).is_same());
        let theirs = conn.execute(
            "UPDATE execution_results SET host_name = NULL WHERE host_name = 'theirs'",
            [],
        );
        assert_eq!(theirs.unwrap(), 1);
        assert_eq!(dump(&case.old), before, "{ledgers:?}");
        assert_eq!(crate::harness::backend::others_rows(&conn), others);
    }
}

#[test]
fn a_mended_result_completes_its_job_through_the_triggers() {
    let world = world();
    let case = world.tampered("UPDATE execution_results SET exit_code = 5 WHERE result_id = 'r-01'");
    case.conn
        .execute_batch("CREATE TABLE old.fired (result_id TEXT); CREATE TRIGGER old.somebodys AFTER UPDATE OF exit_code ON execution_results BEGIN INSERT INTO fired VALUES (NEW.result_id); END")
        .unwrap();
    case.mend(&all());
    assert_eq!(
        case.one("SELECT group_concat(result_id) FROM old.fired"),
        Cell::Text("r-01".into())
    );
    assert!(
        !case
            .conn
            .db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER)
            .unwrap(),
        "as it was before"
    );
}

/// A table that is not compared; SQLite does not write what stays the same.
const BEATS: &str =
    "CREATE TABLE beats (id INTEGER PRIMARY KEY, beat INTEGER); INSERT INTO beats VALUES (1, 0)";
const BEAT: &str = "UPDATE beats SET beat = beat + 1";

/// The database's other writer, who does not wait.
fn other_writer(case: &Case) -> Connection {
    let other = Connection::open(&case.old).unwrap();
    other.busy_timeout(std::time::Duration::ZERO).unwrap();
    other
}

#[test]
fn others_write_while_rows_are_compared_and_nothing_is_mended_behind_their_backs() {
    let world = world();
    let mut case = world.tampered(
        "PRAGMA journal_mode = WAL;
         UPDATE check_status SET detail = 'other'; DELETE FROM execution_results WHERE result_id = 'r-01';
         DELETE FROM inventory_history; DROP TABLE inv_disks",
    );
    let other = other_writer(&case);
    other.execute_batch(BEATS).unwrap();
    let beats = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let counted = beats.clone();
    case.conn
        .progress_handler(
            50,
            Some(move || {
                other.execute(BEAT, []).expect("a walk holds nobody up");
                counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                false
            }),
        )
        .unwrap();
    let (found, findings) = find(&case.conn, &all()).unwrap();
    case.conn.progress_handler(0, None::<fn() -> bool>).unwrap();
    let beats = beats.load(std::sync::atomic::Ordering::Relaxed);
    assert!(!found.is_same() && beats > 10, "{beats}: {found:?}");

    // The job of a check is deleted: what was found is older than that.
    let other = other_writer(&case);
    other.execute_batch("DELETE FROM check_status").unwrap();
    let before = dump::dump(&case.old);
    let refused = mend(&case.conn, &findings, at(100_000)).unwrap_err();
    assert!(
        matches!(&refused, StoreError::Overtaken { path } if path.ends_with("old.db")),
        "{refused}"
    );
    assert_eq!(dump::dump(&case.old), before);
    assert!(case.conn.is_autocommit());

    // Somebody who is just about to write is not waited for either.
    let (_, findings) = find(&case.conn, &all()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let refused = mend(&case.conn, &findings, at(100_000)).unwrap_err();
    assert!(matches!(refused, StoreError::Overtaken { .. }), "{refused}");
    other.execute_batch("ROLLBACK").unwrap();

    // Our own writing does not count, and a walk that nobody overtakes ends.
    let (found, findings) = find(&case.conn, &all()).unwrap();
    assert_eq!(
        found.counted["check_status"].missing,
        found.counted["check_status"].compared
    );
    assert!(!mend(&case.conn, &findings, at(100_000)).unwrap().is_nothing());
    other.execute_batch("DROP TABLE beats").unwrap();
    case.assert_mended(&world, "overtaken before");
}

#[test]
fn what_is_right_is_said_to_be_whoever_writes_meanwhile() {
    let world = world();
    let case = world.tampered("PRAGMA journal_mode = WAL");
    let other = other_writer(&case);
    other.execute_batch(BEATS).unwrap();
    let (found, findings) = find(&case.conn, &all()).unwrap();
    other.execute(BEAT, []).unwrap();
    let mended = mend(&case.conn, &findings, at(100_000)).unwrap();
    assert!(found.is_same() && mended.is_nothing());
}

#[test]
fn the_ledgers_are_mended_by_what_the_triggers_have_left_of_them() {
    let world = world();
    for sql in [
        "DELETE FROM execution_results; DELETE FROM job_completions; DELETE FROM job_version_completions",
        "UPDATE execution_results SET exit_code = 9, finished_at = NULL;
         UPDATE job_completions SET last_success_at = '2020-01-01T00:00:00+00:00'",
        "UPDATE execution_results SET exit_code = 9; DELETE FROM job_completions",
    ] {
        world.tampered(sql).assert_mended(&world, sql);
    }
}

#[test]
fn a_comparison_is_told_as_json() {
    let world = world();
    let case = world.tampered(
        "UPDATE execution_results SET exit_code = 7 WHERE result_id = 'r-01';
             DELETE FROM feeds WHERE item_id = '2'",
    );
    let told = serde_json::to_value(case.compare(&all())).unwrap();
    assert_eq!(
        told["differences"],
        json!([
            {"table": "execution_results", "key": {"result_id": "r-01"}, "kind": "column", "name": "exit_code",
             "found": {"type": "integer", "value": 7}, "expected": {"type": "integer", "value": 0}},
            {"table": "feeds", "key": {"feed_id": "kev", "item_id": told["differences"][1]["key"]["item_id"]}, "kind": "missing"},
        ])
    );
    assert_eq!(told["counted"]["feeds"]["missing"], 1);
}
