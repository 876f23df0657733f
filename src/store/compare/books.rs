//! The books of what was mended: what is owed no more, and under which hints a pair stands. Positions are not touched.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{Connection, OptionalExtension, params};

use super::super::StoreError;
use super::super::table::{OLD, Table};
use super::findings::Touched;
use super::mend::Mended;
use crate::wire::time::Timestamp;

const OUTPUTS: &str = "projector_outputs";
const DERIVATIONS: &str = "projector_derivations";
const WAITING: &str = "projector_waiting";
const ISSUES: &str = "projector_issues";

/// An output as the scratch's book has it.
#[derive(Debug)]
struct Output {
    object: String,
    state: String,
    reason: Option<String>,
    attempts: i64,
    published_at: String,
    size_bytes: Option<i64>,
    sha256: Option<String>,
    entry: i64,
}

/// Where a pair stands.
#[derive(Debug)]
struct Derived {
    hints_hash: String,
    first_entry: i64,
}

/// What is written into the books.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Result, field, and the line; `None`: it has none.
    outputs: Vec<(String, &'static str, Option<Output>)>,
    /// Job, PC, and where they stand.
    derived: Vec<(String, String, Derived)>,
    /// The scratch's entries as the database numbers them.
    entries: BTreeMap<i64, i64>,
}

impl Plan {
    pub(super) fn is_empty(&self) -> bool {
        self.outputs.is_empty() && self.derived.is_empty()
    }
}

/// Finds out how the books must follow. Reads only.
pub(super) fn plan(conn: &Connection, touched: &Touched) -> Result<Plan, StoreError> {
    for book in [OUTPUTS, DERIVATIONS, WAITING, ISSUES] {
        if Table::find(conn, OLD, book)?.is_none() {
            return Ok(Plan::default());
        }
    }
    let work = || -> Result<Plan, rusqlite::Error> {
        let mut plan = Plan::default();
        for (result_id, field) in &touched.outputs {
            let output = output(conn, result_id, field)?;
            plan.outputs.push((result_id.clone(), field, output));
        }
        let mut pairs = touched.pairs.clone();
        pairs.extend(under_older_hints(conn)?);
        for (job_id, pc_id) in pairs {
            // Where it still waits in the scratch, it waits in the database too.
            if let Some(standing) = settled(conn, &job_id, &pc_id)? {
                plan.derived.push((job_id, pc_id, standing));
            }
        }
        let wanted: BTreeSet<i64> = plan
            .outputs
            .iter()
            .filter_map(|(_, _, output)| Some(output.as_ref()?.entry))
            .chain(plan.derived.iter().map(|(_, _, standing)| standing.first_entry))
            .collect();
        plan.entries = entries(conn, &wanted)?;
        Ok(plan)
    };
    work().map_err(StoreError::sqlite("compare the books"))
}

/// Lets the books follow.
pub(super) fn mend(
    conn: &Connection,
    plan: &Plan,
    now: Timestamp,
    mended: &mut Mended,
) -> Result<(), StoreError> {
    let entry = |of: i64| plan.entries.get(&of).copied().unwrap_or(0);
    let mut work = || -> Result<(), rusqlite::Error> {
        for (result_id, field, output) in &plan.outputs {
            let written = match output {
                Some(output) => enter(conn, result_id, field, output, entry(output.entry), now)?,
                None => conn
                    .prepare_cached("DELETE FROM old.projector_outputs WHERE result_id = ?1 AND field = ?2")?
                    .execute(params![result_id, field])?,
            };
            mended.count(OUTPUTS, written);
        }
        for (job_id, pc_id, standing) in &plan.derived {
            settle(conn, job_id, pc_id, standing, entry(standing.first_entry), mended)?;
        }
        Ok(())
    };
    work().map_err(StoreError::sqlite("mend the books"))
}

/// The book's line; `None` when the row's message has no such pointer.
fn output(conn: &Connection, result_id: &str, field: &str) -> Result<Option<Output>, rusqlite::Error> {
    conn.prepare_cached(
        "SELECT object, state, reason, attempts, published_at, size_bytes, sha256, entry FROM main.projector_outputs
         WHERE result_id = ?1 AND field = ?2",
    )?
    .query_row([result_id, field], |row| {
        Ok(Output {
            object: row.get(0)?,
            state: row.get(1)?,
            reason: row.get(2)?,
            attempts: row.get(3)?,
            published_at: row.get(4)?,
            size_bytes: row.get(5)?,
            sha256: row.get(6)?,
            entry: row.get(7)?,
        })
    })
    .optional()
}

/// Enters what was fetched. What was not is the database's to say, where it says anything.
fn enter(
    conn: &Connection,
    result_id: &str,
    field: &str,
    output: &Output,
    entry: i64,
    now: Timestamp,
) -> Result<usize, rusqlite::Error> {
    let is_owed = ["pending", "gone"].contains(&output.state.as_str());
    let missing = output.state != "fetched";
    conn.prepare_cached(
        "INSERT INTO old.projector_outputs (result_id, field, entry, mended, object, state, reason, attempts,
             published_at, size_bytes, sha256, since_wall, next_try_wall)
         VALUES (?1, ?2, ?3, 0, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)
         ON CONFLICT (result_id, field) DO UPDATE SET object = excluded.object, state = excluded.state,
             reason = excluded.reason, published_at = excluded.published_at, size_bytes = excluded.size_bytes,
             sha256 = excluded.sha256, since_wall = NULL, next_try_wall = NULL
         WHERE excluded.state = 'fetched' AND (state <> 'fetched' OR object <> excluded.object
             OR size_bytes IS NOT excluded.size_bytes OR sha256 IS NOT excluded.sha256
             OR next_try_wall IS NOT NULL OR since_wall IS NOT NULL)",
    )?
    .execute(params![
        result_id,
        field,
        entry,
        output.object,
        output.state,
        output.reason,
        output.attempts,
        output.published_at,
        output.size_bytes,
        output.sha256,
        missing.then(|| now.stored()),
        is_owed.then(|| now.stored()),
    ])
}

/// Pairs that the scratch has derived under other hints than the database: they stand under those now, whether or not that
/// has changed a row.
fn under_older_hints(conn: &Connection) -> Result<Vec<(String, String)>, rusqlite::Error> {
    conn.prepare(
        "SELECT now.job_id, now.pc_id FROM main.projector_derivations AS now
         JOIN old.projector_derivations AS was ON was.job_id = now.job_id AND was.pc_id = now.pc_id
         WHERE now.state = 'settled' AND was.state = 'settled' AND was.hints_hash <> now.hints_hash",
    )?
    .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
    .collect()
}

fn settled(conn: &Connection, job_id: &str, pc_id: &str) -> Result<Option<Derived>, rusqlite::Error> {
    conn.prepare_cached(
        "SELECT hints_hash, first_entry FROM main.projector_derivations
         WHERE job_id = ?1 AND pc_id = ?2 AND state = 'settled'",
    )?
    .query_row([job_id, pc_id], |row| {
        Ok(Derived {
            hints_hash: row.get(0)?,
            first_entry: row.get(1)?,
        })
    })
    .optional()
}

/// What the scratch's entries are in the database, by the message that both stand for: one scan, since the book has no
/// index.
fn entries(conn: &Connection, wanted: &BTreeSet<i64>) -> Result<BTreeMap<i64, i64>, rusqlite::Error> {
    let mut messages: BTreeMap<(i64, i64), i64> = BTreeMap::new();
    let mut select =
        conn.prepare("SELECT stream_seq, published_ns FROM main.projector_results WHERE entry = ?1")?;
    for entry in wanted {
        let message = select
            .query_row([entry], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        messages.extend(message.map(|message| (message, *entry)));
    }
    let mut entries = BTreeMap::new();
    if messages.is_empty() {
        return Ok(entries);
    }
    let mut scan = conn.prepare("SELECT entry, stream_seq, published_ns FROM old.projector_results")?;
    let mut rows = scan.query([])?;
    while let Some(row) = rows.next()? {
        if let Some(entry) = messages.get(&(row.get(1)?, row.get(2)?)) {
            entries.insert(*entry, row.get(0)?);
        }
    }
    Ok(entries)
}

/// The pair stands as the scratch has it, and nothing of it waits; its issues are the scratch's, in the database's current
/// life of the stream.
fn settle(
    conn: &Connection,
    job_id: &str,
    pc_id: &str,
    standing: &Derived,
    first_entry: i64,
    mended: &mut Mended,
) -> Result<(), rusqlite::Error> {
    let pair = params![job_id, pc_id];
    let written = conn
        .prepare_cached(
            "INSERT INTO old.projector_derivations (job_id, pc_id, hints_hash, first_entry, state)
             VALUES (?1, ?2, ?3, ?4, 'settled')
             ON CONFLICT (job_id, pc_id) DO UPDATE SET hints_hash = excluded.hints_hash, state = excluded.state
             WHERE hints_hash <> excluded.hints_hash OR state <> excluded.state",
        )?
        .execute(params![job_id, pc_id, standing.hints_hash, first_entry])?;
    mended.count(DERIVATIONS, written);
    let left = conn
        .prepare_cached("DELETE FROM old.projector_waiting WHERE job_id = ?1 AND pc_id = ?2")?
        .execute(pair)?;
    mended.count(WAITING, left);
    const COLUMNS: &str = "job_id, pc_id, part, code, stream, stream_seq, result_id, reason";
    let issues = |schema: &str| {
        format!("SELECT {COLUMNS} FROM {schema}.projector_issues WHERE job_id = ?1 AND pc_id = ?2")
    };
    let same: bool = conn
        .prepare_cached(&format!(
            "SELECT NOT EXISTS (SELECT * FROM ({now} EXCEPT {was})) AND NOT EXISTS (SELECT * FROM ({was} EXCEPT {now}))",
            now = issues("main"),
            was = issues("old"),
        ))?
        .query_row(pair, |row| row.get(0))?;
    if same {
        return Ok(());
    }
    let deleted = conn
        .prepare_cached("DELETE FROM old.projector_issues WHERE job_id = ?1 AND pc_id = ?2")?
        .execute(pair)?;
    let inserted = conn
        .prepare_cached(&format!(
            "INSERT INTO old.projector_issues ({COLUMNS}, incarnation)
             SELECT {COLUMNS}, coalesce((SELECT max(incarnation) FROM old.projector_position AS position
                                         WHERE position.stream = issue.stream), 1)
             FROM main.projector_issues AS issue WHERE job_id = ?1 AND pc_id = ?2"
        ))?
        .execute(pair)?;
    mended.count(ISSUES, deleted + inserted);
    Ok(())
}
