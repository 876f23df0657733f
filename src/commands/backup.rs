//! `backup`.

use std::io::Write;
use std::path::Path;
use std::time::Instant;

use serde_json::json;

use super::{CommandError, JSON_VERSION, text};
use crate::config::Config;
use crate::store::backup;
use crate::wire::shown;

/// Copies the live database, checked before it takes its name.
///
/// # Errors
/// The database's, the disk's, the output's; a name that is taken.
pub fn backup(
    config: &Config,
    to: &Path,
    force: bool,
    as_json: bool,
    out: &mut dyn Write,
) -> Result<(), CommandError> {
    let started = Instant::now();
    let done = backup::write(&config.store.path, to, force)?;
    let seconds = started.elapsed().as_secs_f64();
    if as_json {
        let document = json!({
            "schema_version": JSON_VERSION, "file": to.display().to_string(), "seconds": seconds, "backup": done,
        });
        return text::json(out, &document);
    }
    writeln!(
        out,
        "backed up to {}: {} in {seconds:.1} s, checked",
        text::inert(&to.display().to_string(), 1_000),
        shown::size(done.bytes)
    )?;
    let rows: Vec<Vec<String>> = done
        .streams
        .iter()
        .map(|at| {
            vec![
                at.stream.clone(),
                shown::grouped(at.position),
                at.incarnation.to_string(),
            ]
        })
        .collect();
    text::table(out, &["STREAM", "POSITION", "INCARNATION"], &rows)?;
    Ok(())
}
