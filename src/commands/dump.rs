//! `dump`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::CommandError;
use crate::config::Config;
use crate::store::{dump, read_only};

/// What an SQLite database begins with.
const MAGIC: &[u8] = b"SQLite format 3";

/// Writes the canonical dump to `file`, or to `out`.
///
/// # Errors
/// The database's, the output's; a table that is not dumped.
pub fn dump(
    config: &Config,
    tables: &[String],
    file: Option<&Path>,
    out: &mut dyn Write,
) -> Result<(), CommandError> {
    let conn = read_only(&config.store.path)?;
    let Some(path) = file else {
        let mut out = BufWriter::new(out);
        dump::write(&conn, tables, &mut out)?;
        out.flush()?;
        return Ok(());
    };
    if is_database(path) {
        return Err(CommandError::Usage(format!(
            "{} is a database, which the dump would replace; name another file",
            path.display()
        )));
    }
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let written = || -> Result<(), CommandError> {
        let mut to = BufWriter::new(create(&part)?);
        dump::write(&conn, tables, &mut to)?;
        to.into_inner()
            .map_err(io::IntoInnerError::into_error)?
            .sync_all()?;
        fs::rename(&part, path)?;
        Ok(())
    };
    written().inspect_err(|_| {
        // The first error is the one to tell.
        let _removed = fs::remove_file(&part);
    })
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o640)
        .open(path)
}

fn is_database(path: &Path) -> bool {
    let mut begins = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAGIC.len() as u64).read_to_end(&mut begins))
        .is_ok_and(|_| begins == MAGIC)
}
