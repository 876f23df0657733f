//! What operators want done with the books: dead letters tried again or given up, outputs asked for again. Read and
//! fetched beside the live path; the writer does the rest in its place among its other work (I8).

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::mpsc::Sender;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::oneshot;

use super::repair::Repairer;
use super::resolve::{decode, follow_now, headers_json};
use super::work::{LetterOrder, LetterOutcome, LetterWork, Message, Unit, Work};
use crate::config;
use crate::source::asking::{Js, Raw};
use crate::source::connect;
use crate::source::leader::Leader;
use crate::store::dead_letters::{self, LetterId, Shown};
use crate::store::{Lines, StoreError, output_book, read_only};
use crate::wire::hex::hex;
use crate::wire::kv::StreamName;
use crate::wire::result::Field;
use crate::wire::sequence::StreamSeq;
use crate::wire::time::Timestamp;

/// Letters or outputs in one request: what it holds and how long it takes is bounded by this.
pub const REQUEST_MAX: usize = 16;
/// Characters of a reason that are told.
const REASON_MAX: usize = 1_000;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", content = "of", rename_all = "snake_case")]
pub enum Request {
    /// Project these dead letters, if they can be projected now.
    RetryLetters(Vec<LetterKey>),
    /// Give these dead letters up.
    DiscardLetters(Vec<LetterKey>),
    /// Ask for these outputs again now.
    RetryOutputs(Vec<OutputKey>),
}

/// A dead letter's place, as it travels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LetterKey {
    /// The stream.
    pub stream: String,
    /// The life of its sequences.
    pub incarnation: u64,
    /// The stream sequence.
    pub stream_seq: u64,
}

impl From<LetterId> for LetterKey {
    fn from(place: LetterId) -> Self {
        Self {
            stream: place.stream.to_string(),
            incarnation: place.incarnation,
            stream_seq: place.seq.0,
        }
    }
}

impl LetterKey {
    fn place(&self) -> Result<LetterId, String> {
        Ok(LetterId {
            stream: StreamName::parse(&self.stream).ok_or_else(|| format!("no stream {:?}", self.stream))?,
            incarnation: self.incarnation,
            seq: StreamSeq(self.stream_seq),
        })
    }
}

/// An output's key, as it travels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputKey {
    /// The row.
    pub result_id: String,
    /// `stdout` or `stderr`.
    pub field: String,
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "done", content = "of", rename_all = "snake_case")]
pub enum Answer {
    /// What became of each dead letter.
    Letters(Vec<LetterLine>),
    /// What became of each output.
    Outputs(Vec<OutputLine>),
    /// Nothing, or not all of it: why.
    Failed(String),
}

/// What became of a dead letter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LetterLine {
    /// Which one.
    #[serde(flatten)]
    pub key: LetterKey,
    /// `projected`, `kept`, `discarded`, or `not_there`.
    pub outcome: String,
    /// Why it is kept.
    pub reason: Option<String>,
}

/// What became of an output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputLine {
    /// Which one.
    #[serde(flatten)]
    pub key: OutputKey,
    /// Its state now, or `not_there`.
    pub state: String,
    /// Why it is not fetched.
    pub reason: Option<String>,
}

/// Answers what commands ask of the books: reads and fetches, and lets the writer write.
#[derive(Clone, Debug)]
pub(super) struct Books {
    /// The database, to read.
    pub(super) database: PathBuf,
    /// To the writer.
    pub(super) works: Sender<Work>,
    /// For payloads that only the stream holds.
    pub(super) js: Js,
    /// Reads objects, with limits of its own.
    pub(super) repairer: Repairer,
}

impl Books {
    /// Does what is asked; returns when it is committed.
    pub(super) async fn answer(&self, request: Request) -> Answer {
        let outcome = match request {
            Request::RetryLetters(keys) => self.retry_letters(&keys).await.map(Answer::Letters),
            Request::DiscardLetters(keys) => self.discard_letters(&keys).await.map(Answer::Letters),
            Request::RetryOutputs(keys) => self.retry_outputs(keys).await.map(Answer::Outputs),
        };
        outcome.unwrap_or_else(Answer::Failed)
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Reader) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, String> {
        let database = self.database.clone();
        tokio::task::spawn_blocking(move || read(&Reader(database)))
            .await
            .map_err(|error| error.to_string())?
            .map_err(|error| error.to_string())
    }

    async fn retry_letters(&self, keys: &[LetterKey]) -> Result<Vec<LetterLine>, String> {
        let places = places(keys)?;
        let letters = {
            let places = places.clone();
            self.read(move |reader| reader.letters(&places)).await?
        };
        let mut decoded = Vec::with_capacity(letters.len());
        let mut result_ids = BTreeSet::new();
        for (place, letter) in places.into_iter().zip(letters) {
            let content = match letter {
                None => None,
                Some(letter) => Some(self.decode(place, letter).await),
            };
            if let Some((Message::Result(result), _)) = &content {
                result_ids.insert(result.result.row_key().into_owned());
            }
            decoded.push((place, content));
        }
        let lines = self.read(move |reader| reader.lines(&result_ids)).await?;
        let mut waiting = Vec::with_capacity(decoded.len());
        for (place, content) in decoded {
            let Some((mut content, published)) = content else {
                waiting.push((place, None));
                continue;
            };
            let permit = match &mut content {
                Message::Result(result) => {
                    follow_now(&self.repairer.fetcher, &self.repairer.budget, result, published).await
                }
                _ => None,
            };
            let order = LetterOrder::Project {
                published,
                content,
                lines: lines.clone(),
            };
            let (done, outcome) = oneshot::channel();
            let mut work = LetterWork::new(place, order, done);
            work.permit = permit;
            self.send(work)?;
            waiting.push((place, Some(outcome)));
        }
        told(waiting).await
    }

    /// What a dead letter is today. Only what it says now decides; the reason of old does not.
    async fn decode(&self, place: LetterId, letter: Shown) -> (Message, Timestamp) {
        let published =
            Timestamp::parse_stored(&letter.listed.published_at).unwrap_or(Timestamp::from_unix_nanos(0));
        let payload = match letter.payload {
            Some(payload) => Ok(Bytes::from(payload)),
            None => from_stream(&self.js, place, &letter.listed.sha256)
                .await
                .map(|held| held.payload),
        };
        let content = match payload {
            Ok(payload) => decode(place.stream, &letter.listed.subject, &payload),
            Err(why) => Message::Dead(format!(
                "{why}; before: {}",
                after_last(&letter.listed.reason, "; before: ")
            )),
        };
        (content, published)
    }

    async fn discard_letters(&self, keys: &[LetterKey]) -> Result<Vec<LetterLine>, String> {
        let mut waiting = Vec::with_capacity(keys.len());
        for place in places(keys)? {
            let (done, outcome) = oneshot::channel();
            self.send(LetterWork::new(place, LetterOrder::Discard, done))?;
            waiting.push((place, Some(outcome)));
        }
        told(waiting).await
    }

    fn send(&self, work: LetterWork) -> Result<(), String> {
        self.works
            .send(Work::Unit(Unit::Letter(Box::new(work))))
            .map_err(|_| "the service is stopping; ask again once it runs".to_owned())
    }

    async fn retry_outputs(&self, keys: Vec<OutputKey>) -> Result<Vec<OutputLine>, String> {
        if keys.len() > REQUEST_MAX {
            return Err(too_many(keys.len()));
        }
        let owed = {
            let wanted = keys
                .iter()
                .map(|key| {
                    let field =
                        Field::parse(&key.field).ok_or_else(|| format!("no output {:?}", key.field))?;
                    Ok((key.result_id.clone(), field))
                })
                .collect::<Result<Vec<_>, String>>()?;
            self.read(move |reader| reader.owed(&wanted)).await?
        };
        self.repairer.attempt_all(owed).await;
        self.read(move |reader| reader.states(keys)).await
    }
}

/// Beyond `dead_letters.max_bytes` only the stream holds a payload; its hash says whether it still does.
async fn from_stream(js: &Js, place: LetterId, sha256: &str) -> Result<Raw, String> {
    let held = Leader::new(js, place.stream)
        .message_at(place.seq)
        .await
        .map_err(|error| format!("its payload is not in the book, and the stream does not answer: {error}"))?
        .ok_or("its payload is not in the book, and the stream does not hold the message any more")?;
    if hex(&Sha256::digest(&held.payload)) == sha256 {
        Ok(held)
    } else {
        Err("its payload is not in the book, and the stream holds another message at its sequence".to_owned())
    }
}

/// A letter's headers and payload as its stream holds them.
///
/// # Errors
/// Why they cannot be had, in words.
pub async fn fetch_letter(
    nats: &config::Nats,
    place: LetterId,
    sha256: &str,
) -> Result<(Option<String>, Vec<u8>), String> {
    let connection = connect::once(nats)
        .await
        .map_err(|error| format!("its payload is not in the book, and {error}"))?;
    let js = connection.js();
    let held = from_stream(&js, place, sha256).await?;
    Ok((headers_json(Some(&held.headers)), held.payload.to_vec()))
}

/// Reads the database beside the writer.
struct Reader(PathBuf);

impl Reader {
    fn letters(&self, places: &[LetterId]) -> Result<Vec<Option<Shown>>, StoreError> {
        let conn = read_only(&self.0)?;
        places
            .iter()
            .map(|place| dead_letters::show(&conn, place.stream, place.seq, Some(place.incarnation)))
            .collect()
    }

    fn lines(&self, result_ids: &BTreeSet<String>) -> Result<Lines, StoreError> {
        Lines::read(&read_only(&self.0)?, result_ids)
    }

    fn owed(&self, keys: &[(String, Field)]) -> Result<Vec<output_book::Owed>, StoreError> {
        output_book::owed_of(&read_only(&self.0)?, keys)
    }

    fn states(&self, keys: Vec<OutputKey>) -> Result<Vec<OutputLine>, StoreError> {
        let conn = read_only(&self.0)?;
        keys.into_iter()
            .map(|key| {
                let field = Field::parse(&key.field).unwrap_or(Field::Stdout);
                let found = output_book::state_of(&conn, &key.result_id, field)?;
                let (state, reason) = found.unwrap_or_else(|| ("not_there".to_owned(), None));
                Ok(OutputLine {
                    key,
                    state,
                    reason: reason.as_deref().map(clip),
                })
            })
            .collect()
    }
}

fn places(keys: &[LetterKey]) -> Result<Vec<LetterId>, String> {
    if keys.len() > REQUEST_MAX {
        return Err(too_many(keys.len()));
    }
    let mut places = keys.iter().map(LetterKey::place).collect::<Result<Vec<_>, _>>()?;
    // In stream order, whatever the order of the request: of two with one result id the first counts.
    places.sort_unstable();
    places.dedup();
    Ok(places)
}

fn too_many(asked: usize) -> String {
    format!("{asked} at once; one request takes {REQUEST_MAX} at most")
}

type Waiting = (LetterId, Option<oneshot::Receiver<LetterOutcome>>);

async fn told(waiting: Vec<Waiting>) -> Result<Vec<LetterLine>, String> {
    let mut lines = Vec::with_capacity(waiting.len());
    for (place, outcome) in waiting {
        let outcome = match outcome {
            None => LetterOutcome::NotThere,
            Some(outcome) => outcome
                .await
                .map_err(|_| "the writer gave it back, or is stopping; ask again".to_owned())?,
        };
        let (outcome, reason) = match outcome {
            LetterOutcome::Projected => ("projected", None),
            LetterOutcome::Kept(reason) => ("kept", Some(clip(&reason))),
            LetterOutcome::Discarded => ("discarded", None),
            LetterOutcome::NotThere => ("not_there", None),
        };
        lines.push(LetterLine {
            key: place.into(),
            outcome: outcome.to_owned(),
            reason,
        });
    }
    Ok(lines)
}

fn clip(reason: &str) -> String {
    reason.chars().take(REASON_MAX).collect()
}

/// What stands after the last occurrence of a mark: a reason that is given again does not grow.
fn after_last<'a>(text: &'a str, mark: &str) -> &'a str {
    text.rsplit_once(mark).map_or(text, |(_, after)| after)
}
