//! Rows that committed transactions have inserted, changed or deleted, by table of the read model: SQLite tells of each.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rusqlite::Connection;
use rusqlite::hooks::Action;

use super::StoreError;

/// The tables that are told apart; the last stands for every exploded one, whose names come from manifests.
pub const WRITTEN_TABLES: [&str; 10] = [
    "execution_results",
    "executions",
    "job_completions",
    "job_version_completions",
    "inventory_facts",
    "inventory_history",
    "check_status",
    "feeds",
    "feed_meta",
    "exploded",
];

/// Counts of one connection.
#[derive(Clone, Debug, Default)]
pub(super) struct Written(Arc<[AtomicU64; WRITTEN_TABLES.len()]>);

impl Written {
    /// Counts what this connection writes from now on. The projector's books are left out.
    pub(super) fn watch(&self, conn: &mut Connection) -> Result<(), StoreError> {
        let counts = self.0.clone();
        let hook = move |_: Action, database: &str, table: &str, _: i64| {
            if database != "main" || table.starts_with("projector_") {
                return;
            }
            let named = WRITTEN_TABLES.iter().position(|name| *name == table);
            if let Some(count) = counts.get(named.unwrap_or(WRITTEN_TABLES.len() - 1)) {
                count.fetch_add(1, Ordering::Relaxed);
            }
        };
        conn.update_hook(Some(hook))
            .map_err(StoreError::sqlite("count what is written"))
    }

    /// The counts since they were last taken, of the tables that have any.
    pub(super) fn take(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let counts = self.0.iter().map(|count| count.swap(0, Ordering::Relaxed));
        WRITTEN_TABLES
            .into_iter()
            .zip(counts)
            .filter(|(_, count)| *count > 0)
    }

    /// What was counted is undone.
    pub(super) fn forget(&self) {
        self.take().for_each(drop);
    }
}
