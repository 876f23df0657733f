//! A workload's messages in a file, in publish order: for processes that are to be as fresh as the product's, and read as
//! much at a time as one transaction takes, so that memory does not grow with the workload.

use std::collections::HashSet;
use std::fs::File;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::Path;

use bytes::Bytes;

use crate::support::fleet::{Kind, Planned};

/// Messages of one transaction, as the product's default.
const GROUP_MESSAGES: usize = 20_000;
/// Bytes of one transaction, payloads and outputs, as the product's default.
const GROUP_BYTES: usize = 32 << 20;

/// What a message does, as far as that is known from those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Does {
    /// A result whose row is new.
    Result,
    /// A result whose row its start event has made.
    Finish,
    /// A start event whose row is new.
    Start,
    /// A start event that comes after its result.
    LateStart,
    Snapshot,
    /// A duplicate, and what is malformed or not ours.
    Nothing,
}

const ALL: [Does; 6] = [
    Does::Result,
    Does::Finish,
    Does::Start,
    Does::LateStart,
    Does::Snapshot,
    Does::Nothing,
];

pub struct Message {
    pub does: Does,
    pub payload: Bytes,
    /// The object that the message points to.
    pub output: Option<Bytes>,
}

/// Writes the file, and counts.
pub struct Spool {
    out: BufWriter<File>,
    results: HashSet<u64>,
    starts: HashSet<u64>,
    pub messages: usize,
    pub payload_bytes: usize,
    pub object_bytes: usize,
    /// Of all objects, in the order of their messages.
    pub objects: Vec<String>,
}

impl Spool {
    pub fn create(file: &Path) -> Self {
        Self {
            out: BufWriter::with_capacity(1 << 20, File::create(file).unwrap()),
            results: HashSet::new(),
            starts: HashSet::new(),
            messages: 0,
            payload_bytes: 0,
            object_bytes: 0,
            objects: Vec::new(),
        }
    }

    fn does(&mut self, planned: &Planned) -> Does {
        // The ids of millions of messages as numbers: two alike would be one row less, and the tables are compared.
        let number = |id: &String| BuildHasherDefault::<DefaultHasher>::default().hash_one(id);
        match (planned.kind, &planned.result_id, &planned.started_id) {
            (Kind::Malformed | Kind::Ignored, ..) => Does::Nothing,
            (Kind::Snapshot, ..) => Does::Snapshot,
            (_, _, Some(id)) => {
                let id = number(id);
                match (self.starts.insert(id), self.results.contains(&id)) {
                    (false, _) => Does::Nothing,
                    (true, false) => Does::Start,
                    (true, true) => Does::LateStart,
                }
            }
            (_, Some(id), None) => {
                let id = number(id);
                match (self.results.insert(id), self.starts.contains(&id)) {
                    (false, _) => Does::Nothing,
                    (true, false) => Does::Result,
                    (true, true) => Does::Finish,
                }
            }
            // A snapshot's duplicate.
            (_, None, None) => Does::Nothing,
        }
    }

    pub fn put(&mut self, planned: &Planned) {
        let does = self.does(planned);
        let (name, output) = planned.objects.first().cloned().unzip();
        let output = output.unwrap_or_default();
        self.messages += 1;
        self.payload_bytes += planned.payload.len();
        self.object_bytes += output.len();
        self.objects.extend(name);
        self.out.write_all(&[does as u8]).unwrap();
        for part in [&planned.payload, &output] {
            self.out.write_all(&(part.len() as u32).to_le_bytes()).unwrap();
            self.out.write_all(part).unwrap();
        }
    }

    pub fn close(&mut self) {
        self.out.flush().unwrap();
    }
}

/// Reads the file, a transaction's messages at a time.
pub struct Groups(BufReader<File>);

impl Groups {
    pub fn open(file: &Path) -> Self {
        Self(BufReader::with_capacity(1 << 20, File::open(file).unwrap()))
    }

    fn bytes(&mut self) -> Bytes {
        let mut length = [0; 4];
        self.0.read_exact(&mut length).unwrap();
        let mut bytes = vec![0; u32::from_le_bytes(length) as usize];
        self.0.read_exact(&mut bytes).unwrap();
        bytes.into()
    }

    fn message(&mut self) -> Option<Message> {
        let mut does = [0];
        if self.0.read(&mut does).unwrap() == 0 {
            return None;
        }
        let (payload, output) = (self.bytes(), self.bytes());
        Some(Message {
            does: ALL[usize::from(does[0])],
            payload,
            output: (!output.is_empty()).then_some(output),
        })
    }
}

impl Iterator for Groups {
    type Item = Vec<Message>;

    fn next(&mut self) -> Option<Vec<Message>> {
        let (mut group, mut bytes) = (Vec::new(), 0);
        while group.len() < GROUP_MESSAGES && bytes < GROUP_BYTES {
            let Some(message) = self.message() else { break };
            bytes += message.payload.len() + message.output.as_ref().map_or(0, Bytes::len);
            group.push(message);
        }
        (!group.is_empty()).then_some(group)
    }
}
