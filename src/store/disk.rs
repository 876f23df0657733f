//! How much room a disk has.

use std::path::Path;

use crate::wire::shown::size;

/// Free bytes on the disk of a file or folder that is there; `None`: it does not say.
#[must_use]
pub fn disk_free_bytes(path: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(path).ok()?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// In words: the disk of a database has less room than the reserve (bytes; 0: none). `None`: it has enough.
#[must_use]
pub fn below_reserve(path: &Path, reserve_bytes: u64) -> Option<String> {
    let free = disk_free_bytes(path)?;
    (free < reserve_bytes).then(|| {
        format!(
            "{} are free on the disk of {}, the reserve (store.disk_reserve) is {}: free some space",
            size(free),
            path.display(),
            size(reserve_bytes)
        )
    })
}
