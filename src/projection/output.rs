//! What became of an output behind a pointer, and the text its column shows meanwhile (contract §7.1).

use std::borrow::Cow;

use bytestring::ByteString;

use crate::wire::output::Attempt;
use crate::wire::result::Field;

/// An output that a message points to, and what became of the pointer.
#[derive(Clone, Debug)]
pub struct Output {
    /// The pointer, exactly as sent.
    pub object: ByteString,
    /// What became of it.
    pub attempt: Attempt,
}

impl Output {
    /// The column's text: the output, or the contract's words for what is missing (§7.1).
    #[must_use]
    pub fn column(&self, field: Field) -> Cow<'_, str> {
        let Self { object, attempt } = self;
        Cow::Owned(match attempt {
            Attempt::Fetched { content, .. } => return content.text(),
            Attempt::Pending(_) => {
                format!("[results-projector] {field} is in object {object}, not fetched yet")
            }
            Attempt::Gone(_) => format!("[results-projector] {field} was in object {object}, which is gone"),
            Attempt::Refused => {
                format!(
                    "[results-projector] {field} points to object {object}, which belongs to another result"
                )
            }
            Attempt::TooLarge { limit, .. } => {
                format!(
                    "[results-projector] {field} in object {object} is longer than the limit of {limit} bytes"
                )
            }
        })
    }
}
