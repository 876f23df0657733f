//! The rows of `execution_results`: what a result and a start event write, in either order (contract §5.3, §7.2, D7).

use rusqlite::{CachedStatement, Connection, OptionalExtension, ToSql, params};

use super::StoreError;
use crate::projection::execution::Delta;
use crate::projection::result::{Known, ResultRow};
use crate::projection::start::StartRow;

/// Asking and inserting in one step: only a row that is there already costs a second look.
const INSERT_RESULT: &str =
    "INSERT INTO execution_results (result_id, request_id, exec_id, pc_id, exit_code, stdout,
         stderr, started_at, finished_at, recorded_at, job_id, parent_result_id, skipped)
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)
     ON CONFLICT (result_id) DO NOTHING";

/// What a row says after a message, as far as ledgers and counters need it.
#[derive(Debug, Default)]
pub(super) struct Row {
    pub(super) exec_id: Option<String>,
    pub(super) job_id: Option<String>,
    pub(super) pc_id: String,
    pub(super) version: Option<String>,
}

/// Prepared once a group: looking it up for each row would cost as much as binding it.
pub(super) fn prepare_insert(conn: &Connection) -> Result<CachedStatement<'_>, rusqlite::Error> {
    conn.prepare_cached(INSERT_RESULT)
}

/// Inserts a result's row; false when there is one already.
pub(super) fn insert_result(
    insert: &mut CachedStatement<'_>,
    row: &ResultRow<'_>,
) -> Result<bool, rusqlite::Error> {
    let result = row.result;
    let inserted = insert.execute(params![
        row.result_id,
        &*result.request_id,
        result.exec_id.as_deref(),
        &*result.pc_id,
        result.exit_code,
        row.stdout,
        row.stderr,
        row.started_at,
        row.finished_at,
        row.recorded_at,
        result.manifest_id.as_deref(),
        result.parent_result_id.as_deref(),
        result.skipped_column(),
    ])?;
    Ok(inserted == 1)
}

/// A row that a result meets.
pub(super) struct Before {
    pub(super) known: Known,
    rowid: i64,
    /// Empty for a row that has ended.
    pub(super) row: Row,
    /// [`finish`] would leave the columns that a start event writes as they are, and the parent.
    pub(super) stays: bool,
}

/// What the database knows of a result.
pub(super) fn before(conn: &Connection, row: &ResultRow<'_>) -> Result<Option<Before>, StoreError> {
    let result = row.result;
    conn.prepare_cached(
        "SELECT exec_id, job_id, pc_id, version, finished_at IS NOT NULL, reaped,
             request_id = ?2 AND recorded_at <= ?3 AND (?4 IS NULL OR job_id IS ?4) AND parent_result_id IS ?5
                 AND (exec_id IS NOT NULL OR ?6 IS NULL), rowid
         FROM execution_results WHERE result_id = ?1",
    )
    .and_then(|mut select| {
        let values = params![
            row.result_id,
            &*result.request_id,
            row.recorded_at,
            result.manifest_id.as_deref(),
            result.parent_result_id.as_deref(),
            result.exec_id.as_deref(),
        ];
        select
            .query_row(values, |found| {
                let known = match (found.get(4)?, found.get(5)?) {
                    (_, true) => Known::Reaped,
                    (false, false) => Known::InFlight,
                    (true, false) => Known::Finished,
                };
                Ok(Before {
                    known,
                    rowid: found.get(7)?,
                    row: match known {
                        // Nothing is written, and what somebody has put there need not be text.
                        Known::Finished => Row::default(),
                        _ => read_row(found)?,
                    },
                    // NULL where a file of others has a NULL.
                    stays: found.get::<_, Option<bool>>(6)?.unwrap_or_default(),
                })
            })
            .optional()
    })
    .map_err(StoreError::sqlite("look up a result"))
}

/// As [`finish`], where what the start event told stays. A column of the result's own is written here too, or else
/// [`Before::stays`] asks whether it stays.
pub(super) fn finish_alone(
    conn: &Connection,
    before: &Before,
    row: &ResultRow<'_>,
) -> Result<(), rusqlite::Error> {
    conn.prepare_cached(
        "UPDATE execution_results SET exit_code = ?2, stdout = ?3, stderr = ?4, finished_at = ?5, skipped = ?6, reaped = 0
         WHERE rowid = ?1",
    )?
    .execute(params![
        before.rowid,
        row.result.exit_code,
        row.stdout,
        row.stderr,
        row.finished_at,
        row.result.skipped_column(),
    ])?;
    Ok(())
}

/// A result's own columns over those of its start event.
pub(super) fn finish(conn: &Connection, row: &ResultRow<'_>) -> Result<Row, rusqlite::Error> {
    write_over(
        conn,
        row,
        "UPDATE execution_results SET request_id = ?2, exit_code = ?3, stdout = ?4, stderr = ?5,
             finished_at = ?6, recorded_at = min(recorded_at, ?7), job_id = coalesce(?8, job_id),
             parent_result_id = ?9, skipped = ?10, exec_id = coalesce(exec_id, ?11), reaped = 0
         WHERE result_id = ?1
         RETURNING exec_id, job_id, pc_id, version",
    )
}

/// How a finished row counts for its execution.
pub(super) fn ended(conn: &Connection, result_id: &str) -> Result<(Option<String>, i32), rusqlite::Error> {
    conn.prepare_cached(
        "SELECT exec_id, coalesce(exit_code, -1) FROM execution_results WHERE result_id = ?1",
    )?
    .query_row([result_id], |row| Ok((row.get(0)?, row.get(1)?)))
}

/// A result's columns over those of a later message with its id, as if that had never been: what only a start event can
/// tell stays (contract §5.3, §7.2).
pub(super) fn take_over(conn: &Connection, row: &ResultRow<'_>) -> Result<Row, rusqlite::Error> {
    write_over(
        conn,
        row,
        "UPDATE execution_results SET request_id = ?2, exit_code = ?3, stdout = ?4, stderr = ?5, finished_at = ?6,
             parent_result_id = ?9, skipped = ?10, reaped = 0,
             recorded_at = CASE WHEN version IS NULL THEN ?7 ELSE min(recorded_at, ?7) END,
             job_id = CASE WHEN version IS NULL THEN ?8 ELSE coalesce(?8, job_id) END,
             exec_id = CASE WHEN version IS NULL THEN ?11 ELSE exec_id END,
             pc_id = CASE WHEN version IS NULL THEN ?12 ELSE pc_id END,
             started_at = CASE WHEN version IS NULL THEN ?13 ELSE started_at END
         WHERE result_id = ?1
         RETURNING exec_id, job_id, pc_id, version",
    )
}

/// Runs an update of a result's row: its parameters are the first of these values, as many as it names.
fn write_over(conn: &Connection, row: &ResultRow<'_>, update: &str) -> Result<Row, rusqlite::Error> {
    let result = row.result;
    let (exec_id, job_id, parent) = (
        result.exec_id.as_deref(),
        result.manifest_id.as_deref(),
        result.parent_result_id.as_deref(),
    );
    let (request_id, pc_id, skipped) = (&*result.request_id, &*result.pc_id, result.skipped_column());
    let values: [&dyn ToSql; 13] = [
        &row.result_id,
        &request_id,
        &result.exit_code,
        &row.stdout,
        &row.stderr,
        &row.finished_at,
        &row.recorded_at,
        &job_id,
        &parent,
        &skipped,
        &exec_id,
        &pc_id,
        &row.started_at,
    ];
    let mut update = conn.prepare_cached(update)?;
    let named = update.parameter_count();
    update.query_row(values.get(..named).unwrap_or(&values), read_row)
}

fn read_row(row: &rusqlite::Row<'_>) -> Result<Row, rusqlite::Error> {
    Ok(Row {
        exec_id: row.get(0)?,
        job_id: row.get(1)?,
        pc_id: row.get(2)?,
        version: row.get(3)?,
    })
}

/// What a start event found.
#[derive(Debug)]
pub(super) enum Started {
    /// No row: there is one now, in flight.
    InFlight,
    /// A row that only its result had written.
    Joined {
        /// The execution that the row named before.
        exec_before: Option<String>,
        /// What the row counts for; `None` while it has no end.
        ended: Option<i32>,
        /// The row's job and end, for the ledgers.
        job_id: Option<String>,
        finished_at: Option<String>,
    },
    /// A row that knows its start already: the first in the stream counts.
    Duplicate,
}

/// Writes a start event's part of a row.
pub(super) fn start(conn: &Connection, row: &StartRow<'_>) -> Result<Started, rusqlite::Error> {
    let event = row.event;
    let inserted = conn
        .prepare_cached(
            "INSERT INTO execution_results (result_id, request_id, exec_id, pc_id, started_at, recorded_at, job_id,
                 version, expires_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
             ON CONFLICT (result_id) DO NOTHING",
        )?
        .execute(params![
            &*event.result_id,
            &*event.request_id,
            &*event.exec_id,
            &*event.pc_id,
            row.started_at,
            row.recorded_at,
            &*event.manifest_id,
            &*event.version,
            row.expires_at,
        ])?;
    if inserted == 1 {
        return Ok(Started::InFlight);
    }
    // Only a start event tells the version: a row without one has met none.
    let before = conn
        .prepare_cached("SELECT exec_id FROM execution_results WHERE result_id = ?1 AND version IS NULL")?
        .query_row([&*event.result_id], |row| row.get::<_, Option<String>>(0))
        .optional()?;
    let Some(exec_before) = before else {
        return Ok(Started::Duplicate);
    };
    conn.prepare_cached(
        "UPDATE execution_results SET exec_id = ?2, pc_id = ?3, started_at = ?4,
             recorded_at = min(recorded_at, ?5), job_id = coalesce(job_id, ?6), version = ?7, expires_at = ?8
         WHERE result_id = ?1
         RETURNING exit_code, job_id, finished_at",
    )?
    .query_row(
        params![
            &*event.result_id,
            &*event.exec_id,
            &*event.pc_id,
            row.started_at,
            row.recorded_at,
            &*event.manifest_id,
            &*event.version,
            row.expires_at,
        ],
        |row| {
            let finished_at: Option<String> = row.get(2)?;
            let exit_code: Option<i32> = row.get(0)?;
            Ok(Started::Joined {
                exec_before,
                ended: finished_at.is_some().then(|| exit_code.unwrap_or(-1)),
                job_id: row.get(1)?,
                finished_at,
            })
        },
    )
}

/// Of copies of the start event that a row knows, the earliest says when it was recorded and by when it must end.
pub(super) fn earlier_copy(conn: &Connection, row: &StartRow<'_>) -> Result<(), rusqlite::Error> {
    conn.prepare_cached(
        "UPDATE execution_results SET recorded_at = min(recorded_at, ?2),
             expires_at = coalesce(min(expires_at, ?5), expires_at)
         WHERE result_id = ?1 AND version IS NOT NULL AND exec_id = ?3 AND started_at = ?4",
    )?
    .execute(params![
        &*row.event.result_id,
        row.recorded_at,
        &*row.event.exec_id,
        row.started_at,
        row.expires_at,
    ])?;
    Ok(())
}

/// Gives a row of the backend's projector the deadline that this did not know when the start event came: its cache was
/// cold (contract §5.4, D17). Of two start events the first counts: it is the one that the row was recorded with.
pub(super) fn fill_deadline(conn: &Connection, row: &StartRow<'_>) -> Result<(), rusqlite::Error> {
    let Some(expires_at) = &row.expires_at else {
        return Ok(());
    };
    conn.prepare_cached(
        "UPDATE execution_results SET expires_at = ?2
         WHERE result_id = ?1 AND expires_at IS NULL AND recorded_at = ?3",
    )?
    .execute(params![&*row.event.result_id, expires_at, row.recorded_at])?;
    Ok(())
}

/// How the counters move when a start event names another execution than a row that has ended: off the old one, onto
/// the new one (contract §7.3).
pub(super) fn moves<'a>(
    exec_before: Option<&'a str>,
    exec_id: &'a str,
    exit_code: i32,
) -> impl Iterator<Item = (&'a str, Delta)> {
    let ended = Delta::ended(exit_code);
    let changed = exec_before != Some(exec_id);
    let off = exec_before.map(|before| (before, ended.undone()));
    off.into_iter()
        .chain(Some((exec_id, ended)))
        .filter(move |_| changed)
}

#[cfg(test)]
pub(super) mod tests {
    use bytestring::ByteString;
    use rusqlite::types::Value;

    use super::*;
    use crate::projection::result::{ResultMessage, row};
    use crate::projection::start;
    use crate::store::{columns, migrate};
    use crate::wire::result::ExecResult;
    use crate::wire::result::tests::whole;
    use crate::wire::started::EventStarted;
    use crate::wire::time::Timestamp;

    /// What only a start event tells.
    pub(in super::super) const OF_THE_START: [&str; 2] = ["version", "expires_at"];

    pub(in super::super) fn published() -> Timestamp {
        Timestamp::parse_wire("2026-06-01T00:00:06Z").unwrap()
    }

    pub(in super::super) fn message(result: ExecResult<ByteString>) -> ResultMessage {
        ResultMessage {
            result,
            stdout: None,
            stderr: None,
        }
    }

    pub(in super::super) fn insert(conn: &Connection, message: &ResultMessage) {
        let mut insert = prepare_insert(conn).unwrap();
        assert!(insert_result(&mut insert, &row(message, published())).unwrap());
    }

    /// The only row of `execution_results`, column by column, but for what only a start event tells.
    pub(in super::super) fn stored(conn: &Connection, schema: &str) -> Vec<(&'static str, Value)> {
        let sql = format!(
            "SELECT {} FROM {schema}.execution_results",
            columns::RESULT.join(", ")
        );
        let cells = conn.query_row(&sql, [], |row| {
            let cells = columns::RESULT.iter().enumerate();
            cells
                .map(|(index, column)| Ok((*column, row.get(index)?)))
                .collect()
        });
        let mut cells: Vec<(&str, Value)> = cells.unwrap();
        cells.retain(|(column, _)| !OF_THE_START.contains(column));
        cells
    }

    /// The start of the same run, as its agent would have sent it.
    pub(in super::super) fn start_of(conn: &Connection, result: &ExecResult<ByteString>) {
        let event = EventStarted {
            result_id: result.result_id.clone(),
            request_id: result.request_id.clone(),
            exec_id: result.exec_id.clone().unwrap(),
            pc_id: result.pc_id.clone(),
            manifest_id: result.manifest_id.clone().unwrap(),
            version: "1.0".into(),
            started_at: result.started_at,
        };
        let started = start(conn, &start::row(&event, published(), Some("30s"))).unwrap();
        assert!(matches!(started, Started::InFlight));
    }

    fn database() -> Connection {
        let mut conn = Connection::open_in_memory().unwrap();
        migrate::run(&mut conn, true).unwrap();
        conn
    }

    /// The row that its message alone makes.
    fn inserted(message: &ResultMessage) -> Vec<(&'static str, Value)> {
        let conn = database();
        insert(&conn, message);
        stored(&conn, "main")
    }

    #[test]
    fn a_result_with_every_field_leaves_no_cell_of_its_row_empty() {
        for (column, cell) in inserted(&message(whole())) {
            let says_nothing = cell == Value::Null || cell == Value::Text(String::new());
            assert!(
                !says_nothing && (column == "reaped" || cell != Value::Integer(0)),
                "{column}"
            );
        }
    }

    #[test]
    fn each_way_to_write_a_result_writes_all_of_it() {
        let all = message(whole());
        let conn = database();
        start_of(&conn, &all.result);
        let before = before(&conn, &row(&all, published())).unwrap().unwrap();
        assert!(!before.stays, "the start event tells no parent");
        finish(&conn, &row(&all, published())).unwrap();
        assert_eq!(stored(&conn, "main"), inserted(&all), "finish");

        let no_hook = message(ExecResult {
            parent_result_id: None,
            ..whole()
        });
        let conn = database();
        start_of(&conn, &no_hook.result);
        let before = super::before(&conn, &row(&no_hook, published()))
            .unwrap()
            .unwrap();
        assert!(before.stays, "but for the result's own part");
        finish_alone(&conn, &before, &row(&no_hook, published())).unwrap();
        assert_eq!(stored(&conn, "main"), inserted(&no_hook), "finish_alone");

        let least =
            br#"{"result_id":"r1","request_id":"q","pc_id":"PC","exit_code":0,"stdout":"","stderr":"",
            "started_at":"2026-06-01T00:00:00Z","finished_at":"2026-06-01T00:00:00Z"}"#;
        let later = crate::wire::result::decode_shared(&least.as_slice().into()).unwrap();
        let conn = database();
        insert(&conn, &message(later));
        take_over(&conn, &row(&all, published())).unwrap();
        assert_eq!(stored(&conn, "main"), inserted(&all), "take_over");
    }
}
