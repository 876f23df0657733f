//! A new file takes the database's place (DESIGN §8.1): one rename, before which nothing has happened to the database, and
//! after which nothing of it is left. A log beside it would be taken for the new file's, whose rows would then be the old
//! ones, and no check of SQLite's finds that.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::file::{COMPANIONS, file_bytes, folder, remove_if_there, sync_folder, wal_path, with_suffix};
use super::scratch::{path, sync};
use super::{StoreError, fail};

/// Empties the database's log and takes it away, which nobody allows who has the file open.
///
/// # Errors
/// [`StoreError::Locked`] when somebody has; SQLite's.
pub(super) fn release(database: &Path) -> Result<(), StoreError> {
    let in_use = || {
        StoreError::Locked(format!(
            "{} is open in another process (a reader such as `status`, a copy, or the backend): end that one and try \
             again; nothing has changed",
            database.display()
        ))
    };
    let conn = Connection::open_with_flags(
        database,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )
    .map_err(StoreError::sqlite(format_args!("open {}", database.display())))?;
    let busy = |source: rusqlite::Error| match source.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => in_use(),
        _ => StoreError::Sqlite {
            what: format!("end the log of {}", database.display()),
            source,
        },
    };
    conn.busy_timeout(std::time::Duration::from_secs(2))
        .map_err(busy)?;
    let copied: i64 = conn
        .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))
        .map_err(busy)?;
    if copied != 0 {
        return Err(in_use());
    }
    let mode: String = conn
        .pragma_update_and_check(None, "journal_mode", "DELETE", |row| row.get(0))
        .map_err(busy)?;
    drop(conn);
    if !mode.eq_ignore_ascii_case("delete") || file_bytes(&wal_path(database)) > 0 {
        return Err(in_use());
    }
    Ok(())
}

/// What becomes of the file that is there.
#[derive(Clone, Copy, Debug)]
pub enum Replaced<'a> {
    /// It goes, unless it is kept under this name.
    Database(Option<&'a Path>),
    /// SQLite cannot read it, so nobody has it open and its log cannot be ended: it is kept under this name, with its log.
    Unreadable(&'a Path),
}

/// Puts `new` in the place of `database`. The caller holds the database's lock.
///
/// # Errors
/// Somebody has the database open; the system's. Whatever fails, the database is the old one or the new one, whole.
pub fn swap(new: &Path, database: &Path, replaced: Replaced<'_>) -> Result<(), StoreError> {
    fail::point("before-release");
    let there = database.exists();
    if let (true, Replaced::Database(_)) = (there, replaced) {
        release(database)?;
    }
    fail::point("before-sync");
    if there {
        take_after(new, database)?;
    }
    sync(new)?;
    if let (true, Replaced::Database(Some(keep)) | Replaced::Unreadable(keep)) = (there, replaced) {
        fs::hard_link(database, keep)
            .map_err(StoreError::io(format!("keep the old file as {}", keep.display())))?;
    }
    // Of a database that was lost, or that cannot be read: SQLite would play the log back into the new one.
    for suffix in COMPANIONS {
        let log = with_suffix(database, suffix);
        let done = match replaced {
            Replaced::Unreadable(keep) if suffix != "-shm" => fs::rename(&log, with_suffix(keep, suffix)),
            _ => remove_if_there(&log),
        };
        match done {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(StoreError::io(format!("take {} away", log.display()))(error));
            }
            _ => {}
        }
    }
    fail::point("before-rename");
    fs::rename(new, database).map_err(StoreError::io(format!(
        "rename {} to {}",
        new.display(),
        database.display()
    )))?;
    fail::point("after-rename");
    sync_folder(database).map_err(StoreError::io(format!(
        "put the folder {} on disk",
        folder(database).display()
    )))
}

/// The new file is for those whose the old one is: the service, when its operator rebuilds.
fn take_after(new: &Path, old: &Path) -> Result<(), StoreError> {
    let failed = || StoreError::io(format!("give {} the owner of the old file", new.display()));
    let (old, made) = (
        fs::metadata(old).map_err(failed())?,
        fs::metadata(new).map_err(failed())?,
    );
    if (old.uid(), old.gid()) != (made.uid(), made.gid()) {
        match chown(new, Some(old.uid()), Some(old.gid())) {
            Err(error) if old.uid() == made.uid() => {
                tracing::warn!(%error, gid = old.gid(), "the new file does not get the group of the old one");
            }
            done => done.map_err(failed())?,
        }
    }
    fs::set_permissions(new, old.permissions()).map_err(failed())
}

/// Where the old file is kept: beside the database, its name with the time, and with a number when that is taken.
#[must_use]
pub fn kept_path(database: &Path, now: crate::wire::time::Timestamp) -> std::path::PathBuf {
    let time: String = now
        .stored()
        .chars()
        .take(19)
        .filter(char::is_ascii_alphanumeric)
        .collect();
    let named = |number: u32| match number {
        1 => path(database, &format!("old-{time}")),
        number => path(database, &format!("old-{time}-{number}")),
    };
    (1..)
        .map(named)
        .find(|path| !path.exists())
        .unwrap_or_else(|| named(1))
}
