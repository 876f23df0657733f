//! `config check`, `config show` and `config example`.

use std::io::Write;

use serde_json::json;

use super::{CommandError, JSON_VERSION, text};
use crate::config::{self, Config};
use crate::service::error::ServiceError;
use crate::source::connect;

/// Characters of a value, or of where it came from, that `show` prints without `--json`.
const VALUE_MAX: usize = 400;

/// Says that the configuration is good, and that the files which it names for the connection can be read by this user.
///
/// # Errors
/// A file's; the output's.
pub fn check(config: &Config, out: &mut dyn Write) -> Result<(), CommandError> {
    connect::check(&config.nats).map_err(ServiceError::from)?;
    let changed = config.shown().iter().filter(|shown| shown.is_set).count();
    writeln!(
        out,
        "the configuration is good: {changed} settings differ from the defaults; database {}, servers {}",
        config.store.path.display(),
        config.nats.url
    )?;
    Ok(())
}

/// Prints a configuration file with every setting, all commented out.
///
/// # Errors
/// The output's.
pub fn example(out: &mut dyn Write) -> Result<(), CommandError> {
    out.write_all(config::example().as_bytes())?;
    Ok(())
}

/// Shows every setting.
///
/// # Errors
/// The output's.
pub fn show(config: &Config, as_json: bool, out: &mut dyn Write) -> Result<(), CommandError> {
    if as_json {
        return text::json(
            out,
            &json!({ "schema_version": JSON_VERSION, "settings": config.shown() }),
        );
    }
    let rows: Vec<Vec<String>> = config
        .shown()
        .iter()
        .map(|shown| {
            vec![
                shown.key.to_owned(),
                shown
                    .value
                    .as_deref()
                    .map_or("-".to_owned(), |value| text::inert(value, VALUE_MAX)),
                text::inert(&shown.origin, VALUE_MAX),
            ]
        })
        .collect();
    text::table(out, &["SETTING", "VALUE", "FROM"], &rows)?;
    Ok(())
}
