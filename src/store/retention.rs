//! What was deleted for its age: by ourselves in a database of our own, when an operator wants it, and by the backend's cleanup
//! in its file (contract §6.1). What is gone that way is no difference, and no replay brings it again.

use std::collections::BTreeMap;

use chrono::TimeDelta;
use rusqlite::{Connection, params};

use super::{StoreError, migrate};
use crate::wire::time::Timestamp;

/// The backend's cleanup deletes rows that are older (contract §6.1).
const CLEANUP_DAYS: i64 = 90;

/// A table whose old rows may be deleted. Ledgers are exempt (§6.4): losing a row of those runs jobs again; of checks, facts
/// and feeds there is but what holds now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Retained {
    /// `execution_results`, by `recorded_at`; with its rows go the book's lines about their outputs.
    Results,
    /// `inventory_history`, by `observed_at`.
    History,
}

impl Retained {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Results, Self::History];

    /// The table.
    #[must_use]
    pub fn table(self) -> &'static str {
        match self {
            Self::Results => "execution_results",
            Self::History => "inventory_history",
        }
    }

    /// By which its rows age, as the backend's cleanup counts.
    fn column(self) -> &'static str {
        match self {
            Self::Results => "recorded_at",
            Self::History => "observed_at",
        }
    }

    /// Where the horizon is kept.
    fn key(self) -> String {
        format!("retention.{}", self.table())
    }
}

/// Stored times before which rows may have been deleted, by table.
#[derive(Clone, Debug, Default)]
pub struct Horizons {
    /// Of every table that the backend's cleanup knows.
    all: Option<String>,
    by_table: BTreeMap<&'static str, String>,
}

impl Horizons {
    /// Those of a database at `now` (wall clock). `schema`: its name on this connection.
    ///
    /// # Errors
    /// SQLite's.
    pub fn read(conn: &Connection, schema: &str, now: Timestamp) -> Result<Self, StoreError> {
        let mut horizons = Self::of_backend(now);
        for retained in Retained::ALL {
            let Some(kept) = migrate::meta_of(conn, schema, &retained.key())? else {
                continue;
            };
            // The later of the two: texts of one form, whose order is that of times.
            let horizon = horizons
                .all
                .clone()
                .into_iter()
                .chain([kept])
                .max()
                .unwrap_or_default();
            horizons.by_table.insert(retained.table(), horizon);
        }
        Ok(horizons)
    }

    /// Only what the backend's cleanup may have deleted.
    #[must_use]
    fn of_backend(now: Timestamp) -> Self {
        let before = now.checked_add(TimeDelta::days(-CLEANUP_DAYS));
        Self {
            all: before.map(|before| before.stored()),
            by_table: BTreeMap::new(),
        }
    }

    /// The same time for every table.
    #[must_use]
    pub fn before(time: String) -> Self {
        Self {
            all: Some(time),
            by_table: BTreeMap::new(),
        }
    }

    /// The one of a table.
    #[must_use]
    pub fn of(&self, table: &str) -> Option<&str> {
        self.by_table.get(table).or(self.all.as_ref()).map(String::as_str)
    }
}

/// The one that this service has made of a table.
pub(super) fn horizon(conn: &Connection, retained: Retained) -> Result<Option<Timestamp>, StoreError> {
    let kept = migrate::meta(conn, &retained.key())?;
    Ok(kept.and_then(|text| Timestamp::parse_stored(&text).ok()))
}

/// Horizons that this service has made, by table: what `status` shows.
///
/// # Errors
/// SQLite's.
pub(super) fn kept(conn: &Connection) -> Result<BTreeMap<&'static str, String>, StoreError> {
    let mut kept = BTreeMap::new();
    for retained in Retained::ALL {
        if let Some(horizon) = migrate::meta(conn, &retained.key())? {
            kept.insert(retained.table(), horizon);
        }
    }
    Ok(kept)
}

/// Deletes at most `limit` rows from before a horizon, in the caller's transaction; the horizon is recorded first, and never
/// moves back. Returns how many rows.
pub(super) fn delete(
    conn: &Connection,
    retained: Retained,
    before: Timestamp,
    limit: usize,
) -> Result<usize, StoreError> {
    let (table, column, horizon) = (retained.table(), retained.column(), before.stored());
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let work = || -> Result<usize, rusqlite::Error> {
        conn.prepare_cached(
            "INSERT INTO projector_meta (key, value) VALUES (?1, ?2)
             ON CONFLICT (key) DO UPDATE SET value = max(value, excluded.value)",
        )?
        .execute(params![retained.key(), horizon])?;
        // An output that is still asked for would have no row to go into; and of a pair that waits for one, or is due, the later
        // results are still to be derived.
        let but_for = match retained {
            Retained::Results => {
                // The second condition on `state` lets SQLite take the partial index.
                "AND result_id NOT IN (SELECT result_id FROM projector_outputs WHERE state = 'pending' AND state <> 'fetched')
                 AND NOT EXISTS (SELECT 1 FROM projector_derivations pair
                     WHERE pair.job_id = execution_results.job_id AND pair.pc_id = execution_results.pc_id
                         AND pair.state <> 'settled')"
            }
            Retained::History => "",
        };
        let chosen =
            format!("SELECT rowid FROM {table} WHERE {column} < ?1 {but_for} ORDER BY {column} LIMIT ?2");
        if retained == Retained::Results {
            conn.prepare_cached(&format!(
                "DELETE FROM projector_outputs WHERE result_id IN
                     (SELECT result_id FROM execution_results WHERE rowid IN ({chosen}))"
            ))?
            .execute(params![horizon, limit])?;
        }
        conn.prepare_cached(&format!("DELETE FROM {table} WHERE rowid IN ({chosen})"))?
            .execute(params![horizon, limit])
    };
    work().map_err(StoreError::sqlite(format_args!("delete old rows of {table}")))
}
