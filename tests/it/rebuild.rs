//! A database made anew from the streams (DESIGN §8.1): the real binary, a real server, real files.

mod initial;
mod kills;
mod refusals;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use async_nats::jetstream;
use futures_util::TryStreamExt;
use rusqlite::Connection;
use serde_json::Value;

use crate::harness::dump::{self, dump};
use crate::harness::fleet::put_manifests;
use crate::harness::projector::{catch_up, place, run, text};
use crate::harness::*;

/// A server with a fleet's streams and manifests, and what its agents have to say.
struct Fleet {
    server: NatsServer,
    js: jetstream::Context,
    planned: Vec<Planned>,
}

impl Fleet {
    async fn new(seed: u64, profile: &Profile) -> Self {
        let server = NatsServer::start();
        let js = server.fleet().await;
        put_manifests(&js).await.unwrap();
        Self {
            server,
            js,
            planned: plan(seed, profile),
        }
    }

    fn url(&self) -> String {
        self.server.url()
    }

    /// Publishes so many permille of it, from and to.
    async fn say(&self, from: usize, to: usize) {
        let at = |permille: usize| self.planned.len() * permille / 1_000;
        publish(&self.js, &self.planned[at(from)..at(to)]).await.unwrap();
    }

    /// A database that has read all there is now, closed.
    fn read(&self) -> Database {
        let database = Database::nowhere();
        catch_up(&database.db, &self.url());
        database
    }

    fn rebuild(&self, database: &Database, args: &[&str]) -> Value {
        rebuild(&database.db, &self.url(), args)
    }

    /// No consumer is left of a load.
    async fn assert_no_consumers_of_loads(&self) {
        for stream in ["RESULTS", "EVENTS", "INVENTORY"] {
            let stream = self.js.get_stream(stream).await.unwrap();
            let names: Vec<String> = stream.consumer_names().try_collect().await.unwrap();
            assert!(names.iter().all(|name| !name.contains("rebuild")), "{names:?}");
        }
    }
}

/// A file in a folder of its own.
struct Database {
    _folder: tempfile::TempDir,
    db: PathBuf,
}

impl Database {
    fn nowhere() -> Self {
        let (folder, db) = place();
        Self { _folder: folder, db }
    }

    /// Another one with the same bytes, logs and all.
    fn copy(&self) -> Self {
        let copy = Self::nowhere();
        copy.put_back(self);
        copy
    }

    /// The file is what another one is; what lies beside it stays, but for the log.
    fn put_back(&self, from: &Self) {
        for suffix in ["", "-wal", "-shm", "-journal"] {
            let with = |db: &Path| PathBuf::from(format!("{}{suffix}", db.display()));
            if self.db != from.db && with(&self.db).exists() {
                fs::remove_file(with(&self.db)).unwrap();
            }
            // The log's index is made anew.
            if suffix != "-shm" && with(&from.db).exists() {
                fs::copy(with(&from.db), with(&self.db)).unwrap();
            }
        }
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        PathBuf::from(format!("{}{suffix}", self.db.display()))
    }

    fn dump(&self) -> Vec<String> {
        dump(&self.db)
    }

    fn id(&self) -> String {
        dump::text(
            &self.db,
            "SELECT value FROM projector_meta WHERE key = 'database_id'",
        )
    }

    /// It is what it was, and nothing is left beside it but the empty log that whoever reads it leaves.
    fn assert_as_it_was(&self, before: &[String]) {
        self.remove_empty_log();
        self.assert_alone(&[]);
        assert!(self.dump() == before, "it has changed");
        self.assert_sound();
        assert_eq!(dump::text(&self.db, "PRAGMA journal_mode"), "wal");
    }

    /// The one that a reader leaves.
    fn remove_empty_log(&self) {
        let (log, index) = (self.beside("-wal"), self.beside("-shm"));
        assert_eq!(fs::metadata(&log).map_or(0, |log| log.len()), 0);
        for path in [log, index] {
            if path.exists() {
                fs::remove_file(path).unwrap();
            }
        }
    }

    /// Nothing lies in its folder but it, its lock and these. Before anybody reads it: readers leave a log.
    fn assert_alone(&self, others: &[&Path]) {
        let found: BTreeSet<PathBuf> = fs::read_dir(self._folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        let mut expected: BTreeSet<PathBuf> = others.iter().map(|path| (*path).to_owned()).collect();
        expected.extend([self.db.clone(), self.beside(".lock")]);
        assert_eq!(found, expected);
    }

    fn assert_sound(&self) {
        assert_eq!(dump::text(&self.db, "PRAGMA integrity_check"), "ok");
    }

    fn execute(&self, sql: &str) {
        let conn = Connection::open(&self.db).unwrap();
        conn.execute_batch(sql).unwrap();
        conn.close().unwrap();
    }
}

/// Rebuilds, which must succeed, and returns what it said.
fn rebuild(db: &Path, url: &str, args: &[&str]) -> Value {
    let output = run(db, url, &[&["rebuild", "--json"], args].concat());
    assert!(output.status.success(), "{}", text(&output));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output)))
}

/// The rebuilt file is right, and as another one.
fn assert_rebuilt(database: &Database, like: &Database, kept: &[&Path]) {
    database.assert_alone(kept);
    assert_eq!(
        fs::metadata(&database.db).unwrap().permissions().mode() & 0o7777,
        0o640
    );
    assert_same(&database.db, &like.db);
    check_i3(&database.db);
    database.assert_sound();
    assert_eq!(dump::text(&database.db, "PRAGMA journal_mode"), "wal");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuilt_database_is_the_live_one_whatever_was_there_before_and_goes_on_like_it() {
    let profile = Profile {
        overflow_permille: 20,
        ..Profile::everything(scale(500, 5_000))
    };
    let fleet = Fleet::new(81, &profile).await;
    fleet.say(0, 500).await;
    let early = fleet.read();
    fleet.say(500, 800).await;
    let live = fleet.read();

    // Without one.
    let fresh = Database::nowhere();
    fleet.rebuild(&fresh, &[]);
    assert_rebuilt(&fresh, &live, &[]);
    let id = fresh.id();
    fleet.rebuild(&fresh, &[]);
    assert_rebuilt(&fresh, &live, &[]);
    assert_eq!(fresh.id(), id);

    // Over one at the streams' ends.
    let at_head = live.copy();
    let said = fleet.rebuild(&at_head, &[]);
    assert_rebuilt(&at_head, &live, &[]);
    assert_eq!(at_head.id(), live.id());
    assert_eq!(said["kept"], Value::Null);

    // Over an old copy.
    let behind = early.copy();
    let said = fleet.rebuild(&behind, &["--keep-old"]);
    let kept = PathBuf::from(said["kept"].as_str().unwrap());
    assert_rebuilt(&behind, &live, &[&kept]);
    assert_eq!(behind.id(), early.id());
    assert_eq!(dump(&kept), early.dump());
    assert_same(&kept, &early.db);
    assert_eq!(dump::text(&kept, "PRAGMA integrity_check"), "ok");

    // Over one of which nothing is taken.
    let apart = live.copy();
    let said = fleet.rebuild(&apart, &["--no-carry-over"]);
    assert_rebuilt(&apart, &live, &[]);
    assert_eq!(said["carried"], serde_json::json!({}));

    fleet.assert_no_consumers_of_loads().await;
    fleet.say(800, 1_000).await;
    let undisturbed = fleet.read();
    for database in [&fresh, &at_head, &behind, &apart] {
        catch_up(&database.db, &fleet.url());
        assert_same(&database.db, &undisturbed.db);
        check_i3(&database.db);
    }
    // Nothing of it is the same for want of messages.
    for table in [
        "inventory_facts",
        "inventory_history",
        "inventory_disks",
        "inventory_software_apps",
        "check_status",
        "feeds",
        "job_version_completions",
        "projector_dead_letters",
        "execution_results WHERE length(stdout) > 200000",
        "projector_position WHERE stream = 'EVENTS' AND ignored > 0",
    ] {
        assert!(
            one(&behind.db, &format!("SELECT count(*) FROM {table}")) > 0,
            "{table}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_streams_have_forgotten_stays_unless_it_is_told_to_go() {
    let fleet = Fleet::new(82, &Profile::everything(400)).await;
    fleet.say(0, 700).await;
    let live = fleet.read();
    live.execute(
        "INSERT INTO executions (exec_id, job_id, version, initiated_by, initiated_at, target_count)
             VALUES ('exec-0', 'j', '1', 'somebody', '2026-06-01T00:00:00+00:00', 9);
         INSERT INTO job_completions VALUES ('long-ago', 'PC-0001', '2020-01-01T00:00:00+00:00');
         INSERT INTO job_version_completions (job_id, version, pc_id, last_success_at)
             VALUES ('long-ago', '1', 'PC-0001', '2020-01-01T00:00:00+00:00')",
    );
    // Its execution is settled by the next run.
    catch_up(&live.db, &fleet.url());
    for (stream, share) in [("RESULTS", 2), ("EVENTS", 1), ("INVENTORY", 3)] {
        let mut stream = fleet.js.get_stream(stream).await.unwrap();
        let last = stream.info().await.unwrap().state.last_sequence;
        stream.purge().sequence(last / share).await.unwrap();
    }
    let outputs = fleet.js.get_stream("OBJ_result_output").await.unwrap();
    outputs.purge().await.unwrap();

    let whole = live.copy();
    let said = fleet.rebuild(&whole, &[]);
    assert_rebuilt(&whole, &live, &[]);
    assert!(
        said["carried"]["execution_results"].as_u64().unwrap() > 100,
        "{said}"
    );
    // What it has taken is there to be taken again.
    fleet.rebuild(&whole, &[]);
    assert_rebuilt(&whole, &live, &[]);

    let completions = |database: &Database| -> Vec<String> {
        let of = |line: &String| line.starts_with("job_completions") || line.starts_with("job_version");
        database.dump().into_iter().filter(of).collect()
    };
    let rows = |database: &Database| one(&database.db, "SELECT count(*) FROM execution_results");
    let long_ago = |database: &Database| {
        let sql = "SELECT (SELECT count(*) FROM job_completions WHERE job_id = 'long-ago')
                 + (SELECT count(*) FROM job_version_completions WHERE job_id = 'long-ago')";
        one(&database.db, sql)
    };
    let apart = live.copy();
    fleet.rebuild(&apart, &["--no-carry-over"]);
    apart.assert_alone(&[]);
    assert_eq!(completions(&apart), completions(&live));
    assert_eq!(long_ago(&apart), 2);
    assert!(rows(&apart) < rows(&live));
    assert_eq!(one(&apart.db, "SELECT count(*) FROM executions"), 0);
    check_i3(&apart.db);

    let forgotten = live.copy();
    fleet.rebuild(&forgotten, &["--no-carry-over", "--forget-completions"]);
    forgotten.assert_alone(&[]);
    assert_eq!(long_ago(&forgotten), 0);
    assert!(completions(&forgotten).len() < completions(&apart).len());
    let nothing = Database::nowhere();
    fleet.rebuild(&nothing, &[]);
    assert_same(&forgotten.db, &nothing.db);

    fleet.say(700, 1_000).await;
    for database in [&live, &whole] {
        catch_up(&database.db, &fleet.url());
    }
    assert_same(&whole.db, &live.db);
    check_i3(&whole.db);
}

#[tokio::test(flavor = "multi_thread")]
async fn empty_streams_make_an_empty_database() {
    let fleet = Fleet::new(83, &Profile::everything(100)).await;
    let empty = fleet.read();
    let database = Database::nowhere();
    fleet.rebuild(&database, &[]);
    assert_rebuilt(&database, &empty, &[]);
    // A file without anything in it, as `run` may leave one that is killed at once.
    fs::write(&database.db, b"").unwrap();
    fleet.rebuild(&database, &[]);
    assert_rebuilt(&database, &empty, &[]);
    for _ in 0..2 {
        // In one second too, two files are kept.
        fleet.rebuild(&database, &["--keep-old"]);
        fleet.rebuild(&database, &["--keep-old"]);
    }
    assert_eq!(fs::read_dir(database._folder.path()).unwrap().count(), 2 + 4);
    fleet.say(0, 1_000).await;
    catch_up(&database.db, &fleet.url());
    assert_same(&database.db, &fleet.read().db);
    check_i3(&database.db);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_new_file_is_for_those_whose_the_old_one_was() {
    let fleet = Fleet::new(87, &Profile::everything(100)).await;
    let database = fleet.read();
    fs::set_permissions(&database.db, fs::Permissions::from_mode(0o660)).unwrap();
    let root = rustix::process::geteuid().is_root();
    if root {
        // An operator rebuilds what is the service's.
        std::os::unix::fs::chown(&database.db, Some(4_711), Some(4_712)).unwrap();
    }
    let before = fs::metadata(&database.db).unwrap();
    fleet.rebuild(&database, &[]);
    let now = fs::metadata(&database.db).unwrap();
    assert_ne!(now.ino(), before.ino());
    assert_eq!(
        (now.uid(), now.gid(), now.mode()),
        (before.uid(), before.gid(), before.mode())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_to_the_database_stays_one() {
    let fleet = Fleet::new(88, &Profile::everything(100)).await;
    fleet.say(0, 1_000).await;
    let (there, here) = (fleet.read(), Database::nowhere());
    std::os::unix::fs::symlink(&there.db, &here.db).unwrap();
    let before = there.dump();
    there.remove_empty_log();
    let said = fleet.rebuild(&here, &["--keep-old"]);
    // Who comes by the link meets those who do not at one lock.
    assert!(!here.beside(".lock").exists());
    assert_eq!(fs::read_dir(here._folder.path()).unwrap().count(), 1);
    assert_eq!(fs::read_link(&here.db).unwrap(), there.db);
    let kept = PathBuf::from(said["kept"].as_str().unwrap());
    there.assert_alone(&[&kept]);
    assert_eq!(there.dump(), before);
    assert_eq!(dump(&kept), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_while_it_rebuilds_is_read_on_from_there() {
    let fleet = Fleet::new(89, &Profile::everything(scale(400, 4_000))).await;
    fleet.say(0, 300).await;
    let database = fleet.read();
    for at in [300, 450, 600] {
        let url = fleet.url();
        let db = database.db.clone();
        let rebuilding = tokio::task::spawn_blocking(move || rebuild(&db, &url, &[]));
        for part in 0..15 {
            fleet.say(at + 10 * part, at + 10 * part + 10).await;
        }
        rebuilding.await.unwrap();
        check_i3(&database.db);
    }
    fleet.say(750, 1_000).await;
    catch_up(&database.db, &fleet.url());
    assert_same(&database.db, &fleet.read().db);
    check_i3(&database.db);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_says_what_it_does_to_people_and_one_document_to_programs() {
    let fleet = Fleet::new(84, &Profile::everything(100)).await;
    fleet.say(0, 1_000).await;
    let database = fleet.read();
    let output = run(&database.db, &fleet.url(), &["rebuild", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    let results = &said["streams"]["RESULTS"];
    let counts = ["projected", "dead", "ignored", "gap"].map(|count| results[count].as_u64().unwrap());
    assert_eq!(counts.iter().sum::<u64>(), results["position"].as_u64().unwrap());
    assert_eq!(
        said["bytes"].as_u64().unwrap(),
        fs::metadata(&database.db).unwrap().len()
    );
    for phase in ["look", "load", "complete", "indexes", "check", "swap"] {
        assert!(said["seconds"][phase].is_number(), "{phase}: {said}");
    }

    let output = run(&database.db, &fleet.url(), &["rebuild", "--keep-old"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let (out, err) = (
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    );
    assert!(
        out.contains("is new") && out.contains("the old file is kept as"),
        "{out}"
    );
    assert!(out.lines().all(|line| line.len() < 200), "{out}");
    for line in ["RESULTS: ", "the oldest of", "outputs: ", "building indexes"] {
        assert!(err.contains(line), "{line}: {err}");
    }

    // A server that is not there.
    let output = run(&database.db, "nats://127.0.0.1:1", &["rebuild", "--json"]);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    assert_eq!(output.stdout, b"");
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(err.starts_with("error: ") && err.lines().count() == 1, "{err}");
    // Flags that do not go together.
    let output = run(&database.db, &fleet.url(), &["rebuild", "--forget-completions"]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
}
