//! A look at everything that the contract names at the server (DESIGN §8, `doctor`): facts, not judgements. Asks, and
//! changes nothing: no consumer is made, buckets are read by single messages. What this login may not ask is a fact, too.

pub mod facts;
pub mod permissions;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::response::Response;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::StreamExt;
use futures_util::stream;
use serde::Deserialize;
use serde_json::json;
use tokio::time::timeout;

use super::asking::{Js, Which};
use super::connect::{self, ConnectError};
use super::denials::Denied;
use super::monitor;
use super::opening::durable_name;
use crate::config::{self, Config};
use crate::wire::backend::{BUCKETS, STORES, STREAMS, bucket_stream, key_subject};
use crate::wire::kv::{self, StreamName};
use crate::wire::object;
use crate::wire::time::Timestamp;
use facts::{
    Clock, Contents, DurableFacts, Entry, Facts, Keys, Look, MonitorFacts, ServerFacts, StreamFacts,
};

/// An answer may list a hundred thousand keys.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Questions under way at once.
const AT_ONCE: usize = 16;
/// Keys of a bucket whose contents are read at most, and for how long.
const KEYS_READ_MAX: usize = 5_000;
const READ_LIMIT: Duration = Duration::from_secs(20);
/// Between two looks at a durable, to see it move.
const BETWEEN_LOOKS: Duration = Duration::from_millis(400);
/// An operation of a key-value bucket that is no value (contract §4.3).
const OPERATION: &str = "KV-Operation";

/// Buckets whose keys are looked at.
pub(crate) const READ: [&str; 15] = [
    kv::BUCKET_JOBS,
    kv::BUCKET_JOBS_YAML,
    kv::BUCKET_SCHEDULES,
    kv::BUCKET_SCHEDULES_YAML,
    kv::BUCKET_VIEWS,
    kv::BUCKET_VIEWS_YAML,
    kv::BUCKET_GROUP_DEFS,
    kv::BUCKET_GROUP_DEFS_YAML,
    kv::BUCKET_SCRIPT_CURRENT,
    kv::BUCKET_SCRIPT_STATUS,
    kv::BUCKET_AGENT_CONFIG,
    kv::BUCKET_AGENTS_STATE,
    kv::BUCKET_AGENT_GROUPS,
    kv::BUCKET_FLEET_CONFIG,
    kv::BUCKET_SERVER_SETTINGS,
];

/// One look at the server.
#[derive(Debug)]
pub struct Surveyor {
    js: Js,
    server: ServerFacts,
}

/// An answer to `STREAM.INFO`, as far as it is looked at.
#[derive(Deserialize)]
struct Info {
    config: InfoConfig,
    state: InfoState,
    #[serde(default)]
    total: u64,
    /// Of servers since 2.10.
    #[serde(default)]
    ts: Option<Timestamp>,
}

#[derive(Deserialize)]
struct InfoConfig {
    #[serde(default)]
    subjects: Vec<String>,
    #[serde(default)]
    retention: String,
    #[serde(default)]
    discard: String,
    #[serde(default)]
    storage: String,
    /// Nanoseconds.
    #[serde(default)]
    max_age: u64,
    #[serde(default)]
    max_bytes: i64,
    #[serde(default)]
    max_msgs: i64,
    #[serde(default)]
    max_msgs_per_subject: i64,
    #[serde(default)]
    allow_direct: bool,
}

#[derive(Deserialize)]
struct InfoState {
    messages: u64,
    bytes: u64,
    first_seq: u64,
    last_seq: u64,
    #[serde(default)]
    num_subjects: u64,
    #[serde(default)]
    subjects: BTreeMap<String, u64>,
}

impl Info {
    fn facts(&self) -> StreamFacts {
        let Self { config, state, .. } = self;
        StreamFacts {
            subjects: config.subjects.clone(),
            retention: config.retention.clone(),
            discard: config.discard.clone(),
            storage: config.storage.clone(),
            max_age: Duration::from_nanos(config.max_age),
            max_bytes: u64::try_from(config.max_bytes).ok().filter(|bytes| *bytes > 0),
            max_messages: config.max_msgs,
            max_per_subject: config.max_msgs_per_subject,
            allow_direct: config.allow_direct,
            bytes: state.bytes,
            messages: state.messages,
            first: state.first_seq,
            last: state.last_seq,
            subject_count: state.num_subjects,
        }
    }
}

#[derive(Deserialize)]
struct ConsumerInfo {
    config: ConsumerConfig,
    delivered: Delivered,
    #[serde(default)]
    num_waiting: usize,
    #[serde(default)]
    num_pending: u64,
    #[serde(default)]
    paused: bool,
    /// Nanoseconds.
    #[serde(default)]
    pause_remaining: u64,
}

#[derive(Deserialize)]
struct ConsumerConfig {
    #[serde(default)]
    max_deliver: i64,
}

#[derive(Deserialize)]
struct Delivered {
    consumer_seq: u64,
}

impl Surveyor {
    /// Connects.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub async fn connect(nats: &config::Nats) -> Result<Self, ConnectError> {
        let connection = connect::to_look(nats).await?;
        let info = connection.client.server_info();
        Ok(Self {
            js: connection.js_within(ANSWER_WITHIN),
            server: ServerFacts {
                version: info.version,
                max_payload: info.max_payload,
            },
        })
    }

    /// Looks at everything.
    pub async fn survey(&self, config: &Config) -> Facts {
        let mut facts = Facts {
            server: self.server.clone(),
            permissions: permissions::tried(&config.nats, permissions::needed(&config.nats, &config.source))
                .await,
            ..Facts::default()
        };
        self.streams(&mut facts).await;
        self.buckets(&mut facts).await;
        let ours = StreamName::ALL.map(|stream| {
            let name = durable_name(&config.source.consumer_prefix, stream);
            (stream.as_str(), name)
        });
        let backends = kv::BACKEND_DURABLES.map(|(stream, name)| (stream, name.to_owned()));
        let durables = backends.into_iter().chain(ours);
        facts.durables = stream::iter(durables)
            .map(|(stream, name)| async move {
                let found = self.durable(stream, &name).await;
                ((stream, name), found)
            })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        facts
    }

    async fn streams(&self, facts: &mut Facts) {
        let names = STREAMS
            .iter()
            .map(|spec| spec.name.to_owned())
            .chain(BUCKETS.iter().map(|spec| bucket_stream(spec.name)))
            .chain(STORES.iter().map(|spec| object::stream_name(spec.name)));
        let mut found = stream::iter(names)
            .map(|name| async move {
                let before = (Utc::now(), Instant::now());
                let look = self.info(&name, None).await;
                (name, look, before.0, before.1.elapsed())
            })
            .buffer_unordered(AT_ONCE);
        while let Some((name, look, asked, took)) = found.next().await {
            if let Some(ts) = look.seen().and_then(|info| info.ts) {
                let clock = clock(asked, took, ts);
                let better = facts
                    .clock
                    .is_none_or(|known| clock.uncertain_millis < known.uncertain_millis);
                if better {
                    facts.clock = Some(clock);
                }
            }
            facts.streams.insert(name, look.map(|info| info.facts()));
        }
    }

    async fn buckets(&self, facts: &mut Facts) {
        for bucket in READ {
            let seen = facts.streams.get(&bucket_stream(bucket)).and_then(Look::seen);
            // What is not there, or may not be looked at, is told of the stream behind it.
            if seen.is_none() {
                continue;
            }
            let keys = self.keys(bucket).await;
            let names: Vec<String> = match (bucket, keys.seen()) {
                // PCs: names are enough until they are asked for.
                (kv::BUCKET_AGENTS_STATE | kv::BUCKET_AGENT_GROUPS, _) | (_, None) => Vec::new(),
                (kv::BUCKET_AGENT_CONFIG, Some(keys)) => {
                    let of_layer = |name: &&String| {
                        kv::parse_agent_config_group_key(name).is_none()
                            && kv::parse_agent_config_pc_key(name).is_none()
                    };
                    keys.names.iter().filter(of_layer).cloned().collect()
                }
                (_, Some(keys)) => keys.names.clone(),
            };
            let listed = keys.seen().is_some();
            facts.keys.insert(bucket, keys);
            if listed {
                facts.contents.insert(bucket, self.contents(bucket, &names).await);
            }
        }
    }

    /// A stream; with the subjects that match a filter, where one is given.
    async fn info(&self, name: &str, subjects: Option<&str>) -> Look<Info> {
        let question = format!("STREAM.INFO.{name}");
        let body = subjects.map(|filter| json!({"subjects_filter": filter}));
        self.ask(&question, body, ErrorCode::STREAM_NOT_FOUND).await
    }

    async fn keys(&self, bucket: &'static str) -> Look<Keys> {
        let filter = key_subject(bucket, ">");
        let prefix = key_subject(bucket, "");
        let found = self.info(&bucket_stream(bucket), Some(&filter)).await;
        found.map(|info| {
            let names: Vec<String> = info
                .state
                .subjects
                .keys()
                .filter_map(|subject| subject.strip_prefix(&prefix).map(str::to_owned))
                .collect();
            let told = u64::try_from(names.len()).unwrap_or(u64::MAX);
            Keys {
                cut_of: (info.total > told).then_some(info.total),
                names,
            }
        })
    }

    /// What keys of a bucket hold, by their single newest messages.
    pub async fn contents(&self, bucket: &'static str, names: &[String]) -> Look<Contents> {
        let stream = bucket_stream(bucket);
        let until = Instant::now() + READ_LIMIT;
        let mut contents = Contents::default();
        let asked = names.iter().take(KEYS_READ_MAX);
        let mut found = stream::iter(asked)
            .map(|name| {
                let stream = &stream;
                async move {
                    let subject = key_subject(bucket, name);
                    (name, self.js.message(stream, &Which::last(&subject)).await)
                }
            })
            .buffer_unordered(AT_ONCE);
        let mut answered = 0;
        while let Some((name, answer)) = found.next().await {
            answered += 1;
            match answer {
                // Deleted in between, or before.
                Ok(None) => {}
                Ok(Some(message)) if message.headers.get(OPERATION).is_some() => {}
                Ok(Some(message)) => {
                    let entry = Entry {
                        value: message.payload,
                        changed: message.published,
                    };
                    contents.entries.insert(name.clone(), entry);
                }
                Err(why) => {
                    return match self.js.denied(&format!("STREAM.MSG.GET.{stream}")) {
                        Some(subject) => Look::NotAllowed(subject),
                        None => Look::Failed(why),
                    };
                }
            }
            if Instant::now() > until {
                break;
            }
        }
        contents.unasked = names.len().saturating_sub(answered);
        Look::Seen(contents)
    }

    /// A durable, looked at twice.
    async fn durable(&self, stream: &str, name: &str) -> Look<DurableFacts> {
        let question = format!("CONSUMER.INFO.{stream}.{name}");
        let ask = || self.ask::<ConsumerInfo>(&question, None, ErrorCode::CONSUMER_NOT_FOUND);
        let before = ask()
            .await
            .map(|info| (info.delivered.consumer_seq, info.num_waiting));
        if before.seen().is_some() {
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
        let before = before.seen().copied();
        ask().await.map(|info| DurableFacts {
            // Between two pulls there is none.
            waiting: info.num_waiting.max(before.map_or(0, |(_, waiting)| waiting)),
            pending: info.num_pending,
            paused: info.paused.then(|| Duration::from_nanos(info.pause_remaining)),
            max_deliver: info.config.max_deliver,
            moved: before.is_some_and(|(delivered, _)| delivered != info.delivered.consumer_seq),
        })
    }

    async fn ask<T: for<'de> Deserialize<'de>>(
        &self,
        question: &str,
        body: Option<serde_json::Value>,
        missing: ErrorCode,
    ) -> Look<T> {
        let body = body.map_or_else(Bytes::new, |body| body.to_string().into());
        let answer = timeout(ANSWER_WITHIN, self.js.plain(question, body));
        let answer = match self.js.ask(question, answer).await {
            Ok(Ok(Ok(answer))) => answer,
            Ok(Err(_)) => return Look::Failed("no answer in time".to_owned()),
            Ok(Ok(Err(error))) => return Look::Failed(error.to_string()),
            Err(Denied::Publish(subject) | Denied::Subscribe(subject)) => return Look::NotAllowed(subject),
        };
        let answer: Response<T> = match serde_json::from_slice(&answer) {
            Ok(answer) => answer,
            Err(error) => return Look::Failed(format!("an answer that cannot be read: {error}")),
        };
        match answer {
            Response::Ok(found) => Look::Seen(found),
            Response::Err { error }
                if error.error_code() == missing || error.error_code() == ErrorCode::STREAM_NOT_FOUND =>
            {
                Look::Missing
            }
            Response::Err { error } => Look::Failed(error.to_string()),
        }
    }
}

/// What the monitoring port says, where it is configured.
pub async fn monitor(nats: &config::Nats) -> Option<MonitorFacts> {
    let url = nats.monitor_url.as_deref()?;
    let (health, sync) = tokio::join!(monitor::health(url), monitor::sync(url));
    Some(MonitorFacts {
        health: health.map_err(|error| error.to_string()),
        sync: sync.map(|(sync, _)| sync).map_err(|error| error.to_string()),
    })
}

/// The server read its clock somewhere on the way there and back: half of it is the best guess.
fn clock(asked: DateTime<Utc>, took: Duration, server: Timestamp) -> Clock {
    let half = took / 2;
    let ours = asked + half;
    Clock {
        ahead_millis: (DateTime::<Utc>::from(server) - ours).num_milliseconds(),
        uncertain_millis: i64::try_from(half.as_millis()).unwrap_or(i64::MAX).max(1),
    }
}
