//! Forward-only migrations: numbered SQL, each in one transaction with the mark that it has run.
//!
//! Two sets, since an adopted file gets only the books: the read model there is the backend's.

use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

use super::{StoreError, fail};

const READ_MODEL: &[&str] = &[
    include_str!("../../migrations/read_model/0001_results.sql"),
    include_str!("../../migrations/read_model/0002_derived.sql"),
];
const BOOKS: &[&str] = &[
    include_str!("../../migrations/books/0001_books.sql"),
    include_str!("../../migrations/books/0002_dead_letters.sql"),
];

/// `projector_meta` key of the books' version.
const BOOKS_VERSION: &str = "books_version";
/// `projector_meta` key of the read model's version, in a file of our own making.
const READ_MODEL_VERSION: &str = "read_model_version";

/// What this program is built with and can open.
#[derive(Clone, Copy, Debug)]
pub struct Versions {
    /// Of the SQLite that is built in.
    pub sqlite: &'static str,
    /// The read model's schema, in a file of our own making.
    pub read_model: usize,
    /// The schema of the books.
    pub books: usize,
}

/// The versions of this program's parts; a database of a higher schema version is refused.
#[must_use]
pub fn versions() -> Versions {
    Versions {
        sqlite: rusqlite::version(),
        read_model: READ_MODEL.len(),
        books: BOOKS.len(),
    }
}

/// Brings a file to this version's schema: the books, and in a file of our own the read model.
///
/// # Errors
/// [`StoreError::Unusable`] when the file's schema is newer than this program's.
pub(super) fn run(conn: &mut Connection, own: bool) -> Result<(), StoreError> {
    conn.execute_batch(
        "CREATE TABLE IF NOT EXISTS projector_meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID",
    )
    .map_err(StoreError::sqlite("create the table projector_meta"))?;
    if own {
        apply(conn, READ_MODEL_VERSION, READ_MODEL)?;
    }
    apply(conn, BOOKS_VERSION, BOOKS)
}

/// A database of this version's schema that is nowhere else: see [`run`].
pub(super) fn in_memory(own: bool) -> Result<Connection, StoreError> {
    let mut conn = Connection::open_in_memory().map_err(StoreError::sqlite("open a database in memory"))?;
    run(&mut conn, own)?;
    Ok(conn)
}

/// Reads one value of `projector_meta`.
pub(super) fn meta(conn: &Connection, key: &str) -> Result<Option<String>, StoreError> {
    meta_of(conn, "main", key)
}

/// The same in a database that is attached under another name.
pub(super) fn meta_of(conn: &Connection, schema: &str, key: &str) -> Result<Option<String>, StoreError> {
    conn.query_row(
        &format!("SELECT value FROM {schema}.projector_meta WHERE key = ?1"),
        [key],
        |row| row.get(0),
    )
    .optional()
    .map_err(StoreError::sqlite(format_args!("read {key} from projector_meta")))
}

/// Refuses a schema that a newer version of this program has made.
pub(super) fn check_not_newer(conn: &Connection) -> Result<(), StoreError> {
    for (key, known) in [
        (READ_MODEL_VERSION, READ_MODEL.len()),
        (BOOKS_VERSION, BOOKS.len()),
    ] {
        let found = version(conn, key)?;
        if found > known {
            return Err(StoreError::Unusable(format!(
                "the database's {key} is {found}, this program knows versions up to {known}: it was written by a \
                 newer results-projector; install that version, or put back a backup from before the upgrade"
            )));
        }
    }
    Ok(())
}

fn version(conn: &Connection, key: &str) -> Result<usize, StoreError> {
    match meta(conn, key)? {
        None => Ok(0),
        Some(text) => text.parse().map_err(|_| {
            StoreError::Unusable(format!(
                "{key} in projector_meta is {text:?}, not a number: the database was changed by hand; put back a backup"
            ))
        }),
    }
}

fn apply(conn: &mut Connection, key: &str, steps: &[&str]) -> Result<(), StoreError> {
    check_not_newer(conn)?;
    for (index, sql) in steps.iter().enumerate().skip(version(conn, key)?) {
        let number = index + 1;
        let what = || format!("apply migration {number} of {key}");
        let tx = conn
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(StoreError::sqlite(what()))?;
        tx.execute_batch(sql).map_err(StoreError::sqlite(what()))?;
        tx.execute(
            "INSERT INTO projector_meta (key, value) VALUES (?1, ?2)
             ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            params![key, number.to_string()],
        )
        .map_err(StoreError::sqlite(what()))?;
        fail::point("in-migration");
        tx.commit().map_err(StoreError::sqlite(what()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dead_letters_of_the_first_schema_are_there_in_the_second() {
        let mut conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(
            "CREATE TABLE projector_meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID",
        )
        .unwrap();
        apply(&mut conn, BOOKS_VERSION, &BOOKS[..1]).unwrap();
        conn.execute_batch(
            "INSERT INTO projector_dead_letters VALUES
                 ('RESULTS', 1, 7, 'results.q', 't', 'why', '{\"a\":[\"b\"]}', x'00ff', 2, 'hash', 'discarded'),
                 ('EVENTS', 2, 7, 'events.q', 't', 'why', NULL, NULL, 9, 'hash', 'kept')",
        )
        .unwrap();
        run(&mut conn, false).unwrap();
        let mut select = conn
            .prepare(
                "SELECT concat_ws('|', stream, incarnation, stream_seq, subject, published_at, reason, sha256, state,
                     payload_bytes, headers, hex(payload)) FROM projector_dead_letters ORDER BY stream",
            )
            .unwrap();
        let rows: Vec<String> = select
            .query_map([], |row| row.get(0))
            .unwrap()
            .map(Result::unwrap)
            .collect();
        assert_eq!(
            rows,
            [
                "EVENTS|2|7|events.q|t|why|hash|kept|9|",
                "RESULTS|1|7|results.q|t|why|hash|discarded|2|{\"a\":[\"b\"]}|00FF"
            ]
        );
    }
}
