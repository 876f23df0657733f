//! `detach`: takes away what this service has added, after asking.

use std::io::{IsTerminal, Write, stdin};
use std::path::Path;

use super::{CommandError, text};
use crate::cli::DetachArgs;
use crate::config::Config;
use crate::service::detach::detach as detach_from;
use crate::store::{FileKind, file_kind};

/// Detaches. Returns false when the answer to the question was no.
///
/// # Errors
/// The database's, the server's, the output's; usage, when nobody can be asked and `--yes` is not given.
pub async fn detach(config: &Config, args: &DetachArgs, out: &mut dyn Write) -> Result<bool, CommandError> {
    let path = config.store.path.display().to_string();
    if !args.yes && !asked(&config.store.path, out)? {
        return Ok(false);
    }
    let detached = detach_from(config, args.database_only).await?;
    match detached.consumers.as_slice() {
        [] => writeln!(out, "consumers  none deleted")?,
        names => writeln!(out, "consumers  deleted {}", names.join(", "))?,
    }
    match detached.tables {
        Some(tables) => writeln!(
            out,
            "tables     dropped {} from {}; what was projected stays",
            tables.len(),
            text::inert(&path, 400)
        )?,
        None => writeln!(
            out,
            "tables     {} is our own database, and was left as it is",
            text::inert(&path, 400)
        )?,
    }
    Ok(true)
}

fn asked(path: &Path, out: &mut dyn Write) -> Result<bool, CommandError> {
    if !stdin().is_terminal() {
        return Err(CommandError::Usage(
            "nobody can be asked here whether that is meant: say --yes".to_owned(),
        ));
    }
    let shown = text::inert(&path.display().to_string(), 400);
    match file_kind(path)? {
        FileKind::Adopted => writeln!(
            out,
            "Our consumers at the server and our tables in {shown} go, with positions, dead letters and what is still owed. Go on? \
             [y/N]"
        )?,
        _ => writeln!(
            out,
            "Our consumers at the server go; {shown}, a database of our own, stays. Go on? [y/N]"
        )?,
    }
    out.flush()?;
    let mut answer = String::new();
    stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
