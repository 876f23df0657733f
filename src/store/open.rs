//! Opening: the lock, the file's identity, what kind of file it is, pragmas, migrations (DESIGN §6, §7).

use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use rustix::fs::Access;
use uuid::Uuid;

use super::file::{FileIdentity, MODE, file_bytes, percent_encoded, real_path, wal_path};
use super::kind::{Content, check_kind, content, is_adopted};
use super::{StoreError, derive, migrate, position, scratch};

/// The first SQLite whose WAL cannot lose a reset against a checkpoint of another connection.
pub(super) const WAL_RESET_FIXED: i32 = 3_051_003;
/// An unclean stop is followed by a quick check of at most this long.
const QUICK_CHECK_LIMIT: Duration = Duration::from_secs(10);
/// How long a statement waits for another process's lock before the group is tried again.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// 8 KB: the compromise between large groups and lone rows.
const PAGE_SIZE_BYTES: u32 = 8192;

/// How hard a commit is pressed onto the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Synchronous {
    /// Every commit survives a power cut.
    Full,
    /// The last commits may be lost with the power; the position goes with them, so the stream brings them back.
    Normal,
}

/// What a file is written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// A database that others read meanwhile.
    Live,
    /// A scratch (DESIGN §8.1): read by nobody until the load is over, worth nothing after a crash. Ledgers and counters are made of its rows
    /// once all are there.
    Load,
    /// A scratch whose ledgers and counters stand already and move on with each group.
    LoadOn,
}

/// How the writer's connection is set up.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// See [`Use`].
    pub for_use: Use,
    /// See [`Synchronous`].
    pub synchronous: Synchronous,
    /// SQLite's page cache, bytes.
    pub page_cache_bytes: u64,
    /// Payload bytes that the dead-letter book holds; beyond it only the hash is kept.
    pub dead_letter_bytes_max: u64,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            for_use: Use::Live,
            synchronous: Synchronous::Full,
            page_cache_bytes: 256 << 20,
            dead_letter_bytes_max: 1 << 30,
        }
    }
}

/// Opens the writer's connection, making the database when there is none.
///
/// # Errors
/// One line with the way out: an unusable path, a file that is not ours to write, a newer schema, a damaged file.
pub(super) fn writer(path: &Path, options: &StoreOptions) -> Result<Connection, StoreError> {
    let has_log = file_bytes(&wal_path(path)) > 0;
    let mut conn = connection(path, options)?;
    let adopted = is_adopted(&conn)?;
    if has_log {
        quick_check(&mut conn, path, adopted)?;
    }
    migrate::run(&mut conn, !adopted)?;
    if options.for_use == Use::Load {
        scratch::strip(&conn)?;
    }
    if migrate::meta(&conn, "database_id")?.is_none() {
        conn.execute(
            "INSERT INTO projector_meta (key, value) VALUES ('database_id', ?1), ('made_by', ?2)",
            [
                Uuid::new_v4().to_string(),
                format!("results-projector {}", env!("CARGO_PKG_VERSION")),
            ],
        )
        .map_err(StoreError::sqlite("name the database"))?;
    }
    Ok(conn)
}

/// A connection with the writer's settings on a file that is ours or can be worked on, or empty.
pub(super) fn connection(path: &Path, options: &StoreOptions) -> Result<Connection, StoreError> {
    if rusqlite::version_number() < WAL_RESET_FIXED {
        return Err(StoreError::Unusable(format!(
            "this program was linked with SQLite {}, which can lose commits when two processes checkpoint one \
             database; build it with 3.51.3 or later",
            rusqlite::version()
        )));
    }
    make(path).map_err(|source| StoreError::no_file(path, source))?;
    let opening = || format!("open the database {}", path.display());
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags).map_err(StoreError::sqlite(opening()))?;
    conn.busy_timeout(BUSY_TIMEOUT)
        .map_err(StoreError::sqlite(opening()))?;
    // Before anything changes the file: one that is refused stays as it is.
    check_kind(&conn, path)?;
    let pragma = |name: &str, value: &dyn rusqlite::ToSql| {
        conn.pragma_update(None, name, value)
            .map_err(StoreError::sqlite(format_args!("set pragma {name}")))
    };
    // Without effect on a file that has pages already.
    pragma("page_size", &PAGE_SIZE_BYTES)?;
    match options.for_use {
        Use::Live => {
            log_ahead(&conn, path)?;
            pragma(
                "synchronous",
                &match options.synchronous {
                    Synchronous::Full => "FULL",
                    Synchronous::Normal => "NORMAL",
                },
            )?;
            pragma("temp_store", &"MEMORY")?;
            pragma("mmap_size", &0)?;
        }
        Use::Load | Use::LoadOn => scratch::settings(&conn)?,
    }
    // A scratch holds what has happened already: nobody's trigger is to fire for it again.
    for (switch, on) in [
        (
            DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER,
            options.for_use == Use::Live,
        ),
        (
            DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY,
            options.for_use == Use::Live,
        ),
        // Else a plan may look at the value of a parameter, and each new value has the statement prepared anew.
        (DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true),
    ] {
        conn.set_db_config(switch, on)
            .map_err(StoreError::sqlite("switch triggers, foreign keys and plans"))?;
    }
    conn.set_prepared_statement_cache_capacity(256);
    derive::prepare_affinity(&conn).map_err(StoreError::sqlite(opening()))?;
    Ok(conn)
}

/// Makes the file where there is none, and sees that it can be read and written. One that is there is never opened beside
/// SQLite: closing any descriptor of a file lets go of every lock that this process has on it, SQLite's own too, and then whoever
/// closes the file last elsewhere takes the log away from under us.
fn make(path: &Path) -> std::io::Result<()> {
    // SQLite would create the file 0644; the log and its index take their mode from it.
    let made = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(MODE)
        .open(real_path(path));
    match made {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            if fs::metadata(path)?.is_dir() {
                return Err(std::io::ErrorKind::IsADirectory.into());
            }
            Ok(rustix::fs::access(path, Access::READ_OK | Access::WRITE_OK)?)
        }
        Err(error) => Err(error),
    }
}

fn log_ahead(conn: &Connection, path: &Path) -> Result<(), StoreError> {
    let mode: String = conn
        .pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))
        .map_err(StoreError::sqlite(format_args!(
            "switch {} to write-ahead logging",
            path.display()
        )))?;
    if mode.eq_ignore_ascii_case("wal") {
        return Ok(());
    }
    Err(StoreError::Unusable(format!(
        "{} cannot use write-ahead logging (journal mode stays {mode}): put the database on a local file system",
        path.display()
    )))
}

/// A connection that can only read, for `status` and the lists; works beside a running service.
///
/// # Errors
/// One line with the way out.
pub fn read_only(path: &Path) -> Result<Connection, StoreError> {
    let opening = || format!("open the database {}", path.display());
    FileIdentity::of(path).map_err(|source| StoreError::no_file(path, source))?;
    let conn = reader(path).map_err(|source| StoreError::opening(path, source))?;
    match content(&conn).map_err(StoreError::sqlite(opening()))? {
        Content::Ours | Content::Backend { ours: true } => {}
        Content::Empty => {
            return Err(StoreError::Unusable(format!(
                "{} is empty: nothing has been projected yet; `results-projector run` fills it",
                path.display()
            )));
        }
        other => return Err(other.refusal(path)),
    }
    migrate::check_not_newer(&conn)?;
    Ok(conn)
}

/// A connection that has read the schema.
pub(super) fn reader(path: &Path) -> Result<Connection, rusqlite::Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let open = |conn: Result<Connection, rusqlite::Error>| -> Result<Connection, rusqlite::Error> {
        let conn = conn?;
        conn.busy_timeout(BUSY_TIMEOUT)?;
        conn.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
        Ok(conn)
    };
    match open(Connection::open_with_flags(path, flags)) {
        // A cleanly closed database in a folder that we may not write has no log to read and none can be made; what SQLite says
        // of that depends on whose the file is.
        Err(rusqlite::Error::SqliteFailure(failure, _))
            if (failure.code == ErrorCode::CannotOpen
                || failure.extended_code == rusqlite::ffi::SQLITE_READONLY_DIRECTORY)
                && file_bytes(&wal_path(&real_path(path))) == 0 =>
        {
            open(immutable(path))
        }
        other => other,
    }
}

/// A connection to a file that nobody else has open: it needs no log, and leaves none.
pub(super) fn immutable(path: &Path) -> Result<Connection, rusqlite::Error> {
    let flags =
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    Connection::open_with_flags(format!("file:{}?immutable=1", percent_encoded(path)), flags)
}

/// What makes a file no database to go on with, in words: SQLite's own check, and messages of streams that are not
/// accounted for (I3).
pub(super) fn unsound(conn: &Connection) -> Result<Option<String>, StoreError> {
    let found: String = conn
        .query_row("PRAGMA main.quick_check(1)", [], |row| row.get(0))
        .map_err(StoreError::sqlite("check the file"))?;
    match found.as_str() {
        "ok" => position::first_that_does_not_add_up(conn, "main"),
        _ => Ok(Some(found)),
    }
}

/// A log that is left over tells of an unclean stop; in the backend's file (`shared`) it may be just the backend at work.
fn quick_check(conn: &mut Connection, path: &Path, shared: bool) -> Result<(), StoreError> {
    let why = if shared {
        "the file has a log, of an unclean stop or of another process"
    } else {
        "last stop was unclean"
    };
    let started = Instant::now();
    conn.progress_handler(10_000, Some(move || started.elapsed() > QUICK_CHECK_LIMIT))
        .map_err(StoreError::sqlite("watch the quick check"))?;
    let outcome = conn.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0));
    conn.progress_handler(0, None::<fn() -> bool>)
        .map_err(StoreError::sqlite("end the quick check"))?;
    match outcome {
        Ok(text) if text == "ok" => {
            tracing::info!(
                seconds = started.elapsed().as_secs_f64(),
                "{why}; quick check found the database sound"
            );
            Ok(())
        }
        Ok(text) => Err(StoreError::damaged(path, text)),
        Err(rusqlite::Error::SqliteFailure(failure, _))
            if failure.code == ErrorCode::OperationInterrupted =>
        {
            tracing::warn!(
                seconds = QUICK_CHECK_LIMIT.as_secs(),
                "{why}; quick check found nothing wrong in its time, the rest is unchecked"
            );
            Ok(())
        }
        Err(source) => Err(StoreError::Sqlite {
            what: format!("check {}", path.display()),
            source,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_is_pressed_onto_the_disk_as_hard_as_the_configuration_says() {
        let folder = tempfile::tempdir().unwrap();
        for (synchronous, number) in [(Synchronous::Full, 2), (Synchronous::Normal, 1)] {
            let options = StoreOptions {
                synchronous,
                ..StoreOptions::default()
            };
            let conn = connection(&folder.path().join(format!("{number}.db")), &options).unwrap();
            let pragma = |name: &str| -> String {
                let sql = format!("SELECT CAST({name} AS TEXT) FROM pragma_{name}");
                conn.query_row(&sql, [], |row| row.get(0)).unwrap()
            };
            assert_eq!(pragma("synchronous"), number.to_string());
            assert_eq!(pragma("journal_mode"), "wal");
        }
    }
}
