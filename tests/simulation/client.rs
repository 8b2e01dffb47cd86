//! A client that asks at random and knows what it may be told.
//!
//! For keys that only it writes it knows the value, too, as long as the key's node was calm; for all
//! keys it can tell a value that is another's, torn, or claimed to be stored when it was not.

mod ask;
mod facts;
mod meta;
mod reply;

use std::collections::{HashMap, VecDeque};

use slipring::proxy::ClientId;
use slipring::routing::Topology;

use self::meta::Form;
use crate::Rng;
use crate::node::{segment, show};
pub(crate) use facts::{Facts, number_of, owner};

/// Keys with large values that everyone uses.
pub(crate) const LARGE_KEYS: usize = 4;

/// What a client knows of a key that only it writes.
#[derive(Clone, Debug)]
struct Known {
    /// The serial numbers of its segments, or that there is none.
    value: Option<Vec<u64>>,
    /// When the oldest change was made that was not acknowledged.
    unsure_since: Option<u64>,
    /// When the last change was asked for.
    asked: u64,
    /// The node's losses when the oldest change that counts was asked for.
    losses: u64,
    /// The ring when the last change was asked for.
    ring: usize,
    /// The segment that was stored last: the ledgers tell where.
    serial: Option<u64>,
}

#[derive(Clone)]
enum Kind {
    Read {
        keys: Vec<Vec<u8>>,
        uniques: bool,
    },
    Store {
        verb: &'static str,
        key: Vec<u8>,
        serial: u64,
        len: usize,
    },
    Delete(Vec<u8>),
    Count {
        key: Vec<u8>,
        serial: u64,
    },
    Touch(Vec<u8>),
    /// A line that begins like this.
    Line(&'static str),
    Flush,
    Stats,
    /// `me`
    Debug,
}

#[derive(Clone, Debug)]
struct Expected {
    kind: Kind,
    /// Asked by a meta command.
    meta: Option<Form>,
    quiet: bool,
    asked: u64,
    /// The ring when it was asked: this one or a later one routed it.
    ring: usize,
    losses: u64,
    /// Cut off by the end of input: an answer may come, or not.
    optional: bool,
}

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Read { keys, .. } => {
                let keys: Vec<String> = keys.iter().map(|key| show(key)).collect();
                write!(f, "read of {}", keys.join(" "))
            }
            Self::Store { verb, key, len, .. } => write!(f, "{verb} {} {len}", show(key)),
            Self::Delete(key) => write!(f, "delete {}", show(key)),
            Self::Count { key, .. } => write!(f, "incr {}", show(key)),
            Self::Touch(key) => write!(f, "touch {}", show(key)),
            Self::Line(start) => write!(f, "what is answered {start}"),
            Self::Flush => write!(f, "flush_all"),
            Self::Stats => write!(f, "stats"),
            Self::Debug => write!(f, "me"),
        }
    }
}

/// How a client leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Stays,
    Quits,
    /// Sends its end, perhaps in the middle of a request.
    HalfCloses,
    /// Resets the connection at some moment.
    Vanishes,
}

/// A client and its socket.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) id: ClientId,
    number: u64,
    /// Sent and not taken by the core.
    pub(crate) outbox: VecDeque<u8>,
    pub(crate) ending: Ending,
    /// Requests still to be made.
    pub(crate) left: usize,
    /// Nothing follows the outbox.
    pub(crate) fin: bool,
    /// The core has been told so.
    pub(crate) ended: bool,
    /// The core knows that it has sent its end, which may lie behind what is not read.
    pub(crate) hung_up: bool,
    /// The rim does not read before it is woken.
    pub(crate) parked: bool,
    /// Written by the core, not taken by the client.
    pub(crate) kernel: Vec<u8>,
    /// How much of that there may be.
    pub(crate) room: usize,
    pub(crate) blocked: bool,
    pub(crate) reads: bool,
    pub(crate) closed: bool,
    received: Vec<u8>,
    expected: VecDeque<Expected>,
    known: HashMap<Vec<u8>, Known>,
    uniques: HashMap<Vec<u8>, u64>,
    depth: usize,
    /// It only stores, a lot, and asks for no answer.
    pub(crate) loads: bool,
    /// There was no memory for its key list: it is closed behind that answer.
    refused: bool,
}

const LONG: &str = "-long-long-long-long-long-long-long-long-long-long-long-long-long-long-long-long";

impl Client {
    pub(crate) fn new(id: ClientId, number: u64, rng: &mut Rng) -> Self {
        Self {
            id,
            number,
            outbox: VecDeque::new(),
            ending: [Ending::Stays, Ending::Quits, Ending::HalfCloses, Ending::Vanishes][rng.below(4)],
            left: rng.below(120) + 1,
            fin: false,
            ended: false,
            hung_up: false,
            parked: false,
            kernel: Vec::new(),
            room: [100, 5_000, 100_000, 1_000_000][rng.below(4)],
            blocked: false,
            reads: true,
            closed: false,
            received: Vec::new(),
            expected: VecDeque::new(),
            known: HashMap::new(),
            uniques: HashMap::new(),
            depth: [1, 4, 40][rng.below(3)],
            loads: false,
            refused: false,
        }
    }

    /// It only stores, a lot, and asks for no answer.
    pub(crate) fn loads(&mut self) {
        (self.loads, self.depth, self.left, self.ending) = (true, usize::MAX, 100, Ending::Stays);
    }

    /// Whether it wants to ask for more now.
    pub(crate) fn wants(&self) -> bool {
        self.left > 0 && !self.fin && !self.closed && self.expected.len() < self.depth
    }

    /// Its last request is cut off by its end.
    pub(crate) fn is_cut(&self) -> bool {
        self.outbox.is_empty() && self.expected.iter().all(|e| e.optional)
    }

    pub(crate) fn owed(&self) -> usize {
        self.expected.iter().filter(|e| !e.optional).count()
    }

    /// The client takes so many bytes of what has come, and checks them.
    pub(crate) fn take(&mut self, bytes: usize, facts: &mut Facts) {
        self.received.extend(self.kernel.drain(..bytes));
        if self.received.len() > 64 << 10 && !self.received.ends_with(b"\r\n") {
            // To look at all of a long reply with each of its parts would take long.
            return;
        }
        let received = std::mem::take(&mut self.received);
        let mut rest = &*received;
        loop {
            while self.expected.front().is_some_and(|e| e.quiet && !e.optional && e.meta.is_none()) {
                let done = self.expected.pop_front().unwrap();
                self.learn(&done, None, facts);
            }
            if rest.is_empty() {
                break;
            }
            let Some(head) = self.expected.front().cloned() else {
                panic!("a reply to nothing: {:?}", show(rest));
            };
            match self.reply(&head, rest, facts) {
                Some(used) => rest = &rest[used..],
                None => break,
            }
            self.expected.pop_front();
        }
        self.received = rest.to_vec();
    }

    /// Whether the core had a reason to close this client.
    pub(crate) fn may_be_closed(&self, facts: &Facts) -> bool {
        // What lies behind a wait that was ended is not carried out.
        if facts.too_slow
            || self.refused
            || self.hung_up
            || (self.ended || self.ending == Ending::Quits) && self.owed() == 0
        {
            return true;
        }
        // A value had begun when its node was lost, or stopped: of the reply that is due, or of a later one.
        let broken = |node: &usize, since| facts.restless(*node, since) || facts.late(*node, since);
        self.expected.iter().any(|e| match &e.kind {
            Kind::Read { keys, .. } => {
                keys.iter().any(|key| facts.owners(key, e.ring).iter().any(|node| broken(node, e.asked)))
            }
            _ => false,
        })
    }

    /// Stores a value of a size on a node and reads it.
    pub(crate) fn probe(&mut self, ring: &Topology, node: usize, size: usize, facts: &mut Facts) {
        let keys = (0..).map(|i| format!("c{}.probe{i}", self.number).into_bytes());
        let key = keys.into_iter().find(|key| owner(ring, key) == node).unwrap();
        facts.next_serial += 1;
        let serial = facts.next_serial;
        let data = segment(&key, serial, size);
        let text = show(&key);
        self.outbox.extend(format!("set {text} 0 0 {}\r\n", data.len()).as_bytes());
        self.outbox.extend(&data);
        self.outbox.extend(format!("\r\nget {text}\r\n").as_bytes());
        let set = Kind::Store { verb: "set", key: key.clone(), serial, len: data.len() };
        let get = Kind::Read { keys: vec![key], uniques: false };
        for kind in [set, get] {
            let (asked, ring) = (facts.now, facts.rings.len() - 1);
            let losses = facts.nodes.iter().map(|n| n.ledger.flushes + n.ledger.wipes).sum();
            self.expected.push_back(Expected { kind, meta: None, quiet: false, asked, ring, losses, optional: false });
        }
    }

    /// What it waits for, for people.
    pub(crate) fn describe(&self) -> String {
        let head = self.expected.front().map(|e| format!("{:?}", e.kind));
        let head = head.unwrap_or_default();
        format!(
            "client {} ({:?}): {} replies owed, first {}; sent {} more, fin {} ended {} parked {} closed {} blocked {}; received {:?}",
            self.number,
            self.ending,
            self.owed(),
            &head[..head.len().min(200)],
            self.outbox.len(),
            self.fin,
            self.ended,
            self.parked,
            self.closed,
            self.blocked,
            show(&self.received)
        )
    }
}

/// The first line of `bytes`, without its CRLF.
fn line(bytes: &[u8]) -> Option<&[u8]> {
    let end = bytes.iter().position(|&b| b == b'\n')?;
    let line = bytes[..end].strip_suffix(b"\r");
    Some(line.unwrap_or_else(|| panic!("a reply line without CR: {:?}", show(bytes))))
}
