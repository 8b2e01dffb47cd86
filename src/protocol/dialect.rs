//! Which protocol a connection speaks, as its first bytes tell.

/// Types of the first record of a TLS connection (RFC 8446, 5.1): of who refuses, and of who begins.
const TLS_ALERT: u8 = 0x15;
const TLS_HANDSHAKE: u8 = 0x16;
/// What memcached with `-Y` answers to anything but a login (`process_command_ascii` in `proto_text.c`).
const UNAUTHENTICATED: &[u8] = b"CLIENT_ERROR unauthenticated";
/// What memcached says before it closes a connection for which `-c` leaves no room (`drive_machine` in `memcached.c`).
const FULL: &[u8] = b"ERROR Too many open connections";

/// What a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// memcached's text protocol: anything that does not begin as one of the others.
    Text,
    /// memcached's binary protocol: the first byte is the magic of a request (`protocol_binary.h`).
    Binary,
    /// TLS: the first byte is the type of a handshake record (RFC 8446, 5.1).
    Tls,
}

impl Dialect {
    /// By the first byte of a connection. Neither of the two others can begin a line that a text client means.
    #[must_use]
    pub const fn of(first: u8) -> Self {
        match first {
            0x80 => Self::Binary,
            TLS_HANDSHAKE => Self::Tls,
            _ => Self::Text,
        }
    }
}

/// What a server speaks that did not answer as a memcached without TLS and authentication does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stranger<'a> {
    /// TLS.
    Tls,
    /// It wants a login first.
    Unauthenticated,
    /// It has no room for one more connection.
    Full,
    /// Anything else: its first line, or the beginning of that.
    Says(&'a [u8]),
}

impl<'a> Stranger<'a> {
    /// By the first bytes of its answer.
    #[must_use]
    pub fn of(answer: &'a [u8]) -> Self {
        if let Some(&(TLS_ALERT | TLS_HANDSHAKE)) = answer.first() {
            return Self::Tls;
        }
        let line = answer.split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or_default();
        match line {
            UNAUTHENTICATED => Self::Unauthenticated,
            FULL => Self::Full,
            _ => Self::Says(line),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_byte_tells() {
        let others: Vec<u8> = (0..=u8::MAX).filter(|first| Dialect::of(*first) != Dialect::Text).collect();
        assert_eq!(others, [0x16, 0x80]);
        assert_eq!((Dialect::of(0x16), Dialect::of(0x80)), (Dialect::Tls, Dialect::Binary));
    }
}
