//! The whole path against its parts, in one run on the same messages:
//! `cargo bench --bench drain -- [--results N] [--rounds N] [--outputs]`.
//!
//! (a) consuming only, (b) inserting only, a bare loop into the contract's schema, (c) the product, real binary and
//! all. With `--outputs`: results whose output is a 1 MB object instead, where (a) is left out.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout
)]
#![allow(clippy::let_underscore_must_use, clippy::string_slice)]

mod support;

use std::path::Path;
use std::time::Instant;

use async_nats::jetstream;
use async_nats::jetstream::consumer::{AckPolicy, pull};
use bytes::Bytes;
use bytestring::ByteString;
use futures_util::StreamExt;
use results_projector::wire::result::{ExecResult, decode_shared};
use support::bare::Bare;
use support::{Server, Usage, argument, drain, flag, fleet, median, quantile, read_payloads, write_payloads};

async fn consume(js: &jetstream::Context, messages: usize) -> f64 {
    let stream = js.get_stream("RESULTS").await.unwrap();
    let config = pull::Config {
        durable_name: Some("bench".into()),
        ack_policy: AckPolicy::All,
        max_ack_pending: 200_000,
        ..Default::default()
    };
    let _ = stream.delete_consumer("bench").await;
    let consumer = stream.create_consumer(config).await.unwrap();
    let started = Instant::now();
    let mut iterator = consumer
        .stream()
        .max_messages_per_batch(5_000)
        .messages()
        .await
        .unwrap();
    for number in 1..=messages {
        let message = iterator.next().await.unwrap().unwrap();
        if number % 20_000 == 0 || number == messages {
            message.ack().await.unwrap();
        }
    }
    started.elapsed().as_secs_f64()
}

/// (b) in a process of its own, as fresh as the product's: `--bare FILE --rows N --db FILE`.
fn bare_process(file: &str) {
    let payloads = read_payloads(Path::new(file));
    let mut decoded: Vec<ExecResult<ByteString>> = payloads
        .iter()
        .map(|payload| decode_shared(payload).unwrap())
        .collect();
    if flag("outputs") {
        let long = ByteString::from("x".repeat(1_000_000));
        decoded.iter_mut().for_each(|result| result.stdout = long.clone());
    }
    let (mut before, mut after) = (Usage::default(), Usage::default());
    before.sample(std::process::id());
    let started = Instant::now();
    let mut bare = Bare::create(std::path::Path::new(&argument("db", String::new())));
    let commits = bare.insert(&decoded, argument("rows", 20_000));
    bare.close();
    let seconds = started.elapsed().as_secs_f64();
    after.sample(std::process::id());
    println!(
        "{}",
        serde_json::json!([
            seconds,
            after.written - before.written,
            after.cpu - before.cpu,
            commits
        ])
    );
}

fn main() {
    let bare = argument("bare", String::new());
    if !bare.is_empty() {
        return bare_process(&bare);
    }
    let outputs = flag("outputs");
    let results = argument("results", if outputs { 2_000 } else { 200_000 });
    let rounds = argument("rounds", 3_usize);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let server = Server::start();
    let profile = if outputs {
        fleet::Profile {
            results,
            overflow_permille: 1_000,
            overflow_bytes: (1_000_000, 1_000_001),
            ..Default::default()
        }
    } else {
        fleet::Profile {
            results,
            ..Default::default()
        }
    };
    let js = runtime.block_on(async {
        let js = jetstream::new(async_nats::connect(&server.url).await.unwrap());
        // Beyond the backend's limits on streams and stores: the bench must not lose messages to them.
        fleet::create_streams(&js, Some(16 << 30)).await.unwrap();
        js
    });
    let payloads: Vec<Bytes> = runtime.block_on(async {
        let planned = fleet::plan(1, &profile);
        for part in planned.chunks(5_000) {
            fleet::publish(&js, part).await.unwrap();
        }
        planned.into_iter().map(|planned| planned.payload).collect()
    });
    let bytes: usize = payloads.iter().map(Bytes::len).sum();
    let file = tempfile::NamedTempFile::new().unwrap();
    write_payloads(file.path(), payloads.iter());
    drop(payloads);
    println!(
        "{results} results, {} bytes a message, {rounds} rounds, median of each",
        bytes / results
    );

    let (mut consumed, mut inserted, mut projected) = (Vec::new(), Vec::new(), Vec::new());
    let (mut bare_written, mut bare_cpu) = (0, 0.0);
    let mut usage = Usage::default();
    let (mut commits, mut bare_commits) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        if !outputs {
            consumed.push(runtime.block_on(consume(&js, results)));
        }
        let folder = tempfile::tempdir().unwrap();
        // What one run left for the disk to do must not slow the next.
        rustix::fs::sync();
        let rows = if outputs { "32" } else { "20000" };
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command
            .arg("--bare")
            .arg(file.path())
            .args(["--rows", rows, "--db"])
            .arg(folder.path().join("bare.db"));
        if outputs {
            command.arg("--outputs");
        }
        let said = command.output().unwrap();
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
        let (seconds, written, cpu, times): (f64, u64, f64, Vec<f64>) =
            serde_json::from_slice(&said.stdout).unwrap();
        inserted.push(seconds);
        (bare_written, bare_cpu) = (written, cpu);
        bare_commits.extend(times);
        rustix::fs::sync();
        let (seconds, used, times) = drain(&server.url, &folder.path().join("results.db"), &[]);
        projected.push(seconds);
        commits.extend(times);
        usage = Usage {
            peak: usage.peak.max(used.peak),
            peak_anonymous: usage.peak_anonymous.max(used.peak_anonymous),
            ..used
        };
        let ratio = |seconds: &[f64]| seconds.last().copied().unwrap_or(f64::NAN);
        println!(
            "round {}: consume {:.2} s, insert {:.2} s, product {:.2} s",
            round + 1,
            ratio(&consumed),
            ratio(&inserted),
            ratio(&projected)
        );
    }
    let n = results as f64;
    let ratios: Vec<f64> = (0..rounds)
        .map(|round| consumed.get(round).copied().unwrap_or(0.0).max(inserted[round]) / projected[round])
        .collect();
    let rate = |seconds: &mut [f64]| n / median(seconds);
    let per_100k = 100_000.0 / n;
    println!("\n{:<34}{:>12}{:>12}{:>12}", "", "consume", "insert", "product");
    println!(
        "{:<34}{:>12.0}{:>12.0}{:>12.0}",
        "rows/s",
        rate(&mut consumed),
        rate(&mut inserted),
        rate(&mut projected)
    );
    println!(
        "{:<34}{:>12}{:>12.1}{:>12.1}",
        "KB written per row",
        "",
        bare_written as f64 / n / 1e3,
        usage.written as f64 / n / 1e3
    );
    println!(
        "{:<34}{:>12}{:>12.2}{:>12.2}",
        "CPU seconds per 100k rows",
        "",
        bare_cpu * per_100k,
        usage.cpu * per_100k
    );
    for (name, share) in [("commit p50, ms", 0.5), ("commit p99, ms", 0.99)] {
        println!(
            "{name:<34}{:>12}{:>12.1}{:>12.1}",
            "",
            quantile(&mut bare_commits, share) * 1e3,
            quantile(&mut commits, share) * 1e3
        );
    }
    println!(
        "{:<34}{:>12}{:>12}{:>12.0}",
        "peak memory, MiB (anonymous)",
        "",
        "",
        usage.peak_anonymous as f64 / 1048576.0
    );
    println!(
        "{:<34}{:>12}{:>12}{:>12.0}",
        "peak memory, MiB (resident)",
        "",
        "",
        usage.peak as f64 / 1048576.0
    );
    let mut sorted = ratios.clone();
    println!(
        "\nproduct / min(consume, insert): median {:.2} (rounds: {})",
        median(&mut sorted),
        ratios
            .iter()
            .map(|ratio| format!("{ratio:.2}"))
            .collect::<Vec<_>>()
            .join(", ")
    );
}
