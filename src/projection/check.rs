//! The state of a check (contract §7.7).

use serde_json::Value;

use crate::wire::fence::{self, Hint};
use crate::wire::json::compact;
use crate::wire::manifest::Check;

/// Characters of stderr in a detail.
const STDERR_CHARS: usize = 200;
const STATES: [&str; 4] = ["ok", "warn", "fail", "unknown"];

/// What a result says about a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckState {
    /// `ok`, `warn`, `fail` or `unknown`.
    pub status: &'static str,
    /// For people.
    pub detail: Option<String>,
}

/// Reads a result that carries evidence (§3.3). `None`: it exited with 0 and its stdout is gone, so it has none after
/// all (D11). A stderr that is gone counts as empty.
#[must_use]
pub fn evaluate(
    check: &Check,
    exit_code: i32,
    stdout: Option<&str>,
    stderr: Option<&str>,
) -> Option<CheckState> {
    let read = if exit_code == 0 {
        report(check, stdout?)
    } else {
        Err(failure(exit_code, stderr.unwrap_or_default()))
    };
    Some(read.unwrap_or_else(|why| CheckState {
        status: "unknown",
        detail: Some(why),
    }))
}

fn failure(exit_code: i32, stderr: &str) -> String {
    let said: String = stderr.trim().chars().take(STDERR_CHARS).collect();
    let colon = if said.is_empty() { "" } else { ": " };
    format!("check script exited {exit_code}{colon}{said}")
}

/// What the script reported, or why that is unknown.
fn report(check: &Check, stdout: &str) -> Result<CheckState, String> {
    let payload: Value = serde_json::from_str(fence::block(stdout, Hint::Check))
        .map_err(|error| format!("check stdout was not JSON: {error}"))?;
    let Value::Object(payload) = payload else {
        return Err("check stdout was not a JSON object".to_owned());
    };
    let field = &check.status_field;
    let sent = payload
        .get(field)
        .ok_or_else(|| format!("stdout has no `{field}` field"))?;
    let status = STATES
        .into_iter()
        .find(|status| sent.as_str() == Some(status))
        .ok_or_else(|| format!("`{field}` = {} is not one of ok/warn/fail/unknown", compact(sent)))?;
    let detail = match payload.get(&check.detail_field) {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => (!text.is_empty()).then(|| text.clone()),
        Some(other) => Some(compact(other)),
    };
    Ok(CheckState { status, detail })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check() -> Check {
        serde_json::from_str(r#"{"name":"c"}"#).unwrap()
    }

    fn detail(exit_code: i32, stderr: Option<&str>) -> String {
        let state = evaluate(&check(), exit_code, None, stderr).unwrap();
        assert_eq!(state.status, "unknown");
        state.detail.unwrap()
    }

    #[test]
    fn a_success_without_its_output_is_no_evidence() {
        assert_eq!(evaluate(&check(), 0, None, Some("x")), None);
    }

    #[test]
    fn a_failure_needs_no_output_and_quotes_200_characters_of_stderr() {
        assert_eq!(detail(3, None), "check script exited 3");
        assert_eq!(
            detail(-1, Some(" \u{3042}b \n")),
            "check script exited -1: \u{3042}b"
        );
        let long = "\u{3042}".repeat(300);
        assert_eq!(
            detail(1, Some(&long)),
            format!("check script exited 1: {}", "\u{3042}".repeat(200))
        );
    }

    #[test]
    fn output_nested_ten_thousand_deep_is_not_json_and_no_crash() {
        let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
        let state = evaluate(&check(), 0, Some(&deep), None).unwrap();
        assert!(state.detail.unwrap().starts_with("check stdout was not JSON: "));
    }
}
