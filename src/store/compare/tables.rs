//! What is compared: the contract's tables by their names, and the exploded tables of either file, whatever their shape.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::Connection;

use super::super::StoreError;
use super::super::columns::RESULT;
use super::super::table::{MAIN, OLD, Table};
use super::lists::List;

/// A table of the contract (§6.4).
#[derive(Debug)]
pub(super) struct Fixed {
    pub(super) name: &'static str,
    /// Of a list: what names a row to people, the pair first.
    pub(super) key: &'static [&'static str],
    pub(super) columns: &'static [&'static str],
    /// The time by which the backend's cleanup deletes rows (§6.1).
    pub(super) cleaned_by: Option<&'static str>,
    /// Its rows have no key of their own but their place among those of their pair.
    pub(super) list: bool,
    /// Rows are somebody else's to make and delete; ours are cells of them.
    pub(super) others_rows: bool,
    /// A backend may not have it yet.
    pub(super) may_be_absent: bool,
    /// Triggers on the results write it too.
    pub(super) by_triggers: bool,
}

const fn keyed(name: &'static str, key: &'static [&'static str], columns: &'static [&'static str]) -> Fixed {
    Fixed {
        name,
        key,
        columns,
        cleaned_by: None,
        list: false,
        others_rows: false,
        may_be_absent: false,
        by_triggers: false,
    }
}

pub(super) const RESULTS: &str = "execution_results";
pub(super) const FACTS: &str = "inventory_facts";
pub(super) const FEEDS: &str = "feeds";

/// In the order in which they are mended: the ledgers after the results, whose triggers write them.
pub(super) static FIXED: [Fixed; 9] = [
    Fixed {
        cleaned_by: Some("recorded_at"),
        ..keyed(RESULTS, RESULT.split_at(1).0, RESULT.split_at(1).1)
    },
    Fixed {
        cleaned_by: Some("initiated_at"),
        others_rows: true,
        ..keyed(
            "executions",
            &["exec_id"],
            &[
                "job_id",
                "version",
                "initiated_by",
                "initiated_at",
                "target_count",
                "success_count",
                "failure_count",
                "status",
            ],
        )
    },
    keyed(
        FACTS,
        &["pc_id", "job_id"],
        &[
            "facts_json",
            "display_json",
            "summary_json",
            "collected_at",
            "recorded_at",
        ],
    ),
    Fixed {
        cleaned_by: Some("observed_at"),
        list: true,
        ..keyed(
            "inventory_history",
            &[
                "pc_id",
                "job_id",
                "observed_at",
                "field_path",
                "identity_json",
                "change_kind",
            ],
            &["before_json", "after_json"],
        )
    },
    keyed(
        "check_status",
        &["pc_id", "check_name"],
        &["status", "detail", "recorded_at", "label"],
    ),
    keyed(
        FEEDS,
        &["feed_id", "item_id"],
        &["data", "fetched_at", "recorded_at"],
    ),
    keyed(
        "feed_meta",
        &["feed_id"],
        &["recorded_at", "fetched_at", "item_count"],
    ),
    Fixed {
        may_be_absent: true,
        by_triggers: true,
        ..keyed("job_completions", &["job_id", "pc_id"], &["last_success_at"])
    },
    Fixed {
        may_be_absent: true,
        by_triggers: true,
        ..keyed(
            "job_version_completions",
            &["job_id", "version", "pc_id"],
            &["last_success_at"],
        )
    },
];

/// Whether a table can be compared.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// It cannot, and need not: why.
    LeftOut(String),
    /// It can, as far as it is there.
    Both {
        /// What is not as it should be.
        drift: Vec<String>,
        /// Why that is no difference yet; then `drift` is empty.
        excuse: Option<String>,
    },
}

/// An exploded table of either file.
#[derive(Debug)]
pub(super) struct Exploded {
    pub(super) name: String,
    pub(super) main: Option<Table>,
    pub(super) old: Option<Table>,
    pub(super) place: Place,
    /// `None` where the rows cannot be compared.
    pub(super) list: Option<List>,
}

/// One table to compare.
#[derive(Debug)]
pub(super) enum Task {
    Fixed(&'static Fixed, Place),
    Exploded(Box<Exploded>),
}

/// All tables of both files, in the order in which they are mended.
pub(super) fn tasks(conn: &Connection) -> Result<Vec<Task>, StoreError> {
    let mut tasks = Vec::new();
    for fixed in &FIXED {
        tasks.push(Task::Fixed(fixed, place(conn, fixed)?));
    }
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    for schema in [OLD, MAIN] {
        for table in Table::exploded(conn, schema)? {
            names.insert(table.name.to_ascii_lowercase(), table.name);
        }
    }
    for name in names.into_values() {
        tasks.push(Task::Exploded(Box::new(look(conn, name)?)));
    }
    Ok(tasks)
}

fn place(conn: &Connection, fixed: &Fixed) -> Result<Place, StoreError> {
    let drift = match Table::find(conn, OLD, fixed.name)? {
        None if fixed.may_be_absent => {
            return Ok(Place::LeftOut(format!(
                "the database has no table {}",
                fixed.name
            )));
        }
        None => vec![format!("no table {}", fixed.name)],
        Some(table) => fixed
            .key
            .iter()
            .chain(fixed.columns)
            .filter(|column| table.column(column).is_none())
            .map(|column| format!("no column {column}"))
            .collect(),
    };
    Ok(Place::Both { drift, excuse: None })
}

fn look(conn: &Connection, name: String) -> Result<Exploded, StoreError> {
    let main = Table::find(conn, MAIN, &name)?;
    let old = Table::find(conn, OLD, &name)?;
    let is_somebodys = |table: &Option<Table>| table.as_ref().is_some_and(|table| table.rowid.is_none());
    if is_somebodys(&main) || is_somebodys(&old) {
        return Ok(Exploded {
            name,
            main,
            old,
            place: Place::LeftOut("somebody else's: not a table with row ids".to_owned()),
            list: None,
        });
    }
    let empty = |table: &Option<Table>| table.as_ref().map_or(Ok(true), |table| table.is_empty(conn));
    let (mut drift, mut excuse) = (Vec::new(), None);
    if !(empty(&main)? && empty(&old)?) {
        match (&main, &old) {
            (Some(main), Some(old)) => {
                drift = differences(main, old);
                if !drift.is_empty() && !is_due(conn, main, old)? {
                    excuse = Some(format!("under older hints: {}", drift.join("; ")));
                    drift.clear();
                }
            }
            (Some(_), None) => drift.push("no such table".to_owned()),
            (None, _) => {}
        }
    }
    let list = List::exploded(main.as_ref(), old.as_ref());
    Ok(Exploded {
        name,
        main,
        old,
        place: Place::Both { drift, excuse },
        list,
    })
}

/// Columns with types, the key as a set; whatever the order and the letter case (contract §7.5.3).
fn differences(main: &Table, old: &Table) -> Vec<String> {
    let mut drift = Vec::new();
    for column in &main.columns {
        match old.column(&column.name) {
            None => drift.push(format!("no column {:?}", column.name)),
            Some(found) if !found.kind.eq_ignore_ascii_case(&column.kind) => drift.push(format!(
                "column {:?} is {}, should be {}",
                column.name, found.kind, column.kind
            )),
            Some(_) => {}
        }
    }
    for column in old
        .columns
        .iter()
        .filter(|column| main.column(&column.name).is_none())
    {
        drift.push(format!("column {:?} should not be", column.name));
    }
    let set = |table: &Table| table.key().into_iter().collect::<BTreeSet<_>>();
    if set(main) != set(old) {
        drift.push(format!(
            "the key is ({}), should be ({})",
            old.key().join(", "),
            main.key().join(", ")
        ));
    }
    drift
}

/// Whether the database has derived one of the table's pairs under the hints that gave the scratch's shape: then its own
/// should be the same. A table takes its new shape with the first result under new hints.
fn is_due(conn: &Connection, main: &Table, old: &Table) -> Result<bool, StoreError> {
    const BOOK: &str = "projector_derivations";
    if Table::find(conn, OLD, BOOK)?.is_none() || Table::find(conn, MAIN, BOOK)?.is_none() {
        return Ok(true);
    }
    conn.query_row(
        &format!(
            "SELECT EXISTS (
                 SELECT 1 FROM (SELECT pc_id, job_id FROM {} UNION SELECT pc_id, job_id FROM {}) AS pair
                 JOIN old.{BOOK} AS was ON was.job_id = pair.job_id AND was.pc_id = pair.pc_id
                 JOIN main.{BOOK} AS now ON now.job_id = pair.job_id AND now.pc_id = pair.pc_id
                 WHERE was.hints_hash = now.hints_hash)",
            old.sql(),
            main.sql()
        ),
        [],
        |row| row.get(0),
    )
    .map_err(StoreError::sqlite(format_args!(
        "compare the shape of {:?}",
        main.name
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::migrate;

    #[test]
    fn every_table_of_the_read_model_is_compared_in_every_column() {
        let mut conn = Connection::open_in_memory().unwrap();
        migrate::run(&mut conn, true).unwrap();
        let tables: Vec<String> = conn
            .prepare(
                "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'projector\\_%' ESCAPE '\\'
                     AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'",
            )
            .unwrap()
            .query_map([], |row| row.get(0))
            .unwrap()
            .map(Result::unwrap)
            .collect();
        for name in tables {
            let fixed = FIXED.iter().find(|fixed| fixed.name == name);
            let fixed = fixed.unwrap_or_else(|| panic!("{name} is not compared"));
            let compared: BTreeSet<&str> = fixed.key.iter().chain(fixed.columns).copied().collect();
            let table = Table::find(&conn, MAIN, &name).unwrap().unwrap();
            let there: BTreeSet<&str> = table
                .columns
                .iter()
                .map(|column| column.name.as_str())
                // Of a list the place counts, not the number.
                .filter(|column| !(fixed.list && *column == "id"))
                .collect();
            assert_eq!(compared, there, "{name}");
        }
    }
}
