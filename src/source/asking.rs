//! Questions to the server: with our time-out, with the server's word that a question is not allowed, and for one message in
//! a form that no sender can break.

use std::error::Error;
use std::future::Future;
use std::ops::Deref;
use std::str::FromStr;
use std::time::Duration;

use async_nats::jetstream::context::{ContextBuilder, GetStreamErrorKind, RequestErrorKind};
use async_nats::jetstream::response::Response;
use async_nats::jetstream::{self, ErrorCode, stream};
use async_nats::{HeaderMap, HeaderName, HeaderValue, RequestError, Subscriber};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::watch;

use super::connect::ConnectionState;
use super::denials::Denied;
use crate::wire::time::Timestamp;

/// Headers that are none, as a dead letter keeps them.
const UNREADABLE: &str = "Results-Projector-Unreadable-Base64";

/// A question to the server that had no usable answer. Unknown, not failed: asked again after a while.
#[derive(Debug, Error)]
#[error("cannot {what}: {why}")]
pub struct AskError {
    /// What was asked.
    pub what: String,
    /// What came back.
    pub why: String,
}

impl AskError {
    pub(super) fn new(what: impl Into<String>, why: impl ToString) -> Self {
        Self {
            what: what.into(),
            why: why.to_string(),
        }
    }
}

/// JetStream, and what the connection tells of it.
#[derive(Clone, Debug)]
pub struct Js {
    context: jetstream::Context,
    client: async_nats::Client,
    /// What the API's subjects begin with.
    api: String,
    state: watch::Receiver<ConnectionState>,
}

impl Deref for Js {
    type Target = jetstream::Context;

    fn deref(&self) -> &jetstream::Context {
        &self.context
    }
}

/// What the API's subjects begin with.
pub(super) fn api_prefix(js_domain: Option<&str>) -> String {
    match js_domain {
        Some(domain) => format!("$JS.{domain}.API"),
        None => "$JS.API".to_owned(),
    }
}

impl Js {
    pub(super) fn new(
        client: async_nats::Client,
        js_domain: Option<&str>,
        timeout: Duration,
        state: watch::Receiver<ConnectionState>,
    ) -> Self {
        let api = api_prefix(js_domain);
        let builder = ContextBuilder::new().timeout(timeout).api_prefix(&api);
        Self {
            context: builder.build(client.clone()),
            client,
            api,
            state,
        }
    }

    /// Waits for an answer to a question of the API, or for the server's word that it may not be asked: the client itself
    /// would only wait until the time is over.
    pub(super) async fn ask<T>(&self, question: &str, answer: impl Future<Output = T>) -> Result<T, Denied> {
        let mut state = self.state.clone();
        let before = state.borrow().denied.times(question);
        let mut found = None;
        let denied = state.wait_for(|state| {
            found = state.denied.since(question, before, state.epoch);
            found.is_some()
        });
        tokio::select! {
            biased;
            answer = answer => return Ok(answer),
            Ok(_) = denied => {}
        }
        // The guard of the branch: it was found.
        found.map_or_else(|| Err(Denied::Publish(question.to_owned())), Err)
    }

    /// Asks the API with a body as it is: a question that takes none is refused with an empty one of JSON.
    pub(super) async fn plain(&self, question: &str, body: Bytes) -> Result<Bytes, RequestError> {
        let subject = format!("{}.{question}", self.api);
        let answer = self.client.request(subject, body).await?;
        Ok(answer.payload)
    }

    /// The subject by which a question was denied on this connection, if it was.
    pub(super) fn denied(&self, question: &str) -> Option<String> {
        let state = self.state.borrow();
        match state.denied.of(question) {
            Some((Denied::Publish(subject), _)) => Some(subject.clone()),
            _ => None,
        }
    }

    /// Asks the API what has several answers: they come to an inbox of their own, until it is dropped.
    pub(super) async fn ask_many(
        &self,
        question: &str,
        body: Bytes,
    ) -> Result<Subscriber, Box<dyn Error + Send + Sync>> {
        let inbox = self.client.new_inbox();
        let answers = self.client.subscribe(inbox.clone()).await?;
        let subject = format!("{}.{question}", self.api);
        self.client.publish_with_reply(subject, inbox, body).await?;
        Ok(answers)
    }

    /// As [`Js::ask`], both ways to fail as one error about what was asked.
    pub(super) async fn answer<T, E: ToString>(
        &self,
        question: &str,
        what: impl FnOnce() -> String,
        answer: impl Future<Output = Result<T, E>>,
    ) -> Result<T, AskError> {
        let why = match self.ask(question, answer).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => error.to_string(),
            Err(denied) => denied.to_string(),
        };
        Err(AskError::new(what(), why))
    }

    /// What there is to know of a stream, from its leader; `None` when there is no such stream.
    ///
    /// # Errors
    /// When the leader does not answer.
    pub(super) async fn stream_info(&self, name: &str) -> Result<Option<stream::Info>, AskError> {
        let answer = async {
            match self.context.get_stream(name).await {
                Ok(found) => Ok(Some(found.cached_info().clone())),
                Err(error) => match error.kind() {
                    GetStreamErrorKind::JetStream(answer)
                        if answer.error_code() == ErrorCode::STREAM_NOT_FOUND =>
                    {
                        Ok(None)
                    }
                    _ => Err(error),
                },
            }
        };
        let asking = || format!("ask for the stream {name}");
        let info = self
            .answer(&format!("STREAM.INFO.{name}"), asking, answer)
            .await?;
        // Without a majority a follower answers, after some seconds of silence; where its stream ends is not where the stream ends.
        if let Some(cluster) = info.as_ref().and_then(|info| info.cluster.as_ref())
            && cluster.leader.as_ref().is_none_or(String::is_empty)
        {
            let why =
                "it has no leader, only a follower answers; are enough of the cluster's servers running?";
            return Err(AskError::new(asking(), why));
        }
        Ok(info)
    }

    /// One message of a stream, from its leader; `None` when there is no such message. As JSON, which holds whatever bytes
    /// and names the message has: a delivery or a direct get of one with headers that are none, or with a blank of another
    /// script in its subject, breaks the connection.
    ///
    /// # Errors
    /// What came instead of an answer.
    pub(super) async fn message(&self, stream: &str, which: &Which<'_>) -> Result<Option<Raw>, String> {
        let question = format!("STREAM.MSG.GET.{stream}");
        let answer = self.context.request(question.clone(), which);
        let answer: Response<Got> = match self.ask(&question, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) if error.kind() == RequestErrorKind::TimedOut => {
                return Err("no answer in time".to_owned());
            }
            Ok(Err(error)) => return Err(error.to_string()),
            Err(denied) => return Err(denied.to_string()),
        };
        match answer {
            Response::Ok(got) => got.message.read().map(Some),
            Response::Err { error } if error.error_code() == ErrorCode::NO_MESSAGE_FOUND => Ok(None),
            Response::Err { error } => Err(error.to_string()),
        }
    }
}

/// Which message is asked for.
#[derive(Debug, Default, Serialize)]
pub(super) struct Which<'a> {
    /// This one; with `next_by_subj` the first from here on.
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_by_subj: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_by_subj: Option<&'a str>,
}

impl<'a> Which<'a> {
    /// The one at a sequence.
    pub(super) fn at(seq: u64) -> Self {
        Self {
            seq: Some(seq),
            ..Self::default()
        }
    }

    /// The first of a subject from a sequence on.
    pub(super) fn from(seq: u64, subject: &'a str) -> Self {
        Self {
            seq: Some(seq),
            next_by_subj: Some(subject),
            last_by_subj: None,
        }
    }

    /// The last of a subject.
    pub(super) fn last(subject: &'a str) -> Self {
        Self {
            last_by_subj: Some(subject),
            ..Self::default()
        }
    }
}

#[derive(Deserialize)]
struct Got {
    message: Stored,
}

#[derive(Deserialize)]
struct Stored {
    subject: String,
    seq: u64,
    #[serde(default)]
    hdrs: Option<String>,
    #[serde(default)]
    data: Option<String>,
    time: Timestamp,
}

impl Stored {
    fn read(self) -> Result<Raw, String> {
        let bytes = |text: Option<String>| {
            let text = text.unwrap_or_default();
            STANDARD
                .decode(text)
                .map_err(|error| format!("the answer is no message: {error}"))
        };
        Ok(Raw {
            headers: headers(&bytes(self.hdrs)?),
            payload: bytes(self.data)?.into(),
            subject: self.subject,
            seq: self.seq,
            published: self.time,
        })
    }
}

/// A message as its stream holds it.
#[derive(Debug)]
pub struct Raw {
    /// As published.
    pub subject: String,
    /// Its number in the stream.
    pub seq: u64,
    /// When the server stored it.
    pub published: Timestamp,
    /// As published; empty without any.
    pub headers: HeaderMap,
    /// As published.
    pub payload: Bytes,
}

/// Headers as published; what is none is kept whole under a name of its own.
fn headers(bytes: &[u8]) -> HeaderMap {
    let read = || -> Option<HeaderMap> {
        let text = std::str::from_utf8(bytes).ok()?;
        let mut lines = text.strip_prefix("NATS/1.0\r\n")?.split("\r\n");
        let mut map = HeaderMap::new();
        for line in lines.by_ref().take_while(|line| !line.is_empty()) {
            let (name, value) = line.split_once(':')?;
            map.append(
                HeaderName::from_str(name).ok()?,
                HeaderValue::from_str(value.trim()).ok()?,
            );
        }
        Some(map)
    };
    if bytes.is_empty() {
        return HeaderMap::new();
    }
    read().unwrap_or_else(|| {
        let mut map = HeaderMap::new();
        map.insert(UNREADABLE, STANDARD.encode(bytes));
        map
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_or_kept_whole() {
        let read = headers(b"NATS/1.0\r\nA: x\r\nA: \x1b[31m\r\nB:y \r\n\r\n");
        let all: Vec<&str> = read.get_all("A").map(HeaderValue::as_str).collect();
        assert_eq!(
            (all, read.get("B").unwrap().as_str()),
            (vec!["x", "\u{1b}[31m"], "y")
        );
        for odd in [
            &b"NATS/1.0\r\nno colon\r\n\r\n"[..],
            b"\xff",
            b"NATS/1.0 100 Idle\r\n\r\n",
            b"NATS/1.0\r\nn m: x\r\n\r\n",
        ] {
            let kept = headers(odd);
            let kept = kept.get(UNREADABLE).unwrap().as_str();
            assert_eq!(STANDARD.decode(kept).unwrap(), odd);
        }
        assert!(headers(b"").is_empty());
    }
}
