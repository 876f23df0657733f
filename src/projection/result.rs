//! The result row (contract §5.3, §7.2): which columns a result writes, and when it writes none.

use std::borrow::Cow;

use bytestring::ByteString;

use super::output::Output;
use crate::wire::result::{ExecResult, Field};
use crate::wire::time::Timestamp;

/// One result as it reaches the rules: decoded, its pointers followed.
#[derive(Clone, Debug)]
pub struct ResultMessage {
    /// The decoded message; its texts share the payload's bytes.
    pub result: ExecResult<ByteString>,
    /// What became of `stdout_object`; `None` without a pointer.
    pub stdout: Option<Output>,
    /// What became of `stderr_object`; `None` without a pointer.
    pub stderr: Option<Output>,
}

impl ResultMessage {
    /// The output behind a field's pointer.
    #[must_use]
    pub fn output(&self, field: Field) -> Option<&Output> {
        match field {
            Field::Stdout => self.stdout.as_ref(),
            Field::Stderr => self.stderr.as_ref(),
        }
    }

    /// The text of a field's column: behind a pointer the object's, else the message's own.
    #[must_use]
    pub fn column(&self, field: Field) -> Cow<'_, str> {
        match (self.output(field), field) {
            (Some(output), _) => output.column(field),
            (None, Field::Stdout) => Cow::Borrowed(&self.result.stdout),
            (None, Field::Stderr) => Cow::Borrowed(&self.result.stderr),
        }
    }
}

/// What the database knows of a result when its message comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// No row.
    Absent,
    /// A row without an end: known from its start event only.
    InFlight,
    /// A row that the backend's reaper has given up: a real result still replaces what it wrote.
    Reaped,
    /// A row that a result has finished.
    Finished,
}

/// What a result message does to its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowChange {
    /// A new row with all of the result's columns.
    Insert,
    /// The result's own columns over those of the start event; the earlier `recorded_at`; no longer reaped.
    Finish,
    /// A duplicate: the first in the stream counts, this one changes nothing in any table (D9).
    Nothing,
}

/// Contract §7.2.
#[must_use]
pub fn row_change(known: Known) -> RowChange {
    match known {
        Known::Absent => RowChange::Insert,
        Known::InFlight | Known::Reaped => RowChange::Finish,
        Known::Finished => RowChange::Nothing,
    }
}

/// What the completion ledgers learn from a finished row (contract §6.5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion<'a> {
    /// The job.
    pub job_id: &'a str,
    /// The host.
    pub pc_id: &'a str,
    /// The job's version, where the start event told it.
    pub version: Option<&'a str>,
}

/// The condition of the backend's two triggers: a job, exit code 0, and an end.
#[must_use]
pub fn completion<'a>(
    job_id: Option<&'a str>,
    pc_id: &'a str,
    version: Option<&'a str>,
    exit_code: i32,
) -> Option<Completion<'a>> {
    (exit_code == 0).then_some(())?;
    Some(Completion {
        job_id: job_id?,
        pc_id,
        version,
    })
}

/// The columns of a new row, in the table's words.
#[derive(Debug)]
pub struct ResultRow<'a> {
    /// §3.3.
    pub result_id: Cow<'a, str>,
    /// Output columns (§7.1).
    pub stdout: Cow<'a, str>,
    /// Output columns (§7.1).
    pub stderr: Cow<'a, str>,
    /// `TIMESTAMP` texts (§6.2).
    pub started_at: String,
    /// `TIMESTAMP` texts (§6.2).
    pub finished_at: String,
    /// The publish time (§5.3).
    pub recorded_at: String,
    /// Everything that is stored as it was sent.
    pub result: &'a ExecResult<ByteString>,
}

/// The row of a result known from its result message alone (contract §5.3).
#[must_use]
pub fn row(message: &ResultMessage, published: Timestamp) -> ResultRow<'_> {
    ResultRow {
        result_id: message.result.row_key(),
        stdout: message.column(Field::Stdout),
        stderr: message.column(Field::Stderr),
        started_at: message.result.started_at.stored(),
        finished_at: message.result.finished_at.stored(),
        recorded_at: published.stored(),
        result: &message.result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_result_in_the_stream_counts_and_a_duplicate_changes_nothing() {
        assert_eq!(row_change(Known::Absent), RowChange::Insert);
        assert_eq!(row_change(Known::InFlight), RowChange::Finish);
        assert_eq!(row_change(Known::Reaped), RowChange::Finish);
        assert_eq!(row_change(Known::Finished), RowChange::Nothing);
    }

    #[test]
    fn only_a_success_of_a_job_completes_it() {
        assert!(completion(Some("job"), "PC-1", None, 0).is_some());
        assert_eq!(completion(Some("job"), "PC-1", None, 1), None);
        assert_eq!(completion(None, "PC-1", None, 0), None);
    }
}
