//! Questions about one stream. Each goes to its leader: a direct get may be answered by a follower that lags.

use async_nats::jetstream::stream::RetentionPolicy;

use super::asking::{AskError, Js, Raw, Which};
use super::census::Census;
use super::opening::jitter;
use super::reconcile::{Answer, Known, StreamFound};
use crate::wire::kv::StreamName;
use crate::wire::sequence::{Mark, StreamSeq, SubjectHash};

/// Silence is the normal answer during an election: every call is asked once more before it counts as failed.
pub(super) const ATTEMPTS: usize = 2;

/// One stream's leader, whom we ask.
#[derive(Clone, Debug)]
pub struct Leader {
    pub(super) js: Js,
    pub(super) stream: StreamName,
}

impl Leader {
    /// Of a stream that need not be there.
    #[must_use]
    pub fn new(js: &Js, stream: StreamName) -> Self {
        Self {
            js: js.clone(),
            stream,
        }
    }

    /// The stream's state; `None` when there is no such stream.
    pub(super) async fn state(&self) -> Result<Option<StreamFound>, AskError> {
        let mut attempts = 1;
        let info = loop {
            match self.js.stream_info(self.stream.as_str()).await {
                Err(_) if attempts < ATTEMPTS => attempts += 1,
                answer => break answer?,
            }
            jitter(50, 150).await;
        };
        Ok(info.map(|info| {
            let census = Census::of(&info);
            StreamFound {
                first: census.first,
                last: census.last,
                other_retention: match info.config.retention {
                    RetentionPolicy::Limits => None,
                    RetentionPolicy::Interest => Some("interest".to_owned()),
                    RetentionPolicy::WorkQueue => Some("workqueue".to_owned()),
                },
                bytes: census.bytes,
                bytes_max: census.bytes_max,
            }
        }))
    }

    /// Asks for the kept marks, newest first, until one is the message that we know.
    pub(super) async fn known(&self, position: StreamSeq, marks: &[Mark]) -> Result<Known, AskError> {
        let mut asked = Vec::new();
        for mark in marks {
            let found = self.message_at(mark.seq).await?.map(|message| Mark {
                seq: mark.seq,
                published: message.published,
                subject: SubjectHash::of(&message.subject),
            });
            let answer = match found {
                None => Answer::Absent,
                Some(found) if found == *mark => Answer::Same,
                Some(_) => Answer::Other,
            };
            asked.push((*mark, answer));
            if answer == Answer::Same {
                break;
            }
        }
        Ok(Known { position, asked })
    }

    /// One message; `None` when the stream does not hold it (any more).
    ///
    /// # Errors
    /// When the leader does not answer.
    pub async fn message_at(&self, seq: StreamSeq) -> Result<Option<Raw>, AskError> {
        self.message(Which::at(seq.0), || {
            format!("ask for message {seq} of {}", self.stream)
        })
        .await
    }

    /// The first message at or after a sequence.
    pub(super) async fn at_or_after(&self, seq: StreamSeq) -> Result<Option<Raw>, AskError> {
        self.message(Which::from(seq.0, ">"), || {
            format!("ask for the message after {seq} of {}", self.stream)
        })
        .await
    }

    async fn message(&self, which: Which<'_>, what: impl Fn() -> String) -> Result<Option<Raw>, AskError> {
        let mut last = String::new();
        for _ in 0..ATTEMPTS {
            match self.js.message(self.stream.as_str(), &which).await {
                Ok(found) => return Ok(found),
                Err(error) => last = error,
            }
            jitter(50, 150).await;
        }
        Err(AskError::new(what(), last))
    }
}
