//! The permissions that are shipped (`deploy/nats-permissions.conf`) are enough for everything, and each of them is needed:
//! without it the command that needs it names it, nothing is lost, and with it back all is as if it had never been away.

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::jetstream;
use futures_util::StreamExt;
use serde_json::json;
use tempfile::TempDir;

use crate::derived::{DISKS, Run, disks, manifest, put_manifest, put_object, send};
use crate::harness::backend::{BackendFile, Ledgers};
use crate::harness::nats::copy;
use crate::harness::projector::{catch_up, place, run_with, text};
use crate::harness::*;
use crate::outputs::age_messages;

/// What is said of every permission that is missing.
const HINT: &str = "add that to its permissions";

/// A line of the shipped list.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    /// `run`, `load`, `adopted`, `doctor` or `create-missing`: the section's name.
    section: String,
    /// `publish` or `subscribe`.
    kind: &'static str,
    subject: String,
    line: usize,
}

fn shipped() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/nats-permissions.conf");
    fs::read_to_string(path).unwrap()
}

/// The entries that are allowed, section by section; those of `doctor` and `create-missing` are comments.
fn entries() -> Vec<Entry> {
    let (mut section, mut kind, mut found) = (String::new(), "", Vec::new());
    let mut allows = false;
    for (line, text) in shipped().lines().enumerate() {
        let text = text.trim();
        if let Some(rest) = text.strip_prefix("# [") {
            section = rest.split(']').next().unwrap().to_owned();
        }
        match text {
            "publish: {" => kind = "publish",
            "subscribe: {" => kind = "subscribe",
            "allow: [" => allows = true,
            "]" => allows = false,
            _ => {}
        }
        let entry = text.strip_prefix("# ").unwrap_or(text);
        if allows && entry.starts_with('"') {
            let subject = entry.trim_matches('"').to_owned();
            let section = section.clone();
            found.push(Entry {
                section,
                kind,
                subject,
                line,
            });
        }
    }
    found
}

/// The shipped file without some of its lines; `create-missing` only where it is wanted.
fn without(gone: &[&Entry], create_missing: bool) -> String {
    let all = entries();
    let lines = shipped()
        .lines()
        .enumerate()
        .map(|(number, text)| {
            let entry = all.iter().find(|entry| entry.line == number);
            match entry {
                // An empty list would allow everything.
                Some(entry) if gone.contains(&entry) && entry.kind == "subscribe" => "\"nothing\"".to_owned(),
                Some(entry) if gone.contains(&entry) => String::new(),
                Some(entry) if create_missing && entry.section == "create-missing" => {
                    format!("\"{}\"", entry.subject)
                }
                _ => text.to_owned(),
            }
        })
        .collect::<Vec<_>>();
    lines.join("\n")
}

fn server_config(permissions: &str) -> String {
    format!(
        "authorization {{\n{permissions}\nusers = [ {{ user: admin, password: admin }}\n{{ user: projector, password: secret, \
         permissions: $RESULTS_PROJECTOR }} ]\n}}\nno_auth_user: admin\n"
    )
}

/// Streams and stores with something for every permission, and a database that has read a part of them.
struct Scene {
    folder: TempDir,
    store: PathBuf,
    /// Half read.
    half: PathBuf,
    /// What the whole is in the end.
    whole: Vec<String>,
}

async fn publish(js: &jetstream::Context, from: usize) {
    for number in from..from + 6 {
        let (id, pc) = (format!("r{number}"), format!("PC-{number}"));
        Run::new(&id, &pc, DISKS, disks(2, 1.5)).send(js).await;
        let id = format!("p{number}");
        let object = Run::new(&id, &pc, DISKS, disks(3, 2.5)).send_pointer(js).await;
        put_object(js, &object).await;
        let started = json!({"result_id": id, "request_id": "q", "exec_id": "e", "pc_id": pc, "manifest_id": DISKS,
            "version": "1", "started_at": "2026-06-01T00:00:00Z"});
        send(js, &format!("events.started.e.{pc}"), &started).await;
        send(js, &format!("inventory.{pc}.sw"), &json!({"a": number})).await;
        send(js, "results.q", &json!("no result")).await;
    }
}

async fn scene() -> Scene {
    let mut server = NatsServer::start();
    let js = server.fleet().await;
    put_manifest(&js, DISKS, &manifest(DISKS)).await;
    // So many bytes that the server paces the watch.
    for number in 0..14 {
        let long = json!({"id": "x", "version": "x".repeat(900_000), "execute": {"timeout": "1s"}});
        put_manifest(&js, &format!("long-{number}"), &long).await;
    }
    publish(&js, 0).await;
    // One whose object never was: certain, since its message is old.
    Run::new("gone", "PC-1", "other", "x").send_pointer(&js).await;
    server.stop();
    age_messages(&server, Duration::from_secs(600));
    server.start_again();
    let (folder, half) = place();
    let password = folder.path().join("password");
    fs::write(&password, "secret\n").unwrap();
    // Its outputs are still to be asked for, whatever that takes: so far they could not be.
    let all = entries();
    let of_objects = all
        .iter()
        .filter(|entry| entry.subject.contains("OBJ_result_output"));
    server.restart_with(&server_config(&without(&of_objects.collect::<Vec<_>>(), false)));
    let output = run_as_projector(&half, &server, &password, &CATCH_UP, &[]);
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(
        one(
            &half,
            "SELECT count(*) FILTER (WHERE state = 'pending') FROM projector_outputs"
        ),
        7
    );
    publish(&server.jetstream().await, 100).await;
    server.stop();
    let store = folder.path().join("store");
    copy(&server.store(), &store);
    server.start_again();
    let whole = folder.path().join("whole.db");
    fs::copy(&half, &whole).unwrap();
    catch_up(&whole, &server.url());
    Scene {
        whole: dump::dump(&whole),
        folder,
        store,
        half,
    }
}

impl Scene {
    /// A server with the scene's store, whose user `projector` has these permissions.
    fn server(&self, permissions: &str) -> NatsServer {
        NatsServer::start_copy(&self.store, &server_config(permissions))
    }

    /// A database that has read a half.
    fn database(&self, folder: &Path) -> PathBuf {
        let db = folder.join("results.db");
        fs::copy(&self.half, &db).unwrap();
        db
    }

    fn run(&self, db: &Path, server: &NatsServer, args: &[&str]) -> Output {
        self.run_with(db, server, args, &[("RESULTS_PROJECTOR_SILENCE_SECONDS", "10")])
    }

    fn run_with(&self, db: &Path, server: &NatsServer, args: &[&str], more: &[(&str, &str)]) -> Output {
        run_as_projector(db, server, &self.folder.path().join("password"), args, more)
    }
}

/// Runs as the user with the permissions.
fn run_as_projector(
    db: &Path,
    server: &NatsServer,
    password: &Path,
    args: &[&str],
    more: &[(&str, &str)],
) -> Output {
    let mut env = vec![
        ("RESULTS_PROJECTOR_NATS_USER", "projector"),
        ("RESULTS_PROJECTOR_NATS_PASSWORD_FILE", password.to_str().unwrap()),
    ];
    env.extend(more);
    run_with(db, &server.url(), args, &env)
}

const CATCH_UP: [&str; 2] = ["run", "--until-caught-up"];

/// The user's permissions without some sections.
fn sections(gone: &[&str]) -> Vec<Entry> {
    let all = entries();
    all.into_iter()
        .filter(|entry| gone.contains(&entry.section.as_str()))
        .collect()
}

#[test]
fn the_shipped_list_is_read_whole() {
    let all = entries();
    let count = |section: &str| all.iter().filter(|entry| entry.section == section).count();
    assert_eq!(
        (
            count("run"),
            count("load"),
            count("adopted"),
            count("doctor"),
            count("create-missing")
        ),
        (29, 15, 2, 42, 4)
    );
    assert_eq!(all.iter().filter(|entry| entry.kind == "subscribe").count(), 1);
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/PERMISSIONS.md")).unwrap();
    for entry in &all {
        let streams = ["RESULTS", "EVENTS", "INVENTORY"];
        let stream = streams
            .iter()
            .find(|stream| entry.subject.contains(&format!(".{stream}")));
        if entry.section == "doctor" {
            let (verb, name) = entry.subject.rsplit_once('.').unwrap();
            let kind = ["KV_<bucket>", "OBJ_<store>"]
                .into_iter()
                .find(|kind| name.starts_with(kind.split('<').next().unwrap()))
                .unwrap_or("<OTHER>");
            assert!(page.contains(&format!("`{verb}.{kind}`")), "{}", entry.subject);
            continue;
        }
        let general = stream.map_or(entry.subject.clone(), |stream| {
            let own = format!("results_projector_{}", stream.to_lowercase());
            entry
                .subject
                .replace(&own, "results_projector_<stream>")
                .replace(stream, "<STREAM>")
        });
        assert!(
            page.contains(&format!("`{general}`")) || page.contains(&format!("`{}`", entry.subject)),
            "docs/PERMISSIONS.md says nothing of {general}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_exactly_the_shipped_permissions_every_command_works() {
    let scene = scene().await;
    let server = scene.server(&without(&[], false));
    let (_folder, db) = place();
    let db = scene.database(db.parent().unwrap());
    for args in [
        &CATCH_UP[..],
        &["status"],
        &["verify"],
        &["verify", "--sample", "5"],
        &["replay"],
        &["replay", "--job", DISKS],
        &["rebuild"],
        &["dead-letters", "list"],
        &["outputs", "list"],
    ] {
        let output = scene.run(&db, &server, args);
        assert!(output.status.success(), "{args:?}: {}", text(&output));
        assert!(
            !text(&output).contains("not allow"),
            "{args:?}: {}",
            text(&output)
        );
    }
    assert_eq!(dump::dump(&db), scene.whole);
    for args in [
        &["dead-letters", "retry", "--all"][..],
        &["outputs", "retry", "--all"],
    ] {
        let output = scene.run(&db, &server, args);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {}", text(&output));
    }
    check_i3(&db);
    // A first load in bulk, and letters whose payload only the stream holds.
    let (_folder, new) = place();
    let env = [
        ("RESULTS_PROJECTOR_STORE_BULK_FROM", "1"),
        ("RESULTS_PROJECTOR_DEAD_LETTERS_MAX_BYTES", "1"),
    ];
    let output = scene.run_with(&new, &server, &CATCH_UP, &env);
    assert!(text(&output).contains("loaded in bulk"), "{}", text(&output));
    let seq = one(&new, "SELECT min(stream_seq) FROM projector_dead_letters").to_string();
    let show = ["dead-letters", "show", "RESULTS", &seq];
    let shown = scene.run_with(&new, &server, &show, &env);
    assert!(text(&shown).contains("(from the stream)"), "{}", text(&shown));
    // Dots in an inbox, as before: somebody else's answers are not ours to hear.
    let log = server.log();
    assert!(!log.contains("Violation"), "{log}");
    let env = [("RESULTS_PROJECTOR_NATS_INBOX_PREFIX", "_INBOX")];
    let output = scene.run_with(&db, &server, &["verify"], &env);
    assert_eq!(output.status.code(), Some(3));
    assert!(
        text(&output).contains("subscribe to \"_INBOX.>\""),
        "{}",
        text(&output)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_needs_the_first_section_only_and_creates_what_is_missing_with_the_last() {
    let scene = scene().await;
    let rest = sections(&["watch", "load", "adopted"]);
    let gone: Vec<&Entry> = rest.iter().collect();
    let server = scene.server(&without(&gone, false));
    let (_folder, db) = place();
    let db = scene.database(db.parent().unwrap());
    let output = scene.run(&db, &server, &CATCH_UP);
    assert!(output.status.success(), "{}", text(&output));
    assert!(!server.log().contains("Violation"), "{}", server.log());
    assert_eq!(dump::dump(&db), scene.whole);

    let empty = NatsServer::start_with(&server_config(&without(&gone, false)));
    let (_folder, db) = place();
    let output = scene.run(&db, &empty, &["run", "--until-caught-up", "--create-missing"]);
    assert_eq!(output.status.code(), Some(3));
    for stream in ["RESULTS", "EVENTS", "INVENTORY", "OBJ_result_output"] {
        let named = format!("publish to \"$JS.API.STREAM.CREATE.{stream}\"");
        assert!(text(&output).contains(&named), "{stream}: {}", text(&output));
    }
    let empty = NatsServer::start_with(&server_config(&without(&gone, true)));
    let output = scene.run(&db, &empty, &["run", "--until-caught-up", "--create-missing"]);
    assert!(output.status.success(), "{}", text(&output));
    assert!(!empty.log().contains("Violation"), "{}", empty.log());
}

/// One permission is missing.
fn one_is_missing(scene: &Scene, entry: &Entry, also: &[Entry]) {
    let gone: Vec<&Entry> = also.iter().chain([entry]).collect();
    let mut server = scene.server(&without(&gone, false));
    let folder = tempfile::tempdir().unwrap();
    let db = scene.database(folder.path());
    if entry.section == "load" {
        let all = scene.server(&without(&[], false));
        let output = scene.run(&db, &all, &CATCH_UP);
        assert!(output.status.success(), "{}", text(&output));
    }
    let args: &[&str] = if entry.section == "load" {
        &["verify"]
    } else {
        &CATCH_UP
    };
    let output = scene.run(&db, &server, args);
    let said = text(&output);
    let what = if entry.kind == "publish" {
        "publish to"
    } else {
        "subscribe to"
    };
    let named = format!("{what} \"{}\"", entry.subject);
    let escaped = named.replace('"', "\\\"");
    let kind = (entry.section.as_str(), entry.subject.as_str());
    assert!(
        said.contains(&named) || said.contains(&escaped),
        "without {kind:?} it says:\n{said}"
    );
    assert!(said.contains(HINT), "without {kind:?} it says:\n{said}");
    // Without pulls messages are asked for one by one, which takes longer.
    let works_on = ["ACK", "OBJ_result_output", "MSG.NEXT"]
        .iter()
        .any(|part| entry.subject.contains(part));
    let code = output.status.code();
    assert!(
        code == Some(3) || (works_on && code == Some(0)),
        "without {kind:?}: {code:?}\n{said}"
    );
    // With it back, all is there.
    let rest: Vec<&Entry> = also.iter().collect();
    server.restart_with(&server_config(&without(&rest, false)));
    let output = scene.run(&db, &server, &CATCH_UP);
    assert!(output.status.success(), "{}", text(&output));
    check_i3(&db);
    assert_eq!(dump::dump(&db), scene.whole, "without {kind:?}");
}

fn each_is_needed(scene: &Scene, section: &str, also: &[Entry]) {
    // Every day, one stream stands for the three.
    let wanted = |entry: &Entry| {
        scale(false, true)
            || !["EVENTS", "INVENTORY"]
                .iter()
                .any(|other| entry.subject.contains(other))
    };
    let queue: Mutex<VecDeque<Entry>> = Mutex::new(sections(&[section]).into_iter().filter(wanted).collect());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().unwrap().pop_front();
                    let Some(entry) = next else { return };
                    one_is_missing(scene, &entry, also);
                }
            });
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn each_permission_of_the_service_is_named_when_it_is_missing_and_nothing_is_lost() {
    let scene = scene().await;
    each_is_needed(&scene, "run", &sections(&["watch", "load", "adopted"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_permission_of_a_load_is_named_when_it_is_missing() {
    let scene = scene().await;
    each_is_needed(&scene, "load", &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_permission_on_the_backends_file_is_named_when_it_is_missing() {
    let (folder, db) = place();
    let password = folder.path().join("password");
    fs::write(&password, "secret\n").unwrap();
    BackendFile::with(Ledgers::LikeOurs).create(&db);
    // The wildcards of a load would allow it too.
    let load = sections(&["load"]);
    let adopted = sections(&["adopted"]);
    for missing in [None, Some(&adopted[0]), Some(&adopted[1])] {
        let gone: Vec<&Entry> = load.iter().chain(missing).collect();
        let server = NatsServer::start_with(&server_config(&without(&gone, false)));
        let js = server.fleet().await;
        Run::new("r", "PC-1", "other", "x").send(&js).await;
        let output = run_as_projector(&db, &server, &password, &CATCH_UP, &[]);
        assert!(output.status.success(), "{}", text(&output));
        let status = run_as_projector(&db, &server, &password, &["status"], &[]);
        let said = text(&status);
        match missing {
            None => assert!(!said.contains(HINT), "{said}"),
            Some(entry) => assert!(
                said.contains(&format!("publish to {:?}", entry.subject)) && said.contains(HINT),
                "without {entry:?} it says:\n{said}"
            ),
        }
        assert_eq!(one(&db, "SELECT count(*) FROM execution_results"), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_fell_silent_is_begun_anew_though_its_consumer_may_not_be_taken_away() {
    let (folder, db) = place();
    let password = folder.path().join("password");
    fs::write(&password, "secret\n").unwrap();
    let watch = sections(&["watch"]);
    let gone: Vec<&Entry> = watch.iter().collect();
    let server = NatsServer::start_with(&server_config(&without(&gone, false)));
    let js = server.fleet().await;
    let env = [
        ("RESULTS_PROJECTOR_NATS_USER", "projector"),
        ("RESULTS_PROJECTOR_NATS_PASSWORD_FILE", password.to_str().unwrap()),
    ];
    let projector = Projector::start_with(&db, &server.url(), &["run"], &env);
    Run::new("first", "PC-1", DISKS, disks(2, 1.5)).send(&js).await;
    wait_until("it reads", PATIENCE, || db.exists() && position(&db) == 1);
    let bucket = js.get_stream("KV_jobs").await.unwrap();
    let mut watches = bucket.consumer_names();
    while let Some(name) = watches.next().await {
        bucket.delete_consumer(&name.unwrap()).await.unwrap();
    }
    wait_until("it is begun anew", PATIENCE, || {
        projector.stderr().contains("reading the bucket jobs anew")
    });
    put_manifest(&js, DISKS, &manifest(DISKS)).await;
    let started = std::time::Instant::now();
    for number in 0.. {
        assert!(started.elapsed() < PATIENCE, "{}", projector.stderr());
        Run::new(&format!("r{number}"), "PC-1", DISKS, disks(2, 1.5))
            .send(&js)
            .await;
        wait_until("it is projected", PATIENCE, || position(&db) == number + 2);
        if one(&db, "SELECT count(*) FROM inventory_facts") == 1 {
            break;
        }
    }
    assert!(projector.terminate().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_denial_keeps_the_backends_consumers_from_the_wildcards_of_a_load() {
    let list = shipped();
    let (_, denials) = list.split_once("deny: [").unwrap();
    let (denials, _) = denials.split_once(']').unwrap();
    let denied: Vec<&str> = denials
        .lines()
        .filter_map(|line| line.trim().strip_prefix('"')?.strip_suffix('"'))
        .collect();
    assert_eq!(denied.len(), 8);
    for (config, is_denied) in [
        (list.clone(), true),
        (list.replace(denials, "\"nothing\""), false),
    ] {
        let server = NatsServer::start_with(&server_config(&config));
        let violations = Arc::new(Mutex::new(String::new()));
        let heard = violations.clone();
        let client = async_nats::ConnectOptions::with_user_and_password("projector".into(), "secret".into())
            .event_callback(move |event| {
                heard.lock().unwrap().push_str(&event.to_string());
                std::future::ready(())
            })
            .connect(server.url())
            .await
            .unwrap();
        for subject in &denied {
            client
                .publish(subject.replace(".>", ".1.1.1.1.1.0"), "".into())
                .await
                .unwrap();
        }
        // Denied in any case, after all of them.
        client.publish("the.end", "".into()).await.unwrap();
        wait_until("all are answered", PATIENCE, || {
            violations.lock().unwrap().contains("\"the.end\"")
        });
        let said = violations.lock().unwrap();
        for subject in &denied {
            let named = format!("\"{}\"", subject.replace(".>", ".1.1.1.1.1.0")).to_lowercase();
            assert_eq!(
                said.to_lowercase().contains(&named),
                is_denied,
                "{subject}: {said}"
            );
        }
    }
}

/// A user of its own for each list of permissions.
fn users(lists: &[String]) -> String {
    let name = "RESULTS_PROJECTOR:";
    let blocks: String = lists
        .iter()
        .enumerate()
        .map(|(number, list)| list.replace(name, &format!("LIST_{number}:")) + "\n")
        .collect();
    let users: String = (0..lists.len())
        .map(|number| format!("{{ user: user-{number}, password: secret, permissions: $LIST_{number} }}\n"))
        .collect();
    format!(
        "authorization {{\n{blocks}\nusers = [ {{ user: admin, password: admin }}\n{users} ]\n}}\nno_auth_user: admin\n"
    )
}

/// Has a user look at everything.
fn look(db: &Path, server: &NatsServer, password: &Path, number: usize) -> Output {
    let user = format!("user-{number}");
    let env = [
        ("RESULTS_PROJECTOR_NATS_USER", user.as_str()),
        ("RESULTS_PROJECTOR_NATS_PASSWORD_FILE", password.to_str().unwrap()),
    ];
    run_with(db, &server.url(), &["doctor", "--json"], &env)
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_names_each_permission_that_is_missing_and_trying_them_changes_nothing() {
    let all = entries();
    let comments = ["doctor", "create-missing"];
    let tried: Vec<&Entry> = all
        .iter()
        .filter(|entry| !comments.contains(&entry.section.as_str()))
        .collect();
    // The wildcards of a load allow what others name.
    let load: Vec<&Entry> = all.iter().filter(|entry| entry.section == "load").collect();
    let mut lists: Vec<String> = tried
        .iter()
        .map(|entry| {
            let mut gone = if entry.section == "load" {
                Vec::new()
            } else {
                load.clone()
            };
            gone.push(entry);
            without(&gone, false)
        })
        .collect();
    let least = lists.len();
    lists.push(without(&[], false));
    let looks: String = shipped()
        .lines()
        .map(|line| {
            let looks = all
                .iter()
                .any(|entry| entry.section == "doctor" && line.trim() == format!("# \"{}\"", entry.subject));
            let line = if looks {
                line.trim().trim_start_matches("# ")
            } else {
                line
            };
            format!("{line}\n")
        })
        .collect();
    lists.push(looks);
    let server = NatsServer::start_with(&users(&lists));
    let js = server.jetstream().await;
    crate::doctor::healthy(&js).await;
    let (folder, db) = place();
    let password = folder.path().join("password");
    fs::write(&password, "secret\n").unwrap();
    catch_up(&db, &server.url());
    let projector = Projector::start(&db, &server.url());
    wait_until("it reads all three", PATIENCE, || {
        crate::doctor::reads(&projector)
    });
    let before = crate::doctor::consumers(&js).await;
    let queue: Mutex<VecDeque<usize>> = Mutex::new((0..tried.len()).collect());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().unwrap().pop_front();
                    let Some(number) = next else { return };
                    let entry = tried[number];
                    let output = look(&db, &server, &password, number);
                    let subject = format!("permissions [{}]", entry.section);
                    let verb = if entry.kind == "publish" {
                        "publish to"
                    } else {
                        "subscribe to"
                    };
                    let named = format!("not allowed: {verb} \"{}\"", entry.subject);
                    let found = crate::doctor::found(&output);
                    let (severity, code) = if entry.section == "run" {
                        ("bad", 1)
                    } else {
                        ("note", 0)
                    };
                    assert!(
                        found
                            .iter()
                            .any(|(s, _, at, what)| s == severity && *at == subject && *what == named),
                        "without {entry:?}: {found:#?}"
                    );
                    assert_eq!(output.status.code(), Some(code), "without {entry:?}: {found:#?}");
                }
            });
        }
    });
    // With the least of permissions: what is out of sight is told once.
    let output = look(&db, &server, &password, least);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let denied: Vec<_> = crate::doctor::found(&output)
        .into_iter()
        .filter(|(_, check, ..)| check == "permissions")
        .collect();
    assert_eq!(denied.len(), 1, "{denied:#?}");
    assert!(denied[0].3.contains("28 not looked at"), "{denied:#?}");
    // With the section doctor, nothing is.
    let output = look(&db, &server, &password, least + 1);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(
        !crate::doctor::found(&output)
            .iter()
            .any(|(_, check, ..)| check == "permissions"),
        "{}",
        text(&output)
    );
    crate::doctor::assert_none_touched(&before, &crate::doctor::consumers(&js).await);
    assert!(projector.terminate().success());
}
