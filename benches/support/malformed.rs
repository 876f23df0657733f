//! Messages that no decoder takes, one way after the other, with about so many bytes to read before that shows.

use bytes::Bytes;

/// The ways.
pub const WAYS: usize = 9;

pub fn malformed(number: usize, bytes: usize) -> Bytes {
    let long = "x".repeat(bytes);
    let head = format!(
        r#"{{"result_id":"bad-{number}","request_id":"q-{number}","pc_id":"PC-BAD","stdout":"{long}","stderr":"""#
    );
    let times = r#""started_at":"2026-06-01T00:00:00Z","finished_at":"2026-06-01T00:00:05Z""#;
    let text = match number % WAYS {
        // Not JSON.
        0 => format!("{long} not json at all"),
        // A field is missing.
        1 => format!("{head},\"exit_code\":0}}"),
        // A wrong type; the error quotes the text.
        2 => format!("{head},\"exit_code\":\"{long}\",{times}}}"),
        // Nested without end.
        3 => format!(
            "{head},{times},\"exit_code\":{}{}}}",
            "[".repeat(bytes.max(600) / 2),
            "]".repeat(bytes.max(600) / 2)
        ),
        // Not UTF-8: at its very end.
        4 => {
            let mut bytes = format!("{head},\"exit_code\":0,{times},\"manifest_id\":\"").into_bytes();
            bytes.extend_from_slice(b"\xff\xfe\"}");
            return Bytes::from(bytes);
        }
        // Numbers beyond every type.
        5 => format!(
            "{head},{times},\"exit_code\":{}}}",
            "9".repeat(bytes.clamp(400, 20_000))
        ),
        6 => format!("{head},{times},\"exit_code\":1e999}}"),
        // Cut off.
        7 => format!("{head},{times},\"exit_code\":0"),
        // No time.
        _ => format!("{head},\"exit_code\":0,\"started_at\":\"{long}\",\"finished_at\":\"yesterday\"}}"),
    };
    Bytes::from(text)
}
