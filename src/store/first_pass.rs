//! The first pass over an adopted file (contract §7.2): rows that the backend's own projector has written stand, but an
//! empty text whose message has a pointer is filled, up to the last sequence that RESULTS had at adoption.

use std::path::Path;

use rusqlite::{Connection, params};

use super::{StoreError, migrate};
use crate::wire::sequence::StreamSeq;

/// `projector_meta` key: the last sequence of RESULTS that belongs to the first pass; absent once it is over.
const LAST_KEY: &str = "first_pass_until";

/// The last sequence of RESULTS in the first pass; `None` when there is none, or none any more.
pub(super) fn until(conn: &Connection) -> Result<Option<StreamSeq>, StoreError> {
    Ok(migrate::meta(conn, LAST_KEY)?
        .and_then(|text| text.parse().ok())
        .map(StreamSeq))
}

/// Refuses a file whose first pass is not over.
pub(super) fn check_over(conn: &Connection, path: &Path) -> Result<(), StoreError> {
    match until(conn)? {
        None => Ok(()),
        Some(_) => Err(StoreError::Unusable(format!(
            "the first pass over {} is not over: let `results-projector run --until-caught-up` end it first",
            path.display()
        ))),
    }
}

/// Begins the first pass: up to `last`.
pub(super) fn begin(conn: &Connection, last: StreamSeq) -> Result<(), StoreError> {
    conn.execute(
        "INSERT INTO projector_meta (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO NOTHING",
        params![LAST_KEY, last.to_string()],
    )
    .map_err(StoreError::sqlite("begin the first pass over the backend's rows"))?;
    Ok(())
}

/// Whether this is the first message of its result in the pass; it is remembered.
pub(super) fn is_first(conn: &Connection, result_id: &str) -> Result<bool, StoreError> {
    conn.prepare_cached(
        "INSERT INTO projector_first_pass (result_id) VALUES (?1) ON CONFLICT (result_id) DO NOTHING",
    )
    .and_then(|mut insert| insert.execute([result_id]))
    .map(|inserted| inserted == 1)
    .map_err(StoreError::sqlite("remember a result of the first pass"))
}

/// The pass is over.
pub(super) fn end(conn: &Connection) -> Result<(), StoreError> {
    conn.execute("DELETE FROM projector_meta WHERE key = ?1", [LAST_KEY])
        .and_then(|_| conn.execute("DELETE FROM projector_first_pass", []))
        .map_err(StoreError::sqlite("end the first pass over the backend's rows"))?;
    Ok(())
}
