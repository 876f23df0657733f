//! Files and their paths: what lies beside a database, and which file a path means.

use std::fs::{self, File, Metadata};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The mode of every file of ours that holds data.
pub(super) const MODE: u32 = 0o640;
/// What SQLite leaves beside a database that is open, or was not closed cleanly.
pub(super) const COMPANIONS: [&str; 3] = ["-wal", "-journal", "-shm"];

/// Which file it is, whatever its path says: device and inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileIdentity(u64, u64);

impl FileIdentity {
    /// Looks at a path.
    ///
    /// # Errors
    /// The system's own.
    pub fn of(path: &Path) -> std::io::Result<Self> {
        Ok(Self::from(&fs::metadata(path)?))
    }
}

impl From<&Metadata> for FileIdentity {
    fn from(meta: &Metadata) -> Self {
        Self(meta.dev(), meta.ino())
    }
}

/// A path with something appended to its name.
#[must_use]
pub fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// The write-ahead log's path: the database's with `-wal` appended.
#[must_use]
pub fn wal_path(database: &Path) -> PathBuf {
    with_suffix(database, "-wal")
}

/// Size of a file in bytes; 0 when it is not there.
#[must_use]
pub fn file_bytes(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |meta| meta.len())
}

/// The folder that a file lies in.
#[must_use]
pub(super) fn folder(path: &Path) -> &Path {
    path.parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

/// Puts the folder that a file lies in on disk, with the names in it.
///
/// # Errors
/// The system's own.
pub(super) fn sync_folder(path: &Path) -> std::io::Result<()> {
    File::open(folder(path))?.sync_all()
}

/// Removes a file, unless none is there.
///
/// # Errors
/// The system's own.
pub fn remove_if_there(path: &Path) -> std::io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The database's own path, where its path is a link to it: what takes its place must lie beside it, and the link stay.
#[must_use]
pub fn real_path(path: &Path) -> PathBuf {
    let mut at = path.to_owned();
    for _ in 0..LINKS_MAX {
        if let Ok(real) = fs::canonicalize(&at) {
            return real;
        }
        // The file that a link names may still have to be made.
        match fs::read_link(&at) {
            Ok(to) => at = at.parent().map_or(to.clone(), |folder| folder.join(&to)),
            Err(_) => return at,
        }
    }
    at
}

/// Links that lead to links: the kernel follows no more either.
const LINKS_MAX: usize = 40;

/// The database's path where it is no link, else its target's. What lies beside the file whatever it is called by, so
/// that all who write it meet there. A path as it was given may be the shorter one, and folders need no following.
#[must_use]
pub fn meeting_path(path: &Path) -> PathBuf {
    if path.is_symlink() {
        real_path(path)
    } else {
        path.to_owned()
    }
}

/// A path as part of one of SQLite's URIs.
pub(super) fn percent_encoded(path: &Path) -> String {
    let mut text = String::new();
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' => {
                text.push(char::from(*byte))
            }
            other => text.push_str(&format!("%{other:02X}")),
        }
    }
    text
}
