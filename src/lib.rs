//! slipring: a memcached sidecar proxy.
pub mod embedded;
pub mod protocol;
pub mod proxy;
