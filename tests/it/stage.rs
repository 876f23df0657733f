//! The pipeline behind the server: deliveries with the sequences and publish times of a case, through decoding and
//! pointers' outcomes, the writer's own thread and its transactions, into a real file. Objects are what the case says
//! they are at the moment.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use bytestring::ByteString;
use results_projector::projection::manifests::Manifests;
use results_projector::projection::output::Output;
use results_projector::service::resolve::{decode, prejudge};
use results_projector::service::work::{
    Envelope, LetterOrder, LetterOutcome, LetterWork, Message, OwedQuestion, RepairWork, Unit, Work,
};
use results_projector::service::writer::{Bells, Lane, Writer, WriterLimits, WriterState, WriterStopped};
use results_projector::source::flow::{Delivery, Feedback, Item, Read};
use results_projector::source::reconcile::Incarnation;
use results_projector::store::carry::Foreknowledge;
use results_projector::store::dead_letters::{self, LetterId};
use results_projector::store::derive::due_pairs;
use results_projector::store::output_book::Repair;
use results_projector::store::retention::Retained;
use results_projector::store::{Lines, Owner, Store, StoreOptions, read_only};
use results_projector::wire::kv::StreamName;
use results_projector::wire::output::{Attempt, Content};
use results_projector::wire::sequence::StreamSeq;
use results_projector::wire::time::Timestamp;
use sha2::{Digest, Sha256};
use tokio::sync::{Semaphore, oneshot, watch};

/// What an object is at the moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    Here(Bytes),
    Unreachable,
    Gone,
}

/// One message as the broker holds it.
#[derive(Clone, Debug)]
pub struct Sent {
    pub stream: StreamName,
    pub seq: u64,
    pub subject: String,
    pub published: Timestamp,
    pub payload: Bytes,
}

/// A projector behind the server.
pub struct Stage {
    pub db: PathBuf,
    pub objects: BTreeMap<String, Object>,
    /// What is delivered now cannot be projected by this version.
    pub fails: bool,
    /// How old rows may become, from the next start of the writer on.
    pub retention: Vec<(Retained, Duration)>,
    manifests: watch::Sender<Arc<Manifests>>,
    running: Option<Running>,
    permits: Arc<Semaphore>,
    /// The last sequence that was delivered, per stream.
    at: BTreeMap<StreamName, u64>,
}

struct Running {
    works: Sender<Work>,
    writer: JoinHandle<Result<(), WriterStopped>>,
    _shutdown: watch::Sender<bool>,
    _generations: Vec<watch::Sender<u64>>,
    _feedbacks: Vec<watch::Receiver<Feedback>>,
}

impl Stage {
    pub fn open(db: &Path, manifests: Manifests) -> Self {
        Self::beside(db, manifests, None)
    }

    /// A load beside a database that is there.
    pub fn beside(db: &Path, manifests: Manifests, known: Option<Foreknowledge>) -> Self {
        let mut stage = Self {
            db: db.to_owned(),
            objects: BTreeMap::new(),
            fails: false,
            retention: Vec::new(),
            manifests: watch::channel(Arc::new(manifests)).0,
            running: None,
            permits: Arc::new(Semaphore::new(1_000_000)),
            at: BTreeMap::new(),
        };
        stage.start(known);
        stage
    }

    /// The streams are read from these on.
    pub fn begin(&mut self, starts: &BTreeMap<StreamName, StreamSeq>) {
        for (stream, first) in starts {
            let incarnation = Incarnation {
                common: None,
                first: *first,
            };
            self.item(
                *stream,
                Read::Incarnation {
                    incarnation,
                    last: *first,
                },
            );
            self.at.insert(*stream, first.0 - 1);
        }
    }

    /// As if everything up to these had been delivered already.
    pub fn go_on_after(&mut self, at: &BTreeMap<StreamName, u64>) {
        self.at.extend(at);
    }

    /// The bucket changes: the next group is projected under these.
    pub fn set_manifests(&self, manifests: Manifests) {
        self.settle_down();
        self.manifests.send_replace(Arc::new(manifests));
    }

    fn start(&mut self, known: Option<Foreknowledge>) {
        let me = Owner {
            pid: std::process::id(),
            ..Owner::default()
        };
        let mut store = Store::open(&self.db, &StoreOptions::default(), &me).unwrap();
        if let Some(known) = known {
            store.set_foreknown(known);
        }
        let (works, works_rx) = channel();
        let (mut lanes, mut generations, mut feedbacks) = (BTreeMap::new(), Vec::new(), Vec::new());
        for stream in StreamName::ALL {
            let (generation, generation_rx) = watch::channel(0);
            let (feedback, feedback_rx) = watch::channel(Feedback::default());
            lanes.insert(stream, Lane::new(generation_rx, feedback));
            generations.push(generation);
            feedbacks.push(feedback_rx);
        }
        let limits = WriterLimits {
            group_wait_min: Duration::ZERO,
            group_rows_max: 7,
            group_bytes_max: 1 << 20,
            group_time_max: None,
            wal_bytes_max: 1 << 30,
            disk_reserve_bytes: 0,
            retention: self.retention.clone(),
        };
        let (shutdown, down) = watch::channel(false);
        let writer = Writer::new(
            store,
            works_rx,
            lanes,
            limits,
            watch::channel(WriterState::default()).0,
            self.manifests.subscribe(),
            Bells::default(),
            down,
        );
        let writer = std::thread::spawn(move || writer.run());
        self.running = Some(Running {
            works,
            writer,
            _shutdown: shutdown,
            _generations: generations,
            _feedbacks: feedbacks,
        });
    }

    fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.works.send(Work::Shutdown).unwrap();
            running.writer.join().unwrap().unwrap();
        }
    }

    /// Ends the writer and its connection, and begins anew on the same file.
    pub fn restart(&mut self) {
        self.settle_down();
        self.stop();
        self.start(None);
    }

    fn send(&self, work: Work) {
        self.running.as_ref().unwrap().works.send(work).unwrap();
    }

    fn item(&self, stream: StreamName, read: Read<Box<Envelope>>) {
        self.send(Work::of(Item {
            stream,
            generation: 0,
            read,
        }));
    }

    /// Everything sent so far is committed.
    pub fn settle_down(&self) {
        let (reply, answer) = oneshot::channel();
        self.item(StreamName::Results, Read::Rest(reply));
        answer.blocking_recv().unwrap();
        self.derived();
    }

    /// Delivers a message at its place: the first of its stream begins it, a hole before it is a gap, and one that was
    /// delivered before comes in a new life of the sequences.
    pub fn deliver(&mut self, sent: &Sent) {
        let stream = sent.stream;
        let next = self.at.get(&stream).map_or(1, |at| at + 1);
        if !self.at.contains_key(&stream) || sent.seq < next {
            let first = StreamSeq(if sent.seq < next { sent.seq } else { 1 });
            let incarnation = Incarnation { common: None, first };
            let last = StreamSeq(sent.seq);
            self.item(stream, Read::Incarnation { incarnation, last });
        }
        if sent.seq > next {
            let gap = Read::Gap {
                first: StreamSeq(next),
                last: StreamSeq(sent.seq - 1),
                reason: "a hole in the case",
            };
            self.item(stream, gap);
        }
        self.at.insert(stream, sent.seq);
        let content = match self.decode(stream, &sent.subject, &sent.payload) {
            Message::Ignored => Message::Ignored,
            _ if self.fails => Message::Dead("not with this version".to_owned()),
            content => content,
        };
        let delivery = Delivery {
            seq: StreamSeq(sent.seq),
            published: sent.published,
            subject: sent.subject.as_str().into(),
            reply: Some("nowhere".into()),
            headers: None,
            payload: sent.payload.clone(),
            more_follows: false,
            permit: self.permits.clone().try_acquire_owned().unwrap(),
        };
        self.item(
            stream,
            Read::Message(Box::new(Envelope {
                delivery,
                content,
                object_permit: None,
            })),
        );
    }

    fn decode(&self, stream: StreamName, subject: &str, payload: &Bytes) -> Message {
        let mut content = decode(stream, subject, payload);
        if let Message::Result(result) = &mut content {
            let message = &result.result;
            let output = |pointer: &Option<ByteString>| {
                let object = pointer.clone()?;
                let attempt = prejudge(&object, &message.request_id).unwrap_or_else(|| self.attempt(&object));
                Some(Output { object, attempt })
            };
            let (stdout, stderr) = (output(&message.stdout_object), output(&message.stderr_object));
            (result.stdout, result.stderr) = (stdout, stderr);
        }
        content
    }

    /// Tries one dead letter again, as `dead-letters retry` does.
    pub fn retry_letter(&self, place: LetterId) -> LetterOutcome {
        let conn = read_only(&self.db).unwrap();
        let shown = dead_letters::show(&conn, place.stream, place.seq, Some(place.incarnation))
            .unwrap()
            .unwrap();
        let content = self.decode(
            place.stream,
            &shown.listed.subject,
            &shown.payload.unwrap().into(),
        );
        let ids: BTreeSet<String> = match &content {
            Message::Result(result) => [result.result.row_key().into_owned()].into(),
            _ => BTreeSet::new(),
        };
        let order = LetterOrder::Project {
            published: Timestamp::parse_stored(&shown.listed.published_at).unwrap(),
            content,
            lines: Lines::read(&conn, &ids).unwrap(),
        };
        let (done, outcome) = oneshot::channel();
        self.send(Work::Unit(Unit::Letter(Box::new(LetterWork::new(
            place, order, done,
        )))));
        outcome.blocking_recv().unwrap()
    }

    /// The dead letters that are kept.
    pub fn letters(&self) -> Vec<LetterId> {
        self.settle_down();
        dead_letters::kept(&read_only(&self.db).unwrap(), None, None).unwrap()
    }

    fn attempt(&self, object: &str) -> Attempt {
        match self.objects.get(object) {
            Some(Object::Here(bytes)) => Attempt::Fetched {
                content: Content::new(bytes.clone()),
                sha256: Sha256::digest(bytes).into(),
                verified: true,
            },
            Some(Object::Unreachable) => Attempt::Pending("no answer".into()),
            Some(Object::Gone) | None => Attempt::Gone("no such object".into()),
        }
    }

    /// Nothing is left to be derived anew or released.
    fn derived(&self) {
        let (reply, answer) = oneshot::channel();
        self.send(Work::WhenDerived(reply));
        answer.blocking_recv().unwrap();
    }

    /// One attempt at everything that is pending.
    pub fn retry_pending(&self) {
        self.settle_down();
        let (reply, owed) = oneshot::channel();
        self.send(Work::Owed {
            ask: OwedQuestion::PendingAfter(None),
            reply,
        });
        for owed in owed.blocking_recv().unwrap() {
            self.repair(&owed.result_id, owed.field.as_str(), &owed.object);
        }
    }

    /// One attempt at every output that is not there, whatever its state, as `outputs retry` and the hour and the day
    /// of a gone one bring it; then what became due is derived anew.
    pub fn retry_all(&self) {
        self.settle_down();
        let missing: Vec<(String, String, String)> = {
            let conn = read_only(&self.db).unwrap();
            let mut select = conn
                .prepare("SELECT result_id, field, object FROM projector_outputs WHERE state IN ('pending', 'gone')")
                .unwrap();
            let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
            rows.unwrap().map(Result::unwrap).collect()
        };
        for (result_id, field, object) in missing {
            self.repair(&result_id, &field, &object);
        }
        self.derive_due();
    }

    fn repair(&self, result_id: &str, field: &str, object: &str) {
        let (done, committed) = oneshot::channel();
        let repair = Repair {
            result_id: result_id.to_owned(),
            field: results_projector::wire::result::Field::parse(field).unwrap(),
            output: Output {
                object: object.into(),
                attempt: self.attempt(object),
            },
        };
        self.send(Work::Unit(Unit::Repair(Box::new(RepairWork {
            repair,
            permit: None,
            done,
        }))));
        committed.blocking_recv().unwrap();
    }

    /// Derives what is due, as the service does beside the live path.
    pub fn derive_due(&self) {
        self.settle_down();
        let due = due_pairs(&read_only(&self.db).unwrap()).unwrap();
        self.send(Work::Derive(due));
        self.derived();
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        self.stop();
    }
}

/// Polls until a condition holds on the file, as another process sees it.
pub fn eventually(what: &str, so: impl FnMut() -> bool) {
    crate::harness::wait_until(what, Duration::from_secs(20), so);
}
