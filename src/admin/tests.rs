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
            draining: false,
            instance: Some("shop/app-1".into()),
            pid: 7,
            fingerprint: "0000001f".into(),
            placement: "ring".into(),
            version: 3,
            source: "list".into(),
            reloads: 0,
            last_error: None,
            before: None,
            pending: vec!["a is missing".into()],
            alike: Vec::new(),
            changes: Vec::new(),
            nodes: vec![RingNode {
                name: "we\"ird\\\n:1".into(),
                address: "10.0.0.2:11211".into(),
                weight: 2,
                share: 0.25,
                state: "up",
                since: 1_700_000_001,
                cause: Some("answered \"</script><script>alert(1)\"".into()),
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
                old_node: None,
                note: None,
            })
        }),
        hot_keys: Box::new(HotKeys::default),
        history: Box::new(|| HistoryReport { now: 1.5, slot_seconds: 5, ..HistoryReport::default() }),
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
            "{\"status\":\"healthy\",\"since\":1700000000,\"instance\":\"shop/app-1\",\"pid\":7,\"fingerprint\":\"0000001f\",\"placement\":\"ring\",\"version\":3,\"source\":\"list\",\"reloads\":0,\"nodes\":[{\"name\":\
             \"we\\\"ird\\\\\\n:1\",\"address\":\"10.0.0.2:11211\",\"weight\":2,\"share\":0.25,\
             \"state\":\"up\",\"since\":1700000001,\"cause\":\"answered \\\"</script><script>alert(1)\\\"\"}],\"pending\":[\"a is missing\"],\"changes\":[]}"
        )
    );
    assert_eq!(get(admin.addr, "/config").await, pair("200", "{}"));
    assert_eq!(
        get(admin.addr, "/hotkeys").await,
        pair("200", r#"{"enabled":false,"sampled":0,"every":0,"seconds":0.0,"keys":[]}"#)
    );
    let history = r#"{"now":1.5,"slot_seconds":5,"last_slot_seconds":0.0,"durations":[],"duration_bounds":[]}"#;
    assert_eq!(get(admin.addr, "/history").await, pair("200", history));
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
    for query in ["key=", "key", "key=%20", "key=%0A", &long] {
        let reply = get(admin.addr, &format!("/ring?{query}")).await;
        assert_eq!(reply, ("400".to_owned(), NO_KEY.to_owned()), "{query}");
    }
    for (query, key) in [("key=a%20b", "a b"), ("key=a%0Ab", "a\\nb"), ("key=%00", "\\u0000")] {
        let (status, json) = get(admin.addr, &format!("/ring?{query}")).await;
        assert!(json.starts_with(&format!("{{\"key\":\"{key}\",")), "{json}");
        assert!(json.contains("\"note\":\"the key has a space, a line end or a NUL: only binary clients"), "{json}");
        assert_eq!(status, "200", "{query}");
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
    assert!(head.contains("cache-control: no-store\r\n"), "{head}");
    let (begin, end) = PAGE.split_once(FIRST).expect("a place for the first answers");
    assert!(body.starts_with(begin) && body.ends_with(end), "{body}");
}

#[tokio::test]
async fn the_page_brings_the_first_answers_and_none_of_them_is_markup() {
    let admin = admin().await;
    let (_, body) = get(admin.addr, "/").await;
    let (open, close) = FIRST.split_once("null").unwrap();
    let first = body.split_once(open).unwrap().1.split_once(close).unwrap().0;
    assert!(!first.contains('<'), "{first}");
    let first: serde_json::Value = serde_json::from_str(first).unwrap();
    for (name, path) in [("ring", "/ring"), ("hot_keys", "/hotkeys"), ("history", "/history")] {
        let own: serde_json::Value = serde_json::from_str(&get(admin.addr, path).await.1).unwrap();
        assert_eq!(first[name], own, "{path}");
    }
    assert_eq!(first["ring"]["nodes"][0]["cause"], "answered \"</script><script>alert(1)\"");
    assert_eq!(first["metrics"], get(admin.addr, "/metrics").await.1);
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
