//! The results of one job, taken from the database: what is derived of them is derived anew in the scratch.

use rusqlite::Connection;

use super::super::names::listed;
use super::super::{StoreError, columns};
use super::books::LINE;
use super::outputs::OUTPUT;
use super::run;

/// Takes the results of one job from the database, as far as it has their rows, and makes their pairs due.
pub(in super::super) fn take_job(conn: &Connection, job: &str) -> Result<(), StoreError> {
    let what = format!("read the results of job {job:?}");
    for sql in [
        format!(
            "INSERT INTO main.projector_results ({LINE}) SELECT {LINE} FROM old.projector_results line
             WHERE job_id = ?1 AND counts
                 AND EXISTS (SELECT 1 FROM old.execution_results row WHERE row.result_id = line.result_id)"
        ),
        format!(
            "INSERT OR IGNORE INTO main.execution_results ({}) SELECT {}
             FROM main.projector_results line JOIN old.execution_results row USING (result_id)
             WHERE line.job_id = ?1",
            listed(columns::RESULT.iter().copied(), ""),
            listed(columns::RESULT.iter().copied(), "row.")
        ),
        format!(
            "INSERT OR IGNORE INTO main.projector_outputs (entry, {OUTPUT}) SELECT book.entry, {}
             FROM main.projector_results line JOIN old.projector_outputs book USING (result_id)
             WHERE line.job_id = ?1",
            listed(OUTPUT.split(", "), "book.")
        ),
        "INSERT INTO main.projector_derivations (job_id, pc_id, hints_hash, first_entry, state)
         SELECT job_id, pc_id, '', min(entry), 'due' FROM main.projector_results WHERE job_id = ?1 GROUP BY 1, 2"
            .to_owned(),
    ] {
        run(conn, &what, &sql, [job])?;
    }
    Ok(())
}
