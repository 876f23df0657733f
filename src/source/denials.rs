//! What the server does not allow, as it says so.

use std::collections::BTreeMap;
use std::fmt;

/// The server does not allow this user something that is needed. The permission is named as `docs/PERMISSIONS.md` does.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Denied {
    /// To ask, to ack.
    Publish(String),
    /// To hear the answers.
    Subscribe(String),
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, subject) = match self {
            Self::Publish(subject) => ("publish to", subject),
            Self::Subscribe(subject) => ("subscribe to", subject),
        };
        write!(
            f,
            "the server does not allow this user to {what} {subject:?}; add that to its permissions (docs/PERMISSIONS.md lists \
             what is needed)"
        )
    }
}

impl Denied {
    /// What the server says of it: `Permissions Violation for Publish to "…"`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (_, text) = text.split_once("Permissions Violation for ")?;
        let subject = |text: &str| text.split('"').nth(1).map(str::to_owned);
        match text.split_once(' ')? {
            ("Publish", rest) => Some(Self::Publish(pattern(&subject(rest)?))),
            ("Subscription", rest) => {
                // The last token is a number of ours, or stands for any.
                let subject = subject(rest)?;
                let inbox = subject.trim_end_matches(".*");
                let prefix = inbox.rsplit_once('.').map_or(inbox, |(prefix, _)| prefix);
                Some(Self::Subscribe(format!("{prefix}.>")))
            }
            _ => None,
        }
    }
}

/// The entry in a list of permissions that allows a subject: what differs from message to message, or from one temporary
/// consumer to the next, is a wildcard.
pub(super) fn pattern(subject: &str) -> String {
    let tokens: Vec<&str> = subject.split('.').collect();
    let name = |stream: &str, name: &str| {
        let is_number = |part: &str| part.len() == 8 && part.chars().all(|c| c.is_ascii_hexdigit());
        if stream.starts_with("KV_") || name.split('_').any(is_number) {
            "*".to_owned()
        } else {
            name.to_owned()
        }
    };
    let api = tokens
        .iter()
        .position(|token| *token == "API")
        .map_or(0, |at| at + 1);
    let (head, rest) = tokens.split_at(api.min(tokens.len()));
    let tail = match rest {
        ["$JS", "ACK", stream, consumer, ..] => format!("$JS.ACK.{stream}.{}.>", name(stream, consumer)),
        ["$JS", "FC", stream, ..] => format!("$JS.FC.{stream}.>"),
        ["DIRECT", "GET", stream, _, ..] => format!("DIRECT.GET.{stream}.>"),
        ["CONSUMER", "MSG", "NEXT", stream, consumer] => {
            format!("CONSUMER.MSG.NEXT.{stream}.{}", name(stream, consumer))
        }
        ["CONSUMER", verb, stream, consumer, filter @ ..] => {
            let mut all = vec![
                "CONSUMER".to_owned(),
                (*verb).to_owned(),
                (*stream).to_owned(),
                name(stream, consumer),
            ];
            all.extend(filter.iter().map(|token| (*token).to_owned()));
            all.join(".")
        }
        rest => rest.join("."),
    };
    if head.is_empty() {
        tail
    } else {
        format!("{}.{tail}", head.join("."))
    }
}

/// What the server has denied on this connection.
#[derive(Clone, Debug, Default)]
pub struct Denials(BTreeMap<Denied, Denial>);

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Denial {
    times: u64,
    epoch: u64,
}

impl Denials {
    /// Notes one; true when it is the first of its kind.
    pub(super) fn note(&mut self, denied: Denied, epoch: u64) -> bool {
        let denial = self.0.entry(denied).or_default();
        (denial.times, denial.epoch) = (denial.times + 1, epoch);
        denial.times == 1
    }

    /// How often something that begins with the API's prefix and ends like this was denied.
    pub(super) fn times(&self, question: &str) -> u64 {
        self.of(question).map_or(0, |(_, denial)| denial.times)
    }

    /// Each thing that was denied.
    pub(super) fn all(&self) -> impl Iterator<Item = &Denied> {
        self.0.keys()
    }

    pub(super) fn of(&self, question: &str) -> Option<(&Denied, &Denial)> {
        if self.0.is_empty() {
            return None;
        }
        let question = format!(
            ".{}",
            pattern(&format!("API.{question}")).trim_start_matches("API.")
        );
        self.0
            .iter()
            .find(|(denied, _)| matches!(denied, Denied::Publish(subject) if subject.ends_with(&question)))
    }

    /// What stands in the way of an answer: the question, asked after it had been denied `before` times, or the inbox, for as
    /// long as the connection lasts.
    pub(super) fn since(&self, question: &str, before: u64, epoch: u64) -> Option<Denied> {
        let asked = self.of(question).filter(|(_, denial)| denial.times > before);
        let deaf = self
            .0
            .iter()
            .find(|(denied, denial)| matches!(denied, Denied::Subscribe(_)) && denial.epoch == epoch);
        asked.or(deaf).map(|(denied, _)| denied.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_violation_names_the_permission_that_is_missing() {
        for (said, wanted) in [
            (
                "Publish to \"$JS.API.STREAM.INFO.RESULTS\"",
                "publish to \"$JS.API.STREAM.INFO.RESULTS\"",
            ),
            (
                "Publish to \"$JS.hub.API.STREAM.INFO.KV_jobs\"",
                "publish to \"$JS.hub.API.STREAM.INFO.KV_jobs\"",
            ),
            (
                "Publish to \"$JS.ACK.RESULTS.results_projector_results.1.7.7.1790.0\"",
                "publish to \"$JS.ACK.RESULTS.results_projector_results.>\"",
            ),
            (
                "Publish to \"$JS.FC.KV_jobs.abc.1\"",
                "publish to \"$JS.FC.KV_jobs.>\"",
            ),
            (
                "Publish to \"$JS.API.DIRECT.GET.OBJ_result_output.$O.result_output.M.cQ==\"",
                "publish to \"$JS.API.DIRECT.GET.OBJ_result_output.>\"",
            ),
            (
                "Publish to \"$JS.API.DIRECT.GET.OBJ_result_output\"",
                "publish to \"$JS.API.DIRECT.GET.OBJ_result_output\"",
            ),
            (
                "Publish to \"$JS.API.CONSUMER.DELETE.KV_jobs.Xyz12\"",
                "publish to \"$JS.API.CONSUMER.DELETE.KV_jobs.*\"",
            ),
            (
                "Publish to \"$JS.API.CONSUMER.MSG.NEXT.EVENTS.results_projector_verify_0a1b2c3d_events\"",
                "publish to \"$JS.API.CONSUMER.MSG.NEXT.EVENTS.*\"",
            ),
            (
                "Publish to \"$JS.API.CONSUMER.DELETE.EVENTS.results_projector_events\"",
                "publish to \"$JS.API.CONSUMER.DELETE.EVENTS.results_projector_events\"",
            ),
            (
                "Subscription to \"_INBOX_x.AbC.*\"",
                "subscribe to \"_INBOX_x.>\"",
            ),
            ("Subscription to \"_INBOX_x.AbC\"", "subscribe to \"_INBOX_x.>\""),
        ] {
            let denied = Denied::parse(&format!("Permissions Violation for {said}")).unwrap();
            assert!(denied.to_string().contains(wanted), "{denied}");
        }
        assert!(Denied::parse("Authorization Violation").is_none());
    }

    #[test]
    fn a_question_is_found_among_denials_under_any_prefix_and_only_while_it_is_denied_again() {
        let mut denials = Denials::default();
        let text =
            "Permissions Violation for Publish to \"$JS.hub.API.CONSUMER.INFO.EVENTS.x_0a1b2c3d_events\"";
        let denied = Denied::parse(text).unwrap();
        assert!(denials.note(denied.clone(), 1) && !denials.note(denied.clone(), 1));
        let question = "CONSUMER.INFO.EVENTS.x_99999999_events";
        assert_eq!(denials.times(question), 2);
        assert_eq!(denials.since(question, 1, 1), Some(denied));
        assert_eq!(denials.since(question, 2, 1), None);
        assert_eq!(
            denials.since("CONSUMER.INFO.RESULTS.x_99999999_results", 0, 1),
            None
        );
        let inbox = Denied::Subscribe("_INBOX.>".to_owned());
        denials.note(inbox.clone(), 3);
        assert_eq!(denials.since("STREAM.INFO.RESULTS", 0, 3), Some(inbox));
        assert_eq!(denials.since("STREAM.INFO.RESULTS", 0, 4), None);
    }
}
