//! Messages that the client library cannot be handed: headers that are none, a status among them, blanks of other scripts or
//! bytes that are no text in the subject. Any sender can publish them; they cost some openings, and nobody's results.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{result, send};
use crate::harness::projector::{catch_up, place, run, text};
use crate::harness::*;

/// Publishes bytes as they are: no client would.
struct Sender(TcpStream);

impl Sender {
    fn to(server: &NatsServer) -> Self {
        let mut stream = TcpStream::connect(server.address()).unwrap();
        stream
            .write_all(b"CONNECT {\"verbose\":false,\"headers\":true,\"no_responders\":false,\"lang\":\"x\",\"version\":\"1\"}\r\n")
            .unwrap();
        Self(stream)
    }

    fn publish(&mut self, subject: &[u8], headers: &[u8], payload: &str) {
        let mut line = Vec::new();
        if headers.is_empty() {
            line.extend_from_slice(b"PUB ");
            line.extend_from_slice(subject);
            line.extend_from_slice(format!(" {}\r\n", payload.len()).as_bytes());
        } else {
            line.extend_from_slice(b"HPUB ");
            line.extend_from_slice(subject);
            line.extend_from_slice(
                format!(" {} {}\r\n", headers.len(), headers.len() + payload.len()).as_bytes(),
            );
            line.extend_from_slice(headers);
        }
        line.extend_from_slice(payload.as_bytes());
        line.extend_from_slice(b"\r\nPING\r\n");
        self.0.write_all(&line).unwrap();
        let mut said = Vec::new();
        let mut byte = [0];
        while !said.ends_with(b"PONG\r\n") {
            assert_eq!(
                self.0.read(&mut byte).unwrap(),
                1,
                "{}",
                String::from_utf8_lossy(&said)
            );
            said.push(byte[0]);
        }
        assert!(
            !String::from_utf8_lossy(&said).contains("-ERR"),
            "{}",
            String::from_utf8_lossy(&said)
        );
    }
}

const POISONS: [(&[u8], &[u8]); 15] = [
    (b"results.q", b"NATS/1.0\r\nno colon\r\n\r\n"),
    (b"results.q", b"NATS/1.0\r\nName: \xff\xfe\r\n\r\n"),
    (b"results.q", b"NATS/1.0\r\nbad name: x\r\n\r\n"),
    (b"results.q", b"NATS/1.0\r\n\x1b[31m: \x1b]0;t\x07\r\n\r\n"),
    (b"results.q", b"NATS/1.0 100 Idle Heartbeat\r\n\r\n"),
    (b"results.q", b"NATS/1.0 404 No Messages\r\n\r\n"),
    (b"results.q", b"NATS/1.0 408 Request Timeout\r\n\r\n"),
    (b"results.q", b"NATS/1.0 409 Consumer Deleted\r\n\r\n"),
    (b"results.q", b"NATS/1.0 abc\r\n\r\n"),
    (b"results.q", b"garbage\r\n\r\n"),
    (b"results.q", b"\x00"),
    ("results.q\u{2028}x".as_bytes(), b""),
    ("results.\u{a0}".as_bytes(), b"NATS/1.0\r\nA: x\r\n\r\n"),
    ("results.q\u{85}".as_bytes(), b""),
    (b"results.\xff\xfe", b""),
];

fn rows(db: &Path, like: &str) -> i64 {
    one(
        db,
        &format!("SELECT count(*) FROM execution_results WHERE result_id LIKE '{like}'"),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_the_client_cannot_read_cost_openings_and_nobodys_results() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    let mut sender = Sender::to(&server);
    for (number, (subject, headers)) in POISONS.iter().enumerate() {
        let good = result(&format!("good-{number}"), "PC-1", "job");
        send(&js, "results.q", &good).await;
        let odd = result(&format!("odd-{number}"), "PC-1", "job").to_string();
        sender.publish(subject, headers, &odd);
        sender.publish(subject, headers, "not json");
    }
    let sent = POISONS.len() as i64;
    let (_folder, db) = place();
    let url = server.url();
    let projector = Projector::start(&db, &url);
    wait_until("everything is read", PATIENCE, || {
        position(&db) == 3 * sent as u64
    });
    // While it runs, the last message being one of them.
    sender.publish(b"results.q", b"NATS/1.0\r\nno colon\r\n\r\n", "not json");
    wait_until("the last one is read", PATIENCE, || {
        position(&db) == 3 * sent as u64 + 1
    });
    send(&js, "results.q", &result("good-after", "PC-1", "job")).await;
    wait_until("what comes after it is read", PATIENCE, || {
        position(&db) == 3 * sent as u64 + 2
    });
    assert!(projector.terminate().success());
    check_i3(&db);
    assert_eq!((rows(&db, "good-%"), rows(&db, "odd-%")), (sent + 1, sent));
    assert_eq!(one(&db, "SELECT count(*) FROM projector_dead_letters"), sent + 1);
    let kept = "SELECT count(*) FROM projector_dead_letters WHERE headers LIKE '%Unreadable%'";
    assert!(
        one(&db, kept) >= 5,
        "headers that are none are kept: {}",
        one(&db, kept)
    );

    // Started anew on a position whose message is one of them; proved, mended, made anew, by the same way.
    let shown = run(&db, &url, &["dead-letters", "show", "RESULTS", "3"]);
    assert!(text(&shown).contains("Unreadable"), "{}", text(&shown));
    sender.publish(b"results.q", b"NATS/1.0 100\r\n\r\n", "not json");
    catch_up(&db, &url);
    catch_up(&db, &url);
    let good = dump::dump(&db);
    for args in [&["verify"][..], &["replay"], &["rebuild"], &["verify"]] {
        let output = run(&db, &url, args);
        assert!(output.status.success(), "{args:?}: {}", text(&output));
    }
    assert_eq!(dump::dump(&db), good);
    check_i3(&db);
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_that_the_client_cannot_read_are_read_by_another_way() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    let mut sender = Sender::to(&server);
    for (number, (_, headers)) in POISONS
        .iter()
        .enumerate()
        .filter(|(_, (_, headers))| !headers.is_empty())
    {
        let (name, text) = (format!("mine/{number}"), format!("the output {number}"));
        let subject = format!("$O.result_output.M.{}", URL_SAFE.encode(&name));
        let nuid = format!("nuid{number}");
        let digest = format!("SHA-256={}", URL_SAFE.encode(Sha256::digest(&text)));
        let meta = json!({"name": name, "bucket": "result_output", "nuid": nuid, "size": text.len(), "chunks": 1,
            "digest": digest, "mtime": "2026-06-01T00:00:00Z"});
        sender.publish(format!("$O.result_output.C.{nuid}").as_bytes(), headers, &text);
        sender.publish(subject.as_bytes(), headers, &meta.to_string());
        let mut message = result(&format!("r{number}"), "PC-1", "job");
        (message["request_id"], message["stdout"], message["stdout_object"]) =
            (json!("mine"), json!(""), json!(name));
        send(&js, "results.mine", &message).await;
        send(
            &js,
            "results.q",
            &result(&format!("good-{number}"), "PC-1", "job"),
        )
        .await;
    }
    let (_folder, db) = place();
    let projector = Projector::start(&db, &server.url());
    wait_until("all outputs are there", PATIENCE, || {
        position(&db) == 24
            && one(
                &db,
                "SELECT count(*) FROM execution_results WHERE stdout LIKE 'the output %'",
            ) >= 12
    });
    assert!(projector.terminate().success());
    check_i3(&db);
}
