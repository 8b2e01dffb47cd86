//! Which protocol a connection speaks, as its first byte tells.

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
            0x16 => Self::Tls,
            _ => Self::Text,
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
