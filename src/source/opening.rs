//! Looking at our durable, and opening it anew (DESIGN §3).

use std::collections::HashMap;
use std::time::Duration;

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::consumer::{self, AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::context::ConsumerInfoErrorKind;
use async_nats::jetstream::stream::{ConsumerErrorKind, Stream};

use super::asking::{AskError, Js};
use super::connect::Connection;
use super::leader::{ATTEMPTS, Leader};
use super::reconcile::{DurableFound, Opening};
use crate::wire::kv::{self, StreamName};
use crate::wire::sequence::StreamSeq;
use crate::wire::time::Timestamp;

const META_NONCE: &str = "results_projector.nonce";
const META_OWNER: &str = "results_projector.owner";

/// This process, as it writes itself into the durable's metadata.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Made at random for each process.
    pub nonce: String,
    /// Database id, host, pid and start time, for people.
    pub owner: String,
}

/// How deliveries are asked for.
#[derive(Clone, Debug)]
pub struct PullOptions {
    /// Prefix of our durables' names.
    pub consumer_prefix: String,
    /// Time after which the server delivers again what is not acked.
    pub ack_wait: Duration,
    /// Between two idle heartbeats.
    pub heartbeat: Duration,
    /// Life of one pull request.
    pub expires: Duration,
    /// Messages per pull request.
    pub batch_messages: usize,
    /// Bytes per pull request; at least the server's `max_payload`.
    pub batch_bytes: usize,
    /// Unacked deliveries that the server allows: at least twice what can be in flight here.
    pub max_ack_pending: i64,
    /// The consumers are for one load only: deleted at its end, by the server if need be.
    pub temporary: bool,
}

/// Our durable on one stream.
#[derive(Clone, Debug)]
pub struct Desk {
    /// The stream's.
    pub(super) leader: Leader,
    identity: Identity,
    options: PullOptions,
    /// A handle that asks nothing by itself.
    handle: Stream<()>,
}

/// What the server says of our durable.
#[derive(Debug)]
pub(super) enum Durable {
    /// It is there.
    There(DurableInfo),
    /// There is none.
    Missing,
    /// Its group has no leader, so nobody can say more of it.
    Leaderless(AskError),
}

/// The durable as the server describes it, for the checks of a running reader.
#[derive(Clone, Debug)]
pub(super) struct DurableInfo {
    /// Who it belongs to.
    pub(super) found: DurableFound,
    /// Consumer sequences: the ack floor may never be above what was delivered.
    pub(super) floor_above_delivered: bool,
    /// Deliveries without an ack.
    pub(super) ack_pending: usize,
    /// Messages still to be delivered.
    pub(super) pending: u64,
    /// Stream sequence up to which the server knows of our acks.
    pub(super) ack_floor: StreamSeq,
}

impl Desk {
    /// # Errors
    /// When the client refuses the stream's name, which it does not for those of the contract.
    pub async fn new(
        connection: &Connection,
        stream: StreamName,
        identity: Identity,
        options: PullOptions,
    ) -> Result<Self, AskError> {
        let leader = Leader::new(&connection.js(), stream);
        let handle = leader
            .js
            .get_stream_no_info(stream.as_str())
            .await
            .map_err(|error| AskError::new(format!("name the stream {stream}"), error))?;
        Ok(Self {
            leader,
            identity,
            options,
            handle,
        })
    }

    /// The durable's name.
    #[must_use]
    pub(super) fn durable(&self) -> String {
        durable_name(&self.options.consumer_prefix, self.leader.stream)
    }

    /// See [`PullOptions::max_ack_pending`].
    #[must_use]
    pub(super) fn max_ack_pending(&self) -> i64 {
        self.options.max_ack_pending
    }

    /// Our durable, as its leader describes it.
    ///
    /// # Errors
    /// When the leader does not answer.
    pub(super) async fn durable_info(&self) -> Result<Durable, AskError> {
        let (mut last, mut leaderless) = (String::new(), false);
        for _ in 0..ATTEMPTS {
            let answer = self.handle.consumer_info(self.durable());
            let answer = self.leader.js.ask(&self.question("CONSUMER.INFO"), answer).await;
            match answer
                .map_err(|denied| AskError::new(format!("ask for the consumer {}", self.durable()), denied))?
            {
                Ok(info) => {
                    let meta = &info.config.metadata;
                    let ours = meta
                        .get(META_NONCE)
                        .is_some_and(|nonce| *nonce == self.identity.nonce);
                    let owner = meta.get(META_OWNER).cloned().unwrap_or_else(|| {
                        format!("a program that is no results-projector (made {})", info.created)
                    });
                    return Ok(Durable::There(DurableInfo {
                        found: DurableFound {
                            ours,
                            waiting: info.num_waiting,
                            owner,
                            created: Timestamp::from(info.created),
                        },
                        floor_above_delivered: info.ack_floor.consumer_sequence
                            > info.delivered.consumer_sequence,
                        ack_pending: info.num_ack_pending,
                        pending: info.num_pending,
                        ack_floor: StreamSeq(info.ack_floor.stream_sequence),
                    }));
                }
                Err(error) => match error.kind() {
                    ConsumerInfoErrorKind::NotFound => return Ok(Durable::Missing),
                    kind => {
                        last = error.to_string();
                        leaderless = matches!(kind, ConsumerInfoErrorKind::JetStream(answer)
                            if answer.error_code() == ErrorCode::CLUSTER_NOT_AVAILABLE);
                    }
                },
            }
            jitter(50, 150).await;
        }
        let error = AskError::new(format!("ask for the consumer {}", self.durable()), last);
        if leaderless {
            return Ok(Durable::Leaderless(error));
        }
        Err(error)
    }

    /// Deletes the durable and makes it again at the opening's start: the only way it is ever opened. With its messages,
    /// when it was made, by the server's clock.
    ///
    /// # Errors
    /// When the server does not do it; the durable may be gone then, which the next opening heals.
    pub(super) async fn open(&self, opening: &Opening) -> Result<(pull::Stream, Timestamp), AskError> {
        let durable = self.durable();
        // Our acks went out on this connection before this call: its answer proves that the server has seen them.
        delete_consumer(&self.leader.js, self.leader.stream, &durable).await?;
        let config = pull::Config {
            durable_name: Some(durable.clone()),
            description: Some(
                "results-projector: made anew at each opening; its state is never believed".to_owned(),
            ),
            deliver_policy: DeliverPolicy::ByStartSequence {
                start_sequence: opening.start.0.max(1),
            },
            ack_policy: AckPolicy::All,
            ack_wait: self.options.ack_wait,
            max_deliver: -1,
            max_ack_pending: self.options.max_ack_pending,
            inactive_threshold: if self.options.temporary {
                TEMPORARY_LIFE
            } else {
                Duration::ZERO
            },
            metadata: HashMap::from([
                (META_NONCE.to_owned(), self.identity.nonce.clone()),
                (META_OWNER.to_owned(), self.identity.owner.clone()),
            ]),
            ..pull::Config::default()
        };
        let answer = self.handle.create_consumer_strict(config);
        let consumer: consumer::Consumer<pull::Config> = self
            .leader
            .js
            .answer(
                &self.question("CONSUMER.CREATE"),
                || format!("create the consumer {durable}"),
                answer,
            )
            .await?;
        let batch_bytes = self
            .options
            .batch_bytes
            .max(self.leader.js.client().max_payload() + MESSAGE_OVERHEAD_BYTES);
        let created = Timestamp::from(consumer.cached_info().created);
        let messages = consumer
            .stream()
            .max_messages_per_batch(self.options.batch_messages)
            .max_bytes_per_batch(batch_bytes)
            .heartbeat(self.options.heartbeat)
            .expires(self.options.expires)
            .messages()
            .await
            .map_err(|error| AskError::new(format!("pull from the consumer {durable}"), error))?;
        Ok((messages, created))
    }

    /// What is asked of our durable, as the API names it.
    fn question(&self, verb: &str) -> String {
        format!("{verb}.{}.{}", self.leader.stream, self.durable())
    }

    /// Pulls, which nobody answers when they are not allowed.
    pub(super) fn pulls(&self) -> String {
        self.question("CONSUMER.MSG.NEXT")
    }

    /// Ends the use of a temporary consumer; one that lives on is left as it is.
    pub(super) async fn leave(&self) {
        if self.options.temporary {
            // What is not deleted now, the server deletes by itself.
            let _deleted = self.handle.delete_consumer(&self.durable()).await;
        }
    }
}

/// Deletes a consumer, whoever made it. Returns whether there was one.
///
/// # Errors
/// When the server does not do it.
pub async fn delete_consumer(js: &Js, stream: StreamName, name: &str) -> Result<bool, AskError> {
    let failed = |why: String| AskError::new(format!("delete the consumer {name}"), why);
    let handle = js
        .get_stream_no_info(stream.as_str())
        .await
        .map_err(|error| failed(error.to_string()))?;
    let question = format!("CONSUMER.DELETE.{stream}.{name}");
    let answer = js.ask(&question, handle.delete_consumer(name)).await;
    match answer.map_err(|denied| failed(denied.to_string()))? {
        Ok(_) => Ok(true),
        Err(error) => match error.kind() {
            ConsumerErrorKind::JetStream(answer)
                if [ErrorCode::CONSUMER_NOT_FOUND, ErrorCode::STREAM_NOT_FOUND]
                    .contains(&answer.error_code()) =>
            {
                Ok(false)
            }
            _ => Err(failed(error.to_string())),
        },
    }
}

/// The durable's name on a stream.
#[must_use]
pub fn durable_name(consumer_prefix: &str, stream: StreamName) -> String {
    format!("{consumer_prefix}_{}", stream.as_str().to_ascii_lowercase())
}

/// Subject, reply and headers count against a pull request's bytes too.
const MESSAGE_OVERHEAD_BYTES: usize = 64 << 10;
/// A temporary consumer that nobody pulls from is deleted by the server after so long.
const TEMPORARY_LIFE: Duration = Duration::from_secs(300);

/// Whether the backend's own projector is at work on a stream (contract §2.6): its durable, there and not paused.
///
/// # Errors
/// When it cannot be told.
pub async fn backend_is_projecting(js: &Js) -> Result<bool, AskError> {
    for (stream, durable) in kv::BACKEND_DURABLES {
        let asking = || format!("ask for the consumer {durable}");
        let handle = js
            .get_stream_no_info(stream)
            .await
            .map_err(|error| AskError::new(asking(), error))?;
        let answer = async {
            match handle.consumer_info(durable).await {
                Ok(info) => Ok(!info.paused),
                Err(error) if matches!(error.kind(), ConsumerInfoErrorKind::NotFound) => Ok(false),
                Err(error) => Err(error),
            }
        };
        let question = format!("CONSUMER.INFO.{stream}.{durable}");
        if js.answer(&question, asking, answer).await? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Sleeps for a random time between two bounds, in milliseconds.
pub(super) async fn jitter(from: u64, to: u64) {
    // A fresh UUID is random enough to keep readers apart.
    let random = uuid::Uuid::new_v4().as_u64_pair().0;
    tokio::time::sleep(Duration::from_millis(from + random % (to - from).max(1))).await;
}
