//! A dead letter, whole, when it is asked for.

use std::fmt::Write;

use super::watch::Watch;
use crate::store::dead_letters::{self, Listed};
use crate::store::read_only;
use crate::wire::inert::inert;
use crate::wire::kv::StreamName;
use crate::wire::sequence::StreamSeq;

/// One, by its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Letter {
    stream: StreamName,
    incarnation: u64,
    seq: StreamSeq,
}

impl Letter {
    /// Its path as the page names it: from its own, since a proxy may have put both elsewhere.
    pub(super) fn path(listed: &Listed) -> String {
        format!(
            "dead-letters/{}/{}/{}",
            listed.stream, listed.incarnation, listed.stream_seq
        )
    }

    /// What stands at a path.
    pub(super) fn at(path: &str) -> Option<Self> {
        let mut parts = path.strip_prefix("/dead-letters/")?.split('/');
        let stream = StreamName::parse(parts.next()?)?;
        let incarnation = parts.next()?.parse().ok()?;
        let seq = StreamSeq(parts.next()?.parse().ok()?);
        parts.next().is_none().then_some(Self {
            stream,
            incarnation,
            seq,
        })
    }

    /// All of it as inert text; `None` when it is not kept.
    pub(super) async fn told(self, watch: &Watch) -> Result<Option<String>, String> {
        let path = watch.path().to_owned();
        let read = move || {
            let conn = read_only(&path)?;
            dead_letters::show(&conn, self.stream, self.seq, Some(self.incarnation))
        };
        let shown = tokio::task::spawn_blocking(read)
            .await
            .map_err(|error| error.to_string())?
            .map_err(|error| error.to_string())?;
        Ok(shown.map(|shown| {
            let listed = &shown.listed;
            let mut text = String::new();
            for (name, value) in [
                ("stream", listed.stream.as_str()),
                ("subject", &listed.subject),
                ("published", &listed.published_at),
                ("reason", &listed.reason),
                ("headers", shown.headers.as_deref().unwrap_or("none")),
            ] {
                // Writing to a text cannot fail.
                let _written = writeln!(text, "{name:<10} {}", inert(value, usize::MAX));
            }
            let _written = writeln!(text, "{:<10} {} (incarnation {})\n", "sequence", self.seq, self.incarnation);
            match &shown.payload {
                Some(payload) => {
                    for line in String::from_utf8_lossy(payload).split('\n') {
                        text.push_str(&inert(line, usize::MAX));
                        text.push('\n');
                    }
                }
                None => {
                    let _written = writeln!(
                        text,
                        "only the stream holds its payload: `results-projector dead-letters show {} {}` asks for it",
                        listed.stream, listed.stream_seq
                    );
                }
            }
            text
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_one_letter_or_none() {
        let letter = Letter {
            stream: StreamName::Results,
            incarnation: 2,
            seq: StreamSeq(4711),
        };
        assert_eq!(Letter::at("/dead-letters/RESULTS/2/4711"), Some(letter));
        for other in [
            "/dead-letters/AUDIT/2/4711",
            "/dead-letters/RESULTS/2",
            "/dead-letters/RESULTS/2/4711/x",
            "/dead-letters/RESULTS/-1/4711",
            "/dead-letters/",
            "/",
        ] {
            assert_eq!(Letter::at(other), None, "{other}");
        }
    }
}
