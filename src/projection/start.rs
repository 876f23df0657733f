//! The row of a start event (contract §5.3, §5.4, D17).

use bytestring::ByteString;

use crate::wire::manifest::expires_at;
use crate::wire::started::EventStarted;
use crate::wire::time::Timestamp;

/// What a start event writes, in the table's words.
#[derive(Debug)]
pub struct StartRow<'a> {
    /// `TIMESTAMP` text (§6.2).
    pub started_at: String,
    /// The publish time (§5.3).
    pub recorded_at: String,
    /// When the backend's reaper gives the run up; `None` without a manifest, or with a time-out that is no duration.
    pub expires_at: Option<String>,
    /// Everything that is stored as it was sent.
    pub event: &'a EventStarted<ByteString>,
}

/// `timeout`: of the manifest in force, as written there.
#[must_use]
pub fn row<'a>(
    event: &'a EventStarted<ByteString>,
    published: Timestamp,
    timeout: Option<&str>,
) -> StartRow<'a> {
    StartRow {
        started_at: event.started_at.stored(),
        recorded_at: published.stored(),
        expires_at: timeout
            .and_then(|timeout| expires_at(published, timeout))
            .map(|at| at.stored()),
        event,
    }
}
