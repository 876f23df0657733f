//! The oldest evidence at hand of pairs with older results: up to it the history is the database's.

use std::collections::BTreeMap;

use rusqlite::Connection;

use super::super::{StoreError, derive};
use crate::wire::time::Timestamp;

/// What is looked for of one pair.
struct Wanted {
    /// Not before this: results that are not at hand, or were not derived by us, reach up to it.
    from: String,
    /// Of the scratch's facts: evidence itself, and the newest that was applied.
    newest: String,
    /// The scratch's first event: surely made by evidence.
    first_event: Option<String>,
}

/// Job, then PC.
type Pairs = BTreeMap<String, BTreeMap<String, Wanted>>;

/// Finds it for all pairs that want one, by one scan of the scratch's results.
pub(super) fn find(conn: &Connection) -> Result<(), StoreError> {
    let what = || StoreError::sqlite("find the oldest evidence of pairs");
    let mut wanted = wanted(conn).map_err(what())?;
    let mut found: Vec<(String, String, String)> = Vec::new();
    if !wanted.is_empty() {
        let mut scan = conn
            .prepare(
                "SELECT entry, job_id, pc_id, published_ns FROM main.projector_results
                 WHERE counts AND job_id IS NOT NULL ORDER BY entry",
            )
            .map_err(what())?;
        let mut rows = scan.query([]).map_err(what())?;
        while let Some(row) = rows.next().map_err(what())? {
            let text = |index| {
                row.get_ref(index).map_err(what())?.as_str().map_err(|error| {
                    StoreError::Value(format!("projector_results holds what is no text: {error}"))
                })
            };
            let (job_id, pc_id) = (text(1)?, text(2)?);
            let Some(pcs) = wanted.get_mut(job_id) else {
                continue;
            };
            let Some(pair) = pcs.get(pc_id) else { continue };
            let published = Timestamp::from_unix_nanos(row.get(3).map_err(what())?).stored();
            if published < pair.from || published > pair.newest {
                continue;
            }
            let is_evidence = published == pair.newest
                || pair.first_event.as_ref() == Some(&published)
                || derive::gives_inventory(conn, row.get(0).map_err(what())?)?;
            if is_evidence {
                found.push((job_id.to_owned(), pc_id.to_owned(), published));
                pcs.remove(pc_id);
                if pcs.is_empty() {
                    wanted.remove(job_id);
                    if wanted.is_empty() {
                        break;
                    }
                }
            }
        }
    }
    let write = || -> Result<(), rusqlite::Error> {
        let mut update =
            conn.prepare("UPDATE temp.carry_pairs SET until = ?3 WHERE job_id = ?1 AND pc_id = ?2")?;
        for pair in &found {
            update.execute([&pair.0, &pair.1, &pair.2])?;
        }
        // Facts are there, so some result has given them.
        conn.execute(
            "UPDATE temp.carry_pairs SET until = facts_new WHERE source = 'both' AND until IS NULL",
            [],
        )?;
        Ok(())
    };
    write().map_err(what())
}

fn wanted(conn: &Connection) -> Result<Pairs, rusqlite::Error> {
    let mut wanted = Pairs::new();
    let mut select = conn.prepare(
        "SELECT job_id, pc_id, max(coalesce(gone, ''), coalesce(ours_from, '')), facts_new, event_new
         FROM temp.carry_pairs WHERE source = 'both' AND until IS NULL",
    )?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let pair = Wanted {
            from: row.get(2)?,
            newest: row.get(3)?,
            first_event: row.get(4)?,
        };
        wanted.entry(row.get(0)?).or_default().insert(row.get(1)?, pair);
    }
    Ok(wanted)
}
