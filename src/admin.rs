//! The admin endpoint over HTTP/1: health, metrics, the ring, the configuration, the hot keys and, for people, the page
//! at `/`.
//!
//! It shares the pod with what must not be disturbed, and its port is open to the cluster: few
//! connections, one request each, small buffers, and a clock on everything a client may delay.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::discovery::follow::Turn;
use crate::metrics::hot::HotKeys;
use crate::protocol::is_key;
use crate::worker::pulse::Pulse;

/// Most connections at once; for a further one the oldest is closed. Probes and one or two scrapers need a handful, and
/// are answered at once: whoever holds many cannot keep them out.
pub const MAX_CONNECTIONS: usize = 32;

/// Longest wait for a request's whole head.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest life of a connection, the sending of the reply to a slow reader included.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);

/// Largest head of a request, in bytes (hyper's smallest).
const MAX_HEAD: usize = 8 << 10;

/// First and longest pause after a failed accept: out of file descriptors, the next try would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);
const MAX_ACCEPT_PAUSE: Duration = Duration::from_secs(1);

const NO_KEY: &str = "a key has 1 to 250 bytes and no space, line end or NUL\n";

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
/// Prometheus' text format.
const METRICS: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");

/// The page at `/`: it asks for `/ring` and `/metrics` by itself.
const PAGE: &str = include_str!("admin/page.html");

/// Nothing from elsewhere, and the page asks nobody but us.
const PAGE_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

/// Finds where a key lives.
pub type PlaceOf = Box<dyn Fn(&[u8]) -> Option<Place> + Send + Sync>;

/// What the pages are made from.
pub struct AdminState {
    /// `/readyz`: whether clients may come. Once set it stays.
    pub ready: Arc<AtomicBool>,
    /// Cancelled when the end has begun: not ready any more.
    pub draining: CancellationToken,
    /// Cancelled when the drain is over, and the workers are told to end.
    pub ending: CancellationToken,
    /// `/healthz`: whether the workers turn.
    pub pulse: Pulse,
    /// `/config`: JSON.
    pub config: String,
    /// `/ring`: asked once per request, on the control thread; must not block.
    pub ring: Box<dyn Fn() -> RingReport + Send + Sync>,
    /// `/ring?key=`: likewise. Nothing before the first ring is known.
    pub place: PlaceOf,
    /// `/hotkeys`: likewise.
    pub hot_keys: Box<dyn Fn() -> HotKeys + Send + Sync>,
    /// `/metrics`: likewise. An error is one line.
    pub metrics: Box<dyn Fn() -> Result<Vec<u8>, String> + Send + Sync>,
}

/// The ring as it is published now.
#[derive(Clone, Debug, Serialize)]
pub struct RingReport {
    /// `healthy`, `degraded` or `unhealthy`; the HTTP status is 200 for all of them.
    pub status: &'static str,
    /// Since when, in seconds of Unix time.
    pub since: u64,
    /// What the sidecar is called; absent when it has no name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// Equal on two sidecars when they place all keys alike; 8 hexadecimal digits.
    pub fingerprint: String,
    /// `--placement`
    pub placement: String,
    /// Counts the rings since the start.
    pub version: u64,
    /// Where the nodes come from.
    pub source: String,
    /// What was wrong with the source's last answer; absent after a good one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// All nodes, in the order of the ring's own list.
    pub nodes: Vec<RingNode>,
    /// What is in the ring and no longer listed, one line each.
    pub pending: Vec<String>,
    /// The last changes of the ring, the newest first.
    pub changes: Vec<Turn>,
    /// Which node owns the beginning of each of 360 equal slices of the key space: an index into `nodes`.
    pub arcs: Vec<u16>,
}

/// One node of [`RingReport`].
#[derive(Clone, Debug, Serialize)]
pub struct RingNode {
    /// What the ring hashes: `host:port`, or the name given to it.
    pub name: String,
    /// Where it is connected to.
    pub address: String,
    /// Relative to the other nodes; 1 is the default.
    pub weight: u32,
    /// Share of the key space, 0 to 1.
    pub share: f64,
    /// `up`, `degraded`, `connecting`, `probing` or `down`.
    pub state: &'static str,
    /// Since when, in seconds of Unix time.
    pub since: u64,
    /// What is wrong with it, where that is known to be no fault of the node; else absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<&'static str>,
}

/// Where a key lives.
#[derive(Clone, Debug, Serialize)]
pub struct Place {
    /// The key; bytes that are no text are escaped.
    pub key: String,
    /// What stands for it in logs and among the hot keys.
    pub hash: String,
    /// The node's name.
    pub node: String,
    /// Where the node is connected to.
    pub address: String,
    /// As in [`RingNode`].
    pub state: &'static str,
    /// As in [`RingReport`].
    pub fingerprint: String,
}

/// Answers until `stop` is cancelled, then closes the listener and all connections.
///
/// Connections are `Send` tasks on the caller's runtime (`tokio::spawn`), owned by this future.
pub async fn serve(listener: TcpListener, state: Arc<AdminState>, stop: CancellationToken) {
    let mut connections = JoinSet::new();
    // In the order they came.
    let mut open = VecDeque::<AbortHandle>::new();
    let mut pause = ACCEPT_PAUSE;
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((socket, _)) => {
                pause = ACCEPT_PAUSE;
                open.retain(|one| !one.is_finished());
                if open.len() >= MAX_CONNECTIONS
                    && let Some(oldest) = open.pop_front()
                {
                    oldest.abort();
                }
                open.push_back(connections.spawn(connection(socket, Arc::clone(&state))));
                // Who has asked is answered before the next one comes, however many wait to be let in.
                tokio::task::yield_now().await;
            }
            // The client gave up before it was accepted: nothing is wrong here.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                tracing::warn!(%error, "admin endpoint cannot accept");
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(pause) => {}
                }
                pause = (2 * pause).min(MAX_ACCEPT_PAUSE);
            }
        }
    }
}

async fn connection(socket: TcpStream, state: Arc<AdminState>) {
    let service =
        service_fn(|request| async { Ok::<_, std::convert::Infallible>(reply(request, Arc::clone(&state)).await) });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        // One request each: an idle client must not hold one of the few places.
        .keep_alive(false)
        .serve_connection(TokioIo::new(socket), service);
    match tokio::time::timeout(CONNECTION_TIMEOUT, served).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "admin connection failed"),
        Err(_) => tracing::debug!("admin connection took too long"),
    }
}

async fn reply(request: Request<Incoming>, state: Arc<AdminState>) -> Response<Full<Bytes>> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut reply = page(StatusCode::METHOD_NOT_ALLOWED, TEXT, "GET only\n");
        reply.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return reply;
    }
    match request.uri().path() {
        "/" => {
            let mut reply = page(StatusCode::OK, HTML, PAGE);
            let headers = reply.headers_mut();
            headers.insert(CONTENT_SECURITY_POLICY, PAGE_POLICY);
            headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
            // The next version's page, not the one before it.
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
            reply
        }
        // At the end the workers go one by one.
        "/healthz" if state.ending.is_cancelled() => page(StatusCode::OK, TEXT, "ok\n"),
        "/healthz" => match state.pulse.feel().await {
            Ok(()) => page(StatusCode::OK, TEXT, "ok\n"),
            Err(stuck) => page(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("workers do not answer: {stuck:?}\n")),
        },
        "/readyz" if state.draining.is_cancelled() => page(StatusCode::SERVICE_UNAVAILABLE, TEXT, "draining\n"),
        "/readyz" if state.ready.load(Ordering::Acquire) => page(StatusCode::OK, TEXT, "ok\n"),
        "/readyz" => page(StatusCode::SERVICE_UNAVAILABLE, TEXT, "not ready\n"),
        "/ring" => match wanted_key(request.uri().query().unwrap_or_default()) {
            None => json(&(state.ring)()),
            Some(key) if !is_key(&key) => page(StatusCode::BAD_REQUEST, TEXT, NO_KEY),
            Some(key) => match (state.place)(&key) {
                Some(place) => json(&place),
                None => page(StatusCode::SERVICE_UNAVAILABLE, TEXT, "no ring is known yet\n"),
            },
        },
        "/hotkeys" => json(&(state.hot_keys)()),
        "/config" => page(StatusCode::OK, JSON, state.config.clone()),
        "/metrics" => match (state.metrics)() {
            Ok(text) => page(StatusCode::OK, METRICS, text),
            Err(error) => page(StatusCode::INTERNAL_SERVER_ERROR, TEXT, error),
        },
        _ => page(StatusCode::NOT_FOUND, TEXT, "not found\n"),
    }
}

/// The `key` of a query; bytes may be percent-encoded.
fn wanted_key(query: &str) -> Option<Vec<u8>> {
    let pair = query.split('&').find_map(|pair| pair.strip_prefix("key=").or((pair == "key").then_some("")))?;
    Some(percent_encoding::percent_decode_str(pair).collect())
}

fn json(value: &impl Serialize) -> Response<Full<Bytes>> {
    match serde_json::to_vec(value) {
        Ok(json) => page(StatusCode::OK, JSON, json),
        Err(error) => page(StatusCode::INTERNAL_SERVER_ERROR, TEXT, error.to_string()),
    }
}

fn page(status: StatusCode, content_type: HeaderValue, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut reply = Response::new(Full::new(body.into()));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, content_type);
    reply
}

// === impl AdminState ===

impl fmt::Debug for AdminState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminState").field("ready", &self.ready).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::worker::pulse::Beat;

    struct Admin {
        addr: SocketAddr,
        ready: Arc<AtomicBool>,
        stop: CancellationToken,
        /// The second worker's side.
        second: Option<Beat>,
    }

    async fn admin() -> Admin {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let ready = Arc::new(AtomicBool::new(false));
        let stop = CancellationToken::new();
        let (pulse, beats) = Pulse::new(2);
        let mut beats = beats.into_iter();
        tokio::spawn(beats.next().unwrap().answer());
        let second = beats.next().unwrap();
        let state = Arc::new(AdminState {
            ready: Arc::clone(&ready),
            draining: CancellationToken::new(),
            ending: CancellationToken::new(),
            ring: Box::new(|| RingReport {
                status: "healthy",
                since: 1_700_000_000,
                instance: Some("shop/app-1".into()),
                fingerprint: "0000001f".into(),
                placement: "ring".into(),
                version: 3,
                source: "list".into(),
                last_error: None,
                pending: vec!["a is missing".into()],
                changes: Vec::new(),
                arcs: vec![0, 0],
                nodes: vec![RingNode {
                    name: "we\"ird\\\n:1".into(),
                    address: "10.0.0.2:11211".into(),
                    weight: 2,
                    share: 0.25,
                    state: "up",
                    since: 1_700_000_001,
                    problem: None,
                }],
            }),
            pulse,
            config: "{}".into(),
            place: Box::new(|key| {
                (key != b"early").then(|| Place {
                    key: String::from_utf8_lossy(key).into_owned(),
                    hash: "#1".into(),
                    node: "a:1".into(),
                    address: "10.0.0.2:1".into(),
                    state: "up",
                    fingerprint: "0000001f".into(),
                })
            }),
            hot_keys: Box::new(HotKeys::default),
            metrics: Box::new(|| Ok(b"# HELP a b\n".to_vec())),
        });
        tokio::spawn(serve(listener, state, stop.clone()));
        Admin { addr, ready, stop, second: Some(second) }
    }

    async fn ask(addr: SocketAddr, request: &str) -> String {
        let mut socket = TcpStream::connect(addr).await.unwrap();
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut reply = String::new();
        let _ = socket.read_to_string(&mut reply).await;
        reply
    }

    async fn get(addr: SocketAddr, path: &str) -> (String, String) {
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
        let reply = ask(addr, &request).await;
        let (head, body) = reply.split_once("\r\n\r\n").expect("a whole head");
        let status = head.split(' ').nth(1).unwrap().to_owned();
        (status, body.to_owned())
    }

    #[tokio::test]
    async fn the_pages_say_what_they_should() {
        let admin = admin().await;
        let pair = |status: &str, body: &str| (status.to_owned(), body.to_owned());
        assert_eq!(get(admin.addr, "/readyz").await, pair("503", "not ready\n"));
        admin.ready.store(true, Ordering::Release);
        assert_eq!(get(admin.addr, "/readyz?x=1").await, pair("200", "ok\n"));
        assert_eq!(
            get(admin.addr, "/ring").await,
            pair(
                "200",
                "{\"status\":\"healthy\",\"since\":1700000000,\"instance\":\"shop/app-1\",\"fingerprint\":\"0000001f\",\"placement\":\"ring\",\"version\":3,\"source\":\"list\",\"nodes\":[{\"name\":\
                 \"we\\\"ird\\\\\\n:1\",\"address\":\"10.0.0.2:11211\",\"weight\":2,\"share\":0.25,\
                 \"state\":\"up\",\"since\":1700000001}],\"pending\":[\"a is missing\"],\"changes\":[],\"arcs\":[0,0]}"
            )
        );
        assert_eq!(get(admin.addr, "/config").await, pair("200", "{}"));
        assert_eq!(
            get(admin.addr, "/hotkeys").await,
            pair("200", r#"{"enabled":false,"sampled":0,"every":0,"seconds":0.0,"keys":[]}"#)
        );
        for path in ["/nonsense", "/healthz/", "//ring", "/page.html"] {
            assert_eq!(get(admin.addr, path).await.0, "404", "{path}");
        }
    }

    #[tokio::test]
    async fn a_key_is_asked_for_as_it_is_or_encoded() {
        let admin = admin().await;
        let place = |key: &str| {
            let rest = r##""hash":"#1","node":"a:1","address":"10.0.0.2:1","state":"up","fingerprint":"0000001f""##;
            ("200".to_owned(), format!("{{\"key\":\"{key}\",{rest}}}"))
        };
        for (query, key) in [("key=user:1", "user:1"), ("a=b&key=a%2Bb%26c", "a+b&c"), ("key=a+b=c", "a+b=c")] {
            assert_eq!(get(admin.addr, &format!("/ring?{query}")).await, place(key), "{query}");
        }
        let long = format!("key={}", "k".repeat(251));
        for query in ["key=", "key", "key=a%20b", "key=a%0Ab", "key=%00", &long] {
            let reply = get(admin.addr, &format!("/ring?{query}")).await;
            assert_eq!(reply, ("400".to_owned(), NO_KEY.to_owned()), "{query}");
        }
        assert_eq!(get(admin.addr, "/ring?key=early").await.0, "503");
        assert!(get(admin.addr, "/ring?monkey=1").await.1.contains("version"), "the ring as a whole");
    }

    #[tokio::test]
    async fn a_worker_that_does_not_turn_is_found() {
        let mut admin = admin().await;
        let second = admin.second.take().unwrap();
        assert_eq!(get(admin.addr, "/healthz").await, ("503".to_owned(), "workers do not answer: [1]\n".to_owned()));
        let second = tokio::spawn(second.answer());
        let both = tokio::join!(get(admin.addr, "/healthz"), get(admin.addr, "/healthz?x"));
        assert_eq!((both.0.0, both.1.1), ("200".to_owned(), "ok\n".to_owned()));
        second.abort();
        assert_eq!(get(admin.addr, "/healthz").await.0, "503", "it has ended");
    }

    #[tokio::test]
    async fn the_page_comes_whole_and_under_its_policy() {
        let admin = admin().await;
        let reply = ask(admin.addr, "GET /?x=1 HTTP/1.1\r\nHost: x\r\n\r\n").await;
        let (head, body) = reply.split_once("\r\n\r\n").expect("a whole head");
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        assert!(head.contains("content-type: text/html; charset=utf-8\r\n"), "{head}");
        assert!(head.contains("content-security-policy: default-src 'none'; "), "{head}");
        assert!(head.contains("x-content-type-options: nosniff\r\n"), "{head}");
        assert_eq!(body, PAGE);
    }

    #[test]
    fn the_page_brings_everything_and_makes_no_markup_of_text() {
        // The one address in it is a name, that of SVG.
        let addresses = PAGE.replace("http://www.w3.org/2000/svg", "");
        for foreign in ["http:", "https:", "src=", "@import", "import("] {
            assert!(!addresses.contains(foreign), "{foreign}");
        }
        // A node's name is the user's text, a key anybody's.
        for markup in
            ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "DOMParser"]
        {
            assert!(!PAGE.contains(markup), "{markup}");
        }
    }

    #[tokio::test]
    async fn only_get_and_head_are_answered() {
        let admin = admin().await;
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "BREW"] {
            let request = format!("{method} /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc");
            let reply = ask(admin.addr, &request).await;
            assert!(reply.starts_with("HTTP/1.1 405 "), "{method}: {reply}");
            assert!(reply.contains("allow: GET, HEAD\r\n"), "{method}: {reply}");
        }
        let reply = ask(admin.addr, "HEAD /ring HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(reply.starts_with("HTTP/1.1 200 ") && reply.ends_with("\r\n\r\n"));
        assert!(reply.contains("connection: close\r\n"), "{reply}");
    }

    #[tokio::test]
    async fn nonsense_and_endless_heads_are_refused() {
        let admin = admin().await;
        let long = format!("GET /healthz HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(64 << 10));
        for request in ["get k\r\n\r\n", "\0\0\0\0\r\n\r\n", &long] {
            let reply = ask(admin.addr, request).await;
            assert!(reply.is_empty() || reply.starts_with("HTTP/1.1 4"), "{reply}");
        }
        assert_eq!(get(admin.addr, "/readyz").await.0, "503");
    }

    #[tokio::test]
    async fn of_clients_beyond_the_limit_the_oldest_goes_and_silent_ones_leave_in_time() {
        let admin = admin().await;
        let mut silent = Vec::new();
        for _ in 0..MAX_CONNECTIONS {
            let mut socket = TcpStream::connect(admin.addr).await.unwrap();
            socket.write_all(b"GET /hea").await.unwrap();
            silent.push(socket);
        }
        assert_eq!(get(admin.addr, "/ring").await.0, "200");
        let mut byte = [0];
        assert!(matches!(silent.remove(0).read(&mut byte).await, Ok(0) | Err(_)), "it made room");
        // The header clock closes the others, without any word from them.
        for mut socket in silent {
            let closed = socket.read(&mut byte);
            let closed = tokio::time::timeout(2 * HEADER_TIMEOUT, closed).await;
            assert!(matches!(closed, Ok(Ok(0) | Err(_))), "still open");
        }
        assert_eq!(get(admin.addr, "/ring").await.0, "200");
    }

    #[tokio::test]
    async fn stopping_closes_the_listener_and_the_connections() {
        let admin = admin().await;
        let mut open = TcpStream::connect(admin.addr).await.unwrap();
        open.write_all(b"GET /").await.unwrap();
        admin.stop.cancel();
        let mut reply = Vec::new();
        let _ = open.read_to_end(&mut reply).await;
        assert!(reply.is_empty());
        assert!(TcpStream::connect(admin.addr).await.is_err());
    }
}
