//! Whatever a hand changes, verify names by row and column, and replay mends.

use std::collections::BTreeMap;

use results_projector::store::compare::{Difference, Kind};
use rusqlite::types::Value as Cell;

use super::*;

/// Tables, the columns that name a row to people, and kinds of rows that know their cells from elsewhere.
const TABLES: [(&str, &[&str], &[&str]); 11] = [
    (
        "execution_results",
        &["result_id"],
        &[
            "finished_at IS NULL",
            "finished_at IS NOT NULL AND version IS NULL",
            "finished_at IS NOT NULL AND version IS NOT NULL",
            "result_id IN (SELECT result_id FROM projector_outputs WHERE state = 'fetched')",
            "result_id IN (SELECT result_id FROM projector_outputs WHERE state = 'pending')",
        ],
    ),
    (
        "executions",
        &["exec_id"],
        &["status = 'completed'", "status <> 'completed'"],
    ),
    (
        "inventory_facts",
        &["pc_id", "job_id"],
        &[
            "job_id = 'inventory-software'",
            "job_id = 'inventory-disks'",
            "job_id LIKE 'inventory.%'",
        ],
    ),
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
        &[
            "identity_json IS NULL",
            "change_kind = 'added'",
            "change_kind = 'changed'",
        ],
    ),
    ("check_status", &["pc_id", "check_name"], &["true"]),
    ("feeds", &["feed_id", "item_id"], &["true"]),
    ("feed_meta", &["feed_id"], &["true"]),
    ("job_completions", &["job_id", "pc_id"], &["true"]),
    (
        "job_version_completions",
        &["job_id", "version", "pc_id"],
        &["true"],
    ),
    (
        "inventory_software_apps",
        &["pc_id", "job_id", "name", "source"],
        &["true"],
    ),
    ("inventory_disks", &["pc_id", "job_id", "device"], &["true"]),
];

/// What no message tells, and why; verify does not name it, and replay leaves it as it is.
const UNPROVABLE: [(&str, &str, &str); 14] = [
    (
        "execution_results",
        "expires_at",
        "the job has no manifest; it may have had one when the run started",
    ),
    ("executions", "exec_id", "the backend makes the rows"),
    ("executions", "job_id", "the backend's"),
    ("executions", "version", "the backend's"),
    ("executions", "initiated_by", "the backend's"),
    ("executions", "initiated_at", "the backend's"),
    ("executions", "target_count", "the backend's"),
    // What is left of these, the row without its new key, is named.
    (
        "inventory_facts",
        "job_id",
        "of a job that has no hints any more, whatever the database says stands",
    ),
    ("inventory_history", "job_id", "as for facts"),
    ("inventory_software_apps", "job_id", "as for facts"),
    ("inventory_disks", "job_id", "as for facts"),
    (
        "check_status",
        "check_name",
        "a check of which no manifest tells stays as it is",
    ),
    ("feeds", "feed_id", "as for checks"),
    ("feed_meta", "feed_id", "as for checks"),
];

/// One thing that a hand may do to a row.
#[derive(Clone, Debug)]
struct Change {
    table: &'static str,
    keys: &'static [&'static str],
    which: &'static str,
    column: String,
    /// Whether it is done to a cell that holds nothing.
    null: bool,
    action: Action,
}

#[derive(Clone, Debug, PartialEq)]
enum Action {
    Set(&'static str),
    Delete,
    Insert,
}

/// What was done to which row.
struct Done {
    change: Change,
    rowid: i64,
    was: BTreeMap<String, String>,
    is: BTreeMap<String, String>,
    undo: String,
    reason: Option<&'static str>,
}

fn changes(db: &Path) -> Vec<Change> {
    let conn = dump::open(db);
    let mut changes = Vec::new();
    for (table, keys, kinds) in TABLES {
        let columns = crate::harness::backend::rows(
            &conn,
            &format!("SELECT name, type, \"notnull\" FROM pragma_table_info('{table}')"),
        );
        for which in kinds {
            let change = |column: &str, null, action| Change {
                table,
                keys,
                which,
                column: column.to_owned(),
                null,
                action,
            };
            for column in &columns {
                let (name, kind) = (shown(&column[0]), shown(&column[1]));
                if which.contains("'pending'") && !["stdout", "exit_code"].contains(&name.as_str()) {
                    continue;
                }
                if (table, name.as_str()) == ("inventory_history", "id") {
                    continue;
                }
                let values: &[&str] = match (kind.as_str(), name.as_str()) {
                    ("TIMESTAMP", _) => &["'2001-01-01T00:00:00+00:00'", "'2099-01-01T00:00:00+00:00'"],
                    (_, "change_kind") => &["CASE {} WHEN 'added' THEN 'changed' ELSE 'added' END"],
                    (_, "status") if table == "check_status" => {
                        &["CASE {} WHEN 'ok' THEN 'fail' ELSE 'ok' END"]
                    }
                    (_, "job_id") if keys.contains(&"job_id") => &["'elsewhere-' || {}"],
                    (_, "reaped" | "skipped") => &["1 - {}"],
                    ("INTEGER" | "REAL", _) => &["{} + 1", "{} - 1"],
                    (_, name) if keys.contains(&name) => &["{} || 'x'"],
                    _ => &["{} || 'x'", "''"],
                };
                for value in values {
                    changes.push(change(&name, false, Action::Set(value)));
                }
                if column[2] == Cell::Integer(0) && !keys.contains(&name.as_str()) {
                    changes.push(change(&name, false, Action::Set("NULL")));
                    let something = if kind == "TIMESTAMP" { values[1] } else { "'7'" };
                    changes.push(change(&name, true, Action::Set(something)));
                }
            }
            changes.push(change(keys[0], false, Action::Delete));
            let other = if table == "feeds" { keys[1] } else { keys[0] };
            changes.push(change(other, false, Action::Insert));
        }
    }
    changes
}

fn shown(cell: &Cell) -> String {
    match cell {
        Cell::Null => "NULL".to_owned(),
        Cell::Integer(number) => number.to_string(),
        Cell::Real(number) => format!("{number:?}"),
        Cell::Text(text) => text.clone(),
        Cell::Blob(_) => panic!("no column holds bytes"),
    }
}

fn key_of(conn: &rusqlite::Connection, change: &Change, rowid: i64) -> BTreeMap<String, String> {
    let sql = format!(
        "SELECT {} FROM {} WHERE rowid = {rowid}",
        change.keys.join(", "),
        change.table
    );
    let row = crate::harness::backend::rows(conn, &sql).remove(0);
    let keys = change.keys.iter().map(|key| (*key).to_owned());
    keys.zip(row.iter().map(shown)).collect()
}

impl Change {
    /// Does it to a row that nothing was done to. `None`: there is none left; `Some(None)`: there never is one.
    fn make(&self, conn: &rusqlite::Connection, used: &mut BTreeSet<String>) -> Option<Option<Done>> {
        let Self {
            table, which, column, ..
        } = self;
        let is = if self.null { "IS NULL" } else { "IS NOT NULL" };
        let value = match self.action {
            Action::Set(value) => value.replace("{}", &format!("\"{column}\"")),
            Action::Delete => "NULL".to_owned(),
            Action::Insert => format!("\"{column}\" || 'x'"),
        };
        // Rows of a list are told apart by their places: one of a pair at a time. Feeds and executions are few.
        let is_list = ["inventory_history", "inventory_software_apps", "inventory_disks"].contains(table);
        let group = match is_list {
            true => "pc_id || '/' || job_id",
            false => "rowid",
        };
        let whole = !["feed_meta", "executions"].contains(table) || self.keys.contains(&column.as_str());
        let found = crate::harness::backend::rows(
            conn,
            &format!(
                "SELECT rowid, {group} FROM {table} WHERE ({which}) AND \"{column}\" {is} AND ({value}) IS NOT \"{column}\""
            ),
        );
        if found.is_empty() {
            return Some(None);
        }
        let found = found.iter().find(|row| {
            let names = [0, 1].map(|at| format!("{table} {at} {}", shown(&row[at])));
            let cells = names.each_ref().map(|name| format!("{name} {column}"));
            let some = names.each_ref().map(|name| format!("{name} in part"));
            let taken = names.iter().any(|name| used.contains(name))
                || match whole {
                    true => some.iter().any(|name| used.contains(name)),
                    false => cells.iter().any(|name| used.contains(name)),
                };
            if !taken {
                match whole {
                    true => used.extend(names),
                    false => used.extend(cells.into_iter().chain(some)),
                }
            }
            !taken
        })?;
        let Cell::Integer(rowid) = found[0] else { panic!() };
        let was = key_of(conn, self, rowid);
        let has_deadline_without_manifest = column == "expires_at"
            && crate::harness::backend::rows(
                conn,
                &format!(
                    "SELECT 1 FROM {table} WHERE rowid = {rowid} AND version IS NOT NULL AND expires_at IS NULL"
                ),
            )
            .len()
                == 1;
        let columns = crate::harness::backend::rows(
            conn,
            &format!("SELECT name FROM pragma_table_info('{table}') WHERE name <> 'id'"),
        );
        let columns: Vec<String> = columns
            .iter()
            .map(|row| format!("\"{}\"", shown(&row[0])))
            .collect();
        let quoted: Vec<String> = columns.iter().map(|column| format!("quote({column})")).collect();
        let row = crate::harness::backend::rows(
            conn,
            &format!("SELECT {} FROM {table} WHERE rowid = {rowid}", quoted.join(", ")),
        )
        .remove(0);
        let mut undo = format!(
            "DELETE FROM {table} WHERE rowid = {rowid}; INSERT INTO {table} (rowid, {}) VALUES ({rowid}, {})",
            columns.join(", "),
            row.iter().map(shown).collect::<Vec<_>>().join(", ")
        );
        let mut rowid = rowid;
        match self.action {
            Action::Set(_) => {
                let sql = format!("UPDATE {table} SET \"{column}\" = {value} WHERE rowid = {rowid}");
                if !self.keys.contains(&column.as_str()) {
                    let at = columns
                        .iter()
                        .position(|name| *name == format!("\"{column}\""))
                        .unwrap();
                    let was = shown(&row[at]);
                    undo = format!("UPDATE {table} SET \"{column}\" = {was} WHERE rowid = {rowid}");
                }
                conn.execute(&sql, [])
                    .unwrap_or_else(|error| panic!("{sql}: {error}"));
            }
            Action::Delete => {
                conn.execute(&format!("DELETE FROM {table} WHERE rowid = {rowid}"), [])
                    .unwrap();
            }
            Action::Insert => {
                let values: Vec<String> = columns
                    .iter()
                    .map(|name| {
                        if *name == format!("\"{column}\"") {
                            value.clone()
                        } else {
                            name.clone()
                        }
                    })
                    .collect();
                conn.execute(
                    &format!(
                        "INSERT INTO {table} ({}) SELECT {} FROM {table} WHERE rowid = {rowid}",
                        columns.join(", "),
                        values.join(", ")
                    ),
                    [],
                )
                .unwrap();
                rowid = conn.last_insert_rowid();
                undo = format!("DELETE FROM {table} WHERE rowid = {rowid}");
            }
        }
        let is = match self.action {
            Action::Delete => BTreeMap::new(),
            _ => key_of(conn, self, rowid),
        };
        let reason = UNPROVABLE
            .into_iter()
            .find(|(at, name, _)| {
                (at, name) == (table, &column.as_str())
                    && (column != "expires_at" || has_deadline_without_manifest)
                    && (self.action != Action::Delete || *table == "executions")
            })
            .map(|(.., reason)| reason);
        if reason.is_some() && self.keys.contains(&column.as_str()) && *table != "executions" {
            let key = is.iter().map(|(column, value)| match value.as_str() {
                "NULL" => format!("{column} IS NULL"),
                value => format!("{column} = '{}'", value.replace('\'', "''")),
            });
            undo = format!(
                "DELETE FROM {table} WHERE {}",
                key.collect::<Vec<_>>().join(" AND ")
            );
        }
        Some(Some(Done {
            change: self.clone(),
            rowid,
            was,
            is,
            undo,
            reason,
        }))
    }
}

impl Done {
    fn names(&self, difference: &Difference) -> bool {
        difference.table == self.change.table && (difference.key == self.was || difference.key == self.is)
    }

    /// What verify must have said of it.
    fn check(&self, differences: &[Difference]) -> Result<(), String> {
        let named: Vec<&Difference> = differences.iter().filter(|found| self.names(found)).collect();
        let Change {
            table,
            column,
            keys,
            action,
            ..
        } = &self.change;
        let has = |key: &BTreeMap<String, String>, kind: &Kind| {
            named.iter().any(|found| found.key == *key && found.kind == *kind)
        };
        let names_row = keys.contains(&column.as_str())
            && !["field_path", "identity_json", "change_kind"].contains(&column.as_str());
        let missing = has(&self.was, &Kind::Missing);
        let unexpected = has(&self.is, &Kind::Unexpected);
        let good = match (action, self.reason) {
            (Action::Set(_), Some(_)) if names_row && *table != "executions" => missing && !unexpected,
            (Action::Insert, Some(_)) if *table != "executions" => !unexpected,
            (_, Some(_)) => !named.iter().any(
                |found| matches!(&found.kind, Kind::Column { name, .. } if name == column),
            ) && !missing && !unexpected,
            (Action::Delete, None) => missing,
            (Action::Insert, None) => unexpected,
            (Action::Set(_), None) if names_row => missing && unexpected,
            (Action::Set(_), None) => named.iter().any(|found| {
                matches!(&found.kind, Kind::Column { name, found, expected } if name == column && found != expected)
            }),
        };
        if good {
            return Ok(());
        }
        Err(format!(
            "{:?} of row {:?} ({}), unprovable: {:?}: {named:#?}",
            self.change, self.was, self.rowid, self.reason
        ))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_hand_changes_is_named_by_row_and_column_and_mended() {
    let server = NatsServer::start();
    let (js, url) = (server.fleet().await, server.url());
    put_manifests(&js).await.unwrap();
    let profile = Profile {
        pcs: 30,
        scans: 3,
        checks: 3,
        missing: 2,
        missing_scans: 0,
        overflow_permille: 60,
        overflow_bytes: (2_000, 3_000),
        ..Profile::everything(500)
    };
    let planned = plan(520, &profile);
    let (_folder, db) = place();
    with_executions(&db, &exec_ids(&planned));
    publish(&js, &with_runs_in_flight(planned, 5)).await.unwrap();
    catch_up(&db, &url);
    let good = dump(&db);

    let mut pending = changes(&db);
    let (mut made, mut never, mut wrong, mut rounds) = (0, Vec::new(), Vec::new(), 0);
    while !pending.is_empty() {
        rounds += 1;
        let mut used = BTreeSet::new();
        let (mut done, mut left) = (Vec::new(), Vec::new());
        {
            let conn = rusqlite::Connection::open(&db).unwrap();
            conn.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)
                .unwrap();
            conn.execute_batch("BEGIN").unwrap();
            for change in pending {
                match change.make(&conn, &mut used) {
                    None => left.push(change),
                    Some(None) => never.push(change),
                    Some(Some(change)) => done.push(change),
                }
            }
            conn.execute_batch("COMMIT").unwrap();
        }
        pending = left;
        if done.is_empty() {
            never.extend(std::mem::take(&mut pending));
            break;
        }
        let verified = verified_at(&db, &url, now()).await;
        assert!(!verified.is_good());
        for done in &done {
            wrong.extend(done.check(&verified.comparison.differences).err());
        }
        made += done.len();
        let mended = replayed(&db, &url, ReplayOptions::default()).await;
        for done in done.iter().filter(|done| done.reason.is_some()) {
            tamper(&db, &done.undo);
        }
        let again = dump(&db);
        if again != good {
            let only = |these: &[String], those: &[String]| -> Vec<String> {
                let those: BTreeSet<&String> = those.iter().collect();
                let only = these.iter().filter(|line| !those.contains(line)).take(8);
                only.map(|line| line.chars().take(700).collect()).collect()
            };
            wrong.push(format!(
                "not mended {:#?}: now {:#?} before {:#?}",
                mended.mended,
                only(&again, &good),
                only(&good, &again)
            ));
            break;
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {made}: {}",
        wrong.len(),
        wrong.join("\n")
    );
    assert!(
        made > 350 && rounds < 9,
        "{made} changes in {rounds} rounds, {} impossible",
        never.len()
    );
    assert_proved(&db, &url);
}
