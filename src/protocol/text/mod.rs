//! memcached's classic text protocol (`doc/protocol.txt`, `proto_text.c` of 1.6.18).

pub mod reply;
pub mod request;
