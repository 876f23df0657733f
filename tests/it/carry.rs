//! What a scratch that was loaded from shorter streams takes from the database that is there: its rows and books end as
//! those of the database, whatever the streams and the object store have forgotten.

mod cases;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use results_projector::store::carry::{Brought, Foreknowledge, Purpose, Vouched};
use results_projector::store::scratch::{Beside, Scratch};
use results_projector::wire::kv::StreamName;
use results_projector::wire::sequence::StreamSeq;
use results_projector::wire::time::Timestamp;
use rusqlite::Connection;

use crate::harness::fleet::Dice;
use crate::harness::{check_i3, dump, scale};
use crate::properties::{World, manifests, world};
use crate::stage::{Object, Sent, Stage};

/// A query's rows, each as one text.
fn texts(db: &Path, sql: &str) -> Vec<String> {
    let conn = dump::open(db);
    let mut select = conn.prepare(sql).unwrap();
    let columns = select.column_count();
    let rows = select.query_map([], |row| {
        let cells =
            (0..columns).map(|index| Ok(format!("{:?}", row.get::<_, rusqlite::types::Value>(index)?)));
        Ok(cells.collect::<Result<Vec<_>, rusqlite::Error>>()?.join(" "))
    });
    rows.unwrap().map(Result::unwrap).collect()
}

/// Little: what is sorted goes to files.
const BULK_MEMORY: u64 = 16 << 20;
const ROWS: &str = "SELECT * FROM execution_results ORDER BY result_id";

/// The books that must be the same, wall clock and entry numbers apart.
const BOOKS: [&str; 6] = [
    "SELECT incarnation, stream_seq, published_ns, result_id, pc_id, job_id, counts, evidence
     FROM projector_results ORDER BY 1, 2",
    "SELECT result_id, field, object, state, published_at, size_bytes, sha256 FROM projector_outputs ORDER BY 1, 2",
    "SELECT * FROM projector_dead_letters ORDER BY stream, incarnation, stream_seq",
    "SELECT * FROM projector_gaps ORDER BY 1, 2, 3",
    "SELECT * FROM projector_position ORDER BY 1, 2",
    "SELECT value FROM projector_meta WHERE key = 'database_id'",
];

fn assert_equal(found: &[String], expected: &[String], what: &str) {
    let only = |some: &[String], others: &[String]| -> Vec<String> {
        some.iter()
            .filter(|line| !others.contains(line))
            .take(4)
            .cloned()
            .collect()
    };
    assert!(
        found == expected,
        "{what}: {} and {} rows\nonly here: {:#?}\nonly in the database: {:#?}",
        found.len(),
        expected.len(),
        only(found, expected),
        only(expected, found)
    );
}

/// A world whose streams lose messages in every way there is.
struct Case {
    world: World,
    /// How many messages the database has projected.
    projected: usize,
    starts: BTreeMap<StreamName, StreamSeq>,
    /// What the streams still hold of what the database has projected, in their order.
    held: Vec<Sent>,
    last: BTreeMap<StreamName, u64>,
}

fn case(seed: u64, dice: &mut Dice) -> Case {
    let mut world = world(seed, 60);
    let projected = world.sent.len() * 3 / 4;
    // A stream is restored from an older copy: its last messages are lost, and their sequences used again.
    for stream in [StreamName::Results, StreamName::Events] {
        if dice.below(2) == 0 {
            let (mut at, lost) = (5 + dice.below(20), 1 + dice.below(4));
            for sent in world.sent.iter_mut().filter(|sent| sent.stream == stream) {
                at = at.saturating_sub(1);
                if at == 0 {
                    sent.seq -= lost;
                }
            }
        }
    }
    let mut held: Vec<Sent> = Vec::new();
    let mut last = BTreeMap::new();
    for sent in &world.sent[..projected] {
        held.retain(|earlier| earlier.stream != sent.stream || earlier.seq < sent.seq);
        held.push(sent.clone());
        last.insert(sent.stream, sent.seq);
    }
    let starts: BTreeMap<StreamName, StreamSeq> = last
        .iter()
        .map(|(stream, last)| {
            let cut = match (dice.below(4), stream) {
                (0, _) => 1,
                (_, StreamName::Events) => 1 + dice.below(*last),
                _ => 1 + dice.below(*last / 2),
            };
            (*stream, StreamSeq(cut))
        })
        .collect();
    held.retain(|sent| sent.seq >= starts[&sent.stream].0);
    if dice.below(3) == 0 {
        // Somebody has deleted single messages.
        let ends = last.clone();
        held.retain(|sent| sent.seq == ends[&sent.stream] || dice.below(12) > 0);
    }
    Case {
        world,
        projected,
        starts,
        held,
        last,
    }
}

impl Case {
    /// The database, with the reaper and an operator at work.
    fn database(&self, db: &Path, dice: &mut Dice) -> Stage {
        let mut stage = self.world.stage(db);
        let names: Vec<String> = stage.objects.keys().cloned().collect();
        for name in names {
            match dice.below(8) {
                0 => drop(stage.objects.insert(name, Object::Gone)),
                1 => drop(stage.objects.insert(name, Object::Unreachable)),
                _ => {}
            }
        }
        for sent in &self.world.sent[..self.projected] {
            stage.deliver(sent);
            if dice.below(12) == 0 {
                stage.settle_down();
                let backend = Connection::open(db).unwrap();
                backend
                    .execute(
                        "UPDATE execution_results SET finished_at = '2026-06-09T00:00:00+00:00', exit_code = -1, reaped = 1,
                             stderr = 'reaped by backend'
                         WHERE rowid = (SELECT min(rowid) FROM execution_results WHERE finished_at IS NULL)",
                        [],
                    )
                    .unwrap();
            }
        }
        stage.settle_down();
        Connection::open(db)
            .unwrap()
            .execute(
                "UPDATE projector_dead_letters SET state = 'discarded' WHERE stream_seq % 2",
                [],
            )
            .unwrap();
        stage
    }

    /// What the streams give now.
    fn scratch(&self, db: &Path, old: &Path, objects: &BTreeMap<String, Object>) {
        let known = Foreknowledge::read(old, &self.starts).unwrap();
        let mut stage = Stage::beside(db, manifests(), Some(known));
        stage.objects = objects.clone();
        stage.begin(&self.starts);
        for sent in &self.held {
            stage.deliver(sent);
        }
        stage.settle_down();
    }
}

fn carried(scratch: &Path, old: &Path, purpose: Purpose) -> (Vouched, Brought) {
    let completed = Scratch::open(scratch, Beside::Database(old), BULK_MEMORY)
        .unwrap()
        .complete(&manifests(), purpose, Timestamp::from_unix_nanos(0))
        .unwrap();
    (completed.vouched, completed.carried)
}

fn check(seed: u64) {
    let mut dice = Dice::new(seed ^ 0xca44);
    let case = case(seed, &mut dice);
    let folder = tempfile::tempdir().unwrap();
    let db = |name: &str| folder.path().join(format!("{name}.db"));
    let old = db("old");
    let mut stage = case.database(&old, &mut dice);
    let mut objects = stage.objects.clone();
    // The object store forgets.
    objects.retain(|_, object| *object == Object::Unreachable || dice.below(2) == 0);

    let (rebuilt, verified) = (db("rebuilt"), db("verified"));
    case.scratch(&rebuilt, &old, &objects);
    std::fs::copy(&rebuilt, &verified).unwrap();

    let what = format!("seed {seed}, verify");
    let (vouched, _) = carried(&verified, &old, Purpose::Verify);
    let ids: BTreeSet<String> = texts(&verified, "SELECT result_id FROM execution_results")
        .into_iter()
        .collect();
    let of_both: Vec<String> = texts(&old, ROWS)
        .into_iter()
        .filter(|row| ids.iter().any(|id| row.starts_with(id.as_str())))
        .collect();
    assert_equal(&texts(&verified, ROWS), &of_both, &what);
    assert!(
        !vouched.all_at_hand || ids.len() == texts(&old, ROWS).len(),
        "{what}"
    );

    let what = format!("seed {seed}, rebuild");
    let (_, brought) = carried(&rebuilt, &old, Purpose::Rebuild);
    assert_equal(
        &texts(&rebuilt, ROWS),
        &texts(&old, ROWS),
        &format!("{what} ({brought:?})"),
    );
    for book in BOOKS {
        assert_equal(
            &texts(&rebuilt, book),
            &texts(&old, book),
            &format!("{what}: {book}"),
        );
    }
    check_i3(&rebuilt);

    // Both go on the same way.
    let mut next = Stage::open(&rebuilt, manifests());
    next.objects = stage.objects.clone();
    next.go_on_after(&case.last);
    for sent in &case.world.sent[case.projected..] {
        stage.deliver(sent);
        next.deliver(sent);
    }
    for stage in [&mut stage, &mut next] {
        stage.settle_down();
        for (name, bytes) in &case.world.objects {
            stage.objects.insert(name.clone(), Object::Here(bytes.clone()));
        }
        stage.retry_all();
        stage.derive_due();
    }
    assert_equal(
        &texts(&rebuilt, ROWS),
        &texts(&old, ROWS),
        &format!("seed {seed}, afterwards"),
    );
    check_i3(&rebuilt);
    let open = "SELECT job_id, pc_id, state FROM projector_derivations WHERE state <> 'settled'";
    assert_equal(&texts(&rebuilt, open), &[], &format!("seed {seed}, afterwards"));
    assert_equal(
        &texts(&rebuilt, "SELECT * FROM projector_waiting"),
        &[],
        &format!("seed {seed}, afterwards"),
    );
    let pairs = "SELECT job_id, pc_id, hints_hash FROM projector_derivations ORDER BY 1, 2";
    assert_equal(
        &texts(&rebuilt, pairs),
        &texts(&old, pairs),
        &format!("seed {seed}, afterwards"),
    );
}

#[test]
fn rows_and_books_end_as_the_databases_whatever_the_streams_have_forgotten() {
    for seed in 0..scale(15, 1_000) {
        check(seed);
    }
}
