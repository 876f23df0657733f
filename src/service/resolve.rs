//! Between reader and writer: decode, and follow pointers. Work goes on concurrently and leaves in stream order: each
//! result takes its place in the queue at once and fills it when its objects arrive or their time is up.

use std::collections::VecDeque;
use std::sync::mpsc::Sender;

use async_nats::HeaderMap;
use bytes::Bytes;
use bytestring::ByteString;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};
use tokio::task::AbortHandle;

use super::work::{Envelope, Message, Resolved, Work};
use crate::meters;
use crate::projection::output::Output;
use crate::projection::result::ResultMessage;
use crate::source::fetch::{Fetcher, Found, Looked};
use crate::source::flow::{Budget, Item, Read};
use crate::wire::inert::inert;
use crate::wire::kv::StreamName;
use crate::wire::output::Attempt;
use crate::wire::result::{ExecResult, decode_shared};
use crate::wire::time::Timestamp;
use crate::wire::{inventory, object, started, subject};

/// Results whose objects are under way at once; more wait in the channel behind, bounded by their permits.
const PENDING_MAX: usize = 1024;

/// Items taken from the reader at once.
const BATCH_MAX: usize = 128;

/// One stream's stage.
#[derive(Debug)]
pub struct Resolver {
    /// From the reader.
    pub items: mpsc::UnboundedReceiver<Item>,
    /// To the writer.
    pub works: Sender<Work>,
    /// The reader's current generation: what belongs to an older one is dropped.
    pub generation: watch::Receiver<u64>,
    /// Reads objects.
    pub fetcher: Fetcher,
    /// For objects in flight, a budget of its own: messages must not hold what an object waits for.
    pub budget: Budget,
}

/// A place in the queue.
struct Slot {
    item: Resolved,
    /// `None`: ready.
    waits: Option<Wait>,
}

struct Wait {
    outputs: oneshot::Receiver<Outputs>,
    task: AbortHandle,
}

impl Drop for Wait {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What became of a result's two pointers, and the bytes they hold.
struct Outputs {
    stdout: Option<Output>,
    stderr: Option<Output>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Outputs {
    /// Makes them a result's; what is left is the permit for their bytes.
    fn give_to(self, result: &mut ResultMessage) -> Option<OwnedSemaphorePermit> {
        result.stdout = self.stdout;
        result.stderr = self.stderr;
        self.permit
    }
}

/// The pointers of a result, and the folder that they must lie in.
struct Pointers {
    stdout: Option<ByteString>,
    stderr: Option<ByteString>,
    request_id: ByteString,
}

impl Pointers {
    fn of(result: &ExecResult<ByteString>) -> Self {
        Self {
            stdout: result.stdout_object.clone(),
            stderr: result.stderr_object.clone(),
            request_id: result.request_id.clone(),
        }
    }
}

/// A result's turn to reserve bytes: after those before it in the stream. Dropped, it is the next one's.
struct Turn {
    mine: Option<oneshot::Receiver<()>>,
    _next: oneshot::Sender<()>,
}

impl Resolver {
    /// Runs until the reader is gone or the writer is.
    pub async fn run(mut self) {
        let mut queue: VecDeque<Slot> = VecDeque::new();
        // Reservations are taken in stream order: each result passes the turn on once it has its bytes.
        let mut turn: Option<oneshot::Receiver<()>> = None;
        let mut generation = self.generation.clone();
        let mut batch = Vec::with_capacity(BATCH_MAX);
        loop {
            let outcome = tokio::select! {
                biased;
                changed = generation.changed() => {
                    let current = *generation.borrow_and_update();
                    queue.retain(|place| place.item.generation >= current);
                    if changed.is_err() { None } else { Some(()) }
                }
                outputs = head(&mut queue) => {
                    self.leave(&mut queue, outputs)
                }
                received = self.items.recv_many(&mut batch, BATCH_MAX), if queue.len() < PENDING_MAX => {
                    if received == 0 { None } else { self.take(&mut batch, &mut queue, &mut turn) }
                }
            };
            if outcome.is_none() {
                return;
            }
        }
    }

    /// Gives each item its place; what is ready, with nothing before it, leaves at once.
    fn take(
        &self,
        batch: &mut Vec<Item>,
        queue: &mut VecDeque<Slot>,
        turn: &mut Option<oneshot::Receiver<()>>,
    ) -> Option<()> {
        for item in batch.drain(..) {
            let place = self.place(item, turn);
            if place.waits.is_none() && queue.is_empty() {
                self.works.send(Work::of(place.item)).ok()?;
            } else {
                queue.push_back(place);
            }
        }
        Some(())
    }

    /// The head has what it waited for: it leaves, and all that were ready behind it.
    fn leave(&self, queue: &mut VecDeque<Slot>, outputs: Option<Outputs>) -> Option<()> {
        let mut head = queue.pop_front()?;
        if let (Some(outputs), Read::Message(message)) = (outputs, &mut head.item.read)
            && let Message::Result(result) = &mut message.content
        {
            message.object_permit = outputs.give_to(result);
        }
        self.works.send(Work::of(head.item)).ok()?;
        while let Some(next) = queue.pop_front() {
            if next.waits.is_some() {
                queue.push_front(next);
                break;
            }
            self.works.send(Work::of(next.item)).ok()?;
        }
        Some(())
    }

    fn place(&self, item: Item, turn: &mut Option<oneshot::Receiver<()>>) -> Slot {
        let stream = item.stream;
        let stale = item.generation < *self.generation.borrow();
        let mut waits = None;
        let item = item.map(|delivery| {
            let content = decode(stream, &delivery.subject, &delivery.payload);
            if let Message::Result(message) = &content
                && !stale
                && (message.result.stdout_object.is_some() || message.result.stderr_object.is_some())
            {
                waits = Some(self.fetch(&message.result, delivery.published, turn));
            }
            Box::new(Envelope {
                delivery,
                content,
                object_permit: None,
            })
        });
        Slot { item, waits }
    }

    /// Starts fetching both outputs of a result.
    fn fetch(
        &self,
        result: &ExecResult<ByteString>,
        published: Timestamp,
        turn: &mut Option<oneshot::Receiver<()>>,
    ) -> Wait {
        let (pass_on, next_turn) = oneshot::channel();
        let turn = Turn {
            mine: turn.replace(next_turn),
            _next: pass_on,
        };
        let (done, outputs) = oneshot::channel();
        let (fetcher, budget) = (self.fetcher.clone(), self.budget.clone());
        let pointers = Pointers::of(result);
        let task = tokio::spawn(async move {
            let outputs = follow(&fetcher, &budget, pointers, published, Some(turn)).await;
            // An error means that nobody waits any more.
            let _sent = done.send(outputs);
        });
        Wait {
            outputs,
            task: task.abort_handle(),
        }
    }
}

/// Waits until the head of the queue has its outputs; for ever while there is no head that waits.
async fn head(queue: &mut VecDeque<Slot>) -> Option<Outputs> {
    match queue.front_mut().map(|place| place.waits.as_mut()) {
        Some(Some(wait)) => (&mut wait.outputs).await.ok(),
        Some(None) => None,
        None => std::future::pending().await,
    }
}

/// A pointer after the look.
struct Pointer {
    object: ByteString,
    looked: Looked,
}

impl Pointer {
    fn bytes(&self) -> u64 {
        match &self.looked {
            Looked::Found(found) => Found::size(found),
            Looked::Ended(_) => 0,
        }
    }
}

async fn look(
    fetcher: &Fetcher,
    object: Option<ByteString>,
    request_id: &str,
    published: Timestamp,
) -> Option<Pointer> {
    let object = object?;
    let looked = match prejudge(&object, request_id) {
        Some(attempt) => Looked::Ended(attempt),
        None => fetcher.look(&object, published).await,
    };
    Some(Pointer { object, looked })
}

async fn read(fetcher: &Fetcher, pointer: Option<Pointer>) -> Option<Output> {
    let Pointer { object, looked } = pointer?;
    let attempt = match looked {
        Looked::Ended(attempt) => attempt,
        Looked::Found(found) => fetcher.read(found).await,
    };
    meters::output(attempt.state());
    Some(Output { object, attempt })
}

/// Follows both pointers of one result: looks for the objects, reserves their bytes, in its turn where there is one, and
/// reads them.
async fn follow(
    fetcher: &Fetcher,
    budget: &Budget,
    pointers: Pointers,
    published: Timestamp,
    mut turn: Option<Turn>,
) -> Outputs {
    let Pointers {
        stdout,
        stderr,
        request_id,
    } = pointers;
    let (stdout, stderr) = tokio::join!(
        look(fetcher, stdout, &request_id, published),
        look(fetcher, stderr, &request_id, published)
    );
    if let Some(mine) = turn.as_mut().and_then(|turn| turn.mine.take()) {
        // An error is a predecessor that was dropped: its turn is over too.
        let _passed = mine.await;
    }
    let bytes = stdout.as_ref().map_or(0, Pointer::bytes) + stderr.as_ref().map_or(0, Pointer::bytes);
    let permit = if bytes > 0 {
        budget.reserve(bytes).await
    } else {
        None
    };
    drop(turn);
    let (stdout, stderr) = tokio::join!(read(fetcher, stdout), read(fetcher, stderr));
    Outputs {
        stdout,
        stderr,
        permit,
    }
}

/// Follows the pointers of one result by itself; returns the permit for their bytes.
pub(super) async fn follow_now(
    fetcher: &Fetcher,
    budget: &Budget,
    message: &mut ResultMessage,
    published: Timestamp,
) -> Option<OwnedSemaphorePermit> {
    let pointers = Pointers::of(&message.result);
    follow(fetcher, budget, pointers, published, None)
        .await
        .give_to(message)
}

/// Pointers that are not asked for: an empty name is no object (contract §9), and one outside the result's own folder
/// is not read (D18).
#[must_use]
pub fn prejudge(object: &str, request_id: &str) -> Option<Attempt> {
    if object.is_empty() {
        Some(Attempt::Gone("the pointer is an empty text".to_owned()))
    } else if object::belongs_to(object, request_id) {
        None
    } else {
        Some(Attempt::Refused)
    }
}

/// A pointer that nobody has followed yet is owed, whatever becomes of the attempt.
fn owed(pointer: Option<&ByteString>, request_id: &str) -> Option<Output> {
    let object = pointer?.clone();
    let attempt =
        prejudge(&object, request_id).unwrap_or_else(|| Attempt::Pending("not asked for yet".to_owned()));
    Some(Output { object, attempt })
}

/// Bytes into a message, or the reason why not (contract §7.9).
#[must_use]
pub fn decode(stream: StreamName, subject: &str, payload: &Bytes) -> Message {
    if !subject::belongs_to(stream, subject) {
        let shown = inert(subject, 200);
        return Message::Dead(format!("subject \"{shown}\" is not one of the stream {stream}"));
    }
    let decoded = match stream {
        StreamName::Results => decode_shared(payload).map(|result| {
            Message::Result(ResultMessage {
                stdout: owed(result.stdout_object.as_ref(), &result.request_id),
                stderr: owed(result.stderr_object.as_ref(), &result.request_id),
                result,
            })
        }),
        StreamName::Events if !subject::is_start(subject) => return Message::Ignored,
        StreamName::Events => started::decode_shared(payload).map(Message::Started),
        StreamName::Inventory => inventory::decode(subject, payload).map(Message::Snapshot),
    };
    decoded.unwrap_or_else(|error| Message::Dead(error.to_string()))
}

/// Headers as the dead-letter book keeps them: JSON, name to list of values.
pub(super) fn headers_json(headers: Option<&HeaderMap>) -> Option<String> {
    let headers = headers.filter(|headers| !headers.is_empty())?;
    let map: std::collections::BTreeMap<String, Vec<&str>> = headers
        .iter()
        .map(|(name, values)| {
            (
                name.to_string(),
                values.iter().map(|value| value.as_str()).collect(),
            )
        })
        .collect();
    serde_json::to_string(&map).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pointer_that_nobody_has_followed_is_owed_and_no_empty_text() {
        let payload = Bytes::from_static(
            br#"{"request_id":"q","pc_id":"PC-1","exit_code":0,"stdout":"","stderr":"","stdout_object":"q/PC-1/stdout",
                "stderr_object":"other/stderr","started_at":"2026-06-01T00:00:00Z","finished_at":"2026-06-01T00:00:01Z"}"#,
        );
        let Message::Result(result) = decode(StreamName::Results, "results.q", &payload) else {
            panic!("a result");
        };
        let attempt = |output: Option<Output>| output.map(|output| output.attempt);
        assert!(matches!(attempt(result.stdout), Some(Attempt::Pending(_))));
        assert!(matches!(attempt(result.stderr), Some(Attempt::Refused)));
    }

    #[test]
    fn a_pointer_outside_its_own_folder_is_not_asked_for() {
        assert!(prejudge("q-1/PC-1/stdout", "q-1").is_none());
        assert!(matches!(
            prejudge("q-10/PC-1/stdout", "q-1"),
            Some(Attempt::Refused)
        ));
        assert!(matches!(prejudge("", "q-1"), Some(Attempt::Gone(_))));
    }
}
