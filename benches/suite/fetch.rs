//! Fetching alone: the bytes of all objects by name, as fast as the client gets them. Several ways are tried once; the best
//! is the limit. No digest is computed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use async_nats::{Client, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::try_join_all;
use results_projector::wire::object::{chunk_subject, meta_subject, stream_name};
use serde::Deserialize;
use serde_json::json;

const BUCKET: &str = "result_output";
/// The status that follows the last chunk.
const END_OF_BATCH: u16 = 204;
/// Of the objects, for finding the best way.
const TRIED: usize = 10;

/// How chunks are asked for.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    /// Objects under way at once.
    at_once: usize,
    connections: usize,
    /// All chunks of an object by one question, or one after the other.
    batched: bool,
}

const fn way(at_once: usize, connections: usize, batched: bool) -> Way {
    Way {
        at_once,
        connections,
        batched,
    }
}

const WAYS: [Way; 8] = [
    way(4, 1, true),
    way(8, 1, true),
    way(16, 1, true),
    way(4, 1, false),
    way(8, 1, false),
    way(16, 1, false),
    way(8, 2, true),
    way(8, 2, false),
];

#[derive(Deserialize)]
struct Meta {
    nuid: String,
    size: usize,
    chunks: usize,
}

/// The fastest way, by a tenth of the objects.
pub async fn best_way(url: &str, objects: &[String]) -> Way {
    let some: Vec<String> = objects.iter().step_by(TRIED).cloned().collect();
    let mut rates = Vec::new();
    for way in WAYS {
        let began = Instant::now();
        let bytes = fetch(url, &some, way).await;
        rates.push((bytes as f64 / began.elapsed().as_secs_f64(), way));
    }
    let best = rates
        .into_iter()
        .max_by(|(one, _), (other, _)| one.total_cmp(other));
    let best = best.map_or(WAYS[0], |(_, way)| way);
    eprintln!("fetch: the best way is {best:?}");
    best
}

/// Fetches all objects; returns their bytes.
pub async fn fetch(url: &str, objects: &[String], way: Way) -> usize {
    let (next, objects) = (Arc::new(AtomicUsize::new(0)), Arc::new(objects.to_vec()));
    let clients = try_join_all((0..way.connections).map(|_| async_nats::connect(url)));
    let workers: Vec<_> = (clients.await.unwrap().into_iter().cycle().take(way.at_once))
        .map(|client| {
            let (next, objects) = (next.clone(), objects.clone());
            tokio::spawn(async move {
                let inbox = client.new_inbox();
                let mut answers = client.subscribe(inbox.clone()).await.unwrap();
                let mut bytes = 0;
                while let Some(name) = objects.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let meta = meta(&client, name).await;
                    let object = match way.batched {
                        true => batch(&client, &inbox, &mut answers, &meta).await,
                        false => one_by_one(&client, &meta).await,
                    };
                    assert_eq!(object.len(), meta.size, "{name}");
                    bytes += object.len();
                }
                bytes
            })
        })
        .collect();
    let mut bytes = 0;
    for worker in workers {
        bytes += worker.await.unwrap();
    }
    bytes
}

fn question() -> String {
    format!("$JS.API.DIRECT.GET.{}", stream_name(BUCKET))
}

async fn meta(client: &Client, name: &str) -> Meta {
    let question = format!("{}.{}", question(), meta_subject(BUCKET, name));
    let answer = client.request(question, Bytes::new()).await.unwrap();
    serde_json::from_slice(&answer.payload).unwrap()
}

async fn batch(client: &Client, inbox: &str, answers: &mut Subscriber, meta: &Meta) -> Vec<u8> {
    let wanted = json!({"batch": meta.chunks, "next_by_subj": chunk_subject(BUCKET, &meta.nuid), "seq": 1});
    client
        .publish_with_reply(question(), inbox.to_owned(), wanted.to_string().into())
        .await
        .unwrap();
    let mut object = Vec::with_capacity(meta.size);
    loop {
        let answer = answers.next().await.unwrap();
        match answer.status {
            None => object.extend_from_slice(&answer.payload),

            Some(status) if status.as_u16() == END_OF_BATCH => return object,
            Some(status) => panic!("{status}"),
        }
    }
}

async fn one_by_one(client: &Client, meta: &Meta) -> Vec<u8> {
    let subject = chunk_subject(BUCKET, &meta.nuid);
    let (mut object, mut seq) = (Vec::with_capacity(meta.size), 0_u64);
    for _ in 0..meta.chunks {
        let wanted = json!({"next_by_subj": subject, "seq": seq + 1});
        let answer = client
            .request(question(), wanted.to_string().into())
            .await
            .unwrap();
        let headers = answer.headers.unwrap();
        seq = headers.get("Nats-Sequence").unwrap().as_str().parse().unwrap();
        object.extend_from_slice(&answer.payload);
    }
    object
}
