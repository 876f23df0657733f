//! `doctor`: what is wrong with the world outside, the worst first.

use std::io::Write;

use chrono::Utc;
use serde::Serialize;

use super::{CommandError, JSON_VERSION, text, told};
use crate::config::Config;
use crate::service::doctor::{self, Finding, Severity};
use crate::service::error::ServiceError;

/// Characters of a sentence about what was found.
const WHAT_CHARS: usize = 2_000;

#[derive(Serialize)]
struct Document<'a> {
    schema_version: u32,
    /// Why the server cannot be looked at; `null`: it can.
    unavailable: Option<&'a str>,
    bad: usize,
    notes: usize,
    good: usize,
    /// The worst first.
    findings: &'a [Finding],
}

/// Looks, and prints; `all`: also what is good. The exit code: 0 nothing is bad, 1 something is, 3 no server.
///
/// # Errors
/// A configuration that cannot be used, the output's.
pub async fn doctor(
    config: &Config,
    as_json: bool,
    all: bool,
    out: &mut dyn Write,
) -> Result<u8, CommandError> {
    let world = doctor::look(config, Utc::now().into())
        .await
        .map_err(ServiceError::from)?;
    let findings = doctor::judge(&world);
    let count = |severity| {
        let of = findings.iter().filter(|finding| finding.severity == severity);
        of.count()
    };
    let document = Document {
        schema_version: JSON_VERSION,
        unavailable: world.server.as_ref().err().map(String::as_str),
        bad: count(Severity::Bad),
        notes: count(Severity::Note),
        good: count(Severity::Good),
        findings: &findings,
    };
    let code = match (document.unavailable, document.bad) {
        (Some(_), _) => 3,
        (None, 0) => 0,
        (None, _) => 1,
    };
    let telling = if as_json {
        text::json(out, &document)
    } else {
        print(&document, all, out)
    };
    told(telling, code)
}

fn print(document: &Document<'_>, all: bool, out: &mut dyn Write) -> Result<(), CommandError> {
    for finding in document.findings {
        let word = match finding.severity {
            Severity::Bad => "bad",
            Severity::Note => "note",
            Severity::Good if all => "good",
            Severity::Good => continue,
        };
        let subject = text::inert(&finding.subject, 160);
        let what = text::inert(&finding.what, WHAT_CHARS);
        writeln!(out, "{word:<5} {subject}: {what}")?;
        for (word, sentence) in [("why", &finding.why), ("do", &finding.to_do)] {
            if !sentence.is_empty() {
                writeln!(out, "      {word:<4} {}", text::inert(sentence, WHAT_CHARS))?;
            }
        }
    }
    let Document { bad, notes, good, .. } = document;
    if bad + notes > 0 || all {
        writeln!(out)?;
    }
    writeln!(
        out,
        "{} looked at: {bad} bad, {notes} to note, {good} good",
        bad + notes + good
    )?;
    Ok(())
}
