//! Subjects: built and parsed as in contract §2.2. They only route; identities come from the payload.

use super::kv::{self, StreamName};

/// What a subject says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject<'a> {
    /// A result.
    Result {
        /// The id of the command.
        request_id: &'a str,
    },
    /// A start event.
    Started {
        /// The deployment.
        exec_id: &'a str,
        /// The host; may hold dots.
        pc_id: &'a str,
    },
    /// An inventory snapshot.
    Inventory {
        /// The host; may hold dots.
        pc_id: &'a str,
        /// `hw`, `sw`, `net`, or another.
        category: &'a str,
    },
}

/// The subject of a result.
#[must_use]
pub fn results(request_id: &str) -> String {
    format!("results.{request_id}")
}

/// The subject of a start event.
#[must_use]
pub fn events_started(exec_id: &str, pc_id: &str) -> String {
    format!("events.started.{exec_id}.{pc_id}")
}

/// The subject of an inventory snapshot.
#[must_use]
pub fn inventory(pc_id: &str, category: &str) -> String {
    format!("inventory.{pc_id}.{category}")
}

/// Reads a subject of ours; `None` for any other.
#[must_use]
pub fn parse(subject: &str) -> Option<Subject<'_>> {
    let (first, rest) = subject.split_once('.')?;
    match first {
        "results" => (!rest.is_empty()).then_some(Subject::Result { request_id: rest }),
        "events" => {
            let (exec_id, pc_id) = rest.strip_prefix("started.")?.split_once('.')?;
            Some(Subject::Started { exec_id, pc_id })
        }
        "inventory" => {
            let (pc_id, category) = rest.rsplit_once('.')?;
            Some(Subject::Inventory { pc_id, category })
        }
        _ => None,
    }
}

/// Whether a subject of EVENTS is that of a start event; the others there are not ours.
#[must_use]
pub fn is_start(subject: &str) -> bool {
    subject.starts_with(kv::EVENTS_STARTED_FILTER.trim_end_matches('>'))
}

/// Whether whatever matches a subject or filter matches this pattern, too; `*` and `>` as NATS reads them. A subject that
/// ends with a dot stands for all that begin with it.
#[must_use]
pub fn covers(pattern: &str, subject: &str) -> bool {
    let prefix = subject.ends_with('.');
    let mut wanted = subject
        .trim_end_matches('.')
        .split('.')
        .chain(prefix.then_some(">"));
    for token in pattern.split('.') {
        match (token, wanted.next()) {
            (">", Some(_)) => return true,
            ("*", Some(wanted)) if wanted != ">" => {}
            (token, Some(wanted)) if token == wanted => {}
            _ => return false,
        }
    }
    wanted.next().is_none()
}

/// Whether a subject is one that the backend gives to this stream (contract §2.3).
#[must_use]
pub fn belongs_to(stream: StreamName, subject: &str) -> bool {
    let first = match stream {
        StreamName::Results => "results.",
        StreamName::Events => "events.",
        StreamName::Inventory => "inventory.",
    };
    subject.starts_with(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_covers_what_nats_would_deliver_to_it() {
        for (pattern, subject, so) in [
            ("events.>", "events.started.>", true),
            ("events.started.>", "events.>", false),
            ("events.*", "events.>", false),
            ("results.*", "results.*", true),
            ("results.a", "results.*", false),
            (">", "notif-amend", true),
            ("a.>", "a", false),
            ("a.*.c", "a.b.c", true),
            ("a.b", "a.b.c", false),
            ("notifications.>", "notifications.pc.", true),
            ("notifications.all", "notifications.pc.", false),
        ] {
            assert_eq!(covers(pattern, subject), so, "{pattern} {subject}");
        }
    }
}
