//! The book of outputs behind pointers: what was fetched, what is owed, when it is asked for again.

use chrono::TimeDelta;
use rusqlite::{Connection, OptionalExtension, params};
use serde::Serialize;

use super::StoreError;
use crate::projection::output::Output;
use crate::wire::hex::hex;
use crate::wire::output::{Attempt, State};
use crate::wire::result::Field;
use crate::wire::time::Timestamp;

/// Between two attempts at a pending output: doubling from a second up to this.
const PENDING_BACKOFF_MAX_S: i64 = 300;
/// A gone output is asked for again after an hour and after a day (contract §7.1), then only by hand.
const GONE_RETRY_S: [i64; 2] = [3_600, 86_400];

/// An attempt to read an owed output later than its message: what the repairer hands to the writer.
#[derive(Clone, Debug)]
pub struct Repair {
    /// The row.
    pub result_id: String,
    /// Which of its outputs.
    pub field: Field,
    /// The pointer and how the attempt ended.
    pub output: Output,
}

/// An output that is due for another attempt.
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
    /// Attempts so far.
    pub attempts: u64,
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
    /// Attempts so far.
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

/// When an output in this state is asked for again after `attempts` of them. `now`: wall clock.
///
/// `gone_attempts`: attempts since it was found gone, the one that found it included.
fn next_try(state: State, attempts: u64, now: Timestamp) -> Option<Timestamp> {
    let seconds = match state {
        State::Pending => {
            let doublings = u32::try_from(attempts.saturating_sub(1))
                .unwrap_or(u32::MAX)
                .min(16);
            (1_i64 << doublings).min(PENDING_BACKOFF_MAX_S)
        }
        State::Gone => {
            *GONE_RETRY_S.get(usize::try_from(attempts.saturating_sub(1)).unwrap_or(usize::MAX))?
        }
        State::Fetched | State::TooLarge | State::Refused => return None,
    };
    now.checked_add(TimeDelta::seconds(seconds))
}

/// Whose output it is.
pub(super) struct Place<'a> {
    pub(super) result_id: &'a str,
    pub(super) field: Field,
    /// Of its message in `projector_results`.
    pub(super) entry: i64,
    /// The row is the backend's, whose projector did not get this output: its pair went on without it.
    pub(super) mended: bool,
}

/// Enters what became of a new row's pointer, in the row's own transaction.
pub(super) fn enter(
    conn: &Connection,
    place: &Place<'_>,
    output: &Output,
    published: Timestamp,
    now: Timestamp,
) -> Result<(), StoreError> {
    let state = output.attempt.state();
    let missing = state != State::Fetched;
    let (size, sha256) = size_and_hash(&output.attempt)?;
    conn.prepare_cached(
        "INSERT INTO projector_outputs (result_id, field, object, state, reason, attempts, published_at, size_bytes,
             sha256, since_wall, next_try_wall, entry, mended)
         VALUES (?1, ?2, ?3, ?4, ?5, 1, ?6, ?7, ?8, ?9, ?10, ?11, ?12)
         ON CONFLICT (result_id, field) DO UPDATE SET object = excluded.object, entry = excluded.entry, mended = excluded.mended, state = excluded.state,
             reason = excluded.reason, attempts = excluded.attempts, published_at = excluded.published_at,
             size_bytes = excluded.size_bytes, sha256 = excluded.sha256, since_wall = excluded.since_wall,
             next_try_wall = excluded.next_try_wall",
    )
    .and_then(|mut statement| {
        statement.execute(params![
            place.result_id,
            place.field.as_str(),
            &*output.object,
            state.as_str(),
            output.attempt.reason(),
            published.stored(),
            size,
            sha256,
            missing.then(|| now.stored()),
            next_try(state, 1, now).map(|at| at.stored()),
            place.entry,
            place.mended,
        ])
    })
    .map_err(StoreError::sqlite("enter an output into projector_outputs"))?;
    Ok(())
}

/// What a late attempt changed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Repaired {
    /// Of its message in `projector_results`.
    pub(super) entry: i64,
    /// See [`Place::mended`].
    pub(super) mended: bool,
    pub(super) from: State,
    pub(super) to: State,
}

/// Applies a late attempt: the row's text and the book, as if the object had been there (DESIGN §4). `None` when the book
/// no longer owes it.
pub(super) fn repair(
    conn: &Connection,
    repair: &Repair,
    now: Timestamp,
) -> Result<Option<Repaired>, StoreError> {
    let Repair {
        result_id,
        field,
        output,
    } = repair;
    let what = || format!("repair {field} of result {result_id:?}");
    let found: Option<(String, u64, i64, bool)> = conn
        .prepare_cached(
            "SELECT state, attempts, entry, mended FROM projector_outputs WHERE result_id = ?1 AND field = ?2 AND object = ?3",
        )
        .and_then(|mut statement| {
            statement
                .query_row(params![result_id, field.as_str(), &*output.object], |row| {
                    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
                })
                .optional()
        })
        .map_err(StoreError::sqlite(what()))?;
    let Some((from, attempts, entry, mended)) = found
        .and_then(|(state, attempts, entry, mended)| Some((State::parse(&state)?, attempts, entry, mended)))
    else {
        return Ok(None);
    };
    if from == State::Fetched {
        return Ok(None);
    }
    let attempted = output.attempt.state();
    if attempted == State::Pending && from != State::Pending {
        // What was certain does not become uncertain because the store does not answer today: asked again soon.
        postpone(conn, repair, now)?;
        return Ok(None);
    }
    // The hour and the day of a gone output count from the attempt that found it gone.
    let attempts = if attempted == from {
        attempts.saturating_add(1)
    } else {
        1
    };
    let (size, sha256) = size_and_hash(&output.attempt)?;
    conn.prepare_cached(
        "UPDATE projector_outputs SET state = ?3, reason = ?4, attempts = ?5, size_bytes = ?6, sha256 = ?7,
             next_try_wall = ?8, since_wall = CASE WHEN ?3 = 'fetched' THEN NULL ELSE coalesce(since_wall, ?9) END
         WHERE result_id = ?1 AND field = ?2",
    )
    .and_then(|mut statement| {
        statement.execute(params![
            result_id,
            field.as_str(),
            attempted.as_str(),
            output.attempt.reason(),
            attempts,
            size,
            sha256,
            next_try(attempted, attempts, now).map(|at| at.stored()),
            now.stored(),
        ])
    })
    .map_err(StoreError::sqlite(what()))?;
    if attempted != from {
        conn.prepare_cached(&format!(
            "UPDATE execution_results SET {field} = ?2 WHERE result_id = ?1"
        ))
        .and_then(|mut statement| statement.execute(params![result_id, output.column(*field)]))
        .map_err(StoreError::sqlite(what()))?;
    }
    Ok(Some(Repaired {
        entry,
        mended,
        from,
        to: attempted,
    }))
}

/// Asks for an output again later, its state as it was.
fn postpone(conn: &Connection, repair: &Repair, now: Timestamp) -> Result<(), StoreError> {
    let later = now.checked_add(TimeDelta::seconds(PENDING_BACKOFF_MAX_S));
    conn.prepare_cached(
        "UPDATE projector_outputs SET next_try_wall = ?3 WHERE result_id = ?1 AND field = ?2",
    )
    .and_then(|mut update| {
        update.execute(params![
            repair.result_id,
            repair.field.as_str(),
            later.map(|at| at.stored())
        ])
    })
    .map_err(StoreError::sqlite("postpone an attempt at an output"))?;
    Ok(())
}

/// Writes an output over a row's empty text; false when the text is not empty.
pub(super) fn fill_empty(
    conn: &Connection,
    result_id: &str,
    field: Field,
    output: &Output,
) -> Result<bool, StoreError> {
    conn.prepare_cached(&format!(
        "UPDATE execution_results SET {field} = ?2 WHERE result_id = ?1 AND {field} = ''"
    ))
    .and_then(|mut update| update.execute(params![result_id, output.column(field)]))
    .map(|filled| filled > 0)
    .map_err(StoreError::sqlite(format_args!(
        "fill {field} of result {result_id:?}"
    )))
}

/// Makes outputs due that were too large for an earlier limit and fit into this one (bytes). Returns how many.
pub(super) fn reconsider_too_large(
    conn: &Connection,
    limit: u64,
    now: Timestamp,
) -> Result<usize, StoreError> {
    const WHICH: &str = "state = 'too_large' AND state <> 'fetched' AND size_bytes <= ?1";
    let reconsider = || -> Result<usize, rusqlite::Error> {
        // Nearly always none: then a start does not wait for somebody else's transaction.
        let any = format!("SELECT EXISTS (SELECT 1 FROM projector_outputs WHERE {WHICH})");
        if !conn.query_row(&any, [limit], |row| row.get(0))? {
            return Ok(0);
        }
        conn.execute(
            &format!("UPDATE projector_outputs SET next_try_wall = ?2 WHERE {WHICH}"),
            params![limit, now.stored()],
        )
    };
    reconsider().map_err(StoreError::sqlite("reconsider the outputs that were too large"))
}

const OWED_COLUMNS: &str = "result_id, field, object, published_at, attempts, since_wall";

fn owed(row: &rusqlite::Row<'_>) -> Result<Owed, rusqlite::Error> {
    let (field, published, since): (String, String, Option<String>) = (row.get(1)?, row.get(3)?, row.get(5)?);
    Ok(Owed {
        result_id: row.get(0)?,
        field: Field::parse(&field).unwrap_or(Field::Stdout),
        object: row.get(2)?,
        // A time that was changed by hand reads as long past: it makes a missing object certain, no more.
        published: Timestamp::parse_stored(&published).unwrap_or(Timestamp::from_unix_nanos(0)),
        attempts: row.get(4)?,
        since: since.and_then(|since| Timestamp::parse_stored(&since).ok()),
    })
}

/// Outputs whose next attempt is due at `now` (wall clock), the longest waiting first; with them those that are to wait
/// longer than any attempt ever waits: they were entered when the clock was ahead.
pub(super) fn due(conn: &Connection, now: Timestamp, limit: usize) -> Result<Vec<Owed>, StoreError> {
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
pub(super) fn pending_after(
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
                "SELECT count(*) FROM projector_outputs WHERE state = ?1 AND state <> 'fetched'",
            )
            .and_then(|mut statement| statement.query_row([state.as_str()], |row| row.get(0)))
            .map(|count| (state, count))
            .map_err(StoreError::sqlite("count projector_outputs"))
        })
        .collect()
}

fn size_and_hash(attempt: &Attempt) -> Result<(Option<i64>, Option<String>), StoreError> {
    let size = |bytes: u64| {
        i64::try_from(bytes)
            .map_err(|_| StoreError::Value(format!("an object's size of {bytes} bytes is out of range")))
    };
    Ok(match attempt {
        Attempt::Fetched { content, sha256, .. } => (
            Some(size(u64::try_from(content.len()).unwrap_or(u64::MAX))?),
            Some(hex(sha256)),
        ),
        Attempt::TooLarge { size: bytes, .. } => (Some(size(*bytes)?), None),
        Attempt::Pending(_) | Attempt::Gone(_) | Attempt::Refused => (None, None),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pending_output_is_asked_for_ever_more_rarely_and_a_gone_one_twice() {
        let now = Timestamp::from_unix_nanos(0);
        let after = |state, attempts| {
            next_try(state, attempts, now).map(|at| at.unix_nanos().unwrap() / 1_000_000_000)
        };
        assert_eq!(
            [1, 2, 3, 9, 10, 500].map(|n| after(State::Pending, n)),
            [1, 2, 4, 256, 300, 300].map(Some)
        );
        assert_eq!(
            [1, 2, 3].map(|n| after(State::Gone, n)),
            [Some(3_600), Some(86_400), None]
        );
        assert_eq!(after(State::Refused, 1), None);
        assert_eq!(after(State::TooLarge, 1), None);
    }

    const RESULT: &str = "r-1";

    /// A row whose stdout is in the book as this attempt leaves it.
    fn database(attempt: Attempt) -> Connection {
        let mut conn = Connection::open_in_memory().unwrap();
        super::super::migrate::run(&mut conn, true).unwrap();
        let output = output(attempt);
        conn.execute(
            "INSERT INTO execution_results (result_id, request_id, pc_id, stdout, started_at, finished_at)
             VALUES (?1, 'q', 'PC-1', ?2, '', '')",
            params![RESULT, output.column(Field::Stdout)],
        )
        .unwrap();
        let place = Place {
            result_id: RESULT,
            field: Field::Stdout,
            entry: 1,
            mended: false,
        };
        let now = Timestamp::from_unix_nanos(0);
        enter(&conn, &place, &output, now, now).unwrap();
        conn
    }

    fn output(attempt: Attempt) -> Output {
        Output {
            object: "q/PC-1/stdout".into(),
            attempt,
        }
    }

    fn fetched(text: &'static str) -> Attempt {
        Attempt::Fetched {
            content: crate::wire::output::Content::new(text.into()),
            sha256: [7; 32],
            verified: true,
        }
    }

    fn repaired(conn: &Connection, attempt: Attempt) -> Option<(State, State)> {
        let late = Repair {
            result_id: RESULT.to_owned(),
            field: Field::Stdout,
            output: output(attempt),
        };
        let found = repair(conn, &late, Timestamp::from_unix_nanos(1_000_000_000)).unwrap();
        found.map(|found| (found.from, found.to))
    }

    fn told(conn: &Connection) -> (String, String) {
        conn.query_row(
            "SELECT state, execution_results.stdout FROM projector_outputs JOIN execution_results USING (result_id)",
            [],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .unwrap()
    }

    #[test]
    fn an_attempt_at_an_output_that_is_there_already_changes_nothing() {
        let conn = database(fetched("text"));
        let before = told(&conn);
        assert_eq!(before, ("fetched".to_owned(), "text".to_owned()));
        for attempt in [
            fetched("another text"),
            Attempt::Gone("no such object".to_owned()),
            Attempt::Pending("no answer".to_owned()),
        ] {
            assert_eq!(repaired(&conn, attempt), None);
            assert_eq!(told(&conn), before);
        }
    }

    #[test]
    fn what_was_certain_does_not_become_uncertain_and_what_is_owed_is_asked_for_again() {
        let conn = database(Attempt::Gone("no such object".to_owned()));
        let before = told(&conn);
        assert_eq!(repaired(&conn, Attempt::Pending("no answer".to_owned())), None);
        assert_eq!(told(&conn), before);
        let next: String = conn
            .query_row("SELECT next_try_wall FROM projector_outputs", [], |row| {
                row.get(0)
            })
            .unwrap();
        assert_eq!(next, "1970-01-01T00:05:01+00:00");
        assert_eq!(
            repaired(&conn, fetched("text")),
            Some((State::Gone, State::Fetched))
        );
        assert_eq!(told(&conn), ("fetched".to_owned(), "text".to_owned()));

        let conn = database(Attempt::Pending("no answer".to_owned()));
        let due = due(&conn, Timestamp::from_unix_nanos(2_000_000_000), 10).unwrap();
        assert_eq!(due.len(), 1);
        assert_eq!(pending_after(&conn, None, 10).unwrap(), due);
        assert_eq!(
            repaired(&conn, Attempt::Pending("no answer".to_owned())),
            Some((State::Pending, State::Pending))
        );
        assert_eq!(
            repaired(&conn, Attempt::Gone("no such object".to_owned())),
            Some((State::Pending, State::Gone))
        );
        assert!(told(&conn).1.ends_with("which is gone"), "{:?}", told(&conn));
    }
}
