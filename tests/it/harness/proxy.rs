//! A TCP proxy between projector and server that cuts and delays the connection in the middle of bursts.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    _accepting: AbortOnDrop,
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Shared {
    target: String,
    /// Rises to cut every connection there is.
    cuts: watch::Sender<u64>,
    /// Bytes to the client until the next cut; negative: never.
    until_cut: AtomicI64,
    delay_ms: AtomicU64,
    /// Bytes a second of each connection in each direction; 0: no limit.
    rate: AtomicU64,
    forwarded: AtomicU64,
}

impl Proxy {
    pub async fn start(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            target,
            cuts: watch::channel(0).0,
            until_cut: AtomicI64::new(-1),
            delay_ms: AtomicU64::new(0),
            rate: AtomicU64::new(0),
            forwarded: AtomicU64::new(0),
        });
        let accepting = tokio::spawn({
            let shared = shared.clone();
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    tokio::spawn(forward(client, shared.clone()));
                }
            }
        });
        Self {
            port,
            shared,
            _accepting: AbortOnDrop(accepting),
        }
    }

    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Every connection there is, at once.
    pub fn cut(&self) {
        self.shared.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Once so many more bytes have gone to the client: in the middle of a message, most likely.
    pub fn cut_after(&self, bytes: u64) {
        self.shared.until_cut.store(bytes as i64, Ordering::SeqCst);
    }

    pub fn cuts(&self) -> u64 {
        *self.shared.cuts.borrow()
    }

    /// Each packet in both directions waits.
    pub fn delay(&self, delay: Duration) {
        self.shared
            .delay_ms
            .store(delay.as_millis() as u64, Ordering::SeqCst);
    }

    /// No more bytes a second for each connection and direction; 0: no limit.
    pub fn throttle(&self, rate: u64) {
        self.shared.rate.store(rate, Ordering::SeqCst);
    }

    /// Bytes to clients so far.
    pub fn forwarded(&self) -> u64 {
        self.shared.forwarded.load(Ordering::SeqCst)
    }
}

async fn forward(client: TcpStream, shared: Arc<Shared>) {
    let Ok(server) = TcpStream::connect(&shared.target).await else {
        return;
    };
    let mut cut = shared.cuts.subscribe();
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        _ = cut.changed() => {}
        () = copy(from_client, to_server, &shared, false) => {}
        () = copy(from_server, to_client, &shared, true) => {}
    }
}

async fn copy(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    shared: &Shared,
    to_client: bool,
) {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let Ok(read @ 1..) = from.read(&mut buffer).await else {
            return;
        };
        let delay = shared.delay_ms.load(Ordering::SeqCst);
        if delay > 0 {
            tokio::time::sleep(Duration::from_millis(delay)).await;
        }
        if let Some(micros) = (read as u64 * 1_000_000).checked_div(shared.rate.load(Ordering::SeqCst)) {
            tokio::time::sleep(Duration::from_micros(micros)).await;
        }
        let mut part = &buffer[..read];
        if to_client {
            let left = shared.until_cut.load(Ordering::SeqCst);
            if left >= 0 {
                if (left as usize) < read {
                    part = &buffer[..left as usize];
                    shared.until_cut.store(-1, Ordering::SeqCst);
                    let _ = to.write_all(part).await;
                    shared.cuts.send_modify(|cuts| *cuts += 1);
                    return;
                }
                shared.until_cut.store(left - read as i64, Ordering::SeqCst);
            }
            shared.forwarded.fetch_add(read as u64, Ordering::SeqCst);
        }
        if to.write_all(part).await.is_err() {
            return;
        }
    }
}
