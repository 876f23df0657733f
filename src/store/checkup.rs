//! What the database knows about the world outside, for `doctor`: few questions, each by an index.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use rusqlite::{Connection, OptionalExtension, params};

use super::open::WAL_RESET_FIXED;
use super::{StoreError, wal_path};
use crate::wire::kv;
use crate::wire::result;
use crate::wire::time::Timestamp;

/// Runs that are looked at at most, of a revoked script and of those that were left out.
const RUNS_MAX: usize = 200_000;
/// Pages of a log that are looked at.
const FRAMES_MAX: u64 = 200_000;

/// Those of some PCs of which no result is held.
///
/// # Errors
/// SQLite's.
pub fn without_results(conn: &Connection, pcs: &[String]) -> Result<Vec<String>, StoreError> {
    let find = || -> Result<Vec<String>, rusqlite::Error> {
        let mut statement =
            conn.prepare("SELECT EXISTS (SELECT 1 FROM execution_results WHERE pc_id = ?1)")?;
        let mut missing = Vec::new();
        for pc_id in pcs {
            if !statement.query_row([pc_id], |row| row.get::<_, bool>(0))? {
                missing.push(pc_id.clone());
            }
        }
        Ok(missing)
    };
    find().map_err(StoreError::sqlite("look for the results of PCs"))
}

/// Runs of a job that began after its script was revoked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunsAfter {
    /// How many.
    pub runs: u64,
    /// On so many PCs.
    pub pcs: u64,
    /// When the last was published.
    pub last: String,
}

/// Runs of a job that began after a time, by the agent's clock and the server's, and were run: those that the agent left
/// out or refused are what revoking is for.
///
/// # Errors
/// SQLite's.
pub fn runs_after(
    conn: &Connection,
    job_id: &str,
    since: Timestamp,
) -> Result<Option<RunsAfter>, StoreError> {
    let since = since.stored();
    let read = || -> Result<Option<RunsAfter>, rusqlite::Error> {
        let mut statement = conn.prepare(
            "SELECT pc_id, recorded_at, exit_code, request_id, result_id FROM execution_results
             WHERE job_id = ?1 AND recorded_at > ?2 AND started_at > ?2 AND skipped = 0
                 AND coalesce(exit_code, 0) <> ?3 LIMIT ?4",
        )?;
        let limit = i64::try_from(RUNS_MAX).unwrap_or(i64::MAX);
        let mut rows = statement.query(params![job_id, since, kv::EXIT_SKIP_REVOKED, limit])?;
        let (mut runs, mut pcs, mut last) = (0, BTreeSet::new(), String::new());
        while let Some(row) = rows.next()? {
            let (pc_id, recorded): (String, String) = (row.get(0)?, row.get(1)?);
            if row.get::<_, Option<i32>>(2)? == Some(kv::EXIT_REJECTED_UNSIGNED) {
                let (request, id): (String, String) = (row.get(3)?, row.get(4)?);
                if result::refusal_id(&request, &pc_id) == id {
                    continue;
                }
            }
            runs += 1;
            pcs.insert(pc_id);
            last = last.max(recorded);
        }
        Ok((runs > 0).then(|| RunsAfter {
            runs,
            pcs: u64::try_from(pcs.len()).unwrap_or(u64::MAX),
            last,
        }))
    };
    read().map_err(StoreError::sqlite("look for runs of a revoked script"))
}

/// Runs since a time that agents left out or refused, by reserved exit code (contract §1.7); of the newest 200,000 at most.
///
/// # Errors
/// SQLite's.
pub fn left_out(conn: &Connection, since: Timestamp) -> Result<Vec<(i32, u64)>, StoreError> {
    let since = since.stored();
    let newest = format!(
        "(SELECT exit_code, skipped, request_id, pc_id, result_id
          FROM execution_results INDEXED BY idx_execution_results_recorded_at
          WHERE recorded_at > ?1 ORDER BY recorded_at DESC LIMIT {RUNS_MAX})"
    );
    let skipped = || -> Result<Vec<(i32, u64)>, rusqlite::Error> {
        // A script may exit with these numbers, too: the flag decides, and for a refusal the id.
        conn.prepare(&format!(
            "SELECT exit_code, count(*) FROM {newest} WHERE skipped = 1 AND exit_code BETWEEN ?2 AND ?3
             GROUP BY 1 ORDER BY 1"
        ))?
        .query_map(
            params![since, kv::EXIT_SKIP_UNSUPPORTED, kv::EXIT_SKIP_STALENESS],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?
        .collect()
    };
    let refused = || -> Result<u64, rusqlite::Error> {
        let mut statement = conn.prepare(&format!(
            "SELECT request_id, pc_id, result_id FROM {newest} WHERE exit_code = ?2 AND skipped = 0"
        ))?;
        let mut rows = statement.query(params![since, kv::EXIT_REJECTED_UNSIGNED])?;
        let mut refused = 0;
        while let Some(row) = rows.next()? {
            let (request, pc, id): (String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
            refused += u64::from(result::refusal_id(&request, &pc) == id);
        }
        Ok(refused)
    };
    let read = || -> Result<Vec<(i32, u64)>, rusqlite::Error> {
        let mut all = skipped()?;
        let refused = refused()?;
        if refused > 0 {
            all.push((kv::EXIT_REJECTED_UNSIGNED, refused));
        }
        all.sort_unstable();
        Ok(all)
    };
    let has_index = conn
        .query_row(
            "SELECT 1 FROM sqlite_schema WHERE name = 'idx_execution_results_recorded_at'",
            [],
            |_| Ok(()),
        )
        .optional()
        .map_err(StoreError::sqlite("look for an index"))?;
    match has_index {
        Some(()) => read().map_err(StoreError::sqlite("count runs that were left out")),
        // A whole table would be read: this is not worth that.
        None => Ok(Vec::new()),
    }
}

/// A version of SQLite that has written a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SqliteVersion(pub i32);

impl SqliteVersion {
    /// The one in this program.
    #[must_use]
    pub fn ours() -> Self {
        Self(rusqlite::version_number())
    }

    /// Whether two connections may corrupt the file (3.7.0 to 3.51.2): a reset of the log gets lost against a checkpoint.
    #[must_use]
    pub fn has_wal_reset_bug(self) -> bool {
        (3_007_000..WAL_RESET_FIXED).contains(&self.0)
    }
}

impl std::fmt::Display for SqliteVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self(number) = *self;
        write!(
            f,
            "{}.{}.{}",
            number / 1_000_000,
            number / 1_000 % 1_000,
            number % 1_000
        )
    }
}

/// The versions of SQLite whose hand is seen in a file: whoever writes a database's first page writes its own version
/// there. Read from the file and from what its log still holds. Not proof that there is no other.
///
/// # Errors
/// The system's.
pub fn written_by(database: &Path) -> io::Result<Vec<SqliteVersion>> {
    let mut found = Vec::new();
    let mut page = [0_u8; 100];
    File::open(database)?.read_exact(&mut page)?;
    found.extend(version_in(&page));
    if let Ok(mut log) = File::open(wal_path(database)) {
        // Whatever cannot be read of it tells nothing.
        let _read = first_pages(&mut log, &mut found).is_ok();
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// Looks at every first page in a log: also at what is left of earlier turns.
fn first_pages(log: &mut File, found: &mut Vec<SqliteVersion>) -> io::Result<()> {
    let mut head = [0_u8; 32];
    log.read_exact(&mut head)?;
    let page_bytes = u64::from(number_at(&head, 8));
    if !(512..=65_536).contains(&page_bytes) {
        return Ok(());
    }
    for frame in 0..FRAMES_MAX {
        log.seek(SeekFrom::Start(32 + frame * (24 + page_bytes)))?;
        let mut start = [0_u8; 124];
        log.read_exact(&mut start)?;
        if number_at(&start, 0) == 1
            && let Some(version) = start.get(24..).and_then(version_in)
        {
            found.push(version);
        }
    }
    Ok(())
}

/// The version in a first page: valid for the change that is counted beside it.
fn version_in(page: &[u8]) -> Option<SqliteVersion> {
    if !page.starts_with(b"SQLite format 3\0") || number_at(page, 24) != number_at(page, 92) {
        return None;
    }
    i32::try_from(number_at(page, 96))
        .ok()
        .filter(|number| *number > 0)
        .map(SqliteVersion)
}

fn number_at(bytes: &[u8], at: usize) -> u32 {
    let four = bytes
        .get(at..at + 4)
        .and_then(|four| <[u8; 4]>::try_from(four).ok());
    u32::from_be_bytes(four.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::time::Duration;

    use super::*;

    #[test]
    fn whoever_wrote_the_first_page_is_seen_in_the_file_and_in_its_log() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        let conn = Connection::open(&path).unwrap();
        conn.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE a (b)")
            .unwrap();
        conn.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
        assert_eq!(written_by(&path).unwrap(), [SqliteVersion::ours()]);
        // An older library writes the page, and ours writes it anew into the log.
        let old = 3_046_000_u32;
        let mut file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.seek(SeekFrom::Start(96)).unwrap();
        file.write_all(&old.to_be_bytes()).unwrap();
        assert_eq!(written_by(&path).unwrap(), [SqliteVersion(3_046_000)]);
        conn.busy_timeout(Duration::from_secs(5)).unwrap();
        conn.execute_batch("CREATE TABLE c (d)").unwrap();
        let both = written_by(&path).unwrap();
        assert_eq!(both, [SqliteVersion(3_046_000), SqliteVersion::ours()]);
        assert!(both[0].has_wal_reset_bug() && !both[1].has_wal_reset_bug());
        assert_eq!(both[0].to_string(), "3.46.0");
    }

    #[test]
    fn the_wal_reset_bug_is_seen_in_3_7_0_to_3_51_2() {
        for (version, so) in [
            (3_006_023, false),
            (3_007_000, true),
            (3_051_002, true),
            (3_051_003, false),
        ] {
            assert_eq!(SqliteVersion(version).has_wal_reset_bug(), so, "{version}");
        }
    }
}
