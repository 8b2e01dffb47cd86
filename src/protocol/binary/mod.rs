//! The binary protocol of clients: read, said in text to a node, and the node's text answer said in binary.
//!
//! [`request`] reads packets, [`reply`] writes them, [`translate`] has the text in between. memcached calls this protocol
//! deprecated and still speaks it in all versions; nodes are spoken to in text, so that a node's connections are one set
//! whatever its clients speak. Only nodes before 1.6.10, which have no meta commands, are asked in packets what classic
//! commands cannot say: [`meta`]. The reference is `proto_bin.c` of memcached 1.6.18, and tests/binary_translation.rs asks
//! it the same in both dialects.

mod answer;
pub mod meta;
pub mod opcode;
pub mod reply;
pub mod request;
pub mod translate;

/// Bytes of every packet's header, requests and replies alike.
pub const HEADER_BYTES: usize = 24;

/// First byte of a request.
pub const REQUEST_MAGIC: u8 = 0x80;

/// First byte of a reply.
pub const REPLY_MAGIC: u8 = 0x81;
