//! Placements against what real clients did with the same keys and nodes (`tests/vectors`), and what holds for all.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking, also in its helpers"
)]

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::Deserialize;
use slipring::routing::{Node, NodeIndex, PRESETS, Placement, Topology};

#[derive(Deserialize)]
struct Vectors {
    nodes: Vec<String>,
    keys: Vec<String>,
    vectors: Vec<Vector>,
}

#[derive(Deserialize)]
struct Vector {
    name: String,
    placement: String,
    #[serde(default)]
    names: Vec<String>,
    owners: String,
}

fn vectors() -> Vectors {
    serde_json::from_str(include_str!("vectors/placements.json")).unwrap()
}

fn placement(text: &str) -> Arc<Placement> {
    Arc::new(text.parse().unwrap_or_else(|error| panic!("{text}: {error}")))
}

fn topology(text: &str, nodes: Vec<Node>) -> Topology {
    Topology::placed(1, nodes.into_iter().map(Arc::new).collect(), &placement(text)).unwrap()
}

fn nodes(count: usize) -> Vec<Node> {
    (0..count).map(|i| Node::new(&format!("10.0.0.{}", 2 + i), 11211, 1)).collect()
}

#[test]
fn every_key_is_where_the_real_client_put_it() {
    let Vectors { nodes: addresses, keys, vectors } = vectors();
    assert_eq!(vectors.len(), 74);
    let mut wrong = Vec::new();
    for vector in &vectors {
        let mut nodes = nodes(addresses.len());
        assert_eq!(nodes.iter().map(|node| &*node.name).collect::<Vec<_>>(), addresses);
        if !vector.names.is_empty() {
            nodes = nodes.into_iter().zip(&vector.names).map(|(node, name)| node.named(name)).collect();
        }
        let topology = topology(&vector.placement, nodes);
        assert_eq!(vector.owners.len(), keys.len());
        let compared = keys.iter().zip(vector.owners.chars()).filter(|(_, owner)| *owner != '-');
        let differ: Vec<_> = compared
            .filter(|(key, owner)| u32::from(topology.route(key.as_bytes()).0) != owner.to_digit(10).unwrap())
            .map(|(key, _)| key)
            .collect();
        if !differ.is_empty() {
            wrong.push(format!("{} as {}: {} keys, {:?} …", vector.name, vector.placement, differ.len(), differ[0]));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Every preset, and every hash and mode that was recorded, has a vector.
#[test]
fn every_preset_of_others_has_a_vector() {
    let seen: BTreeSet<String> =
        vectors().vectors.iter().map(|vector| placement(&vector.placement).preset().to_owned()).collect();
    let ours = ["ring", "modula", "jump", "rendezvous"];
    let missing: Vec<_> =
        PRESETS.iter().filter(|preset| !seen.contains(preset.name)).map(|preset| preset.name).collect();
    assert_eq!(missing, ours);
}

/// A consistent placement's promise: a node that leaves moves only its own keys, one that joins takes only what it gets.
#[test]
fn removing_a_node_moves_only_its_keys() {
    let keys: Vec<String> = (0..3000).map(|i| format!("user:{i}")).collect();
    for placement in Placement::all() {
        let text = placement.to_string();
        // (Not with 7 nodes: hashring then has fewer points of each.)
        if placement.counts_order() {
            continue;
        }
        for gone in [0, 3, 5] {
            let before = topology(&text, nodes(6));
            let mut rest = nodes(6);
            rest.remove(gone);
            let after = topology(&text, rest);
            for key in &keys {
                let (old, new) = (before.owner(key.as_bytes()).unwrap(), after.owner(key.as_bytes()).unwrap());
                assert!(old == new || usize::from(before.route(key.as_bytes()).0) == gone, "{text}: {key}");
            }
        }
    }
}

/// The placements that count nodes keep theirs when a node is appended, as far as they promise it.
#[test]
fn an_appended_node_takes_only_what_it_gets() {
    for text in ["jump", "memcached-proxy", "mcrouter"] {
        for count in 1..20 {
            let (before, after) = (topology(text, nodes(count)), topology(text, nodes(count + 1)));
            for i in 0..500 {
                let key = format!("user:{i}");
                let (old, new) = (before.route(key.as_bytes()), after.route(key.as_bytes()));
                assert!(old == new || usize::from(new.0) == count, "{text}: {key} of {count}");
            }
        }
    }
}

#[test]
fn one_node_has_every_key_and_shares_add_up() {
    for placement in Placement::all() {
        let text = placement.to_string();
        let one = topology(&text, nodes(1));
        assert!((one.share(NodeIndex(0)) - 1.0).abs() < 1e-9, "{text}");
        for count in [1, 2, 3, 20] {
            let topology = topology(&text, nodes(count));
            let sum: f64 = (0..count).map(|i| topology.share(NodeIndex(u16::try_from(i).unwrap()))).sum();
            assert!((sum - 1.0).abs() < 1e-6, "{text}: {sum}");
            for key in ["", "k", "a long key that some hashes take in blocks of sixteen", "ключ", "\u{1f511}"] {
                assert!(usize::from(topology.route(key.as_bytes()).0) < count, "{text}: {key:?}");
            }
            assert!(usize::from(topology.route(&[0xff; 250]).0) < count, "{text}");
        }
    }
}

/// What a node owns by its share is what it gets of very many keys; so the shown shares are true.
#[test]
fn shares_are_what_keys_do() {
    for text in [
        "pymemcache",
        "libmemcached",
        "libmemcached-ketama-weighted",
        "php-memcache",
        "dalli",
        "gomemcache",
        "memcached-proxy",
        "memcached-proxy,mode=ring",
        "mcrouter",
        "mcrouter,hash=rendezvous",
        "emcache",
        "bmemcached",
        "rust-memcache",
        "rendezvous",
        "jump",
        "python-memcached",
        "twemproxy,hash=crc32",
    ] {
        let topology = topology(text, nodes(5));
        let mut counts = [0_u32; 5];
        for i in 0..40_000 {
            counts[usize::from(topology.route(format!("item:{i}:description").as_bytes()).0)] += 1;
        }
        for (count, index) in counts.iter().zip(0..) {
            let (share, real) = (topology.share(NodeIndex(index)), f64::from(*count) / 40_000.0);
            assert!((share - real).abs() < 0.02, "{text}: node {index} has {real}, its share is {share}");
        }
    }
}

#[test]
fn equal_fingerprints_place_alike_and_others_do_not() {
    let of = |text: &str, nodes: Vec<Node>| topology(text, nodes).fingerprint();
    let reversed = || nodes(3).into_iter().rev().collect::<Vec<_>>();
    assert_eq!(of("pymemcache", nodes(3)), of("pymemcache", reversed()));
    assert_ne!(of("gomemcache", nodes(3)), of("gomemcache", reversed()), "its order counts");
    assert_eq!(of("twemproxy,hash=md5", nodes(3)), of("libmemcached-ketama-weighted", nodes(3)));
    assert_ne!(of("pymemcache", nodes(3)), of("dalli", nodes(3)));
    assert_ne!(of("pymemcache", nodes(3)), of("pymemcache,strip-prefix=a", nodes(3)));
    // B and C differ by a port that only one of them hashes.
    assert_ne!(of("node-memcached", nodes(3)), of("spymemcached-ketama", nodes(3)));
    let elsewhere = || nodes(3).into_iter().map(|node| Node::new(&node.host, 11311, 1)).collect::<Vec<_>>();
    assert_eq!(of("node-memcached", elsewhere()), of("spymemcached-ketama", elsewhere()));
    // Shown to users and compared between versions: a change here raises every alert.
    assert_eq!(
        topology("ring", nodes(3)).name(),
        Topology::new(1, nodes(3).into_iter().map(Arc::new).collect()).unwrap().name()
    );
    let pinned: Vec<String> =
        ["ring", "pymemcache", "libmemcached", "dalli"].map(|text| topology(text, nodes(3)).name()).into();
    assert_eq!(pinned, ["65f82e8b", "0bd86c88", "e1537262", "06d4c74c"]);
}

#[test]
fn weights_are_for_placements_that_have_them() {
    let weighted = || vec![Arc::new(Node::new("a", 1, 1)), Arc::new(Node::new("b", 1, 3))];
    for placement in Placement::all() {
        let built = Topology::placed(1, weighted(), &Arc::new(placement.clone()));
        if !placement.has_weights() {
            assert_eq!(
                built.unwrap_err().to_string(),
                format!("placement {} has no weights, but b:1 has one", placement.preset())
            );
            continue;
        }
        let share = built.unwrap().share(NodeIndex(1));
        assert!((share - 0.75).abs() < 0.12 || placement.to_string().contains("crc32"), "{placement}: {share}");
    }
}

#[test]
fn nodes_that_a_placement_cannot_tell_apart_are_refused() {
    let nodes = || vec![Arc::new(Node::new("a", 1, 1)), Arc::new(Node::new("a", 2, 1))];
    let placement = |text: &str| text.parse::<Placement>().unwrap().with_names(Some("{host}".parse().unwrap()));
    let error = Topology::placed(1, nodes(), &Arc::new(placement("pymemcache"))).unwrap_err();
    assert_eq!(error.to_string(), "two nodes are both \"a\" to the placement: see --node-name-format");
    assert!(Topology::placed(1, nodes(), &Arc::new(placement("gomemcache"))).is_ok(), "it hashes no names");
}
