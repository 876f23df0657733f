//! The payload of a message of RESULTS (contract §3).

use bytes::Bytes;
use results_projector::projection::output::{Output, is_placeholder};
use results_projector::wire::object;
use results_projector::wire::output::Attempt;
use results_projector::wire::result::{DecodeError, ExecResult, Field, decode, decode_shared};
use serde_json::{Value, json};

use super::model::{Members, Says, agrees, assert_one_line, assert_times, is_sure};

pub(crate) fn run(data: &[u8]) {
    let payload = Bytes::copy_from_slice(data);
    let shared = decode_shared(&payload).map(|result| result.map(|text| text.to_string()));
    let borrowed = decode(data).map(|result| result.map(|text| text.into_owned()));
    assert_eq!(borrowed, shared, "borrowed and shared");
    compare(data, borrowed.as_ref().ok());
    match borrowed {
        Ok(result) => accepted(&result),
        Err(error) => {
            if let DecodeError::Utf8 { at } = error {
                assert!(at < data.len());
            }
            assert_one_line(&error.to_string());
        }
    }
}

fn compare(payload: &[u8], found: Option<&ExecResult<String>>) {
    let members = match Members::of(payload) {
        Says::Is(members) => members,
        Says::Nothing => return,
        Says::Wrong => {
            assert!(found.is_none(), "no JSON object, and taken for a result");
            return;
        }
    };
    let mut right = true;
    let mut sure = true;
    macro_rules! field {
        ($says:expr, $name:ident) => {
            let says = $says;
            right &= agrees(
                &says,
                found.map(|result| result.$name.clone()),
                stringify!($name),
            );
            sure &= is_sure(&says);
        };
    }
    field!(members.text_or_empty("result_id"), result_id);
    field!(members.text("request_id"), request_id);
    field!(members.optional_text("exec_id"), exec_id);
    field!(members.optional_text("parent_result_id"), parent_result_id);
    field!(members.text("pc_id"), pc_id);
    field!(members.optional_truth("skipped"), skipped);
    field!(members.text("stdout"), stdout);
    field!(members.text("stderr"), stderr);
    field!(members.time("started_at"), started_at);
    field!(members.time("finished_at"), finished_at);
    field!(members.optional_text("stdout_object"), stdout_object);
    field!(members.optional_text("stderr_object"), stderr_object);
    field!(members.optional_text("manifest_id"), manifest_id);
    field!(members.optional_text("collect_object"), collect_object);
    let exit_code = members.integer("exit_code", i32::MIN.into(), i32::MAX.into());
    right &= agrees(
        &exit_code,
        found.map(|result| result.exit_code.into()),
        "exit_code",
    );
    sure &= is_sure(&exit_code);
    assert!(!(right && sure) || found.is_some(), "a good result is refused");
}

fn accepted(result: &ExecResult<String>) {
    assert_times(&[result.started_at, result.finished_at]);
    let again =
        decode_shared(&written(result).to_string().into()).map(|result| result.map(|text| text.to_string()));
    assert_eq!(again.as_ref(), Ok(result), "written and read again");

    let key = result.row_key();
    assert!(!key.is_empty());
    assert_eq!(key == result.result_id, !result.result_id.is_empty());
    assert_eq!(result.skipped_column(), result.skipped == Some(true));
    if result.is_signature_refusal() {
        assert!(result.exit_code == 123 && result.carries_no_check_evidence());
    }
    for (field, pointer) in [
        (Field::Stdout, &result.stdout_object),
        (Field::Stderr, &result.stderr_object),
    ] {
        let Some(pointer) = pointer else { continue };
        let folder = format!("{}/", result.request_id);
        assert_eq!(
            object::belongs_to(pointer, &result.request_id),
            pointer.starts_with(&folder)
        );
        for attempt in [
            Attempt::Pending("x".to_owned()),
            Attempt::Gone("x".to_owned()),
            Attempt::Refused,
            Attempt::TooLarge { size: 2, limit: 1 },
        ] {
            let object = pointer.as_str().into();
            let text = Output { object, attempt }.column(field).into_owned();
            assert!(
                text.contains(pointer.as_str()) && is_placeholder(&text, field, pointer),
                "{text}"
            );
        }
    }
}

/// Every field by its name: what is added to it here, [`compare`] must know too.
fn written(result: &ExecResult<String>) -> Value {
    let ExecResult {
        result_id,
        request_id,
        exec_id,
        parent_result_id,
        pc_id,
        exit_code,
        skipped,
        stdout,
        stderr,
        started_at,
        finished_at,
        stdout_object,
        stderr_object,
        manifest_id,
        collect_object,
    } = result;
    json!({
        "result_id": result_id, "request_id": request_id, "exec_id": exec_id, "parent_result_id": parent_result_id,
        "pc_id": pc_id, "exit_code": exit_code, "skipped": skipped, "stdout": stdout, "stderr": stderr,
        "started_at": started_at.stored(), "finished_at": finished_at.stored(), "stdout_object": stdout_object,
        "stderr_object": stderr_object, "manifest_id": manifest_id, "collect_object": collect_object, "unknown": [{}],
    })
}
