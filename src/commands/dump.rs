//! `dump`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::CommandError;
use crate::config::Config;
use crate::store::{dump, read_only, with_suffix};

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
    let part = with_suffix(path, ".part");
    let file = create(&part)?;
    let written = move |part: &Path| -> Result<(), CommandError> {
        let mut to = BufWriter::new(file);
        dump::write(&conn, tables, &mut to)?;
        to.into_inner()
            .map_err(io::IntoInnerError::into_error)?
            .sync_all()?;
        fs::rename(part, path)?;
        Ok(())
    };
    written(&part).inspect_err(|_| {
        // The first error is the one to tell.
        let _removed = fs::remove_file(&part);
    })
}

/// The part is its writer's alone: two dumps would write into each other's.
fn create(part: &Path) -> Result<File, CommandError> {
    let opened = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o640)
        .open(part);
    opened.map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => CommandError::Usage(format!(
            "{} is there already: another dump writes it, or one was killed; wait, or remove it and try again",
            part.display()
        )),
        _ => error.into(),
    })
}

fn is_database(path: &Path) -> bool {
    let mut begins = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAGIC.len() as u64).read_to_end(&mut begins))
        .is_ok_and(|_| begins == MAGIC)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn an_unfinished_dump_has_one_writer_and_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let part = folder.path().join("dump.part");
        create(&part).unwrap().write_all(b"half").unwrap();
        let mode = fs::metadata(&part).unwrap().permissions().mode();
        assert_eq!(mode & 0o777 & !0o640, 0);
        let refused = create(&part).unwrap_err();
        assert_eq!(refused.exit_code(), 2);
        assert!(
            refused.to_string().contains("dump.part is there already"),
            "{refused}"
        );
        assert_eq!(fs::read(&part).unwrap(), b"half");
    }
}
