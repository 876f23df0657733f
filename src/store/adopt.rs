//! The backend's own file: recognised by its migrations, checked for everything that is written, never altered
//! (contract §6.8, DESIGN §7). Only tables with our prefix are added.

use std::path::Path;

use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::names::quoted;
use super::{StoreError, columns};

/// The table by which the backend's file is known. Never written: an unknown version in it keeps the backend from
/// starting.
pub(super) const MIGRATIONS: &str = "_sqlx_migrations";
/// The first of the backend's migrations with every column that is written, the completions apart.
const NEEDED: i64 = 20_260_927_000_000;
/// The first backend with that migration.
const NEEDED_BACKEND: &str = "0.48.2";

/// Takes out of the backend's file what this service has added to it: its tables, with their indexes. What was projected stays.
/// Returns their names.
pub(super) fn leave(conn: &Connection) -> Result<Vec<String>, StoreError> {
    let work = || -> Result<Vec<String>, rusqlite::Error> {
        let tx = Transaction::new_unchecked(conn, TransactionBehavior::Immediate)?;
        let tables: Vec<String> = tx
            .prepare("SELECT name FROM sqlite_schema WHERE type = 'table' AND name LIKE 'projector\\_%' ESCAPE '\\'")?
            .query_map([], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        for table in &tables {
            tx.execute_batch(&format!("DROP TABLE {}", quoted(table)))?;
        }
        tx.commit()?;
        Ok(tables)
    };
    work().map_err(StoreError::sqlite("take our tables out of the backend's file"))
}

/// Makes sure that the backend's file can be worked on.
///
/// # Errors
/// [`StoreError::Unusable`]: the version found and the version needed, or the missing column.
pub(super) fn check(conn: &Connection, path: &Path) -> Result<(), StoreError> {
    let version: Option<i64> = conn
        .query_row(
            "SELECT max(version) FROM _sqlx_migrations WHERE success",
            [],
            |row| row.get(0),
        )
        .map_err(StoreError::sqlite("read the backend's migrations"))?;
    let version = version.unwrap_or(0);
    if version < NEEDED {
        return Err(StoreError::Unusable(format!(
            "{} is a backend's database at migration {version}; {NEEDED} is needed: start a backend of version \
             {NEEDED_BACKEND} or later on it once, which migrates it",
            path.display()
        )));
    }
    columns::check_read_model(conn, true)
}
