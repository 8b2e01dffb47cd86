//! slipring: a memcached sidecar proxy. The modules, in the order a request meets them.

pub mod discovery;
pub mod protocol;
pub mod routing;
