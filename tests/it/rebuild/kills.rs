//! Whatever moment a rebuild is killed at, what is found is the old database or the new one, whole.

use std::time::{Duration, Instant};

use super::*;
use crate::harness::fleet::Dice;
use crate::harness::projector::run_with;

/// An old database with a log, as a service leaves it that was killed; the streams have gone on since.
struct World {
    fleet: Fleet,
    old: Database,
    old_dump: Vec<String>,
    new_dump: Vec<String>,
}

impl World {
    async fn new(seed: u64, results: usize) -> Self {
        let profile = Profile {
            // What is certainly missing is so only after two minutes, and then has another text.
            missing: 0,
            missing_scans: 0,
            ..Profile::everything(results)
        };
        let fleet = Fleet::new(seed, &profile).await;
        fleet.say(0, 500).await;
        let live = fleet.read();
        let projector = Projector::start(&live.db, &fleet.url());
        fleet.say(500, 600).await;
        let mut lasts = Vec::new();
        for stream in ["RESULTS", "EVENTS", "INVENTORY"] {
            let mut stream = fleet.js.get_stream(stream).await.unwrap();
            lasts.push(stream.info().await.unwrap().state.last_sequence as i64);
        }
        let reached = || one(&live.db, "SELECT sum(position) FROM projector_position");
        wait_until("the old database is at the streams' ends", PATIENCE, || {
            reached() == lasts.iter().sum::<i64>()
        });
        projector.pause();
        let old = live.copy();
        projector.kill();
        assert!(
            fs::metadata(old.beside("-wal")).unwrap().len() > 0,
            "the last part is in the log"
        );
        let old_dump = old.copy().dump();
        fleet.say(600, 1_000).await;
        let new_dump = fleet.read().dump();
        assert_ne!(old_dump, new_dump);
        Self {
            fleet,
            old,
            old_dump,
            new_dump,
        }
    }

    /// What a killed rebuild has left is the old one or the new one; returns whether it is the new one.
    fn check(&self, database: &Database, when: &str) -> bool {
        database.assert_sound();
        check_i3(&database.db);
        let dump = database.dump();
        let new = dump == self.new_dump;
        assert!(
            new || dump == self.old_dump,
            "{when}: neither the old nor the new one"
        );
        new
    }

    fn rebuild_and_check(&self, database: &Database, kept: &[&Path]) {
        self.fleet.rebuild(database, &[]);
        database.assert_alone(kept);
        assert!(self.check(database, "after the next rebuild"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_moment_leaves_the_old_database_or_the_new_one() {
    let world = World::new(85, scale(500, 2_000)).await;
    let database = world.old.copy();
    let started = Instant::now();
    world.rebuild_and_check(&database, &[]);
    let length = started.elapsed();

    let mut dice = Dice::new(85);
    let (mut killed, kills) = (0, scale(10, 50));
    for number in 0..kills {
        // What the last one has left is there.
        database.put_back(&world.old);
        let mut rebuilding = Projector::start_with(&database.db, &world.fleet.url(), &["rebuild"], &[]);
        // One in each part of its time.
        let at = (number * 1_000 + dice.below(1_000)) * length.as_micros() as u64 / kills / 1_000;
        std::thread::sleep(Duration::from_micros(at));
        if rebuilding.is_running() {
            killed += 1;
            rebuilding.kill();
        }
        world.check(&database, &format!("killed after {at} of {length:?} µs"));
        if number % scale(4, 1) == 0 {
            world.rebuild_and_check(&database, &[]);
        }
    }
    assert!(killed > kills / 2, "{killed} of {kills} were still at work");
    world.rebuild_and_check(&database, &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_at_any_moment_leaves_nothing_beside_the_old_database_or_the_new_one() {
    let world = World::new(88, scale(500, 2_000)).await;
    let database = world.old.copy();
    let started = Instant::now();
    world.rebuild_and_check(&database, &[]);
    let length = started.elapsed();
    let mut dice = Dice::new(88);
    let stops = scale(6, 50);
    for number in 0..stops {
        database.put_back(&world.old);
        let mut rebuilding = Projector::start_with(&database.db, &world.fleet.url(), &["rebuild"], &[]);
        let at = (number * 1_000 + dice.below(1_000)) * length.as_micros() as u64 / stops / 1_000;
        // Before it listens for signals there is nothing to stop.
        wait_until("it begins", PATIENCE, || {
            database.beside(".rebuild.loading.lock").exists() || !rebuilding.is_running()
        });
        std::thread::sleep(Duration::from_micros(at));
        if !rebuilding.is_running() {
            continue;
        }
        let status = rebuilding.terminate();
        let is_new = {
            let copy = database.copy();
            world.check(&copy, &format!("stopped after {at} of {length:?} µs"))
        };
        assert_eq!(status.code(), Some(if is_new { 0 } else { 3 }));
        let left: Vec<String> = fs::read_dir(database._folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.contains("rebuild"))
            .collect();
        assert_eq!(left, Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_between_any_two_steps_of_the_swap_leaves_the_old_database_or_the_new_one() {
    let world = World::new(86, 200).await;
    for (point, is_new) in [
        ("before-release", false),
        ("before-sync", false),
        ("before-rename", false),
        ("after-rename", true),
    ] {
        let database = world.old.copy();
        let die = [("RESULTS_PROJECTOR_DIE_AT", point)];
        let output = run_with(&database.db, &world.fleet.url(), &["rebuild", "--keep-old"], &die);
        assert_eq!(output.status.code(), None, "{point}: {}", text(&output));
        assert_eq!(
            database.beside("-wal").exists(),
            point == "before-release",
            "{point}"
        );
        let kept: Vec<PathBuf> = fs::read_dir(database._folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.to_string_lossy().contains(".old-"))
            .collect();
        assert_eq!(kept.len(), usize::from(point.ends_with("rename")), "{point}");
        assert_eq!(world.check(&database, point), is_new, "{point}");
        for kept in &kept {
            assert_eq!(dump(kept), world.old_dump, "{point}");
            for suffix in ["-wal", "-shm"] {
                // Of the reader just now.
                let _gone = fs::remove_file(format!("{}{suffix}", kept.display()));
            }
        }
        let kept: Vec<&Path> = kept.iter().map(PathBuf::as_path).collect();
        if point == "before-sync" {
            // The service goes on where the old one stood, too.
            catch_up(&database.db, &world.fleet.url());
            assert_eq!(database.dump(), world.new_dump);
        }
        world.rebuild_and_check(&database, &kept);
    }
}
