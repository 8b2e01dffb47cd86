//! The packets that clients of the binary protocol are sent.

use super::{HEADER_BYTES, REPLY_MAGIC};

/// What became of a request, as clients are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// 0000
    Ok,
    /// 0001: no such key, or no such group of statistics.
    NotFound,
    /// 0002: there is one already, or with another cas.
    Exists,
    /// 0003: larger than an item may be.
    TooLarge,
    /// 0004: lengths that the opcode cannot have. memcached closes the connection behind it.
    InvalidArguments,
    /// 0005: nothing to append to.
    NotStored,
    /// 0006: `incr` or `decr` of something else than a number.
    NonNumeric,
    /// 0020: also what memcached says where it was started with `-F` (no flush).
    AuthError,
    /// 0081: an opcode that does not exist here.
    UnknownCommand,
    /// 0082
    OutOfMemory,
    /// 0084: any other error, its text is the value. The specification has it; memcached itself never sends it.
    Internal,
}

impl Status {
    /// The number on the wire.
    #[must_use]
    pub const fn code(self) -> u16 {
        match self {
            Self::Ok => 0x00,
            Self::NotFound => 0x01,
            Self::Exists => 0x02,
            Self::TooLarge => 0x03,
            Self::InvalidArguments => 0x04,
            Self::NotStored => 0x05,
            Self::NonNumeric => 0x06,
            Self::AuthError => 0x20,
            Self::UnknownCommand => 0x81,
            Self::OutOfMemory => 0x82,
            Self::Internal => 0x84,
        }
    }

    /// The value of an error packet in memcached's words; empty for 0000.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Ok => "",
            Self::NotFound => "Not found",
            Self::Exists => "Data exists for key.",
            Self::TooLarge => "Too large.",
            Self::InvalidArguments => "Invalid arguments",
            Self::NotStored => "Not stored.",
            Self::NonNumeric => "Non-numeric server-side value for incr or decr",
            Self::AuthError => "Auth failure.",
            Self::UnknownCommand => "Unknown command",
            Self::OutOfMemory => "Out of memory",
            Self::Internal => "Internal error",
        }
    }
}

/// One packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply<'a> {
    /// The request's, the quiet one where it was quiet.
    pub opcode: u8,
    /// The request's, for the client to match by.
    pub opaque: u32,
    /// What became of it.
    pub status: Status,
    /// The item's unique number; 0 for none.
    pub cas: u64,
    /// The flags of a value that was read (4 bytes), else empty.
    pub extras: &'a [u8],
    /// The key where the opcode returns it, or a statistic's name.
    pub key: &'a [u8],
    /// What was read, or the text of an error.
    pub value: &'a [u8],
}

impl<'a> Reply<'a> {
    /// Success with nothing to say.
    #[must_use]
    pub const fn ok(opcode: u8, opaque: u32) -> Self {
        Self { opcode, opaque, status: Status::Ok, cas: 0, extras: &[], key: &[], value: &[] }
    }

    /// `status` with memcached's words for it.
    #[must_use]
    pub const fn error(opcode: u8, opaque: u32, status: Status) -> Self {
        Self { status, value: status.text().as_bytes(), ..Self::ok(opcode, opaque) }
    }

    /// One line of statistics. One with an empty name and value ends them.
    #[must_use]
    pub const fn stat(opcode: u8, opaque: u32, name: &'a [u8], value: &'a [u8]) -> Self {
        Self { key: name, value, ..Self::ok(opcode, opaque) }
    }

    /// Appends the packet.
    pub fn write(&self, out: &mut Vec<u8>) {
        self.write_head(self.value.len(), out);
        out.extend_from_slice(self.value);
    }

    /// Appends everything in front of the value; the caller sends one of `value_len` bytes behind it, whatever
    /// [`Reply::value`] holds.
    pub fn write_head(&self, value_len: usize, out: &mut Vec<u8>) {
        // Nothing here can be larger: extras have at most 8 bytes, keys and names are a line's, and a node's value is
        // below 4 GiB.
        let extras_len = u8::try_from(self.extras.len()).unwrap_or(u8::MAX);
        let key_len = u16::try_from(self.key.len()).unwrap_or(u16::MAX);
        let body_len = u32::try_from(self.extras.len() + self.key.len() + value_len).unwrap_or(u32::MAX);
        out.reserve(HEADER_BYTES + self.extras.len() + self.key.len());
        out.extend_from_slice(&[REPLY_MAGIC, self.opcode]);
        out.extend_from_slice(&key_len.to_be_bytes());
        // The data type behind it is 0 (raw bytes), the only one there is.
        out.extend_from_slice(&[extras_len, 0]);
        out.extend_from_slice(&self.status.code().to_be_bytes());
        out.extend_from_slice(&body_len.to_be_bytes());
        out.extend_from_slice(&self.opaque.to_be_bytes());
        out.extend_from_slice(&self.cas.to_be_bytes());
        out.extend_from_slice(self.extras);
        out.extend_from_slice(self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::binary::opcode;

    fn written(reply: &Reply<'_>) -> String {
        let mut out = Vec::new();
        reply.write(&mut out);
        out.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn packets_are_memcacheds_byte_for_byte() {
        let hit = Reply {
            cas: 0x27c,
            extras: &[0xde, 0xad, 0xbe, 0xef],
            value: b"World",
            ..Reply::ok(opcode::GET, 0x0000_0001)
        };
        let with_key = Reply { opcode: opcode::GETKQ, opaque: 0x10, key: b"Hello", ..hit };
        let miss = Reply::error(opcode::GET, 3, Status::NotFound);
        let miss_with_key = Reply { key: b"zz", value: b"", ..Reply::error(opcode::GETK, 3, Status::NotFound) };
        let stored = Reply { cas: 0x27c, ..Reply::ok(opcode::SET, 0x1122_3344) };
        for (reply, bytes) in [
            (stored, "810100000000000000000000 11223344 000000000000027c"),
            (hit, "8100 0000 04 00 0000 00000009 00000001 000000000000027c deadbeef 576f726c64"),
            (miss, "8100 0000 00 00 0001 00000009 00000003 0000000000000000 4e6f7420666f756e64"),
            (miss_with_key, "810c 0002 00 00 0001 00000002 00000003 0000000000000000 7a7a"),
            (with_key, "810d 0005 04 00 0000 0000000e 00000010 000000000000027c deadbeef 48656c6c6f 576f726c64"),
            (Reply::ok(opcode::NOOP, 13), "810a 0000 00 00 0000 00000000 0000000d 0000000000000000"),
            (
                Reply::stat(opcode::STAT, 1, b"pid", b"7"),
                "8110 0003 00 00 0000 00000004 00000001 0000000000000000 70696437",
            ),
        ] {
            assert_eq!(written(&reply), bytes.replace(' ', ""));
        }
    }

    #[test]
    fn a_head_announces_the_value_that_follows_it() {
        let reply = Reply { extras: &[0; 4], value: b"World", ..Reply::ok(opcode::GET, 1) };
        let (mut whole, mut head) = (Vec::new(), Vec::new());
        reply.write(&mut whole);
        Reply { value: b"", ..reply }.write_head(5, &mut head);
        head.extend_from_slice(b"World");
        assert_eq!(whole, head);
    }
}
