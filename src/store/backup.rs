//! A consistent copy of the live database, checked before it takes its name.
//!
//! SQLite's backup interface, in one step: pages are copied as they are, under one snapshot. In several steps, each
//! commit of the service would begin the copy anew, so that it never ended; `VACUUM INTO` holds its snapshot for the many
//! times longer that building every index takes. The writer waits for neither, but its log can be cut back only once
//! the snapshot is gone: the shortest one keeps the log the shortest.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};
use serde::Serialize;

use super::file::{COMPANIONS, MODE, folder, remove_if_there, sync_folder, with_suffix};
use super::{FileIdentity, StoreError, disk_free_bytes, file_bytes, migrate, open, position};

/// A backup leaves so much of the disk free.
const MARGIN_BYTES: u64 = 16 << 20;
/// Tries at a database that is busy, and the pause between them.
const TRIES: u32 = 100;
const PAUSE: Duration = Duration::from_millis(50);

/// What a backup holds.
#[derive(Clone, Debug, Serialize)]
pub struct BackedUp {
    /// Bytes of the file.
    pub bytes: u64,
    /// The database's own id.
    pub database_id: String,
    /// Where each stream stands in it.
    pub streams: Vec<StreamAt>,
}

/// Where a stream stands in a backup.
#[derive(Clone, Debug, Serialize)]
pub struct StreamAt {
    /// The stream.
    pub stream: String,
    /// The incarnation of the stream's sequences.
    pub incarnation: u64,
    /// The last committed sequence.
    pub position: u64,
}

/// Copies the database at `path` to `to`. Nothing is there under that name before the copy is whole, checked and on disk.
///
/// # Errors
/// One line with the way out: a name that is taken (unless `force`), too little space, a copy that is not sound.
pub fn write(path: &Path, to: &Path, force: bool) -> Result<BackedUp, StoreError> {
    let source = open::read_only(path)?;
    check_name(path, to, force)?;
    let part = Part::begin(to)?;
    check_space(&source, to)?;
    copy(&source, &part.path)?;
    drop(source);
    let done = check(&part.path)?;
    part.finish(to)?;
    Ok(done)
}

/// What will be the backup, under a name of its own. The lock keeps a second backup from taking it for a leftover.
struct Part {
    path: PathBuf,
    file: File,
    finished: bool,
}

impl Part {
    fn begin(to: &Path) -> Result<Self, StoreError> {
        let path = with_suffix(to, ".part");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(MODE)
            .open(&path)
            .map_err(StoreError::io(format!("make {}", path.display())))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(StoreError::Locked(format!(
                    "another backup is writing {}: wait for it, or name another file",
                    path.display()
                )));
            }
            Err(TryLockError::Error(source)) => {
                return Err(StoreError::Io {
                    what: format!("lock {}", path.display()),
                    source,
                });
            }
        }
        let part = Self {
            path,
            file,
            finished: false,
        };
        part.empty()
            .map_err(StoreError::io(format!("empty {}", part.path.display())))?;
        Ok(part)
    }

    /// A backup that was killed leaves its part, and maybe SQLite's files beside it.
    fn empty(&self) -> std::io::Result<()> {
        for suffix in COMPANIONS {
            remove_if_there(&with_suffix(&self.path, suffix))?;
        }
        self.file.set_permissions(fs::Permissions::from_mode(MODE))?;
        self.file.set_len(0)
    }

    fn finish(mut self, to: &Path) -> Result<(), StoreError> {
        let finish = || -> std::io::Result<()> {
            self.file.sync_all()?;
            fs::rename(&self.path, to)?;
            sync_folder(to)
        };
        finish().map_err(StoreError::io(format!("finish the backup {}", to.display())))?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.finished {
            // What cannot be removed now is emptied by the next backup of this name.
            let _removed = fs::remove_file(&self.path);
        }
    }
}

fn check_name(path: &Path, to: &Path, force: bool) -> Result<(), StoreError> {
    let name = to.display();
    if let Some(taken) = COMPANIONS
        .iter()
        .map(|suffix| with_suffix(to, suffix))
        .find(|companion| companion.exists())
    {
        return Err(StoreError::Unusable(format!(
            "cannot back up to {name}: {} is there, so a database of that name is open or was not closed cleanly, and \
             would be mixed up with the backup; name another file",
            taken.display()
        )));
    }
    let Ok(found) = FileIdentity::of(to) else {
        return Ok(());
    };
    if FileIdentity::of(path).is_ok_and(|source| source == found) {
        return Err(StoreError::Unusable(format!(
            "cannot back up to {name}: that is the database itself; name another file"
        )));
    }
    if !force {
        return Err(StoreError::Unusable(format!(
            "cannot back up to {name}: it is there already; name another file, or replace it with --force"
        )));
    }
    Ok(())
}

fn check_space(source: &Connection, to: &Path) -> Result<(), StoreError> {
    let number = |pragma: &str| {
        source
            .query_row(&format!("PRAGMA {pragma}"), [], |row| row.get::<_, u64>(0))
            .map_err(StoreError::sqlite("read the database's size"))
    };
    let needed = number("page_count")? * number("page_size")? + MARGIN_BYTES;
    // A file system that does not say is found out by writing.
    let Some(free) = disk_free_bytes(folder(to)) else {
        return Ok(());
    };
    if free < needed {
        return Err(StoreError::Io {
            what: format!("back up to {}", to.display()),
            source: std::io::Error::new(
                std::io::ErrorKind::StorageFull,
                format!(
                    "{free} bytes are free on its disk, {needed} are needed: free some space, or name a file elsewhere"
                ),
            ),
        });
    }
    Ok(())
}

fn copy(source: &Connection, to: &Path) -> Result<(), StoreError> {
    let what = || format!("copy the database to {}", to.display());
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut target = Connection::open_with_flags(to, flags).map_err(StoreError::sqlite(what()))?;
    let mut run = || -> Result<bool, rusqlite::Error> {
        // Until it is whole the copy is nobody's, and then it is synced as a whole.
        target.execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF")?;
        let backup = Backup::new(source, &mut target)?;
        for _ in 0..TRIES {
            match backup.step(-1)? {
                StepResult::Done => return Ok(true),
                _ => std::thread::sleep(PAUSE),
            }
        }
        Ok(false)
    };
    match run().map_err(StoreError::sqlite(what()))? {
        true => Ok(()),
        false => Err(StoreError::Io {
            what: what(),
            source: std::io::Error::other("the database stays busy; try again"),
        }),
    }
}

/// What a backup must be before it is called one: sound pages, an id, positions that can be read and that add up (I3).
fn check(part: &Path) -> Result<BackedUp, StoreError> {
    // Nobody else has it, so it needs no log of its own, which would stay beside it.
    let conn = open::immutable(part).map_err(StoreError::sqlite("open the copy"))?;
    let unsound = |what: String| {
        StoreError::Unusable(format!(
            "the copy is not sound ({what}), so there is no backup: the database or the disk is damaged"
        ))
    };
    if let Some(what) = open::unsound(&conn)? {
        return Err(unsound(what));
    }
    let database_id =
        migrate::meta(&conn, "database_id")?.ok_or_else(|| unsound("it has no id".to_owned()))?;
    let streams = position::read_all(&conn, "main")?
        .into_iter()
        .map(|(stream, standing)| StreamAt {
            stream: stream.to_string(),
            incarnation: standing.incarnation,
            position: standing.position.0,
        })
        .collect();
    Ok(BackedUp {
        bytes: file_bytes(part),
        database_id,
        streams,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Owner, Store, StoreOptions};

    fn database(folder: &Path) -> (Store, PathBuf) {
        let path = folder.join("results.db");
        let me = Owner {
            pid: 1,
            ..Owner::default()
        };
        (Store::open(&path, &StoreOptions::default(), &me).unwrap(), path)
    }

    #[test]
    fn a_backup_is_made_of_an_open_database_and_takes_no_name_that_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let (store, path) = database(folder.path());
        let to = folder.path().join("backup.db");
        let done = write(&path, &to, false).unwrap();
        assert_eq!(
            (done.database_id.as_str(), done.bytes),
            (store.database_id(), file_bytes(&to))
        );
        assert_eq!(fs::metadata(&to).unwrap().permissions().mode() & 0o777, MODE);
        let refused = write(&path, &to, false).unwrap_err();
        assert!(refused.to_string().contains("--force"), "{refused}");
        assert_eq!(refused.exit_code(), 2);
        write(&path, &to, true).unwrap();
        let itself = write(&path, &path, true).unwrap_err();
        assert_eq!(itself.exit_code(), 2);
        let names: Vec<String> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.starts_with("backup"))
            .collect();
        assert_eq!(names, ["backup.db"]);
    }

    #[test]
    fn a_copy_whose_counts_do_not_add_up_is_no_backup() {
        let folder = tempfile::tempdir().unwrap();
        let (store, path) = database(folder.path());
        drop(store);
        Connection::open(&path)
            .unwrap()
            .execute_batch(
                "INSERT INTO projector_position (stream, incarnation, first, position, projected, dead, ignored, gap, past)
                 VALUES ('RESULTS', 1, 1, 10, 8, 1, 0, 0, '[]')",
            )
            .unwrap();
        let to = folder.path().join("backup.db");
        let refused = write(&path, &to, false).unwrap_err().to_string();
        assert!(refused.contains("RESULTS") && refused.contains("I3"), "{refused}");
        assert!(!to.exists() && !with_suffix(&to, ".part").exists());
    }

    #[test]
    fn what_a_killed_backup_left_is_no_hindrance() {
        let folder = tempfile::tempdir().unwrap();
        let (_store, path) = database(folder.path());
        let to = folder.path().join("backup.db");
        fs::write(with_suffix(&to, ".part"), b"half of a database").unwrap();
        fs::write(with_suffix(&to, ".part-journal"), b"and its journal").unwrap();
        write(&path, &to, false).unwrap();
        assert!(!with_suffix(&to, ".part").exists() && !with_suffix(&to, ".part-journal").exists());
    }
}
