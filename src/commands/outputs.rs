//! `outputs list` and `outputs retry`.

use std::io::Write;

use serde_json::json;

use super::hands::ask_all;
use super::{CommandError, JSON_VERSION, text, told};
use crate::cli::{OutputArgs, StateArg};
use crate::config::Config;
use crate::service::books::{Answer, OutputKey, OutputLine, Request};
use crate::store::{output_book, read_only};
use crate::wire::output::State;
use crate::wire::result::Field;

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

/// Asks for outputs again. Returns whether all of them were fetched.
///
/// # Errors
/// The database's, the service's, the server's, the output's; a state that is never asked for.
pub async fn retry(config: &Config, which: &OutputArgs, out: &mut dyn Write) -> Result<bool, CommandError> {
    let state = which.state.map(State::from);
    match state {
        Some(State::Refused) => {
            return Err(CommandError::Usage(
                "a refused output belongs to another result and is never asked for; `outputs list --state refused` shows them"
                    .to_owned(),
            ));
        }
        Some(State::Fetched) => {
            return Err(CommandError::Usage("fetched outputs are not missing".to_owned()));
        }
        _ => {}
    }
    if which.result.is_none() && state.is_none() && !which.all {
        return Err(CommandError::Usage(
            "which outputs? name a result (--result), a state (--state), or --all".to_owned(),
        ));
    }
    let field = which.field.as_deref().and_then(Field::parse);
    let keys = output_book::keys(
        &read_only(&config.store.path)?,
        which.result.as_deref(),
        field,
        state,
    )?;
    let request = |some: &[(String, Field)]| {
        let keys = some.iter().map(|(result_id, field)| OutputKey {
            result_id: result_id.clone(),
            field: field.as_str().to_owned(),
        });
        Request::RetryOutputs(keys.collect())
    };
    let lines = ask_all(config, &keys, request, |answer| match answer {
        Answer::Outputs(lines) => Ok(lines),
        other => Err(other),
    })
    .await?;
    let good = lines.iter().all(|line| line.state == State::Fetched.as_str());
    told(print(&lines, config, which.json, out), good)
}

fn print(
    lines: &[OutputLine],
    config: &Config,
    as_json: bool,
    out: &mut dyn Write,
) -> Result<(), CommandError> {
    let count = |state: &str| lines.iter().filter(|line| line.state == state).count();
    let counts = ["fetched", "pending", "gone", "too_large"].map(|state| (state, count(state)));
    if as_json {
        let mut document = json!({ "schema_version": JSON_VERSION, "outputs": lines });
        for (state, count) in counts {
            document[state] = json!(count);
        }
        return text::json(out, &document);
    }
    if lines.is_empty() {
        writeln!(out, "no such outputs")?;
        return Ok(());
    }
    let rows: Vec<Vec<String>> = lines
        .iter()
        .filter(|line| line.state != State::Fetched.as_str())
        .map(|line| {
            vec![
                text::inert(&line.key.result_id, 40),
                line.key.field.clone(),
                line.state.clone(),
                line.reason
                    .as_deref()
                    .map_or(String::new(), |reason| text::inert(reason, 120)),
            ]
        })
        .collect();
    if !rows.is_empty() {
        text::table(out, &["RESULT", "FIELD", "STATE", "REASON"], &rows)?;
    }
    let [(_, fetched), (_, pending), (_, gone), (_, too_large)] = counts;
    writeln!(
        out,
        "{fetched} came back, {pending} pending, {gone} gone, {too_large} too large"
    )?;
    if too_large > 0 {
        writeln!(
            out,
            "too large is what has more than outputs.max_bytes ({} bytes): raise it, and outputs.in_flight_bytes with it, \
             then start the service again",
            config.outputs.max_bytes
        )?;
    }
    Ok(())
}
