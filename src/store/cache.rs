//! The page cache, as large as the file has use for: memory that is touched for the first time is what a short run waits for,
//! and pages that are only appended have no use for any.

use rusqlite::Connection;

use super::StoreError;

/// What appended pages and the upper levels of trees need, however small the file is.
const LEAST_BYTES: u64 = 32 << 20;

/// Follows the file's size up to its limit.
#[derive(Debug)]
pub(super) struct PageCache {
    /// `None`: not set yet.
    bytes: Option<u64>,
    bytes_max: u64,
    /// Of the file, so much is met in no order: what secondary indexes, or without them the keys, take of it, rounded up.
    part: u64,
}

impl PageCache {
    /// A cache for a file with its secondary indexes, or for one that is loaded without them.
    pub(super) fn new(bytes_max: u64, indexed: bool) -> Self {
        Self {
            bytes: None,
            bytes_max,
            part: if indexed { 2 } else { 4 },
        }
    }

    /// Makes it as large as the file has use for by now. It grows in steps, and never shrinks.
    pub(super) fn follow(&mut self, conn: &Connection) -> Result<(), StoreError> {
        if self.bytes == Some(self.bytes_max) {
            return Ok(());
        }
        let number = |pragma| {
            conn.prepare_cached(pragma)?
                .query_row([], |row| row.get::<_, u64>(0))
        };
        let file = || Ok(number("PRAGMA page_count")? * number("PRAGMA page_size")?);
        let file = file().map_err(StoreError::sqlite("ask for the file's size"))?;
        let wanted = (LEAST_BYTES + file / self.part).min(self.bytes_max);
        let is_step = wanted == self.bytes_max || self.bytes.is_none_or(|bytes| wanted >= bytes + bytes / 8);
        if !is_step {
            return Ok(());
        }
        let kib = i64::try_from(wanted / 1024).unwrap_or(i64::MAX);
        conn.pragma_update(None, "cache_size", -kib)
            .map_err(StoreError::sqlite("set the page cache"))?;
        self.bytes = Some(wanted);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Owner, Store, StoreOptions};
    use super::*;

    fn cache_kib(conn: &Connection) -> i64 {
        conn.query_row("PRAGMA cache_size", [], |row| row.get::<_, i64>(0))
            .unwrap()
            .abs()
    }

    fn grow(conn: &Connection, mib: u32) {
        conn.execute("INSERT INTO t VALUES (zeroblob(?1))", [mib << 20])
            .unwrap();
    }

    #[test]
    fn the_cache_follows_the_file_in_steps_and_stops_at_its_limit() {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch("CREATE TABLE t (x)").unwrap();
        let mut cache = PageCache::new(44 << 20, true);
        cache.follow(&conn).unwrap();
        assert_eq!(cache_kib(&conn), (32 << 10) + 4, "two pages are there");
        grow(&conn, 4);
        cache.follow(&conn).unwrap();
        assert_eq!(cache_kib(&conn), (32 << 10) + 4, "not for every page");
        grow(&conn, 8);
        cache.follow(&conn).unwrap();
        assert!(
            (38..39).contains(&(cache_kib(&conn) >> 10)),
            "half of twelve more"
        );
        grow(&conn, 60);
        cache.follow(&conn).unwrap();
        assert_eq!(cache_kib(&conn), 44 << 10, "its limit");
    }

    #[test]
    fn a_stores_cache_has_the_limit_that_is_configured() {
        let folder = tempfile::tempdir().unwrap();
        let options = StoreOptions {
            page_cache_bytes: 8 << 20,
            ..StoreOptions::default()
        };
        let path = folder.path().join("results.db");
        let store = Store::open(&path, &options, &Owner::default()).unwrap();
        assert_eq!(cache_kib(&store.conn), 8 << 10);
    }

    #[test]
    fn a_limit_below_what_any_file_needs_is_kept() {
        let conn = Connection::open_in_memory().unwrap();
        for kib in [1 << 10, 0] {
            PageCache::new(kib << 10, false).follow(&conn).unwrap();
            assert_eq!(cache_kib(&conn).unsigned_abs(), kib);
        }
    }
}
