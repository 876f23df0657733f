//! I1 and I3: how far each stream is projected, moved only inside the transaction that carries the rows.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};

use super::StoreError;
use crate::wire::kv::StreamName;
use crate::wire::sequence::{Mark, StreamSeq, SubjectHash};
use crate::wire::time::Timestamp;

/// Past positions kept per stream: with distances that double, enough for any stream's length.
const PAST_MAX: usize = 64;

/// What became of the sequences of one incarnation of a stream (I3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Became rows, or were duplicates of a row.
    pub projected: u64,
    /// Kept as dead letters.
    pub dead: u64,
    /// Not ours by rule.
    pub ignored: u64,
    /// No longer existed when their turn came.
    pub gap: u64,
}

impl Counts {
    /// All sequences accounted for.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.projected + self.dead + self.ignored + self.gap
    }
}

/// Where a stream stands in the database: the only record of progress there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Counts the lives of the stream's sequences; 1 at first.
    pub incarnation: u64,
    /// The first sequence that this incarnation answers for.
    pub first: StreamSeq,
    /// The last sequence whose effect is committed; `first - 1` when there is none yet.
    pub position: StreamSeq,
    /// The message at the position; `None` where no message stands (a gap, the start).
    pub mark: Option<Mark>,
    /// See [`Counts`].
    pub counts: Counts,
    /// Earlier positions, newest first, exponentially spaced (DESIGN §3).
    pub past: Vec<Mark>,
}

impl Standing {
    /// A stream that is read for the first time, or anew: nothing behind `first` is answered for.
    #[must_use]
    pub fn new(incarnation: u64, first: StreamSeq) -> Self {
        Self {
            incarnation,
            first,
            position: first.before(),
            mark: None,
            counts: Counts::default(),
            past: Vec::new(),
        }
    }

    /// The incarnation that follows when sequences were used again for other messages: it begins after the last
    /// message in common, and forgets the kept positions above that.
    #[must_use]
    pub fn succeed(&self, common: Option<Mark>, first: StreamSeq) -> Self {
        let mut past = self.past.clone();
        past.extend(self.mark);
        let common_seq = common.map_or(StreamSeq(0), |mark| mark.seq);
        past.retain(|mark| mark.seq < common_seq);
        past.sort_by_key(|mark| std::cmp::Reverse(mark.seq));
        Self {
            incarnation: self.incarnation + 1,
            mark: common,
            past,
            ..Self::new(0, first)
        }
    }

    /// Moves on to `to`, keeping the position left behind among the past ones.
    pub fn advance(&mut self, to: StreamSeq, mark: Option<Mark>, counts: Counts) {
        if let Some(left) = self.mark.take() {
            self.past.insert(0, left);
            thin(&mut self.past, to);
        }
        self.position = to;
        self.mark = mark;
        self.counts = counts;
    }

    /// The kept marks, newest first, the position's own included.
    pub fn marks(&self) -> impl Iterator<Item = &Mark> {
        self.mark.iter().chain(self.past.iter())
    }
}

/// Drops a mark where its neighbours are close enough to stand in for it: distances to `position` then at
/// least double every two marks, which keeps about two marks for each power of two.
fn thin(past: &mut Vec<Mark>, position: StreamSeq) {
    let distance = |mark: &Mark| position.0.saturating_sub(mark.seq.0);
    let mut index = 1;
    while let (Some(newer), Some(older)) = (past.get(index - 1), past.get(index + 1)) {
        if distance(older) <= distance(newer).saturating_mul(2) {
            past.remove(index);
        } else {
            index += 1;
        }
    }
    past.truncate(PAST_MAX);
}

/// One step of a stream's position, stated from where to where.
#[derive(Clone, Debug)]
pub struct Advance {
    /// The stream.
    pub stream: StreamName,
    /// The position that the database must show now.
    pub from: StreamSeq,
    /// The standing afterwards.
    pub to: Standing,
}

/// The column `past`.
fn past_column(standing: &Standing) -> String {
    let past: Vec<Past> = standing.past.iter().map(Past::from).collect();
    serde_json::to_string(&past).unwrap_or_default()
}

/// Writes an advance inside the caller's transaction; refuses it when the stored position is not `from` (I1).
pub(super) fn write(conn: &Connection, advance: &Advance) -> Result<(), StoreError> {
    let Advance { stream, from, to } = advance;
    debug_assert_eq!(to.counts.sum(), to.position.0 + 1 - to.first.0, "I3");
    let what = || format!("advance the position of {stream}");
    let past = past_column(to);
    let changed = conn
        .prepare_cached(
            "UPDATE projector_position SET position = ?4, published_at = ?5, subject_hash = ?6, projected = ?7,
                 dead = ?8, ignored = ?9, gap = ?10, past = ?11
             WHERE stream = ?1 AND incarnation = ?2 AND position = ?3",
        )
        .and_then(|mut statement| {
            statement.execute(params![
                stream.as_str(),
                to.incarnation,
                from.0,
                to.position.0,
                to.mark.map(|mark| mark.published.stored()),
                to.mark.map(|mark| mark.subject.to_string()),
                to.counts.projected,
                to.counts.dead,
                to.counts.ignored,
                to.counts.gap,
                past,
            ])
        })
        .map_err(StoreError::sqlite(what()))?;
    match changed {
        1 => Ok(()),
        _ => Err(StoreError::RefusedAdvance {
            stream: stream.to_string(),
            from: from.0,
            to: to.position.0,
        }),
    }
}

/// Where a stream stands, as each group asks.
pub(super) const NEWEST: &str = "SELECT incarnation, position FROM projector_position WHERE stream = ?1 ORDER BY incarnation DESC LIMIT 1";

/// Refuses a transaction that starts from another position than the stored one (I1), before anything is written.
pub(super) fn expect(conn: &Connection, stream: StreamName, from: &Standing) -> Result<(), StoreError> {
    let stored: Option<(u64, u64)> = conn
        .prepare_cached(NEWEST)
        .and_then(|mut statement| {
            statement
                .query_row([stream.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()
        })
        .map_err(StoreError::sqlite(format_args!("read the position of {stream}")))?;
    match stored == Some((from.incarnation, from.position.0)) {
        true => Ok(()),
        false => Err(StoreError::RefusedAdvance {
            stream: stream.to_string(),
            from: from.position.0,
            to: from.position.next().0,
        }),
    }
}

/// Begins an incarnation: a new row, at `first - 1`. Refused when that incarnation exists.
pub(super) fn begin(conn: &Connection, stream: StreamName, standing: &Standing) -> Result<(), StoreError> {
    let past = past_column(standing);
    conn.prepare_cached(
        "INSERT INTO projector_position (stream, incarnation, first, position, published_at, subject_hash,
             projected, dead, ignored, gap, past)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0, 0, 0, 0, ?7)",
    )
    .and_then(|mut statement| {
        statement.execute(params![
            stream.as_str(),
            standing.incarnation,
            standing.first.0,
            standing.position.0,
            standing.mark.map(|mark| mark.published.stored()),
            standing.mark.map(|mark| mark.subject.to_string()),
            past,
        ])
    })
    .map_err(|source| match source {
        rusqlite::Error::SqliteFailure(failure, _)
            if failure.code == rusqlite::ErrorCode::ConstraintViolation =>
        {
            StoreError::RefusedAdvance {
                stream: stream.to_string(),
                from: standing.first.before().0,
                to: standing.position.0,
            }
        }
        source => StoreError::Sqlite {
            what: format!("begin incarnation {} of {stream}", standing.incarnation),
            source,
        },
    })?;
    Ok(())
}

/// Reads where a stream stands: its newest incarnation. `None` when it was never read.
///
/// # Errors
/// SQLite's, or [`StoreError::Unusable`] when the row is not as this program writes it.
pub(super) fn read(conn: &Connection, stream: StreamName) -> Result<Option<Standing>, StoreError> {
    read_in(conn, "main", stream)
}

/// Where every stream stands that was ever read, in the database attached under this name.
///
/// # Errors
/// As [`read`].
pub(super) fn read_all(
    conn: &Connection,
    schema: &str,
) -> Result<BTreeMap<StreamName, Standing>, StoreError> {
    let mut all = BTreeMap::new();
    for stream in StreamName::ALL {
        all.extend(read_in(conn, schema, stream)?.map(|standing| (stream, standing)));
    }
    Ok(all)
}

fn read_in(conn: &Connection, schema: &str, stream: StreamName) -> Result<Option<Standing>, StoreError> {
    conn.query_row(
        &format!(
            "SELECT incarnation, first, position, published_at, subject_hash, projected, dead, ignored, gap, past
             FROM {schema}.projector_position WHERE stream = ?1 ORDER BY incarnation DESC LIMIT 1"
        ),
        [stream.as_str()],
        |row| Ok(from_row(row)),
    )
    .optional()
    .map_err(StoreError::sqlite(format_args!("read the position of {stream}")))?
    .transpose()
    .map_err(|what: String| {
        StoreError::Unusable(format!(
            "the row of {stream} in projector_position cannot be read ({what}): the database was changed by hand; put \
             back a backup"
        ))
    })
}

/// The first incarnation of a stream whose counts are not its sequences' number (I3), in words; in the database attached
/// under this name.
pub(super) fn first_that_does_not_add_up(
    conn: &Connection,
    schema: &str,
) -> Result<Option<String>, StoreError> {
    conn.query_row(
        &format!(
            "SELECT stream, incarnation, projected + dead + ignored + gap, position - first + 1
             FROM {schema}.projector_position
             WHERE projected + dead + ignored + gap <> position - first + 1 LIMIT 1"
        ),
        [],
        |row| {
            let (stream, incarnation): (String, i64) = (row.get(0)?, row.get(1)?);
            let (sum, sequences): (i64, i64) = (row.get(2)?, row.get(3)?);
            Ok(format!(
                "{stream} in its incarnation {incarnation} accounts for {sum} of {sequences} sequences (I3)"
            ))
        },
    )
    .optional()
    .map_err(StoreError::sqlite("sum the counts of projector_position"))
}

/// Moves one message of an incarnation from dead to projected, or to ignored: it was tried again. The sum stays (I3).
/// Refused when that incarnation counts no dead letter.
pub(super) fn revive(
    conn: &Connection,
    stream: StreamName,
    incarnation: u64,
    ignored: bool,
) -> Result<(), StoreError> {
    let to = if ignored { "ignored" } else { "projected" };
    let changed = conn
        .prepare_cached(&format!(
            "UPDATE projector_position SET dead = dead - 1, {to} = {to} + 1
             WHERE stream = ?1 AND incarnation = ?2 AND dead > 0"
        ))
        .and_then(|mut update| update.execute(params![stream.as_str(), incarnation]))
        .map_err(StoreError::sqlite(format_args!(
            "count a dead letter of {stream} as projected"
        )))?;
    match changed {
        1 => Ok(()),
        _ => Err(StoreError::Value(format!(
            "projector_position counts no dead letter of {stream} in its incarnation {incarnation}: it was changed by hand"
        ))),
    }
}

fn from_row(row: &Row<'_>) -> Result<Standing, String> {
    let number = |index: usize| -> Result<u64, String> {
        let value: i64 = row.get(index).map_err(|error| error.to_string())?;
        u64::try_from(value).map_err(|_| format!("column {index} is {value}"))
    };
    let published: Option<String> = row.get(3).map_err(|error| error.to_string())?;
    let subject: Option<String> = row.get(4).map_err(|error| error.to_string())?;
    let past: String = row.get(9).map_err(|error| error.to_string())?;
    let position = StreamSeq(number(2)?);
    let mark = match (published, subject) {
        (Some(published), Some(subject)) => Some(mark(position, &published, &subject)?),
        _ => None,
    };
    let past = serde_json::from_str::<Vec<Past>>(&past).map_err(|error| format!("past: {error}"))?;
    Ok(Standing {
        incarnation: number(0)?,
        first: StreamSeq(number(1)?),
        position,
        mark,
        counts: Counts {
            projected: number(5)?,
            dead: number(6)?,
            ignored: number(7)?,
            gap: number(8)?,
        },
        past: past.iter().map(mark_of).collect::<Result<_, _>>()?,
    })
}

/// A mark as the column `past` holds it: sequence, publish time, subject hash.
#[derive(Serialize, Deserialize)]
struct Past(StreamSeq, String, String);

impl From<&Mark> for Past {
    fn from(mark: &Mark) -> Self {
        Self(mark.seq, mark.published.stored(), mark.subject.to_string())
    }
}

fn mark_of(past: &Past) -> Result<Mark, String> {
    mark(past.0, &past.1, &past.2)
}

fn mark(seq: StreamSeq, published: &str, subject: &str) -> Result<Mark, String> {
    Ok(Mark {
        seq,
        published: Timestamp::parse_stored(published)
            .map_err(|error| format!("publish time {published:?}: {error}"))?,
        subject: SubjectHash::parse(subject).ok_or_else(|| format!("subject hash {subject:?}"))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark_at(seq: u64) -> Mark {
        Mark {
            seq: StreamSeq(seq),
            published: Timestamp::from_unix_nanos(i64::try_from(seq).unwrap()),
            subject: SubjectHash::of("results.q"),
        }
    }

    fn step(standing: &mut Standing, to: u64) {
        let counts = Counts {
            projected: to,
            ..Counts::default()
        };
        standing.advance(StreamSeq(to), Some(mark_at(to)), counts);
    }

    #[test]
    fn past_positions_thin_out_exponentially_and_reach_far_back() {
        let mut standing = Standing::new(1, StreamSeq(1));
        for seq in 1..=100_000 {
            step(&mut standing, seq);
        }
        assert!(standing.past.len() <= PAST_MAX, "{} marks", standing.past.len());
        let distances: Vec<u64> = standing.past.iter().map(|mark| 100_000 - mark.seq.0).collect();
        assert_eq!(distances.first(), Some(&1));
        assert!(
            distances.windows(2).all(|pair| pair[0] < pair[1]),
            "newest first: {distances:?}"
        );
        assert!(
            distances.windows(2).all(|pair| pair[1] <= pair[0] * 4),
            "no wide hole: {distances:?}"
        );
        assert!(*distances.last().unwrap() > 50_000, "{distances:?}");
    }

    #[test]
    fn a_new_incarnation_forgets_what_lies_above_the_common_message() {
        let mut standing = Standing::new(1, StreamSeq(1));
        for seq in 1..=1000 {
            step(&mut standing, seq);
        }
        let common = *standing.past.iter().find(|mark| mark.seq.0 < 900).unwrap();
        let next = standing.succeed(Some(common), common.seq.next());
        assert_eq!(
            (next.incarnation, next.position, next.first),
            (2, common.seq, common.seq.next())
        );
        assert_eq!(next.counts.sum(), 0);
        assert!(next.past.iter().all(|mark| mark.seq < common.seq));
        let from_nothing = standing.succeed(None, StreamSeq(1));
        assert!(from_nothing.past.is_empty() && from_nothing.mark.is_none());
    }

    fn database() -> Connection {
        super::super::migrate::in_memory(true).unwrap()
    }

    fn advance(from: u64, to: &Standing) -> Advance {
        Advance {
            stream: StreamName::Results,
            from: StreamSeq(from),
            to: to.clone(),
        }
    }

    #[test]
    fn an_advance_that_does_not_start_where_the_database_stands_is_refused_and_changes_nothing() {
        let conn = database();
        let stored = || read(&conn, StreamName::Results).unwrap().unwrap();
        let mut standing = Standing::new(1, StreamSeq(1));
        begin(&conn, StreamName::Results, &standing).unwrap();
        step(&mut standing, 5);
        write(&conn, &advance(0, &standing)).unwrap();
        assert_eq!(stored(), standing);
        let mut next = standing.clone();
        step(&mut next, 9);
        for from in [0, 4, 6, 9] {
            let refused = write(&conn, &advance(from, &next)).unwrap_err();
            assert!(matches!(refused, StoreError::RefusedAdvance { .. }), "{refused}");
            assert_eq!(stored(), standing);
        }
        write(&conn, &advance(5, &next)).unwrap();
        assert_eq!(stored(), next);
    }

    #[test]
    fn an_advance_moves_its_own_incarnation_alone_and_the_newest_is_where_the_stream_stands() {
        let conn = database();
        let mut first = Standing::new(1, StreamSeq(1));
        begin(&conn, StreamName::Results, &first).unwrap();
        step(&mut first, 5);
        write(&conn, &advance(0, &first)).unwrap();
        let mut second = first.succeed(Some(mark_at(5)), StreamSeq(6));
        begin(&conn, StreamName::Results, &second).unwrap();
        second.advance(
            StreamSeq(7),
            Some(mark_at(7)),
            Counts {
                projected: 2,
                ..Counts::default()
            },
        );
        write(&conn, &advance(5, &second)).unwrap();
        assert_eq!(read(&conn, StreamName::Results).unwrap(), Some(second));
        let positions: String = conn
            .query_row(
                "SELECT group_concat(incarnation || ':' || position) FROM projector_position",
                [],
                |row| row.get(0),
            )
            .unwrap();
        assert_eq!(positions, "1:5,2:7");
        assert_eq!(first_that_does_not_add_up(&conn, "main").unwrap(), None);
    }

    #[test]
    fn a_transaction_that_expects_another_position_or_incarnation_is_refused_at_once() {
        let conn = database();
        let mut standing = Standing::new(1, StreamSeq(1));
        let refused = |standing: &Standing| {
            let outcome = expect(&conn, StreamName::Results, standing);
            matches!(outcome, Err(StoreError::RefusedAdvance { .. }))
        };
        assert!(refused(&standing), "nothing is stored yet");
        begin(&conn, StreamName::Results, &standing).unwrap();
        assert!(!refused(&standing));
        let again = begin(&conn, StreamName::Results, &standing).unwrap_err();
        assert!(matches!(again, StoreError::RefusedAdvance { .. }), "{again}");
        step(&mut standing, 3);
        assert!(refused(&standing), "another position");
        write(&conn, &advance(0, &standing)).unwrap();
        assert!(!refused(&standing));
        let other_life = Standing {
            incarnation: 2,
            ..standing
        };
        assert!(refused(&other_life), "another incarnation");
    }

    #[test]
    fn a_dead_letter_that_was_tried_again_moves_and_the_sum_stays() {
        let conn = database();
        let mut standing = Standing::new(1, StreamSeq(1));
        begin(&conn, StreamName::Results, &standing).unwrap();
        let counts = Counts {
            projected: 3,
            dead: 2,
            ..Counts::default()
        };
        standing.advance(StreamSeq(5), Some(mark_at(5)), counts);
        write(&conn, &advance(0, &standing)).unwrap();
        for ignored in [false, true] {
            revive(&conn, StreamName::Results, 1, ignored).unwrap();
            assert_eq!(first_that_does_not_add_up(&conn, "main").unwrap(), None);
        }
        let counts = read(&conn, StreamName::Results).unwrap().unwrap().counts;
        assert_eq!((counts.projected, counts.dead, counts.ignored), (4, 0, 1));
        assert!(
            revive(&conn, StreamName::Results, 1, false).is_err(),
            "there is none any more"
        );
        assert!(
            revive(&conn, StreamName::Results, 2, false).is_err(),
            "of another life"
        );
    }

    #[test]
    fn counts_that_are_not_the_sequences_number_are_told() {
        let conn = database();
        begin(&conn, StreamName::Results, &Standing::new(1, StreamSeq(4))).unwrap();
        assert_eq!(first_that_does_not_add_up(&conn, "main").unwrap(), None);
        for (projected, dead, ignored, gap) in [(1, 0, 0, 0), (1, 1, 1, 0), (0, 0, 1, 3), (2, 2, 0, 0)] {
            conn.execute(
                "UPDATE projector_position SET position = 5, projected = ?1, dead = ?2, ignored = ?3, gap = ?4",
                [projected, dead, ignored, gap],
            )
            .unwrap();
            let told = first_that_does_not_add_up(&conn, "main").unwrap().unwrap();
            assert!(told.contains("of 2 sequences"), "{told}");
        }
        conn.execute_batch("UPDATE projector_position SET projected = 1, dead = 0, ignored = 0, gap = 1")
            .unwrap();
        assert_eq!(first_that_does_not_add_up(&conn, "main").unwrap(), None);
    }
}
