//! Three nats-servers that are one JetStream cluster.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::process::Child;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use async_nats::jetstream;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::nats::{BYTES_MAX, spawn};
use super::{PATIENCE, wait_until};

const NODES: usize = 3;
/// All that the backend makes and we read.
const GROUPS: [&str; 5] = ["RESULTS", "EVENTS", "INVENTORY", "KV_jobs", "OBJ_result_output"];

pub struct Cluster {
    folder: TempDir,
    host: Ipv4Addr,
    /// Of each node: for clients, for the other nodes.
    ports: Vec<(u16, u16)>,
    children: Vec<Option<Child>>,
}

/// An address of the loopback network that nothing else uses. The nodes must know each other's ports before they start, and
/// keep theirs while they are down: on 127.0.0.1 another test, or a connection on its way out, could take them meanwhile.
fn own_host() -> Ipv4Addr {
    static CLUSTERS: AtomicU8 = AtomicU8::new(0);
    let [.., high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(
        127,
        64 + CLUSTERS.fetch_add(1, Ordering::Relaxed) % 63,
        high,
        low.clamp(1, 254),
    )
}

impl Cluster {
    /// With the backend's streams and stores, three replicas each.
    pub async fn start() -> Self {
        let host = own_host();
        let free: Vec<TcpListener> = (0..2 * NODES)
            .map(|_| TcpListener::bind((host, 0)).unwrap())
            .collect();
        let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
        let ports = free
            .chunks(2)
            .map(|pair| (port(&pair[0]), port(&pair[1])))
            .collect();
        drop(free);
        let mut cluster = Self {
            folder: tempfile::tempdir().unwrap(),
            host,
            ports,
            children: (0..NODES).map(|_| None).collect(),
        };
        for node in 0..NODES {
            cluster.start_node(node);
        }
        let js = cluster.jetstream().await;
        retrying("the cluster makes the streams", async || {
            super::fleet::create_replicated(&js, Some(BYTES_MAX), NODES).await
        })
        .await;
        cluster.wait_whole(&js).await;
        cluster
    }

    /// On the ports and the store that it has always had.
    pub fn start_node(&mut self, node: usize) {
        assert!(self.children[node].is_none(), "it runs");
        let (host, (client, route)) = (self.host, self.ports[node]);
        let folder = self.folder.path().join(format!("n{node}"));
        fs::create_dir_all(&folder).unwrap();
        let routes: Vec<String> = self
            .ports
            .iter()
            .map(|(_, route)| format!("\"nats://{host}:{route}\""))
            .collect();
        let text = format!(
            "server_name: n{node}\nlisten: \"{host}:{client}\"\n\
             cluster {{ name: test, listen: \"{host}:{route}\", routes: [{}] }}\n\
             jetstream {{ store_dir: \"{}\", max_file_store: 1TB }}\n",
            routes.join(", "),
            folder.join("store").display(),
        );
        self.children[node] = Some(spawn(&folder, &text));
        wait_until("the node takes connections", Duration::from_secs(30), || {
            let child = self.children[node].as_mut().unwrap();
            if let Some(status) = child.try_wait().unwrap() {
                let log = fs::read_to_string(folder.join("nats.log")).unwrap_or_default();
                panic!("nats-server ended with {status}:\n{log}");
            }
            std::net::TcpStream::connect((host, client)).is_ok()
        });
    }

    /// kill -9.
    pub fn kill_node(&mut self, node: usize) {
        let mut child = self.children[node].take().expect("it runs");
        kill_process(Pid::from_child(&child), Signal::KILL).unwrap();
        child.wait().unwrap();
    }

    /// All nodes, separated by commas.
    pub fn url(&self) -> String {
        let urls: Vec<String> = self
            .ports
            .iter()
            .map(|(client, _)| format!("nats://{}:{client}", self.host))
            .collect();
        urls.join(",")
    }

    /// Connected to any node that runs; an answer that does not come within two seconds is none.
    pub async fn jetstream(&self) -> jetstream::Context {
        let servers: Vec<async_nats::ServerAddr> =
            self.url().split(',').map(|url| url.parse().unwrap()).collect();
        let client = async_nats::ConnectOptions::new()
            .max_reconnects(None)
            .reconnect_delay_callback(|_| Duration::from_millis(50))
            .connect(servers)
            .await
            .unwrap();
        let mut js = jetstream::new(client);
        js.set_timeout(Duration::from_secs(2));
        js
    }

    /// Every group has a leader and all its replicas, none of them behind: the next node may be killed.
    pub async fn wait_whole(&self, js: &jetstream::Context) {
        let started = Instant::now();
        for group in GROUPS {
            loop {
                let info = ask(js, &format!("STREAM.INFO.{group}")).await;
                if info.as_ref().is_some_and(is_whole) {
                    break;
                }
                assert!(started.elapsed() < PATIENCE, "{group} is not whole: {info:?}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }

    /// The node that leads a stream; `None` during an election.
    pub async fn leader(&self, js: &jetstream::Context, stream: &str) -> Option<usize> {
        node(&ask(js, &format!("STREAM.INFO.{stream}")).await?)
    }

    /// The node that leads a consumer of a stream; `None` during an election.
    pub async fn consumer_leader(
        &self,
        js: &jetstream::Context,
        stream: &str,
        consumer: &str,
    ) -> Option<usize> {
        node(&ask(js, &format!("CONSUMER.INFO.{stream}.{consumer}")).await?)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.children.iter_mut().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A call of JetStream's API; `None` without an answer, or when the answer is an error.
pub async fn ask(js: &jetstream::Context, what: &str) -> Option<Value> {
    let client = js.client();
    let request = client.request(format!("$JS.API.{what}"), "".into());
    let answer = tokio::time::timeout(Duration::from_secs(2), request)
        .await
        .ok()?
        .ok()?;
    let answer: Value = serde_json::from_slice(&answer.payload).ok()?;
    answer.get("error").is_none().then_some(answer)
}

fn is_whole(info: &Value) -> bool {
    let replicas = info["cluster"]["replicas"].as_array();
    info["cluster"]["leader"].is_string()
        && replicas.is_some_and(|replicas| {
            replicas.len() == NODES - 1
                && replicas
                    .iter()
                    .all(|replica| replica["current"] == true && replica["offline"] != true)
        })
}

fn node(info: &Value) -> Option<usize> {
    info["cluster"]["leader"]
        .as_str()?
        .strip_prefix('n')?
        .parse()
        .ok()
}

/// Until it works: an election takes seconds, in which nothing is answered. A call that hangs is made again.
pub async fn retrying<T, E>(what: &str, call: impl AsyncFn() -> Result<T, E>) -> T {
    let started = Instant::now();
    loop {
        if let Ok(Ok(done)) = tokio::time::timeout(Duration::from_secs(10), call()).await {
            return done;
        }
        assert!(started.elapsed() < PATIENCE, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
