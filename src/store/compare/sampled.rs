//! Single results, each against its message: the quick look. What other messages tell of the row is not looked at.

use std::collections::BTreeMap;

use rusqlite::types::{Value, ValueRef};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::super::StoreError;
use super::super::retention::Horizons;
use super::cells::shown_pair;
use super::tables::RESULTS;
use super::{Difference, Kind};
use crate::projection::result::{ResultMessage, ResultRow, row};
use crate::wire::output::{Attempt, State};
use crate::wire::result::Field;
use crate::wire::time::Timestamp;

/// A line of `projector_results`: a message that made a row.
#[derive(Clone, Debug)]
pub struct Line {
    /// Its number in the stream.
    pub seq: u64,
    /// When it was published.
    pub published: Timestamp,
    /// Whose row it made.
    pub result_id: String,
}

/// What became of a row.
#[derive(Debug)]
pub enum Checked {
    /// It says what the message says.
    Same,
    /// It is not there.
    Missing(Difference),
    /// It is not there, and old enough that the backend's cleanup has deleted it.
    CleanedUp,
    /// Cells differ.
    Different(Vec<Difference>),
}

/// Chooses some lines of the present life of RESULTS at random.
///
/// # Errors
/// SQLite's.
pub fn choose(conn: &Connection, results: usize) -> Result<Vec<Line>, StoreError> {
    conn.prepare(
        "SELECT stream_seq, published_ns, result_id FROM projector_results
         WHERE counts AND incarnation =
             (SELECT max(incarnation) FROM projector_position WHERE stream = 'RESULTS')
         ORDER BY random() LIMIT ?1",
    )
    .and_then(|mut select| {
        select
            .query_map([i64::try_from(results).unwrap_or(i64::MAX)], |row| {
                Ok(Line {
                    seq: row.get(0)?,
                    published: Timestamp::from_unix_nanos(row.get(1)?),
                    result_id: row.get(2)?,
                })
            })?
            .collect()
    })
    .map_err(StoreError::sqlite("choose results at random"))
}

/// Compares a row with the message that made it. `horizons`: rows from before them may have been
/// deleted for their age.
///
/// # Errors
/// SQLite's.
pub fn check(
    conn: &Connection,
    line: &Line,
    message: &ResultMessage,
    horizons: &Horizons,
) -> Result<Checked, StoreError> {
    let expected = row(message, line.published);
    let read = || -> Result<Option<Vec<Difference>>, rusqlite::Error> {
        let fetched = |field: Field| -> Result<bool, rusqlite::Error> {
            let state: Option<String> = conn
                .prepare_cached("SELECT state FROM projector_outputs WHERE result_id = ?1 AND field = ?2")?
                .query_row(params![line.result_id, field.as_str()], |row| row.get(0))
                .optional()?;
            Ok(state.is_none_or(|state| state == State::Fetched.as_str()))
        };
        // An output that one of the two does not have proves nothing.
        let provable = |field: Field| -> Result<bool, rusqlite::Error> {
            Ok(match message.output(field).map(|output| &output.attempt) {
                None => true,
                Some(Attempt::Fetched { .. }) => fetched(field)?,
                Some(_) => false,
            })
        };
        let outputs = (provable(Field::Stdout)?, provable(Field::Stderr)?);
        conn.prepare_cached(
            "SELECT request_id, exit_code, finished_at, parent_result_id, skipped, reaped, stdout, stderr, version, exec_id,
                 pc_id, started_at, recorded_at, job_id FROM execution_results WHERE result_id = ?1",
        )?
        .query_row([&line.result_id], |found| differences(found, line, &expected, outputs))
        .optional()
    };
    let found = read().map_err(StoreError::sqlite(format_args!(
        "compare result {:?} with its message",
        line.result_id
    )))?;
    Ok(match found {
        None if horizons
            .of(RESULTS)
            .is_some_and(|before| line.published.stored().as_str() < before) =>
        {
            Checked::CleanedUp
        }
        None => Checked::Missing(Difference {
            table: RESULTS.to_owned(),
            key: key(line),
            kind: Kind::Missing,
        }),
        Some(differences) if differences.is_empty() => Checked::Same,
        Some(differences) => Checked::Different(differences),
    })
}

fn key(line: &Line) -> BTreeMap<String, String> {
    BTreeMap::from([("result_id".to_owned(), line.result_id.clone())])
}

fn differences(
    found: &Row<'_>,
    line: &Line,
    expected: &ResultRow<'_>,
    (stdout, stderr): (bool, bool),
) -> Result<Vec<Difference>, rusqlite::Error> {
    let result = expected.result;
    let text = |text: &'_ str| -> Value { Value::Text(text.to_owned()) };
    let option = |text: Option<&str>| text.map_or(Value::Null, |text| Value::Text(text.to_owned()));
    let number = |number: i64| Value::Integer(number);
    let mut cells = vec![
        (0, "request_id", text(&result.request_id)),
        (1, "exit_code", number(result.exit_code.into())),
        (2, "finished_at", text(&expected.finished_at)),
        (3, "parent_result_id", option(result.parent_result_id.as_deref())),
        (4, "skipped", number(result.skipped_column().into())),
        (5, "reaped", number(0)),
    ];
    cells.extend(stdout.then(|| (6, "stdout", text(&expected.stdout))));
    cells.extend(stderr.then(|| (7, "stderr", text(&expected.stderr))));
    // With a version the row has met its start event, whose columns these are then.
    if found.get_ref(8)? == ValueRef::Null {
        cells.extend([
            (9, "exec_id", option(result.exec_id.as_deref())),
            (10, "pc_id", text(&result.pc_id)),
            (11, "started_at", text(&expected.started_at)),
            (12, "recorded_at", text(&expected.recorded_at)),
        ]);
    }
    if result.manifest_id.is_some() {
        cells.push((13, "job_id", option(result.manifest_id.as_deref())));
    }
    let mut differences = Vec::new();
    for (index, name, expected) in &cells {
        let (found, expected) = (found.get_ref(*index)?, ValueRef::from(expected));
        if found != expected {
            let (found, expected) = shown_pair(found, expected);
            differences.push(Difference {
                table: RESULTS.to_owned(),
                key: key(line),
                kind: Kind::Column {
                    name: (*name).to_owned(),
                    found,
                    expected,
                },
            });
        }
    }
    Ok(differences)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::rows::tests::{OF_THE_START, insert, published, stored};
    use crate::store::{migrate, rows};
    use crate::wire::result::decode_shared;
    use crate::wire::result::tests::whole;

    #[test]
    fn every_cell_that_a_message_tells_is_looked_at() {
        let mut conn = Connection::open_in_memory().unwrap();
        migrate::run(&mut conn, true).unwrap();
        let message = rows::tests::message(whole());
        insert(&conn, &message);
        let line = Line {
            seq: 1,
            published: published(),
            result_id: "r1".to_owned(),
        };
        let checked = || check(&conn, &line, &message, &Horizons::default()).unwrap();
        assert!(matches!(checked(), Checked::Same));
        for (column, cell) in stored(&conn, "main") {
            if column == "result_id" {
                continue;
            }
            assert!(!OF_THE_START.contains(&column));
            let set = |value: &Value| {
                let sql = format!("UPDATE execution_results SET {column} = ?1");
                conn.execute(&sql, [value]).unwrap();
            };
            set(&Value::Integer(7));
            assert!(
                matches!(checked(), Checked::Different(found) if found.len() == 1),
                "{column} is not looked at"
            );
            set(&cell);
        }
    }

    #[test]
    fn a_row_that_is_missing_counts_as_cleaned_up_when_it_is_old_enough() {
        let conn = migrate::in_memory(true).unwrap();
        let payload = serde_json::json!({
            "result_id": "r1", "request_id": "q1", "pc_id": "PC-1", "exit_code": 0, "stdout": "out", "stderr": "",
            "started_at": "2026-06-01T00:00:00Z", "finished_at": "2026-06-01T00:00:05Z",
        });
        let message = ResultMessage {
            result: decode_shared(&payload.to_string().into_bytes().into()).unwrap(),
            stdout: None,
            stderr: None,
        };
        let line = Line {
            seq: 1,
            published: Timestamp::parse_wire("2026-06-01T00:00:06Z").unwrap(),
            result_id: "r1".to_owned(),
        };
        let before = |time: &str| check(&conn, &line, &message, &Horizons::before(time.to_owned())).unwrap();
        assert!(matches!(before("2026-06-02T00:00:00+00:00"), Checked::CleanedUp));
        assert!(matches!(before("2026-06-01T00:00:00+00:00"), Checked::Missing(_)));
        assert!(matches!(
            check(&conn, &line, &message, &Horizons::default()).unwrap(),
            Checked::Missing(_)
        ));
    }
}
