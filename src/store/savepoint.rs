//! Part of a transaction that may fail alone.

use rusqlite::Connection;

use super::error::{Class, StoreError};

/// Runs work so that its data error undoes it alone: that is the inner error. After an outer one the transaction is lost.
pub(super) fn undone_alone<T>(
    conn: &Connection,
    work: impl FnOnce() -> Result<T, StoreError>,
) -> Result<Result<T, StoreError>, StoreError> {
    let run = |sql: &str| {
        conn.prepare_cached(sql)
            .and_then(|mut statement| statement.execute([]))
            .map_err(StoreError::sqlite("set a savepoint"))
    };
    run("SAVEPOINT work")?;
    let outcome = work();
    match &outcome {
        Ok(_) => {}
        // A full disk has rolled back the whole transaction already: a further statement would commit by itself.
        Err(error) if error.class() != Class::Data || conn.is_autocommit() => return outcome.map(Ok),
        Err(_) => {
            run("ROLLBACK TO work")?;
        }
    }
    run("RELEASE work")?;
    Ok(outcome)
}
