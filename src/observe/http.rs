//! The status page, the metrics and the health checks over HTTP: one answer a connection, few connections at once, none for
//! long, so that nobody who connects takes files or memory from the service.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tracing::{debug, error, info};

use super::letters::Letter;
use super::page;
use super::recorder::Recorder;
use super::watch::Watch;
use crate::wire::inert::{inert, inert_json};

/// Answered at once; more wait.
const CONNECTIONS_MAX: usize = 32;
/// A connection takes no longer, whatever its other end does.
const CONNECTION_LIMIT: Duration = Duration::from_secs(20);
/// Until the request is there.
const REQUEST_WITHIN: Duration = Duration::from_secs(5);
/// Characters of one reason.
const REASON_MAX: usize = 500;
/// Between two attempts at an address that is in use.
const BIND_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// Serves until it is dropped. An address that cannot be had keeps nobody from projecting: it is said, and tried again.
pub(super) async fn serve(address: SocketAddr, watch: Arc<Watch>, metrics: Option<Recorder>) {
    let mut said = false;
    let listener = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(error) => {
                if !std::mem::replace(&mut said, true) {
                    error!(
                        %address, %error,
                        "the status page and the metrics cannot be served; trying again by itself: free the address, or set \
                         observe.listen"
                    );
                }
                tokio::time::sleep(BIND_AGAIN_AFTER).await;
            }
        }
    };
    let address = listener.local_addr().unwrap_or(address);
    info!(%address, "serving the status page, /metrics, /readyz, /healthz and /status.json");
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (watch, metrics) = (watch.clone(), metrics.clone());
                tokio::spawn(connection(stream, place, address, watch, metrics));
            }
            Err(error) => {
                // The process may be out of files for a moment.
                debug!(%error, "a connection was not accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(
    stream: TcpStream,
    _place: OwnedSemaphorePermit,
    address: SocketAddr,
    watch: Arc<Watch>,
    metrics: Option<Recorder>,
) {
    let answering = service_fn(|request: Request<hyper::body::Incoming>| {
        let (watch, metrics) = (watch.clone(), metrics.clone());
        async move { Ok::<_, Infallible>(answer(&request, address, &watch, metrics.as_ref()).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_WITHIN)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), answering);
    if let Ok(Err(error)) = timeout(CONNECTION_LIMIT, served).await {
        debug!(%error, "a connection ended badly");
    }
}

/// What proxies add.
const PASSED_ON: [&str; 5] = [
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-real-ip",
    "via",
];

type Answer = Response<Full<Bytes>>;

async fn answer<B>(
    request: &Request<B>,
    address: SocketAddr,
    watch: &Watch,
    metrics: Option<&Recorder>,
) -> Answer {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        set(&mut refused, header::ALLOW, "GET, HEAD");
        return refused;
    }
    match request.uri().path() {
        // The process answers; whether the server can be reached is no matter of health.
        "/healthz" => text(StatusCode::OK, "ok\n"),
        "/readyz" => {
            let seen = watch.look().await;
            let why = seen
                .document
                .service
                .iter()
                .flat_map(|service| &service.not_ready);
            let why: Vec<_> = why.map(|why| inert(why, REASON_MAX)).collect();
            match why.join("\n") {
                why if why.is_empty() => text(StatusCode::OK, "ready\n"),
                why => text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
            }
        }
        "/metrics" => match metrics {
            Some(metrics) => {
                let rendered = metrics.render(&watch.look().await.document, &watch.watched);
                with_type(
                    StatusCode::OK,
                    "text/plain; version=0.0.4; charset=utf-8",
                    rendered,
                )
            }
            None => text(
                StatusCode::SERVICE_UNAVAILABLE,
                "nothing is recorded in this process\n",
            ),
        },
        "/status.json" => match serde_json::to_string_pretty(&watch.look().await.document) {
            Ok(json) => with_type(
                StatusCode::OK,
                "application/json",
                format!("{}\n", inert_json(&json)),
            ),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        },
        "/" => {
            let seen = watch.look().await;
            let shows_payloads = may_see_payloads(request, address);
            let html = page::render(&seen.document, &watch.history(), &seen.letters, shows_payloads);
            let mut answer = with_type(StatusCode::OK, "text/html; charset=utf-8", html);
            set(&mut answer, header::CONTENT_SECURITY_POLICY, page::policy());
            answer
        }
        path => match Letter::at(path) {
            Some(_) if !may_see_payloads(request, address) => text(
                StatusCode::FORBIDDEN,
                "payloads are shown to this machine only: open the page by a loopback address, or use `results-projector \
                 dead-letters show`\n",
            ),
            Some(letter) => match letter.told(watch).await {
                Ok(Some(told)) => text(StatusCode::OK, told),
                Ok(None) => text(StatusCode::NOT_FOUND, "no such dead letter is kept\n"),
                Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
            },
            None => text(
                StatusCode::NOT_FOUND,
                "there is /, /status.json, /metrics, /readyz and /healthz\n",
            ),
        },
    }
}

/// Payloads hold what scripts have printed on the fleet's machines. They are for this machine: we listen on its loopback, were
/// asked by a name of it, which a page elsewhere cannot do by a name that it makes point here, and by nobody who says that he
/// passes on what others ask (a proxy may hide both: docs/OPERATING.md).
fn may_see_payloads<B>(request: &Request<B>, address: SocketAddr) -> bool {
    let host = request
        .headers()
        .get(header::HOST)
        .and_then(|host| host.to_str().ok())
        .unwrap_or_default();
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((name, _)) => name,
        None => host.split(':').next().unwrap_or_default(),
    };
    let is_loopback = name
        .parse::<std::net::IpAddr>()
        .map_or(name.eq_ignore_ascii_case("localhost"), |ip| ip.is_loopback());
    let passed_on = PASSED_ON.iter().any(|name| request.headers().contains_key(*name));
    address.ip().is_loopback() && is_loopback && !passed_on
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    with_type(status, "text/plain; charset=utf-8", body)
}

fn with_type(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    set(&mut answer, header::CONTENT_TYPE, kind);
    set(&mut answer, header::CACHE_CONTROL, "no-store");
    set(&mut answer, header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(&mut answer, header::REFERRER_POLICY, "no-referrer");
    answer
}

fn set(answer: &mut Answer, name: HeaderName, value: &'static str) {
    answer.headers_mut().insert(name, HeaderValue::from_static(value));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_for_those_who_ask_this_machine_by_a_name_of_its_own() {
        let asked = |host: &str, address: &str| {
            let request = Request::builder().header("host", host).body(()).unwrap();
            may_see_payloads(&request, address.parse().unwrap())
        };
        for host in [
            "localhost:9464",
            "127.0.0.1",
            "127.0.0.1:9464",
            "[::1]:9464",
            "LOCALHOST",
        ] {
            assert!(asked(host, "127.0.0.1:9464"), "{host}");
            assert!(!asked(host, "0.0.0.0:9464"), "{host} where all may connect");
        }
        let passed_on = Request::builder()
            .header("host", "localhost")
            .header("x-forwarded-for", "10.0.0.1");
        assert!(!may_see_payloads(
            &passed_on.body(()).unwrap(),
            "127.0.0.1:9464".parse().unwrap()
        ));
        for host in [
            "evil.example:9464",
            "",
            "10.0.0.1",
            "localhost.evil.example",
            "[::2]",
        ] {
            assert!(!asked(host, "127.0.0.1:9464"), "{host}");
        }
    }
}
