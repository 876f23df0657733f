//! I8: one writer. The lock is a file of its own beside the database; the kernel lets go of it when the
//! process ends, however it ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::StoreError;
use super::file::{FileIdentity, MODE, folder, meeting_path, with_suffix};

/// Who holds a database, as written into the lock file.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Owner {
    /// Its process id.
    pub pid: u32,
    /// When it started, UTC.
    pub started_at: String,
    /// The host's name.
    pub host: String,
}

/// A process that is ending, or one that another is just being started from, holds what it had open for a moment longer.
const BRIEFLY: Duration = Duration::from_millis(300);

/// Held for as long as this process may write the database.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// The lock file of a database: its path with `.lock` appended; one for all links to it.
#[must_use]
fn lock_path(database: &Path) -> PathBuf {
    with_suffix(&meeting_path(database), ".lock")
}

impl Lock {
    /// Takes the lock, or says who has it.
    ///
    /// # Errors
    /// [`StoreError::Locked`] with the other process's id and start time; an I/O error with the path.
    pub fn take(database: &Path, me: &Owner) -> Result<Self, StoreError> {
        // The lock lies beside the database: a folder that is not there is told in the database's words.
        let folder = folder(database);
        if !folder.is_dir() {
            return Err(StoreError::Unusable(format!(
                "cannot open the database {}: no folder {}; make it, or name another file with --db",
                database.display(),
                folder.display()
            )));
        }
        let path = lock_path(database);
        let since = Instant::now();
        let mut file = loop {
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(MODE)
                .open(&path)
                .map_err(|source| StoreError::no_file(database, source))?;
            match file.try_lock() {
                // One who held it may have removed it since it was opened, and others meet at a new one.
                Ok(()) if is_at(&file, &path)? => break file,
                Ok(()) => {}
                Err(TryLockError::WouldBlock) if since.elapsed() < BRIEFLY => {
                    std::thread::sleep(BRIEFLY / 10);
                }
                Err(TryLockError::WouldBlock) => {
                    let mut text = String::new();
                    let owner = file
                        .read_to_string(&mut text)
                        .ok()
                        .and_then(|_| serde_json::from_str::<Owner>(&text).ok());
                    let who = match owner {
                        Some(owner) => format!(
                            "process {} on {}, running since {}",
                            owner.pid, owner.host, owner.started_at
                        ),
                        None => "another process".to_owned(),
                    };
                    return Err(StoreError::Locked(format!(
                        "{} is in use by {who}: one process writes a database; stop that one first",
                        database.display()
                    )));
                }
                Err(TryLockError::Error(source)) => {
                    return Err(StoreError::Io {
                        what: format!("lock {}", path.display()),
                        source,
                    });
                }
            }
        };
        let text = serde_json::to_string(me).unwrap_or_default();
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(text.as_bytes()))
            .map_err(StoreError::io(format!("write the lock file {}", path.display())))?;
        Ok(Self { _file: file })
    }
}

impl Lock {
    /// Lets go of it, and leaves no file of it.
    ///
    /// # Errors
    /// The system's.
    pub fn remove(self, database: &Path) -> Result<(), StoreError> {
        let path = lock_path(database);
        // While it is held: who has opened it by then finds another at its path, and takes that one.
        std::fs::remove_file(&path)
            .map_err(StoreError::io(format!("remove the lock file {}", path.display())))
    }
}

/// Whether a path names the file that is open.
fn is_at(file: &File, path: &Path) -> Result<bool, StoreError> {
    let looking = || StoreError::io(format!("look at {}", path.display()));
    let open = file.metadata().map_err(looking())?;
    match FileIdentity::of(path) {
        Ok(named) => Ok(named == FileIdentity::from(&open)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(looking()(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn owner() -> Owner {
        Owner {
            pid: 4711,
            started_at: "2026-06-01T00:00:00+00:00".into(),
            host: "alpha".into(),
        }
    }

    #[test]
    fn a_link_and_its_target_share_one_lock_also_before_the_file_is_made() {
        let folder = tempfile::tempdir().unwrap();
        let (real, link) = (
            folder.path().join("data/results.db"),
            folder.path().join("link.db"),
        );
        std::fs::create_dir(folder.path().join("data")).unwrap();
        std::os::unix::fs::symlink("data/results.db", &link).unwrap();
        for made in [false, true] {
            if made {
                std::fs::write(&real, b"").unwrap();
            }
            let held = Lock::take(&link, &owner()).unwrap();
            assert!(matches!(Lock::take(&real, &owner()), Err(StoreError::Locked(_))));
            drop(held);
            let _held = Lock::take(&real, &owner()).unwrap();
            assert!(matches!(Lock::take(&link, &owner()), Err(StoreError::Locked(_))));
        }
        assert!(!folder.path().join("link.db.lock").exists());
    }

    /// As the users of scratches do: the file goes while it is held. Nobody may then hold what nobody else would find.
    #[test]
    fn a_lock_file_that_goes_with_its_holder_never_lets_two_in() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("results.db");
        let (inside, taken) = (AtomicU32::new(0), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while taken.load(Ordering::SeqCst) < 2_000 {
                        let Ok(held) = Lock::take(&database, &owner()) else {
                            continue;
                        };
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        taken.fetch_add(1, Ordering::SeqCst);
                        inside.fetch_sub(1, Ordering::SeqCst);
                        std::fs::remove_file(lock_path(&database)).unwrap();
                        drop(held);
                    }
                });
            }
        });
        assert!(!lock_path(&database).exists());
    }

    #[test]
    fn a_second_owner_is_refused_with_the_first_ones_pid_and_start_time() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("results.db");
        let first = owner();
        let held = Lock::take(&database, &first).unwrap();
        let refused = Lock::take(
            &database,
            &Owner {
                pid: 4712,
                ..first.clone()
            },
        )
        .unwrap_err();
        let text = refused.to_string();
        assert!(
            text.contains("process 4711 on alpha, running since 2026-06-01T00:00:00+00:00"),
            "{text}"
        );
        assert_eq!(refused.exit_code(), 2);
        drop(held);
        Lock::take(&database, &first).unwrap();
    }
}
