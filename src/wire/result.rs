//! `ExecResult`, the message of RESULTS, in all its versions (contract §3).

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use bytestring::ByteString;
use serde::Deserialize;
use uuid::Uuid;

use super::kv;
pub use super::text::DecodeError;
use super::text::{self, Borrowed};
use super::time::Timestamp;

/// One of a result's two outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Field {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Field {
    /// The word in messages, tables and object names.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }

    /// Reads the word back.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Stdout, Self::Stderr]
            .into_iter()
            .find(|field| field.as_str() == text)
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// One script run on one PC (§3.1). `T`: how texts are held, borrowed from the payload or sharing it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(bound = "T: Deserialize<'de> + Default")]
pub struct ExecResult<T> {
    /// Id of this run on this PC; empty from agents before 0.29.0.
    #[serde(default)]
    pub result_id: T,
    /// Id of the command; one broadcast shares it among all PCs.
    pub request_id: T,
    /// Id of the deployment.
    #[serde(default = "none")]
    pub exec_id: Option<T>,
    /// For a finalize hook: the run it belongs to.
    #[serde(default = "none")]
    pub parent_result_id: Option<T>,
    /// The host.
    pub pc_id: T,
    /// See [`kv`] for the reserved ones.
    pub exit_code: i32,
    /// Whether the script was not run; absent from agents before 0.48.2.
    #[serde(default)]
    pub skipped: Option<bool>,
    /// Standard output; empty when it went to the object store.
    pub stdout: T,
    /// Standard error; empty when it went to the object store.
    pub stderr: T,
    /// By the agent's clock.
    pub started_at: Timestamp,
    /// By the agent's clock.
    pub finished_at: Timestamp,
    /// Name in `result_output`.
    #[serde(default = "none")]
    pub stdout_object: Option<T>,
    /// Name in `result_output`.
    #[serde(default = "none")]
    pub stderr_object: Option<T>,
    /// The job.
    #[serde(default = "none")]
    pub manifest_id: Option<T>,
    /// Name in `collections`; not projected.
    #[serde(default = "none")]
    pub collect_object: Option<T>,
}

/// The id of the result by which an agent refuses a command's signature (§3.3).
#[must_use]
pub fn refusal_id(request_id: &str, pc_id: &str) -> String {
    let name = format!("{request_id}|{pc_id}|signature-refused");
    Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes()).to_string()
}

fn none<T>() -> Option<T> {
    None
}

/// Decodes a payload; texts are borrowed from it.
///
/// # Errors
/// What is wrong and where; never longer than a line.
pub fn decode(payload: &[u8]) -> Result<ExecResult<Cow<'_, str>>, DecodeError> {
    let result: ExecResult<Borrowed<'_>> = text::json(text::utf8(payload)?)?;
    Ok(result.map(|text| text.0))
}

/// Decodes a payload; each text is a slice of it, or a copy where JSON had escapes. So a result travels between
/// threads with its bytes.
///
/// # Errors
/// As [`decode`].
pub fn decode_shared(payload: &Bytes) -> Result<ExecResult<ByteString>, DecodeError> {
    let whole = text::shared(payload)?;
    let result: ExecResult<Borrowed<'_>> = text::json(&whole)?;
    Ok(result.map(|text| text::share(&whole, text)))
}

impl<T> ExecResult<T> {
    /// The same result with its texts held in another way.
    pub fn map<U>(self, mut text: impl FnMut(T) -> U) -> ExecResult<U> {
        ExecResult {
            result_id: text(self.result_id),
            request_id: text(self.request_id),
            exec_id: self.exec_id.map(&mut text),
            parent_result_id: self.parent_result_id.map(&mut text),
            pc_id: text(self.pc_id),
            exit_code: self.exit_code,
            skipped: self.skipped,
            stdout: text(self.stdout),
            stderr: text(self.stderr),
            started_at: self.started_at,
            finished_at: self.finished_at,
            stdout_object: self.stdout_object.map(&mut text),
            stderr_object: self.stderr_object.map(&mut text),
            manifest_id: self.manifest_id.map(&mut text),
            collect_object: self.collect_object.map(&mut text),
        }
    }
}

impl<T: AsRef<str>> ExecResult<T> {
    /// The key of the row: the sent id as it is, or one derived for agents that sent none (§3.3).
    #[must_use]
    pub fn row_key(&self) -> Cow<'_, str> {
        let sent = self.result_id.as_ref();
        if !sent.is_empty() {
            return Cow::Borrowed(sent);
        }
        let name = format!(
            "kanade-issue-19/legacy-result-id:{}:{}",
            self.request_id.as_ref(),
            self.pc_id.as_ref()
        );
        Cow::Owned(Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes()).to_string())
    }

    /// The column `skipped`: the flag decides, never the exit code (§3.3).
    #[must_use]
    pub fn skipped_column(&self) -> bool {
        self.skipped == Some(true)
    }

    /// Whether the agent refused the command's signature (§3.3).
    #[must_use]
    pub fn is_signature_refusal(&self) -> bool {
        self.exit_code == kv::EXIT_REJECTED_UNSIGNED
            && refusal_id(self.request_id.as_ref(), self.pc_id.as_ref()) == self.result_id.as_ref()
    }

    /// Whether a check learns nothing from this result: it was refused, or the script was not run (§3.3).
    #[must_use]
    pub fn carries_no_check_evidence(&self) -> bool {
        let reserved = kv::EXIT_SKIP_UNSUPPORTED..=kv::EXIT_SKIP_STALENESS;
        self.is_signature_refusal() || self.skipped.unwrap_or_else(|| reserved.contains(&self.exit_code))
    }
}

#[cfg(test)]
pub(crate) mod tests;
