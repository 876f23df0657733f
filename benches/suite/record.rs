//! What is measured, a JSON line each: the tables are made of these.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "kebab-case")]
pub enum Record {
    /// First of a run.
    Machine(Machine),
    /// First of a workload.
    Workload {
        workload: String,
        what: String,
        messages: usize,
        payload_bytes: usize,
        object_bytes: usize,
        /// What writes its rows alone, and so limits it.
        writer: Part,
    },
    /// A part in a round.
    Part {
        workload: String,
        round: usize,
        part: Part,
        seconds: f64,
        /// Of what is written or fetched; else those of the workload.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bytes: Option<u64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cost: Option<Cost>,
    },
    /// Some of the growth's rows, one after the other.
    Slice {
        part: Part,
        /// Rows stored at its end.
        stored: usize,
        rows: usize,
        seconds: f64,
    },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Machine {
    pub cores: usize,
    pub nats_server: String,
    pub sqlite: String,
    pub date: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    Product,
    Consume,
    Decode,
    Fetch,
    Insert,
    Bulk,
    Write,
}

/// What the product's process took.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cost {
    pub written: u64,
    pub cpu_seconds: f64,
    pub peak_anonymous: u64,
    /// Seconds; none where single commits are not logged.
    pub commit_p50: Option<f64>,
    pub commit_p99: Option<f64>,
}

/// Keeps the records of this run, and appends them to a file.
pub struct Records {
    pub kept: Vec<Record>,
    file: Option<PathBuf>,
}

impl Records {
    pub fn new(file: &str) -> Self {
        Self {
            kept: Vec::new(),
            file: (!file.is_empty()).then(|| file.into()),
        }
    }

    pub fn add(&mut self, record: Record) {
        if let Some(file) = &self.file {
            let mut out = OpenOptions::new().create(true).append(true).open(file).unwrap();
            writeln!(out, "{}", serde_json::to_string(&record).unwrap()).unwrap();
        }
        self.kept.push(record);
    }

    /// The records of a file's last run.
    pub fn read(file: &str) -> Vec<Record> {
        let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{file}: {error}"));
        let records: Vec<Record> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let first = records
            .iter()
            .rposition(|record| matches!(record, Record::Machine(_)));
        records.into_iter().skip(first.unwrap_or(0)).collect()
    }
}
