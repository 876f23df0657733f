//! What an operator sees: metrics, health, the status page, and what the service manager is told.

mod page;
mod systemd;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use prometheus_parse::{Scrape, Value};
use results_projector::meters::Gauge;
use rusqlite::Connection;

use crate::harness::fleet::put_manifests;
use crate::harness::projector::{place, run, text};
use crate::harness::web::{SERVING, address, get};
use crate::harness::*;

fn serving(db: &std::path::Path, url: &str) -> (Projector, String) {
    let env = [SERVING, ("RESULTS_PROJECTOR_SAMPLE_SECONDS", "1")];
    let projector = Projector::start_with(db, url, &["run"], &env);
    let address = address(&projector);
    (projector, address)
}

fn scrape(address: &str) -> Scrape {
    let answer = get(address, "/metrics");
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(
        answer
            .header("content-type")
            .starts_with("text/plain; version=0.0.4")
    );
    Scrape::parse(answer.body.lines().map(|line| Ok(line.to_owned()))).unwrap()
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Counter(number) | Value::Gauge(number) | Value::Untyped(number) => Some(*number),
        Value::Histogram(_) | Value::Summary(_) => None,
    }
}

/// The sum of a metric's values whose labels are these.
fn metric(scrape: &Scrape, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let name = format!("results_projector_{name}");
    let found: Vec<f64> = scrape
        .samples
        .iter()
        .filter(|sample| sample.metric == name)
        .filter(|sample| {
            labels
                .iter()
                .all(|(label, value)| sample.labels.get(label) == Some(value))
        })
        .filter_map(|sample| number(&sample.value))
        .collect();
    (!found.is_empty()).then(|| found.iter().sum())
}

fn is_ready(address: &str) -> bool {
    get(address, "/readyz").status == 200
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_have_base_units_and_every_label_value_is_there_before_the_first_event() {
    let server = NatsServer::start();
    server.fleet().await;
    let (_folder, db) = place();
    let (projector, address) = serving(&db, &server.url());
    wait_until("it is ready", PATIENCE, || is_ready(&address));
    let scrape = scrape(&address);
    let mut kinds: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for sample in &scrape.samples {
        let name = &sample.metric;
        let bare = name
            .strip_prefix("results_projector_")
            .unwrap_or_else(|| panic!("{name} has no prefix"));
        assert!(
            bare.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'),
            "{name}"
        );
        let described = ["", "_sum", "_count", "_bucket"]
            .iter()
            .filter_map(|part| name.strip_suffix(part))
            .any(|name| scrape.docs.contains_key(name));
        assert!(described, "{name} has no help");
        let counts = matches!(sample.value, Value::Counter(_));
        assert_eq!(counts, name.ends_with("_total"), "{name} {:?}", sample.value);
        for unit in ["_ms", "_millis", "_kb", "_mb", "_minutes", "_percent"] {
            assert!(!name.ends_with(unit), "{name} is not in base units");
        }
        for (label, value) in sample.labels.iter() {
            kinds.entry(bare).or_default().insert(format!("{label}={value}"));
        }
    }
    let labels = |name: &str| kinds.get(name).cloned().unwrap_or_default();
    let set = |values: &[&str]| {
        values
            .iter()
            .map(|value| (*value).to_owned())
            .collect::<BTreeSet<_>>()
    };
    let streams = ["stream=EVENTS", "stream=INVENTORY", "stream=RESULTS"];
    let with_streams = |others: &[&str]| set(&[&streams, others].concat());
    assert_eq!(
        labels("messages_total"),
        with_streams(&["outcome=projected", "outcome=dead", "outcome=ignored"])
    );
    assert_eq!(
        labels("reopens_total"),
        with_streams(&[
            "reason=connection",
            "reason=denied",
            "reason=iterator",
            "reason=order",
            "reason=check",
            "reason=writer",
        ])
    );
    assert_eq!(
        labels("outputs_total"),
        set(&[
            "outcome=fetched",
            "outcome=pending",
            "outcome=gone",
            "outcome=too_large",
            "outcome=refused"
        ])
    );
    assert_eq!(labels("rows_written_total").len(), 10);
    for name in [
        "gap_messages_total",
        "redeliveries_total",
        "position",
        "stream_last_sequence",
        "stream_lag_messages",
    ] {
        assert_eq!(labels(name), with_streams(&[]), "{name}");
    }
    assert_eq!(
        labels("in_flight_bytes"),
        set(&["budget=messages", "budget=outputs", "budget=repair"])
    );
    for gauge in Gauge::ALL {
        let (name, ..) = gauge.told();
        let known = scrape.samples.iter().any(|sample| sample.metric == name);
        // What the server has not said yet is absent, not 0.
        let may_lack = [
            "results_projector_stream_lag_seconds",
            "results_projector_consumer_ack_floor",
        ]
        .contains(&name);
        assert!(known || may_lack, "{name} is never set");
    }
    assert_eq!(metric(&scrape, "ready", &[]), Some(1.0));
    assert!(projector.terminate().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_say_what_the_database_says() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    let (_folder, db) = place();
    put_manifests(&js).await.unwrap();
    let (projector, address) = serving(&db, &server.url());
    let planned = plan(901, &Profile::everything(1_500));
    publish(&js, &planned).await.unwrap();
    let sent = |stream: &str| {
        planned
            .iter()
            .filter(|planned| planned.stream() == stream)
            .count() as u64
    };
    wait_until("all is written", PATIENCE, || {
        ["RESULTS", "EVENTS", "INVENTORY"]
            .iter()
            .all(|stream| position_of(&db, stream) == Some(sent(stream)))
    });
    // The reader looks at its stream every second here.
    let mut seen = scrape(&address);
    wait_until("the streams' ends are seen", PATIENCE, || {
        seen = scrape(&address);
        ["RESULTS", "EVENTS", "INVENTORY"].iter().all(|stream| {
            metric(&seen, "stream_last_sequence", &[("stream", stream)]) == Some(sent(stream) as f64)
                && metric(&seen, "stream_lag_messages", &[("stream", stream)]) == Some(0.0)
        })
    });
    for stream in ["RESULTS", "EVENTS", "INVENTORY"] {
        for outcome in ["projected", "dead", "ignored"] {
            let counted = one(
                &db,
                &format!("SELECT sum({outcome}) FROM projector_position WHERE stream = '{stream}'"),
            );
            assert_eq!(
                metric(
                    &seen,
                    "messages_total",
                    &[("stream", stream), ("outcome", outcome)]
                ),
                Some(counted as f64),
                "{stream} {outcome}"
            );
        }
        assert_eq!(
            metric(&seen, "position", &[("stream", stream)]),
            Some(sent(stream) as f64)
        );
    }
    let pending = one(
        &db,
        "SELECT count(*) FROM projector_outputs WHERE state = 'pending'",
    );
    assert_eq!(metric(&seen, "outputs_pending", &[]), Some(pending as f64));
    assert_eq!(
        metric(&seen, "dead_letters", &[]),
        Some(one(&db, "SELECT count(*) FROM projector_dead_letters") as f64)
    );
    // Each row was inserted once, and some were changed later.
    for (table, sql) in [
        ("execution_results", "SELECT count(*) FROM execution_results"),
        ("check_status", "SELECT count(*) FROM check_status"),
        ("inventory_history", "SELECT count(*) FROM inventory_history"),
    ] {
        let written = metric(&seen, "rows_written_total", &[("table", table)]).unwrap();
        assert!(
            written >= one(&db, sql) as f64 && written > 0.0,
            "{table}: {written}"
        );
    }
    let commits = seen.samples.iter().find_map(|sample| match &sample.value {
        Value::Histogram(buckets) if sample.metric == "results_projector_commit_seconds" => {
            buckets.last().map(|last| last.count)
        }
        _ => None,
    });
    assert!(commits.unwrap() >= 1.0);
    assert!(metric(&seen, "last_commit_timestamp_seconds", &[]).unwrap() > 1_700_000_000.0);
    assert!(metric(&seen, "database_bytes", &[]).unwrap() > 100_000.0);
    assert!(metric(&seen, "output_store_max_age_seconds", &[]).unwrap() > 0.0);

    // The document is the command's own, and what the service alone knows beside it.
    let served: serde_json::Value = serde_json::from_str(&get(&address, "/status.json").body).unwrap();
    let asked = run(&db, &server.url(), &["status", "--json"]);
    let asked: serde_json::Value = serde_json::from_slice(&asked.stdout).unwrap();
    for key in [
        "outputs",
        "dead_letters",
        "gaps",
        "pairs",
        "issues",
        "oldest_pending_output",
    ] {
        assert_eq!(served[key], asked[key], "{key}");
    }
    for (served, asked) in served["streams"]
        .as_array()
        .unwrap()
        .iter()
        .zip(asked["streams"].as_array().unwrap())
    {
        for key in ["stream", "position", "projected", "dead", "last_seq"] {
            assert_eq!(served[key], asked[key], "{key}");
        }
    }
    assert_eq!(served["service"]["phase"], "running");
    assert_eq!(asked["service"], serde_json::Value::Null);
    assert!(projector.terminate().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_the_operator_lifts_is_no_longer_said() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    let (_folder, db) = place();
    let (projector, address) = serving(&db, &server.url());
    let limit = || metric(&scrape(&address), "stream_bytes_max", &[("stream", "RESULTS")]);
    wait_until("the limit is seen", PATIENCE, || {
        limit() == Some(nats::BYTES_MAX as f64)
    });
    let stream = js.get_stream("RESULTS").await.unwrap();
    let mut config = stream.cached_info().config.clone();
    config.max_bytes = -1;
    js.update_stream(config).await.unwrap();
    wait_until("there is none", PATIENCE, || limit() == Some(f64::INFINITY));
    assert!(projector.terminate().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_server_it_is_healthy_and_not_ready_and_says_why() {
    let mut server = NatsServer::start();
    server.fleet().await;
    let (_folder, db) = place();
    server.kill();
    let (projector, address) = serving(&db, &server.url());
    assert_eq!(get(&address, "/healthz").status, 200);
    wait_until("it says why", PATIENCE, || {
        get(&address, "/readyz").body.contains("cannot connect to")
    });
    assert_eq!(get(&address, "/readyz").status, 503);
    assert_eq!(metric(&scrape(&address), "ready", &[]), Some(0.0));
    server.start_again();
    wait_until("it is ready", PATIENCE, || is_ready(&address));
    server.kill();
    wait_until("it is not ready", PATIENCE, || {
        get(&address, "/readyz").body.contains("the connection was lost")
    });
    assert_eq!(get(&address, "/healthz").status, 200);
    assert!(projector.terminate().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_database_is_not_ready_and_the_page_says_what_is_in_the_way() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    let (_folder, db) = place();
    let (projector, address) = serving(&db, &server.url());
    let planned = plan(
        902,
        &Profile {
            results: 40,
            ..Profile::default()
        },
    );
    publish(&js, &planned[..20]).await.unwrap();
    wait_until("it writes", PATIENCE, || position(&db) == 20);
    let conn = Connection::open(&db).unwrap();
    conn.execute_batch("BEGIN IMMEDIATE").unwrap();
    publish(&js, &planned[20..]).await.unwrap();
    wait_until("it is not ready", PATIENCE, || {
        get(&address, "/readyz").body.contains("not writing: ")
            && get(&address, "/").body.contains("nothing is written")
    });
    assert!(metric(&scrape(&address), "busy_retries_total", &[]).unwrap() >= 1.0);
    conn.execute_batch("ROLLBACK").unwrap();
    wait_until("it is ready again", PATIENCE, || {
        is_ready(&address) && position(&db) == 40
    });
    assert!(projector.terminate().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_calls_itself_unhealthy_is_not_ready_though_the_connection_is_calm() {
    let server = NatsServer::start();
    server.fleet().await;
    let (_folder, db) = place();
    let monitor = crate::doctor::fake_monitor(
        "{\"status\":\"unavailable\",\"error\":\"write error: no space left here\"}",
    );
    let env = [SERVING, ("RESULTS_PROJECTOR_NATS_MONITOR_URL", monitor.as_str())];
    let projector = Projector::start_with(&db, &server.url(), &["run"], &env);
    let address = address(&projector);
    wait_until("it says so", PATIENCE, || {
        get(&address, "/readyz")
            .body
            .contains("the server calls itself unhealthy: write error: no space left here")
    });
    assert_eq!(get(&address, "/readyz").status, 503);
    assert_eq!(get(&address, "/healthz").status, 200);
    wait_until("the page says what to do", PATIENCE, || {
        get(&address, "/").body.contains("make room, then restart it")
    });
    assert!(projector.stderr().contains("the server calls itself unhealthy"));
    assert!(projector.terminate().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_below_its_reserve_is_not_ready_and_nothing_is_written_to_it() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    let (_folder, db) = place();
    let reserve = |bytes| [SERVING, ("RESULTS_PROJECTOR_STORE_DISK_RESERVE", bytes)];
    let projector = Projector::start_with(&db, &server.url(), &["run"], &reserve("1000000 TiB"));
    let address = address(&projector);
    let profile = Profile {
        results: 5,
        ..Profile::default()
    };
    publish(&js, &plan(904, &profile)).await.unwrap();
    wait_until("it says so", PATIENCE, || {
        get(&address, "/readyz").body.contains("not writing: ")
    });
    let answer = get(&address, "/readyz");
    assert_eq!(answer.status, 503);
    assert!(answer.body.contains("(store.disk_reserve)"), "{}", answer.body);
    assert_eq!(one(&db, "SELECT count(*) FROM execution_results"), 0);
    assert!(projector.terminate().success());
    let projector = Projector::start_with(&db, &server.url(), &["run"], &reserve("1 MiB"));
    wait_until("it writes", PATIENCE, || position_of(&db, "RESULTS") == Some(5));
    assert!(projector.terminate().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_dead_letters_is_not_ready_nor_is_a_book_that_has_no_room_for_them() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    let (_folder, db) = place();
    let env = [SERVING, ("RESULTS_PROJECTOR_DEAD_LETTERS_MAX_BYTES", "100")];
    let projector = Projector::start_with(&db, &server.url(), &["run"], &env);
    let address = address(&projector);
    for _ in 0..1_100 {
        js.publish("results.flood", "nope".into()).await.unwrap();
    }
    let reasons = ["became dead letters", "only the stream holds the payload"];
    wait_until("it says so", PATIENCE, || {
        let answer = get(&address, "/readyz");
        answer.status == 503 && reasons.iter().all(|reason| answer.body.contains(reason))
    });
    let discard = run(&db, &server.url(), &["dead-letters", "discard", "--all", "--yes"]);
    assert!(discard.status.success(), "{}", text(&discard));
    wait_until("the book has room", PATIENCE, || {
        !get(&address, "/readyz").body.contains(reasons[1])
    });
    let profile = Profile {
        results: 1_000,
        ..Profile::default()
    };
    publish(&js, &plan(906, &profile)).await.unwrap();
    wait_until("the flood is over", PATIENCE, || is_ready(&address));
    assert!(projector.terminate().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_counted_once_and_a_first_opening_is_no_reopening() {
    let server = NatsServer::start();
    let (_folder, db) = place();
    // The streams are not there yet: each opening fails, and none was read before.
    let (projector, address) = serving(&db, &server.url());
    wait_until("it waits for them", PATIENCE, || {
        get(&address, "/readyz").body.contains("does not exist")
    });
    let page = get(&address, "/").body;
    assert!(page.contains("the stream RESULTS does not exist"), "{page}");
    assert_eq!(metric(&scrape(&address), "reopens_total", &[]), Some(0.0));
    let js = server.fleet().await;
    let profile = Profile {
        results: 30,
        ..Profile::default()
    };
    publish(&js, &plan(905, &profile)).await.unwrap();
    wait_until("all is written", PATIENCE, || {
        position_of(&db, "RESULTS") == Some(30)
    });
    let seen = scrape(&address);
    let written = |table| metric(&seen, "rows_written_total", &[("table", table)]);
    assert_eq!(written("execution_results"), Some(30.0));
    let ledger = one(&db, "SELECT count(*) FROM job_completions") as f64;
    assert!(written("job_completions").unwrap() >= ledger);
    assert_eq!(metric(&seen, "reopens_total", &[]), Some(0.0));
    assert!(projector.terminate().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_was_moved_is_not_ready_until_it_is_back() {
    let server = NatsServer::start();
    server.fleet().await;
    let (_folder, db) = place();
    let (projector, address) = serving(&db, &server.url());
    // A file that is gone is not good, though nothing is to be written: what is, ends the service.
    wait_until("all is read, and nothing is left to write", PATIENCE, || {
        is_ready(&address)
    });
    std::fs::rename(&db, db.with_file_name("elsewhere.db")).unwrap();
    wait_until("it is not ready", PATIENCE, || {
        get(&address, "/readyz")
            .body
            .contains("the database cannot be read")
    });
    assert_eq!(metric(&scrape(&address), "ready", &[]), Some(0.0));
    std::fs::rename(db.with_file_name("elsewhere.db"), &db).unwrap();
    wait_until("it is ready again", PATIENCE, || is_ready(&address));
    assert!(projector.terminate().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_in_use_keeps_nobody_from_projecting_and_is_served_once_it_is_free() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    let (_folder, db) = place();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let env = [("RESULTS_PROJECTOR_OBSERVE_LISTEN", address.as_str())];
    let projector = Projector::start_with(&db, &server.url(), &["run"], &env);
    publish(
        &js,
        &plan(
            903,
            &Profile {
                results: 20,
                ..Profile::default()
            },
        ),
    )
    .await
    .unwrap();
    wait_until("it projects", PATIENCE, || position(&db) == 20);
    wait_until("it says so", PATIENCE, || {
        projector
            .stderr()
            .contains("free the address, or set observe.listen")
    });
    drop(taken);
    wait_until("it serves", PATIENCE, || TcpStream::connect(&address).is_ok());
    assert_eq!(get(&address, "/healthz").status, 200);
    assert!(projector.terminate().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_say_nothing_are_ended_and_others_are_served() {
    let server = NatsServer::start();
    server.fleet().await;
    let (_folder, db) = place();
    let (projector, address) = serving(&db, &server.url());
    let silent: Vec<TcpStream> = (0..100).map(|_| TcpStream::connect(&address).unwrap()).collect();
    assert_eq!(get(&address, "/healthz").status, 200);
    drop(silent);
    assert!(projector.terminate().success());
}

#[test]
fn an_address_that_is_none_is_refused_with_the_way_out() {
    let (_folder, db) = place();
    let said = harness_run(&db, &[("RESULTS_PROJECTOR_OBSERVE_LISTEN", "localhost")]);
    assert!(
        said.contains("expected an address and a port such as 127.0.0.1:9464"),
        "{said}"
    );
}

fn harness_run(db: &std::path::Path, env: &[(&str, &str)]) -> String {
    text(&crate::harness::projector::run_with(
        db,
        "nats://127.0.0.1:1",
        &["config", "check"],
        env,
    ))
}

/// Until something answers there.
const SOON: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_behind_stderr_is_given_lines_with_fields_and_another_stderr_plain_lines() {
    let server = NatsServer::start();
    server.fleet().await;
    let (folder, db) = place();
    let path = folder.path().join("journal");
    let journal = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    journal.set_read_timeout(Some(PATIENCE)).unwrap();
    // What `systemd` would set: the device and inode of stderr, which only a started process has.
    let start = |stream: &str| {
        let script = format!("JOURNAL_STREAM={stream} exec \"$@\"");
        std::process::Command::new("sh")
            .args(["-c", &script, "sh"])
            .arg(crate::harness::projector::binary())
            .args(["--log-format", "journald", "--db"])
            .arg(&db)
            .args(["--nats-url", &server.url(), "run"])
            .env("RESULTS_PROJECTOR_JOURNAL_SOCKET", &path)
            .env("RESULTS_PROJECTOR_OBSERVE_LISTEN", "off")
            .stderr(std::fs::File::create(folder.path().join("stderr")).unwrap())
            .spawn()
            .unwrap()
    };
    let mut projector = start("$(stat -Lc %d:%i /proc/self/fd/2)");
    let mut bytes = [0; 65_536];
    let mut told = String::new();
    while !told.contains("RP_STREAM=RESULTS") {
        let length = journal.recv(&mut bytes).unwrap();
        told = String::from_utf8(bytes[..length].to_vec()).unwrap();
    }
    assert!(told.starts_with("PRIORITY=6\n"), "{told}");
    assert!(
        told.contains("\nMESSAGE=reading stream=RESULTS generation=1"),
        "{told}"
    );
    let stderr = || std::fs::read_to_string(folder.path().join("stderr")).unwrap();
    assert_eq!(stderr(), "", "it is told twice");
    let end = |child: &mut std::process::Child| {
        child.kill().unwrap();
        child.wait().unwrap();
    };
    end(&mut projector);
    let mut projector = start("1:1");
    wait_until("it writes lines", PATIENCE, || {
        stderr().contains("reading stream=RESULTS")
    });
    end(&mut projector);
}
