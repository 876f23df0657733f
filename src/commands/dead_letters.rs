//! `dead-letters list` and `dead-letters show`.

use std::io::Write;

use serde_json::json;

use super::{CommandError, JSON_VERSION, text};
use crate::config::Config;
use crate::store::{dead_letters, read_only};
use crate::wire::kv::StreamName;
use crate::wire::sequence::StreamSeq;

/// Payload characters that `show` prints without `--json`.
const SHOWN_MAX: usize = 1 << 20;

fn stream(name: &str) -> Result<StreamName, CommandError> {
    StreamName::parse(name).ok_or_else(|| {
        CommandError::Usage(format!(
            "no stream {name:?}; one of {}",
            StreamName::ALL.map(StreamName::as_str).join(", ")
        ))
    })
}

/// Lists the book.
///
/// # Errors
/// The database's, the output's, a name that is no stream.
pub fn list(
    config: &Config,
    as_json: bool,
    of: Option<&str>,
    limit: Option<u64>,
    out: &mut dyn Write,
) -> Result<(), CommandError> {
    let of = of.map(stream).transpose()?;
    let listed = dead_letters::list(&read_only(&config.store.path)?, of, limit)?;
    if as_json {
        return text::json(
            out,
            &json!({ "schema_version": JSON_VERSION, "dead_letters": listed }),
        );
    }
    if listed.is_empty() {
        writeln!(out, "no dead letters")?;
        return Ok(());
    }
    let rows: Vec<Vec<String>> = listed
        .iter()
        .map(|letter| {
            vec![
                letter.stream.clone(),
                letter.stream_seq.to_string(),
                letter.incarnation.to_string(),
                letter.published_at.clone(),
                text::inert(&letter.subject, 60),
                text::size(letter.payload_bytes),
                text::inert(&letter.reason, 120),
            ]
        })
        .collect();
    text::table(
        out,
        &["STREAM", "SEQ", "LIFE", "PUBLISHED", "SUBJECT", "SIZE", "REASON"],
        &rows,
    )?;
    Ok(())
}

/// Shows one, whole. Returns false when there is none.
///
/// # Errors
/// The database's, the output's, a name that is no stream.
pub fn show(
    config: &Config,
    of: &str,
    seq: u64,
    incarnation: Option<u64>,
    as_json: bool,
    out: &mut dyn Write,
) -> Result<bool, CommandError> {
    let of = stream(of)?;
    let Some(shown) = dead_letters::show(&read_only(&config.store.path)?, of, StreamSeq(seq), incarnation)?
    else {
        writeln!(out, "no dead letter {of} {seq}")?;
        return Ok(false);
    };
    let payload = shown.payload.as_deref().map(String::from_utf8_lossy);
    if as_json {
        use base64::Engine;
        let encoded = shown
            .payload
            .as_ref()
            .map(|bytes| base64::engine::general_purpose::STANDARD.encode(bytes));
        let headers: Option<serde_json::Value> = shown
            .headers
            .as_deref()
            .and_then(|headers| serde_json::from_str(headers).ok());
        let document = json!({
            "schema_version": JSON_VERSION, "dead_letter": shown.listed, "headers": headers,
            "payload_text": payload, "payload_base64": encoded,
        });
        text::json(out, &document)?;
        return Ok(true);
    }
    let letter = &shown.listed;
    for (name, value) in [
        (
            "stream",
            format!("{} (life {})", letter.stream, letter.incarnation),
        ),
        ("sequence", letter.stream_seq.to_string()),
        ("published", letter.published_at.clone()),
        ("subject", text::inert(&letter.subject, SHOWN_MAX)),
        ("reason", text::inert(&letter.reason, SHOWN_MAX)),
        ("state", letter.state.clone()),
        ("size", text::size(letter.payload_bytes)),
        ("sha256", letter.sha256.clone()),
        (
            "headers",
            shown
                .headers
                .as_deref()
                .map_or("none".to_owned(), |headers| text::inert(headers, SHOWN_MAX)),
        ),
    ] {
        writeln!(out, "{name:<10} {value}")?;
    }
    match payload {
        None => writeln!(
            out,
            "payload    only the stream holds it: dead_letters.max_bytes was reached"
        )?,
        Some(payload) => writeln!(out, "payload    {}", text::inert(&payload, SHOWN_MAX))?,
    }
    Ok(true)
}
