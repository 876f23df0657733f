//! What is known of each pair before its derived rows are settled: which of the two databases its rows are taken from.
//!
//! All of it is one scratch table of the connection, filled by a few scans: on a fleet nearly every pair has results that
//! the stream holds no more, so nothing here may look at pairs one by one.

use rusqlite::{Connection, params};

use super::super::StoreError;
use super::hand::list_backend_lines;
use super::{Basis, Purpose, Vouched, any, run};
use crate::projection::hints::needs;
use crate::projection::manifests::{Manifests, SpecState};
use crate::wire::result::Field;
use crate::wire::time::Timestamp;

/// What this module makes, and whoever settles drops at the end.
const TABLES: [&str; 8] = [
    "carry_jobs",
    "carry_specs",
    "carry_checks",
    "carry_feeds",
    "carry_pairs",
    "carry_backend",
    "carry_kept_checks",
    "carry_kept_feeds",
];

const CREATE: &str = "
CREATE TEMP TABLE carry_jobs (job_id TEXT PRIMARY KEY, hints_hash TEXT NOT NULL, inventory INTEGER NOT NULL) WITHOUT ROWID;
CREATE TEMP TABLE carry_specs (table_name TEXT, job_id TEXT, PRIMARY KEY (table_name, job_id)) WITHOUT ROWID;
CREATE TEMP TABLE carry_checks (check_name TEXT, job_id TEXT, PRIMARY KEY (check_name, job_id)) WITHOUT ROWID;
CREATE TEMP TABLE carry_feeds (feed_id TEXT, job_id TEXT, PRIMARY KEY (feed_id, job_id)) WITHOUT ROWID;
CREATE TEMP TABLE carry_pairs (
    job_id    TEXT NOT NULL,
    pc_id     TEXT NOT NULL,
    known     INTEGER NOT NULL DEFAULT 0,     -- the database has derived it
    older     INTEGER NOT NULL DEFAULT 0,     -- it has results that are not at hand
    loose     INTEGER NOT NULL DEFAULT 0,     -- others may have derived it, who go by their clock
    gone      TEXT,                           -- the newest of those, by publish time
    ours_from TEXT,                           -- what was published before is not as we derive it
    aside     TEXT,                           -- why it is not compared
    held      INTEGER NOT NULL DEFAULT 0,     -- the database waits for an output of a result that is not at hand
    lacks     INTEGER NOT NULL DEFAULT 0,     -- the scratch has an output for it that the database has not
    deleted   INTEGER NOT NULL DEFAULT 0,     -- its job was deleted
    facts_new TEXT,                           -- recorded_at of the scratch's facts
    facts_old TEXT,                           -- recorded_at of the database's facts
    event_new TEXT,                           -- the scratch's first event
    event_old INTEGER NOT NULL DEFAULT 0,     -- the database has events
    source    TEXT NOT NULL DEFAULT 'new',    -- whose rows they are: 'new', 'old', 'both'
    until     TEXT,                           -- 'both': up to then the events are the database's
    below     TEXT,                           -- 'both': the database's are those before
    PRIMARY KEY (job_id, pc_id)
) WITHOUT ROWID;";

/// Sorts behind every time that begins with the same text: a bound that leaves out its own time.
const AFTER: &str = "~";

/// Forgets everything that was gathered.
pub(super) fn forget(conn: &Connection) -> Result<(), StoreError> {
    for table in TABLES {
        run(
            conn,
            "clear up",
            &format!("DROP TABLE IF EXISTS temp.{table}"),
            [],
        )?;
    }
    Ok(())
}

/// Fills the scratch tables.
pub(super) fn gather(
    conn: &Connection,
    manifests: &Manifests,
    basis: &Basis,
    vouched: &mut Vouched,
) -> Result<(), StoreError> {
    forget(conn)?;
    conn.execute_batch(CREATE)
        .map_err(StoreError::sqlite("make room to settle derived rows"))?;
    name_jobs(conn, manifests)?;
    name_pairs(conn)?;
    find_older(conn, basis)?;
    if basis.purpose != Purpose::Rebuild {
        find_not_ours(conn, basis)?;
        find_missing_outputs(conn, manifests)?;
        set_aside(conn, basis, vouched)?;
        find_deleted_jobs(conn, vouched)?;
    }
    choose(conn, basis)
}

fn name_jobs(conn: &Connection, manifests: &Manifests) -> Result<(), StoreError> {
    let write = || -> Result<(), rusqlite::Error> {
        for (job_id, job) in manifests.iter() {
            let Some(hints) = &job.hints else { continue };
            conn.prepare_cached("INSERT INTO temp.carry_jobs VALUES (?1, ?2, ?3)")?
                .execute(params![job_id, hints.hash, hints.inventory.is_some()])?;
            for spec in hints.inventory.iter().flat_map(|inventory| &inventory.specs) {
                if let SpecState::Valid(spec) = spec {
                    conn.prepare_cached("INSERT OR IGNORE INTO temp.carry_specs VALUES (?1, ?2)")?
                        .execute(params![spec.table.to_ascii_lowercase(), job_id])?;
                }
            }
            if let Some(check) = &hints.check {
                conn.prepare_cached("INSERT INTO temp.carry_checks VALUES (?1, ?2)")?
                    .execute(params![check.name, job_id])?;
            }
            for feed in &hints.feeds {
                conn.prepare_cached("INSERT OR IGNORE INTO temp.carry_feeds VALUES (?1, ?2)")?
                    .execute(params![feed.id, job_id])?;
            }
        }
        Ok(())
    };
    write().map_err(StoreError::sqlite("list the jobs"))
}

fn name_pairs(conn: &Connection) -> Result<(), StoreError> {
    let what = "list the pairs";
    for sql in [
        "INSERT INTO temp.carry_pairs (job_id, pc_id, known) SELECT job_id, pc_id, 1 FROM old.projector_derivations",
        "INSERT INTO temp.carry_pairs (job_id, pc_id) SELECT job_id, pc_id FROM main.projector_derivations WHERE true
         ON CONFLICT DO NOTHING",
        // Snapshots of the stream INVENTORY are no pair's.
        "INSERT INTO temp.carry_pairs (job_id, pc_id) SELECT job_id, pc_id FROM old.inventory_facts
         WHERE substr(job_id, 1, 10) <> 'inventory.' OR job_id IN (SELECT job_id FROM temp.carry_jobs)
         ON CONFLICT DO NOTHING",
        "INSERT INTO temp.carry_pairs (job_id, pc_id, event_old) SELECT job_id, pc_id, 1 FROM old.inventory_history
         WHERE true
         ON CONFLICT DO UPDATE SET event_old = 1 WHERE event_old = 0",
        "INSERT INTO temp.carry_pairs (job_id, pc_id, event_new) SELECT job_id, pc_id, observed_at
             FROM main.inventory_history WHERE true
         ON CONFLICT DO UPDATE SET event_new = excluded.event_new
             WHERE event_new IS NULL OR excluded.event_new < event_new",
        "UPDATE temp.carry_pairs SET
             facts_new = (SELECT recorded_at FROM main.inventory_facts fact
                 WHERE fact.pc_id = carry_pairs.pc_id AND fact.job_id = carry_pairs.job_id),
             facts_old = (SELECT recorded_at FROM old.inventory_facts fact
                 WHERE fact.pc_id = carry_pairs.pc_id AND fact.job_id = carry_pairs.job_id)",
    ] {
        run(conn, what, sql, [])?;
    }
    Ok(())
}

fn find_older(conn: &Connection, basis: &Basis) -> Result<(), StoreError> {
    let what = "find the pairs with results that are not at hand";
    // Duplicates changed nothing, unless it was the backend's projector that they were duplicates for.
    run(
        conn,
        what,
        "UPDATE temp.carry_pairs SET gone = line.gone, older = 1
         FROM (SELECT line.job_id, line.pc_id, max(line.published) AS gone FROM temp.not_at_hand line
               LEFT JOIN old.projector_derivations pair ON pair.job_id = line.job_id AND pair.pc_id = line.pc_id
               WHERE line.job_id IS NOT NULL AND (line.counts OR ?1) AND line.entry >= coalesce(pair.first_entry, 0)
               GROUP BY line.job_id, line.pc_id) line
         WHERE line.job_id = carry_pairs.job_id AND line.pc_id = carry_pairs.pc_id",
        [basis.adopted],
    )?;
    run(
        conn,
        what,
        "UPDATE temp.carry_pairs SET older = 1, loose = (pair.first_entry = 0)
         FROM old.projector_derivations pair
         WHERE pair.job_id = carry_pairs.job_id AND pair.pc_id = carry_pairs.pc_id
             AND (pair.first_entry = 0
                 OR NOT EXISTS (SELECT 1 FROM old.projector_results line WHERE line.entry = pair.first_entry)
                 OR EXISTS (SELECT 1 FROM temp.not_at_hand line WHERE line.entry = pair.first_entry))",
        [],
    )?;
    // The scratch knows nothing of what the database waits for, and has applied what waits behind it.
    run(
        conn,
        what,
        "UPDATE temp.carry_pairs SET held = 1 WHERE (job_id, pc_id) IN (
             SELECT waiting.job_id, waiting.pc_id FROM old.projector_waiting waiting
             JOIN temp.not_at_hand line ON line.entry = waiting.entry)",
        [],
    )?;
    // Rows of which no book tells: others have written them.
    run(
        conn,
        what,
        "UPDATE temp.carry_pairs SET older = 1, loose = 1
         WHERE NOT known AND NOT ?1 AND (facts_old IS NOT NULL OR event_old)",
        [basis.is_strict()],
    )?;
    Ok(())
}

/// What the scratch has derived and the database has not: results from before the job had hints, and those that the
/// backend's projector has seen to.
fn find_not_ours(conn: &Connection, basis: &Basis) -> Result<(), StoreError> {
    let what = "find what was derived by others";
    let mut bounds: Vec<(String, String, String)> = Vec::new();
    let mut read = |sql: &str, suffix: &str| -> Result<(), rusqlite::Error> {
        let mut select = conn.prepare(sql)?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            let published = Timestamp::from_unix_nanos(row.get(2)?).stored();
            bounds.push((row.get(0)?, row.get(1)?, format!("{published}{suffix}")));
        }
        Ok(())
    };
    read(
        "SELECT pair.job_id, pair.pc_id, first.published_ns FROM temp.carry_pairs pair
         CROSS JOIN old.projector_derivations was ON was.job_id = pair.job_id AND was.pc_id = pair.pc_id
         CROSS JOIN main.projector_derivations now ON now.job_id = pair.job_id AND now.pc_id = pair.pc_id
         CROSS JOIN old.projector_results first ON first.entry = was.first_entry
         CROSS JOIN main.projector_results first_now ON first_now.entry = now.first_entry
         WHERE NOT pair.older AND first_now.published_ns < first.published_ns",
        "",
    )
    .map_err(StoreError::sqlite(what))?;
    if basis.adopted {
        list_backend_lines(conn)?;
        read(
            "SELECT job_id, pc_id, max(published_ns) FROM temp.carry_backend WHERE job_id IS NOT NULL
             GROUP BY job_id, pc_id",
            AFTER,
        )
        .map_err(StoreError::sqlite(what))?;
    }
    for (job_id, pc_id, bound) in bounds {
        conn.prepare_cached(
            "UPDATE temp.carry_pairs SET ours_from = max(coalesce(ours_from, ''), ?3)
             WHERE job_id = ?1 AND pc_id = ?2",
        )
        .and_then(|mut update| update.execute([job_id, pc_id, bound]))
        .map_err(StoreError::sqlite(what))?;
    }
    Ok(())
}

/// Pairs of which the two databases need not say the same.
fn set_aside(conn: &Connection, basis: &Basis, vouched: &mut Vouched) -> Result<(), StoreError> {
    let what = "find the pairs that are not compared";
    if basis.adopted {
        run(
            conn,
            what,
            "UPDATE temp.carry_pairs SET aside = 'by the backend' WHERE NOT known",
            [],
        )?;
    }
    if basis.purpose == Purpose::Verify {
        run(
            conn,
            what,
            "UPDATE temp.carry_pairs SET aside = 'older hints'
             WHERE aside IS NULL AND job_id IN (SELECT job_id FROM temp.carry_jobs)
                 AND CASE WHEN known
                     THEN (SELECT hints_hash FROM old.projector_derivations pair
                           WHERE pair.job_id = carry_pairs.job_id AND pair.pc_id = carry_pairs.pc_id)
                         <> (SELECT hints_hash FROM temp.carry_jobs job WHERE job.job_id = carry_pairs.job_id)
                     ELSE EXISTS (SELECT 1 FROM main.projector_derivations pair
                         WHERE pair.job_id = carry_pairs.job_id AND pair.pc_id = carry_pairs.pc_id) END",
            [],
        )?;
        run(
            conn,
            what,
            "UPDATE temp.carry_pairs SET aside = 'waiting' FROM old.projector_derivations pair
             WHERE aside IS NULL AND pair.state <> 'settled'
                 AND pair.job_id = carry_pairs.job_id AND pair.pc_id = carry_pairs.pc_id",
            [],
        )?;
        run(
            conn,
            what,
            "UPDATE temp.carry_pairs SET aside = 'outputs missing' WHERE aside IS NULL AND lacks",
            [],
        )?;
    }
    // Where the scratch waits, it does not say what the pair's rows should be.
    run(
        conn,
        what,
        "UPDATE temp.carry_pairs SET aside = 'outputs missing' FROM main.projector_derivations pair
         WHERE aside IS NULL AND pair.state <> 'settled'
             AND pair.job_id = carry_pairs.job_id AND pair.pc_id = carry_pairs.pc_id",
        [],
    )?;
    let counted = || -> Result<Vec<(String, u64)>, rusqlite::Error> {
        conn.prepare("SELECT aside, count(*) FROM temp.carry_pairs WHERE aside IS NOT NULL GROUP BY aside")?
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect()
    };
    let reasons = ["by the backend", "older hints", "waiting", "outputs missing"];
    for (reason, pairs) in counted().map_err(StoreError::sqlite(what))? {
        if let Some(reason) = reasons.into_iter().find(|known| *known == reason) {
            vouched.leave_out(reason, pairs);
        }
    }
    Ok(())
}

/// An output that hints need, which was fetched for the scratch and is missing in the database.
fn find_missing_outputs(conn: &Connection, manifests: &Manifests) -> Result<(), StoreError> {
    let what = "find the outputs that the database does not have";
    let found = || -> Result<Vec<(String, String)>, rusqlite::Error> {
        let mut select = conn.prepare(
            "SELECT line.job_id, line.pc_id, output.field, line.evidence, row.exit_code
             FROM old.projector_outputs missing
             CROSS JOIN main.projector_outputs output
                 ON output.result_id = missing.result_id AND output.field = missing.field
             CROSS JOIN main.projector_results line ON line.entry = output.entry
             CROSS JOIN main.execution_results row ON row.result_id = missing.result_id
             WHERE missing.state <> 'fetched' AND output.state = 'fetched' AND line.job_id IS NOT NULL
                 AND row.exit_code IS NOT NULL",
        )?;
        let mut rows = select.query([])?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            let (job_id, field): (String, String) = (row.get(0)?, row.get(2)?);
            let needed = manifests
                .hints(&job_id)
                .map(|hints| Ok::<_, rusqlite::Error>(needs(hints, row.get(4)?, row.get(3)?)))
                .transpose()?
                .flatten();
            if needed.is_some() && needed == Field::parse(&field) {
                found.push((job_id, row.get(1)?));
            }
        }
        Ok(found)
    };
    for (job_id, pc_id) in found().map_err(StoreError::sqlite(what))? {
        run(
            conn,
            what,
            "UPDATE temp.carry_pairs SET lacks = 1 WHERE job_id = ?1 AND pc_id = ?2",
            [job_id, pc_id],
        )?;
    }
    Ok(())
}

/// The backend's deletion of a job takes its facts and its history, and leaves the exploded rows (contract §6.1). A pair
/// shows it that was derived under these hints and lacks no output: others may have nothing because of that.
fn find_deleted_jobs(conn: &Connection, vouched: &mut Vouched) -> Result<(), StoreError> {
    let what = "find the jobs that were deleted";
    run(
        conn,
        what,
        "UPDATE temp.carry_pairs SET deleted = 1 WHERE job_id IN (
             SELECT pair.job_id FROM temp.carry_pairs pair
             LEFT JOIN temp.carry_jobs job ON job.job_id = pair.job_id
             LEFT JOIN old.projector_derivations was ON was.job_id = pair.job_id AND was.pc_id = pair.pc_id
             GROUP BY pair.job_id
             HAVING count(pair.facts_old) = 0 AND NOT max(pair.event_old)
                 AND max((pair.facts_new IS NOT NULL OR pair.event_new IS NOT NULL) AND was.state IS 'settled'
                     AND was.hints_hash IS job.hints_hash AND NOT pair.lacks))",
        [],
    )?;
    let jobs: u64 = conn
        .query_row(
            "SELECT count(DISTINCT job_id) FROM temp.carry_pairs WHERE deleted",
            [],
            |row| row.get(0),
        )
        .map_err(StoreError::sqlite(what))?;
    vouched.leave_out("jobs deleted", jobs);
    Ok(())
}

/// Whose rows each pair's are.
fn choose(conn: &Connection, basis: &Basis) -> Result<(), StoreError> {
    let what = "choose whose rows stand";
    // What no evidence at hand tells is the database's, unless all that there ever was is at hand and tells nothing.
    run(
        conn,
        what,
        "UPDATE temp.carry_pairs SET source = CASE
             WHEN aside IS NOT NULL OR held THEN 'old'
             WHEN job_id NOT IN (SELECT job_id FROM temp.carry_jobs WHERE inventory) THEN 'old'
             WHEN facts_new IS NULL AND (?1 OR ?2 AND known AND NOT older AND ours_from IS NULL) THEN 'new'
             WHEN facts_new IS NULL THEN 'old'
             WHEN ours_from > facts_new THEN 'old'
             WHEN gone > facts_new AND facts_old > facts_new THEN 'old'
             WHEN NOT older AND ours_from IS NULL THEN 'new'
             WHEN event_new IS NULL AND NOT event_old THEN 'new'
             ELSE 'both' END",
        params![basis.is_strict(), basis.purpose == Purpose::Verify],
    )?;
    // Without evidence that is newer, the facts themselves are the oldest that counts.
    run(
        conn,
        what,
        "UPDATE temp.carry_pairs SET until = facts_new WHERE source = 'both' AND gone > facts_new",
        [],
    )?;
    super::oldest::find(conn)?;
    run(
        conn,
        what,
        &format!("UPDATE temp.carry_pairs SET below = until || '{AFTER}' WHERE source = 'both'"),
        [],
    )?;
    if any(
        conn,
        what,
        "SELECT 1 FROM temp.carry_pairs WHERE source = 'both' AND loose",
        [],
    )? {
        // The backend's events carry its clock: they reach up to the next of ours.
        run(
            conn,
            what,
            &format!("UPDATE temp.carry_pairs SET below = '{AFTER}' WHERE source = 'both' AND loose"),
            [],
        )?;
        run(
            conn,
            what,
            "UPDATE temp.carry_pairs SET below = event.next
             FROM (SELECT event.job_id, event.pc_id, min(event.observed_at) AS next
                   FROM main.inventory_history event
                   CROSS JOIN temp.carry_pairs pair ON pair.job_id = event.job_id AND pair.pc_id = event.pc_id
                   WHERE pair.source = 'both' AND pair.loose AND event.observed_at > pair.until
                   GROUP BY event.job_id, event.pc_id) event
             WHERE event.job_id = carry_pairs.job_id AND event.pc_id = carry_pairs.pc_id",
            [],
        )?;
    }
    Ok(())
}
