//! The dead-letter book: what could not be projected, whole, with its reason (I7).

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, params};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::StoreError;
use crate::wire::hex::hex;
use crate::wire::kv::StreamName;
use crate::wire::sequence::StreamSeq;
use crate::wire::time::Timestamp;

/// A message as it goes into the book.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// Its place.
    pub stream: StreamName,
    /// Its place.
    pub seq: StreamSeq,
    /// As published.
    pub subject: String,
    /// When the server stored it.
    pub published: Timestamp,
    /// What is wrong with it, and where.
    pub reason: String,
    /// JSON: name to list of values; `None` without headers.
    pub headers: Option<String>,
    /// As published.
    pub payload: Bytes,
    /// Whether an operator has given it up before.
    pub discarded: bool,
}

/// Where a dead letter stands: its key in the book.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LetterId {
    /// The stream.
    pub stream: StreamName,
    /// The life of the stream's sequences.
    pub incarnation: u64,
    /// The message's own.
    pub seq: StreamSeq,
}

impl std::fmt::Display for LetterId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} {} (incarnation {})",
            self.stream, self.seq, self.incarnation
        )
    }
}

/// One line of `dead-letters list`.
#[derive(Clone, Debug, Serialize)]
pub struct Listed {
    /// Its place.
    pub stream: String,
    /// Its place.
    pub incarnation: u64,
    /// Its place.
    pub stream_seq: u64,
    /// As published.
    pub subject: String,
    /// When the server stored it.
    pub published_at: String,
    /// What is wrong with it.
    pub reason: String,
    /// Bytes of the payload.
    pub payload_bytes: u64,
    /// Whether the payload is in the book (else only in the stream, as long as that lasts).
    pub payload_kept: bool,
    /// Lower-case hexadecimal.
    pub sha256: String,
    /// `kept` or `discarded`.
    pub state: String,
}

/// One dead letter, whole.
#[derive(Clone, Debug)]
pub struct Shown {
    /// The line of the list.
    pub listed: Listed,
    /// JSON: name to list of values; of one whose payload only the stream holds, they are only there too.
    pub headers: Option<String>,
    /// As published; `None` when only the stream holds it.
    pub payload: Option<Vec<u8>>,
}

/// What a letter takes of `dead_letters.max_bytes`: its payload and its headers, whose length is the sender's too.
const TAKES: &str =
    "CASE WHEN payload IS NULL THEN 0 ELSE payload_bytes + coalesce(octet_length(headers), 0) END";

/// Bytes of all payloads and headers in the book.
pub(super) fn kept_bytes(conn: &Connection) -> Result<u64, StoreError> {
    conn.query_row(
        &format!("SELECT coalesce(sum({TAKES}), 0) FROM projector_dead_letters"),
        [],
        |row| row.get(0),
    )
    .map_err(StoreError::sqlite("sum the payloads of projector_dead_letters"))
}

const MET_BEFORE: &str = "SELECT incarnation FROM projector_dead_letters
     WHERE stream = ?1 AND incarnation <= ?2 AND stream_seq = ?3 AND published_at = ?4 AND subject = ?5";

/// Enters a message; returns the bytes its payload and headers added to the book. Without room for them (`room`, bytes)
/// its hash and place are kept, and the stream holds the rest: then `None`.
pub(super) fn enter(
    conn: &Connection,
    incarnation: u64,
    letter: &DeadLetter,
    room: u64,
) -> Result<Option<u64>, StoreError> {
    let what = || format!("keep {} {} as a dead letter", letter.stream, letter.seq);
    let published = letter.published.stored();
    let seq = letter.seq.0;
    // Met again after the stream's sequences began a new life: the same message keeps its entry (DESIGN §3).
    let met_before: Option<i64> = conn
        .prepare_cached(MET_BEFORE)
        .and_then(|mut statement| {
            statement
                .query_row(
                    params![
                        letter.stream.as_str(),
                        incarnation,
                        seq,
                        published,
                        letter.subject
                    ],
                    |row| row.get(0),
                )
                .optional()
        })
        .map_err(StoreError::sqlite(what()))?;
    if met_before.is_some() {
        return Ok(Some(0));
    }
    let length = |bytes: usize| u64::try_from(bytes).unwrap_or(u64::MAX);
    let takes =
        length(letter.payload.len()).saturating_add(length(letter.headers.as_ref().map_or(0, String::len)));
    let kept = takes <= room;
    conn.prepare_cached(
        "INSERT INTO projector_dead_letters (stream, incarnation, stream_seq, subject, published_at, reason, headers,
             payload, payload_bytes, sha256, state)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
    )
    .and_then(|mut statement| {
        statement.execute(params![
            letter.stream.as_str(),
            incarnation,
            seq,
            letter.subject,
            published,
            letter.reason,
            letter.headers.as_ref().filter(|_| kept),
            kept.then_some(&letter.payload[..]),
            length(letter.payload.len()),
            hex(&Sha256::digest(&letter.payload)),
            if letter.discarded { "discarded" } else { "kept" },
        ])
    })
    .map_err(StoreError::sqlite(what()))?;
    Ok(kept.then_some(takes))
}

/// Whether a message is in the book.
pub(super) fn is_there(conn: &Connection, place: LetterId) -> Result<bool, StoreError> {
    conn.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM projector_dead_letters WHERE stream = ?1 AND incarnation = ?2 AND stream_seq = ?3)",
    )
    .and_then(|mut select| {
        select.query_row(params![place.stream.as_str(), place.incarnation, place.seq.0], |row| row.get(0))
    })
    .map_err(StoreError::sqlite(format_args!("look for the dead letter {place}")))
}

/// Takes a message that was projected out of the book; returns the bytes that its payload and headers had there.
pub(super) fn remove(conn: &Connection, place: LetterId) -> Result<u64, StoreError> {
    conn.prepare_cached(&format!(
        "DELETE FROM projector_dead_letters WHERE stream = ?1 AND incarnation = ?2 AND stream_seq = ?3
         RETURNING {TAKES}"
    ))
    .and_then(|mut delete| {
        delete.query_row(
            params![place.stream.as_str(), place.incarnation, place.seq.0],
            |row| row.get(0),
        )
    })
    .map_err(StoreError::sqlite(format_args!(
        "take {place} out of projector_dead_letters"
    )))
}

/// Keeps a message that was tried again in vain, a discarded one too, with the reason of now.
pub(super) fn keep(conn: &Connection, place: LetterId, reason: &str) -> Result<(), StoreError> {
    conn.prepare_cached(
        "UPDATE projector_dead_letters SET reason = ?4, state = 'kept'
         WHERE stream = ?1 AND incarnation = ?2 AND stream_seq = ?3",
    )
    .and_then(|mut update| {
        update.execute(params![
            place.stream.as_str(),
            place.incarnation,
            place.seq.0,
            reason
        ])
    })
    .map_err(StoreError::sqlite(format_args!("keep the dead letter {place}")))?;
    Ok(())
}

/// Marks a message as given up by hand: its row stays, so that whoever meets it again leaves it. False when there is none.
pub(super) fn discard(conn: &Connection, place: LetterId) -> Result<bool, StoreError> {
    conn.prepare_cached(
        "UPDATE projector_dead_letters SET state = 'discarded'
         WHERE stream = ?1 AND incarnation = ?2 AND stream_seq = ?3",
    )
    .and_then(|mut update| update.execute(params![place.stream.as_str(), place.incarnation, place.seq.0]))
    .map(|changed| changed > 0)
    .map_err(StoreError::sqlite(format_args!(
        "discard the dead letter {place}"
    )))
}

/// The places of those that are kept, of one stream or one life of its sequences or all, in stream order.
///
/// # Errors
/// SQLite's.
pub fn kept(
    conn: &Connection,
    stream: Option<StreamName>,
    incarnation: Option<u64>,
) -> Result<Vec<LetterId>, StoreError> {
    let read = || -> Result<Vec<(String, u64, u64)>, rusqlite::Error> {
        conn.prepare(
            "SELECT stream, incarnation, stream_seq FROM projector_dead_letters
             WHERE state = 'kept' AND (?1 IS NULL OR stream = ?1) AND (?2 IS NULL OR incarnation = ?2)
             ORDER BY stream, incarnation, stream_seq",
        )?
        .query_map(params![stream.map(StreamName::as_str), incarnation], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })?
        .collect()
    };
    let read = read().map_err(StoreError::sqlite("read projector_dead_letters"))?;
    Ok(read
        .into_iter()
        .filter_map(|(stream, incarnation, seq)| {
            Some(LetterId {
                stream: StreamName::parse(&stream)?,
                incarnation,
                seq: StreamSeq(seq),
            })
        })
        .collect())
}

const COLUMNS: &str = "stream, incarnation, stream_seq, subject, published_at, reason, payload_bytes,
     payload IS NOT NULL, sha256, state";

fn listed(row: &rusqlite::Row<'_>) -> Result<Listed, rusqlite::Error> {
    Ok(Listed {
        stream: row.get(0)?,
        incarnation: row.get(1)?,
        stream_seq: row.get(2)?,
        subject: row.get(3)?,
        published_at: row.get(4)?,
        reason: row.get(5)?,
        payload_bytes: row.get(6)?,
        payload_kept: row.get(7)?,
        sha256: row.get(8)?,
        state: row.get(9)?,
    })
}

/// Lists the book in stream order.
///
/// # Errors
/// SQLite's.
pub fn list(
    conn: &Connection,
    stream: Option<StreamName>,
    limit: Option<u64>,
) -> Result<Vec<Listed>, StoreError> {
    let read = || -> Result<Vec<Listed>, rusqlite::Error> {
        let mut statement = conn.prepare(&format!(
            "SELECT {COLUMNS} FROM projector_dead_letters WHERE ?1 IS NULL OR stream = ?1
             ORDER BY stream, incarnation, stream_seq LIMIT ?2"
        ))?;
        let limit = limit.map_or(-1, |limit| i64::try_from(limit).unwrap_or(i64::MAX));
        statement
            .query_map(params![stream.map(StreamName::as_str), limit], listed)?
            .collect()
    };
    read().map_err(StoreError::sqlite("list projector_dead_letters"))
}

/// The newest that are kept, the newest first: by when the server stored them.
///
/// # Errors
/// SQLite's.
pub fn newest(conn: &Connection, limit: u64) -> Result<Vec<Listed>, StoreError> {
    let read = || -> Result<Vec<Listed>, rusqlite::Error> {
        let mut statement = conn.prepare(&format!(
            "SELECT {COLUMNS} FROM projector_dead_letters WHERE state = 'kept'
             ORDER BY published_at DESC, stream, stream_seq DESC LIMIT ?1"
        ))?;
        statement
            .query_map([i64::try_from(limit).unwrap_or(i64::MAX)], listed)?
            .collect()
    };
    read().map_err(StoreError::sqlite("list the newest of projector_dead_letters"))
}

/// One dead letter; of several incarnations the newest unless one is named. `None` when there is none.
///
/// # Errors
/// SQLite's.
pub fn show(
    conn: &Connection,
    stream: StreamName,
    seq: StreamSeq,
    incarnation: Option<u64>,
) -> Result<Option<Shown>, StoreError> {
    let read = || -> Result<Option<Shown>, rusqlite::Error> {
        conn.query_row(
            &format!(
                "SELECT {COLUMNS}, headers, payload FROM projector_dead_letters
                 WHERE stream = ?1 AND stream_seq = ?2 AND (?3 IS NULL OR incarnation = ?3)
                 ORDER BY incarnation DESC LIMIT 1"
            ),
            params![stream.as_str(), seq.0, incarnation],
            |row| {
                Ok(Shown {
                    listed: listed(row)?,
                    headers: row.get(10)?,
                    payload: row.get(11)?,
                })
            },
        )
        .optional()
    };
    read().map_err(StoreError::sqlite("read projector_dead_letters"))
}

/// How many are kept, and how many of those without their payload.
///
/// # Errors
/// SQLite's.
pub(super) fn counts(conn: &Connection) -> Result<(u64, u64), StoreError> {
    conn.query_row(
        "SELECT count(*), coalesce(sum(payload IS NULL), 0) FROM projector_dead_letters WHERE state = 'kept'",
        [],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )
    .map_err(StoreError::sqlite("count projector_dead_letters"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database() -> Connection {
        super::super::migrate::in_memory(true).unwrap()
    }

    fn letter(seq: u64) -> DeadLetter {
        DeadLetter {
            stream: StreamName::Results,
            seq: StreamSeq(seq),
            subject: "results.q-1".to_owned(),
            published: Timestamp::from_unix_nanos(1_780_272_000_123_456_789),
            reason: "not a result".to_owned(),
            headers: Some(r#"{"Trace":["1","2"]}"#.to_owned()),
            payload: Bytes::from_static(b"\x1b[31mnot json"),
            discarded: false,
        }
    }

    fn place(seq: u64) -> LetterId {
        LetterId {
            stream: StreamName::Results,
            incarnation: 1,
            seq: StreamSeq(seq),
        }
    }

    #[test]
    fn a_message_is_kept_whole_and_without_room_its_hash_and_place_are() {
        let conn = database();
        let letter_bytes = letter(3).payload.len() as u64;
        let whole = letter_bytes + letter(3).headers.unwrap().len() as u64;
        assert_eq!(enter(&conn, 1, &letter(3), whole).unwrap(), Some(whole));
        assert_eq!(enter(&conn, 1, &letter(4), whole - 1).unwrap(), None);
        assert_eq!(kept_bytes(&conn).unwrap(), whole);
        assert_eq!(counts(&conn).unwrap(), (2, 1));
        for (seq, payload) in [(3, Some(letter(3).payload.to_vec())), (4, None)] {
            let shown = show(&conn, StreamName::Results, StreamSeq(seq), None)
                .unwrap()
                .unwrap();
            assert_eq!(shown.payload, payload);
            assert_eq!(shown.headers, letter(seq).headers.filter(|_| payload.is_some()));
            let listed = shown.listed;
            assert_eq!((listed.stream_seq, listed.payload_bytes), (seq, letter_bytes));
            assert_eq!(listed.payload_kept, payload.is_some());
            assert_eq!(listed.sha256, hex(&Sha256::digest(letter(seq).payload)));
            assert_eq!(
                (&*listed.subject, &*listed.reason, &*listed.state),
                ("results.q-1", "not a result", "kept")
            );
            assert_eq!(listed.published_at, letter(seq).published.stored());
        }
    }

    #[test]
    fn the_same_message_in_a_new_life_of_the_stream_keeps_its_entry_and_another_one_gets_its_own() {
        let conn = database();
        enter(&conn, 1, &letter(3), 1_000).unwrap();
        assert_eq!(enter(&conn, 2, &letter(3), 1_000).unwrap(), Some(0));
        assert_eq!(counts(&conn).unwrap(), (1, 0));
        let other = DeadLetter {
            published: Timestamp::from_unix_nanos(1_780_272_000_123_456_790),
            ..letter(3)
        };
        assert!(enter(&conn, 2, &other, 1_000).unwrap() > Some(0));
        assert_eq!(counts(&conn).unwrap(), (2, 0));
    }

    #[test]
    fn only_the_one_that_is_named_leaves_the_book_or_is_given_up() {
        let conn = database();
        for seq in 1..=3 {
            enter(&conn, 1, &letter(seq), 1_000).unwrap();
        }
        enter(
            &conn,
            2,
            &DeadLetter {
                subject: "results.q-2".to_owned(),
                ..letter(1)
            },
            1_000,
        )
        .unwrap();
        let whole = letter(1).payload.len() + letter(1).headers.unwrap().len();
        assert_eq!(remove(&conn, place(1)).unwrap(), whole as u64);
        assert!(!is_there(&conn, place(1)).unwrap() && is_there(&conn, place(2)).unwrap());
        assert!(discard(&conn, place(2)).unwrap() && !discard(&conn, place(1)).unwrap());
        let left = kept(&conn, None, None).unwrap();
        assert_eq!(
            left,
            [
                place(3),
                LetterId {
                    incarnation: 2,
                    ..place(1)
                }
            ]
        );
        keep(&conn, place(2), "still not a result").unwrap();
        assert_eq!(kept(&conn, None, Some(1)).unwrap(), [place(2), place(3)]);
        let reasons: Vec<String> = list(&conn, None, None)
            .unwrap()
            .into_iter()
            .map(|listed| listed.reason)
            .collect();
        assert_eq!(reasons, ["still not a result", "not a result", "not a result"]);
    }

    /// What SQLite does for a statement.
    fn plan(sql: &str) -> String {
        let conn = super::super::migrate::in_memory(false).unwrap();
        let mut explain = conn.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let mut rows = explain.raw_query();
        let mut plan = String::new();
        while let Some(row) = rows.next().unwrap() {
            plan += &row.get::<_, String>(3).unwrap();
        }
        plan
    }

    #[test]
    fn whether_a_message_was_met_before_is_seen_without_reading_the_book() {
        let plan = plan(MET_BEFORE);
        assert!(
            plan.contains("stream=? AND stream_seq=? AND incarnation<?"),
            "{plan}"
        );
    }
}
