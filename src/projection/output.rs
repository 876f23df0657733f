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
            Attempt::TooLarge { limit, .. } => format!("{}{limit} bytes", too_large(field, object)),
        })
    }
}

fn too_large(field: Field, object: &str) -> String {
    format!("[results-projector] {field} in object {object} is longer than the limit of ")
}

/// Whether a column shows the contract's words for an output that is missing, whatever the limit was of one that was too
/// large.
#[must_use]
pub fn is_placeholder(text: &str, field: Field, object: &str) -> bool {
    let words = [
        Attempt::Pending(String::new()),
        Attempt::Gone(String::new()),
        Attempt::Refused,
    ];
    let shows = |attempt| {
        let object = object.into();
        Output { object, attempt }.column(field) == text
    };
    words.into_iter().any(shows)
        || text
            .strip_prefix(&too_large(field, object))
            .and_then(|rest| rest.strip_suffix(" bytes"))
            .is_some_and(|limit| limit.parse::<u64>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_for_what_is_missing_are_known_again_and_no_others() {
        for attempt in [
            Attempt::Pending("no answer".into()),
            Attempt::Gone("gone".into()),
            Attempt::Refused,
            Attempt::TooLarge { size: 9, limit: 8 },
        ] {
            let object = "q/r/stdout".into();
            let text = Output { object, attempt }.column(Field::Stdout).into_owned();
            assert!(is_placeholder(&text, Field::Stdout, "q/r/stdout"), "{text}");
            assert!(!is_placeholder(&text, Field::Stderr, "q/r/stdout"), "{text}");
            assert!(!is_placeholder(&text, Field::Stdout, "q/r"), "{text}");
            assert!(
                !is_placeholder(&format!("{text}."), Field::Stdout, "q/r/stdout"),
                "{text}"
            );
        }
    }
}
