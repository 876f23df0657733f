//! `dead-letters list`, `show`, `retry` and `discard`.

use std::collections::BTreeSet;
use std::io::Write;

use serde_json::json;

use super::hands::ask_all;
use super::{CommandError, JSON_VERSION, text, told};
use crate::cli::LetterArgs;
use crate::config::Config;
use crate::service::books::{Answer, LetterKey, LetterLine, Request, fetch_letter};
use crate::service::{alone, socket};
use crate::store::dead_letters::{self, LetterId};
use crate::store::read_only;
use crate::wire::kv::StreamName;
use crate::wire::sequence::StreamSeq;
use crate::wire::shown;

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
                shown::size(letter.payload_bytes),
                text::inert(&letter.reason, 120),
            ]
        })
        .collect();
    text::table(
        out,
        &[
            "STREAM",
            "SEQ",
            "INCARNATION",
            "PUBLISHED",
            "SUBJECT",
            "SIZE",
            "REASON",
        ],
        &rows,
    )?;
    Ok(())
}

/// Shows one, whole; a payload for which the book had no room as the stream holds it. Returns false when there is none.
///
/// # Errors
/// The database's, the output's, a name that is no stream.
pub async fn show(
    config: &Config,
    of: &str,
    seq: u64,
    incarnation: Option<u64>,
    as_json: bool,
    out: &mut dyn Write,
) -> Result<bool, CommandError> {
    let of = stream(of)?;
    let Some(mut shown) =
        dead_letters::show(&read_only(&config.store.path)?, of, StreamSeq(seq), incarnation)?
    else {
        let telling = writeln!(out, "no dead letter {of} {seq}");
        return told(telling.map_err(CommandError::from), false);
    };
    let mut unavailable = None;
    if shown.payload.is_none() {
        let place = LetterId {
            stream: of,
            incarnation: shown.listed.incarnation,
            seq: StreamSeq(seq),
        };
        match fetch_letter(&config.nats, place, &shown.listed.sha256).await {
            Ok((headers, payload)) => (shown.headers, shown.payload) = (headers, Some(payload)),
            Err(why) => unavailable = Some(why),
        }
    }
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
            "payload_text": payload, "payload_base64": encoded, "payload_unavailable": unavailable,
        });
        text::json(out, &document)?;
        return Ok(true);
    }
    let letter = &shown.listed;
    for (name, value) in [
        (
            "stream",
            format!("{} (incarnation {})", letter.stream, letter.incarnation),
        ),
        ("sequence", letter.stream_seq.to_string()),
        ("published", letter.published_at.clone()),
        ("subject", text::inert(&letter.subject, SHOWN_MAX)),
        ("reason", text::inert(&letter.reason, SHOWN_MAX)),
        ("state", letter.state.clone()),
        ("size", shown::size(letter.payload_bytes)),
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
        Some(payload) => writeln!(
            out,
            "payload    {}{}",
            text::inert(&payload, SHOWN_MAX),
            if letter.payload_kept {
                ""
            } else {
                "  (from the stream)"
            }
        )?,
        None => writeln!(
            out,
            "payload    {}",
            text::inert(&unavailable.unwrap_or_default(), SHOWN_MAX)
        )?,
    }
    Ok(true)
}

/// Which letters are meant, in stream order. A named one that is not there gets the incarnation that was named, or 0, which
/// none has.
fn chosen(config: &Config, which: &LetterArgs) -> Result<Vec<LetterId>, CommandError> {
    let usage = |what: &str| {
        Err(CommandError::Usage(format!(
            "{what}; for example: RESULTS 4711, or --all"
        )))
    };
    let conn = read_only(&config.store.path)?;
    let Some(name) = &which.stream else {
        if !which.all {
            return usage("which dead letters? name a stream and sequences of it, or all");
        }
        let of = which.of.as_deref().map(stream).transpose()?;
        return Ok(dead_letters::kept(&conn, of, which.incarnation)?);
    };
    let of = stream(name)?;
    if which.seqs.is_empty() {
        return usage("which sequences of the stream?");
    }
    let seqs: BTreeSet<u64> = which.seqs.iter().copied().collect();
    seqs.into_iter()
        .map(|seq| {
            let seq = StreamSeq(seq);
            let shown = dead_letters::show(&conn, of, seq, which.incarnation)?;
            Ok(LetterId {
                stream: of,
                incarnation: shown.map_or(which.incarnation.unwrap_or(0), |shown| shown.listed.incarnation),
                seq,
            })
        })
        .collect()
}

/// Tries dead letters again. Returns whether all of them were projected.
///
/// # Errors
/// The database's, the service's, the server's, the output's; a name that is no stream.
pub async fn retry(config: &Config, which: &LetterArgs, out: &mut dyn Write) -> Result<bool, CommandError> {
    let places = chosen(config, which)?;
    let lines = ask(config, &places, Request::RetryLetters).await?;
    let good = lines.iter().all(|line| line.outcome == "projected");
    told(print(&lines, which.json, out), good)
}

/// Gives dead letters up. Returns whether all of them were there.
///
/// # Errors
/// The database's, the service's, the output's; `--all` without `yes`.
pub async fn discard(
    config: &Config,
    which: &LetterArgs,
    yes: bool,
    out: &mut dyn Write,
) -> Result<bool, CommandError> {
    let places = chosen(config, which)?;
    if which.all && !yes {
        return Err(CommandError::Usage(format!(
            "this gives up {} dead letters, for good as far as the projector goes; say --yes if that is meant, or name \
             some of them",
            places.len()
        )));
    }
    let lines = if places.is_empty() {
        Vec::new()
    } else if socket::is_served(&config.store.path).await? {
        ask(config, &places, Request::DiscardLetters).await?
    } else {
        let there = alone::discard(config, &places)?;
        let line = |(place, there): (&LetterId, bool)| LetterLine {
            key: (*place).into(),
            outcome: if there { "discarded" } else { "not_there" }.to_owned(),
            reason: None,
        };
        places.iter().zip(there).map(line).collect()
    };
    let good = lines.iter().all(|line| line.outcome == "discarded");
    told(print(&lines, which.json, out), good)
}

async fn ask(
    config: &Config,
    places: &[LetterId],
    request: impl Fn(Vec<LetterKey>) -> Request,
) -> Result<Vec<LetterLine>, CommandError> {
    let keys = |some: &[LetterId]| request(some.iter().copied().map(LetterKey::from).collect());
    ask_all(config, places, keys, |answer| match answer {
        Answer::Letters(lines) => Ok(lines),
        other => Err(other),
    })
    .await
}

fn print(lines: &[LetterLine], as_json: bool, out: &mut dyn Write) -> Result<(), CommandError> {
    let count = |outcome: &str| lines.iter().filter(|line| line.outcome == outcome).count();
    let counts = ["projected", "kept", "discarded", "not_there"].map(|outcome| (outcome, count(outcome)));
    if as_json {
        let mut document = json!({ "schema_version": JSON_VERSION, "dead_letters": lines });
        for (outcome, count) in counts {
            document[outcome] = json!(count);
        }
        return text::json(out, &document);
    }
    if lines.is_empty() {
        writeln!(out, "no dead letters")?;
        return Ok(());
    }
    let rows: Vec<Vec<String>> = lines
        .iter()
        .filter(|line| ["kept", "not_there"].contains(&line.outcome.as_str()))
        .map(|line| {
            vec![
                text::inert(&line.key.stream, 40),
                line.key.stream_seq.to_string(),
                line.key.incarnation.to_string(),
                line.outcome.replace('_', " "),
                line.reason
                    .as_deref()
                    .map_or(String::new(), |reason| text::inert(reason, 120)),
            ]
        })
        .collect();
    if !rows.is_empty() {
        text::table(out, &["STREAM", "SEQ", "INCARNATION", "OUTCOME", "REASON"], &rows)?;
    }
    let said: Vec<String> = counts
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .map(|(outcome, count)| format!("{count} {}", outcome.replace('_', " ")))
        .collect();
    writeln!(out, "{}", said.join(", "))?;
    Ok(())
}
