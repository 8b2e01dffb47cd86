//! The ring against a naive oracle, and its promises about balance and movement, exactly from the arcs.

use proptest::prelude::*;

use super::*;

fn nodes(names: &[(String, u32)]) -> Vec<Member> {
    names.iter().map(|(host, weight)| Member { label: format!("{host}:11211"), weight: *weight }).collect()
}

/// The owner by the definition: the first point at or above the hash, else the first point of all.
fn oracle(points: &[(u32, NodeIndex)], hash: u64) -> NodeIndex {
    let wanted = (hash >> 32) as u32;
    points.iter().find(|(point, _)| *point >= wanted).unwrap_or(&points[0]).1
}

fn hashes(seed: u64) -> impl Iterator<Item = u64> {
    (0_u64..).map(move |i| XxHash3_64::oneshot_with_seed(seed, &i.to_le_bytes()))
}

/// Distinct names as they are met in practice: neighbouring addresses, scattered addresses, a StatefulSet's pods.
fn random_names(seed: u64, count: usize) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    let mut random = hashes(seed);
    let base = random.next().unwrap();
    while names.len() < count {
        let i = names.len() as u64;
        let [a, b, c, ..] = random.next().unwrap().to_le_bytes();
        let [x, y, ..] = base.to_le_bytes();
        let name = match seed % 3 {
            0 => format!("10.{x}.{y}.{}:11211", 2 + i),
            1 => format!("10.{a}.{b}.{c}:11211"),
            _ => format!("memcached-{i}.cache-{x}.team-{y}.svc.cluster.local:11211"),
        };
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// Share of each of the first `n` nodes, from the sorted points of all.
fn shares(points: &[(u32, usize)], n: usize) -> Vec<f64> {
    let mut arcs = vec![0_u64; n];
    let of_these = || points.iter().filter(|(_, node)| *node < n);
    let mut previous = u64::from(of_these().next_back().unwrap().0);
    for &(point, node) in of_these() {
        arcs[node] += (CIRCLE + u64::from(point) - previous) % CIRCLE;
        previous = u64::from(point);
    }
    assert_eq!(arcs.iter().sum::<u64>(), CIRCLE);
    arcs.into_iter().map(|arc| arc as f64 / CIRCLE as f64).collect()
}

/// One set of 21 names; its first n are the set for n, the name after them is the node that is added.
#[test]
fn three_to_twenty_nodes_are_balanced_and_a_new_one_takes_little_more_than_its_share() {
    let (mut hottest, mut moved) = (0.0_f64, 0.0_f64);
    for seed in 0..200 {
        let names = random_names(seed, 21);
        let mut points = Vec::new();
        for (node, name) in names.iter().enumerate() {
            for_each_point(name, POINTS_PER_WEIGHT, |point| points.push((point, node)));
        }
        points.sort_unstable();
        for n in 3..=20 {
            let max = shares(&points, n).into_iter().fold(0.0, f64::max) * n as f64;
            assert!(max <= 1.10, "seed {seed}, {n} nodes: the hottest has {max:.4} times the mean");
            // That only the new node's keys move is shown below; so its share is what moves.
            let new = shares(&points, n + 1)[n] * (n + 1) as f64;
            assert!(new <= 1.15, "seed {seed}, {n} nodes: one more moves {new:.4} times 1/(n+1)");
            (hottest, moved) = (hottest.max(max), moved.max(new));
        }
    }
    println!("hottest {hottest:.4} × mean, most moved {moved:.4} / (n + 1)");
}

/// The points above are those of the ring itself: its own shares say the same.
#[test]
fn a_ring_has_the_shares_of_its_points() {
    for seed in 0..6 {
        for n in [3, 7, 20] {
            let names = random_names(seed, n);
            let mut points = Vec::new();
            for (node, name) in names.iter().enumerate() {
                for_each_point(name, POINTS_PER_WEIGHT, |point| points.push((point, node)));
            }
            points.sort_unstable();
            let of = |name: &String| Member { label: name.clone(), weight: 1 };
            let ring = Ring::new(&names.iter().map(of).collect::<Vec<_>>());
            for (node, share) in shares(&points, n).into_iter().enumerate() {
                // They differ by the tie-break of a shared point at most: arcs of a few 2^-32.
                assert!((ring.share(NodeIndex(u16::try_from(node).unwrap())) - share).abs() < 1e-4);
            }
        }
    }
}

#[test]
fn memory_stays_small() {
    let bytes = |n: usize| Ring::new(&nodes(&(0..n).map(|i| (format!("n{i}"), 1)).collect::<Vec<_>>())).heap_bytes();
    println!("3 nodes: {} bytes, 20 nodes: {} bytes", bytes(3), bytes(20));
    assert!(bytes(3) <= 96 << 10);
    assert!(bytes(20) <= 512 << 10);
    let heavy: Vec<_> = (0..40).map(|i| (format!("n{i}"), MAX_WEIGHT)).collect();
    assert!(Ring::new(&nodes(&heavy)).heap_bytes() <= 4 << 20);
}

#[test]
fn points_per_weight_never_exceed_the_limit_nor_reach_nought() {
    assert_eq!(points_per_weight(1), 4096);
    assert_eq!(points_per_weight(128), 4096);
    assert_eq!(points_per_weight(129), 2048);
    assert_eq!(points_per_weight(MAX_NODES as u64 * u64::from(MAX_WEIGHT)), 1);
}

#[test]
fn weights_out_of_range_are_drawn_to_the_nearest() {
    let ring = Ring::new(&nodes(&[("a".to_owned(), 0), ("b".to_owned(), 1)]));
    assert!((0.45..0.55).contains(&ring.share(NodeIndex(0))));
    let ring = Ring::new(&nodes(&[("a".to_owned(), u32::MAX), ("b".to_owned(), 1)]));
    assert!((0.99..1.0).contains(&ring.share(NodeIndex(0))));
}

#[test]
fn a_node_alone_owns_everything() {
    let ring = Ring::new(&nodes(&[("a".to_owned(), 1)]));
    assert!((ring.share(NodeIndex(0)) - 1.0).abs() < f64::EPSILON);
    assert_eq!(ring.locate(0), NodeIndex(0));
    assert_eq!(ring.locate(u64::MAX), NodeIndex(0));
}

/// Placement is a promise between sidecars of different versions: a change here loses every user's cache.
#[test]
fn placement_is_pinned() {
    let ring = Ring::new(&nodes(&["10.0.0.2", "10.0.0.3", "10.0.0.4"].map(|host| (host.to_owned(), 1))));
    let owners: Vec<u16> = (0..24).map(|i| ring.locate(XxHash3_64::oneshot(format!("key:{i}").as_bytes())).0).collect();
    assert_eq!(owners, [0, 2, 0, 2, 1, 0, 1, 1, 0, 2, 2, 0, 1, 1, 1, 2, 0, 2, 1, 1, 0, 1, 2, 2]);
}

/// The hashes that matter: random ones, and those at and beside every boundary.
fn interesting_hashes(points: &[(u32, NodeIndex)], seed: u64) -> Vec<u64> {
    let edges = points.iter().step_by(97).flat_map(|(point, _)| {
        let hash = u64::from(*point) << 32;
        [hash, hash.wrapping_sub(1), hash.wrapping_add(1 << 32), hash | 0xffff_ffff]
    });
    edges.chain(hashes(seed).take(200)).chain([0, u64::MAX]).collect()
}

fn members() -> impl Strategy<Value = Vec<(String, u32)>> {
    proptest::collection::btree_map("[a-z]{1,8}(-[0-9])?", 1_u32..=4, 1..=8).prop_map(|map| map.into_iter().collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn lookup_agrees_with_the_naive_oracle(members in members(), seed: u64) {
        let nodes = nodes(&members);
        let (ring, points) = (Ring::new(&nodes), sorted_points(&nodes));
        for hash in interesting_hashes(&points, seed) {
            prop_assert_eq!(ring.locate(hash), oracle(&points, hash), "hash {:#x}", hash);
        }
    }

    #[test]
    fn removing_a_node_moves_only_its_keys(members in members(), gone: prop::sample::Index, seed: u64) {
        prop_assume!(members.len() > 1);
        let before = nodes(&members);
        let gone = gone.index(members.len());
        let mut after = before.clone();
        after.remove(gone);
        let (old, new) = (Ring::new(&before), Ring::new(&after));
        for hash in interesting_hashes(&sorted_points(&before), seed) {
            let owner = usize::from(old.locate(hash).0);
            if owner != gone {
                prop_assert_eq!(&before[owner], &after[usize::from(new.locate(hash).0)]);
            }
        }
    }

    #[test]
    fn the_order_of_the_nodes_decides_nothing(members in members(), turn: usize, seed: u64) {
        let one = nodes(&members);
        let mut other = one.clone();
        other.rotate_left(turn % one.len());
        other.reverse();
        let (a, b) = (Ring::new(&one), Ring::new(&other));
        for hash in interesting_hashes(&sorted_points(&one), seed) {
            prop_assert_eq!(&one[usize::from(a.locate(hash).0)], &other[usize::from(b.locate(hash).0)]);
        }
    }

    #[test]
    fn shares_follow_the_weights_and_add_up(members in members()) {
        let nodes = nodes(&members);
        let ring = Ring::new(&nodes);
        let total: u32 = members.iter().map(|(_, weight)| weight).sum();
        let mut sum = 0.0;
        for (index, (_, weight)) in members.iter().enumerate() {
            let share = ring.share(NodeIndex(u16::try_from(index).unwrap()));
            let fair = f64::from(*weight) / f64::from(total);
            prop_assert!((share / fair - 1.0).abs() < 0.12, "{share} instead of {fair}");
            sum += share;
        }
        prop_assert!((sum - 1.0).abs() < 1e-9);
    }
}

/// Two nodes that really share a point are too rare to meet; the tie-break is shown on the sorting itself.
#[test]
fn a_shared_point_belongs_to_the_name_that_sorts_first() {
    // The same name twice shares every point: one owner for all, whichever is listed first.
    let twice = nodes(&[("a".to_owned(), 1), ("a".to_owned(), 1), ("b".to_owned(), 1)]);
    let points = sorted_points(&twice);
    assert!(points.windows(2).all(|pair| pair[0].0 < pair[1].0), "no point stands twice");
    assert!(points.iter().all(|(_, node)| node.0 != 1));
}
