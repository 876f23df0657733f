//! The backend's own file, made anew (DESIGN §8.1): a copy of it, in which the projected tables are emptied and filled
//! again. All else in it is the backend's, which must be stopped from before the copy until the copy takes its place.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension, params};

use super::file::{file_bytes, wal_path};
use super::names::quoted;
use super::scratch::{self, settings};
use super::swap::{Replaced, release, swap};
use super::table::{MAIN, Table};
use super::{StoreError, columns, first_pass};

/// `projector_meta` key: the state of the file that a copy was made of.
const REBUILT_FROM: &str = "rebuilt_from";

/// Where a copy waits for its operator: beside the backend's file.
#[must_use]
fn offered_path(database: &Path) -> PathBuf {
    scratch::path(database, "rebuilt")
}

/// Which file it is and when it was last written, in words; none while it has a log.
fn state_of(database: &Path) -> Result<String, StoreError> {
    let look = || StoreError::io(format!("look at {}", database.display()));
    if file_bytes(&wal_path(database)) > 0 {
        return Err(changed(database));
    }
    let meta = fs::metadata(database).map_err(look())?;
    Ok(format!(
        "{}-{}-{}-{}.{:09}",
        meta.dev(),
        meta.ino(),
        meta.len(),
        meta.mtime(),
        meta.mtime_nsec()
    ))
}

fn changed(database: &Path) -> StoreError {
    StoreError::Unusable(format!(
        "{} has been written since it was copied: keep the backend stopped, and rebuild again",
        database.display()
    ))
}

/// Copies the backend's file to `scratch` and empties there what is projected.
///
/// # Errors
/// [`StoreError::Locked`] while anybody has it open; the system's; SQLite's.
pub fn copy(database: &Path, scratch: &Path) -> Result<(), StoreError> {
    release(database)?;
    let state = state_of(database)?;
    fs::copy(database, scratch).map_err(StoreError::io(format!(
        "copy {} to {}",
        database.display(),
        scratch.display()
    )))?;
    let conn = open(scratch)?;
    settings(&conn)?;
    let what = || StoreError::sqlite("empty the copy's projected tables");
    first_pass::check_over(&conn, database)?;
    let mut tables: Vec<String> = columns::projected_tables().map(str::to_owned).collect();
    let exploded = Table::exploded(&conn, MAIN)?.into_iter();
    tables.extend(exploded.filter(Table::is_table).map(|table| table.name));
    for table in tables {
        let there: Option<String> = conn
            .query_row(
                "SELECT name FROM sqlite_schema WHERE type = 'table' AND name = ?1 COLLATE NOCASE",
                [&table],
                |row| row.get(0),
            )
            .optional()
            .map_err(what())?;
        if let Some(name) = there {
            conn.execute(&format!("DELETE FROM {}", quoted(&name)), [])
                .map_err(what())?;
        }
    }
    conn.execute(
        "INSERT OR REPLACE INTO projector_meta (key, value) VALUES (?1, ?2)",
        params![REBUILT_FROM, state],
    )
    .map_err(what())?;
    Ok(())
}

fn open(path: &Path) -> Result<Connection, StoreError> {
    let opening = || StoreError::sqlite(format!("open {}", path.display()));
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags).map_err(opening())?;
    for (switch, on) in [
        (DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, false),
    ] {
        conn.set_db_config(switch, on).map_err(opening())?;
    }
    Ok(conn)
}

/// Leaves a finished copy beside the file for its operator to put in place; one that waited there goes.
///
/// # Errors
/// [`StoreError::Unusable`] when the file has changed meanwhile; the system's.
pub fn offer(scratch: &Path, database: &Path) -> Result<PathBuf, StoreError> {
    check(scratch, database)?;
    scratch::sync(scratch)?;
    let offered = offered_path(database);
    // Somebody may have looked into the earlier one: its log would be taken for the new one's.
    scratch::remove(&offered)?;
    fs::rename(scratch, &offered).map_err(StoreError::io(format!("name the copy {}", offered.display())))?;
    Ok(offered)
}

/// Puts the copy that waits in the file's place. The caller holds the database's lock.
///
/// # Errors
/// [`StoreError::Unusable`] when none waits, or the file has changed since it was copied; as [`swap`].
pub fn take(database: &Path, keep: Option<&Path>) -> Result<(), StoreError> {
    let offered = offered_path(database);
    match fs::metadata(&offered) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(StoreError::Unusable(format!(
                "no {} waits to be put in place: `rebuild` makes one, for the backend's own file",
                offered.display()
            )));
        }
        Err(error) => return Err(StoreError::io(format!("look at {}", offered.display()))(error)),
        Ok(_) => {}
    }
    release(database)?;
    check(&offered, database)?;
    swap(&offered, database, Replaced::Database(keep))
}

fn check(copy: &Path, database: &Path) -> Result<(), StoreError> {
    let conn = open(copy)?;
    let from = super::migrate::meta(&conn, REBUILT_FROM)?;
    match from == Some(state_of(database)?) {
        true => Ok(()),
        false => Err(changed(database)),
    }
}
