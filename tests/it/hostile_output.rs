//! An agent that puts what terminals, journals and pages obey into every field that it may fill: whatever prints it, prints
//! it inert, and programs still read what was sent.

mod letters;
mod pointers;
mod poison;

use std::fs;
use std::path::Path;
use std::process::Output;

use async_nats::HeaderMap;
use async_nats::jetstream;
use rusqlite::Connection;
use serde_json::{Value, json};

use crate::derived::send;
use crate::harness::projector::{place, run_with, text};
use crate::harness::*;

/// A line that no line of ours begins like.
const FORGED: &str = "FORGED";

/// Control characters of all kinds, sequences that colour, link, write to the clipboard, set the title, move the cursor;
/// marks that turn lines around; ends of lines and lines after them; markup, statements, shell.
const NASTY: &str = "\u{1b}[31m\u{1b}[2J\u{1b}]0;title\u{7}\u{1b}]8;;http://x\u{1b}\\\u{1b}]52;c;AAAA\u{7}\u{9b}31m\u{9d}0;t\u{9c}\u{85}\u{7f}\u{0}\u{8}\t\
     \r\nFORGED RESULTS  1  1  0\nFORGED error: all is lost\u{b}\u{c}FORGED\u{2028}FORGED\u{2029}FORGED\
     \u{202e}\u{202d}\u{2066}\u{2069}\u{200f}\u{200e}\u{61c}\u{feff}\u{e0041}<script>alert(1)</script>&quot;\"'); DROP TABLE \
     execution_results;--$(reboot)`reboot`%s%n{}\\n日本";

/// What a subject may hold of it; blanks of other scripts are for the tests of poison.
const SUBJECT: &str = "q\u{1b}[31m\u{1b}]0;t\u{7}\u{9b}31m\u{7f}\u{202e}<b>';--";

fn nasty(name: &str) -> String {
    format!("{name}{NASTY}")
}

fn long(name: &str) -> String {
    format!("{name}{}", NASTY.repeat(60))
}

/// Nothing in it that a terminal obeys, and no line that the sender has made.
fn assert_inert(what: &str, bytes: &[u8], longest: usize) {
    let text = std::str::from_utf8(bytes).unwrap_or_else(|error| panic!("{what}: {error}"));
    let bidi = ['\u{61c}', '\u{200e}', '\u{200f}', '\u{2028}', '\u{2029}'];
    for c in text.chars() {
        let steers = (c.is_control() && c != '\n')
            || bidi.contains(&c)
            || ('\u{202a}'..='\u{202e}').contains(&c)
            || ('\u{2066}'..='\u{2069}').contains(&c);
        assert!(!steers, "{what} prints {:?}:\n{}", c, text.escape_debug());
    }
    for line in text.lines() {
        assert!(
            !line.trim_start().starts_with(FORGED),
            "{what} prints a forged line:\n{text}"
        );
        let length = line.chars().count();
        assert!(length <= longest, "{what} prints a line of {length} characters");
    }
}

/// A machine's output: inert too, and what was sent when read.
fn assert_json(what: &str, output: &Output) -> Value {
    assert_inert(what, &output.stdout, usize::MAX);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{what}: {error}: {}", text(output)))
}

/// The longest line of a list.
const LINE_MAX: usize = 2_500;

fn inert_run(db: &Path, url: &str, args: &[&str]) -> Output {
    let output = run_with(db, url, args, &[]);
    let longest = if args.contains(&"--json") || args.contains(&"dump") || args.contains(&"show") {
        usize::MAX
    } else {
        LINE_MAX
    };
    assert_inert(&format!("{args:?}"), &output.stdout, longest);
    assert_inert(&format!("the log of {args:?}"), &output.stderr, 20_000);
    output
}

fn result(id: &str, pc_id: &str, job: &str) -> Value {
    json!({
        "result_id": id, "request_id": nasty("q"), "exec_id": nasty("e"), "parent_result_id": nasty("p"), "pc_id": pc_id,
        "manifest_id": job, "exit_code": 0, "skipped": false, "stdout": nasty("out"), "stderr": nasty("err"),
        "started_at": "2026-06-01T00:00:00Z", "finished_at": "2026-06-01T00:00:05Z", "collect_object": nasty("c"),
    })
}

/// Without DEL: a bucket of this server does not find a key with one.
const JOB: &str = "job\u{1b}[31m\u{9b}0m\u{202e}<b>';--";

/// Hints whose every name is nasty; some have tables, most are issues.
async fn manifests(js: &jetstream::Context) {
    let spec = |table: &str, column: &str| {
        json!({"field": "items", "table": table, "primary_key": [column], "columns": [
            {"field": column, "type": "text"}, {"field": "v", "type": "text", "index": true}], "track_history": true})
    };
    let manifest = json!({
        "id": JOB, "version": nasty("v"), "execute": {"shell": "powershell", "script": nasty("x"), "timeout": nasty("30s")},
        "inventory": {
            "display": [{"field": nasty("f"), "label": nasty("l"), "type": nasty("t")}], "history_scalars": [nasty("s"), "host"],
            "explode": [spec("apps", "k"), spec(&nasty("t"), "k"), spec("fine", &nasty("c")), spec("users", "k"), spec(&long("l"), "k")],
        },
        "check": {"name": nasty("check"), "label": nasty("label"), "status_field": "status", "detail_field": "detail"},
        "feed": [{"id": nasty("feed"), "field": "items", "primary_key": ["k"]}, {"id": "plain", "field": nasty("f"), "primary_key": ["k"]}],
    });
    let posts = [
        (JOB.to_owned(), manifest.to_string()),
        (
            format!("{JOB}2"),
            json!({"id": nasty("i"), "version": 1}).to_string(),
        ),
    ];
    for (key, document) in posts {
        let subject = format!("$KV.jobs.{key}");
        js.publish(subject, document.into()).await.unwrap().await.unwrap();
    }
}

/// Everything that an agent may fill, filled.
async fn publish(js: &jetstream::Context) {
    manifests(js).await;
    let items = json!([{"k": nasty("k"), "v": nasty("v")}, {"k": nasty("k"), "v": 1}, {"v": nasty("x")}, {"k": long("l"), "v": NASTY}]);
    let facts = |host: &str| {
        json!({nasty("s"): nasty(host), "host": nasty(host), "items": items, "status": nasty("ok"), "detail": nasty("d")}).to_string()
    };
    for (number, host) in ["a", "b"].iter().enumerate() {
        let mut message = result(&nasty(&format!("r{number}")), &nasty("PC"), JOB);
        message["stdout"] = json!(facts(host));
        send(js, &format!("results.{SUBJECT}"), &message).await;
    }
    let mut failed = result(&long("long"), &long("PC"), JOB);
    failed["exit_code"] = json!(3);
    send(js, "results.q", &failed).await;
    send(js, "results.q", &result(&nasty("no-json"), &nasty("PC2"), JOB)).await;
    send(
        js,
        "results.q",
        &result(&nasty("undecodable"), &nasty("PC3"), &format!("{JOB}2")),
    )
    .await;
    for name in [
        nasty(&format!("{}/out", nasty("q"))),
        nasty("other/out"),
        long("other/"),
    ] {
        let mut pointing = result(
            &nasty(&name.chars().take(9).collect::<String>()),
            &nasty("PC"),
            &nasty("other"),
        );
        pointing["stdout"] = json!("");
        pointing["stdout_object"] = json!(name);
        pointing["stderr_object"] = json!("");
        send(js, &format!("results.{SUBJECT}"), &pointing).await;
    }
    // Dead letters: in the reason stands what was sent.
    let mut headers = HeaderMap::new();
    headers.insert("X-Nasty", "\u{1b}[31m\u{9b}0m\u{7f}\u{202e}<b>\u{7}");
    let dead = json!({"result_id": 1, nasty("field"): nasty("x")}).to_string();
    let bad = [
        dead,
        format!("{NASTY}{{"),
        json!({"result_id": "x", "exit_code": long("n")}).to_string(),
        result("x", "y", "z")
            .to_string()
            .replace("2026-06-01T00:00:00Z", "never\\u001b[31m\\n FORGED"),
    ];
    for payload in bad {
        let publishing =
            js.publish_with_headers(format!("results.{SUBJECT}.dead"), headers.clone(), payload.into());
        publishing.await.unwrap().await.unwrap();
    }
    let started = json!({
        "result_id": nasty("start"), "request_id": nasty("q"), "exec_id": nasty("e"), "pc_id": nasty("PC"), "manifest_id": JOB,
        "version": nasty("v"), "started_at": "2026-06-01T00:00:00Z",
    });
    send(js, &format!("events.started.{SUBJECT}.PC"), &started).await;
    send(
        js,
        &format!("events.started.{SUBJECT}.PC"),
        &json!({"result_id": [nasty("x")]}),
    )
    .await;
    send(
        js,
        &format!("inventory.PC{SUBJECT}.sw"),
        &json!({nasty("k"): nasty("v")}),
    )
    .await;
    let mut hardware = json!({
        "pc_id": nasty("PC"), "hostname": nasty("h"), "os_name": nasty("o"), "os_version": nasty("v"), "cpu_model": nasty("c"),
        "os_build": nasty("b"), "cpu_cores": 1, "ram_bytes": 1, "collected_at": "2026-06-01T00:00:00Z",
        "disks": [{"device_id": nasty("d"), "size_bytes": 1, "free_bytes": 1, "file_system": nasty("f")}],
    });
    send(js, &format!("inventory.PC{SUBJECT}.hw"), &hardware).await;
    hardware["cpu_cores"] = json!(nasty("many"));
    send(js, &format!("inventory.PC{SUBJECT}.hw"), &hardware).await;
}

/// Rows that differ, in every way that `verify` tells.
fn strike(db: &Path) {
    let conn = Connection::open(db).unwrap();
    conn.busy_timeout(PATIENCE).unwrap();
    let other = nasty("struck");
    for sql in [
        "UPDATE execution_results SET stdout = ?1, exec_id = ?1 WHERE result_id LIKE 'r%'",
        "DELETE FROM execution_results WHERE result_id LIKE 'no-json%'",
        "UPDATE check_status SET detail = ?1",
        "UPDATE feeds SET data = ?1",
        "UPDATE inventory_facts SET facts_json = ?1 WHERE job_id LIKE 'job%'",
        "UPDATE apps SET v = ?1",
        "INSERT INTO apps (pc_id, job_id, k, v) SELECT pc_id, job_id, ?1, ?1 FROM apps LIMIT 1",
        "UPDATE inventory_history SET after_json = ?1 WHERE id = (SELECT max(id) FROM inventory_history)",
        "UPDATE job_completions SET last_success_at = ?1",
    ] {
        let parameters: &[&dyn rusqlite::ToSql] = if sql.contains("?1") { &[&other] } else { &[] };
        let changed = conn.execute(sql, parameters).unwrap();
        assert!(changed > 0, "{sql}: {:#?}", dump::dump(db));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_an_agent_sends_every_output_of_every_command_is_inert() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    publish(&js).await;
    let url = server.url();
    let (folder, db) = place();
    // Nobody pulls from it: it is taken over, and who it belonged to is said.
    let durable = jetstream::consumer::pull::Config {
        durable_name: Some("results_projector_results".to_owned()),
        metadata: [("results_projector.owner".to_owned(), nasty("owner"))].into(),
        ..Default::default()
    };
    js.get_stream("RESULTS")
        .await
        .unwrap()
        .create_consumer(durable)
        .await
        .unwrap();
    for format in ["text", "json", "journald"] {
        let (_folder, db) = place();
        let args = ["--log-format", format, "-vv", "run", "--until-caught-up"];
        let output = run_with(&db, &url, &args, &[]);
        assert!(output.status.success(), "{}", text(&output));
        assert_inert(&format!("the log as {format}"), &output.stderr, 20_000);
        if format == "json" {
            for line in String::from_utf8(output.stderr).unwrap().lines() {
                let line: Value = serde_json::from_str(line).unwrap();
                assert!(line["fields"]["message"].is_string(), "{line}");
            }
        }
    }
    let output = inert_run(&db, &url, &["run", "--until-caught-up"]);
    assert!(output.status.success(), "{}", text(&output));
    check_i3(&db);

    let status = assert_json("status --json", &inert_run(&db, &url, &["status", "--json"]));
    let issues = status["issues"].as_array().unwrap();
    for pc in [nasty("PC"), nasty("PC2"), nasty("PC3")] {
        assert!(
            issues.iter().any(|issue| issue["pc_id"] == pc.as_str()),
            "{issues:?}"
        );
    }
    let listed = assert_json(
        "the list",
        &inert_run(&db, &url, &["dead-letters", "list", "--json"]),
    );
    let letters = listed["dead_letters"].as_array().unwrap();
    assert_eq!(letters.len(), 6);
    assert!(
        letters
            .iter()
            .any(|letter| letter["subject"] == format!("results.{SUBJECT}.dead"))
    );
    let outputs = assert_json("the list", &inert_run(&db, &url, &["outputs", "list", "--json"]));
    let outputs = outputs["outputs"].as_array().unwrap();
    for object in [nasty("other/out"), long("other/")] {
        assert!(
            outputs.iter().any(|output| output["object"] == object.as_str()),
            "{outputs:?}"
        );
    }
    for letter in letters {
        let (stream, seq) = (
            letter["stream"].as_str().unwrap(),
            letter["stream_seq"].to_string(),
        );
        let shown = inert_run(&db, &url, &["dead-letters", "show", stream, &seq]);
        assert!(shown.status.success());
        let shown = assert_json(
            "show",
            &inert_run(&db, &url, &["dead-letters", "show", stream, &seq, "--json"]),
        );
        assert!(
            shown["payload_text"].as_str().unwrap().contains("FORGED"),
            "{shown}"
        );
    }
    let id = nasty("other/out");
    for args in [
        &["status"][..],
        &["dead-letters", "list"],
        &["dead-letters", "list", "--limit", "1"],
        &["dead-letters", "retry", "--all"],
        &["dead-letters", "retry", "--all", "--json"],
        &["dead-letters", "show", &id[..5], "1"],
        &["outputs", "list"],
        &["outputs", "retry", "--all"],
        &["outputs", "retry", "--all", "--json"],
        &["verify"],
        &["verify", "--json"],
        &["verify", "--sample", "100"],
        &["config", "show"],
        &["config", "check"],
    ] {
        inert_run(&db, &url, args);
    }
    proofs(&db, &url);
    files(folder.path(), &db, &url);
    check_i3(&db);
}

/// Differences, mended and named; the dump; a rebuild.
fn proofs(db: &Path, url: &str) {
    let dumped = inert_run(db, url, &["dump"]);
    let good = dump::dump(db);
    let lines = String::from_utf8(dumped.stdout).unwrap();
    let rows: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let told = rows.iter().any(|row| {
        row.as_array()
            .is_some_and(|row| row.contains(&json!(nasty("err"))))
    });
    assert!(told, "the dump says what was sent");
    for as_json in [false, true] {
        let json: &[&str] = if as_json { &["--json"] } else { &[] };
        strike(db);
        let verified = inert_run(db, url, &[&["verify"][..], json].concat());
        assert_eq!(verified.status.code(), Some(1), "{}", text(&verified));
        if as_json {
            let found = assert_json("verify", &verified);
            assert!(found["differences"].to_string().contains("struck"), "{found}");
        }
        inert_run(db, url, &["verify", "--sample", "100"]);
        let replayed = inert_run(db, url, &[&["replay"][..], json].concat());
        assert!(replayed.status.success(), "{}", text(&replayed));
        assert_eq!(dump::dump(db), good);
        let rebuilt = inert_run(db, url, &[&["-v", "rebuild"][..], json].concat());
        assert!(rebuilt.status.success(), "{}", text(&rebuilt));
        assert_eq!(dump::dump(db), good);
    }
}

/// Names of files, settings and arguments that were copied from somewhere.
fn files(folder: &Path, db: &Path, url: &str) {
    const NAME: &str = "x\u{1b}[31m\u{9b}m\u{202e}\nFORGED";
    let there = folder.join(NAME);
    fs::create_dir(&there).unwrap();
    let copy = there.join("copy.db");
    let backed_up = inert_run(db, url, &["backup", copy.to_str().unwrap()]);
    assert!(backed_up.status.success(), "{}", text(&backed_up));
    for args in [
        &["backup", copy.to_str().unwrap()][..],
        &["backup", "--json", "--force", copy.to_str().unwrap()],
        &["--config", there.to_str().unwrap(), "config", "check"],
        &["dump", "--table", NAME],
        &["dump", "--out", there.join("no/such").to_str().unwrap()],
        &["dead-letters", "show", NAME, "1"],
        &["dead-letters", "show", "RESULTS", NAME],
        &["outputs", "list", "--state", NAME],
        &["outputs", "retry", "--result", NAME],
        &["replay", "--since", NAME],
        &["replay", "--job", NAME],
        &["--nats-url", NAME, "status"],
        &["--nats-creds", there.to_str().unwrap(), "verify"],
        &[NAME],
    ] {
        inert_run(db, url, args);
    }
    for args in [
        &["status"][..],
        &["status", "--json"],
        &["verify"],
        &["config", "show"],
        &["config", "show", "--json"],
        &["config", "check"],
        &["rebuild"],
        &["run", "--until-caught-up"],
    ] {
        inert_run(&copy, url, args);
    }
    fs::remove_file(&copy).unwrap();
    fs::create_dir(&copy).unwrap();
    for args in [&["status"][..], &["run"], &["rebuild", "--swap"]] {
        inert_run(&copy, url, args);
    }
    for setting in [
        "SOURCE_CONSUMER_PREFIX",
        "NATS_JS_DOMAIN",
        "LOG_LEVEL",
        "OUTPUTS_MAX_BYTES",
        "NATS_CA",
    ] {
        let name = format!("RESULTS_PROJECTOR_{setting}");
        for args in [
            &["config", "show"][..],
            &["config", "show", "--json"],
            &["status"],
        ] {
            let output = run_with(db, url, args, &[(&name, NAME)]);
            assert_inert(&format!("{setting} {args:?}"), &output.stdout, usize::MAX);
            assert_inert(&format!("{setting} {args:?}"), &output.stderr, usize::MAX);
        }
    }
    let file = folder.join("config.toml");
    for config in [
        "[\"x\\u001b\\n\"]\na = 1",
        "[store]\n\"x\\u001b[31m\" = 1",
        "[store]\npath = \u{9b}",
        "[log]\nlevel = \"x\\u009b\\nFORGED\"",
    ] {
        fs::write(&file, config).unwrap();
        let refused = inert_run(db, url, &["--config", file.to_str().unwrap(), "config", "check"]);
        assert_eq!(refused.status.code(), Some(2), "{}", text(&refused));
    }
}
