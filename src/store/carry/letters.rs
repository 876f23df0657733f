//! The dead letters of the database, brought into the scratch that takes its place. What was one there and could be
//! projected now is none any more, and the other way round: the counts of I3 follow.

use std::collections::BTreeMap;

use rusqlite::{Connection, params};

use super::books::life;
use crate::wire::kv::StreamName;
use crate::wire::time::Timestamp;

/// What became of them.
#[derive(Debug, Default)]
pub(super) struct Letters {
    brought: usize,
    /// Per stream and life: how many are dead letters now that were none (or, below zero, are none any more).
    more: BTreeMap<(String, u64), i64>,
}

/// A dead letter of the database's, without what it carries.
struct Letter {
    stream: String,
    incarnation: u64,
    seq: u64,
    published_at: String,
    /// The life that its sequence belongs to now.
    life: u64,
    /// The scratch has the same one.
    here: bool,
}

impl Letters {
    /// Brings them. The scratch's are relabelled already; its positions and gaps are still its own.
    pub(super) fn bring(conn: &Connection) -> Result<Self, rusqlite::Error> {
        let mut letters = Self::default();
        letters.find_new(conn)?;
        let mut list = conn.prepare(&format!(
            "SELECT o.stream, o.incarnation, o.stream_seq, o.published_at, {},
                 EXISTS (SELECT 1 FROM main.projector_dead_letters AS s WHERE s.stream = o.stream
                     AND s.stream_seq = o.stream_seq AND s.published_at = o.published_at AND s.subject = o.subject)
             FROM old.projector_dead_letters AS o ORDER BY o.stream, o.incarnation, o.stream_seq",
            life("o.stream", "o.stream_seq")
        ))?;
        let mut rows = list.query([])?;
        while let Some(row) = rows.next()? {
            let letter = Letter {
                stream: row.get(0)?,
                incarnation: row.get(1)?,
                seq: row.get(2)?,
                published_at: row.get(3)?,
                life: row.get::<_, Option<u64>>(4)?.unwrap_or(1),
                here: row.get(5)?,
            };
            if !letter.here && letter.is_projected(conn)? {
                *letters.more.entry((letter.stream, letter.life)).or_default() -= 1;
                continue;
            }
            let taken = letter.take(conn)?;
            letters.brought += if letter.here { 0 } else { taken };
        }
        Ok(letters)
    }

    /// How many were brought that the streams hold no more.
    pub(super) fn brought(&self) -> usize {
        self.brought
    }

    /// Those of the scratch that the database has projected, or passed over by rule.
    fn find_new(&mut self, conn: &Connection) -> Result<(), rusqlite::Error> {
        let mut count = conn.prepare(
            "SELECT s.stream, s.incarnation, count(*) FROM main.projector_dead_letters AS s
                 JOIN old.projector_position AS life ON life.stream = s.stream AND life.incarnation = s.incarnation
                     AND s.stream_seq BETWEEN life.first AND life.position
             WHERE NOT EXISTS (SELECT 1 FROM old.projector_dead_letters AS o WHERE s.stream = o.stream
                 AND s.stream_seq = o.stream_seq AND s.published_at = o.published_at AND s.subject = o.subject)
             GROUP BY s.stream, s.incarnation",
        )?;
        let mut rows = count.query([])?;
        while let Some(row) = rows.next()? {
            *self.more.entry((row.get(0)?, row.get(1)?)).or_default() += row.get::<_, i64>(2)?;
        }
        Ok(())
    }

    /// Moves them between `dead` and `projected`; the sum stays (I3).
    pub(super) fn adjust_counts(&self, conn: &Connection) -> Result<(), rusqlite::Error> {
        for ((stream, incarnation), more) in &self.more {
            conn.execute(
                "UPDATE main.projector_position SET dead = dead + ?3, projected = max(projected - ?3, 0),
                     ignored = ignored + min(projected - ?3, 0)
                 WHERE stream = ?1 AND incarnation = ?2",
                params![stream, incarnation, more],
            )?;
        }
        Ok(())
    }
}

impl Letter {
    /// Whether the scratch has projected its message.
    fn is_projected(&self, conn: &Connection) -> Result<bool, rusqlite::Error> {
        if self.stream == StreamName::Results.as_str() {
            let nanos = Timestamp::parse_stored(&self.published_at)
                .ok()
                .and_then(|published| published.unix_nanos());
            return conn
                .prepare_cached(
                    "SELECT EXISTS (SELECT 1 FROM temp.at_hand WHERE stream_seq = ?1 AND published_ns = ?2)",
                )?
                .query_row(params![self.seq, nanos], |row| row.get(0));
        }
        // The other streams have no lines. In an older life of the sequences it may be another message.
        if self.life != self.incarnation {
            return Ok(false);
        }
        conn.prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM main.projector_position WHERE stream = ?1 AND ?2 BETWEEN first AND position)
                 AND NOT EXISTS (SELECT 1 FROM main.projector_gaps WHERE stream = ?1
                     AND ?2 BETWEEN first_seq AND last_seq)",
        )?
        .query_row(params![self.stream, self.seq], |row| row.get(0))
    }

    /// The database's entry, in the place of the scratch's if that has one: its state is an operator's decision, and the
    /// headers and payload may be in either.
    fn take(&self, conn: &Connection) -> Result<usize, rusqlite::Error> {
        let key = params![self.stream, self.incarnation, self.seq];
        let replace = self.here && self.incarnation != self.life;
        let either = |what: &str| {
            format!(
                "CASE WHEN o.state = 'kept' AND o.payload IS NULL THEN (SELECT s.{what}
                     FROM main.projector_dead_letters AS s WHERE s.stream = o.stream AND s.stream_seq = o.stream_seq
                         AND s.published_at = o.published_at AND s.subject = o.subject) ELSE o.{what} END"
            )
        };
        let brought = conn
            .prepare_cached(&format!(
                "INSERT OR REPLACE INTO main.projector_dead_letters (stream, incarnation, stream_seq, subject,
                     published_at, reason, headers, payload, payload_bytes, sha256, state)
                 SELECT o.stream, o.incarnation, o.stream_seq, o.subject, o.published_at, o.reason, {}, {},
                     o.payload_bytes, o.sha256, o.state
                 FROM old.projector_dead_letters AS o
                 WHERE o.stream = ?1 AND o.incarnation = ?2 AND o.stream_seq = ?3",
                either("headers"),
                either("payload"),
            ))?
            .execute(key)?;
        if replace {
            conn.prepare_cached(
                "DELETE FROM main.projector_dead_letters
                 WHERE stream = ?1 AND incarnation = ?2 AND stream_seq = ?3 AND published_at = ?4",
            )?
            .execute(params![self.stream, self.life, self.seq, self.published_at])?;
        }
        Ok(brought)
    }
}
