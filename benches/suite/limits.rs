//! The limits: each part of the way alone, on the same messages in the same round.

use std::fs::File;
use std::hint::black_box;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use async_nats::jetstream;
use async_nats::jetstream::consumer::{AckPolicy, pull};
use futures_util::StreamExt;
use futures_util::future::join_all;
use results_projector::wire::result::decode_shared;
use results_projector::wire::started;
use rusqlite::Connection;

use crate::SCHEMA_END;
use crate::live::{Took, insert};
use crate::messages::{Does, Groups};
use crate::support::argument;
use crate::support::service::STREAMS;

/// Reads all streams to their ends, acknowledging once for so many messages.
pub async fn consume(js: &jetstream::Context) -> f64 {
    const ACK_EVERY: u64 = 20_000;
    let began = Instant::now();
    join_all(STREAMS.map(|name| async move {
        let stream = js.get_stream(name).await.unwrap();
        let messages = stream.cached_info().state.messages;
        if messages == 0 {
            return;
        }
        let consumer = stream
            .create_consumer(pull::Config {
                durable_name: Some("bench".into()),
                ack_policy: AckPolicy::All,
                max_ack_pending: 200_000,
                ..Default::default()
            })
            .await
            .unwrap();
        let batches = consumer.stream().max_messages_per_batch(5_000);
        let mut iterator = batches.messages().await.unwrap();
        for number in 1..=messages {
            let message = iterator.next().await.unwrap().unwrap();
            if number % ACK_EVERY == 0 || number == messages {
                message.ack().await.unwrap();
            }
        }
        stream.delete_consumer("bench").await.unwrap();
    }))
    .await;
    began.elapsed().as_secs_f64()
}

/// Writes as many bytes from the first to the last, and syncs.
pub fn write(file: &Path, bytes: u64) -> f64 {
    let part: Vec<u8> = (0..1_u32 << 20)
        .map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let began = Instant::now();
    let mut out = File::create(file).unwrap();
    let mut left = bytes as usize;
    while left > 0 {
        let now = left.min(part.len());
        out.write_all(&part[..now]).unwrap();
        left -= now;
    }
    out.sync_all().unwrap();
    began.elapsed().as_secs_f64()
}

fn decode(messages: &Path) -> f64 {
    let mut seconds = 0.0;
    for group in Groups::open(messages) {
        let began = Instant::now();
        for message in &group {
            match message.does {
                Does::Result | Does::Finish => drop(black_box(decode_shared(&message.payload).unwrap())),
                Does::Start | Does::LateStart => {
                    drop(black_box(started::decode_shared(&message.payload).unwrap()));
                }
                Does::Snapshot | Does::Nothing => {}
            }
        }
        seconds += began.elapsed().as_secs_f64();
    }
    seconds
}

/// The tables of the read model that a database has, exploded ones too, and what belongs to them.
fn schema(db: &Path) -> String {
    let texts: Vec<String> = Connection::open(db)
        .unwrap()
        .prepare(
            "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%'
                 AND tbl_name NOT LIKE 'projector_%' ORDER BY type = 'table' DESC",
        )
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    texts.into_iter().map(|text| text + SCHEMA_END).collect()
}

/// Rows by table.
fn rows(db: &Path) -> Vec<(String, u64)> {
    let conn = Connection::open(db).unwrap();
    let names: Vec<String> = conn
        .prepare(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'
                 AND name NOT LIKE 'projector_%' ORDER BY name",
        )
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let count = |name: &str| conn.query_row(&format!("SELECT count(*) FROM {name}"), [], |row| row.get(0));
    names
        .into_iter()
        .map(|name| {
            let rows = count(&name).unwrap();
            (name, rows)
        })
        .collect()
}

/// A loop that writes less than the product is no limit.
pub fn assert_same_rows(product: &Path, bare: &Path) {
    assert_eq!(
        rows(product),
        rows(bare),
        "the bare loop has not written the product's rows"
    );
}

/// The part that [`alone`] has started this process for, if it has.
pub fn in_a_child() -> bool {
    let part = argument("alone", String::new());
    let path = |name: &str| std::path::PathBuf::from(argument(name, String::new()));
    let (messages, db) = (path("messages"), path("db"));
    let said = match part.as_str() {
        "" => return false,
        "decode" => serde_json::json!(decode(&messages)),
        "insert" => serde_json::json!(insert(&messages, &schema(&path("like")), &db)),
        "bulk" => serde_json::json!(crate::bulk::load(&messages, &schema(&path("like")), &db)),
        part => panic!("no part {part}"),
    };
    println!("{said}");
    true
}

/// One part in a process of its own, as fresh as the product's. `like`: the product's database.
fn alone(part: &str, messages: &Path, like: &Path, db: &Path) -> serde_json::Value {
    let said = Command::new(std::env::current_exe().unwrap())
        .args(["--alone", part, "--messages"])
        .arg(messages)
        .arg("--like")
        .arg(like)
        .arg("--db")
        .arg(db)
        .output()
        .unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    serde_json::from_slice(&said.stdout).unwrap()
}

pub fn decode_alone(messages: &Path) -> f64 {
    let none = Path::new("");
    alone("decode", messages, none, none).as_f64().unwrap()
}

pub fn insert_alone(messages: &Path, like: &Path, db: &Path) -> Took {
    serde_json::from_value(alone("insert", messages, like, db)).unwrap()
}

pub fn bulk_alone(messages: &Path, like: &Path, db: &Path) -> f64 {
    let phases: Vec<(String, f64)> = serde_json::from_value(alone("bulk", messages, like, db)).unwrap();
    phases.iter().map(|(_, seconds)| seconds).sum()
}
