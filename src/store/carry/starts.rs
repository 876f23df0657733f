//! Which of two start events counted. The first in the stream does; where that one is gone and a second is at hand, the
//! scratch has the wrong one, and only the database has the right one.

use rusqlite::{Connection, params};

use crate::projection::manifests::Manifests;
use crate::wire::manifest::expires_at;
use crate::wire::time::Timestamp;

/// Nanoseconds since 1970.
type Nanos = i64;

/// Marks in `temp.unlike` the rows whose start event in the database is older than anything that EVENTS still holds.
///
/// `holes`: the first may be missing anywhere.
pub(super) fn mark_older(
    conn: &Connection,
    manifests: &Manifests,
    holes: bool,
) -> Result<(), rusqlite::Error> {
    if !conn
        .prepare("SELECT 1 FROM temp.unlike WHERE earlier")?
        .exists([])?
    {
        return Ok(());
    }
    let (first, horizon) = first_start(conn, manifests)?;
    let mut mark = conn.prepare("UPDATE temp.unlike SET start = 1, deadline = 0 WHERE result_id = ?1")?;
    let mut list = conn.prepare(
        "SELECT u.result_id, s.job_id, s.recorded_at, o.recorded_at, s.expires_at, o.expires_at
         FROM temp.unlike AS u JOIN main.execution_results AS s ON s.result_id = u.result_id
             JOIN old.execution_results AS o ON o.result_id = u.result_id
         WHERE u.earlier",
    )?;
    let mut rows = list.query([])?;
    let mut older = Vec::new();
    while let Some(row) = rows.next()? {
        let job_id: Option<String> = row.get(1)?;
        let recorded = (nanos(row, 2)?, nanos(row, 3)?);
        let expires = (nanos(row, 4)?, nanos(row, 5)?);
        let grace = job_id.and_then(|job_id| grace(manifests, &job_id, recorded.0));
        let is_older = match (grace, expires, recorded.1) {
            // A deadline tells when its start event was published.
            (Some(grace), (Some(here), Some(there)), Some(recorded)) => {
                let there = there - grace;
                there < here - grace
                    && recorded <= there
                    && (holes || first.is_none_or(|first| there < first))
            }
            _ => recorded.1 < recorded.0 && (holes || recorded.1 < horizon),
        };
        if is_older {
            older.push(row.get::<_, String>(0)?);
        }
    }
    for result_id in older {
        mark.execute(params![result_id])?;
    }
    Ok(())
}

/// When the first start event at hand was published, as far as deadlines tell; and a time that it was not published before.
fn first_start(
    conn: &Connection,
    manifests: &Manifests,
) -> Result<(Option<Nanos>, Option<Nanos>), rusqlite::Error> {
    let mut list = conn.prepare(
        "SELECT job_id, min(recorded_at), min(expires_at) FROM main.execution_results
         WHERE version IS NOT NULL GROUP BY job_id",
    )?;
    let mut rows = list.query([])?;
    let (mut first, mut horizon): (Option<Nanos>, Option<Nanos>) = (None, None);
    let least = |least: &mut Option<Nanos>, found: Option<Nanos>| {
        *least = least.map_or(found, |least| Some(found.map_or(least, |found| found.min(least))));
    };
    while let Some(row) = rows.next()? {
        let job_id: Option<String> = row.get(0)?;
        least(&mut horizon, nanos(row, 1)?);
        let grace = job_id.and_then(|job_id| grace(manifests, &job_id, Some(Nanos::MAX)));
        least(
            &mut first,
            nanos(row, 2)?.zip(grace).map(|(at, grace)| at - grace),
        );
    }
    Ok((first, horizon))
}

fn nanos(row: &rusqlite::Row<'_>, index: usize) -> Result<Option<Nanos>, rusqlite::Error> {
    let text: Option<String> = row.get(index)?;
    Ok(text
        .and_then(|text| Timestamp::parse_stored(&text).ok())
        .and_then(|at| at.unix_nanos()))
}

/// How long after its start a run of a job is given up, under a manifest that was in force by then.
fn grace(manifests: &Manifests, job_id: &str, recorded: Option<Nanos>) -> Option<Nanos> {
    let job = manifests.job(job_id)?;
    let changed = job.changed.and_then(|changed| changed.unix_nanos());
    if changed.is_some_and(|changed| recorded.is_none_or(|recorded| changed > recorded)) {
        return None;
    }
    expires_at(Timestamp::from_unix_nanos(0), job.timeout.as_deref()?)?.unix_nanos()
}
