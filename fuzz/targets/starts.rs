//! The payload of a start event (contract §5.1), and the row that it makes.

use bytes::Bytes;
use results_projector::projection::start;
use results_projector::wire::manifest::expires_at;
use results_projector::wire::started::decode_shared;
use results_projector::wire::time::Timestamp;
use serde_json::json;

use super::model::{Members, Says, agrees, assert_one_line, assert_times, is_sure};

pub(crate) fn run(data: &[u8]) {
    let found = decode_shared(&Bytes::copy_from_slice(data));
    compare(data, found.as_ref().ok());
    match found {
        Ok(event) => {
            assert_times(&[event.started_at]);
            let written = json!({
                "result_id": &*event.result_id, "request_id": &*event.request_id, "exec_id": &*event.exec_id,
                "pc_id": &*event.pc_id, "manifest_id": &*event.manifest_id, "version": &*event.version,
                "started_at": event.started_at.stored(), "unknown": null,
            });
            assert_eq!(decode_shared(&written.to_string().into()).as_ref(), Ok(&event));
            // Any text may stand where a manifest has its timeout.
            let row = start::row(&event, event.started_at, Some(&event.version));
            let deadline = row
                .expires_at
                .as_deref()
                .map(|text| Timestamp::parse_stored(text).unwrap());
            assert_eq!(deadline, expires_at(event.started_at, &event.version));
            if let Some(deadline) = deadline {
                assert_times(&[event.started_at, deadline]);
                assert!(deadline > event.started_at, "a deadline before the start");
            }
        }
        Err(error) => assert_one_line(&error.to_string()),
    }
}

fn compare(
    payload: &[u8],
    found: Option<&results_projector::wire::started::EventStarted<bytestring::ByteString>>,
) {
    let members = match Members::of(payload) {
        Says::Is(members) => members,
        Says::Nothing => return,
        Says::Wrong => {
            assert!(found.is_none(), "no JSON object, and taken for a start event");
            return;
        }
    };
    let mut right = true;
    let mut sure = true;
    macro_rules! text {
        ($($name:ident)*) => { $(
            let says = members.text(stringify!($name));
            right &= agrees(&says, found.map(|event| event.$name.to_string()), stringify!($name));
            sure &= is_sure(&says);
        )* };
    }
    text!(result_id request_id exec_id pc_id manifest_id version);
    let time = members.time("started_at");
    right &= agrees(&time, found.map(|event| event.started_at), "started_at");
    sure &= is_sure(&time);
    assert!(
        !(right && sure) || found.is_some(),
        "a good start event is refused"
    );
}
