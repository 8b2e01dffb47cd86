//! slipring: a memcached sidecar proxy. The modules, in the order a request meets them.

pub mod config;
pub mod server;
pub mod shutdown;

pub mod descriptors;
pub mod listener;
pub mod worker;

pub mod itself;
pub mod secured;

pub mod protocol;
pub mod proxy;
pub mod routing;

pub mod discovery;
pub mod embedded;

pub mod commands;

pub mod admin;
pub mod files;
pub mod key_name;
pub mod log;
pub mod metrics;
pub mod phrase;
pub mod resolve;
pub mod time;
