//! One client of a node: bytes in, commands, bytes out.
//!
//! What a read brought is worked off whole, its replies gathered and written before the next read.
//! Memory is bounded: a line by the protocol's limits, a value by the node's, the replies by
//! [`OUT_LIMIT`], above which they are written in between.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, MutexGuard};

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::store::{Counted, Item, Step, Store, kept_flags};
use super::{Shared, VERSION_LINE, now, stats};
use crate::protocol::meta::request::{Verb, decode_key};
use crate::protocol::request::{Block, Change, Keys, ReadVerb, Refusal, Request, Stats, Store as StoreLine, StoreVerb};
use crate::protocol::text::request;
use crate::protocol::{MAX_KEY, MAX_KEY_LINE, MAX_LINE, is_key_line, number};

/// Bytes asked of the socket at a time.
const READ: usize = 16 << 10;

/// Replies gathered, in bytes, before they are written although more input waits.
const OUT_LIMIT: usize = 64 << 10;

/// Values from this size on, in bytes, are written from where they lie.
const DIRECT: usize = 16 << 10;

/// First reservation for a value that is still on its way, in bytes; it grows with what arrives,
/// so that an announced length alone takes no memory.
const BODY_STEP: usize = 64 << 10;

/// Whether a connection goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    Continue,
    Close,
}

/// One client.
#[derive(Debug)]
pub(super) struct Connection {
    socket: TcpStream,
    peer: SocketAddr,
    node: Arc<Shared>,
    /// Received and not yet worked off.
    input: BytesMut,
    /// Bytes at the front of `input` known to hold no LF.
    scanned: usize,
    /// Replies not yet written.
    out: Vec<u8>,
    /// Largest item in bytes.
    max_item: usize,
}

// === impl Connection ===

impl Connection {
    pub(super) fn new(socket: TcpStream, peer: SocketAddr, node: Arc<Shared>) -> Self {
        let max_item = {
            let mut store = node.store();
            store.counters.curr_connections += 1;
            store.counters.total_connections += 1;
            store.max_item()
        };
        Self { socket, peer, node, input: BytesMut::new(), scanned: 0, out: Vec::new(), max_item }
    }

    /// Serves the client until it leaves, says `quit` or sends what has no end.
    pub(super) async fn run(mut self) {
        // A client that is gone needs no word; the node goes on.
        let _ = self.serve().await;
    }

    async fn serve(&mut self) -> io::Result<()> {
        loop {
            while let Some(line) = self.next_line() {
                if self.command(request::until_nul(request::trim(&line))).await? == Flow::Close {
                    self.flush().await?;
                    return self.socket.shutdown().await;
                }
                if self.out.len() >= OUT_LIMIT {
                    self.flush().await?;
                }
            }
            if self.line_is_too_long() || self.fill().await? == 0 {
                // Half-close: what came before the end has been answered.
                return self.flush().await;
            }
        }
    }

    /// Takes the next whole line out of the input, without its LF.
    fn next_line(&mut self) -> Option<BytesMut> {
        let rest = self.input.get(self.scanned..).unwrap_or_default();
        let Some(end) = memchr::memchr(b'\n', rest) else {
            self.scanned = self.input.len();
            return None;
        };
        let end = self.scanned + end;
        self.scanned = 0;
        let mut line = self.input.split_to(end + 1);
        line.truncate(end);
        Some(line)
    }

    /// Whether the line that has not ended yet is longer than a line may be. memcached closes then.
    fn line_is_too_long(&self) -> bool {
        let len = self.input.len();
        len > MAX_LINE && (len > MAX_KEY_LINE || !is_key_line(&self.input))
    }

    /// Writes what is gathered, then reads; 0 is the end of input.
    async fn fill(&mut self) -> io::Result<usize> {
        self.flush().await?;
        if self.input.is_empty() && self.input.capacity() > 4 * READ {
            self.input = BytesMut::new();
        }
        self.input.reserve(READ);
        let n = self.socket.read_buf(&mut self.input).await?;
        self.node.store().counters.bytes_read += n as u64;
        Ok(n)
    }

    async fn flush(&mut self) -> io::Result<()> {
        if !self.out.is_empty() {
            self.socket.write_all(&self.out).await?;
            self.node.store().counters.bytes_written += self.out.len() as u64;
            self.out.clear();
            self.out.shrink_to(2 * OUT_LIMIT);
        }
        Ok(())
    }

    /// The node's items, locked, and where replies go.
    pub(super) fn parts(&mut self) -> (MutexGuard<'_, Store>, &mut Vec<u8>) {
        (self.node.store(), &mut self.out)
    }

    /// Largest item in bytes.
    pub(super) const fn max_item(&self) -> usize {
        self.max_item
    }

    async fn command(&mut self, line: &[u8]) -> io::Result<Flow> {
        if Keys::new(line).next().and_then(Verb::of).is_some() {
            return self.meta(line).await;
        }
        match request::parse(line, self.max_item) {
            Ok(Request::Read { verb, keys }) => self.read(verb, keys).await?,
            Ok(Request::Store(line)) => return self.store(&line).await,
            Ok(Request::Change { change, key, quiet }) => self.change(change, key, quiet),
            Ok(Request::FlushAll { delay, quiet }) => {
                self.node.store().flush_all(delay, now());
                self.answer("OK", quiet);
            }
            Ok(Request::Verbosity { quiet }) => self.answer("OK", quiet),
            Ok(Request::Version) => self.answer(VERSION_LINE, false),
            // It is a memcached, not a cluster.
            Ok(Request::Discovery) => self.answer("ERROR", false),
            Ok(Request::Stats(what)) => self.stats(what),
            Ok(Request::MetaNoop) => self.answer("MN", false),
            Ok(Request::Quit) => return Ok(Flow::Close),
            // Not yet: `ms` brings a block.
            Ok(Request::Meta(_)) => {
                self.answer("ERROR", false);
                return Ok(Flow::Close);
            }
            Err(refusal) => return self.refuse(refusal).await,
        }
        Ok(Flow::Continue)
    }

    async fn read(&mut self, verb: ReadVerb, keys: Keys<'_>) -> io::Result<()> {
        let now = now();
        for key in keys {
            let found = match verb {
                ReadVerb::Get | ReadVerb::Gets => self.node.store().get(key, now),
                ReadVerb::Gat(exptime) | ReadVerb::Gats(exptime) => self.node.store().touch(key, exptime, now),
                // Never a line of keys.
                ReadVerb::Meta { .. } => None,
            };
            let Some(item) = found else { continue };
            let unique = match verb {
                ReadVerb::Get | ReadVerb::Gat(_) | ReadVerb::Meta { .. } => None,
                ReadVerb::Gets | ReadVerb::Gats(_) => Some(item.unique),
            };
            self.value(key, &item, unique).await?;
        }
        self.answer("END", false);
        Ok(())
    }

    async fn value(&mut self, key: &[u8], item: &Item, unique: Option<u64>) -> io::Result<()> {
        let out = &mut self.out;
        out.extend_from_slice(b"VALUE ");
        out.extend_from_slice(key);
        out.push(b' ');
        number::append(out, u64::from(item.flags));
        out.push(b' ');
        number::append(out, item.data.len() as u64);
        if let Some(unique) = unique {
            out.push(b' ');
            number::append(out, unique);
        }
        out.extend_from_slice(b"\r\n");
        self.body(&item.data).await
    }

    /// A value and its CRLF.
    pub(super) async fn body(&mut self, data: &Bytes) -> io::Result<()> {
        if data.len() < DIRECT {
            self.out.extend_from_slice(data);
        } else {
            self.flush().await?;
            self.socket.write_all(data).await?;
            self.node.store().counters.bytes_written += data.len() as u64;
        }
        self.out.extend_from_slice(b"\r\n");
        if self.out.len() >= OUT_LIMIT {
            self.flush().await?;
        }
        Ok(())
    }

    async fn store(&mut self, line: &StoreLine<'_>) -> io::Result<Flow> {
        if !self.node.store().fits(line.key, kept_flags(line.flags), line.len) {
            return self
                .refuse(Refusal {
                    text: "SERVER_ERROR object too large for cache",
                    quiet: line.quiet,
                    block: Block::Swallow(line.len as u64 + 2),
                    stale: (line.verb == StoreVerb::Set).then_some(line.key),
                    stale_is_base64: false,
                })
                .await;
        }
        let Some(block) = self.block(line.len).await? else {
            return Ok(Flow::Close);
        };
        let text = {
            let mut store = self.node.store();
            store.counters.cmd_set += 1;
            match block {
                Some(data) => store.store(line, data, now()),
                None => "CLIENT_ERROR bad data chunk",
            }
        };
        self.answer(text, line.quiet);
        Ok(Flow::Continue)
    }

    /// Takes a data block of `len` bytes and its CRLF. `None`: the input ended before it did;
    /// `Some(None)`: the two bytes behind it are no CRLF.
    pub(super) async fn block(&mut self, len: usize) -> io::Result<Option<Option<Bytes>>> {
        let total = len + 2;
        if self.input.len() >= total {
            // Copied: a small value must not hold the whole read buffer.
            let block = self.input.split_to(total);
            return Ok(Some(block.strip_suffix(b"\r\n").map(Bytes::copy_from_slice)));
        }
        let mut body = Vec::with_capacity(total.min(BODY_STEP.max(self.input.len())));
        body.extend_from_slice(&self.input);
        self.input.clear();
        while body.len() < total {
            self.flush().await?;
            let left = total - body.len();
            if body.len() == body.capacity() {
                body.reserve_exact(left.min(body.len().max(BODY_STEP)));
            }
            let n = self.socket.read_buf(&mut (&mut body).limit(left)).await?;
            if n == 0 {
                return Ok(None);
            }
            self.node.store().counters.bytes_read += n as u64;
        }
        let whole = body.ends_with(b"\r\n");
        body.truncate(len);
        Ok(Some(whole.then(|| Bytes::from(body))))
    }

    fn change(&mut self, change: Change, key: &[u8], quiet: bool) {
        let now = now();
        let step = match change {
            Change::Delete => {
                let found = self.node.store().delete(key, now);
                return self.answer(if found { "DELETED" } else { "NOT_FOUND" }, quiet);
            }
            Change::Touch(exptime) => {
                let found = self.node.store().touch(key, exptime, now).is_some();
                return self.answer(if found { "TOUCHED" } else { "NOT_FOUND" }, quiet);
            }
            Change::Incr(delta) => Step::Up(delta),
            Change::Decr(delta) => Step::Down(delta),
        };
        let counted = self.node.store().count(key, step, now);
        match counted {
            Counted::NotFound => self.answer("NOT_FOUND", quiet),
            Counted::NonNumeric => self.answer("CLIENT_ERROR cannot increment or decrement non-numeric value", quiet),
            // Only where a unique is asked for.
            Counted::Exists => {}
            Counted::Value { .. } if quiet => {}
            Counted::Value { value, .. } => {
                number::append(&mut self.out, value);
                self.out.extend_from_slice(b"\r\n");
            }
        }
    }

    fn stats(&mut self, what: Stats) {
        let mut store = self.node.store();
        let out = &mut self.out;
        match what {
            Stats::General => stats::general(out, &mut store, now()),
            Stats::Items => stats::items(out, &mut store),
            Stats::Slabs => stats::slabs(out, &mut store),
            Stats::Settings => stats::settings(out, &store, self.node.local_addr),
            Stats::Sizes => out.extend_from_slice(b"STAT sizes_status disabled\r\nEND\r\n"),
            Stats::Conns => stats::conns(out, self.peer, self.node.local_addr),
            Stats::Reset => {
                store.reset();
                out.extend_from_slice(b"RESET\r\n");
            }
            // The proxy's own words.
            Stats::Nodes | Stats::Sum | Stats::Ring => out.extend_from_slice(b"ERROR\r\n"),
        }
    }

    pub(super) async fn refuse(&mut self, refusal: Refusal<'_>) -> io::Result<Flow> {
        if let Some(key) = refusal.stale {
            let mut buffer = [0; MAX_KEY];
            let decoded = if refusal.stale_is_base64 { decode_key(key, &mut buffer) } else { None };
            self.node.store().drop_stale(decoded.unwrap_or(key));
        }
        if refusal.text.starts_with("SERVER_ERROR") {
            self.node.store().counters.store_too_large += 1;
        }
        let flow = match refusal.block {
            Block::None => Flow::Continue,
            Block::Swallow(len) => self.swallow(len).await?,
            Block::Unknown => Flow::Close,
        };
        // The parser's word for what a router cannot do; a node does not know the command at all.
        let text = if refusal.text.ends_with("not supported by proxy") { "ERROR" } else { refusal.text };
        self.answer(text, refusal.quiet || text.is_empty());
        Ok(flow)
    }

    async fn swallow(&mut self, len: u64) -> io::Result<Flow> {
        let mut left = len;
        loop {
            let n = usize::try_from(left).unwrap_or(usize::MAX).min(self.input.len());
            let _ = self.input.split_to(n);
            left -= n as u64;
            if left == 0 {
                return Ok(Flow::Continue);
            }
            if self.fill().await? == 0 {
                return Ok(Flow::Close);
            }
        }
    }

    fn answer(&mut self, text: &str, quiet: bool) {
        if !quiet {
            self.out.extend_from_slice(text.as_bytes());
            self.out.extend_from_slice(b"\r\n");
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.node.store().counters.curr_connections -= 1;
    }
}
