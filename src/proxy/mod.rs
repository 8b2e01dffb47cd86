//! The core: bytes and a time go in, bytes come out.

pub mod stats;
