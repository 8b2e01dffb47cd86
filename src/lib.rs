//! slipring: a memcached sidecar proxy.
pub mod protocol;
