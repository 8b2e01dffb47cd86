//! slipring: a memcached sidecar proxy.
pub mod admin;
pub mod embedded;
pub mod protocol;
pub mod proxy;
