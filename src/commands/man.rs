//! `man`: the manual pages.

use std::fs;
use std::io::Write;
use std::path::Path;

use super::CommandError;
use crate::cli::pages;

/// Prints the first page, or writes all of them into a folder.
///
/// # Errors
/// The output's; the folder's.
pub fn man(folder: Option<&Path>, out: &mut dyn Write) -> Result<(), CommandError> {
    let Some(folder) = folder else {
        out.write_all(&pages::manual()?)?;
        return Ok(());
    };
    fs::create_dir_all(folder)
        .and_then(|()| pages::manuals(folder))
        .map_err(|error| {
            CommandError::Undone(format!(
                "cannot write the manual pages into {}: {error}; name another folder with --out",
                folder.display()
            ))
        })
}
