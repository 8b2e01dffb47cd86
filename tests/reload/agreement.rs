//! Pods that were told the same nodes agree, in whichever order they were told.
use crate::support::{Memcached, Random, Slipring, run_to_end};
use crate::{Ring, list, until_nodes};
use slipring::routing::{Node, Topology};
use std::sync::Arc;

/// Each key's node, as `slipring locate` says; and its first line.
fn locate(nodes: &str, keys: &[String]) -> (String, Vec<String>) {
    let mut arguments = vec!["locate", "--nodes", nodes];
    arguments.extend(keys.iter().map(String::as_str));
    let output = run_to_end(&arguments, &[]);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let mut lines = text.lines().map(str::to_owned);
    (lines.next().unwrap(), lines.collect())
}

#[test]
fn two_sidecars_with_the_same_nodes_in_other_orders_agree() {
    let nodes = [(); 4].map(|()| Memcached::start());
    let [a, b, c, d] = &nodes;
    let orders = [list([a, b, c, d]), list([d, b, a, c])];
    let keys: Vec<String> = (0..1_000).map(|number| format!("key:{number}")).collect();
    let sidecars = orders.each_ref().map(|order| Slipring::command(&["serve", "--nodes", order], &[]));
    let fingerprints = sidecars.each_ref().map(|sidecar| until_nodes(sidecar, &[a, b, c, d]).text("fingerprint"));
    assert_eq!(fingerprints[0], fingerprints[1]);
    let [first, second] = orders.each_ref().map(|order| locate(order, &keys));
    assert_eq!(first, second);
    assert!(first.0.contains(&fingerprints[0]), "{}", first.0);
    assert_eq!(first.1.len(), keys.len());
    // And it is true: what one wrote lies there, and the other finds it.
    let (mut writer, mut reader) = (sidecars[0].client(), sidecars[1].client());
    for (key, line) in keys.iter().zip(&first.1).take(100) {
        writer.set(key, key);
        assert_eq!(reader.get(&[key])[0].data, key.as_bytes());
        let owner = line.strip_prefix(&format!("{key}  ")).unwrap();
        for node in &nodes {
            let there = node.client().get(&[key]).len();
            assert_eq!(there, usize::from(node.address().to_string() == owner), "{key} on {}", node.address());
        }
    }
    let ring = Ring::of(&sidecars[0]);
    let stats = sidecars[0].client().stats("stats ring");
    assert_eq!(stats["ring_fingerprint"], ring.text("fingerprint"));
    assert_eq!(stats["ring_version"], ring.version().to_string());
    assert_eq!(stats["ring_nodes"], "4");
    let shares: f64 =
        nodes.iter().map(|node| stats[&format!("{}.share", node.address())].parse::<f64>().unwrap()).sum();
    assert!((shares - 1.0).abs() < 0.001, "{stats:?}");
}

#[test]
fn a_hundred_thousand_keys_lie_alike_whatever_the_order() {
    let mut random = Random::new(7);
    let mut nodes: Vec<Arc<Node>> =
        (1..=12).map(|at| Arc::new(Node::new(&format!("10.0.0.{at}"), 11211, 1 + at % 3))).collect();
    let first = Topology::new(1, nodes.clone()).unwrap();
    for _ in 0..3 {
        for last in (1..nodes.len()).rev() {
            nodes.swap(last, random.below(last + 1));
        }
        let other = Topology::new(2, nodes.clone()).unwrap();
        assert_eq!(first.name(), other.name());
        let owner = |topology: &Topology, key: &str| {
            Arc::clone(&topology.nodes()[usize::from(topology.route(key.as_bytes()).0)].name)
        };
        for number in 0..100_000 {
            let key = format!("session:{number:x}");
            assert_eq!(owner(&first, &key), owner(&other, &key), "{key}");
        }
    }
    nodes.pop();
    assert_ne!(first.name(), Topology::new(3, nodes).unwrap().name());
}
