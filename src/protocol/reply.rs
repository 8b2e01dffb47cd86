//! The one model of replies: what a node's line says, whatever dialect it is in.

/// What the answer to a request that every node is asked ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// `OK`
    Ok,
    /// `RESET`
    Reset,
    /// `STAT` lines and `END`
    Lines,
}

/// One line of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the answers of doc/protocol.txt by their own names")]
pub enum Line<'a> {
    /// `VALUE <key> <flags> <bytes> [<unique>]`; the block of `len` bytes and CRLF follows.
    Value {
        key: &'a [u8],
        len: u64,
    },
    End,
    Stored,
    NotStored,
    Exists,
    NotFound,
    Deleted,
    Touched,
    Ok,
    Reset,
    /// The bare decimal of `incr` and `decr`.
    Number,
    /// `VERSION <text>`
    Version(&'a [u8]),
    /// `STAT <name> <value>`
    Stat {
        name: &'a [u8],
        value: &'a [u8],
    },
    /// `HD[ <flag>…]`: a meta request is done.
    Hd,
    /// `VA <bytes>[ <flag>…]`; the block of `len` bytes and CRLF follows.
    Va {
        len: u64,
    },
    /// `NS[ <flag>…]`: not stored.
    Ns,
    /// `EX[ <flag>…]`: the unique is another one.
    Ex,
    /// `NF[ <flag>…]`: nothing to change.
    Nf,
    /// `EN[ <flag>…]`: nothing to read.
    En,
    /// `ME <key> <name>=<value>…`
    Me,
    /// `MN`
    Mn,
    /// `ERROR…`, `CLIENT_ERROR…`, `SERVER_ERROR…`: ends every request.
    Error,
}
