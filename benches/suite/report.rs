//! The tables, in Markdown, made of records.

use std::fmt::Write;

use crate::record::{Cost, Part, Record};
use crate::support::median;

const MIB: f64 = 1_048_576.0;

/// A workload's records.
struct Rows<'a> {
    name: &'a str,
    what: &'a str,
    messages: f64,
    payload_bytes: f64,
    object_bytes: f64,
    writer: Part,
    parts: Vec<(Part, f64, Option<u64>, Option<&'a Cost>)>,
}

impl<'a> Rows<'a> {
    fn all(records: &'a [Record]) -> Vec<Self> {
        let mut all: Vec<Self> = Vec::new();
        for record in records {
            match record {
                Record::Workload {
                    workload,
                    what,
                    messages,
                    payload_bytes,
                    object_bytes,
                    writer,
                } => all.push(Self {
                    name: workload,
                    what,
                    messages: *messages as f64,
                    payload_bytes: *payload_bytes as f64,
                    object_bytes: *object_bytes as f64,
                    writer: *writer,
                    parts: Vec::new(),
                }),
                Record::Part {
                    part,
                    seconds,
                    bytes,
                    cost,
                    ..
                } => {
                    if let Some(rows) = all.last_mut() {
                        rows.parts.push((*part, *seconds, *bytes, cost.as_ref()));
                    }
                }
                Record::Machine(_) | Record::Slice { .. } => {}
            }
        }
        all
    }

    /// Of each round.
    fn seconds(&self, of: Part) -> Vec<f64> {
        let parts = self.parts.iter().filter(|(part, ..)| *part == of);
        parts.map(|(_, seconds, ..)| *seconds).collect()
    }

    fn typical(&self, of: Part) -> Option<f64> {
        let mut seconds = self.seconds(of);
        (!seconds.is_empty()).then(|| median(&mut seconds))
    }

    fn rate(&self, of: Part) -> String {
        self.typical(of)
            .map_or_else(dash, |seconds| grouped(self.messages / seconds))
    }

    /// MB/s.
    fn megabytes(&self, of: Part) -> String {
        let bytes = self
            .parts
            .iter()
            .find(|(part, ..)| *part == of)
            .and_then(|part| part.2);
        self.typical(of)
            .zip(bytes)
            .map_or_else(dash, |(seconds, bytes)| grouped(bytes as f64 / seconds / 1e6))
    }

    /// The parts that the whole path cannot be faster than.
    fn limits(&self) -> [Part; 3] {
        [Part::Consume, Part::Fetch, self.writer]
    }

    /// Of the slowest of its limits: the median of the rounds, their range, and which one it is.
    fn share(&self) -> String {
        let limits = self.limits();
        let mut shares: Vec<f64> = (self.seconds(Part::Product).iter().enumerate())
            .map(|(round, product)| {
                let seconds = limits
                    .iter()
                    .filter_map(|of| self.seconds(*of).get(round).copied());
                seconds.fold(0.0, f64::max) / product
            })
            .collect();
        let slowest = limits.into_iter().max_by(|one, other| {
            let seconds = |of: &Part| self.typical(*of).unwrap_or(0.0);
            seconds(one).total_cmp(&seconds(other))
        });
        let typical = median(&mut shares);
        let (least, most) = (shares.first(), shares.last());
        let (Some(least), Some(most), Some(slowest)) = (least, most, slowest) else {
            return dash();
        };
        let slowest = format!("{slowest:?}").to_lowercase();
        format!("**{typical:.2}** of {slowest} ({least:.2}–{most:.2})")
    }

    fn cost(&self, of: impl Fn(&Cost) -> Option<f64>) -> Option<f64> {
        let mut values: Vec<f64> = self.parts.iter().filter_map(|(.., cost)| of((*cost)?)).collect();
        (!values.is_empty()).then(|| median(&mut values))
    }
}

fn dash() -> String {
    "–".to_owned()
}

/// A whole number with its thousands apart; a small one with two digits that count.
fn grouped(number: f64) -> String {
    if number < 10.0 {
        return format!("{number:.1}");
    }
    let digits = format!("{number:.0}");
    let first = digits.len() % 3;
    let (head, tail) = digits.split_at(first);
    let mut parts: Vec<&str> = (!head.is_empty()).then_some(head).into_iter().collect();
    parts.extend(
        tail.as_bytes()
            .chunks(3)
            .filter_map(|part| std::str::from_utf8(part).ok()),
    );
    parts.join(",")
}

/// Everything that the records tell.
pub fn markdown(records: &[Record]) -> String {
    let mut text = String::new();
    let all = Rows::all(records);
    let rounds = all.iter().map(|rows| rows.seconds(Part::Product).len()).max();
    if let Some(Record::Machine(machine)) = records.first() {
        writeln!(
            text,
            "{} cores, nats-server {}, SQLite {}, {}; medians of rounds: {}.",
            machine.cores,
            machine.nats_server,
            machine.sqlite,
            machine.date,
            rounds.unwrap_or(0)
        )
        .unwrap();
    }
    if !all.is_empty() {
        text += &parts(&all);
        text += &costs(&all);
    }
    text += &growth(records);
    text
}

fn parts(all: &[Rows<'_>]) -> String {
    let mut text = String::from(
        "\n| messages/s | of KB | consume | decode | fetch, MB/s | insert | bulk | write, MB/s | whole path | of its limit |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|--:|---|\n",
    );
    for rows in all {
        writeln!(
            text,
            "| `{}` | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            rows.name,
            grouped((rows.payload_bytes + rows.object_bytes) / rows.messages / 1e3),
            rows.rate(Part::Consume),
            rows.rate(Part::Decode),
            rows.megabytes(Part::Fetch),
            rows.rate(Part::Insert),
            rows.rate(Part::Bulk),
            rows.megabytes(Part::Write),
            rows.rate(Part::Product),
            rows.share(),
        )
        .unwrap();
    }
    text.push('\n');
    for rows in all {
        writeln!(
            text,
            "- `{}`: {} messages: {}",
            rows.name,
            grouped(rows.messages),
            rows.what
        )
        .unwrap();
    }
    text
}

fn costs(all: &[Rows<'_>]) -> String {
    let mut text = String::from(
        "\n| the whole path | MB/s | KB written a message | CPU s per 100,000 | commit p50, p99, ms | peak MiB |\n\
         |---|--:|--:|--:|--:|--:|\n",
    );
    for rows in all {
        let bytes = rows.payload_bytes + rows.object_bytes;
        let number = |value: Option<f64>| value.map_or_else(dash, grouped);
        let commits = [
            rows.cost(|cost| cost.commit_p50),
            rows.cost(|cost| cost.commit_p99),
        ];
        let commits = match commits {
            [Some(p50), Some(p99)] => format!("{}, {}", grouped(p50 * 1e3), grouped(p99 * 1e3)),
            _ => dash(),
        };
        writeln!(
            text,
            "| `{}` | {} | {} | {} | {commits} | {} |",
            rows.name,
            number(rows.typical(Part::Product).map(|seconds| bytes / seconds / 1e6)),
            number(rows.cost(|cost| Some(cost.written as f64 / rows.messages / 1e3))),
            number(rows.cost(|cost| Some(cost.cpu_seconds * 1e5 / rows.messages))),
            number(rows.cost(|cost| Some(cost.peak_anonymous as f64 / MIB))),
        )
        .unwrap();
    }
    text
}

/// A slice of the growth: rows stored at its end, and the rates of product and bare loop.
pub struct Slice {
    pub stored: usize,
    pub product: f64,
    pub bare: f64,
}

pub fn slices(records: &[Record]) -> Vec<Slice> {
    let of = |wanted: Part| {
        records.iter().filter_map(move |record| match record {
            Record::Slice {
                part,
                stored,
                rows,
                seconds,
            } if *part == wanted => Some((*stored, *rows as f64 / seconds)),
            _ => None,
        })
    };
    of(Part::Product)
        .zip(of(Part::Insert))
        .map(|((stored, product), (_, bare))| Slice {
            stored,
            product,
            bare,
        })
        .collect()
}

/// Ten slices are shown, whatever their number.
fn growth(records: &[Record]) -> String {
    let slices = slices(records);
    let (Some(second), Some(tenth)) = (slices.get(1), slices.get(9)) else {
        return String::new();
    };
    let mut text =
        String::from("\n| rows stored | whole path, rows/s | insert, rows/s | ratio |\n|--:|--:|--:|--:|\n");
    let every = slices.len().div_ceil(10);
    for slice in slices.iter().skip(every - 1).step_by(every) {
        writeln!(
            text,
            "| {} | {} | {} | {:.2} |",
            grouped(slice.stored as f64),
            grouped(slice.product),
            grouped(slice.bare),
            slice.product / slice.bare
        )
        .unwrap();
    }
    writeln!(
        text,
        "\nThe rate of the {} rows up to {}, against that of those up to {}: {:.2} of it for the whole path, {:.2} for \
         insert alone.",
        grouped(second.stored as f64 / 2.0),
        grouped(tenth.stored as f64),
        grouped(second.stored as f64),
        tenth.product / second.product,
        tenth.bare / second.bare
    )
    .unwrap();
    text
}
