//! SQLite and nothing else: the file, its schema, one transaction at a time, and what the books say.
//! May touch: `rusqlite`, `projection`, `wire`. May not: NATS, tokio; nothing outside opens a connection (I8).
//! Takes changes and positions, returns when they are durable; no SQL leaks out.

mod adopt;
pub mod backup;
mod cache;
pub mod carry;
pub mod checkup;
mod columns;
pub mod compare;
mod completions;
pub mod dead_letters;
pub mod derive;
mod disk;
pub mod dump;
mod error;
mod executions;
pub mod fail;
mod file;
mod first_pass;
mod group;
mod kind;
mod lock;
mod migrate;
mod names;
mod open;
pub mod output_book;
mod position;
pub mod refill;
pub mod report;
pub mod retention;
mod rows;
mod savepoint;
pub mod scratch;
mod snapshots;
pub mod swap;
mod table;
mod written;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::Connection;

pub use disk::{below_reserve, disk_free_bytes};
pub use error::{Class, StoreError};
pub use file::{FileIdentity, file_bytes, meeting_path, real_path, remove_if_there, wal_path, with_suffix};
pub use group::{Committed, Gap, Group, Left, Lines};
pub use kind::{FileKind, file_kind, is_bare_backend};
pub use lock::{Lock, Owner};
pub use migrate::{Versions, versions};
pub use open::{StoreOptions, Synchronous, Use, read_only};
pub use position::{Advance, Counts, Standing};
pub use written::WRITTEN_TABLES;

use self::cache::PageCache;
use self::retention::Retained;
use self::written::Written;
use crate::projection::manifests::Manifests;
use crate::wire::kv::StreamName;
use crate::wire::time::Timestamp;

/// Called now and then while a statement goes on.
pub type Progress = Arc<dyn Fn() + Send + Sync>;

/// Steps of SQLite's machine between two calls of [`Progress`]: some milliseconds.
const STEPS_PER_PROGRESS: i32 = 1_000_000;

fn set_progress(conn: &mut Connection, progress: &Progress) -> Result<(), StoreError> {
    let progress = progress.clone();
    let go_on = move || {
        progress();
        false
    };
    conn.progress_handler(STEPS_PER_PROGRESS, Some(go_on))
        .map_err(StoreError::sqlite("watch the progress of statements"))
}

/// Where every stream stands that a database has ever read.
///
/// # Errors
/// What SQLite says; a position that was changed by hand.
pub fn standings(conn: &Connection) -> Result<std::collections::BTreeMap<StreamName, Standing>, StoreError> {
    position::read_all(conn, "main")
}

/// What transactions on a new connection need.
fn context(conn: &Connection, options: &StoreOptions) -> Result<group::Context, StoreError> {
    let live = options.for_use == Use::Live;
    let letter_bytes = dead_letters::kept_bytes(conn)?;
    Ok(group::Context {
        triggers: completions::TriggerWatch::default(),
        letters: group::LetterRoom {
            bytes: letter_bytes,
            committed_bytes: letter_bytes,
            overflowed: false,
            bytes_max: options.dead_letter_bytes_max,
        },
        shapes: derive::Shapes::default(),
        orphans: derive::Orphans::default(),
        adopted: live && kind::is_adopted(conn)?,
        scratch_ledgers: (!live).then_some(options.for_use == Use::LoadOn && columns::has_ledgers(conn)?),
        deferred: options.for_use == Use::Load,
        shares_transaction: options.for_use == Use::Load,
        starts_come_first: false,
        first_pass: if live { first_pass::until(conn)? } else { None },
        foreknown: None,
        carried_outputs: 0,
        written: Written::default(),
    })
}

/// A new connection's page cache, for the file as it is.
fn page_cache(conn: &Connection, options: &StoreOptions) -> Result<PageCache, StoreError> {
    let mut cache = PageCache::new(options.page_cache_bytes, options.for_use == Use::Live);
    cache.follow(conn)?;
    Ok(cache)
}

/// The writer's database: the one connection that writes, and the lock that makes it the only one.
pub struct Store {
    conn: Connection,
    context: group::Context,
    cache: PageCache,
    identity: FileIdentity,
    /// The log, and which file it is once it is there.
    log: (PathBuf, Option<FileIdentity>),
    path: PathBuf,
    options: StoreOptions,
    progress: Option<Progress>,
    database_id: String,
    lock: Lock,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl Store {
    /// Takes the lock, opens the database or makes it, and brings its schema up to date.
    ///
    /// # Errors
    /// One line with the way out; see [`StoreError::exit_code`].
    pub fn open(path: &Path, options: &StoreOptions, me: &Owner) -> Result<Self, StoreError> {
        let lock = Lock::take(path, me)?;
        let mut conn = open::writer(path, options)?;
        let database_id = migrate::meta(&conn, "database_id")?.unwrap_or_default();
        let context = context(&conn, options)?;
        if options.for_use == Use::Live {
            context.written.watch(&mut conn)?;
        }
        let identity =
            FileIdentity::of(path).map_err(StoreError::io(format!("look at {}", path.display())))?;
        let cache = page_cache(&conn, options)?;
        Ok(Self {
            conn,
            context,
            cache,
            identity,
            log: (wal_path(&real_path(path)), None),
            path: path.to_owned(),
            options: options.clone(),
            progress: None,
            database_id,
            lock,
        })
    }

    /// The database's own id, kept for its life.
    #[must_use]
    pub fn database_id(&self) -> &str {
        &self.database_id
    }

    /// The database's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Begins a transaction under the manifests in force. `now_wall` goes into `_wall` columns only (I4).
    ///
    /// # Errors
    /// SQLite's; [`StoreError::Moved`] when the path no longer names the file that was opened.
    pub fn begin(
        &mut self,
        manifests: &Arc<Manifests>,
        now_wall: Timestamp,
    ) -> Result<Group<'_>, StoreError> {
        self.check_identity()?;
        self.cache.follow(&self.conn)?;
        Group::begin(&self.conn, &mut self.context, manifests.clone(), now_wall)
    }

    /// Derives every due pair anew, one transaction each: in a scratch, which nobody else works on.
    ///
    /// # Errors
    /// SQLite's.
    pub fn rederive_due(
        &mut self,
        manifests: &Arc<Manifests>,
        now_wall: Timestamp,
    ) -> Result<(), StoreError> {
        for due in derive::due_pairs(&self.conn)? {
            let mut group = self.begin(manifests, now_wall)?;
            group.rederive(&due)?;
            group.commit()?;
        }
        Ok(())
    }

    /// Whether the file is our own and no stream was ever read into it.
    ///
    /// # Errors
    /// SQLite's.
    pub fn is_new(&self) -> Result<bool, StoreError> {
        Ok(!self.context.adopted && position::read_all(&self.conn, "main")?.is_empty())
    }

    /// Refuses a file whose first pass (contract §7.2) is not over: what it will still meet must not be derived without it.
    ///
    /// # Errors
    /// [`StoreError::Unusable`] while it goes on.
    pub fn check_first_pass(&self) -> Result<(), StoreError> {
        first_pass::check_over(&self.conn, &self.path)
    }

    /// Whether the file is the backend's own, with other writers beside us.
    #[must_use]
    pub fn is_adopted(&self) -> bool {
        self.context.adopted
    }

    /// The pairs whose results wait for outputs.
    ///
    /// # Errors
    /// SQLite's.
    pub fn waiting_pairs(&self) -> Result<Vec<derive::OwnedPair>, StoreError> {
        derive::waiting_pairs(&self.conn)
    }

    /// Whether an execution is remembered whose row has not come yet.
    ///
    /// # Errors
    /// SQLite's.
    pub fn any_unsettled(&self) -> Result<bool, StoreError> {
        executions::any_unsettled(&self.conn)
    }

    /// Whether one of those can be settled, or has waited too long, at `now` (wall clock).
    ///
    /// # Errors
    /// SQLite's.
    pub fn any_to_settle(&self, now: Timestamp) -> Result<bool, StoreError> {
        executions::any_to_settle(&self.conn, now)
    }

    /// A number that changes when another connection has changed the file.
    ///
    /// # Errors
    /// SQLite's.
    pub fn data_version(&self) -> Result<i64, StoreError> {
        self.conn
            .prepare_cached("PRAGMA data_version")
            .and_then(|mut pragma| pragma.query_row([], |row| row.get(0)))
            .map_err(StoreError::sqlite("ask whether the file has changed"))
    }

    /// Replaces a connection that can no longer be trusted.
    ///
    /// # Errors
    /// As [`Store::open`], but nothing here ends the process that could heal.
    pub fn reopen(&mut self) -> Result<(), StoreError> {
        self.check_identity()?;
        self.conn = open::connection(&self.path, &self.options)?;
        self.log.1 = None;
        self.cache = page_cache(&self.conn, &self.options)?;
        let context = context(&self.conn, &self.options)?;
        let foreknown = self.context.foreknown.take();
        self.context = group::Context { foreknown, ..context };
        if self.options.for_use == Use::Live {
            self.context.written.watch(&mut self.conn)?;
        }
        if let Some(progress) = &self.progress {
            set_progress(&mut self.conn, progress)?;
        }
        Ok(())
    }

    /// Calls `progress` now and then while a statement goes on, from now on.
    ///
    /// # Errors
    /// SQLite's.
    pub fn set_progress(&mut self, progress: Progress) -> Result<(), StoreError> {
        set_progress(&mut self.conn, &progress)?;
        self.progress = Some(progress);
        Ok(())
    }

    /// Rows written by table of [`WRITTEN_TABLES`] since this was last asked, by transactions that were committed.
    pub fn take_written(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.context.written.take()
    }

    /// Projects from now on with what the database knows that this one is loaded beside.
    pub fn set_foreknown(&mut self, known: carry::Foreknowledge) {
        self.context.foreknown = Some(known);
    }

    /// See [`Store::set_foreknown`].
    #[must_use]
    pub fn foreknown(&self) -> Option<&carry::Foreknowledge> {
        self.context.foreknown.as_ref()
    }

    /// Deletes at most `limit` rows of a table of our own from before a horizon, for their age, and records it. Returns how
    /// many.
    ///
    /// # Errors
    /// SQLite's; [`StoreError::Moved`] as for [`Store::begin`].
    pub fn delete_old(
        &mut self,
        retained: Retained,
        before: Timestamp,
        limit: usize,
    ) -> Result<usize, StoreError> {
        self.check_identity()?;
        let tx = rusqlite::Transaction::new_unchecked(&self.conn, rusqlite::TransactionBehavior::Immediate)
            .map_err(StoreError::sqlite("begin to delete old rows"))?;
        let deleted = retention::delete(&tx, retained, before, limit)?;
        tx.commit()
            .map_err(StoreError::sqlite("commit the deletion of old rows"))?;
        Ok(deleted)
    }

    /// Up to where rows of a table were deleted for their age.
    ///
    /// # Errors
    /// SQLite's.
    pub fn horizon(&self, retained: Retained) -> Result<Option<Timestamp>, StoreError> {
        retention::horizon(&self.conn, retained)
    }

    /// What was counted since [`Store::take_written`] was undone.
    pub fn forget_written(&self) {
        self.context.written.forget();
    }

    /// After an error that may come from a changed schema: is the file still ours to write?
    ///
    /// # Errors
    /// What is missing.
    pub fn check_schema(&self) -> Result<(), StoreError> {
        columns::check_schema(&self.conn, self.context.adopted)
    }

    /// Where a stream stands.
    ///
    /// # Errors
    /// What SQLite says; a position that was changed by hand.
    pub fn standing(&self, stream: StreamName) -> Result<Option<Standing>, StoreError> {
        position::read(&self.conn, stream)
    }

    /// Outputs that are due for another attempt at `now` (wall clock).
    ///
    /// # Errors
    /// SQLite's.
    pub fn owed(&self, now: Timestamp, limit: usize) -> Result<Vec<output_book::Owed>, StoreError> {
        output_book::due(&self.conn, now, limit)
    }

    /// Outputs that are pending, due or not, in key order after `key`.
    ///
    /// # Errors
    /// SQLite's.
    pub fn pending_after(
        &self,
        key: Option<&(String, crate::wire::result::Field)>,
        limit: usize,
    ) -> Result<Vec<output_book::Owed>, StoreError> {
        output_book::pending_after(&self.conn, key, limit)
    }

    /// Makes outputs due that were too large for an earlier limit (bytes). Returns how many.
    ///
    /// # Errors
    /// SQLite's.
    pub fn reconsider_too_large(&self, limit: u64, now: Timestamp) -> Result<usize, StoreError> {
        output_book::reconsider_too_large(&self.conn, limit, now)
    }

    /// Size of the write-ahead log in bytes.
    #[must_use]
    pub fn wal_bytes(&self) -> u64 {
        file_bytes(&wal_path(&self.path))
    }

    /// Lets a commit copy the log into the database whenever it holds so many bytes.
    ///
    /// # Errors
    /// SQLite's.
    pub fn checkpoint_every(&self, bytes: u64) -> Result<(), StoreError> {
        // The backend's file has pages of its own size.
        self.conn
            .query_row("PRAGMA page_size", [], |row| row.get::<_, u64>(0))
            .and_then(|page| {
                self.conn
                    .pragma_update(None, "wal_autocheckpoint", bytes / page.max(1))
            })
            .map_err(StoreError::sqlite("set the size of a checkpoint"))
    }

    /// Copies the log into the database as far as readers allow; with `truncate` also cuts it to nothing when no
    /// reader is in the way. Returns whether everything was copied.
    ///
    /// # Errors
    /// SQLite's.
    pub fn checkpoint(&self, truncate: bool) -> Result<bool, StoreError> {
        // A truncating checkpoint waits for readers as long as the busy time-out: not for more than a blink here.
        let blink = std::time::Duration::from_millis(if truncate { 20 } else { 0 });
        let mode = if truncate { "TRUNCATE" } else { "PASSIVE" };
        let outcome = self.conn.busy_timeout(blink).and_then(|()| {
            self.conn
                .query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |row| {
                    Ok((
                        row.get::<_, i64>(0)?,
                        row.get::<_, i64>(1)?,
                        row.get::<_, i64>(2)?,
                    ))
                })
        });
        self.conn
            .busy_timeout(open::BUSY_TIMEOUT)
            .map_err(StoreError::sqlite("set the busy time-out"))?;
        fail::point("after-checkpoint");
        let (busy, log, copied) = outcome.map_err(StoreError::sqlite("checkpoint"))?;
        Ok(busy == 0 && log == copied)
    }

    /// Ends the transaction that the groups of a load share, so that others can read the scratch; `for_good`: from now on
    /// each has its own.
    ///
    /// # Errors
    /// SQLite's.
    pub fn end_shared_transaction(&mut self, for_good: bool) -> Result<(), StoreError> {
        self.context.shares_transaction &= !for_good;
        if self.conn.is_autocommit() {
            return Ok(());
        }
        let committed = self.conn.execute_batch("COMMIT");
        match committed {
            Ok(()) => self.context.committed(),
            Err(_) => self.context.roll_back(&self.conn),
        }
        committed.map_err(StoreError::sqlite("commit what was loaded"))
    }

    /// Copies the log into the database and closes it.
    pub fn close(mut self) {
        if let Err(error) = self.end_shared_transaction(true) {
            tracing::warn!(database = %self.path.display(), %error, "the end of a load was not committed");
        }
        let Self { conn, path, .. } = self;
        if let Err((_, error)) = conn.close() {
            tracing::warn!(database = %path.display(), %error, "the database was not closed cleanly; nothing committed is lost");
        }
    }

    /// Leaves the backend's file as if this service had never been there, but for what it has projected, and closes it.
    /// Returns the tables that were dropped, and the lock, which is still held.
    ///
    /// # Errors
    /// SQLite's; then nothing is changed.
    pub fn leave(self) -> Result<(Vec<String>, Lock), StoreError> {
        let tables = adopt::leave(&self.conn)?;
        let Self { conn, path, lock, .. } = self;
        conn.close().map_err(|(_, source)| StoreError::Sqlite {
            what: format!("close {}", path.display()),
            source,
        })?;
        Ok((tables, lock))
    }

    /// Neither the file nor its log may be another by now: what is written to one that was taken away is lost.
    fn check_identity(&mut self) -> Result<(), StoreError> {
        if self.options.for_use == Use::Live {
            let (path, known) = &mut self.log;
            let found = FileIdentity::of(path).ok();
            if known.is_some() && found != *known {
                return Err(StoreError::Moved {
                    path: path.display().to_string(),
                });
            }
            *known = found;
        }
        match FileIdentity::of(&self.path) {
            Ok(found) if found == self.identity => Ok(()),
            Ok(_) => Err(StoreError::Moved {
                path: self.path.display().to_string(),
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(StoreError::Moved {
                path: self.path.display().to_string(),
            }),
            Err(source) => Err(StoreError::Io {
                what: format!("look at {}", self.path.display()),
                source,
            }),
        }
    }
}
