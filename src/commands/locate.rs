//! `slipring locate KEY…`: which node owns each key.

use std::fmt::Write as _;

use crate::routing::Topology;

/// One line per key, under a line that names the ring.
#[must_use]
pub fn table(topology: &Topology, keys: &[String]) -> String {
    let mut text = format!("ring {} with {} nodes\n", topology.name(), topology.nodes().len());
    for key in keys {
        let node = topology.owner(key.as_bytes()).map_or("-", |node| &*node.name);
        let _ = writeln!(text, "{key}  {node}");
    }
    text
}
