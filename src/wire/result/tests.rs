use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// A result that has every field. A new one is given here, with a value that is no default: by this it is tested that each way
/// to write, carry and check a row knows all of a result.
pub(crate) fn whole() -> ExecResult<ByteString> {
    let text = ByteString::from_static;
    ExecResult {
        result_id: text("r1"),
        request_id: text("q1"),
        exec_id: Some(text("e1")),
        parent_result_id: Some(text("r0")),
        pc_id: text("PC-1"),
        exit_code: 124,
        skipped: Some(true),
        stdout: text("out"),
        stderr: text("err"),
        started_at: Timestamp::parse_wire("2026-06-01T00:00:01Z").unwrap(),
        finished_at: Timestamp::parse_wire("2026-06-01T00:00:05Z").unwrap(),
        stdout_object: Some(text("q1/PC-1/stdout")),
        stderr_object: Some(text("q1/PC-1/stderr")),
        manifest_id: Some(text("job")),
        collect_object: Some(text("c1")),
    }
}

fn message() -> Value {
    json!({
        "result_id": "r1", "request_id": "q1", "pc_id": "PC-1", "exit_code": 0, "stdout": "out\n", "stderr": "",
        "started_at": "2026-06-01T00:00:00Z", "finished_at": "2026-06-01T00:00:05Z",
    })
}

fn with(field: &str, value: Value) -> Vec<u8> {
    let mut message = message();
    message[field] = value;
    message.to_string().into_bytes()
}

/// The error, from both ways to decode.
fn error(payload: &[u8]) -> String {
    let borrowed = decode(payload).unwrap_err();
    assert_eq!(
        decode_shared(&Bytes::copy_from_slice(payload)).unwrap_err(),
        borrowed
    );
    borrowed.to_string()
}

proptest! {
    #[test]
    fn whatever_is_encoded_is_decoded_borrowed_and_shared(
        texts in prop::collection::vec(any::<String>(), 6), exit_code in any::<i32>(),
        skipped in any::<Option<bool>>(), options in any::<[bool; 3]>(), unknown in any::<String>()
    ) {
        let mut sent = json!({
            "result_id": texts[0], "request_id": texts[1], "pc_id": texts[2], "exit_code": exit_code,
            "skipped": skipped, "stdout": texts[3], "stderr": texts[4],
            "started_at": "2026-06-01T00:00:00.000000001Z", "finished_at": "2026-06-01T09:00:05+09:00",
        });
        for (present, name) in options.into_iter().zip(["exec_id", "stdout_object", "manifest_id"]) {
            sent[name] = if present { json!(texts[5]) } else { Value::Null };
        }
        sent[format!("x-{unknown}")] = json!([texts[5], {"nested": null}]);
        let payload = Bytes::from(sent.to_string());
        let borrowed = decode(&payload).unwrap();
        let shared = decode_shared(&payload).unwrap();
        prop_assert_eq!(borrowed.map(Cow::into_owned), shared.clone().map(|text| text.to_string()));
        prop_assert_eq!(&*shared.result_id, &texts[0]);
        prop_assert_eq!(&*shared.stdout, &texts[3]);
        prop_assert_eq!(shared.exit_code, exit_code);
        prop_assert_eq!(shared.skipped, skipped);
        prop_assert_eq!(shared.exec_id.as_deref(), options[0].then_some(texts[5].as_str()));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert_eq!(decode(&bytes).is_ok(), decode_shared(&bytes.into()).is_ok());
    }

    #[test]
    fn no_damage_to_a_good_message_makes_it_panic(at in 0_usize..200, byte in any::<u8>()) {
        let mut bytes = message().to_string().into_bytes();
        if let Some(place) = bytes.get_mut(at) {
            *place = byte;
        }
        prop_assert_eq!(decode(&bytes).is_ok(), decode_shared(&bytes.into()).is_ok());
    }
}

#[test]
fn an_error_says_what_is_wrong_and_where() {
    assert!(error(b"").contains("EOF"));
    assert!(error(b"hello").contains("line 1 column 1"));
    assert!(error(b"{}").contains("missing field `request_id`"));
    assert!(error(&with("exit_code", json!(1.0))).contains("expected i32"));
    assert!(error(&with("result_id", Value::Null)).contains("expected a text"));
    assert_eq!(error(b"{\"a\":\"\xc3\x28\"}"), "not valid UTF-8 at byte 6");
    let twice = message().to_string().replacen('{', "{\"pc_id\":\"PC-2\",", 1);
    assert!(error(twice.as_bytes()).contains("duplicate field `pc_id`"));
}

#[test]
fn deep_nesting_is_skipped_where_it_is_unknown_and_refused_where_it_is_not() {
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    let unknown = message()
        .to_string()
        .replacen('{', &format!("{{\"unknown\":{deep},"), 1);
    assert!(decode(unknown.as_bytes()).is_ok());
    assert!(error(deep.as_bytes()).contains("invalid"));
}

#[test]
fn an_error_stays_one_short_line_whatever_was_sent() {
    let text = error(&with("exit_code", json!("\u{1b}[31m\n".repeat(10_000))));
    assert!(
        text.chars().count() <= 301 && text.ends_with('…') && !text.chars().any(char::is_control),
        "{text}"
    );
}

#[test]
fn nul_characters_and_a_line_of_a_megabyte_are_legal() {
    let long = "x".repeat(1 << 20);
    assert_eq!(decode(&with("stdout", json!(long))).unwrap().stdout, long);
    assert_eq!(
        decode(&with("stdout", json!("a\u{0}b"))).unwrap().stdout,
        "a\u{0}b"
    );
}
