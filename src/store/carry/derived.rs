//! Facts, history, exploded rows, checks and feeds: what the messages at hand tell is the scratch's, what only older ones
//! told is taken from the database (DESIGN §8.1).

use rusqlite::Connection;

use super::super::StoreError;
use super::super::names::listed;
use super::pairs::{forget, gather};
use super::{Basis, Vouched, any, checks, exploded, run};
use crate::projection::manifests::Manifests;

const FACTS: &str = "pc_id, job_id, facts_json, display_json, summary_json, collected_at, recorded_at";
const EVENT: &str =
    "pc_id, job_id, field_path, identity_json, change_kind, before_json, after_json, observed_at";

/// Settles what is derived: afterwards the scratch's derived tables say what the database's should.
///
/// # Errors
/// SQLite's.
pub(super) fn settle_derived(
    conn: &Connection,
    manifests: &Manifests,
    basis: &Basis,
    vouched: &mut Vouched,
) -> Result<(), StoreError> {
    gather(conn, manifests, basis, vouched)?;
    facts(conn, vouched)?;
    history(conn, vouched)?;
    exploded::settle(conn, basis, vouched)?;
    checks::settle_checks(conn, basis, vouched)?;
    checks::settle_feeds(conn, basis, vouched)?;
    snapshots(conn, basis, vouched)?;
    first_entries(conn)?;
    forget(conn)
}

/// Runs for the pairs whose rows are vouched for, and counts, and for those that are not compared (parameter 1).
pub(super) fn for_each_kind(
    conn: &Connection,
    mut bring: impl FnMut(bool) -> Result<u64, StoreError>,
) -> Result<u64, StoreError> {
    let brought = bring(false)?;
    let any_aside = "SELECT 1 FROM temp.carry_pairs WHERE aside IS NOT NULL";
    if any(conn, "look for pairs that are not compared", any_aside, [])? {
        bring(true)?;
    }
    Ok(brought)
}

fn facts(conn: &Connection, vouched: &mut Vouched) -> Result<(), StoreError> {
    let what = "carry facts";
    run(
        conn,
        what,
        "DELETE FROM main.inventory_facts WHERE (pc_id, job_id) IN (
             SELECT pc_id, job_id FROM temp.carry_pairs
             WHERE facts_new IS NOT NULL AND (source = 'old' OR deleted))",
        [],
    )?;
    let columns = listed(FACTS.split(", "), "fact.");
    let facts = for_each_kind(conn, |aside| {
        run(
            conn,
            what,
            &format!(
                "INSERT INTO main.inventory_facts ({FACTS}) SELECT {columns} FROM temp.carry_pairs pair
                 CROSS JOIN old.inventory_facts fact ON fact.pc_id = pair.pc_id AND fact.job_id = pair.job_id
                 WHERE pair.source = 'old' AND pair.facts_old IS NOT NULL AND (pair.aside IS NOT NULL) = ?1"
            ),
            [aside],
        )
    })?;
    vouched.add("facts", facts);
    Ok(())
}

fn history(conn: &Connection, vouched: &mut Vouched) -> Result<(), StoreError> {
    let what = "carry the history";
    let replaced = "SELECT 1 FROM temp.carry_pairs
         WHERE event_new IS NOT NULL AND (source <> 'new' OR deleted)";
    if any(conn, what, replaced, [])? {
        run(
            conn,
            what,
            "DELETE FROM main.inventory_history WHERE EXISTS (
                 SELECT 1 FROM temp.carry_pairs pair
                 WHERE pair.job_id = inventory_history.job_id AND pair.pc_id = inventory_history.pc_id
                     AND (pair.source = 'old' OR pair.deleted
                         OR pair.source = 'both' AND inventory_history.observed_at <= pair.until))",
            [],
        )?;
    }
    let columns = listed(EVENT.split(", "), "event.");
    let events = for_each_kind(conn, |aside| {
        run(
            conn,
            what,
            &format!(
                "INSERT INTO main.inventory_history ({EVENT}) SELECT {columns} FROM old.inventory_history event
                 CROSS JOIN temp.carry_pairs pair ON pair.job_id = event.job_id AND pair.pc_id = event.pc_id
                 WHERE (pair.source = 'old' OR pair.source = 'both' AND event.observed_at < pair.below)
                     AND (pair.aside IS NOT NULL) = ?1
                 ORDER BY event.id"
            ),
            [aside],
        )
    })?;
    vouched.add("history_events", events);
    Ok(())
}

/// Facts of the stream INVENTORY, which has no pairs.
fn snapshots(conn: &Connection, basis: &Basis, vouched: &mut Vouched) -> Result<(), StoreError> {
    if basis.is_strict() {
        return Ok(());
    }
    let newer = if basis.all_at_hand { "false" } else { "true" };
    let columns = listed(FACTS.split(", "), "fact.");
    let snapshots = run(
        conn,
        "carry the snapshots",
        &format!(
            "INSERT INTO main.inventory_facts ({FACTS}) SELECT {columns} FROM old.inventory_facts fact
             WHERE substr(fact.job_id, 1, 10) = 'inventory.'
                 AND NOT EXISTS (SELECT 1 FROM temp.carry_pairs pair
                     WHERE pair.job_id = fact.job_id AND pair.pc_id = fact.pc_id)
             ON CONFLICT (pc_id, job_id) DO UPDATE SET facts_json = excluded.facts_json,
                 display_json = excluded.display_json, summary_json = excluded.summary_json,
                 collected_at = excluded.collected_at, recorded_at = excluded.recorded_at
                 WHERE {newer} AND excluded.recorded_at > recorded_at"
        ),
        [],
    )?;
    vouched.add("facts", snapshots);
    Ok(())
}

/// A pair with older results goes on from where the database began to derive it.
fn first_entries(conn: &Connection) -> Result<(), StoreError> {
    run(
        conn,
        "carry where pairs begin",
        "UPDATE main.projector_derivations SET first_entry = was.first_entry
         FROM temp.carry_pairs pair CROSS JOIN old.projector_derivations was
             ON was.job_id = pair.job_id AND was.pc_id = pair.pc_id
         WHERE pair.job_id = projector_derivations.job_id AND pair.pc_id = projector_derivations.pc_id
             AND pair.older
             AND NOT EXISTS (SELECT 1 FROM main.projector_results line WHERE line.entry = was.first_entry)",
        [],
    )?;
    Ok(())
}
