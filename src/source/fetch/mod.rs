//! Reading objects by name (DESIGN §4): direct gets, bounded in time, checked for length, chunks and SHA-256.
//!
//! Two steps, so that the caller can reserve bytes in stream order in between: [`Fetcher::look`] finds the metadata,
//! [`Fetcher::read`] the bytes. What is not certain is never called gone: a fresh object may not be seen yet by the
//! follower that answers, so the leader is asked, and only about messages old enough (contract §7.1).

mod breaker;
mod bucket;
mod chunks;
mod gate;

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};
use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use self::breaker::Breaker;
use self::bucket::{AskFailed, Bucket, Meta, Via};
use self::chunks::{BATCH_BYTES_MAX, Chunks};
use self::gate::Gate;
use super::connect::{Connection, ConnectionState};
use super::flow::Budget;
use crate::wire::output::{Attempt, Content};
use crate::wire::time::Timestamp;

/// A missing object is certain only when its message is older than this by the server's clock (contract §7.1).
const CERTAIN_AFTER: Duration = Duration::from_secs(120);
/// A fresh object that is not seen yet is asked for again after these: all of them were there within 17 ms.
const FRESH_PAUSES_MS: [u64; 3] = [10, 50, 250];

/// After the connection was lost, objects are asked for carefully for so long.
const CAREFUL: Duration = Duration::from_secs(60);
/// Longest name in bytes that is asked for. A server closes the connection on a line of its protocol that is longer than
/// 4,096 bytes, and a name takes four thirds of its length there: whoever sends a longer one would cut us off, again at every
/// try. Nobody could have stored such an object either; an agent's names have some hundred bytes.
const NAME_MAX: usize = 2_048;

/// Bytes asked for and not here yet, at most: the server closes a connection that has 64 MiB before it.
const UNDER_WAY_MAX: u64 = 16 << 20;

/// Limits of one fetch.
#[derive(Clone, Copy, Debug)]
pub struct FetchLimits {
    /// Longest object, bytes.
    pub max_bytes: u64,
    /// Longest silence of the store.
    pub idle: Duration,
    /// Longest fetch of nothing; both tries together.
    pub base: Duration,
    /// Bytes a second that lengthen the limit by an object's size.
    pub min_rate: u64,
    /// Looks, and reads, under way at once, at most; as many as are answered quickly.
    pub concurrency: usize,
}

/// What a look found.
#[derive(Debug)]
pub enum Looked {
    /// The object is there; reserve its bytes, then read it.
    Found(Found),
    /// There is nothing to read: how the attempt ended.
    Ended(Attempt),
}

/// An object that a look has found.
#[derive(Debug)]
pub struct Found {
    meta: Meta,
    via: Via,
    published: Timestamp,
    spent: Duration,
}

impl Found {
    /// Its size in bytes, as its metadata says.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.meta.size
    }
}

/// Reads objects of `result_output`. Clones share the breaker and the limits.
#[derive(Clone, Debug)]
pub struct Fetcher {
    bucket: Bucket,
    limits: FetchLimits,
    connection: watch::Receiver<ConnectionState>,
    breaker: Arc<Breaker>,
    looks: Gate,
    reads: Gate,
    /// Bytes under way.
    under_way: Budget,
}

/// Why a look or a read gave nothing.
enum Trouble {
    /// Not there, or not whole, as far as this answer goes.
    Missing(String),
    /// No usable answer.
    Unreachable(String),
}

impl From<AskFailed> for Trouble {
    fn from(failed: AskFailed) -> Self {
        match failed {
            AskFailed::NotFound => Self::Missing("no such object".to_owned()),
            AskFailed::Unreachable(reason) => Self::Unreachable(reason),
        }
    }
}

impl Fetcher {
    /// A fetcher on the bucket of outputs.
    ///
    /// # Errors
    /// When the client refuses the bucket's name, which it does not for that of the contract.
    pub async fn new(connection: &Connection, limits: FetchLimits) -> Result<Self, String> {
        // Longer than our own limit, which must be the one that counts.
        let request_limit = limits.idle + Duration::from_secs(1);
        let bucket = Bucket::new(connection.js_within(request_limit)).await?;
        Ok(Self {
            bucket,
            limits,
            connection: connection.state.clone(),
            breaker: Arc::new(Breaker::default()),
            looks: Gate::new(limits.concurrency, limits.idle),
            reads: Gate::new(limits.concurrency, limits.idle),
            under_way: Budget::new(UNDER_WAY_MAX),
        })
    }

    /// A fetcher with places of its own for looks and reads; what it learns of the store's silence is shared.
    #[must_use]
    pub fn beside(&self, concurrency: usize) -> Self {
        Self {
            looks: Gate::new(concurrency, self.limits.idle),
            reads: Gate::new(concurrency, self.limits.idle),
            under_way: Budget::new(UNDER_WAY_MAX),
            ..self.clone()
        }
    }

    /// Whether the breaker lets nothing through: the store did not answer several times in a row.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.breaker.is_open()
    }

    /// Finds an object's metadata. `published`: when the message that points to it was stored.
    pub async fn look(&self, name: &str, published: Timestamp) -> Looked {
        let Some(place) = self.looks.enter().await else {
            return Looked::Ended(Attempt::Pending("shutting down".to_owned()));
        };
        if name.len() > NAME_MAX {
            return Looked::Ended(Attempt::Gone(format!(
                "no object has a name of {} bytes",
                name.len()
            )));
        }
        if !self.breaker.may_try() {
            return Looked::Ended(Attempt::Pending(
                "the object store did not answer; it is asked again soon".to_owned(),
            ));
        }
        let started = Instant::now();
        let outcome = timeout(self.limits.base, self.look_twice(name, published)).await;
        place.done(u32::from(outcome.is_ok()));
        let (meta, via) = match outcome {
            Err(_) => {
                self.breaker.record(false);
                return Looked::Ended(Attempt::Pending(self.late("did not answer", self.limits.base)));
            }
            Ok(Err(attempt)) => return Looked::Ended(attempt),
            Ok(Ok(found)) => found,
        };
        if meta.size > self.limits.max_bytes {
            return Looked::Ended(Attempt::TooLarge {
                size: meta.size,
                limit: self.limits.max_bytes,
            });
        }
        Looked::Found(Found {
            meta,
            via,
            published,
            spent: started.elapsed(),
        })
    }

    /// Reads an object that [`Fetcher::look`] has found.
    pub async fn read(&self, found: Found) -> Attempt {
        let bytes = found.size().min(BATCH_BYTES_MAX);
        let (Some(_bytes), Some(place)) = (self.under_way.reserve(bytes).await, self.reads.enter().await)
        else {
            return Attempt::Pending("shutting down".to_owned());
        };
        let Found {
            meta,
            via,
            published,
            spent,
        } = found;
        let for_size = Duration::from_secs_f64(meta.size as f64 / self.limits.min_rate.max(1) as f64);
        let total = (self.limits.base + for_size).saturating_sub(spent);
        let outcome = timeout_at(Instant::now() + total, async {
            match self.chunks(&meta, via).await {
                Ok(attempt) => attempt,
                Err(Trouble::Unreachable(reason)) => Attempt::Pending(reason),
                Err(Trouble::Missing(reason)) => self.judge(&meta, via, published, reason).await,
            }
        })
        .await;
        let questions = u32::try_from(meta.size.div_ceil(BATCH_BYTES_MAX)).unwrap_or(u32::MAX);
        place.done(if outcome.is_ok() { questions.max(1) } else { 0 });
        outcome.unwrap_or_else(|_| {
            self.breaker.record(false);
            Attempt::Pending(self.late("did not deliver it all", total))
        })
    }

    /// Waits for one answer, no longer than the idle limit; the breaker learns of both.
    async fn ask<T>(&self, answer: impl Future<Output = Result<T, AskFailed>>) -> Result<T, Trouble> {
        let answer = timeout(self.limits.idle, answer).await;
        self.breaker.record(answer.is_ok());
        match answer {
            Ok(answer) => answer.map_err(Trouble::from),
            Err(_) => Err(Trouble::Unreachable(
                self.late("did not answer", self.limits.idle),
            )),
        }
    }

    fn late(&self, what: &str, after: Duration) -> String {
        format!("the object store {what} within {:.1} s", after.as_secs_f64())
    }

    /// Asks whoever answers, again after short pauses while the object may be fresh, then the leader.
    async fn look_twice(&self, name: &str, published: Timestamp) -> Result<(Meta, Via), Attempt> {
        let first = self.first();
        let mut reason = match self.meta(name, first).await {
            Ok(meta) => return Ok((meta, first)),
            Err(Trouble::Unreachable(reason)) => return Err(Attempt::Pending(reason)),
            Err(Trouble::Missing(reason)) => reason,
        };
        if !self.old_enough(published).await? {
            for pause in FRESH_PAUSES_MS {
                tokio::time::sleep(Duration::from_millis(pause)).await;
                match self.meta(name, first).await {
                    Ok(meta) => return Ok((meta, first)),
                    Err(Trouble::Unreachable(reason)) => return Err(Attempt::Pending(reason)),
                    Err(Trouble::Missing(again)) => reason = again,
                }
            }
            return Err(Attempt::Pending(format!(
                "{reason}; not certain yet, its message is fresh"
            )));
        }
        match self.meta(name, Via::Leader).await {
            Ok(meta) => Ok((meta, Via::Leader)),
            Err(Trouble::Unreachable(reason)) => Err(Attempt::Pending(reason)),
            Err(Trouble::Missing(reason)) => Err(Attempt::Gone(reason)),
        }
    }

    /// An object that is there but not whole: certain only when the leader's copy is no better.
    async fn judge(&self, meta: &Meta, via: Via, published: Timestamp, reason: String) -> Attempt {
        match self.old_enough(published).await {
            Err(pending) => return pending,
            Ok(false) => return Attempt::Pending(format!("{reason}; not certain yet, its message is fresh")),
            Ok(true) if via == Via::Leader => return Attempt::Gone(reason),
            Ok(true) => {}
        }
        let again = match self.meta(&meta.name, Via::Leader).await {
            Ok(again) if again.size > meta.size => {
                return Attempt::Pending("it was replaced while it was read".to_owned());
            }
            Ok(again) => self.chunks(&again, Via::Leader).await,
            Err(trouble) => Err(trouble),
        };
        match again {
            Ok(attempt) => attempt,
            Err(Trouble::Unreachable(reason)) => Attempt::Pending(reason),
            Err(Trouble::Missing(reason)) => Attempt::Gone(reason),
        }
    }

    async fn old_enough(&self, published: Timestamp) -> Result<bool, Attempt> {
        let now = self
            .ask(self.bucket.server_time())
            .await
            .map_err(|trouble| match trouble {
                Trouble::Missing(reason) | Trouble::Unreachable(reason) => Attempt::Pending(reason),
            })?;
        Ok(is_older(published, CERTAIN_AFTER, now))
    }

    /// Whether a message is older than `age` by the server's clock; not when the server does not say.
    pub async fn published_before(&self, published: Timestamp, age: Duration) -> bool {
        let now = self.ask(self.bucket.results_time()).await;
        now.is_ok_and(|now| is_older(published, age, now))
    }

    /// Who is asked first. An object's messages may have headers that break the connection with a direct get, which then
    /// would be tried again and again: after a loss the leader is asked, whose answers hold anything.
    fn first(&self) -> Via {
        match self.connection.borrow().lost {
            Some(lost) if lost.elapsed() < CAREFUL => Via::Leader,
            _ => Via::Anybody,
        }
    }

    async fn meta(&self, name: &str, via: Via) -> Result<Meta, Trouble> {
        match self.ask(self.bucket.meta(name, via)).await? {
            meta if meta.deleted => Err(Trouble::Missing("the object was deleted".to_owned())),
            meta if meta.is_link() => Err(Trouble::Missing(
                "the object is a link, which agents never make".to_owned(),
            )),
            meta => Ok(meta),
        }
    }

    /// Reads and checks all chunks: the number, the length, the digest.
    async fn chunks(&self, meta: &Meta, via: Via) -> Result<Attempt, Trouble> {
        let size = usize::try_from(meta.size)
            .map_err(|_| Trouble::Unreachable("its size is out of range".to_owned()))?;
        let mut bytes: Vec<u8> = Vec::with_capacity(size);
        let mut hash = Sha256::new();
        let mut chunks = Chunks::of(&self.bucket, meta, via);
        for number in 1..=meta.chunks {
            let mut chunk = self.ask(chunks.next()).await;
            if matches!(chunk, Err(Trouble::Unreachable(_))) && chunks.give_up_batch() {
                chunk = self.ask(chunks.next()).await;
            }
            let chunk = chunk.map_err(|trouble| match trouble {
                Trouble::Missing(_) => {
                    Trouble::Missing(format!("chunk {number} of {} is missing", meta.chunks))
                }
                trouble => trouble,
            })?;
            if bytes.len() + chunk.len() > size {
                return Err(Trouble::Missing(format!(
                    "its chunks hold more than its {size} bytes"
                )));
            }
            hash.update(&chunk);
            bytes.extend_from_slice(&chunk);
        }
        if bytes.len() != size {
            return Err(Trouble::Missing(format!(
                "its chunks hold {} of its {size} bytes",
                bytes.len()
            )));
        }
        let sha256: [u8; 32] = hash.finalize().into();
        let verified = match meta.digest.as_deref() {
            None | Some("") => false,
            Some(text) if digest_matches(text, &sha256) => true,
            Some(text) => {
                let shown: String = text.chars().take(80).collect();
                return Err(Trouble::Missing(format!(
                    "its bytes do not have its digest {shown:?}"
                )));
            }
        };
        Ok(Attempt::Fetched {
            content: Content::new(Bytes::from(bytes)),
            sha256,
            verified,
        })
    }
}

/// `SHA-256=<base64url>`, with or without padding.
fn digest_matches(text: &str, sha256: &[u8; 32]) -> bool {
    text.strip_prefix("SHA-256=").is_some_and(|encoded| {
        encoded == URL_SAFE.encode(sha256) || encoded == URL_SAFE_NO_PAD.encode(sha256)
    })
}

fn is_older(published: Timestamp, age: Duration, now: Timestamp) -> bool {
    match (now.unix_nanos(), published.unix_nanos()) {
        (Some(now), Some(published)) => {
            i128::from(now) - i128::from(published) > i128::try_from(age.as_nanos()).unwrap_or(i128::MAX)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_compared_with_and_without_padding() {
        let hash: [u8; 32] = Sha256::digest(b"abc").into();
        assert!(digest_matches(
            "SHA-256=ungWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa0=",
            &hash
        ));
        assert!(digest_matches(
            "SHA-256=ungWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa0",
            &hash
        ));
        assert!(!digest_matches("SHA-256=ungWv48Bz", &hash));
        assert!(!digest_matches("MD5=ungWv48Bz", &hash));
    }
}
