//! What the service manager is told, over a socket as it would give.

use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use super::SOON;
use crate::harness::projector::place;
use crate::harness::*;

struct Manager {
    socket: UnixDatagram,
    folder: tempfile::TempDir,
    told: Vec<(Instant, String)>,
}

impl Manager {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self {
            socket,
            folder,
            told: Vec::new(),
        }
    }

    fn start(&self, db: &std::path::Path, url: &str, watchdog: Duration, more: &[(&str, &str)]) -> Projector {
        let path = self.folder.path().join("notify");
        let micros = watchdog.as_micros().to_string();
        let mut env = vec![
            ("NOTIFY_SOCKET", path.to_str().unwrap()),
            ("WATCHDOG_USEC", &micros),
        ];
        env.extend(more);
        Projector::start_with(db, url, &["run"], &env)
    }

    fn listen(&mut self) {
        let mut bytes = [0; 4096];
        while let Ok(length) = self.socket.recv(&mut bytes) {
            let told = String::from_utf8(bytes[..length].to_vec()).unwrap();
            self.told
                .extend(told.lines().map(|line| (Instant::now(), line.to_owned())));
        }
    }

    fn has_told(&mut self, what: &str) -> bool {
        self.listen();
        self.told.iter().any(|(_, told)| told.contains(what))
    }

    fn times(&mut self, what: &str) -> usize {
        self.listen();
        self.told.iter().filter(|(_, told)| told == what).count()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_ready_once_the_database_is_open_though_no_server_is_there() {
    let mut server = NatsServer::start();
    let js = server.fleet().await;
    server.kill();
    let (_folder, db) = place();
    let mut manager = Manager::new();
    let projector = manager.start(&db, &server.url(), Duration::from_secs(4), &[]);
    wait_until("it is ready", SOON, || manager.has_told("READY=1"));
    wait_until("it says what it waits for", SOON, || {
        manager.has_told("STATUS=waiting for the server: cannot connect")
    });
    let fed = manager.times("WATCHDOG=1");
    wait_until("the watchdog is fed meanwhile", SOON, || {
        manager.times("WATCHDOG=1") > fed
    });
    server.start_again();
    publish(
        &js,
        &plan(
            920,
            &Profile {
                results: 30,
                ..Profile::default()
            },
        ),
    )
    .await
    .unwrap();
    wait_until("it says where it stands", SOON, || {
        manager.has_told("STATUS=projecting; RESULTS 30 (0 behind)")
    });
    assert!(projector.terminate().success());
    assert!(manager.has_told("STOPPING=1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_writer_feeds_the_watchdog_and_a_stuck_one_starves_it() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    let (_folder, db) = place();
    let mut manager = Manager::new();
    // A later group hangs as on a disk that does not answer; everything else of the process goes on.
    let env = [("RESULTS_PROJECTOR_HANG_AT", "before-commit:6")];
    let watchdog = Duration::from_secs(12);
    let projector = manager.start(&db, &server.url(), watchdog, &env);
    wait_until("it reads", SOON, || manager.has_told("STATUS=projecting"));
    let fed = manager.times("WATCHDOG=1");
    wait_until("it is fed while nothing is to be done", SOON, || {
        manager.times("WATCHDOG=1") >= fed + 3
    });
    let planned = plan(
        921,
        &Profile {
            results: 10,
            ..Profile::default()
        },
    );
    // Each a group of its own.
    for (index, message) in planned.iter().enumerate() {
        publish(&js, std::slice::from_ref(message)).await.unwrap();
        let published = Instant::now();
        while position(&db) <= index as u64 && published.elapsed() < Duration::from_secs(2) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    assert!(position(&db) < 10, "no group hangs");
    wait_until(
        "it is fed no more for as long as kills a service",
        PATIENCE,
        || {
            manager.listen();
            let last = manager.told.iter().rev().find(|(_, told)| told == "WATCHDOG=1");
            last.is_some_and(|(at, _)| at.elapsed() > watchdog)
        },
    );
    projector.kill();
}
