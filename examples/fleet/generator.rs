//! What a fleet's agents publish: objects first, then one message each. Seeded: the same seed gives the same bytes.

use bytes::Bytes;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use uuid::Uuid;

// Tests and benches include this file from elsewhere; a path attribute counts from this file's folder for all of them.
#[path = "generator/derived.rs"]
mod derived;
#[path = "generator/machines.rs"]
mod machines;
#[path = "generator/manifests.rs"]
mod manifests;
#[path = "generator/streams.rs"]
mod streams;

// Whoever includes this file uses some of them.
#[allow(unused_imports)]
pub use manifests::{BITLOCKER, DEFENDER, DISKS, SOFTWARE, manifests, put_manifests};
#[allow(unused_imports)]
pub use streams::{
    create_output_store, create_replicated, create_streams, publish, publish_messages, store_objects,
};

/// What kind of message it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Ordinary,
    Failed,
    Skipped,
    Refused,
    Finalize,
    Legacy,
    Overflowed,
    Missing,
    Duplicate,
    Malformed,
    /// A start event.
    Started,
    /// A result whose manifest reads an inventory out of it, whether or not there is one.
    Inventory,
    Check,
    Feed,
    /// A hardware snapshot of an agent before 0.14.
    Snapshot,
    /// On EVENTS, and not a start event.
    Ignored,
}

/// One message to publish, with the objects that go before it.
#[derive(Clone, Debug)]
pub struct Planned {
    pub kind: Kind,
    pub objects: Vec<(String, Bytes)>,
    /// The message points to these, and they are never stored.
    pub missing: Vec<String>,
    pub subject: String,
    pub payload: Bytes,
    /// The key of the result's row; none for what is not a result.
    pub result_id: Option<String>,
    /// The key of the row that a start event makes or completes.
    pub started_id: Option<String>,
    /// Of what the columns must hold in the end.
    pub stdout_sha256: Option<[u8; 32]>,
    pub stderr_sha256: Option<[u8; 32]>,
}

impl Planned {
    fn new(kind: Kind, subject: String, payload: impl Into<Bytes>) -> Self {
        Self {
            kind,
            objects: Vec::new(),
            missing: Vec::new(),
            subject,
            payload: payload.into(),
            result_id: None,
            started_id: None,
            stdout_sha256: None,
            stderr_sha256: None,
        }
    }

    /// The same bytes once more.
    fn again(&self) -> Self {
        Self {
            kind: Kind::Duplicate,
            objects: Vec::new(),
            missing: Vec::new(),
            ..self.clone()
        }
    }

    /// The stream that takes the message.
    pub fn stream(&self) -> &'static str {
        match self.subject.split('.').next() {
            Some("events") => "EVENTS",
            Some("inventory") => "INVENTORY",
            _ => "RESULTS",
        }
    }
}

/// What a fleet sends. By default results that no manifest knows, and nothing else.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Ordinary ones; scans, checks and feeds come on top.
    pub results: usize,
    /// The number of the first: a long stream is planned in parts, each with a seed of its own, and time goes on in it.
    pub first: usize,
    pub pcs: usize,
    /// Per thousand results.
    pub overflow_permille: u32,
    /// Bytes of overflowed outputs: from, to.
    pub overflow_bytes: (usize, usize),
    /// Per thousand results.
    pub duplicate_permille: u32,
    /// In all.
    pub malformed: usize,
    /// In all.
    pub missing: usize,
    /// Bytes of an ordinary output, about.
    pub stdout_bytes: usize,
    /// Per thousand results that were launched for an execution: those with a start event. With them come starts
    /// without a result, and subjects that are not ours.
    pub started_permille: u32,
    /// Scans of each PC by each of the two inventory jobs.
    pub scans: usize,
    /// Of the software scans in all: those whose object is missing.
    pub missing_scans: usize,
    /// Runs on each PC of each of the two check jobs.
    pub checks: usize,
    /// Runs of the feed job in all, on one PC.
    pub feeds: usize,
    /// Hardware snapshots in all.
    pub legacy_inventory: usize,
}

impl Default for Profile {
    fn default() -> Self {
        Self {
            results: 1_000,
            first: 0,
            pcs: 50,
            overflow_permille: 0,
            overflow_bytes: (300_000, 1_000_000),
            duplicate_permille: 0,
            malformed: 0,
            missing: 0,
            stdout_bytes: 900,
            started_permille: 0,
            scans: 0,
            missing_scans: 0,
            checks: 0,
            feeds: 0,
            legacy_inventory: 0,
        }
    }
}

impl Profile {
    /// All there is, in a fleet that such a number of results suits.
    pub fn everything(results: usize) -> Self {
        let pcs = (results / 100).clamp(5, 200);
        Self {
            results,
            pcs,
            overflow_permille: 5,
            duplicate_permille: 10,
            malformed: 5,
            missing: 3,
            started_permille: 900,
            scans: (results / pcs / 10).max(2),
            missing_scans: 1,
            checks: (results / pcs / 20).max(2),
            feeds: 12,
            legacy_inventory: 20,
            ..Self::default()
        }
    }
}

/// A small generator of its own: the same numbers for the same seed, for ever.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.roll() % bound.max(1)
    }

    pub fn permille(&mut self, share: u32) -> bool {
        self.below(1_000) < u64::from(share)
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        from.get(self.below(from.len() as u64) as usize).copied()
    }

    fn uuid(&mut self) -> String {
        let (high, low) = (self.roll(), self.roll());
        uuid::Builder::from_random_bytes((u128::from(high) << 64 | u128::from(low)).to_be_bytes())
            .into_uuid()
            .to_string()
    }
}

const JOBS: [&str; 8] = [
    "inventory-hw",
    "patch-scan",
    "disk-clean",
    "av-status",
    "cert-expiry",
    "vpn-health",
    "printer-map",
    "browser-policy",
];
const WORDS: [&str; 12] = [
    "checked",
    "volume",
    "C:",
    "service",
    "running",
    "update",
    "KB5039212",
    "installed",
    "Müller",
    "日本",
    "ok",
    "42",
];

fn text(dice: &mut Dice, bytes: usize) -> String {
    let mut text = String::with_capacity(bytes + 32);
    while text.len() < bytes {
        for _ in 0..6 {
            text.push_str(WORDS[dice.below(WORDS.len() as u64) as usize]);
            text.push(' ');
        }
        text.push_str(&format!("{:08x}\n", dice.roll() as u32));
    }
    text
}

fn time(seconds: u64, millis: u64) -> String {
    let at = chrono::DateTime::from_timestamp(1_780_000_000 + seconds as i64, (millis * 1_000_000) as u32)
        .unwrap_or_default();
    at.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true)
}

fn sha(text: &str) -> Option<[u8; 32]> {
    Some(Sha256::digest(text.as_bytes()).into())
}

/// Plans a fleet's messages in publish order.
pub fn plan(seed: u64, profile: &Profile) -> Vec<Planned> {
    derived::add(seed, profile, results(seed, profile))
}

/// Nothing else may roll these dice: benches compare runs over years.
fn results(seed: u64, profile: &Profile) -> Vec<Planned> {
    let mut dice = Dice::new(seed);
    let mut planned: Vec<Planned> = Vec::with_capacity(profile.results + profile.malformed);
    let malformed_every = (profile.results / profile.malformed.max(1)).max(1);
    let missing_every = (profile.results / profile.missing.max(1)).max(1);
    let (mut broadcast, mut broadcast_left) = (String::new(), 0);
    let (mut malformed, mut missing) = (0, 0);
    for number in 0..profile.results {
        if broadcast_left == 0 {
            broadcast = dice.uuid();
            broadcast_left = 1 + dice.below(4);
        }
        broadcast_left -= 1;
        let wants_missing = missing < profile.missing && number % missing_every == missing_every / 2;
        missing += usize::from(wants_missing);
        let place = profile.first + number;
        planned.push(result(&mut dice, profile, place, &broadcast, wants_missing));
        if dice.permille(profile.duplicate_permille) {
            let first = &planned[dice.below(planned.len() as u64) as usize];
            if first.kind != Kind::Malformed {
                planned.push(first.again());
            }
        }
        if malformed < profile.malformed && number % malformed_every == malformed_every / 3 {
            planned.push(bad(malformed, &broadcast));
            malformed += 1;
        }
    }
    planned
}

fn result(dice: &mut Dice, profile: &Profile, number: usize, request: &str, wants_missing: bool) -> Planned {
    let pc_id = format!("PC-{:04}", (number % profile.pcs.max(1)) + 1);
    let job = JOBS[dice.below(JOBS.len() as u64) as usize];
    let (mut request_id, mut result_id) = (format!("{request}-{}", number / 7), dice.uuid());
    let mut fields = Map::new();
    let started = number as u64 / 20;
    let mut kind = Kind::Ordinary;
    let (mut exit_code, mut skipped, mut stderr) = (0, false, String::new());
    let mut stdout = text(dice, profile.stdout_bytes);
    match dice.below(100) {
        0..=4 => {
            kind = Kind::Failed;
            exit_code = [1, 2, 5, 1603, -1][dice.below(5) as usize];
            stderr = format!("Access is denied.\n{}", text(dice, 80));
        }
        5 => {
            (kind, skipped, exit_code) = (
                Kind::Skipped,
                true,
                [122, 124, 125, 126, 127][dice.below(5) as usize],
            );
            stdout.clear();
        }
        6 => {
            (kind, exit_code) = (Kind::Refused, 123);
            stdout.clear();
            let name = format!("{request_id}|{pc_id}|signature-refused");
            result_id = Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes()).to_string();
        }
        7 => {
            kind = Kind::Finalize;
            fields.insert("parent_result_id".into(), json!(dice.uuid()));
            request_id.push_str("__finalize");
        }
        8 => kind = Kind::Legacy,
        _ => {}
    }
    let (mut objects, mut absent) = (Vec::new(), Vec::new());
    let (mut stdout_sha256, stderr_sha256) = (sha(&stdout), sha(&stderr));
    if wants_missing || dice.permille(profile.overflow_permille) {
        let (from, to) = profile.overflow_bytes;
        let size = from + dice.below((to - from).max(1) as u64) as usize;
        let name = format!("{request_id}/{pc_id}/stdout");
        fields.insert("stdout_object".into(), json!(name));
        if wants_missing {
            kind = Kind::Missing;
            stdout_sha256 = None;
            absent.push(name);
        } else {
            kind = Kind::Overflowed;
            let long = text(dice, size);
            stdout_sha256 = sha(&long);
            objects.push((name, Bytes::from(long)));
        }
        stdout.clear();
    }
    let legacy = kind == Kind::Legacy;
    if !legacy {
        fields.insert("result_id".into(), json!(result_id));
        fields.insert("skipped".into(), json!(skipped));
    }
    if kind != Kind::Finalize {
        fields.insert("exec_id".into(), json!(format!("exec-{}", number / 500)));
    }
    fields.insert("request_id".into(), json!(request_id));
    fields.insert("pc_id".into(), json!(pc_id));
    fields.insert("exit_code".into(), json!(exit_code));
    fields.insert("stdout".into(), json!(stdout));
    fields.insert("stderr".into(), json!(stderr));
    fields.insert("started_at".into(), json!(time(started, number as u64 % 1_000)));
    fields.insert(
        "finished_at".into(),
        json!(time(started + 1 + dice.below(90), dice.below(1_000))),
    );
    fields.insert("manifest_id".into(), json!(job));
    let row_key = if legacy {
        let name = format!("kanade-issue-19/legacy-result-id:{request_id}:{pc_id}");
        Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes()).to_string()
    } else {
        result_id
    };
    Planned {
        objects,
        missing: absent,
        result_id: Some(row_key),
        stdout_sha256,
        stderr_sha256,
        ..Planned::new(
            kind,
            format!("results.{request_id}"),
            Value::Object(fields).to_string(),
        )
    }
}

/// Messages that cannot be projected, one kind after the other.
fn bad(number: usize, request: &str) -> Planned {
    let payload: Bytes = match number % 6 {
        0 => Bytes::new(),
        1 => Bytes::from_static(b"not json at all"),
        2 => Bytes::from_static(b"{\"request_id\":\"q\",\"pc_id\":\"PC-1\"}"),
        3 => Bytes::from_static(
            b"{\"request_id\":\"q\",\"pc_id\":\"PC-1\",\"exit_code\":\"0\",\"stdout\":\"\",\"stderr\":\"\"}",
        ),
        4 => Bytes::from_static(b"{\"request_id\":\"\xff\xfe\"}"),
        _ => Bytes::from_static(b"[1,2,3]"),
    };
    Planned::new(
        Kind::Malformed,
        format!("results.{request}-bad-{number}"),
        payload,
    )
}
