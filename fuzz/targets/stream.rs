//! A scenario as the contract's vectors write it (`kv_jobs`, `objects`, `executions`, `messages`), projected into databases
//! of its own: in its order; with repeats; in another order between the streams and in one transaction; with outputs that
//! come late. All end in the same canonical dump (I4, I5).

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use results_projector::projection::manifests::Manifests;
use results_projector::projection::output::Output;
use results_projector::service::resolve::{decode, prejudge};
use results_projector::service::work::Message;
use results_projector::store::dead_letters::DeadLetter;
use results_projector::store::derive::{OwnedPair, due_pairs};
use results_projector::store::output_book::Repair;
use results_projector::store::{
    Advance, Group, Left, Owner, Standing, Store, StoreOptions, Synchronous, dump, read_only,
};
use results_projector::wire::kv::StreamName;
use results_projector::wire::output::{Attempt, Content};
use results_projector::wire::sequence::{Mark, StreamSeq, SubjectHash};
use results_projector::wire::time::Timestamp;
use rusqlite::{Connection, params};
use serde_json::Value;

const MESSAGES_MAX: usize = 14;
/// 2026-06-01, for messages whose time no server could have given.
const BASE_NS: i64 = 1_780_272_000_000_000_000;

#[derive(Clone)]
struct Sent {
    stream: StreamName,
    seq: StreamSeq,
    subject: String,
    published: Timestamp,
    payload: Bytes,
}

struct Case {
    manifests: Arc<Manifests>,
    /// Those that are there; any other is gone.
    objects: BTreeMap<String, Bytes>,
    executions: Vec<(String, i64)>,
    sent: Vec<Sent>,
}

pub(crate) fn run(data: &[u8]) {
    thread_local! {
        static FOLDER: OnceCell<(tempfile::TempDir, Vec<u8>)> = const { OnceCell::new() };
    }
    let Some(case) = serde_json::from_slice(data)
        .ok()
        .and_then(|case: Value| Case::read(&case))
    else {
        return;
    };
    FOLDER.with(|folder| {
        let (folder, empty) = folder.get_or_init(|| {
            // In memory, where there is such a place: thousands of databases are made, and none is worth a disk's time.
            let folder = tempfile::tempdir_in("/dev/shm")
                .or_else(|_| tempfile::tempdir())
                .unwrap();
            let path = folder.path().join("empty.db");
            open(&path).close();
            let empty = fs::read(&path).unwrap();
            (folder, empty)
        });
        compare(&case, folder.path(), empty);
    });
}

fn compare(case: &Case, folder: &Path, empty: &[u8]) {
    let bench = |name: &str| Bench::new(case, &folder.join(name), empty);

    let mut straight = bench("straight.db");
    straight.each(&case.sent, true);
    let (expected, dead) = straight.end();

    let mut repeated = bench("repeated.db");
    for (at, sent) in case.sent.iter().enumerate() {
        repeated.each(std::slice::from_ref(sent), true);
        repeated.again(&case.sent[at / 2..=at]);
    }
    repeated.again(&case.sent);
    same(&repeated.end().0, &expected, "delivered again");

    let mut ordered = bench("ordered.db");
    let mut sent = case.sent.clone();
    sent.sort_by_key(|sent| std::cmp::Reverse(sent.stream));
    ordered.together(&sent);
    let (found, found_dead) = ordered.end();
    let how = "in another order between the streams, in one transaction";
    if case.names_agree() {
        same(&found, &expected, how);
    } else {
        // Each name that a row's PC or execution has had leaves a trace (a line of a ledger, as the backend's triggers would
        // have it, or the status of an execution that it was moved away from: contract §6.5, §7.3), and which those are is a
        // matter of order. No agent sends such a pair.
        same(&without_traces(&found), &without_traces(&expected), how);
    }
    assert_eq!(found_dead, dead, "dead letters");

    if !case.objects.is_empty() {
        let mut late = bench("late.db");
        late.each(&case.sent, false);
        late.repair();
        same(&late.end().0, &expected, "with outputs that came late");
    }
}

fn same(found: &str, expected: &str, how: &str) {
    if found != expected {
        let only = |one: &str, other: &str| -> Vec<String> {
            let other: BTreeSet<&str> = other.lines().collect();
            one.lines()
                .filter(|line| !other.contains(line))
                .map(str::to_owned)
                .collect()
        };
        panic!(
            "{how}: only so {:#?}, only straight {:#?}",
            only(found, expected),
            only(expected, found)
        );
    }
}

/// The dump without its two ledgers and the executions.
fn without_traces(dump: &str) -> String {
    let mut is_trace = false;
    let kept = dump.lines().filter(|line| {
        if line.starts_with('{') {
            is_trace = line.starts_with("{\"table\":\"job_") || line.starts_with("{\"table\":\"executions\"");
        }
        !is_trace
    });
    kept.map(|line| format!("{line}\n")).collect()
}

impl Case {
    /// Whether no start event and result of one run name two PCs, or two executions.
    fn names_agree(&self) -> bool {
        let mut started = BTreeMap::new();
        let mut ended = Vec::new();
        for sent in &self.sent {
            match decode(sent.stream, &sent.subject, &sent.payload) {
                Message::Started(event) => {
                    started
                        .entry(event.result_id.to_string())
                        .or_insert((event.pc_id, event.exec_id));
                }
                Message::Result(result) => {
                    let id = result.result.row_key().into_owned();
                    ended.push((id, result.result.pc_id, result.result.exec_id));
                }
                _ => {}
            }
        }
        ended.iter().all(|(id, pc_id, exec_id)| {
            started.get(id).is_none_or(|(started_pc, started_exec)| {
                started_pc == pc_id && exec_id.as_ref().is_none_or(|exec_id| exec_id == started_exec)
            })
        })
    }

    fn read(case: &Value) -> Option<Self> {
        let documents: Vec<(String, Bytes)> = case["kv_jobs"]
            .as_object()
            .into_iter()
            .flatten()
            // A job that is named like a stream's snapshots shares their rows with them, in no order between the streams.
            .filter(|(id, _)| !id.starts_with("inventory."))
            .take(6)
            .map(|(id, document)| (id.clone(), document.to_string().into()))
            .collect();
        let objects = case["objects"]
            .as_object()
            .into_iter()
            .flatten()
            .filter_map(|(name, object)| {
                let bytes = match &object["hex"] {
                    Value::String(hex) => unhex(hex),
                    _ => object["text"].as_str()?.as_bytes().to_vec(),
                };
                Some((name.clone(), Bytes::from(bytes)))
            });
        let executions = case["executions"]
            .as_array()
            .into_iter()
            .flatten()
            .take(4)
            .filter_map(|row| {
                Some((
                    row["exec_id"].as_str()?.to_owned(),
                    row["target_count"].as_i64().unwrap_or(1).clamp(1, 99),
                ))
            });
        let mut last: BTreeMap<StreamName, (u64, i64)> = BTreeMap::new();
        let messages = case["messages"].as_array()?.iter().take(MESSAGES_MAX);
        let sent = messages.filter_map(|message| {
            let stream = StreamName::parse(message["stream"].as_str()?)?;
            let subject = message["subject"].as_str()?.to_owned();
            let published = message["published"]
                .as_str()
                .and_then(|text| Timestamp::parse_wire(text).ok());
            let (seq, at) = last.entry(stream).or_insert((0, BASE_NS));
            *seq += 1;
            // A server's time goes on from message to message.
            let nanos = published
                .and_then(|time| time.unix_nanos())
                .unwrap_or(*at)
                .max(*at + 1)
                .min(BASE_NS << 1);
            *at = nanos;
            Some(Sent {
                stream,
                seq: StreamSeq(*seq),
                subject,
                published: Timestamp::from_unix_nanos(nanos),
                payload: payload(message).into(),
            })
        });
        Some(Self {
            manifests: Arc::new(Manifests::compile(documents)),
            objects: objects.collect(),
            executions: executions.collect::<BTreeMap<_, _>>().into_iter().collect(),
            sent: sent.collect(),
        })
    }

    /// A message as the writer gets it.
    fn content(&self, sent: &Sent, at_once: bool) -> Message {
        let mut content = decode(sent.stream, &sent.subject, &sent.payload);
        if let Message::Result(result) = &mut content {
            let message = result.result.clone();
            for (pointer, output) in [
                (&message.stdout_object, &mut result.stdout),
                (&message.stderr_object, &mut result.stderr),
            ] {
                *output = pointer.clone().map(|object| {
                    let attempt = prejudge(&object, &message.request_id).unwrap_or_else(|| {
                        if at_once {
                            self.attempt(&object)
                        } else {
                            Attempt::Pending("away".into())
                        }
                    });
                    Output { object, attempt }
                });
            }
        }
        content
    }

    fn attempt(&self, object: &str) -> Attempt {
        match self.objects.get(object) {
            Some(bytes) => Attempt::Fetched {
                content: Content::new(bytes.clone()),
                sha256: [7; 32],
                verified: true,
            },
            None => Attempt::Gone("no such object".to_owned()),
        }
    }
}

fn payload(message: &Value) -> Vec<u8> {
    match (&message["text"], &message["hex"]) {
        (Value::String(text), _) => text.as_bytes().to_vec(),
        (_, Value::String(hex)) => unhex(hex),
        _ => message["json"].to_string().into_bytes(),
    }
}

/// As many bytes as there are pairs of digits.
fn unhex(text: &str) -> Vec<u8> {
    text.as_bytes()
        .chunks(2)
        .filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}

fn open(path: &Path) -> Store {
    let me = Owner {
        pid: 1,
        ..Owner::default()
    };
    let options = StoreOptions {
        synchronous: Synchronous::Normal,
        page_cache_bytes: 4 << 20,
        ..StoreOptions::default()
    };
    Store::open(path, &options, &me).unwrap()
}

/// A database that a case is projected into.
struct Bench<'a> {
    case: &'a Case,
    path: PathBuf,
    store: Option<Store>,
    standings: BTreeMap<StreamName, Standing>,
    dead: u64,
}

impl<'a> Bench<'a> {
    fn new(case: &'a Case, path: &Path, empty: &[u8]) -> Self {
        fs::write(path, empty).unwrap();
        let conn = Connection::open(path).unwrap();
        for (exec_id, target) in &case.executions {
            conn.execute(
                "INSERT INTO executions (exec_id, job_id, version, initiated_by, initiated_at, target_count)
                 VALUES (?1, 'job', '1', 'op', '2026-06-01T00:00:00+00:00', ?2)",
                params![exec_id, target],
            )
            .unwrap();
        }
        drop(conn);
        let mut store = open(path);
        let mut standings = BTreeMap::new();
        let mut group = store.begin(&case.manifests, wall()).unwrap();
        for stream in StreamName::ALL {
            let standing = Standing::new(1, StreamSeq(1));
            group.begin_incarnation(stream, &standing).unwrap();
            standings.insert(stream, standing);
        }
        group.commit().unwrap();
        Self {
            case,
            path: path.to_owned(),
            store: Some(store),
            standings,
            dead: 0,
        }
    }

    fn transact(&mut self, work: impl FnOnce(&mut Group<'_>, &mut BTreeMap<StreamName, Standing>)) {
        let store = self.store.as_mut().unwrap();
        let mut group = store.begin(&self.case.manifests, wall()).unwrap();
        work(&mut group, &mut self.standings);
        let (_, left) = group.commit().unwrap();
        self.left(left);
    }

    /// What a transaction has left to be done in others.
    fn left(&mut self, left: Left) {
        let mut waiting: VecDeque<OwnedPair> = left.more_waiting.into();
        let mut due = left.due;
        while let Some(pair) = waiting.pop_front() {
            let mut group = self
                .store
                .as_mut()
                .unwrap()
                .begin(&self.case.manifests, wall())
                .unwrap();
            group.release(&pair).unwrap();
            let (_, left) = group.commit().unwrap();
            waiting.extend(left.more_waiting);
            due |= left.due;
        }
        if due {
            self.derive();
        }
    }

    fn derive(&mut self) {
        for pair in due_pairs(&read_only(&self.path).unwrap()).unwrap() {
            let mut group = self
                .store
                .as_mut()
                .unwrap()
                .begin(&self.case.manifests, wall())
                .unwrap();
            group.rederive(&pair).unwrap();
            group.commit().unwrap();
        }
    }

    /// A transaction a message.
    fn each(&mut self, sent: &[Sent], at_once: bool) {
        for sent in sent {
            let content = self.case.content(sent, at_once);
            let mut dead = 0;
            self.transact(|group, standings| dead = project(group, standings, sent, &content));
            self.dead += dead;
        }
    }

    fn together(&mut self, sent: &[Sent]) {
        let case = self.case;
        let mut dead = 0;
        self.transact(|group, standings| {
            for sent in sent {
                dead += project(group, standings, sent, &case.content(sent, true));
            }
        });
        self.dead += dead;
    }

    /// Messages that were delivered before, and are projected again where they stand.
    fn again(&mut self, sent: &[Sent]) {
        let case = self.case;
        self.transact(|group, _| {
            for sent in sent {
                item(group, sent, &case.content(sent, true));
            }
        });
    }

    /// One look at every output that is pending.
    fn repair(&mut self) {
        let owed = self.store.as_ref().unwrap().pending_after(None, 100).unwrap();
        for owed in owed {
            let repair = Repair {
                result_id: owed.result_id,
                field: owed.field,
                output: Output {
                    attempt: self.case.attempt(&owed.object),
                    object: owed.object.into(),
                },
            };
            self.transact(|group, _| group.isolated(|group| group.repair(&repair)).unwrap().unwrap());
        }
    }

    /// The dump, and how many letters are dead.
    fn end(mut self) -> (String, u64) {
        self.derive();
        for (stream, standing) in &self.standings {
            let stored = self.store.as_ref().unwrap().standing(*stream).unwrap().unwrap();
            assert_eq!(stored.position, standing.position);
            assert_eq!(
                stored.counts.sum(),
                stored.position.0 + 1 - stored.first.0,
                "I3 of {stream}"
            );
        }
        if let Some(store) = self.store.take() {
            store.close();
        }
        let conn = read_only(&self.path).unwrap();
        let count = |sql: &str| conn.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
        let open = "SELECT (SELECT count(*) FROM projector_waiting)
                        + (SELECT count(*) FROM projector_derivations WHERE state <> 'settled')";
        assert_eq!(count(open), 0, "nothing waits any more");
        let unlawful = "SELECT count(*) FROM executions WHERE (success_count, failure_count) IS NOT (
                 SELECT count(*) FILTER (WHERE exit_code = 0), count(*) FILTER (WHERE exit_code <> 0)
                 FROM execution_results result WHERE result.exec_id = executions.exec_id AND finished_at IS NOT NULL)";
        assert_eq!(count(unlawful), 0, "counters count the rows (contract §7.3)");
        let mut text = Vec::new();
        dump::write(&conn, &[], &mut text).unwrap();
        (String::from_utf8(text).unwrap(), self.dead)
    }
}

fn wall() -> Timestamp {
    Timestamp::from_unix_nanos(BASE_NS)
}

/// Projects what a message says; returns why it is dead, if it is.
fn item(group: &mut Group<'_>, sent: &Sent, content: &Message) -> Option<String> {
    let outcome = group.isolated(|group| match content {
        Message::Result(result) => group.result(1, sent.seq, sent.published, result, None),
        Message::Started(event) => group.started(event, sent.published),
        Message::Snapshot(snapshot) => group.snapshot(snapshot, sent.published),
        Message::Ignored | Message::Dead(_) => Ok(()),
    });
    match (outcome.unwrap(), content) {
        (Ok(()), Message::Dead(reason)) => Some(reason.clone()),
        (Ok(()), _) => None,
        (Err(error), _) => Some(error.to_string()),
    }
}

/// Projects a message in its turn: the position moves over it. Returns 1 when it is dead.
fn project(
    group: &mut Group<'_>,
    standings: &mut BTreeMap<StreamName, Standing>,
    sent: &Sent,
    content: &Message,
) -> u64 {
    let dead = item(group, sent, content);
    let from = &standings[&sent.stream];
    let mut counts = from.counts;
    match (&dead, content) {
        (Some(_), _) => counts.dead += 1,
        (None, Message::Ignored) => counts.ignored += 1,
        (None, _) => counts.projected += 1,
    }
    let count = u64::from(dead.is_some());
    if let Some(reason) = dead {
        let letter = DeadLetter {
            stream: sent.stream,
            seq: sent.seq,
            subject: sent.subject.clone(),
            published: sent.published,
            reason,
            headers: None,
            payload: sent.payload.clone(),
            discarded: false,
        };
        group.dead_letter(1, &letter).unwrap();
    }
    let mut to = from.clone();
    let mark = Mark {
        seq: sent.seq,
        published: sent.published,
        subject: SubjectHash::of(&sent.subject),
    };
    to.advance(sent.seq, Some(mark), counts);
    let advance = Advance {
        stream: sent.stream,
        from: from.position,
        to: to.clone(),
    };
    group.advance(&advance).unwrap();
    standings.insert(sent.stream, to);
    count
}
