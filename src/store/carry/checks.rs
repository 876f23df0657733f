//! Checks and feeds: by their own keys, which several jobs may share.

use rusqlite::{Connection, params};

use super::super::StoreError;
use super::super::names::listed;
use super::{Basis, Purpose, Vouched, any, run};

/// What is carried by a key of its own.
struct Kind {
    /// The table that tells when the newest was written, and its key.
    table: &'static str,
    key: &'static [&'static str],
    columns: &'static str,
    /// Which jobs write it, by the manifests.
    jobs: &'static str,
    /// The key's column in `jobs`.
    name: &'static str,
    /// The keys whose rows are the database's.
    kept: &'static str,
}

const CHECKS: Kind = Kind {
    table: "check_status",
    key: &["check_name", "pc_id"],
    columns: "pc_id, check_name, status, detail, recorded_at, label",
    jobs: "carry_checks",
    name: "check_name",
    kept: "carry_kept_checks",
};
const FEEDS: Kind = Kind {
    table: "feed_meta",
    key: &["feed_id"],
    columns: "feed_id, recorded_at, fetched_at, item_count",
    jobs: "carry_feeds",
    name: "feed_id",
    kept: "carry_kept_feeds",
};

impl Kind {
    fn key(&self, of: &str) -> String {
        listed(self.key.iter().copied(), of)
    }

    fn same(&self, one: &str, other: &str) -> String {
        let same: Vec<String> = self
            .key
            .iter()
            .map(|column| format!("{one}.{column} = {other}.{column}"))
            .collect();
        same.join(" AND ")
    }

    /// Lists what is known of each key that a manifest names, and which keys are the database's.
    fn gather(&self, conn: &Connection) -> Result<(), StoreError> {
        let Self {
            table,
            jobs,
            name,
            kept,
            ..
        } = self;
        let what = format!("choose whose rows of {table} stand");
        let key = self.key("");
        let of_pair = match self.key {
            [_, pc_id] => format!("job.{name}, pair.{pc_id}"),
            _ => format!("job.{name}"),
        };
        run(
            conn,
            &what,
            &format!(
                "CREATE TEMP TABLE {kept} ({key}, aside INTEGER NOT NULL, held INTEGER NOT NULL, whole INTEGER NOT NULL, ours_from TEXT,
                 old INTEGER NOT NULL DEFAULT 0, PRIMARY KEY ({key})) WITHOUT ROWID"
            ),
            [],
        )?;
        // Whole: all results that it may come from are at hand, and were derived by us under these hints.
        run(
            conn,
            &what,
            &format!(
                "INSERT INTO temp.{kept} ({key}, aside, held, whole, ours_from)
                 SELECT {of_pair}, pair.aside IS NOT NULL, pair.held,
                     pair.known AND NOT pair.older AND pair.ours_from IS NULL AND pair.aside IS NULL, pair.ours_from
                 FROM temp.{jobs} job CROSS JOIN temp.carry_pairs pair ON pair.job_id = job.job_id WHERE true
                 ON CONFLICT DO UPDATE SET aside = max(aside, excluded.aside), held = max(held, excluded.held), whole = min(whole, excluded.whole),
                     ours_from = max(coalesce(ours_from, ''), coalesce(excluded.ours_from, ''))"
            ),
            [],
        )?;
        run(
            conn,
            &what,
            &format!(
                "UPDATE temp.{kept} SET old = 1 WHERE aside OR held OR ours_from > (
                     SELECT recorded_at FROM main.{table} now WHERE {})",
                self.same("now", kept)
            ),
            [],
        )?;
        self.keep_newer(conn, &what)
    }

    /// The database's is newer, and its message is not at hand.
    fn keep_newer(&self, conn: &Connection, what: &str) -> Result<(), StoreError> {
        let Self { table, kept, .. } = self;
        let newer = format!(
            "FROM old.{table} was CROSS JOIN main.{table} now ON {} WHERE was.recorded_at > now.recorded_at",
            self.same("now", "was")
        );
        if !any(conn, what, &format!("SELECT 1 {newer}"), [])? {
            return Ok(());
        }
        // Rarely needed, so made when it is.
        run(
            conn,
            what,
            "CREATE INDEX IF NOT EXISTS temp.carry_published ON not_at_hand (published)",
            [],
        )?;
        let pc = match self.key {
            [_, pc_id] => format!("AND line.pc_id = was.{pc_id}"),
            _ => String::new(),
        };
        run(
            conn,
            what,
            &format!(
                "INSERT INTO temp.{kept} ({}, aside, held, whole, old) SELECT {}, 0, 0, 0, 1 {newer}
                     AND EXISTS (SELECT 1 FROM temp.not_at_hand line WHERE line.published = was.recorded_at {pc})
                 ON CONFLICT DO UPDATE SET old = 1",
                self.key(""),
                self.key("was.")
            ),
            [],
        )?;
        Ok(())
    }

    /// Whether a row that the scratch has not is the database's: `was` is the row, `kept` what is known of its key.
    fn missing(&self, basis: &Basis) -> String {
        let named = format!(
            "was.{} IN (SELECT {} FROM temp.{})",
            self.name, self.name, self.jobs
        );
        let told = match (basis.is_strict(), basis.purpose) {
            (true, _) => named,
            (false, Purpose::Verify) => "coalesce(kept.whole, 0)".to_owned(),
            (false, Purpose::Rebuild | Purpose::Replay | Purpose::ReplayPart) => "false".to_owned(),
        };
        format!("(coalesce(kept.old, 0) OR NOT ({told}))")
    }

    /// Takes away what is the database's to say, and brings what the scratch then has not. Returns the rows brought.
    fn settle(&self, conn: &Connection, basis: &Basis) -> Result<u64, StoreError> {
        let Self {
            table, columns, kept, ..
        } = self;
        let what = format!("carry {table}");
        self.gather(conn)?;
        run(
            conn,
            &what,
            &format!(
                "DELETE FROM main.{table} WHERE ({}) IN (SELECT {} FROM temp.{kept} WHERE old)",
                self.key(""),
                self.key("")
            ),
            [],
        )?;
        let mut brought = 0;
        for aside in [false, true] {
            let rows = run(
                conn,
                &what,
                &format!(
                    "INSERT INTO main.{table} ({columns}) SELECT {} FROM old.{table} was
                     LEFT JOIN temp.{kept} kept ON {}
                     WHERE NOT EXISTS (SELECT 1 FROM main.{table} now WHERE {}) AND {}
                         AND coalesce(kept.aside, 0) = ?1",
                    listed(columns.split(", "), "was."),
                    self.same("kept", "was"),
                    self.same("now", "was"),
                    self.missing(basis)
                ),
                params![aside],
            )?;
            if !aside {
                brought = rows;
            }
        }
        Ok(brought)
    }
}

/// Checks, by PC and name.
pub(super) fn settle_checks(
    conn: &Connection,
    basis: &Basis,
    vouched: &mut Vouched,
) -> Result<(), StoreError> {
    let checks = CHECKS.settle(conn, basis)?;
    vouched.add("checks", checks);
    Ok(())
}

/// Feeds, each as a whole.
pub(super) fn settle_feeds(
    conn: &Connection,
    basis: &Basis,
    vouched: &mut Vouched,
) -> Result<(), StoreError> {
    let what = "carry feeds";
    run(
        conn,
        what,
        "CREATE TEMP TABLE carry_feeds_before (feed_id TEXT PRIMARY KEY) WITHOUT ROWID",
        [],
    )?;
    run(
        conn,
        what,
        "INSERT INTO temp.carry_feeds_before SELECT feed_id FROM main.feed_meta",
        [],
    )?;
    FEEDS.settle(conn, basis)?;
    run(
        conn,
        what,
        "DELETE FROM main.feeds WHERE feed_id IN (SELECT feed_id FROM temp.carry_kept_feeds WHERE old)",
        [],
    )?;
    // Items follow their feed.
    let mut brought = 0;
    for aside in [false, true] {
        let items = run(
            conn,
            what,
            "INSERT INTO main.feeds (feed_id, item_id, data, fetched_at, recorded_at)
             SELECT item.feed_id, item.item_id, item.data, item.fetched_at, item.recorded_at
             FROM main.feed_meta feed CROSS JOIN old.feeds item ON item.feed_id = feed.feed_id
             LEFT JOIN temp.carry_kept_feeds kept ON kept.feed_id = feed.feed_id
             WHERE (coalesce(kept.old, 0) OR feed.feed_id NOT IN (SELECT feed_id FROM temp.carry_feeds_before))
                 AND coalesce(kept.aside, 0) = ?1",
            [aside],
        )?;
        if !aside {
            brought = items;
        }
    }
    vouched.add("feed_items", brought);
    run(conn, what, "DROP TABLE temp.carry_feeds_before", [])?;
    Ok(())
}
