//! One reply made of every node's: what has come of it, and how it is put together.

use crate::metrics::NodeState;
use crate::protocol::command::Command;
use crate::protocol::reply::End;
use crate::protocol::request::Stats;
use crate::proxy::stats::{self, NodeReport, Sidecar};

/// Most bytes of `STAT` lines one node may send.
const MAX_PART: usize = 256 << 10;

/// What is gathered.
#[derive(Clone, Copy, Debug)]
pub(in crate::proxy) enum Gathering {
    /// `OK` when all said so, else the worst answer.
    Flush,
    /// `RESET`, likewise.
    Reset,
    /// The `STAT` lines of each node.
    Stats(Stats),
}

impl Gathering {
    pub(in crate::proxy) const fn command(&self) -> Command {
        match self {
            Self::Flush => Command::FlushAll,
            Self::Reset | Self::Stats(_) => Command::Stats,
        }
    }

    pub(in crate::proxy) const fn end(&self) -> End {
        match self {
            Self::Flush => End::Ok,
            Self::Reset => End::Reset,
            Self::Stats(_) => End::Lines,
        }
    }
}

#[derive(Debug)]
struct NodePart {
    name: String,
    state: &'static str,
    /// Why that is so; empty where nothing is wrong.
    cause: String,
    text: Vec<u8>,
}

/// A reply that several nodes contribute to.
#[derive(Debug)]
pub(in crate::proxy) struct Gather {
    pub(in crate::proxy) what: Gathering,
    left: usize,
    /// The first error line, with its CRLF.
    error: Option<Vec<u8>>,
    parts: Vec<NodePart>,
    /// Bytes of memory of all parts so far.
    bytes: usize,
}

impl Gather {
    pub(in crate::proxy) const fn new(what: Gathering) -> Self {
        Self { what, left: 0, error: None, parts: Vec::new(), bytes: 0 }
    }

    /// Adds a node that was asked; its part arrives by [`Gather::line`] and [`Gather::finish`].
    pub(in crate::proxy) fn expect(&mut self, name: &str) -> usize {
        self.left += 1;
        self.add(name, "up")
    }

    /// Adds a node that cannot be asked.
    pub(in crate::proxy) fn unreachable(&mut self, name: &str, state: &'static str, cause: String, error: &[u8]) {
        self.bytes += cause.len();
        let part = self.add(name, state);
        if let Some(part) = self.parts.get_mut(part) {
            part.cause = cause;
        }
        self.error.get_or_insert_with(|| error.to_vec());
    }

    fn add(&mut self, name: &str, state: &'static str) -> usize {
        self.bytes += size_of::<NodePart>() + name.len();
        self.parts.push(NodePart { name: name.to_owned(), state, cause: String::new(), text: Vec::new() });
        self.parts.len() - 1
    }

    /// One `STAT` line of a node, with its CRLF. No node has so many that they are more than
    /// [`MAX_PART`]: `false` says that this one has.
    #[must_use]
    pub(in crate::proxy) fn line(&mut self, part: usize, line: &[u8]) -> bool {
        let Some(part) = self.parts.get_mut(part) else { return true };
        let before = part.text.capacity();
        part.text.extend_from_slice(line);
        self.bytes += part.text.capacity() - before;
        part.text.len() <= MAX_PART
    }

    /// A node has answered or failed; `lost` says why there is no answer. Returns whether all have.
    pub(in crate::proxy) fn finish(&mut self, part: usize, error: Option<&[u8]>, lost: Option<String>) -> bool {
        if let Some(error) = error {
            self.error.get_or_insert_with(|| error.to_vec());
        }
        if let (Some(part), Some(cause)) = (self.parts.get_mut(part), lost) {
            part.state = NodeState::Down.word();
            self.bytes += cause.len();
            part.cause = cause;
            part.text.clear();
        }
        self.left = self.left.saturating_sub(1);
        self.left == 0
    }

    /// Bytes of memory that it holds.
    pub(in crate::proxy) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether nothing is waited for.
    pub(in crate::proxy) const fn is_complete(&self) -> bool {
        self.left == 0
    }

    /// The whole answer.
    pub(in crate::proxy) fn render(&self, sidecar: &Sidecar, out: &mut Vec<u8>) {
        let reports: Vec<NodeReport<'_>> = self
            .parts
            .iter()
            .map(|p| NodeReport { name: &p.name, state: p.state, cause: &p.cause, stats: &p.text })
            .collect();
        match (&self.what, &self.error) {
            (Gathering::Flush | Gathering::Reset, Some(error)) => out.extend_from_slice(error),
            (Gathering::Flush, None) => out.extend_from_slice(b"OK\r\n"),
            (Gathering::Reset, None) => out.extend_from_slice(b"RESET\r\n"),
            (Gathering::Stats(what), _) => match what {
                Stats::General => stats::general(out, sidecar, &reports),
                Stats::Nodes => stats::nodes(out, &reports),
                Stats::Sum => stats::sum(out, &reports),
                Stats::Items => stats::items(out, &reports),
                Stats::Slabs => stats::slabs(out, &reports),
                Stats::Settings => stats::settings(out, sidecar, &reports),
                // Answered without asking a node.
                Stats::Sizes | Stats::Conns | Stats::Reset | Stats::Ring => out.extend_from_slice(b"END\r\n"),
            },
        }
    }
}
