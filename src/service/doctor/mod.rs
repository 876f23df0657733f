//! `doctor` (DESIGN §8): is the world outside as the contract has it? What is there is gathered first ([`look`]); what it
//! means is said by a pure function of that ([`judge`]).

mod backend;
mod finding;
mod fleet;
mod keys;
mod server;
mod stores;
mod streams;

use std::collections::BTreeMap;
use std::time::Duration;

pub use finding::{Finding, Severity};

use crate::config::Config;
use crate::source::connect::ConnectError;
use crate::source::survey::facts::{Facts, Look, MonitorFacts, StreamFacts};
use crate::source::survey::{self, Surveyor};
use crate::store::checkup::{self, RunsAfter, SqliteVersion};
use crate::store::report::{self, StreamReport};
use crate::store::{StoreError, read_only};
use crate::wire::kv;
use crate::wire::output::State;
use crate::wire::shown::{size, span};
use crate::wire::time::Timestamp;
use chrono::TimeDelta;

/// PCs without a result that are asked for one by one: whether they are still meant to be there.
const SILENT_PCS_MAX: usize = 500;
/// Runs that agents left out are counted so far back.
const LEFT_OUT_DAYS: i64 = 1;

/// What the database says.
#[derive(Clone, Debug, Default)]
struct Book {
    /// The backend's own file.
    adopted: bool,
    /// Streams that were ever read.
    streams: Vec<StreamReport>,
    /// Outputs that are pending, and when the oldest of them was published.
    pending: (u64, Option<Timestamp>),
    /// By bucket: PCs that it names and no result is held of.
    silent: BTreeMap<&'static str, Vec<String>>,
    /// PCs without a result that were not looked at further.
    silent_unasked: usize,
    /// Revoked scripts that were run after that, by job.
    revoked_runs: BTreeMap<String, RunsAfter>,
    /// Runs that agents left out or refused within a day, by reserved exit code.
    left_out: Vec<(i32, u64)>,
    /// Versions of SQLite whose hand is seen in the file.
    written_by: Vec<SqliteVersion>,
    /// How old a result may become in a file of our own.
    retention: Option<Duration>,
}

/// Everything that was looked at.
#[derive(Debug)]
pub struct World {
    /// Our clock.
    now: Timestamp,
    /// The server, or why it cannot be looked at.
    pub server: Result<Facts, String>,
    /// Its monitoring port, where that is configured.
    monitor: Option<MonitorFacts>,
    /// The database, or why it cannot be read.
    book: Result<Book, String>,
}

/// Looks at the world. Nothing is changed by it.
///
/// # Errors
/// [`ConnectError::Configuration`]; a server that cannot be reached is a part of the answer.
pub async fn look(config: &Config, now: Timestamp) -> Result<World, ConnectError> {
    let monitor = survey::monitor(&config.nats).await;
    let mut book = book(config, now).map_err(|error| error.to_string());
    let server = match Surveyor::connect(&config.nats).await {
        Ok(surveyor) => {
            let mut facts = surveyor.survey(config).await;
            if let Ok(known) = &mut book {
                let met = meet(config, &surveyor, &mut facts, known).await;
                if let Err(error) = met {
                    book = Err(error.to_string());
                }
            }
            Ok(facts)
        }
        Err(error @ ConnectError::Configuration(_)) => return Err(error),
        Err(error) => Err(error.to_string()),
    };
    Ok(World {
        now,
        server,
        monitor,
        book,
    })
}

/// What the database says by itself.
fn book(config: &Config, now: Timestamp) -> Result<Book, StoreError> {
    // First: opening and closing a file beside SQLite lets go of the locks that SQLite has on it.
    let written_by = checkup::written_by(&config.store.path).unwrap_or_default();
    let conn = read_only(&config.store.path)?;
    let report = report::read(&conn)?;
    let day_ago = now.checked_add(TimeDelta::days(-LEFT_OUT_DAYS)).unwrap_or(now);
    let oldest_pending = report.oldest_pending_output.as_deref();
    let oldest_pending = oldest_pending.and_then(|text| Timestamp::parse_stored(text).ok());
    let pending = report.outputs.get(&State::Pending.to_string()).copied();
    Ok(Book {
        adopted: report.adopted,
        streams: report.streams,
        pending: (pending.unwrap_or(0), oldest_pending),
        left_out: checkup::left_out(&conn, day_ago)?,
        written_by,
        retention: config.retention.execution_results.filter(|_| !report.adopted),
        ..Book::default()
    })
}

/// What the database says of what the server holds.
async fn meet(
    config: &Config,
    surveyor: &Surveyor,
    facts: &mut Facts,
    book: &mut Book,
) -> Result<(), StoreError> {
    let conn = read_only(&config.store.path)?;
    if let Some(Look::Seen(scripts)) = facts.contents.get(kv::BUCKET_SCRIPT_STATUS) {
        for (job_id, entry) in &scripts.entries {
            if fleet::is_revoked(entry)
                && let Some(runs) = checkup::runs_after(&conn, job_id, entry.changed)?
            {
                book.revoked_runs.insert(job_id.clone(), runs);
            }
        }
    }
    for bucket in [kv::BUCKET_AGENTS_STATE, kv::BUCKET_AGENT_GROUPS] {
        let Some(Look::Seen(named)) = facts.keys.get(bucket) else {
            continue;
        };
        let mut silent = checkup::without_results(&conn, &named.names)?;
        book.silent_unasked += silent.len().saturating_sub(SILENT_PCS_MAX);
        silent.truncate(SILENT_PCS_MAX);
        // A key that was deleted still has its name.
        let there = surveyor.contents(bucket, &silent).await;
        if let Look::Seen(there) = &there {
            let silent: Vec<String> = there.entries.keys().cloned().collect();
            book.silent.insert(bucket, silent);
        }
        facts.contents.insert(bucket, there);
    }
    Ok(())
}

/// Says what it means.
#[must_use]
pub fn judge(world: &World) -> Vec<Finding> {
    let mut found = finding::Findings::default();
    let book = world.book.as_ref().ok();
    server::judge(world, &mut found);
    if let Ok(facts) = &world.server
        && !server::is_silent(facts)
    {
        streams::judge(facts, book, world.now, &mut found);
        stores::judge(facts, book, world.now, &mut found);
        keys::judge(facts, &mut found);
        fleet::judge(facts, book, &mut found);
        backend::durables(facts, book, &mut found);
    }
    if let Some(book) = book {
        backend::file(book, &mut found);
        backend::left_out(book, &mut found);
    }
    found.sorted()
}

/// How long something is kept; zero is no limit.
fn kept(age: Duration) -> String {
    match age.is_zero() {
        true => "for ever".to_owned(),
        false => span(age),
    }
}

/// What it holds of what it may hold.
fn filled(stream: &StreamFacts) -> String {
    match stream.max_bytes {
        Some(max) => format!("{} of {}", size(stream.bytes), size(max)),
        None => format!("{} without a limit", size(stream.bytes)),
    }
}

#[cfg(test)]
mod tests;
