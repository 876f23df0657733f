//! `outputs list`.

use std::io::Write;

use serde_json::json;

use super::{CommandError, JSON_VERSION, text};
use crate::cli::StateArg;
use crate::config::Config;
use crate::store::{output_book, read_only};
use crate::wire::output::State;

impl From<StateArg> for State {
    fn from(state: StateArg) -> Self {
        match state {
            StateArg::Fetched => Self::Fetched,
            StateArg::Pending => Self::Pending,
            StateArg::Gone => Self::Gone,
            StateArg::TooLarge => Self::TooLarge,
            StateArg::Refused => Self::Refused,
        }
    }
}

/// Lists outputs that are not fetched, or those in one state.
///
/// # Errors
/// The database's, the output's.
pub fn list(
    config: &Config,
    as_json: bool,
    state: Option<StateArg>,
    limit: Option<u64>,
    out: &mut dyn Write,
) -> Result<(), CommandError> {
    let listed = output_book::list(&read_only(&config.store.path)?, state.map(State::from), limit)?;
    if as_json {
        return text::json(out, &json!({ "schema_version": JSON_VERSION, "outputs": listed }));
    }
    if listed.is_empty() {
        writeln!(out, "no such outputs")?;
        return Ok(());
    }
    let rows: Vec<Vec<String>> = listed
        .iter()
        .map(|output| {
            vec![
                text::inert(&output.result_id, 40),
                output.field.clone(),
                output.state.clone(),
                output.attempts.to_string(),
                output.next_try_wall.clone().unwrap_or_else(|| "-".to_owned()),
                text::inert(&output.object, 80),
                output
                    .reason
                    .as_deref()
                    .map_or(String::new(), |reason| text::inert(reason, 100)),
            ]
        })
        .collect();
    text::table(
        out,
        &[
            "RESULT", "FIELD", "STATE", "TRIES", "NEXT TRY", "OBJECT", "REASON",
        ],
        &rows,
    )?;
    Ok(())
}
