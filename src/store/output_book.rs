//! The book of outputs behind pointers: what was fetched, what is owed, when it is asked for again.

mod asked;

use chrono::TimeDelta;
use rusqlite::{Connection, OptionalExtension, params};

use super::StoreError;
use crate::projection::output::Output;
use crate::wire::hex::hex;
use crate::wire::output::{Attempt, State};
use crate::wire::result::Field;
use crate::wire::time::Timestamp;

pub use self::asked::{Listed, Owed, keys, list, missing_counts, owed_of, state_of};
pub(super) use self::asked::{due, pending_after};

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

/// When an output in this state is asked for again after so many attempts that found it so, the first one included. `now`: wall
/// clock.
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
pub(super) struct OutputOf<'a> {
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
    place: &OutputOf<'_>,
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
    /// See [`OutputOf::mended`].
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
    // The second condition lets SQLite take the partial index.
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
        let conn = super::super::migrate::in_memory(true).unwrap();
        let output = output(attempt);
        conn.execute(
            "INSERT INTO execution_results (result_id, request_id, pc_id, stdout, started_at, finished_at)
             VALUES (?1, 'q', 'PC-1', ?2, '', '')",
            params![RESULT, output.column(Field::Stdout)],
        )
        .unwrap();
        let place = OutputOf {
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
