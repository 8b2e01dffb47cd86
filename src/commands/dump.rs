//! Which keys a node holds: told by `lru_crawler metadump`, or asked for one by one. Nothing is written, and no value is
//! fetched from nodes that can do without (`me`, from 1.6 on).

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use percent_encoding::percent_decode;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::plan::grouped;
use crate::phrase;
use crate::routing::{MAX_KEY, Node, NodeIndex};
use crate::secured::{Secured, Stream};

/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(2);

/// Longest silence of a node.
const SILENCE: Duration = Duration::from_secs(5);

/// Pause before a crawler that is busy is asked again.
const BUSY: Duration = Duration::from_millis(200);

/// Keys that are asked for at once.
const BATCH: usize = 50;

/// Longest line of a node, in bytes: a URI-encoded key is thrice as long as a key.
const MAX_LINE: usize = 4096;

/// A key, and the node that holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// As clients name it.
    pub key: Vec<u8>,
    /// Index into the nodes.
    pub node: NodeIndex,
}

/// What was read of one node.
#[derive(Debug)]
pub struct Read {
    /// The node's identity.
    pub node: String,
    /// Its keys, as clients name them.
    pub keys: Vec<Vec<u8>>,
    /// How it went, unless it told all of its keys.
    pub remark: Option<String>,
    /// It could not be read, or broke off: the keys that are not known may be anywhere.
    pub is_unread: bool,
}

/// How much is read.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// Most keys of each node.
    pub keys: usize,
    /// When reading ends.
    pub ends_at: Instant,
    /// Keys to ask for where a node does not tell its own.
    pub known: Arc<Vec<Vec<u8>>>,
    /// Keys read so far, of all nodes.
    pub progress: Arc<AtomicUsize>,
    /// How nodes are spoken to.
    pub secured: Secured,
}

/// Reads a node within these bounds.
pub async fn read(node: Arc<Node>, bounds: Bounds) -> Read {
    let mut keys = Vec::new();
    let mut is_unread = false;
    let remark = match dump(&node, &bounds, &mut keys).await {
        Ok(End::Whole) => None,
        Ok(End::Limit) => Some(format!("cut off at {}", grouped(bounds.keys as u64))),
        Err(error) if bounds.known.is_empty() && keys.is_empty() => {
            is_unread = true;
            Some(phrase::of(&error))
        }
        Err(error) if bounds.known.is_empty() => {
            // With the time that was given it is cut off as it was asked to be.
            is_unread = Instant::now() < bounds.ends_at;
            Some(format!("cut off: {}", phrase::of(&error)))
        }
        Err(error) => {
            keys.clear();
            match probe(&node, &bounds, &mut keys).await {
                Ok(asked) => Some(format!("of {} asked for, as {}", grouped(asked as u64), phrase::of(&error))),
                Err(second) => {
                    is_unread = keys.is_empty() || Instant::now() < bounds.ends_at;
                    Some(format!("{}; then {}", phrase::of(&error), phrase::of(&second)))
                }
            }
        }
    };
    Read { node: node.name.to_string(), keys, remark, is_unread }
}

/// Why no more keys came.
enum End {
    Whole,
    Limit,
}

async fn dump(node: &Node, bounds: &Bounds, keys: &mut Vec<Vec<u8>>) -> io::Result<End> {
    let mut connection = Connection::open(node, &bounds.secured, bounds.ends_at).await?;
    connection.send(b"lru_crawler metadump all\r\n").await?;
    loop {
        let line = connection.line().await?;
        if let Some(fields) = line.strip_prefix(b"key=") {
            let encoded = fields.split(|byte| *byte == b' ').next().unwrap_or_default();
            let key: Vec<u8> = percent_decode(encoded).collect();
            if (1..=MAX_KEY).contains(&key.len()) {
                keys.push(key);
                bounds.progress.fetch_add(1, Ordering::Relaxed);
            }
            if keys.len() >= bounds.keys {
                return Ok(End::Limit);
            }
        } else if line == b"END" || (line == b"EN" && keys.is_empty()) {
            return Ok(End::Whole);
        } else if line.starts_with(b"BUSY") {
            // Somebody else dumps, or the crawler is on its own round.
            sleep(BUSY).await;
            connection.send(b"lru_crawler metadump all\r\n").await?;
        } else {
            return Err(refused("metadump", line));
        }
    }
}

/// Asks for the keys that are known. Returns how many were asked for.
async fn probe(node: &Node, bounds: &Bounds, keys: &mut Vec<Vec<u8>>) -> io::Result<usize> {
    let mut connection = Connection::open(node, &bounds.secured, bounds.ends_at).await?;
    connection.send(b"version\r\n").await?;
    let version = connection.line().await?;
    let meta = version
        .strip_prefix(b"VERSION 1.")
        .is_some_and(|rest| !matches!(rest.first_chunk(), Some([b'0'..=b'5', b'.'])));
    let text = |key: &&Vec<u8>| !key.iter().any(|byte| *byte <= b' ' || *byte == 0x7f);
    let known: Vec<&Vec<u8>> = bounds.known.iter().filter(text).collect();
    let mut asked = 0;
    for batch in known.chunks(BATCH) {
        let mut found = if meta { connection.debug(batch).await? } else { connection.get(batch).await? };
        asked += batch.len();
        bounds.progress.fetch_add(found.len(), Ordering::Relaxed);
        keys.append(&mut found);
    }
    Ok(asked)
}

fn refused(what: &str, line: &[u8]) -> io::Error {
    let line = String::from_utf8_lossy(line.get(..80).unwrap_or(line)).replace(char::is_control, "?");
    io::Error::other(format!("it answered {what} with {line:?}"))
}

/// A connection of our own to a node.
struct Connection {
    stream: BufReader<Stream>,
    line: Vec<u8>,
    ends_at: Instant,
}

// === impl Connection ===

impl Connection {
    async fn open(node: &Node, secured: &Secured, ends_at: Instant) -> io::Result<Self> {
        let connected = timeout(CONNECT, TcpStream::connect(node.address())).await;
        let stream = connected.map_err(|_| io::Error::other("no connection within 2 s"))?;
        let stream = stream.map_err(|error| match error.kind() {
            io::ErrorKind::ConnectionRefused => io::Error::other("connection refused"),
            _ => io::Error::other(format!("no connection: {}", phrase::of(&error))),
        })?;
        let opened = secured.open(stream, (node.certificate_name(), None), Instant::now() + CONNECT, CONNECT).await;
        let stream = opened.map_err(|why| io::Error::other(why.to_string()))?;
        Ok(Self { stream: BufReader::with_capacity(64 << 10, stream), line: Vec::new(), ends_at })
    }

    async fn send(&mut self, request: &[u8]) -> io::Result<()> {
        self.in_time(async |this| {
            this.stream.write_all(request).await?;
            this.stream.flush().await
        })
        .await
    }

    /// The next line without its end.
    async fn line(&mut self) -> io::Result<&[u8]> {
        self.in_time(async |this| {
            this.line.clear();
            let mut limited = (&mut this.stream).take(MAX_LINE as u64);
            limited.read_until(b'\n', &mut this.line).await?;
            match this.line.pop_if(|byte| *byte == b'\n') {
                Some(_) => Ok(()),
                None if this.line.len() == MAX_LINE => Err(io::Error::other("a line has no end")),
                None => Err(io::Error::other("the connection was closed")),
            }
        })
        .await?;
        Ok(self.line.strip_suffix(b"\r").unwrap_or(&self.line))
    }

    async fn in_time<T>(&mut self, step: impl AsyncFnOnce(&mut Self) -> io::Result<T>) -> io::Result<T> {
        let ends_at = self.ends_at.min(Instant::now() + SILENCE);
        let over = self.ends_at <= ends_at;
        let done = timeout_at(ends_at, step(self)).await;
        done.map_err(|_| io::Error::other(if over { "the time was over (--time)" } else { "it stopped answering" }))?
    }

    /// Which of these keys are there, without a trace in the node's order of use.
    async fn debug(&mut self, batch: &[&Vec<u8>]) -> io::Result<Vec<Vec<u8>>> {
        let request: Vec<u8> =
            batch.iter().flat_map(|key| [b"me ", key.as_slice(), b"\r\n"]).flatten().copied().collect();
        self.send(&request).await?;
        let mut found = Vec::new();
        for key in batch {
            match self.line().await? {
                line if line.starts_with(b"ME ") => found.push((*key).clone()),
                b"EN" => {}
                line => return Err(refused("me", line)),
            }
        }
        Ok(found)
    }

    /// The same of a node that has no `me`: the values are read and dropped.
    async fn get(&mut self, batch: &[&Vec<u8>]) -> io::Result<Vec<Vec<u8>>> {
        let words = batch.iter().flat_map(|key| [b" ".as_slice(), key.as_slice()]);
        let request: Vec<u8> =
            std::iter::once(b"get".as_slice()).chain(words).chain([b"\r\n".as_slice()]).flatten().copied().collect();
        self.send(&request).await?;
        let mut found = Vec::new();
        loop {
            let line = self.line().await?;
            if line == b"END" {
                return Ok(found);
            }
            let words: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
            let [b"VALUE", key, _, length, ..] = words.as_slice() else { return Err(refused("get", line)) };
            let length = std::str::from_utf8(length).ok().and_then(|length| length.parse::<u64>().ok());
            let Some(length) = length else { return Err(refused("get", line)) };
            found.push(key.to_vec());
            self.in_time(async |this| {
                let mut block = (&mut this.stream).take(length + 2);
                tokio::io::copy_buf(&mut block, &mut tokio::io::sink()).await
            })
            .await?;
        }
    }
}
