//! The states of an output behind a pointer, and how one attempt to read it ended (contract §7.1).

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use bytestring::ByteString;

/// The states of contract §7.1; the book calls unreachable `pending`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Present: read whole, length and digest right.
    Fetched,
    /// Not to be had yet; asked for again.
    Pending,
    /// Certainly not there any more.
    Gone,
    /// Longer than the limit.
    TooLarge,
    /// Outside the folder of its own result (D18).
    Refused,
}

impl State {
    /// All states, in the order of the contract.
    pub const ALL: [Self; 5] = [
        Self::Fetched,
        Self::Pending,
        Self::Gone,
        Self::TooLarge,
        Self::Refused,
    ];

    /// The word in books and lists.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fetched => "fetched",
            Self::Pending => "pending",
            Self::Gone => "gone",
            Self::TooLarge => "too_large",
            Self::Refused => "refused",
        }
    }

    /// Reads the word back.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The bytes of an object. Kept as they came: a bad sequence grows to three bytes as U+FFFD, and that copy is made
/// for one output at a time, when its row is written.
#[derive(Clone, Debug)]
pub enum Content {
    /// Valid UTF-8.
    Text(ByteString),
    /// Not valid UTF-8.
    Raw(Bytes),
    /// As a database kept it.
    Kept {
        /// The text.
        text: ByteString,
        /// Size in bytes of the object that it was read from.
        size: usize,
    },
}

impl Content {
    /// Checks the bytes once.
    #[must_use]
    pub fn new(bytes: Bytes) -> Self {
        ByteString::try_from(bytes.clone()).map_or(Self::Raw(bytes), Self::Text)
    }

    /// The text, each invalid sequence as U+FFFD (contract §3.4).
    #[must_use]
    pub fn text(&self) -> Cow<'_, str> {
        match self {
            Self::Text(text) | Self::Kept { text, .. } => Cow::Borrowed(text),
            Self::Raw(bytes) => String::from_utf8_lossy(bytes),
        }
    }

    /// Size in bytes, as stored in the object.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Raw(bytes) => bytes.len(),
            Self::Kept { size, .. } => *size,
        }
    }

    /// Whether the object held nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// How an attempt to read an object ended.
#[derive(Clone, Debug)]
pub enum Attempt {
    /// Read whole and checked.
    Fetched {
        /// The object's bytes.
        content: Content,
        /// Their SHA-256.
        sha256: [u8; 32],
        /// Whether the metadata had a digest to check against; agents always send one.
        verified: bool,
    },
    /// Anything not certain: the reason.
    Pending(String),
    /// Certain: the reason.
    Gone(String),
    /// Its size as the metadata says, and the limit, both in bytes.
    TooLarge {
        /// The object's size.
        size: u64,
        /// `outputs.max_bytes` at the time.
        limit: u64,
    },
    /// Not asked for (D18).
    Refused,
}

impl Attempt {
    /// The state it leads to.
    #[must_use]
    pub fn state(&self) -> State {
        match self {
            Self::Fetched { .. } => State::Fetched,
            Self::Pending(_) => State::Pending,
            Self::Gone(_) => State::Gone,
            Self::TooLarge { .. } => State::TooLarge,
            Self::Refused => State::Refused,
        }
    }

    /// Why it is not there, for the book.
    #[must_use]
    pub fn reason(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Fetched { verified: true, .. } => None,
            Self::Fetched { verified: false, .. } => {
                Some(Cow::Borrowed("its metadata has no digest to check against"))
            }
            Self::Pending(reason) | Self::Gone(reason) => Some(Cow::Borrowed(reason)),
            Self::TooLarge { size, limit } => Some(Cow::Owned(format!("{size} bytes, the limit is {limit}"))),
            Self::Refused => Some(Cow::Borrowed("the name lies outside this result's own folder")),
        }
    }
}
