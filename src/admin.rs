//! The admin endpoint over HTTP/1: health, metrics, the ring, the configuration, the hot keys, the last ten minutes and,
//! for people, the page at `/`.
//!
//! It shares the pod with what must not be disturbed, and its port is open to the cluster: few
//! connections, one request each, small buffers, and a clock on everything a client may delay.

use std::borrow::Cow;
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
use crate::metrics::history::HistoryReport;
use crate::metrics::hot::HotKeys;
use crate::phrase;
use crate::protocol::{MAX_KEY, is_key};
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

const NO_KEY: &str = "a key has 1 to 250 bytes and is not blank; %20 is a space, + is a plus sign\n";

/// What is said of a key that the text protocol cannot name.
const NOT_IN_TEXT: &str = "the key has a space, a line end or a NUL: only binary clients, and meta requests with a base64 \
                           key, can send it";

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
/// Prometheus' text format.
const METRICS: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");

/// The page at `/`: it asks for `/ring`, `/metrics` and others by itself, again and again.
const PAGE: &str = include_str!("admin/page.html");

/// Where the page has its first answers: they come with it, so that nobody has to wait for them.
const FIRST: &str = r#"<script id="first" type="application/json">null</script>"#;

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
    /// `/history`: likewise.
    pub history: Box<dyn Fn() -> HistoryReport + Send + Sync>,
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
    /// It has been told to end, and serves on until its clients have gone; absent else.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub draining: bool,
    /// What the sidecar is called; absent when it has no name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// Its process id, as it sees it itself.
    pub pid: u32,
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
    /// How often the source was read because an operator told so (SIGHUP, `slipring reload`); the ring is what that made of it.
    pub reloads: u64,
    /// All nodes, in the order of the ring's own list.
    pub nodes: Vec<RingNode>,
    /// The ring before a planned change, as long as it is in use; absent else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<RingBefore>,
    /// What is in the ring and no longer listed, one line each.
    pub pending: Vec<String>,
    /// Nodes of a list that are one server, one line each; absent where there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub alike: Vec<String>,
    /// The last changes of the ring, the newest first.
    pub changes: Vec<Turn>,
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
    /// Why it is down or lacks connections, in one phrase; absent while it is up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
}

/// The ring before in [`RingReport`].
#[derive(Clone, Debug, Serialize)]
pub struct RingBefore {
    /// `reading`: what misses at its new place is asked for at the old one; `ending`: old places are invalidated alone.
    pub state: &'static str,
    /// Since when, in seconds of Unix time.
    pub since: u64,
    /// It is not declared any more, and was not `ending`; absent else.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub vanished: bool,
    /// As in [`RingReport`]; equal to the one there while nothing has moved.
    pub fingerprint: String,
    /// `--placement-before`, or that of the file.
    pub placement: String,
    /// Share of the key space that has an old place, 0 to 1.
    pub moved: f64,
    /// All its nodes, those that are in the ring, too.
    pub nodes: Vec<BeforeNode>,
}

/// One node of [`RingBefore`].
#[derive(Clone, Debug, Serialize)]
pub struct BeforeNode {
    /// As in the ring; `share` is that of the ring before.
    #[serde(flatten)]
    pub node: RingNode,
    /// It is in the ring, too.
    pub in_ring: bool,
    /// An invalidation was lost there, so nothing is read from it any more; absent else.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub reads_ended: bool,
    /// It has refused a connection, so its memory is gone and it is no place any more; absent else.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub gone: bool,
}

/// What the page begins with; each as its own path answers it.
#[derive(Serialize)]
struct First<'a> {
    ring: RingReport,
    /// Nothing where `/metrics` fails.
    metrics: Option<Cow<'a, str>>,
    history: HistoryReport,
    hot_keys: HotKeys,
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
    /// The node of the ring before that is its old place; absent where it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old_node: Option<String>,
    /// What is special about the key; absent where nothing is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<&'static str>,
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
                tracing::warn!(error = phrase::of(&error), "admin endpoint cannot accept");
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
        Ok(Err(error)) => tracing::debug!(error = phrase::of(&error), "admin connection failed"),
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
            let mut reply = page(StatusCode::OK, HTML, state.page());
            let headers = reply.headers_mut();
            headers.insert(CONTENT_SECURITY_POLICY, PAGE_POLICY);
            headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
            // What it says is true now.
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
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
            None => json(&state.report()),
            Some(key) if !may_be_stored(&key) => page(StatusCode::BAD_REQUEST, TEXT, NO_KEY),
            Some(key) => match (state.place)(&key) {
                Some(place) => json(&Place { note: (!is_key(&key)).then_some(NOT_IN_TEXT), ..place }),
                None => page(StatusCode::SERVICE_UNAVAILABLE, TEXT, "no ring is known yet\n"),
            },
        },
        "/hotkeys" => json(&(state.hot_keys)()),
        "/history" => json(&(state.history)()),
        "/config" => page(StatusCode::OK, JSON, state.config.clone()),
        "/metrics" => match (state.metrics)() {
            Ok(text) => page(StatusCode::OK, METRICS, text),
            Err(error) => page(StatusCode::INTERNAL_SERVER_ERROR, TEXT, error),
        },
        _ => page(StatusCode::NOT_FOUND, TEXT, "not found\n"),
    }
}

/// Whether any client could store it, as for the keys of `slipring locate`.
fn may_be_stored(key: &[u8]) -> bool {
    (1..=MAX_KEY).contains(&key.len()) && !key.iter().all(u8::is_ascii_whitespace)
}

/// The `key` of a query; bytes may be percent-encoded. `+` is itself: keys have it more often than spaces.
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

impl AdminState {
    fn report(&self) -> RingReport {
        RingReport { draining: self.draining.is_cancelled(), ..(self.ring)() }
    }

    /// The page, with the answers that it would ask for first.
    fn page(&self) -> String {
        let metrics = (self.metrics)().ok();
        let first = First {
            ring: self.report(),
            metrics: metrics.as_deref().map(String::from_utf8_lossy),
            history: (self.history)(),
            hot_keys: (self.hot_keys)(),
        };
        let (begin, end) = PAGE.split_once(FIRST).unwrap_or((PAGE, ""));
        // In JSON a `<` is part of a string. Escaped it ends no script, whatever a node or a key is called.
        let first = serde_json::to_string(&first).unwrap_or_else(|_| "null".into()).replace('<', "\\u003c");
        let tag = FIRST.replace("null", &first);
        [begin, &tag, end].concat()
    }
}

impl fmt::Debug for AdminState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminState").field("ready", &self.ready).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
