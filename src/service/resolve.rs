//! Between reader and writer: decode, and follow pointers. Work goes on concurrently and leaves in stream order: each
//! result takes its place in the queue at once and fills it when its objects arrive or their time is up.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use async_nats::HeaderMap;
use bytes::Bytes;
use bytestring::ByteString;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::task::AbortHandle;

use super::work::{Cargo, Entry, Envelope, Message, Work};
use crate::meters;
use crate::projection::output::Output;
use crate::projection::result::ResultMessage;
use crate::source::fetch::{Fetcher, Found, Looked};
use crate::source::flow::{Item, Read};
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

/// The budget for objects in flight (I6), a budget of its own: messages must not hold what an object waits for.
#[derive(Clone, Debug)]
pub struct ObjectBudget {
    permits: Arc<Semaphore>,
    bytes_max: u32,
}

impl ObjectBudget {
    /// A budget of so many bytes.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        let bytes_max = u32::try_from(bytes).unwrap_or(u32::MAX);
        Self {
            permits: Arc::new(Semaphore::new(
                usize::try_from(bytes_max).unwrap_or(usize::MAX >> 4),
            )),
            bytes_max,
        }
    }

    /// Bytes taken now.
    #[must_use]
    pub fn taken_bytes(&self) -> u64 {
        u64::from(self.bytes_max).saturating_sub(self.permits.available_permits() as u64)
    }

    /// Reserves bytes, clamped to the whole budget: what is larger passes alone. First come, first served.
    pub async fn reserve(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.bytes_max);
        self.permits.clone().acquire_many_owned(bytes).await.ok()
    }
}

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
    /// Bytes of objects in flight.
    pub budget: ObjectBudget,
}

/// A place in the queue.
struct Place {
    entry: Entry,
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

impl Resolver {
    /// Runs until the reader is gone or the writer is.
    pub async fn run(mut self) {
        let mut queue: VecDeque<Place> = VecDeque::new();
        // Reservations are taken in stream order: each result passes the turn on once it has its bytes.
        let mut turn: Option<oneshot::Receiver<()>> = None;
        let mut generation = self.generation.clone();
        let mut batch = Vec::with_capacity(BATCH_MAX);
        loop {
            let outcome = tokio::select! {
                biased;
                changed = generation.changed() => {
                    let current = *generation.borrow_and_update();
                    queue.retain(|place| place.entry.generation >= current);
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
        queue: &mut VecDeque<Place>,
        turn: &mut Option<oneshot::Receiver<()>>,
    ) -> Option<()> {
        for item in batch.drain(..) {
            let place = self.place(item, turn);
            if place.waits.is_none() && queue.is_empty() {
                self.works.send(Work::Entry(place.entry)).ok()?;
            } else {
                queue.push_back(place);
            }
        }
        Some(())
    }

    /// The head has what it waited for: it leaves, and all that were ready behind it.
    fn leave(&self, queue: &mut VecDeque<Place>, outputs: Option<Outputs>) -> Option<()> {
        let mut head = queue.pop_front()?;
        if let (
            Some(Outputs {
                stdout,
                stderr,
                permit,
            }),
            Cargo::Message(message),
        ) = (outputs, &mut head.entry.cargo)
            && let Message::Result { result, .. } = &mut message.content
        {
            result.stdout = stdout;
            result.stderr = stderr;
            message.object_permit = permit;
        }
        self.works.send(Work::Entry(head.entry)).ok()?;
        while let Some(next) = queue.pop_front() {
            if next.waits.is_some() {
                queue.push_front(next);
                break;
            }
            self.works.send(Work::Entry(next.entry)).ok()?;
        }
        Some(())
    }

    fn place(&self, item: Item, turn: &mut Option<oneshot::Receiver<()>>) -> Place {
        let Item {
            stream,
            generation,
            read,
        } = item;
        let stale = generation < *self.generation.borrow();
        let mut waits = None;
        let cargo = match read {
            Read::Incarnation { incarnation, last } => Cargo::Incarnation { incarnation, last },
            Read::Gap { first, last, reason } => Cargo::Gap { first, last, reason },
            Read::Rest(reply) => Cargo::Rest(reply),
            Read::Delivery(delivery) => {
                let content = decode(stream, &delivery.subject, &delivery.payload);
                if let Message::Result { result, .. } = &content
                    && !stale
                    && (result.result.stdout_object.is_some() || result.result.stderr_object.is_some())
                {
                    waits = Some(self.fetch(&result.result, delivery.published, turn));
                }
                Cargo::Message(Box::new(Envelope {
                    delivery,
                    content,
                    object_permit: None,
                }))
            }
        };
        Place {
            entry: Entry {
                stream,
                generation,
                cargo,
            },
            waits,
        }
    }

    /// Starts fetching both outputs of a result.
    fn fetch(
        &self,
        result: &ExecResult<ByteString>,
        published: Timestamp,
        turn: &mut Option<oneshot::Receiver<()>>,
    ) -> Wait {
        let (pass_on, next_turn) = oneshot::channel();
        let my_turn = turn.replace(next_turn);
        let (done, outputs) = oneshot::channel();
        let (fetcher, budget) = (self.fetcher.clone(), self.budget.clone());
        let pointers = [result.stdout_object.clone(), result.stderr_object.clone()];
        let request_id = result.request_id.clone();
        let task = tokio::spawn(async move {
            let [stdout, stderr] = pointers;
            let (stdout, stderr) = tokio::join!(
                look(&fetcher, stdout, &request_id, published),
                look(&fetcher, stderr, &request_id, published)
            );
            if let Some(turn) = my_turn {
                // An error is a predecessor that was dropped: its turn is over too.
                let _passed = turn.await;
            }
            let bytes = stdout.as_ref().map_or(0, Pointer::bytes) + stderr.as_ref().map_or(0, Pointer::bytes);
            let permit = if bytes > 0 {
                budget.reserve(bytes).await
            } else {
                None
            };
            drop(pass_on);
            let (stdout, stderr) = tokio::join!(read(&fetcher, stdout), read(&fetcher, stderr));
            // An error means that nobody waits any more.
            let _sent = done.send(Outputs {
                stdout,
                stderr,
                permit,
            });
        });
        Wait {
            outputs,
            task: task.abort_handle(),
        }
    }
}

/// Waits until the head of the queue has its outputs; for ever while there is no head that waits.
async fn head(queue: &mut VecDeque<Place>) -> Option<Outputs> {
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

/// Follows the pointers of one result by itself; returns the permit of its objects' bytes.
pub(super) async fn follow(
    fetcher: &Fetcher,
    budget: &ObjectBudget,
    message: &mut ResultMessage,
    published: Timestamp,
) -> Option<OwnedSemaphorePermit> {
    let result = &message.result;
    let request_id = result.request_id.clone();
    let (stdout, stderr) = tokio::join!(
        look(fetcher, result.stdout_object.clone(), &request_id, published),
        look(fetcher, result.stderr_object.clone(), &request_id, published)
    );
    let bytes = stdout.as_ref().map_or(0, Pointer::bytes) + stderr.as_ref().map_or(0, Pointer::bytes);
    let permit = if bytes > 0 {
        budget.reserve(bytes).await
    } else {
        None
    };
    (message.stdout, message.stderr) = tokio::join!(read(fetcher, stdout), read(fetcher, stderr));
    permit
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
        StreamName::Results => decode_shared(payload).map(|result| Message::Result {
            result: ResultMessage {
                stdout: owed(result.stdout_object.as_ref(), &result.request_id),
                stderr: owed(result.stderr_object.as_ref(), &result.request_id),
                result,
            },
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
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn a_pointer_that_nobody_has_followed_is_owed_and_no_empty_text() {
        let payload = Bytes::from_static(
            br#"{"request_id":"q","pc_id":"PC-1","exit_code":0,"stdout":"","stderr":"","stdout_object":"q/PC-1/stdout",
                "stderr_object":"other/stderr","started_at":"2026-06-01T00:00:00Z","finished_at":"2026-06-01T00:00:01Z"}"#,
        );
        let Message::Result { result } = decode(StreamName::Results, "results.q", &payload) else {
            panic!("a result");
        };
        let attempt = |output: Option<Output>| output.map(|output| output.attempt);
        assert!(matches!(attempt(result.stdout), Some(Attempt::Pending(_))));
        assert!(matches!(attempt(result.stderr), Some(Attempt::Refused)));
    }

    #[tokio::test]
    async fn objects_take_no_more_bytes_than_the_budget_has_and_a_larger_one_passes_alone() {
        let budget = ObjectBudget::new(100);
        let first = budget.reserve(60).await.unwrap();
        assert_eq!(first.num_permits(), 60);
        assert!(budget.reserve(50).now_or_never().is_none(), "50 of 40 bytes");
        let second = budget.reserve(40).now_or_never().unwrap();
        assert!(
            budget.reserve(1_000).now_or_never().is_none(),
            "a large one passes alone"
        );
        drop((first, second));
        let alone = budget.reserve(1_000).await.unwrap();
        assert_eq!(alone.num_permits(), 100);
        assert!(budget.reserve(1).now_or_never().is_none());
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
