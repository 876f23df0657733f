//! Decoding alone: `cargo bench --bench decode`.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout
)]

use std::hint::black_box;
use std::time::Instant;

use bytes::Bytes;
use results_projector::wire::result::{decode, decode_shared};

/// A result whose output is `lines` lines of text: line ends are escapes in JSON.
fn message(lines: usize) -> Bytes {
    let stdout = "checked volume C: service running update KB5039212 installed ok\n".repeat(lines);
    let message = serde_json::json!({
        "result_id": "11111111-1111-4111-8111-111111111111", "request_id": "22222222-2222-4222-8222-222222222222",
        "exec_id": "33333333-3333-4333-8333-333333333333", "pc_id": "PC-0001", "exit_code": 0, "skipped": false,
        "stdout": stdout, "stderr": "", "started_at": "2026-06-01T00:00:00.250Z",
        "finished_at": "2026-06-01T00:00:01.750Z", "manifest_id": "inventory-hw",
    });
    Bytes::from(message.to_string())
}

/// Messages a second, the median of five rounds.
fn rate(payload: &Bytes, rounds: usize, decode: impl Fn(&Bytes)) -> f64 {
    let mut rates: Vec<f64> = (0..5)
        .map(|_| {
            let started = Instant::now();
            for _ in 0..rounds {
                decode(black_box(payload));
            }
            rounds as f64 / started.elapsed().as_secs_f64()
        })
        .collect();
    rates.sort_by(f64::total_cmp);
    rates[2]
}

fn main() {
    println!(
        "{:<14}{:>12}{:>14}{:>12}",
        "decode", "bytes", "messages/s", "MB/s"
    );
    for (lines, rounds) in [(17, 100_000), (4_000, 500)] {
        let payload = message(lines);
        for (name, rate) in [
            (
                "borrowed",
                rate(&payload, rounds, |payload| {
                    drop(black_box(decode(payload).unwrap()))
                }),
            ),
            (
                "shared",
                rate(&payload, rounds, |payload| {
                    drop(black_box(decode_shared(payload).unwrap()))
                }),
            ),
        ] {
            println!(
                "{name:<14}{:>12}{rate:>14.0}{:>12.0}",
                payload.len(),
                rate * payload.len() as f64 / 1e6
            );
        }
    }
}
