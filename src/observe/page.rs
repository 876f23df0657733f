//! The status page: one document without scripts or anything from elsewhere, readable on a phone, in light and dark. What
//! comes from outside is text, and made inert before it is escaped.

use std::fmt::Write;
use std::sync::LazyLock;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use super::document::{Document, Stream};
use super::history::History;
use super::html::{float, list, picture, table, text, when, with_code};
use super::letters::Letter;
use crate::store::dead_letters::Listed;
use crate::wire::kv::StreamName;
use crate::wire::shown::{grouped, size, span};

const PAGE: &str = include_str!("page.html");
/// Lines of a table; `status` shows all.
const LINES_MAX: usize = 20;

/// Nothing may be loaded, run, sent or framed; the one style is known by its hash.
pub(super) fn policy() -> &'static str {
    static POLICY: LazyLock<String> = LazyLock::new(|| {
        let style = PAGE
            .split_once("<style>")
            .and_then(|(_, rest)| rest.split_once("</style>"))
            .map_or("", |(style, _)| style);
        let hash = STANDARD.encode(Sha256::digest(style.as_bytes()));
        format!(
            "default-src 'none'; style-src 'sha256-{hash}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
    });
    &POLICY
}

/// The page. `shows_payloads`: whoever asks may see what is in dead letters.
pub(super) fn render(
    document: &Document,
    history: &History,
    letters: &[Listed],
    shows_payloads: bool,
) -> String {
    let service = document.service.as_ref();
    let ready = service.is_some_and(|service| service.ready);
    let (badge, title) = match ready {
        true => ("<span class=\"badge good\">ready</span>", "ready"),
        false => ("<span class=\"badge bad\">not ready</span>", "not ready"),
    };
    let phase = service.map_or(String::new(), |service| match service.loading {
        Some(loading) => format!("{}: {loading}", service.phase),
        None => service.phase.to_owned(),
    });
    let started = service.map_or("", |service| service.started_at.as_str());
    let body = Body(String::new())
        .findings(document)
        .streams(document, history)
        .writing(document, history)
        .outputs(document)
        .dead_letters(document, letters, shows_payloads)
        .gaps(document)
        .issues(document);
    PAGE.replace("{{title}}", &format!("results-projector: {title}"))
        .replace("{{badge}}", badge)
        .replace("{{phase}}", &text(&phase))
        .replace(
            "{{footer}}",
            &format!(
                "{} &middot; running since {}",
                text(&super::build()),
                when(started)
            ),
        )
        // Last: what it holds may look like one of the marks.
        .replace("{{body}}", &body.0)
}

/// Sections, one after the other.
struct Body(String);

impl Body {
    fn section(mut self, head: &str, inside: &str) -> Self {
        // Writing to a text cannot fail.
        let _written = writeln!(self.0, "<section><h2>{head}</h2>{inside}</section>");
        self
    }

    fn findings(self, document: &Document) -> Self {
        let mut inside = String::new();
        for finding in &document.findings {
            let severity = finding.severity.as_str();
            let _written = write!(
                inside,
                "<li><span class=\"badge {severity}\">{severity}</span> {}<br><span class=\"dim\">{}</span></li>",
                text(&finding.what),
                with_code(&finding.to_do)
            );
        }
        match inside.is_empty() {
            true => self.section("What is wrong", "<span class=\"good\">Nothing.</span>"),
            false => self.section("What is wrong", &format!("<ul class=\"findings\">{inside}</ul>")),
        }
    }

    fn streams(self, document: &Document, history: &History) -> Self {
        if document.streams.is_empty() {
            return self.section("Streams", "<span class=\"dim\">None has been read yet.</span>");
        }
        let cards: Vec<String> = document
            .streams
            .iter()
            .map(|stream| card(stream, history))
            .collect();
        self.section(
            "Streams",
            &format!("<div class=\"streams\">{}</div>", cards.concat()),
        )
    }

    fn writing(self, document: &Document, history: &History) -> Self {
        let database = &document.database;
        let mut rate = String::new();
        let mut facts = vec![
            (
                "database",
                format!("{} in {}", size(database.bytes), text(&database.path)),
            ),
            ("write-ahead log", size(database.wal_bytes)),
            (
                "free on its disk",
                database.disk_free_bytes.map_or("?".to_owned(), size),
            ),
        ];
        if database.adopted {
            facts.push((
                "owner",
                "the backend; this service adds its own tables only".to_owned(),
            ));
        }
        if let Some(service) = &document.service {
            let samples = history.samples().len();
            let rates: Vec<f64> = history.rates().collect();
            let commits: Vec<f64> = history
                .samples()
                .map(|sample| sample.commit_time.as_secs_f64() * 1_000.0)
                .collect();
            rate = format!(
                "<div class=\"streams\"><div><span class=\"big\">{:.1}</span> messages/s{}</div>\
                 <div><span class=\"big\">{:.1}</span> ms a commit{}</div></div>",
                service.items_per_second,
                picture("messages a second", "at most", &rates, samples),
                service.commit_seconds * 1_000.0,
                picture("milliseconds a commit", "at most", &commits, samples),
            );
            facts.push((
                "last commit",
                service
                    .last_commit_at
                    .as_deref()
                    .map_or("none yet".to_owned(), when),
            ));
            facts.push((
                "committed",
                format!(
                    "{} items in {} groups",
                    grouped(service.items),
                    grouped(service.groups)
                ),
            ));
            let budgets: Vec<String> = service
                .in_flight_bytes
                .iter()
                .map(|(budget, bytes)| format!("{budget} {}", size(*bytes)))
                .collect();
            if !budgets.is_empty() {
                facts.push(("in flight", budgets.join(", ")));
            }
        }
        self.section("Writing", &format!("{rate}{}", list(&facts)))
    }

    fn outputs(self, document: &Document) -> Self {
        let mut facts: Vec<(&str, String)> = [
            ("pending", "pending"),
            ("gone", "gone"),
            ("too_large", "too large"),
            ("refused", "refused"),
        ]
        .into_iter()
        .map(|(state, name)| (name, grouped(document.outputs.get(state).copied().unwrap_or(0))))
        .collect();
        if let Some(oldest) = &document.oldest_pending_output {
            facts.push(("oldest pending", when(oldest)));
        }
        if let Some(store) = &document.output_store {
            let kept = store.max_age_seconds.map_or("for ever".to_owned(), |age| {
                format!("for {}", span(Duration::from_secs(age)))
            });
            let of = store
                .bytes_max
                .map_or(String::new(), |max| format!(" of {}", size(max)));
            facts.push(("object store", format!("{}{of}, kept {kept}", size(store.bytes))));
        }
        self.section("Outputs behind pointers", &list(&facts))
    }

    fn dead_letters(self, document: &Document, letters: &[Listed], shows_payloads: bool) -> Self {
        if letters.is_empty() {
            return self;
        }
        let rows = letters.iter().map(|letter| {
            let seq = grouped(letter.stream_seq);
            let place = match shows_payloads {
                true => format!(
                    "<a href=\"{}\">{} {seq}</a>",
                    Letter::path(letter),
                    text(&letter.stream)
                ),
                false => format!("{} {seq}", text(&letter.stream)),
            };
            vec![
                place,
                when(&letter.published_at),
                text(&letter.subject),
                text(&letter.reason),
            ]
        });
        let rows: Vec<Vec<String>> = rows.collect();
        let head = format!("Dead letters: {}", grouped(document.dead_letters));
        self.section(&head, &table(&["message", "published", "subject", "why"], &rows))
    }

    fn gaps(self, document: &Document) -> Self {
        let rows: Vec<Vec<String>> = document
            .gaps
            .iter()
            .rev()
            .take(LINES_MAX)
            .map(|gap| {
                vec![
                    text(&gap.stream),
                    format!("{} to {}", grouped(gap.first_seq), grouped(gap.last_seq)),
                    gap.incarnation.to_string(),
                    text(&gap.reason),
                ]
            })
            .collect();
        if rows.is_empty() {
            return self;
        }
        let head = format!("Gaps: {}", grouped(document.gaps_total));
        self.section(
            &head,
            &table(&["stream", "sequences", "life", "how it was found"], &rows),
        )
    }

    fn issues(self, document: &Document) -> Self {
        let rows: Vec<Vec<String>> = document
            .issues
            .iter()
            .take(LINES_MAX)
            .map(|issue| {
                vec![
                    text(&issue.job_id),
                    text(&issue.pc_id),
                    text(&issue.part),
                    text(&issue.code),
                    text(&issue.reason),
                ]
            })
            .collect();
        if rows.is_empty() {
            return self;
        }
        let head = format!("Issues and refused specs: {}", grouped(document.issues_total));
        self.section(&head, &table(&["job", "PC", "part", "code", "why"], &rows))
    }
}

fn card(stream: &Stream, history: &History) -> String {
    let report = &stream.report;
    let unknown = || "?".to_owned();
    let behind = stream.lag_messages.map_or_else(unknown, grouped);
    let lag = stream
        .lag_seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .map_or_else(unknown, |lag| match lag.is_zero() {
            true => "none".to_owned(),
            false => span(lag),
        });
    let full = match (stream.bytes, stream.bytes_max) {
        (Some(bytes), Some(max)) => format!("{} of {}", size(bytes), size(max)),
        (Some(bytes), None) => size(bytes),
        _ => unknown(),
    };
    let counts = report.counts;
    let facts = [
        ("position", grouped(report.position)),
        ("last", stream.last_seq.map_or_else(unknown, grouped)),
        ("lag", lag),
        ("projected", grouped(counts.projected)),
        ("dead", grouped(counts.dead)),
        ("ignored", grouped(counts.ignored)),
        ("gap", grouped(counts.gap)),
        ("stream", full),
    ];
    let name = StreamName::parse(&report.stream);
    let samples = || history.samples().filter_map(|sample| Some((sample, name?)));
    let behinds: Vec<f64> = samples()
        .filter_map(|(sample, name)| sample.lag.get(&name))
        .map(|lag| float(*lag))
        .collect();
    let positions: Vec<u64> = samples()
        .filter_map(|(sample, name)| sample.positions.get(&name))
        .copied()
        .collect();
    let first = positions.first().copied().unwrap_or(0);
    let read: Vec<f64> = positions
        .iter()
        .map(|position| float(position.saturating_sub(first)))
        .collect();
    let class = match stream.lag_messages {
        Some(0) => " good",
        _ => "",
    };
    format!(
        "<div><strong>{}</strong><br><span class=\"big{class}\">{behind}</span> behind{}{}{}</div>",
        text(&report.stream),
        picture("messages behind", "at most", &behinds, history.samples().len()),
        picture("position", "more", &read, history.samples().len()),
        list(&facts)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_content_security_policy_allows_the_one_inline_style_only() {
        assert!(policy().contains("style-src 'sha256-"));
        assert!(!PAGE.contains("style=\""), "a style elsewhere would be blocked");
        assert!(!PAGE.contains("<script"));
    }
}
