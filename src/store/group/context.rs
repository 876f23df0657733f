//! What a transaction needs of the store besides its connection.

use rusqlite::Connection;

use super::super::carry::Foreknowledge;
use super::super::completions::TriggerWatch;
use super::super::derive::{Orphans, Shapes};
use super::super::written::Written;
use crate::wire::sequence::StreamSeq;

/// Kept by the store from one transaction to the next.
#[derive(Debug)]
pub(in super::super) struct Context {
    pub(in super::super) triggers: TriggerWatch,
    pub(in super::super) letters: LetterRoom,
    pub(in super::super) shapes: Shapes,
    pub(in super::super) orphans: Orphans,
    /// The backend's own file.
    pub(in super::super) adopted: bool,
    /// In a scratch, where no trigger fires: whether the ledgers are written with each group.
    pub(in super::super) scratch_ledgers: Option<bool>,
    /// A scratch whose ledgers and counters are made of its rows afterwards.
    pub(in super::super) deferred: bool,
    /// In a scratch: groups share one transaction, which ends when the load does; no longer once one has failed, since that
    /// takes back all of them.
    pub(in super::super) shares_transaction: bool,
    /// The last launched result had a row, from its start event.
    pub(in super::super) starts_come_first: bool,
    /// See [`first_pass::until`](super::super::first_pass::until).
    pub(in super::super) first_pass: Option<StreamSeq>,
    /// Of the database that is there, in a load beside it.
    pub(in super::super) foreknown: Option<Foreknowledge>,
    /// Outputs that the open transaction has taken from that database.
    pub(in super::super) carried_outputs: u64,
    /// What the connection has written.
    pub(in super::super) written: Written,
}

impl Context {
    /// The transaction is committed: what was counted in it holds.
    pub(in super::super) fn committed(&mut self) {
        self.letters.committed_bytes = self.letters.bytes;
        let kept = std::mem::take(&mut self.carried_outputs);
        if let Some(known) = &self.foreknown {
            known.add_carried_outputs(kept);
        }
    }

    /// Ends the open transaction without a commit, and forgets what was made and counted in it: in a load that is the work of
    /// all groups that share it.
    pub(in super::super) fn roll_back(&mut self, conn: &Connection) {
        self.shapes.clear();
        self.written.forget();
        self.letters.bytes = self.letters.committed_bytes;
        self.carried_outputs = 0;
        self.shares_transaction = false;
        // SQLite may have rolled back by itself.
        if !conn.is_autocommit()
            && let Err(error) = conn.execute_batch("ROLLBACK")
        {
            tracing::warn!(%error, "a transaction was not rolled back");
        }
    }
}

/// How many bytes of payloads and headers the dead-letter book may still take.
#[derive(Debug)]
pub(in super::super) struct LetterRoom {
    /// With those of the open transaction.
    pub(in super::super) bytes: u64,
    pub(in super::super) committed_bytes: u64,
    pub(in super::super) bytes_max: u64,
    /// Whether it has been said that there is no room.
    pub(in super::super) overflowed: bool,
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use rusqlite::StatementStatus;

    use super::super::super::dead_letters::DeadLetter;
    use super::super::super::position::NEWEST;
    use super::super::super::{Owner, Standing, Store, StoreOptions, Use};
    use crate::projection::manifests::Manifests;
    use crate::wire::kv::StreamName;
    use crate::wire::sequence::StreamSeq;
    use crate::wire::time::Timestamp;

    #[test]
    fn what_a_load_had_counted_goes_with_the_transaction_that_its_groups_share() {
        let folder = tempfile::tempdir().unwrap();
        let owner = Owner::default();
        let options = StoreOptions {
            for_use: Use::Load,
            dead_letter_bytes_max: 10,
            ..StoreOptions::default()
        };
        let mut store = Store::open(&folder.path().join("scratch.db"), &options, &owner).unwrap();
        let now = Timestamp::from_unix_nanos(0);
        let manifests = Arc::new(Manifests::default());
        let letter = DeadLetter {
            stream: StreamName::Results,
            seq: StreamSeq(1),
            subject: "results.q".to_owned(),
            published: now,
            reason: "not a result".to_owned(),
            headers: None,
            payload: Bytes::from_static(b"8 bytes."),
            discarded: false,
        };
        let mut first = store.begin(&manifests, now).unwrap();
        first.dead_letter(1, &letter).unwrap();
        first.commit().unwrap();
        drop(store.begin(&manifests, now).unwrap());

        let mut again = store.begin(&manifests, now).unwrap();
        again.dead_letter(1, &letter).unwrap();
        again.commit().unwrap();
        let kept: bool = store
            .conn
            .query_row(
                "SELECT payload IS NOT NULL FROM projector_dead_letters",
                [],
                |row| row.get(0),
            )
            .unwrap();
        assert!(kept, "its room was taken back with it");
    }

    #[test]
    fn a_group_prepares_no_statement_anew_for_another_value_of_a_parameter() {
        let folder = tempfile::tempdir().unwrap();
        let owner = Owner::default();
        let (path, options) = (folder.path().join("results.db"), StoreOptions::default());
        let mut store = Store::open(&path, &options, &owner).unwrap();
        let (now, manifests) = (Timestamp::from_unix_nanos(0), Arc::new(Manifests::default()));
        let standing = Standing::new(1, StreamSeq(1));
        let mut first = store.begin(&manifests, now).unwrap();
        first.begin_incarnation(StreamName::Results, &standing).unwrap();
        first.commit().unwrap();
        for _ in 0..3 {
            let group = store.begin(&manifests, now).unwrap();
            group.expect(StreamName::Results, &standing).unwrap();
            group.commit().unwrap();
        }
        let expect = store.conn.prepare_cached(NEWEST).unwrap();
        assert!(
            expect.get_status(StatementStatus::Run) >= 3,
            "it is that statement"
        );
        assert_eq!(expect.get_status(StatementStatus::RePrepare), 0);
    }
}
