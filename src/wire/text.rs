//! What all decoders share: their error, and texts that are borrowed from a payload or share its bytes.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use bytestring::ByteString;
use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};
use thiserror::Error;

use super::inert::inert;

/// Outside text may stand in a reason: characters that are kept of it, in one line.
const REASON_MAX: usize = 300;

/// Why bytes are none of the wire's messages, and where.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// Not a text at all.
    #[error("not valid UTF-8 at byte {at}")]
    Utf8 {
        /// Offset of the first bad byte.
        at: usize,
    },
    /// Not JSON, or not of the right shape.
    #[error("{0}")]
    Json(String),
    /// A snapshot whose subject does not say which kind it is (contract §2.2).
    #[error("the subject is not inventory.<pc_id>.<category>")]
    Subject,
}

/// A text borrowed from the payload where it stands there as it is, else unescaped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Borrowed<'a>(pub(super) Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Borrowed<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Borrowed<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }

            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Borrowed(Cow::Borrowed(text)))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Borrowed(Cow::Owned(text.to_owned())))
            }

            fn visit_string<E: de::Error>(self, text: String) -> Result<Self::Value, E> {
                Ok(Borrowed(Cow::Owned(text)))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// The payload as text.
pub(super) fn utf8(payload: &[u8]) -> Result<&str, DecodeError> {
    std::str::from_utf8(payload).map_err(|error| DecodeError::Utf8 {
        at: error.valid_up_to(),
    })
}

/// The payload as a text that shares its bytes.
pub(super) fn shared(payload: &Bytes) -> Result<ByteString, DecodeError> {
    ByteString::try_from(payload.clone()).map_err(|_| DecodeError::Utf8 {
        at: std::str::from_utf8(payload).map_or_else(|error| error.valid_up_to(), str::len),
    })
}

/// A slice of `whole` where the text stands there, else a text of its own.
pub(super) fn share(whole: &ByteString, text: Borrowed<'_>) -> ByteString {
    match text.0 {
        Cow::Borrowed(text) => whole.slice_ref(text),
        Cow::Owned(text) => ByteString::from(text),
    }
}

/// One JSON value and nothing after it.
pub(super) fn json<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, DecodeError> {
    serde_json::from_str(text)
        .map_err(|error| DecodeError::Json(inert(&error.to_string(), REASON_MAX).into_owned()))
}
