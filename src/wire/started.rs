//! `EventStarted`, the projected message of EVENTS (contract §5.1).

use bytes::Bytes;
use bytestring::ByteString;
use serde::Deserialize;

use super::text::{self, Borrowed, DecodeError};
use super::time::Timestamp;

/// A script is about to be launched. `T`: how texts are held, borrowed from the payload or sharing it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct EventStarted<T> {
    /// Id of this run on this PC; the key of the row.
    pub result_id: T,
    /// Id of the command.
    pub request_id: T,
    /// Id of the deployment.
    pub exec_id: T,
    /// The host.
    pub pc_id: T,
    /// The job.
    pub manifest_id: T,
    /// The job's version.
    pub version: T,
    /// By the agent's clock.
    pub started_at: Timestamp,
}

impl<T> EventStarted<T> {
    /// The same event with its texts held in another way.
    pub fn map<U>(self, mut text: impl FnMut(T) -> U) -> EventStarted<U> {
        EventStarted {
            result_id: text(self.result_id),
            request_id: text(self.request_id),
            exec_id: text(self.exec_id),
            pc_id: text(self.pc_id),
            manifest_id: text(self.manifest_id),
            version: text(self.version),
            started_at: self.started_at,
        }
    }
}

/// Decodes a payload; each text is a slice of it, or a copy where JSON had escapes.
///
/// # Errors
/// What is wrong and where; never longer than a line.
pub fn decode_shared(payload: &Bytes) -> Result<EventStarted<ByteString>, DecodeError> {
    let whole = text::shared(payload)?;
    let event: EventStarted<Borrowed<'_>> = text::json(&whole)?;
    Ok(event.map(|text| text::share(&whole, text)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    proptest! {
        #[test]
        fn whatever_is_encoded_is_decoded(texts in prop::collection::vec(any::<String>(), 6)) {
            let sent = json!({
                "result_id": texts[0], "request_id": texts[1], "exec_id": texts[2], "pc_id": texts[3],
                "manifest_id": texts[4], "version": texts[5], "started_at": "2026-06-01T09:00:00+09:00",
            });
            let event = decode_shared(&Bytes::from(sent.to_string())).unwrap();
            let found = [
                &event.result_id, &event.request_id, &event.exec_id, &event.pc_id, &event.manifest_id, &event.version,
            ];
            prop_assert_eq!(found.map(|text| text.to_string()).to_vec(), texts);
            prop_assert_eq!(event.started_at.stored(), "2026-06-01T00:00:00+00:00");
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _decoded_or_not = decode_shared(&bytes.into()).is_ok();
        }
    }

    #[test]
    fn an_error_says_what_is_wrong() {
        let error =
            decode_shared(&Bytes::from_static(b"{\"result_id\":\"a\",\"result_id\":\"b\"}")).unwrap_err();
        assert!(
            error.to_string().contains("duplicate field `result_id`"),
            "{error}"
        );
    }
}
