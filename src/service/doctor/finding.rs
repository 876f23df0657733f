//! What is told of one thing that was looked at.

use serde::Serialize;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Something is lost or stands still, or will be.
    Bad,
    /// Worth knowing.
    Note,
    /// As it should be.
    Good,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// Which look found it; a fixed word, for programs.
    pub check: &'static str,
    /// What was looked at.
    pub subject: String,
    /// What was found.
    pub what: String,
    /// Why it matters; empty where all is well.
    pub why: String,
    /// What to do; empty where nothing is to be done.
    pub to_do: String,
}

/// Findings as they are made.
#[derive(Debug, Default)]
pub(super) struct Findings(Vec<Finding>);

impl Findings {
    pub(super) fn add(
        &mut self,
        severity: Severity,
        (check, subject): (&'static str, impl Into<String>),
        what: impl Into<String>,
        why: impl Into<String>,
        to_do: impl Into<String>,
    ) {
        self.0.push(Finding {
            severity,
            check,
            subject: subject.into(),
            what: what.into(),
            why: why.into(),
            to_do: to_do.into(),
        });
    }

    pub(super) fn good(&mut self, looked_at: (&'static str, impl Into<String>), what: impl Into<String>) {
        self.add(Severity::Good, looked_at, what, "", "");
    }

    /// A stream, or what is made of one, does not answer.
    pub(super) fn silent(
        &mut self,
        severity: Severity,
        looked_at: (&'static str, impl Into<String>),
        why: &str,
        without_a_leader: &str,
    ) {
        self.add(
            severity,
            looked_at,
            format!("does not answer: {why}"),
            without_a_leader,
            "look at the servers that hold it (`nats stream info`)",
        );
    }

    /// How many are not good.
    pub(super) fn wrong(&self) -> usize {
        let wrong = |finding: &&Finding| finding.severity != Severity::Good;
        self.0.iter().filter(wrong).count()
    }

    /// The worst first, each kind in the order in which it was looked at.
    pub(super) fn sorted(mut self) -> Vec<Finding> {
        self.0.sort_by_key(|finding| finding.severity);
        self.0
    }
}
