//! memcached's meta protocol: the two-letter commands of the text protocol (`doc/protocol.txt`, `proto_text.c` of 1.6.18).
//!
//! Lines, blocks and errors are those of [`text`](super::text); the replies are read with its replies, since a node answers
//! both on one connection.

pub mod classic;
pub mod reply;
pub mod request;
