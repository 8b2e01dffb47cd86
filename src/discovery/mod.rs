//! Who are the nodes?

pub mod damping;
mod nodes;

pub use nodes::{NodeListError, parse_nodes, parse_server};
