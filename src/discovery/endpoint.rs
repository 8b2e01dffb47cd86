//! A discovery endpoint (Memorystore, ElastiCache): asked for its list, which is read tolerantly and believed carefully.
//!
//! ```text
//! CONFIG cluster 0 <length>\r\n
//! <version>\n
//! <host>|<ip>|<port> <host>|<ip>|<port>\n
//! \r\n
//! END\r\n
//! ```
//! No line of the list can be `END`, so the line `END` ends the answer, whatever the length says; an answer whose
//! length is wrong is believed only when it is given twice.

use std::collections::HashSet;
use std::net::IpAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::dns::may_be_a_node;
use super::nodes::{is_host, number, quote};
use super::{Authority, Observation};
use crate::metrics::Span;
use crate::phrase;
use crate::resolve;
use crate::routing::{MAX_NODES, Node};
use crate::secured::{Secured, Stream};

/// Largest answer, in bytes; a thousand nodes with long names are a tenth of it.
pub const MAX_REPLY: usize = 1 << 20;

/// How many times in a row a version lower than the known one must be given: an instance that was made anew counts
/// from the start, one that lags catches up.
pub const LOWER_READS: u32 = 3;

/// How many times in a row an answer must be given that contradicts its own version or length.
pub const DOUBTFUL_READS: u32 = 2;

/// A list as the endpoint gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// Grows with each change of the list.
    pub version: u64,
    /// At least one; names distinct.
    pub nodes: Vec<Node>,
    /// Whether the length fitted.
    pub exact: bool,
}

/// What the bytes received so far amount to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// More is needed.
    Partial,
    /// A list.
    Cluster(Cluster),
    /// `ERROR` and its like: the line.
    Refused(String),
    /// `END` alone: there is no such key.
    Nothing,
    /// No answer to the question: what is wrong with it.
    Malformed(String),
}

/// Reads an answer. `ended` says that no more will come.
#[must_use]
pub fn parse_reply(bytes: &[u8], ended: bool) -> Reply {
    let Some((header, body)) = line(bytes, ended) else {
        return Reply::Partial;
    };
    let header = String::from_utf8_lossy(header);
    let words: Vec<&str> = header.split_ascii_whitespace().collect();
    let length = match words.as_slice() {
        ["END"] => return Reply::Nothing,
        ["ERROR" | "CLIENT_ERROR" | "SERVER_ERROR", ..] => return Reply::Refused(quote(header.trim())),
        ["CONFIG", "cluster", _, length, ..] | ["VALUE", "AmazonElastiCache:cluster", _, length, ..] => length,
        [] if ended => return Reply::Malformed("nothing was answered".to_owned()),
        _ => return Reply::Malformed(format!("not an answer to `config get cluster`: {:?}", quote(header.trim()))),
    };
    let mut rest = body;
    while let Some((text, after)) = line(rest, ended) {
        if text == b"END" {
            let payload = body.get(..body.len() - rest.len()).unwrap_or_default();
            let framed = payload.strip_suffix(b"\r\n").or_else(|| payload.strip_suffix(b"\n")).unwrap_or(payload);
            let exact = length.parse() == Ok(framed.len());
            return parse_payload(payload, exact).map_or_else(Reply::Malformed, Reply::Cluster);
        }
        rest = after;
    }
    if ended { Reply::Malformed("the answer ends before its END".to_owned()) } else { Reply::Partial }
}

/// The first line without its end, and what follows it. What is left when nothing more comes is a line too.
fn line(bytes: &[u8], ended: bool) -> Option<(&[u8], &[u8])> {
    let (text, rest) = match memchr::memchr(b'\n', bytes) {
        Some(at) => (bytes.get(..at)?, bytes.get(at + 1..)?),
        None if ended && !bytes.is_empty() => bytes.split_at(bytes.len()),
        None => return None,
    };
    Some((text.strip_suffix(b"\r").unwrap_or(text), rest))
}

fn parse_payload(payload: &[u8], exact: bool) -> Result<Cluster, String> {
    let text = std::str::from_utf8(payload).map_err(|_| "the list is not text".to_owned())?.trim();
    let (version, list) = text.split_once('\n').unwrap_or((text, ""));
    let digits = version.trim();
    let version = if digits.bytes().all(|byte| byte.is_ascii_digit()) { digits.parse().ok() } else { None };
    let version = version.ok_or_else(|| format!("the version is not a number: {:?}", quote(digits)))?;
    let mut nodes = Vec::new();
    let mut names = HashSet::new();
    for entry in list.split_ascii_whitespace() {
        let node = parse_member(entry).ok_or_else(|| format!("not host|ip|port: {:?}", quote(entry)))?;
        if names.insert(node.name.clone()) {
            nodes.push(node);
        }
    }
    match nodes.len() {
        0 => Err("the list is empty".to_owned()),
        1..=MAX_NODES => Ok(Cluster { version, nodes, exact }),
        many => Err(format!("the list has {many} nodes, more than {MAX_NODES}")),
    }
}

/// `host|ip|port`; one of host and ip may be empty. The host is the identity, the ip is only dialled.
fn parse_member(entry: &str) -> Option<Node> {
    let mut fields = entry.split('|');
    let (host, ip, port) = (fields.next()?, fields.next()?, fields.next()?);
    if fields.next().is_some() {
        return None;
    }
    let port = number(port).and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0)?;
    let ip = match bare(ip) {
        "" => None,
        ip => Some(ip.parse::<IpAddr>().ok().filter(|ip| may_be_a_node(*ip))?),
    };
    match (bare(host), ip) {
        ("", None) => None,
        ("", Some(ip)) => Some(Node::new(&ip.to_string(), port, 1)),
        (host, ip) if is_host(host) && (ip.is_some() || host.parse().ok().is_none_or(may_be_a_node)) => {
            let node = Node::new(host, port, 1);
            Some(ip.into_iter().fold(node, |node, ip| node.dialled_at(&ip.to_string())))
        }
        _ => None,
    }
}

/// An IPv6 address without its brackets.
fn bare(host: &str) -> &str {
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

/// What is known of the endpoint's list, and what it says instead.
#[derive(Debug, Default)]
pub struct Versions {
    current: Option<(u64, Vec<Node>)>,
    /// The last answer that was not believed, and how often it came in a row.
    doubted: Option<(Cluster, u32)>,
}

/// What to make of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The list counts.
    Adopt(Authority),
    /// What is known already.
    Known,
    /// Not believed yet, and why.
    Doubt(String),
}

// === impl Versions ===

impl Versions {
    /// Goes on from a version known earlier.
    #[must_use]
    pub fn known(version: u64, nodes: Vec<Node>) -> Self {
        Self { current: Some((version, nodes)), doubted: None }
    }

    /// The version of the list that counts.
    #[must_use]
    pub fn version(&self) -> Option<u64> {
        self.current.as_ref().map(|(version, _)| *version)
    }

    /// Judges an answer by its version: a higher one counts, a lower one once it persists, the same one with another
    /// list once it is repeated.
    pub fn judge(&mut self, answer: &Cluster) -> Verdict {
        let known = self.current.as_ref();
        let (needed, why) = match known {
            Some((version, _)) if answer.version < *version => {
                (LOWER_READS, format!("version {} is lower than {version}", answer.version))
            }
            Some((version, nodes)) if answer.version == *version && answer.nodes == *nodes => {
                self.doubted = None;
                return Verdict::Known;
            }
            Some((version, _)) if answer.version == *version => {
                (DOUBTFUL_READS, format!("another list under the same version {version}"))
            }
            _ if !answer.exact => (DOUBTFUL_READS, "the length does not fit the list".to_owned()),
            _ => (1, String::new()),
        };
        let higher = known.is_none_or(|(version, _)| answer.version > *version);
        let reads = match self.doubted.take() {
            Some((doubted, reads)) if doubted == *answer => reads + 1,
            _ => 1,
        };
        if reads < needed {
            self.doubted = Some((answer.clone(), reads));
            return Verdict::Doubt(format!("{why}; read {reads} of {needed}"));
        }
        self.adopt(answer);
        Verdict::Adopt(if higher { Authority::Version } else { Authority::Hearsay })
    }

    /// Takes an answer as it is: an operator asked for it.
    pub fn adopt(&mut self, answer: &Cluster) {
        self.current = Some((answer.version, answer.nodes.clone()));
        self.doubted = None;
    }
}

/// The endpoint as it is asked.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) versions: Versions,
    /// Whether the ring until now is only to bridge the start: the first answer replaces it.
    pub(super) bridging: bool,
    /// How it is spoken to.
    pub(super) secured: Secured,
}

// === impl Endpoint ===

impl Endpoint {
    /// Asks once. An operator's question adopts any valid answer.
    pub(super) async fn read(&mut self, operator: bool, limit: Duration) -> Result<Observation, String> {
        let asked = tokio::time::timeout(limit, ask(&self.host, self.port, &self.secured, limit)).await;
        let cluster = asked.map_err(|_| format!("no answer within {}", Span(limit)))??;
        let verdict = if operator || (self.bridging && cluster.exact) {
            self.versions.adopt(&cluster);
            Verdict::Adopt(Authority::Operator)
        } else {
            self.versions.judge(&cluster)
        };
        let authority = match verdict {
            Verdict::Adopt(_) if self.bridging => Authority::Operator,
            Verdict::Adopt(authority) => authority,
            Verdict::Known => Authority::Hearsay,
            Verdict::Doubt(why) => return Err(why),
        };
        self.bridging = false;
        let why = format!("version {}", cluster.version);
        Ok(Observation { nodes: cluster.nodes, authority, why, ttl: None, before: None })
    }
}

/// Asks as newer endpoints understand it, and then as older ones do.
async fn ask(host: &str, port: u16, secured: &Secured, limit: Duration) -> Result<Cluster, String> {
    let ends_at = tokio::time::Instant::now() + limit;
    let stream =
        resolve::connect(host, port).await.map_err(|error| format!("cannot connect: {}", phrase::of(&error)))?;
    let host = host.strip_suffix('.').unwrap_or(host);
    let opened = secured.open(stream, (host, None), ends_at, limit).await;
    let mut stream = opened.map_err(|why| format!("{why} ({})", why.hint()))?;
    let mut reply = exchange(&mut stream, b"config get cluster\r\n").await?;
    if matches!(reply, Reply::Refused(_)) {
        reply = exchange(&mut stream, b"get AmazonElastiCache:cluster\r\n").await?;
    }
    match reply {
        Reply::Cluster(cluster) => Ok(cluster),
        Reply::Refused(line) => Err(format!("it answers {line:?}: not a discovery endpoint?")),
        Reply::Nothing => Err("it has no list: a plain memcached, not a discovery endpoint?".to_owned()),
        Reply::Malformed(problem) => Err(problem),
        Reply::Partial => Err("the answer ends early".to_owned()),
    }
}

async fn exchange(stream: &mut Stream, question: &[u8]) -> Result<Reply, String> {
    let broken = |error: std::io::Error| format!("the connection broke: {}", phrase::of(&error));
    stream.write_all(question).await.map_err(broken)?;
    stream.flush().await.map_err(broken)?;
    let mut bytes = Vec::with_capacity(4096);
    loop {
        let read = stream.read_buf(&mut bytes).await.map_err(broken)?;
        match parse_reply(&bytes, read == 0) {
            Reply::Partial if read == 0 => return Err("it closed the connection without an answer".to_owned()),
            Reply::Partial if bytes.len() >= MAX_REPLY => {
                return Err(format!("the answer is longer than {MAX_REPLY} bytes"));
            }
            Reply::Partial => {}
            reply => return Ok(reply),
        }
    }
}

#[cfg(test)]
mod tests;
