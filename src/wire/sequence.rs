//! Numbers that must never be mixed up (DESIGN §3), and what identifies a message in a stream.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::time::Timestamp;

/// A message's number in its stream. Starts at 1; a stream that is made anew uses numbers again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StreamSeq(pub u64);

/// The number of a delivery, per consumer. Starts at 1 with every opening.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConsumerSeq(pub u64);

impl StreamSeq {
    /// The number after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The number before this one; 0, which no message has, stays 0.
    #[must_use]
    pub fn before(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

impl ConsumerSeq {
    /// The number after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for StreamSeq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for ConsumerSeq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The first eight bytes of a subject's SHA-256, as 16 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SubjectHash(u64);

impl SubjectHash {
    /// Hashes a subject.
    #[must_use]
    pub fn of(subject: &str) -> Self {
        let digest = Sha256::digest(subject.as_bytes());
        Self(digest.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes)))
    }

    /// Reads what [`fmt::Display`] writes; `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        // The reader of numbers would take a sign for a digit.
        (text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit()))
            .then(|| u64::from_str_radix(text, 16).ok())
            .flatten()
            .map(Self)
    }
}

impl fmt::Display for SubjectHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for SubjectHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Which message stood at a sequence: sequences are used again when a stream is restored or made anew, the
/// publish time with its nanoseconds and the subject are not (contract §7.11).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Where it stood.
    pub seq: StreamSeq,
    /// When the server stored it.
    pub published: Timestamp,
    /// Its subject.
    pub subject: SubjectHash,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_hash_reads_back_what_it_writes() {
        let hash = SubjectHash::of("results.q-1");
        assert_eq!(SubjectHash::parse(&hash.to_string()), Some(hash));
        for text in ["12", "zzzzzzzzzzzzzzzz", "+123456789abcdef"] {
            assert_eq!(SubjectHash::parse(text), None, "{text}");
        }
        assert_ne!(hash, SubjectHash::of("results.q-2"));
    }
}
