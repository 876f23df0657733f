//! `completions`: the script that completes this program's commands and flags in a shell.

use std::io::Write;

use clap_complete::Shell;

use super::CommandError;
use crate::cli::pages;

/// Prints the script.
///
/// # Errors
/// The output's.
pub fn completions(shell: Shell, out: &mut dyn Write) -> Result<(), CommandError> {
    out.write_all(&pages::completions(shell))?;
    Ok(())
}
