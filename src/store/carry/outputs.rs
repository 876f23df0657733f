//! The texts behind pointers, where scratch and database do not hold the same of them.

use rusqlite::{Connection, params};
use sha2::{Digest, Sha256};

use super::super::StoreError;
use super::{Basis, Purpose, Vouched};
use crate::projection::output::{Output, is_placeholder};
use crate::wire::hex::hex;
use crate::wire::output::{Attempt, State};
use crate::wire::result::Field;

/// A line of `projector_outputs`, its entry apart.
pub(super) const OUTPUT: &str = "result_id, field, mended, object, state, reason, attempts, published_at, size_bytes, \
     sha256, since_wall, next_try_wall";

/// Settles the outputs of which one of the two has no text.
pub(super) fn settle(conn: &Connection, basis: &Basis, vouched: &mut Vouched) -> Result<(), StoreError> {
    (|| -> Result<(), rusqlite::Error> {
        take_books(conn)?;
        list_unlike(conn)?;
        let mut list = conn.prepare(
            "SELECT result_id, field, object, here, there, reason FROM temp.unlike_outputs ORDER BY result_id, field",
        )?;
        let mut rows = list.query([])?;
        while let Some(row) = rows.next()? {
            if let Some(unlike) = Unlike::read(row)? {
                unlike.settle(conn, basis, vouched)?;
            }
        }
        Ok(())
    })()
    .map_err(StoreError::sqlite("complete the outputs"))
}

/// A result whose own part is the database's has its outputs' book too.
fn take_books(conn: &Connection) -> Result<(), rusqlite::Error> {
    conn.execute(
        "DELETE FROM main.projector_outputs WHERE result_id IN (SELECT result_id FROM temp.carried_results)",
        [],
    )?;
    bring(conn, "SELECT result_id FROM temp.carried_results")?;
    Ok(())
}

/// Brings the database's lines of the results that `which` selects, unless there are some already.
pub(super) fn bring(conn: &Connection, which: &str) -> Result<usize, rusqlite::Error> {
    conn.execute(
        &format!(
            "INSERT OR IGNORE INTO main.projector_outputs (entry, {OUTPUT}) SELECT {}, {OUTPUT}
             FROM old.projector_outputs AS book WHERE result_id IN ({which})",
            entry_here("book.entry")
        ),
        [],
    )
}

/// The scratch's entry of a line of the database's: its own where the message is at hand, else the same.
pub(super) fn entry_here(entry: &str) -> String {
    format!(
        "coalesce((SELECT here.entry FROM old.projector_results AS line JOIN temp.at_hand AS here
             ON here.stream_seq = line.stream_seq AND here.published_ns = line.published_ns
             WHERE line.entry = {entry}), {entry})"
    )
}

/// `temp.unlike_outputs`: those that one of the two has not fetched; the pointer is the same. `there` is NULL where the
/// database has no line.
fn list_unlike(conn: &Connection) -> Result<(), rusqlite::Error> {
    conn.execute_batch(
        "DROP TABLE IF EXISTS temp.unlike_outputs;
         CREATE TEMP TABLE unlike_outputs (result_id TEXT, field TEXT, object TEXT, here TEXT, there TEXT, reason TEXT);
         INSERT INTO temp.unlike_outputs
         SELECT s.result_id, s.field, s.object, s.state, o.state, o.reason
         FROM main.projector_outputs AS s
             LEFT JOIN old.projector_outputs AS o ON o.result_id = s.result_id AND o.field = s.field
         WHERE (s.state <> 'fetched' OR o.state <> 'fetched') AND (o.object IS NULL OR o.object = s.object)
             AND NOT EXISTS (SELECT 1 FROM temp.carried_results AS carried WHERE carried.result_id = s.result_id)
             -- Last: it lies behind the texts.
             AND EXISTS (SELECT 1 FROM main.execution_results AS row
                 WHERE row.result_id = s.result_id AND row.finished_at IS NOT NULL)
             AND EXISTS (SELECT 1 FROM old.execution_results AS row
                 WHERE row.result_id = s.result_id AND row.finished_at IS NOT NULL AND NOT row.reaped)",
    )
}

/// One of them.
struct Unlike {
    result_id: String,
    field: Field,
    object: String,
    here: State,
    there: Option<State>,
    reason: Option<String>,
}

impl Unlike {
    /// `None` for words that the book does not know.
    fn read(row: &rusqlite::Row<'_>) -> Result<Option<Self>, rusqlite::Error> {
        let (field, here): (String, String) = (row.get(1)?, row.get(3)?);
        let there: Option<String> = row.get(4)?;
        let Some((field, here)) = Field::parse(&field).zip(State::parse(&here)) else {
            return Ok(None);
        };
        Ok(Some(Self {
            result_id: row.get(0)?,
            field,
            object: row.get(2)?,
            here,
            there: there.as_deref().and_then(State::parse),
            reason: row.get(5)?,
        }))
    }

    fn settle(&self, conn: &Connection, basis: &Basis, vouched: &mut Vouched) -> Result<(), rusqlite::Error> {
        match (self.here, self.there) {
            (State::Fetched, None | Some(State::Fetched)) => {}
            // The database would have it too, had it asked by now.
            (State::Fetched, Some(there)) => {
                if basis.purpose == Purpose::Verify {
                    self.set_text(conn, &self.placeholder(there))?;
                    vouched.leave_out(kind(there), 1);
                }
            }
            (_, Some(State::Fetched)) => {
                if let Some(text) = self.old_text(conn)? {
                    self.set_text(conn, &text)?;
                    self.take_book(conn)?;
                    vouched.add("outputs", 1);
                }
            }
            (_, Some(there)) => {
                if basis.purpose != Purpose::Rebuild {
                    self.set_text(conn, &self.placeholder(there))?;
                    self.take_book(conn)?;
                    vouched.leave_out(kind(there), 1);
                }
            }
            (_, None) => {
                let text = if basis.adopted { self.old_text(conn)? } else { None };
                if let Some(text) = text.filter(|text| is_fetched(text, self.field, &self.object)) {
                    self.set_text(conn, &text)?;
                    self.enter_fetched(conn, &text)?;
                    vouched.add("outputs", 1);
                }
            }
        }
        Ok(())
    }

    fn old_text(&self, conn: &Connection) -> Result<Option<String>, rusqlite::Error> {
        let Self { result_id, field, .. } = self;
        conn.prepare_cached(&format!(
            "SELECT {field} FROM old.execution_results WHERE result_id = ?1"
        ))?
        .query_row([result_id], |row| row.get(0))
        .map(Some)
    }

    fn set_text(&self, conn: &Connection, text: &str) -> Result<(), rusqlite::Error> {
        let Self { result_id, field, .. } = self;
        conn.prepare_cached(&format!(
            "UPDATE main.execution_results SET {field} = ?2 WHERE result_id = ?1"
        ))?
        .execute([result_id, text])?;
        Ok(())
    }

    /// The book's line as the database has it, its entry apart.
    fn take_book(&self, conn: &Connection) -> Result<(), rusqlite::Error> {
        conn.prepare_cached(
            "UPDATE main.projector_outputs AS s
             SET (state, reason, attempts, size_bytes, sha256, since_wall, next_try_wall) =
                 (SELECT o.state, o.reason, o.attempts, o.size_bytes, o.sha256, o.since_wall, o.next_try_wall
                  FROM old.projector_outputs AS o WHERE o.result_id = s.result_id AND o.field = s.field)
             WHERE s.result_id = ?1 AND s.field = ?2",
        )?
        .execute([self.result_id.as_str(), self.field.as_str()])?;
        Ok(())
    }

    fn enter_fetched(&self, conn: &Connection, text: &str) -> Result<(), rusqlite::Error> {
        let reason = fetched_unverified();
        conn.prepare_cached(
            "UPDATE main.projector_outputs SET state = 'fetched', reason = ?3, size_bytes = ?4, sha256 = ?5,
                 since_wall = NULL, next_try_wall = NULL
             WHERE result_id = ?1 AND field = ?2",
        )?
        .execute(params![
            self.result_id,
            self.field.as_str(),
            reason,
            i64::try_from(text.len()).unwrap_or(i64::MAX),
            hex(&Sha256::digest(text)),
        ])?;
        Ok(())
    }

    /// What the column shows in a state: computed, so that another text there is found.
    fn placeholder(&self, state: State) -> String {
        let attempt = match state {
            State::Fetched | State::Pending => Attempt::Pending(String::new()),
            State::Gone => Attempt::Gone(String::new()),
            State::Refused => Attempt::Refused,
            State::TooLarge => Attempt::TooLarge {
                size: 0,
                limit: self.limit(),
            },
        };
        let object = self.object.as_str().into();
        Output { object, attempt }.column(self.field).into_owned()
    }

    /// The limit at the time is the last number of the book's reason (see [`Attempt::reason`]).
    fn limit(&self) -> u64 {
        let reason = self.reason.as_deref().unwrap_or_default();
        let last = reason.rsplit(' ').next().unwrap_or_default();
        last.parse().unwrap_or_default()
    }
}

/// Whether a row of the backend's own projector, which keeps no book, has its output: an empty text is its failure.
pub(super) fn is_fetched(text: &str, field: Field, object: &str) -> bool {
    !text.is_empty() && !is_placeholder(text, field, object)
}

fn fetched_unverified() -> Option<String> {
    let attempt = Attempt::Fetched {
        content: crate::wire::output::Content::Text("".into()),
        sha256: [0; 32],
        verified: false,
    };
    attempt.reason().map(std::borrow::Cow::into_owned)
}

fn kind(state: State) -> &'static str {
    match state {
        State::Fetched | State::Pending => "outputs pending",
        State::Gone => "outputs gone",
        State::TooLarge => "outputs too_large",
        State::Refused => "outputs refused",
    }
}
