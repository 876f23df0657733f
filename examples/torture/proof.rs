//! What must hold when a storm is over.

use std::collections::BTreeSet;
use std::path::Path;

use super::plan::{Change, Schedule};
use super::storm::{STREAMS, Storm, executions};
use super::victim::tail;
use crate::harness::backend::BackendFile;
use crate::harness::projector::text;
use crate::harness::{check_i3, dump};

impl Storm {
    /// Compares and counts, with the service stopped as an operator stops it.
    pub async fn prove(&mut self, schedule: &Schedule) {
        if !schedule.changes(|change| change == Change::CleanUp) {
            let output = self.victim.run(&["verify"], &[]);
            assert!(output.status.success(), "verify at the end: {}", text(&output));
        }
        self.victim.terminate();
        let db = self.victim.db.clone();
        // Executions that came before their row are settled by a service that runs.
        let output = self.victim.run(&["run", "--until-caught-up"], &[]);
        assert!(output.status.success(), "at the end: {}", text(&output));
        // What was not certain for the one is by now for the other.
        for args in [&["outputs", "retry", "--all"][..], &["run", "--until-caught-up"]] {
            let _compared_below = (self.victim.run(args, &[]), self.ask_oracle(args));
        }
        dump::assert_same(&db, &self.oracle);
        if !schedule.changes(|change| change != Change::CopyStore) {
            let fresh = self.folder.path().join("fresh.db");
            self.oracle = fresh;
            if schedule.adopted {
                BackendFile::default().create(&self.oracle);
            }
            for args in [&["run", "--until-caught-up"][..], &["outputs", "retry", "--all"]] {
                let output = self.ask_oracle(args);
                assert!(
                    matches!(output.status.code(), Some(0 | 1)),
                    "from stream start: {}",
                    text(&output)
                );
            }
            executions(&self.oracle);
            let output = self.ask_oracle(&["run", "--until-caught-up"]);
            assert!(output.status.success(), "from stream start: {}", text(&output));
            dump::assert_same(&db, &self.oracle);
            self.tally.compared_with_stream_start = true;
        }
        check_i3(&db);
        let conn = dump::open(&db);
        let good: String = conn
            .query_row("PRAGMA quick_check", [], |row| row.get(0))
            .unwrap();
        assert_eq!(good, "ok");
        self.explain_gaps(&conn);
        assert_eq!(letters(&db), letters(&self.oracle), "the dead letters differ");
        self.tally.dead = letters(&db).len() as u64;
        self.tally.rows = dump::one(&db, "SELECT count(*) FROM execution_results") as u64;
        let said = self.victim.said();
        assert!(!said.contains("panicked"), "it panicked:\n{}", tail(&said));
        self.nothing_is_left_at_the_server().await;
    }

    /// Every sequence that counts as a gap was deleted by us.
    fn explain_gaps(&mut self, conn: &rusqlite::Connection) {
        let mut gaps = conn
            .prepare(
                "SELECT stream, first_seq, last_seq FROM projector_gaps gap WHERE incarnation =
                     (SELECT max(incarnation) FROM projector_position WHERE stream = gap.stream)",
            )
            .unwrap();
        let mut rows = gaps.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            let stream: String = row.get(0).unwrap();
            let (first, last): (u64, u64) = (row.get(1).unwrap(), row.get(2).unwrap());
            for seq in first..=last {
                let known = self
                    .gone
                    .iter()
                    .any(|(name, gone)| *name == stream && *gone == seq);
                assert!(known, "{stream} {seq} counts as a gap, and nobody deleted it");
                self.tally.gaps += 1;
            }
        }
    }

    async fn nothing_is_left_at_the_server(&self) {
        let mut names = BTreeSet::new();
        // Those of killed processes that watched the manifests expire by themselves.
        for name in STREAMS.into_iter().chain(["OBJ_result_output"]) {
            let stream = self.js.get_stream(name).await.unwrap();
            let mut consumers = stream.consumers();
            while let Some(consumer) = futures_util::StreamExt::next(&mut consumers).await {
                let consumer = consumer.unwrap();
                // So do those of a rebuild that was killed.
                if consumer.config.inactive_threshold.is_zero() {
                    names.insert(consumer.name);
                }
            }
        }
        let expected: BTreeSet<String> = ["results_projector", "oracle"]
            .iter()
            .flat_map(|prefix| STREAMS.map(|stream| format!("{prefix}_{}", stream.to_lowercase())))
            .collect();
        assert!(
            names.is_subset(&expected),
            "consumers left at the server: {names:?}"
        );
    }
}

/// The dead letters of the streams' current lives.
fn letters(db: &Path) -> Vec<String> {
    let conn = dump::open(db);
    let mut select = conn
        .prepare(
            "SELECT stream || ' ' || stream_seq || ' ' || published_at || ' ' || sha256 || ' ' || state
             FROM projector_dead_letters ORDER BY stream, stream_seq, published_at",
        )
        .unwrap();
    let rows = select.query_map([], |row| row.get(0)).unwrap();
    rows.map(Result::unwrap).collect()
}
