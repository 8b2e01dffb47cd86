//! What a client's packet asks for.
//!
//! Judged as memcached 1.6.18 does, before anything of it is sent on, and stricter in two places where memcached takes the
//! rest of a packet for the next one: the body of an unknown opcode is swallowed whole, and a value behind a touch or a
//! stat is refused (invariant G: no value is ever executed).

use super::super::MAX_KEY;
use super::super::request::StoreVerb;
use super::reply::{Reply, Status};
use super::{HEADER_BYTES, REQUEST_MAGIC, opcode};

/// The expiry of `incr` and `decr` that says: create nothing.
const NEVER_CREATE: u32 = u32::MAX;

/// The first bytes are no request's: memcached closes the connection without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a packet that does not begin with 0x80")]
pub struct BadMagic;

/// The first 24 bytes of a packet. Extras, key and value follow in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What is asked ([`opcode`]); any byte.
    pub opcode: u8,
    /// Bytes of the key.
    pub key_len: usize,
    /// Bytes of the extras.
    pub extras_len: usize,
    /// Bytes of extras, key and value together; less than the two where [`Header::check`] refuses it.
    pub body_len: usize,
    /// Returned unchanged.
    pub opaque: u32,
    /// The unique number the item must have; 0 for any.
    pub cas: u64,
}

impl Header {
    /// Reads the beginning of a packet; `None` while there are fewer than 24 bytes. Data type and vbucket are not looked
    /// at, as in memcached.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Result<Self, BadMagic>> {
        let [magic, opcode, k0, k1, extras_len, _, _, _, b0, b1, b2, b3, o0, o1, o2, o3, cas @ ..] =
            *bytes.first_chunk::<HEADER_BYTES>()?;
        if magic != REQUEST_MAGIC {
            return Some(Err(BadMagic));
        }
        Some(Ok(Self {
            opcode,
            key_len: usize::from(u16::from_be_bytes([k0, k1])),
            extras_len: usize::from(extras_len),
            body_len: usize::try_from(u32::from_be_bytes([b0, b1, b2, b3])).unwrap_or(usize::MAX),
            opaque: u32::from_be_bytes([o0, o1, o2, o3]),
            cas: u64::from_be_bytes(cas),
        }))
    }

    /// Bytes of header, extras and key: what [`parse`] needs. Below 600 where [`Header::check`] is content.
    #[must_use]
    pub const fn head_len(&self) -> usize {
        HEADER_BYTES + self.extras_len + self.key_len
    }

    /// Bytes of the value behind them.
    #[must_use]
    pub const fn value_len(&self) -> usize {
        self.body_len.saturating_sub(self.extras_len + self.key_len)
    }

    /// Whether the lengths are such as the opcode has them, known before anything behind the header has come: nobody holds
    /// 64 KiB of a key that is too long.
    ///
    /// # Errors
    /// The answer the client gets instead. [`Refusal::swallow`] counts from behind the header.
    pub fn check(&self) -> Result<(), Refusal<'static>> {
        if self.extras_len + self.key_len > self.body_len {
            // memcached's word for it, and the only unknown command it closes behind.
            return Err(self.refuse(Status::UnknownCommand, true));
        }
        let (key, extras, value) = (self.key_len, self.extras_len, self.value_len());
        let fits = match self.opcode {
            _ if key > MAX_KEY => false,
            opcode::GET | opcode::GETQ | opcode::GETK | opcode::GETKQ | opcode::DELETE | opcode::DELETEQ => {
                key > 0 && extras == 0 && value == 0
            }
            opcode::SET | opcode::ADD | opcode::REPLACE | opcode::SETQ | opcode::ADDQ | opcode::REPLACEQ => {
                key > 0 && extras == 8
            }
            opcode::APPEND | opcode::PREPEND | opcode::APPENDQ | opcode::PREPENDQ => key > 0 && extras == 0,
            opcode::INCREMENT | opcode::DECREMENT | opcode::INCREMENTQ | opcode::DECREMENTQ => {
                key > 0 && extras == 20 && value == 0
            }
            // memcached does not ask for the value here, and takes it for the next packet.
            opcode::TOUCH | opcode::GAT | opcode::GATQ | opcode::GATK | opcode::GATKQ => {
                key > 0 && extras == 4 && value == 0
            }
            opcode::STAT => extras == 0 && value == 0,
            opcode::FLUSH | opcode::FLUSHQ => key == 0 && (extras == 0 || extras == 4) && value == 0,
            opcode::QUIT | opcode::QUITQ | opcode::NOOP | opcode::VERSION => self.body_len == 0,
            // Known to a memcached without SASL only by their lengths.
            opcode::SASL_LIST if self.body_len > 0 => false,
            opcode::SASL_AUTH | opcode::SASL_STEP if key == 0 || extras > 0 => false,
            opcode::CONFIG_GET if extras == 0 && value == 0 => true,
            _ => return Err(self.refuse(Status::UnknownCommand, false)),
        };
        if fits { Ok(()) } else { Err(self.refuse(Status::InvalidArguments, true)) }
    }

    /// `swallow` is everything behind the header.
    const fn refuse(&self, status: Status, close: bool) -> Refusal<'static> {
        Refusal { status, opcode: self.opcode, opaque: self.opaque, swallow: self.body_len as u64, close, stale: None }
    }
}

/// A packet that is answered here, by an error. It is answered so even where its opcode is quiet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal<'a> {
    /// Never [`Status::Ok`].
    pub status: Status,
    /// The packet's.
    pub opcode: u8,
    /// The packet's.
    pub opaque: u32,
    /// Bytes of the packet behind those that were given, still to be dropped.
    pub swallow: u64,
    /// Whether the connection is closed behind the answer, as memcached does. Nothing has to be swallowed then.
    pub close: bool,
    /// The key of a `set` that was too large: memcached drops the old value, which would be stale.
    pub stale: Option<&'a [u8]>,
}

impl Refusal<'_> {
    /// Appends the answer.
    pub fn write(&self, out: &mut Vec<u8>) {
        Reply::error(self.opcode, self.opaque, self.status).write(out);
    }
}

/// A valid packet without its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// As the client sent it.
    pub opcode: u8,
    /// Returned unchanged.
    pub opaque: u32,
    /// The unique number the item must have; 0 for any.
    pub cas: u64,
    /// Whether the answer that is expected is hidden: a miss of a read, success of everything else.
    pub quiet: bool,
    /// What is asked.
    pub action: Action<'a>,
    /// Bytes of the value that follows; 0 but for [`Action::Store`] and [`Action::Join`].
    pub value_len: usize,
}

/// What a packet asks for. Keys have 1 to 250 bytes of any kind: text can say them only as
/// [`translate`](super::translate) does. Expiry is in seconds, or a Unix time above 30 days; 0 is never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action<'a> {
    /// Get, GetK, GAT, GATK and their quiet twins.
    Read {
        /// Of any bytes.
        key: &'a [u8],
        /// Whether the answer has the key.
        with_key: bool,
        /// The new expiry, where one is set.
        exptime: Option<u32>,
    },
    /// A new expiry; the answer has the flags.
    Touch {
        /// Of any bytes.
        key: &'a [u8],
        /// The new expiry.
        exptime: u32,
    },
    /// A value to be stored.
    Store {
        /// Set, Add or Replace.
        verb: StoreVerb,
        /// Of any bytes.
        key: &'a [u8],
        /// Opaque to memcached.
        flags: u32,
        /// Its expiry.
        exptime: u32,
    },
    /// A value to be joined to the one that is there.
    Join {
        /// Append or Prepend.
        verb: StoreVerb,
        /// Of any bytes.
        key: &'a [u8],
    },
    /// One key less.
    Delete {
        /// Of any bytes.
        key: &'a [u8],
    },
    /// Increment or Decrement.
    Count {
        /// Up, and not down.
        incr: bool,
        /// Of any bytes.
        key: &'a [u8],
        /// By how much.
        delta: u64,
        /// The number to begin with and its expiry, where a missing one is created.
        initial: Option<(u64, u32)>,
    },
    /// Every key of every node.
    Flush {
        /// Seconds until then, or a Unix time; as given, 0 included.
        delay: Option<u32>,
    },
    /// Answered behind everything before it.
    Noop,
    /// Ours or the nodes'.
    Version,
    /// Statistics.
    Stat {
        /// Which of them; empty for the general ones.
        group: &'a [u8],
    },
    /// The connection ends; answered unless quiet.
    Quit,
    /// Amazon's `config get`.
    Config {
        /// `cluster`, or anything else; may be empty.
        key: &'a [u8],
    },
}

impl<'a> Packet<'a> {
    /// The key whose node is asked, if it is about one.
    #[must_use]
    pub const fn key(&self) -> Option<&'a [u8]> {
        match self.action {
            Action::Read { key, .. }
            | Action::Touch { key, .. }
            | Action::Store { key, .. }
            | Action::Join { key, .. }
            | Action::Delete { key }
            | Action::Count { key, .. } => Some(key),
            _ => None,
        }
    }
}

/// Reads a packet whose header, extras and key are `head` ([`Header::head_len`] bytes; what is behind them is not looked
/// at). `max_value` is the largest value, in bytes, that is forwarded.
///
/// # Errors
/// The answer the client gets instead, and how many bytes behind the head are swallowed. A head that is cut short, or is
/// none, is [`Status::InvalidArguments`] with the connection closed.
pub fn parse(head: &[u8], max_value: usize) -> Result<Packet<'_>, Refusal<'_>> {
    let Some(Ok(header)) = Header::read(head) else {
        return Err(Refusal {
            status: Status::InvalidArguments,
            opcode: 0,
            opaque: 0,
            swallow: 0,
            close: true,
            stale: None,
        });
    };
    let behind = |refusal: Refusal<'static>| {
        let given = head.len().min(header.head_len()).saturating_sub(HEADER_BYTES);
        Refusal { swallow: refusal.swallow.saturating_sub(given as u64), ..refusal }
    };
    header.check().map_err(behind)?;
    let cut_short = || behind(header.refuse(Status::InvalidArguments, true));
    let (extras, key) = head
        .get(HEADER_BYTES..header.head_len())
        .and_then(|both| both.split_at_checked(header.extras_len))
        .ok_or_else(cut_short)?;
    let action = action(header.opcode, extras, key).ok_or_else(cut_short)?;
    let value_len = header.value_len();
    if value_len > max_value {
        let stale = matches!(header.opcode, opcode::SET | opcode::SETQ).then_some(key);
        return Err(Refusal { stale, ..behind(header.refuse(Status::TooLarge, false)) });
    }
    let Header { opcode, opaque, cas, .. } = header;
    Ok(Packet { opcode, opaque, cas, quiet: opcode::is_quiet(opcode), action, value_len })
}

/// `None` where the extras have a length that [`Header::check`] refuses.
fn action<'a>(opcode: u8, extras: &[u8], key: &'a [u8]) -> Option<Action<'a>> {
    let exptime = || extras.first_chunk().map(|bytes| u32::from_be_bytes(*bytes));
    let store = |verb| {
        let exptime = u32::from_be_bytes(*extras.last_chunk()?);
        Some(Action::Store { verb, key, flags: u32::from_be_bytes(*extras.first_chunk()?), exptime })
    };
    let count = |incr| {
        let (delta, rest) = extras.split_first_chunk()?;
        let (initial, exptime) = rest.split_first_chunk()?;
        let (initial, exptime) = (u64::from_be_bytes(*initial), u32::from_be_bytes(*exptime.first_chunk()?));
        let initial = (exptime != NEVER_CREATE).then_some((initial, exptime));
        Some(Action::Count { incr, key, delta: u64::from_be_bytes(*delta), initial })
    };
    match opcode {
        opcode::GET | opcode::GETQ => Some(Action::Read { key, with_key: false, exptime: None }),
        opcode::GETK | opcode::GETKQ => Some(Action::Read { key, with_key: true, exptime: None }),
        opcode::GAT | opcode::GATQ => Some(Action::Read { key, with_key: false, exptime: Some(exptime()?) }),
        opcode::GATK | opcode::GATKQ => Some(Action::Read { key, with_key: true, exptime: Some(exptime()?) }),
        opcode::TOUCH => Some(Action::Touch { key, exptime: exptime()? }),
        opcode::SET | opcode::SETQ => store(StoreVerb::Set),
        opcode::ADD | opcode::ADDQ => store(StoreVerb::Add),
        opcode::REPLACE | opcode::REPLACEQ => store(StoreVerb::Replace),
        opcode::APPEND | opcode::APPENDQ => Some(Action::Join { verb: StoreVerb::Append, key }),
        opcode::PREPEND | opcode::PREPENDQ => Some(Action::Join { verb: StoreVerb::Prepend, key }),
        opcode::DELETE | opcode::DELETEQ => Some(Action::Delete { key }),
        opcode::INCREMENT | opcode::INCREMENTQ => count(true),
        opcode::DECREMENT | opcode::DECREMENTQ => count(false),
        opcode::FLUSH | opcode::FLUSHQ => Some(Action::Flush { delay: exptime() }),
        opcode::NOOP => Some(Action::Noop),
        opcode::VERSION => Some(Action::Version),
        opcode::STAT => Some(Action::Stat { group: key }),
        opcode::QUIT | opcode::QUITQ => Some(Action::Quit),
        opcode::CONFIG_GET => Some(Action::Config { key }),
        _ => None,
    }
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
