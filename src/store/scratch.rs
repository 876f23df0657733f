//! A scratch: a side file that is loaded from the streams in bulk, completed with what only the database knows, and then
//! compared with it or put in its place (DESIGN §8.1, §8.2).

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::carry::{self, Completed, Purpose};
use super::compare::{self, Comparison, Findings, Mended, Scope};
use super::file::{COMPANIONS, file_bytes, remove_if_there, with_suffix};
use super::kind::is_adopted;
use super::names::quoted;
use super::open::{BUSY_TIMEOUT, unsound};
use super::position::{self, Standing};
use super::retention::Horizons;
use super::{StoreError, columns, migrate};
use crate::projection::manifests::Manifests;
use crate::wire::kv::StreamName;
use crate::wire::time::Timestamp;

/// More than any file: SQLite maps as much of it as it can. Building an index reads the whole table.
const MMAP_BYTES: i64 = 1 << 40;

/// A thread sorts so much at once: little enough that it is at work while the next part is read.
const SORTED_PART_BYTES: u64 = 4 << 20;
/// Threads that sort. There is as much to do for the one that reads the table.
const SORTERS: i64 = 1;

/// Where a database's scratch lies: beside it, so that it can take its place by a rename.
#[must_use]
pub fn path(database: &Path, suffix: &str) -> PathBuf {
    with_suffix(database, &format!(".{suffix}"))
}

/// Removes a scratch with everything that SQLite and we have put beside it.
///
/// # Errors
/// The system's.
pub fn remove(scratch: &Path) -> Result<(), StoreError> {
    for suffix in [""].into_iter().chain(COMPANIONS).chain([".lock"]) {
        let path = with_suffix(scratch, suffix);
        remove_if_there(&path).map_err(StoreError::io(format!("remove {}", path.display())))?;
    }
    Ok(())
}

/// A scratch's settings: nothing is made durable, and what a failed group changed is put back from memory.
pub(super) fn settings(conn: &Connection) -> Result<(), StoreError> {
    let set = |name: &str, value: &dyn rusqlite::ToSql| {
        conn.pragma_update_and_check(None, name, value, |_| Ok(()))
            .or_else(|error| match error {
                rusqlite::Error::QueryReturnedNoRows => Ok(()),
                error => Err(error),
            })
            .map_err(StoreError::sqlite(format_args!("set pragma {name}")))
    };
    set("journal_mode", &"MEMORY")?;
    set("synchronous", &"OFF")?;
    // Sorting for an index may need more than memory should hold.
    set("temp_store", &"FILE")?;
    set("mmap_size", &MMAP_BYTES)
}

/// The secondary indexes on the read model's tables: name and text.
fn indexes(conn: &Connection, schema: &str) -> Result<Vec<(String, String)>, StoreError> {
    let read = || -> Result<Vec<(String, String, String)>, rusqlite::Error> {
        conn.prepare(&format!(
            "SELECT tbl_name, name, sql FROM {schema}.sqlite_schema WHERE type = 'index' AND sql IS NOT NULL"
        ))?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect()
    };
    let found = read().map_err(StoreError::sqlite("read the indexes"))?;
    Ok(found
        .into_iter()
        .filter(|(table, ..)| columns::is_read_model(table))
        .map(|(_, name, sql)| (name, sql))
        .collect())
}

/// Takes the secondary indexes away: they are built once the rows are there.
pub(super) fn strip(conn: &Connection) -> Result<(), StoreError> {
    for (name, _) in indexes(conn, "main")? {
        conn.execute_batch(&format!("DROP INDEX {}", quoted(&name)))
            .map_err(StoreError::sqlite(format_args!("leave out the index {name}")))?;
    }
    Ok(())
}

/// Puts a file's bytes on disk.
///
/// # Errors
/// The system's.
pub(super) fn sync(path: &Path) -> Result<(), StoreError> {
    OnDisk::open(path)?.sync()
}

/// A file whose bytes are put on disk.
#[derive(Debug)]
pub struct OnDisk<'p> {
    file: File,
    path: &'p Path,
}

impl<'p> OnDisk<'p> {
    /// Opens it.
    ///
    /// # Errors
    /// The system's.
    pub fn open(path: &'p Path) -> Result<Self, StoreError> {
        let file = File::open(path).map_err(StoreError::io(format!(
            "open {} to put it on disk",
            path.display()
        )))?;
        Ok(Self { file, path })
    }

    /// Puts what was written by now on disk.
    ///
    /// # Errors
    /// The system's.
    pub fn sync(&self) -> Result<(), StoreError> {
        let synced = self.file.sync_all();
        synced.map_err(StoreError::io(format!("put {} on disk", self.path.display())))
    }
}

/// A loaded scratch, with the database beside it under the name `old` (see [`super::carry`]).
#[derive(Debug)]
pub struct Scratch {
    conn: Connection,
    path: PathBuf,
    /// No part that is sorted is larger; there are two at a time, and the cache has as much.
    sort_bytes: u64,
}

/// The database beside a scratch.
#[derive(Clone, Copy, Debug)]
pub enum Beside<'a> {
    /// There is none, or nothing but these is taken from it: the completions of the database named here.
    Nothing {
        /// Whose completions are kept.
        completions_of: Option<&'a Path>,
    },
    /// To be read.
    Database(&'a Path),
    /// To be mended.
    Mended(&'a Path),
}

impl Scratch {
    /// Opens a scratch once its load has ended.
    ///
    /// # Errors
    /// SQLite's.
    pub fn open(path: &Path, beside: Beside<'_>, memory_bytes: u64) -> Result<Self, StoreError> {
        // For each of the two files, whose keys are met in no order; and for sorting.
        let cache_kib = i64::try_from(memory_bytes / 3 / 1024).unwrap_or(i64::MAX);
        let flags =
            OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
        let conn = Connection::open_with_flags(path, flags)
            .map_err(StoreError::sqlite(format_args!("open {}", path.display())))?;
        settings(&conn)?;
        conn.busy_timeout(BUSY_TIMEOUT)
            .map_err(StoreError::sqlite("set the busy time-out"))?;
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)
            .map_err(StoreError::sqlite("switch triggers off"))?;
        conn.pragma_update(Some("main"), "cache_size", -cache_kib)
            .map_err(StoreError::sqlite("set the page cache"))?;
        match beside {
            Beside::Nothing { completions_of } => carry::attach_nothing(&conn, completions_of)?,
            Beside::Database(database) => carry::attach(&conn, database, "old", true)?,
            Beside::Mended(database) => carry::attach(&conn, database, "old", false)?,
        }
        conn.pragma_update(Some("old"), "cache_size", -cache_kib)
            .map_err(StoreError::sqlite("set the page cache"))?;
        Ok(Self {
            conn,
            path: path.to_owned(),
            sort_bytes: memory_bytes / 4,
        })
    }

    /// The same, calling `progress` now and then while a statement goes on.
    ///
    /// # Errors
    /// SQLite's.
    pub fn telling(mut self, progress: &super::Progress) -> Result<Self, StoreError> {
        super::set_progress(&mut self.conn, progress)?;
        Ok(self)
    }

    /// Begins to read the database as it is now, and says where its streams stand: what follows sees nothing newer.
    ///
    /// # Errors
    /// SQLite's, a position that cannot be read.
    pub fn snapshot(&self) -> Result<BTreeMap<StreamName, Standing>, StoreError> {
        self.conn
            .execute_batch("BEGIN")
            .map_err(StoreError::sqlite("begin to read"))?;
        position::read_all(&self.conn, "old")
    }

    /// What may have been deleted from the database for its age, at `now` (wall clock).
    ///
    /// # Errors
    /// SQLite's.
    pub fn horizons(&self, now: Timestamp) -> Result<Horizons, StoreError> {
        Horizons::read(&self.conn, "old", now)
    }

    /// Completes the scratch with what only the database knows.
    ///
    /// # Errors
    /// SQLite's.
    pub fn complete(
        &self,
        manifests: &Manifests,
        purpose: Purpose,
        now: Timestamp,
    ) -> Result<Completed, StoreError> {
        self.prove_load()?;
        carry::complete(&self.conn, manifests, purpose, now)
    }

    /// Builds the secondary indexes, which the load left out: those of our schema, or in a copy of the backend's file those
    /// that it has.
    ///
    /// # Errors
    /// SQLite's.
    pub fn build_indexes(&self) -> Result<(), StoreError> {
        let conn = &self.conn;
        self.sort_in_parts()?;
        let all = if is_adopted(conn)? {
            indexes(conn, "old")?
        } else {
            indexes(&migrate::in_memory(true)?, "main")?
        };
        let there: Vec<String> = indexes(conn, "main")?.into_iter().map(|(name, _)| name).collect();
        for (name, sql) in all {
            if !there.contains(&name) {
                conn.execute_batch(&sql).map_err(StoreError::sqlite(format_args!(
                    "build the index {name}, sorted in TMPDIR or else in /var/tmp"
                )))?;
            }
        }
        Ok(())
    }

    /// An index is sorted part by part, on a thread of its own while the table is read on.
    fn sort_in_parts(&self) -> Result<(), StoreError> {
        // Sixteen parts are merged at once: of a large file they are larger, up to what memory allows.
        let part =
            (file_bytes(&self.path) / 512).clamp(SORTED_PART_BYTES, self.sort_bytes.max(SORTED_PART_BYTES));
        let kib = i64::try_from(part / 1024).unwrap_or(i64::MAX);
        self.conn
            .pragma_update(Some("main"), "cache_size", -kib)
            .and_then(|()| {
                self.conn
                    .pragma_update_and_check(None, "threads", SORTERS, |_| Ok(()))
            })
            .map_err(StoreError::sqlite("set how indexes are sorted"))
    }

    /// Every result that the load counted has its row.
    fn prove_load(&self) -> Result<(), StoreError> {
        let (results, rows): (i64, i64) = self
            .conn
            .query_row(
                "SELECT (SELECT count(*) FROM main.projector_results WHERE counts),
                     (SELECT count(*) FROM main.execution_results WHERE finished_at IS NOT NULL)",
                [],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )
            .map_err(StoreError::sqlite("count what was loaded"))?;
        match results == rows {
            true => Ok(()),
            false => Err(wrong(&format!(
                "{results} results were loaded and {rows} rows made"
            ))),
        }
    }

    /// Proves a file that is to be a database: SQLite's own check, and that every message of every stream is accounted
    /// for (I3).
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn prove(&self) -> Result<(), StoreError> {
        match unsound(&self.conn)? {
            Some(what) => Err(wrong(&what)),
            None => Ok(()),
        }
    }

    /// What the database's own counts do not account for (I3), in words.
    ///
    /// # Errors
    /// SQLite's.
    pub fn unaccounted(&self) -> Result<Option<String>, StoreError> {
        position::first_that_does_not_add_up(&self.conn, "old")
    }

    /// Turns the scratch into a file that can be a database: with a log of its own, on disk.
    ///
    /// # Errors
    /// SQLite's.
    pub fn seal(self) -> Result<(), StoreError> {
        let sealing = || format!("close {}", self.path.display());
        self.conn
            .execute_batch("DETACH old")
            .map_err(StoreError::sqlite(sealing()))?;
        self.conn
            .pragma_update_and_check(Some("main"), "journal_mode", "WAL", |_| Ok(()))
            .map_err(StoreError::sqlite(sealing()))?;
        self.conn.close().map_err(|(_, source)| StoreError::Sqlite {
            what: format!("close {}", self.path.display()),
            source,
        })
    }

    /// What differs between the database and the scratch.
    ///
    /// # Errors
    /// SQLite's.
    pub fn compare(&self, scope: &Scope) -> Result<Comparison, StoreError> {
        compare::compare(&self.conn, scope)
    }

    /// What differs, kept to be written by [`Scratch::mend`]: after [`Scratch::snapshot`] and [`Scratch::complete`], all
    /// three of one state of the database. Others may write it meanwhile.
    ///
    /// # Errors
    /// SQLite's.
    pub fn find(&self, scope: &Scope) -> Result<(Comparison, Findings), StoreError> {
        compare::find(&self.conn, scope)
    }

    /// Writes what was found into the database, and ends what the snapshot began.
    ///
    /// # Errors
    /// SQLite's, or [`StoreError::Overtaken`]; then nothing is changed, and the scratch is as it was at the snapshot: it
    /// can be completed again.
    pub fn mend(&self, findings: &Findings, now: Timestamp) -> Result<Mended, StoreError> {
        compare::mend(&self.conn, findings, now)
    }

    /// Takes the results of one job from the database, as far as it has their rows, and makes their pairs due.
    ///
    /// # Errors
    /// SQLite's.
    pub fn take_job(&self, job: &str) -> Result<(), StoreError> {
        carry::take_job(&self.conn, job)
    }
}

fn wrong(what: &str) -> StoreError {
    StoreError::Unusable(format!(
        "the file that was made is wrong: {what}; it is thrown away and the database is as it was; please report this"
    ))
}

#[cfg(test)]
mod tests {
    use super::super::{Owner, Store, StoreOptions, Use};
    use super::*;

    #[test]
    fn an_index_that_is_sorted_in_several_parts_has_every_row_in_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("scratch.db");
        let owner = Owner::default();
        let options = StoreOptions {
            for_use: Use::Load,
            ..StoreOptions::default()
        };
        Store::open(&path, &options, &owner).unwrap().close();
        let beside = Beside::Nothing { completions_of: None };
        let scratch = Scratch::open(&path, beside, 96 << 20).unwrap();
        // Sixty bytes a key, so that there are more than two parts.
        scratch
            .conn
            .execute_batch(
                "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 200000)
                 INSERT INTO execution_results
                     (result_id, request_id, pc_id, started_at, recorded_at, job_id, finished_at)
                 SELECT printf('%d', n), hex(randomblob(30)), n % 100, hex(randomblob(16)), n, 'job', n FROM n",
            )
            .unwrap();
        scratch.build_indexes().unwrap();
        let found: String = scratch
            .conn
            .query_row("PRAGMA main.integrity_check", [], |row| row.get(0))
            .unwrap();
        assert_eq!(found, "ok");
        let expected = indexes(&migrate::in_memory(true).unwrap(), "main").unwrap();
        assert_eq!(indexes(&scratch.conn, "main").unwrap().len(), expected.len());
    }
}
