//! The order of the nodes, for placements that count them, and the names that the user gives them.

use crate::routing::Node;

/// Puts the nodes that are pinned in front, in the pinned order and under the names given there; the others follow in
/// the order in which they come.
#[must_use]
pub fn arranged(nodes: Vec<Node>, pinned: &[Node]) -> Vec<Node> {
    let mut nodes: Vec<Node> = nodes
        .into_iter()
        .map(|node| match pinned.iter().find(|pin| pin.named && is(&node, pin)) {
            Some(pin) if !node.named => node.named(&pin.name),
            _ => node,
        })
        .collect();
    // The sort is stable.
    nodes.sort_by_key(|node| rank(node, pinned));
    nodes
}

/// A node's place in the pinned order; behind it when it is not there.
pub(super) fn rank(node: &Node, pinned: &[Node]) -> usize {
    pinned.iter().position(|pin| is(node, pin)).unwrap_or(pinned.len())
}

/// A node whose place is pinned and which is not among these.
#[must_use]
pub fn unlisted<'pin>(nodes: &[Node], pinned: &'pin [Node]) -> Option<&'pin Node> {
    pinned.iter().find(|pin| !nodes.iter().any(|node| is(node, pin)))
}

fn is(node: &Node, pin: &Node) -> bool {
    node.name == pin.name || (node.identity(), node.port) == (pin.identity(), pin.port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::parse_nodes;

    #[test]
    fn pinned_nodes_come_first_under_their_names() {
        let pinned = parse_nodes("c,a/first,x", 1).unwrap();
        let listed = parse_nodes("a,b,c,d", 1).unwrap();
        let names = |nodes: &[Node]| nodes.iter().map(|node| node.name.to_string()).collect::<Vec<_>>();
        let arranged_once = arranged(listed, &pinned);
        assert_eq!(names(&arranged_once), ["c:1", "first", "b:1", "d:1"]);
        // Also when its address is another than its name's, and once more.
        let moved = arranged_once.into_iter().map(|node| node.dialled_at("10.0.0.9")).collect();
        assert_eq!(names(&arranged(moved, &pinned)), ["c:1", "first", "b:1", "d:1"]);
    }
}
