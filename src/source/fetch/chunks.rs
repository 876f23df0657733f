//! An object's chunks in order: many by one question where the server can, which since 2.11 it does (ADR-31), else one by one.

use async_nats::{HeaderMap, StatusCode, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use serde::Serialize;

use super::bucket::{AskFailed, Bucket, Meta, Via};
use crate::wire::kv;
use crate::wire::object;

/// Chunks asked for at once.
const BATCH_MAX: u64 = 256;
/// Bytes asked for at once: the server sends a batch whether or not the connection takes it, and closes one that has 64 MiB
/// before it.
pub(super) const BATCH_BYTES_MAX: u64 = 2 << 20;
/// The server counts a chunk's subject and headers too.
const BYTES_AROUND_CHUNK: u64 = 256;
/// What the server says after the last message of a batch.
const END_OF_BATCH: u16 = 204;

/// Asks for the first messages of a subject from a sequence on.
#[derive(Serialize)]
struct Batch<'a> {
    batch: u64,
    /// Objects are not what their metadata says: no more than was reserved comes into memory.
    max_bytes: u64,
    seq: u64,
    next_by_subj: &'a str,
}

/// See the module's words.
pub(super) struct Chunks<'a> {
    bucket: &'a Bucket,
    subject: String,
    via: Via,
    /// Sequence of the last one, in the bucket's stream.
    after: u64,
    /// Not read yet, by the metadata.
    left: u64,
    bytes_left: u64,
    /// Of the question under way.
    answers: Option<Subscriber>,
    /// How many came.
    answered: u64,
    one_by_one: bool,
}

impl<'a> Chunks<'a> {
    pub(super) fn of(bucket: &'a Bucket, meta: &Meta, via: Via) -> Self {
        Self {
            bucket,
            subject: object::chunk_subject(kv::OBJECT_RESULT_OUTPUT, &meta.nuid),
            via,
            after: 0,
            left: meta.chunks,
            bytes_left: meta.size,
            answers: None,
            answered: 0,
            one_by_one: via == Via::Leader,
        }
    }

    /// The next one; whether there should be one is the caller's to know.
    pub(super) async fn next(&mut self) -> Result<Bytes, AskFailed> {
        let mut found = None;
        while found.is_none() {
            // A lone chunk is asked for by the client's own request, which needs no subscription.
            if self.one_by_one || self.left <= 1 && self.answers.is_none() {
                found = Some(
                    self.bucket
                        .chunk_after(&self.subject, self.after, self.via)
                        .await?,
                );
            } else {
                found = self.of_batch().await?;
            }
        }
        let Some((seq, chunk)) = found.filter(|(seq, _)| *seq > self.after) else {
            return Err(AskFailed::Unreachable(
                "the object store's answers are out of order".to_owned(),
            ));
        };
        self.after = seq;
        self.left = self.left.saturating_sub(1);
        self.bytes_left = self.bytes_left.saturating_sub(chunk.len() as u64);
        Ok(chunk)
    }

    /// A batch that fell silent after an answer is given up for single questions: who stands between may let one answer
    /// through to each. False when there is no such batch.
    pub(super) fn give_up_batch(&mut self) -> bool {
        let had_answers = self.answers.take().is_some() && self.answered > 0;
        self.one_by_one |= had_answers;
        had_answers
    }

    /// The next one of a batch; `None` where it ended before, or the server knows none.
    async fn of_batch(&mut self) -> Result<Option<(u64, Bytes)>, AskFailed> {
        let question = self.bucket.question();
        let (bucket, answers) = (self.bucket, &mut self.answers);
        if answers.is_none() {
            self.answered = 0;
        }
        let chunks = self.left.min(BATCH_MAX);
        let batch = Batch {
            batch: chunks,
            max_bytes: self.bytes_left.min(BATCH_BYTES_MAX) + chunks * BYTES_AROUND_CHUNK,
            seq: self.after.saturating_add(1),
            next_by_subj: &self.subject,
        };
        let answer = async {
            let answers = match answers {
                Some(answers) => answers,
                None => answers.insert(bucket.ask_many(&question, &batch).await?),
            };
            answers
                .next()
                .await
                .ok_or_else(|| "the connection was closed".to_owned())
        };
        let message = match bucket.js.ask(&question, answer).await {
            Ok(Ok(message)) => message,
            Ok(Err(reason)) => return Err(AskFailed::Unreachable(reason)),
            Err(denied) => return Err(AskFailed::Unreachable(denied.to_string())),
        };
        match message.status {
            None => {}
            Some(status) if status.as_u16() == END_OF_BATCH => {
                self.answers = None;
                // It may have ended at its bytes; one without an answer says what is missing when it is asked alone.
                self.one_by_one |= self.answered == 0;
                return Ok(None);
            }
            Some(StatusCode::NO_RESPONDERS) => {
                self.one_by_one = true;
                return Ok(None);
            }
            Some(StatusCode::NOT_FOUND) => return Err(AskFailed::NotFound),
            Some(status) => {
                return Err(AskFailed::Unreachable(format!(
                    "the object store answers {status}"
                )));
            }
        }
        self.answered += 1;
        let headers = message.headers.unwrap_or_default();
        if headers.get_last("Nats-Num-Pending").is_none() {
            // An older server, which answers with the first alone.
            self.one_by_one = true;
        }
        let seq = sequence(&headers)
            .ok_or_else(|| AskFailed::Unreachable("the object store's answer has no sequence".to_owned()))?;
        Ok(Some((seq, message.payload)))
    }
}

fn sequence(headers: &HeaderMap) -> Option<u64> {
    // The server's own come behind those that the message was stored with.
    headers.get_last("Nats-Sequence")?.as_str().parse().ok()
}
