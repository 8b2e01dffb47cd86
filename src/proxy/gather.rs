//! One reply made of every node's: `flush_all` and the `stats` family.

use super::stats::{self, NodeReport, Sidecar};
use crate::protocol::request::Stats;

/// What is gathered.
#[derive(Debug)]
pub(super) enum Gathering {
    /// `OK` when all said so, else the worst answer.
    Flush,
    /// `RESET`, likewise.
    Reset,
    /// The `STAT` lines of each node, and the sidecar's own figures of the moment of the request.
    Stats(Stats, Box<Sidecar>),
}

#[derive(Debug)]
struct NodePart {
    name: String,
    state: &'static str,
    text: Vec<u8>,
}

/// A reply that several nodes contribute to.
#[derive(Debug)]
pub(super) struct Gather {
    what: Gathering,
    left: usize,
    /// The first error line, with its CRLF.
    error: Option<Vec<u8>>,
    parts: Vec<NodePart>,
}

impl Gather {
    pub(super) const fn new(what: Gathering) -> Self {
        Self { what, left: 0, error: None, parts: Vec::new() }
    }

    /// Adds a node that was asked; its part arrives by [`Gather::line`] and [`Gather::finish`].
    pub(super) fn expect(&mut self, name: &str) -> usize {
        self.left += 1;
        self.add(name, "up")
    }

    /// Adds a node that cannot be asked.
    pub(super) fn unreachable(&mut self, name: &str, state: &'static str, error: &[u8]) {
        self.add(name, state);
        self.error.get_or_insert_with(|| error.to_vec());
    }

    fn add(&mut self, name: &str, state: &'static str) -> usize {
        self.parts.push(NodePart { name: name.to_owned(), state, text: Vec::new() });
        self.parts.len() - 1
    }

    /// One `STAT` line of a node, with its CRLF.
    pub(super) fn line(&mut self, part: usize, line: &[u8]) {
        if let Some(part) = self.parts.get_mut(part) {
            part.text.extend_from_slice(line);
        }
    }

    /// A node has answered or failed. Returns whether all have.
    pub(super) fn finish(&mut self, part: usize, error: Option<&[u8]>, lost: Option<&'static str>) -> bool {
        if let Some(error) = error {
            self.error.get_or_insert_with(|| error.to_vec());
        }
        if let (Some(part), Some(state)) = (self.parts.get_mut(part), lost) {
            part.state = state;
            part.text.clear();
        }
        self.left = self.left.saturating_sub(1);
        self.left == 0
    }

    /// Whether nothing is waited for.
    pub(super) const fn is_complete(&self) -> bool {
        self.left == 0
    }

    /// The whole answer.
    pub(super) fn render(&self, out: &mut Vec<u8>) {
        let reports: Vec<NodeReport<'_>> =
            self.parts.iter().map(|p| NodeReport { name: &p.name, state: p.state, stats: &p.text }).collect();
        match (&self.what, &self.error) {
            (Gathering::Flush | Gathering::Reset, Some(error)) => out.extend_from_slice(error),
            (Gathering::Flush, None) => out.extend_from_slice(b"OK\r\n"),
            (Gathering::Reset, None) => out.extend_from_slice(b"RESET\r\n"),
            (Gathering::Stats(what, sidecar), _) => match what {
                Stats::General => stats::general(out, sidecar, &reports),
                Stats::Nodes => stats::nodes(out, &reports),
                Stats::Sum => stats::sum(out, &reports),
                Stats::Items => stats::items(out, &reports),
                Stats::Slabs => stats::slabs(out, &reports),
                Stats::Settings => stats::settings(out, sidecar, &reports),
                Stats::Sizes => out.extend_from_slice(b"STAT sizes_status disabled\r\nEND\r\n"),
                Stats::Conns | Stats::Reset => out.extend_from_slice(b"END\r\n"),
            },
        }
    }
}
