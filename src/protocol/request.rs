//! The one model of requests: what a client asks for, whatever dialect it speaks.
//!
//! Each dialect has a parser that makes these of a client's bytes, and a writer that makes bytes for nodes of them.

use std::borrow::Cow;

use data_encoding::BASE64;

use super::command::Command;
use super::meta::request::{Meta, Verb};
use super::{MAX_KEY, is_key, space};

/// What to do with a stored value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the commands of doc/protocol.txt by their own names")]
pub enum StoreVerb {
    Set,
    Add,
    Replace,
    Append,
    Prepend,
    Cas,
}

impl StoreVerb {
    /// The word on the wire.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Set => "set",
            Self::Add => "add",
            Self::Replace => "replace",
            Self::Append => "append",
            Self::Prepend => "prepend",
            Self::Cas => "cas",
        }
    }
}

/// A storage line: `<verb> <key> <flags> <exptime> <bytes> [<unique>] [noreply]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Store<'a> {
    /// Which of the six.
    pub verb: StoreVerb,
    /// 1 to 250 bytes without space, LF or NUL.
    pub key: &'a [u8],
    /// Opaque to memcached. Nodes built for large flags keep all of them, the others the low 32 bits.
    pub flags: u64,
    /// Seconds, or a Unix time above 30 days; truncated to 32 bits as memcached does.
    pub exptime: i32,
    /// Bytes of the data block, its closing CRLF not counted.
    pub len: usize,
    /// The unique value of `cas`, else 0.
    pub unique: u64,
    /// `noreply`: the client gets no answer. Never forwarded.
    pub quiet: bool,
}

/// The commands that are answered by values: four that read several keys, and the meta commands that may give one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadVerb {
    /// `get`
    Get,
    /// `gets`: values with their unique
    Gets,
    /// `gat`: as `get`, and sets a new expiry
    Gat(i32),
    /// `gats`: as `gets`, and sets a new expiry
    Gats(i32),
    /// A meta command of one key, whose flags are taken as a part of it.
    Meta {
        /// Which of them.
        verb: Verb,
        /// What it is counted as.
        command: Command,
        /// It changes what it reads.
        writes: bool,
    },
}

/// A command that changes one key and carries no data block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// `delete <key>`
    Delete,
    /// `incr <key> <delta>`
    Incr(u64),
    /// `decr <key> <delta>`
    Decr(u64),
    /// `touch <key> <exptime>`
    Touch(i32),
}

/// What `stats` is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the sub-commands by their own names")]
pub enum Stats {
    /// Without argument: the sidecar's counters and the nodes' sizes.
    General,
    /// Ours: one line per node and figure.
    Nodes,
    /// Ours: the nodes' numeric counters added up.
    Sum,
    /// Ours: the ring's name, version and shares.
    Ring,
    Items,
    Slabs,
    Settings,
    Sizes,
    Conns,
    Reset,
}

/// A valid request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// One of the four reads; `keys` is the rest of the line, each key checked ([`Keys`]).
    Read {
        /// Which of the four.
        verb: ReadVerb,
        /// The keys, separated by spaces.
        keys: Keys<'a>,
    },
    /// A storage command; its block follows.
    Store(Store<'a>),
    /// `delete`, `incr`, `decr` or `touch`.
    Change {
        /// Which of the four.
        change: Change,
        /// 1 to 250 bytes without space, LF or NUL.
        key: &'a [u8],
        /// `noreply`.
        quiet: bool,
    },
    /// `flush_all [delay]`
    FlushAll {
        /// Seconds to wait; `None` is the bare command.
        delay: Option<i32>,
        /// `noreply`.
        quiet: bool,
    },
    /// `verbosity <level>`: accepted and without effect.
    Verbosity {
        /// `noreply`.
        quiet: bool,
    },
    /// `version`
    Version,
    /// `config get cluster`: who the nodes are, as auto-discovery clients ask for it.
    Discovery,
    /// `stats […]`
    Stats(Stats),
    /// One of the meta commands that name a key; the block of `ms` follows.
    Meta(Meta<'a>),
    /// `mn`: the barrier of the meta protocol, `MN`.
    MetaNoop,
    /// `quit`
    Quit,
}

/// What follows a refused line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Block {
    /// Nothing: the next line is a command.
    None,
    /// A data block of this many bytes, CRLF included, to be swallowed.
    Swallow(u64),
    /// A data block may follow whose length cannot be told: close behind the answer.
    Unknown,
}

/// A line that is not acted on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal<'a> {
    /// The answer, without CRLF; empty for none.
    pub text: &'static str,
    /// The client said `noreply`: no answer.
    pub quiet: bool,
    /// What to do with what follows.
    pub block: Block,
    /// A `set` or `ms` that is too large removes the key's old value, as in memcached.
    pub stale: Option<&'a [u8]>,
    /// That key is in base64: flag `b` of a meta request.
    pub stale_is_base64: bool,
}

/// How a value is refused that is longer than what is forwarded.
pub const TOO_LARGE: &str = "SERVER_ERROR object too large for cache";

impl Refusal<'_> {
    pub(super) const fn new(text: &'static str) -> Self {
        Self { text, quiet: false, block: Block::None, stale: None, stale_is_base64: false }
    }

    /// The key whose old value is to be removed.
    #[must_use]
    pub fn stale_key(&self) -> Option<Cow<'_, [u8]>> {
        let key = self.stale?;
        let decoded = self.stale_is_base64.then(|| BASE64.decode(key).ok()).flatten();
        Some(decoded.map_or(Cow::Borrowed(key), Cow::Owned))
    }

    /// Whether text cannot carry that key as it is: it can be named in base64 only.
    #[must_use]
    pub fn stale_needs_base64(&self) -> bool {
        self.stale_is_base64 && self.stale_key().is_some_and(|key| !is_key(&key))
    }

    /// Whether it is the size of the value that is refused.
    #[must_use]
    pub fn is_too_large(&self) -> bool {
        self.text == TOO_LARGE
    }

    /// The answer to a line longer than [`MAX_LINE`](super::MAX_LINE). memcached closes without a
    /// word; what the rest of the line is cannot be told, so the connection is closed here too.
    #[must_use]
    pub const fn line_too_long() -> Refusal<'static> {
        Refusal::new("CLIENT_ERROR line too long").with_block(Block::Unknown)
    }

    /// The answer to a key list for which there is no memory, in memcached's words; it closes the
    /// connection behind it too.
    #[must_use]
    pub const fn no_memory() -> Refusal<'static> {
        Refusal::new("SERVER_ERROR out of memory reading request").with_block(Block::Unknown)
    }

    pub(super) const fn quiet_if(mut self, quiet: bool) -> Self {
        self.quiet = quiet;
        self
    }

    pub(super) const fn with_block(mut self, block: Block) -> Self {
        self.block = block;
        self
    }
}

/// The keys of a read, in the order asked, repeats included. Never longer than [`MAX_KEY`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keys<'a>(&'a [u8]);

impl<'a> Keys<'a> {
    /// Those of a part of a line that was checked.
    #[must_use]
    pub const fn new(checked: &'a [u8]) -> Self {
        Self(checked)
    }

    /// What is left of the line.
    #[must_use]
    pub const fn rest(self) -> &'a [u8] {
        self.0
    }

    /// The first `count` of them.
    #[must_use]
    pub fn first(self, count: usize) -> Self {
        let mut behind = self;
        if let Some(last) = count.checked_sub(1) {
            behind.nth(last);
        } else {
            return Self(&[]);
        }
        Self(self.0.get(..self.0.len() - behind.0.len()).unwrap_or_default())
    }

    /// Whether there is none.
    pub(super) fn are_none(self) -> bool {
        self.0.iter().all(|byte| *byte == b' ')
    }

    /// Whether none is too long: a space is looked for in each [`MAX_KEY`] bytes, however short the keys are.
    #[inline]
    pub(super) fn are_valid(self) -> bool {
        let mut rest = self.0;
        while let Some(longest) = rest.get(..=MAX_KEY) {
            let Some(space) = memchr::memrchr(b' ', longest) else { return false };
            rest = rest.get(space + 1..).unwrap_or_default();
        }
        true
    }
}

impl<'a> Iterator for Keys<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        let start = self.0.iter().position(|&b| b != b' ')?;
        let rest = self.0.get(start..)?;
        let end = space(rest).unwrap_or(rest.len());
        let (key, tail) = rest.split_at(end);
        self.0 = tail;
        Some(key)
    }
}
