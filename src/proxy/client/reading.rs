//! What a client is sending: the command whose bytes come, and what is known of it already.

use super::key_list::KeyList;
use crate::protocol::command::Command;
use crate::protocol::form::Form;
use crate::proxy::buffer::OutBuf;
use crate::proxy::ids::UpstreamId;

/// What the next bytes of a client are.
#[derive(Debug)]
pub(in crate::proxy) enum Reading {
    /// The first byte of the connection, which tells what the client speaks.
    Opening,
    /// A command line.
    Line,
    /// A long line of keys, of which some have been asked for.
    Keys(Box<KeyList>),
    /// The data block of a stored value.
    Body(Box<Body>),
    /// The block of a refused line: bytes to drop.
    Swallow(u64),
    /// The data block of a large value, not begun: waits for a lane of its own.
    AwaitLane(Box<Large>),
    /// The data block of a large value on its way through a lane of its own.
    Stream {
        lane: UpstreamId,
        /// Bytes to come.
        left: u64,
        /// The slot of its answer.
        seq: Option<u32>,
        /// The client closes it with CRLF.
        is_closed: bool,
    },
}

/// Where a storage request goes, and who is told.
#[derive(Clone, Copy, Debug)]
pub(in crate::proxy) struct Target {
    pub(in crate::proxy) hash: u64,
    /// `noreply`: nobody is told anything.
    pub(in crate::proxy) quiet: bool,
    pub(in crate::proxy) command: Command,
    pub(in crate::proxy) form: Form,
    /// The node is asked by a meta command.
    pub(in crate::proxy) meta: bool,
}

impl Target {
    /// Of a classic command.
    pub(in crate::proxy) const fn text(hash: u64, command: Command, quiet: bool) -> Self {
        Self { hash, quiet, command, form: Form::Text, meta: false }
    }

    /// Of a meta command.
    pub(in crate::proxy) const fn meta(hash: u64, command: Command, quiet: bool) -> Self {
        Self { hash, quiet: false, command, form: Form::Meta { quiet, reads: false }, meta: true }
    }
}

/// A value that a client is about to send.
#[derive(Clone, Copy, Debug)]
pub(in crate::proxy) struct Arriving<'a> {
    /// The line as it is sent to the node.
    pub(in crate::proxy) header: &'a [u8],
    /// What its place is found by.
    pub(in crate::proxy) key: &'a [u8],
    /// The block's length in bytes, its closing CRLF not counted.
    pub(in crate::proxy) len: usize,
    /// It takes the place of what was there.
    pub(in crate::proxy) replaces: bool,
    pub(in crate::proxy) target: Target,
    /// As in [`Replies::set_tail`].
    pub(in crate::proxy) tail: &'a [u8],
    /// The client closes it with CRLF.
    pub(in crate::proxy) is_closed: bool,
}

impl Arriving<'_> {
    /// Bytes that come for it.
    pub(in crate::proxy) const fn total(&self) -> usize {
        if self.is_closed { self.len + 2 } else { self.len }
    }
}

/// A value that is forwarded once it has arrived.
#[derive(Debug)]
pub(in crate::proxy) struct Body {
    /// The line as it is sent to the node.
    pub(in crate::proxy) header: Vec<u8>,
    pub(in crate::proxy) target: Target,
    /// As in [`Replies::set_tail`].
    pub(in crate::proxy) tail: Box<[u8]>,
    /// The block so far.
    pub(in crate::proxy) block: OutBuf,
    /// Its last two bytes.
    pub(in crate::proxy) end: [u8; 2],
    /// Bytes that come for it.
    pub(in crate::proxy) total: usize,
    /// The client closes it with CRLF.
    pub(in crate::proxy) is_closed: bool,
}

impl Body {
    /// Bytes to come.
    pub(in crate::proxy) const fn left(&self) -> usize {
        self.total - self.block.len()
    }
}

/// A value that is too large to be stored here.
#[derive(Debug)]
pub(in crate::proxy) struct Large {
    pub(in crate::proxy) header: Vec<u8>,
    pub(in crate::proxy) target: Target,
    /// As in [`Replies::set_tail`].
    pub(in crate::proxy) tail: Box<[u8]>,
    /// Bytes that come for it.
    pub(in crate::proxy) total: u64,
    /// The client closes it with CRLF.
    pub(in crate::proxy) is_closed: bool,
}
