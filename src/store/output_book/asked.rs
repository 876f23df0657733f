//! What the book is asked: what is owed, what is missing, and why.

use chrono::TimeDelta;
use rusqlite::{Connection, OptionalExtension, params};
use serde::Serialize;

use super::super::StoreError;
use super::{GONE_RETRY_S, PENDING_BACKOFF_MAX_S};
use crate::wire::output::State;
use crate::wire::result::Field;
use crate::wire::time::Timestamp;

/// An output that may be asked for again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owed {
    /// The row.
    pub result_id: String,
    /// Which of its outputs.
    pub field: Field,
    /// The pointer.
    pub object: String,
    /// Publish time of its message.
    pub published: Timestamp,
    /// When it was first found missing (wall clock).
    pub since: Option<Timestamp>,
}

/// One line of `outputs list`.
#[derive(Clone, Debug, Serialize)]
pub struct Listed {
    /// The row.
    pub result_id: String,
    /// `stdout` or `stderr`.
    pub field: String,
    /// The pointer.
    pub object: String,
    /// See [`State`].
    pub state: String,
    /// Why it is not there.
    pub reason: Option<String>,
    /// How often it was asked for since it has this state.
    pub attempts: u64,
    /// Publish time of its message.
    pub published_at: String,
    /// Size in bytes, where known.
    pub size_bytes: Option<u64>,
    /// Wall clock: since when it is missing.
    pub since_wall: Option<String>,
    /// Wall clock: the next attempt.
    pub next_try_wall: Option<String>,
}

const OWED_COLUMNS: &str = "result_id, field, object, published_at, since_wall";

fn owed(row: &rusqlite::Row<'_>) -> Result<Owed, rusqlite::Error> {
    let (field, published, since): (String, String, Option<String>) = (row.get(1)?, row.get(3)?, row.get(4)?);
    Ok(Owed {
        result_id: row.get(0)?,
        field: Field::parse(&field).unwrap_or(Field::Stdout),
        object: row.get(2)?,
        // A time that was changed by hand reads as long past: it makes a missing object certain, no more.
        published: Timestamp::parse_stored(&published).unwrap_or(Timestamp::from_unix_nanos(0)),
        since: since.and_then(|since| Timestamp::parse_stored(&since).ok()),
    })
}

/// Outputs whose next attempt is due at `now` (wall clock), the longest waiting first; with them those that are to wait
/// longer than any attempt ever waits: they were entered when the clock was ahead.
pub(in super::super) fn due(
    conn: &Connection,
    now: Timestamp,
    limit: usize,
) -> Result<Vec<Owed>, StoreError> {
    let [_, longest] = GONE_RETRY_S;
    let [pending_at_most, at_most] = [PENDING_BACKOFF_MAX_S, longest]
        .map(|seconds| now.checked_add(TimeDelta::seconds(seconds)).map(|at| at.stored()));
    conn.prepare_cached(&format!(
        "SELECT {OWED_COLUMNS} FROM projector_outputs
         WHERE next_try_wall <= ?1 OR next_try_wall > ?3 AND state = 'pending' OR next_try_wall > ?4
         ORDER BY next_try_wall LIMIT ?2"
    ))
    .and_then(|mut statement| {
        statement
            .query_map(params![now.stored(), limit, pending_at_most, at_most], owed)?
            .collect()
    })
    .map_err(StoreError::sqlite("read the due outputs from projector_outputs"))
}

/// Pending outputs in key order after `key`.
pub(in super::super) fn pending_after(
    conn: &Connection,
    key: Option<&(String, Field)>,
    limit: usize,
) -> Result<Vec<Owed>, StoreError> {
    let (result_id, field) = key.map_or(("", ""), |(result_id, field)| {
        (result_id.as_str(), field.as_str())
    });
    conn.prepare_cached(&format!(
        "SELECT {OWED_COLUMNS} FROM projector_outputs WHERE (result_id, field) > (?1, ?2) AND state = 'pending'
         ORDER BY result_id, field LIMIT ?3"
    ))
    .and_then(|mut statement| statement.query_map(params![result_id, field, limit], owed)?.collect())
    .map_err(StoreError::sqlite("read the pending outputs from projector_outputs"))
}

/// The outputs with these keys that may be asked for again, in their order.
///
/// # Errors
/// SQLite's.
pub fn owed_of(conn: &Connection, keys: &[(String, Field)]) -> Result<Vec<Owed>, StoreError> {
    let read = || -> Result<Vec<Owed>, rusqlite::Error> {
        let mut select = conn.prepare(&format!(
            "SELECT {OWED_COLUMNS} FROM projector_outputs
             WHERE result_id = ?1 AND field = ?2 AND state NOT IN ('fetched', 'refused')"
        ))?;
        let mut found = Vec::new();
        for (result_id, field) in keys {
            found.extend(
                select
                    .query_row(params![result_id, field.as_str()], owed)
                    .optional()?,
            );
        }
        Ok(found)
    };
    read().map_err(StoreError::sqlite("read outputs from projector_outputs"))
}

/// The state of an output, and why it is not there; `None` when it is not in the book.
///
/// # Errors
/// SQLite's.
pub fn state_of(
    conn: &Connection,
    result_id: &str,
    field: Field,
) -> Result<Option<(String, Option<String>)>, StoreError> {
    conn.prepare_cached("SELECT state, reason FROM projector_outputs WHERE result_id = ?1 AND field = ?2")
        .and_then(|mut select| {
            select
                .query_row(params![result_id, field.as_str()], |row| {
                    Ok((row.get(0)?, row.get(1)?))
                })
                .optional()
        })
        .map_err(StoreError::sqlite("read an output from projector_outputs"))
}

/// The keys of outputs that may be asked for again: of one result or all, of one state or all.
///
/// # Errors
/// SQLite's.
pub fn keys(
    conn: &Connection,
    result_id: Option<&str>,
    field: Option<Field>,
    state: Option<State>,
) -> Result<Vec<(String, Field)>, StoreError> {
    let read = || -> Result<Vec<(String, String)>, rusqlite::Error> {
        conn.prepare(
            "SELECT result_id, field FROM projector_outputs
             WHERE state <> 'fetched' AND state <> 'refused' AND (?1 IS NULL OR result_id = ?1)
                 AND (?2 IS NULL OR field = ?2) AND (?3 IS NULL OR state = ?3)
             ORDER BY published_at, result_id, field",
        )?
        .query_map(
            params![result_id, field.map(Field::as_str), state.map(State::as_str)],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?
        .collect()
    };
    let read = read().map_err(StoreError::sqlite("read the keys of projector_outputs"))?;
    Ok(read
        .into_iter()
        .filter_map(|(result_id, field)| Some((result_id, Field::parse(&field)?)))
        .collect())
}

/// Lists outputs that are not fetched, or those in one state, oldest message first.
///
/// # Errors
/// SQLite's.
pub fn list(conn: &Connection, state: Option<State>, limit: Option<u64>) -> Result<Vec<Listed>, StoreError> {
    let read = || -> Result<Vec<Listed>, rusqlite::Error> {
        let mut statement = conn.prepare(
            "SELECT result_id, field, object, state, reason, attempts, published_at, size_bytes, since_wall,
                 next_try_wall FROM projector_outputs
             WHERE CASE WHEN ?1 IS NULL THEN state <> 'fetched' ELSE state = ?1 END
             ORDER BY published_at, result_id, field LIMIT ?2",
        )?;
        let limit = limit.map_or(-1, |limit| i64::try_from(limit).unwrap_or(i64::MAX));
        statement
            .query_map(params![state.map(State::as_str), limit], |row| {
                Ok(Listed {
                    result_id: row.get(0)?,
                    field: row.get(1)?,
                    object: row.get(2)?,
                    state: row.get(3)?,
                    reason: row.get(4)?,
                    attempts: row.get(5)?,
                    published_at: row.get(6)?,
                    size_bytes: row.get(7)?,
                    since_wall: row.get(8)?,
                    next_try_wall: row.get(9)?,
                })
            })?
            .collect()
    };
    read().map_err(StoreError::sqlite("list projector_outputs"))
}

/// How many outputs are in each state but `fetched`, in the order of [`State::ALL`].
///
/// # Errors
/// SQLite's.
pub fn missing_counts(conn: &Connection) -> Result<Vec<(State, u64)>, StoreError> {
    State::ALL
        .into_iter()
        .filter(|state| *state != State::Fetched)
        .map(|state| {
            conn.prepare_cached(
                // The second condition lets SQLite take the partial index.
                "SELECT count(*) FROM projector_outputs WHERE state = ?1 AND state <> 'fetched'",
            )
            .and_then(|mut statement| statement.query_row([state.as_str()], |row| row.get(0)))
            .map(|count| (state, count))
            .map_err(StoreError::sqlite("count projector_outputs"))
        })
        .collect()
}
