use proptest::prelude::*;

use super::*;

const HOLD: Duration = Duration::from_secs(30);

/// A ring, a clock, and lists given as words.
struct Bench {
    damping: Damping,
    start: Instant,
}

impl Bench {
    fn new() -> Self {
        Self { damping: Damping::new(HOLD), start: Instant::now() }
    }

    fn at(&self, seconds: u64) -> Instant {
        self.start + Duration::from_secs(seconds)
    }

    fn observe(&mut self, seconds: u64, list: &str, authority: Authority) -> String {
        let now = self.at(seconds);
        self.damping.observe(&nodes(list), authority, now);
        self.ring()
    }

    fn probed(&mut self, seconds: u64, node: &str, answers: bool) -> String {
        let now = self.at(seconds);
        self.damping.probed(&format!("{node}:1"), answers, now);
        self.ring()
    }

    fn tick(&mut self, seconds: u64) -> String {
        let now = self.at(seconds);
        self.damping.tick(now);
        self.ring()
    }

    fn ring(&self) -> String {
        self.damping.ring().iter().map(|node| node.name.trim_end_matches(":1")).collect::<Vec<_>>().join(" ")
    }

    fn pending(&self, seconds: u64) -> Vec<String> {
        let now = self.at(seconds);
        self.damping.pending(now).iter().map(|pending| pending.text(now)).collect()
    }
}

fn nodes(list: &str) -> Vec<Node> {
    list.split_whitespace().map(|name| Node::new(name, 1, 1)).collect()
}

#[test]
fn an_operator_is_believed_at_once() {
    let mut bench = Bench::new();
    assert_eq!(bench.observe(0, "a b c d", Authority::Operator), "a b c d");
    assert_eq!(bench.observe(1, "e", Authority::Operator), "e");
    assert_eq!(bench.pending(1), [""; 0]);
    assert_eq!(bench.observe(2, "", Authority::Operator), "e", "nothing is no list");
}

#[test]
fn a_node_absent_from_a_higher_version_goes_when_its_probe_fails() {
    let mut bench = Bench::new();
    bench.observe(0, "a b c", Authority::Version);
    assert_eq!(bench.observe(10, "a", Authority::Version), "a b c");
    assert_eq!(
        bench.pending(10),
        [
            "b:1 missing for 0 s, not yet probed, dropped in 30 s",
            "c:1 missing for 0 s, not yet probed, kept, because the ring would fall below half of its size"
        ]
    );
    assert_eq!(bench.probed(11, "c", false), "a b", "a real scale-in works at once");
    assert_eq!(bench.probed(11, "b", false), "a", "even below half");
}

#[test]
fn a_node_absent_from_a_higher_version_that_answers_is_held() {
    let mut bench = Bench::new();
    bench.observe(0, "a b c", Authority::Version);
    bench.observe(10, "a b", Authority::Version);
    assert_eq!(bench.probed(11, "c", true), "a b c");
    assert_eq!(bench.pending(22), ["c:1 missing for 12 s, still answering, dropped in 18 s"]);
    assert_eq!(bench.damping.deadline(bench.at(22)), Some(bench.at(40)));
    // The same list again does not begin the hold anew.
    assert_eq!(bench.observe(30, "a b", Authority::Hearsay), "a b c");
    assert_eq!(bench.tick(39), "a b c");
    assert_eq!(bench.tick(40), "a b");
    // Had it died meanwhile, it would have gone then.
    bench.observe(50, "a b c", Authority::Version);
    bench.observe(60, "a b", Authority::Version);
    bench.probed(61, "c", true);
    assert_eq!(bench.probed(65, "c", false), "a b");
}

#[test]
fn what_dns_no_longer_lists_is_held_whatever_a_probe_says() {
    let mut bench = Bench::new();
    bench.observe(0, "a b c", Authority::Hearsay);
    for (seconds, list) in [(5, "a b"), (15, "a b"), (25, "a b c"), (30, "b c"), (59, "b c")] {
        bench.observe(seconds, list, Authority::Hearsay);
        bench.probed(seconds, "a", false);
        assert_eq!(bench.probed(seconds, "c", false), "a b c", "no key moves at {seconds}");
    }
    assert_eq!(bench.tick(60), "b c");
}

#[test]
fn additions_are_immediate_and_leave_the_order_alone_while_something_is_pending() {
    let mut bench = Bench::new();
    bench.observe(0, "a b c", Authority::Hearsay);
    assert_eq!(bench.observe(1, "d c b", Authority::Hearsay), "a b c d");
    assert_eq!(bench.tick(31), "d c b", "the order of the list, once nothing is pending");
    assert_eq!(bench.observe(32, "b c d", Authority::Hearsay), "b c d");
}

#[test]
fn the_ring_never_falls_below_half_of_its_largest_size_of_ten_minutes() {
    let mut bench = Bench::new();
    bench.observe(0, "a b c d e", Authority::Hearsay);
    assert_eq!(bench.observe(10, "a", Authority::Hearsay), "a b c d e");
    assert_eq!(bench.tick(40), "a d e", "three of five, and no fewer");
    assert_eq!(bench.pending(40).iter().filter(|text| text.ends_with("below half of its size")).count(), 2);
    assert_eq!(bench.tick(600), "a d e");
    // Ten minutes after the ring was last five, three is the largest: two may stay.
    assert_eq!(bench.tick(641), "a e");
    assert_eq!(bench.tick(1300), "a");
    assert_eq!(bench.tick(9999), "a");
}

#[test]
fn silence_without_a_higher_version_does_not_go_below_half() {
    let mut bench = Bench::new();
    bench.observe(0, "a b c d", Authority::Hearsay);
    bench.observe(10, "a", Authority::Hearsay);
    for node in ["b", "c", "d"] {
        bench.probed(11, node, false);
    }
    assert_eq!(bench.tick(50), "a d");
    assert_eq!(bench.observe(60, "a", Authority::Version), "a", "a higher version that agrees with the probes");
}

#[test]
fn it_is_told_what_became_of_a_node_that_stays() {
    let mut bench = Bench::new();
    let now = bench.at(0);
    let list =
        |nodes: &[(&str, u32)]| nodes.iter().map(|(host, weight)| Node::new(host, 1, *weight)).collect::<Vec<_>>();
    let mut change = |nodes: &[(&str, u32)]| {
        bench.damping.observe(&list(nodes), Authority::Operator, now).map_or(String::new(), |Change(text)| text)
    };
    assert_eq!(change(&[("a", 1), ("b", 1)]), "a:1 added, b:1 added");
    assert_eq!(change(&[("a", 2), ("b", 1)]), "weight of a:1 changed from 1 to 2");
    assert_eq!(change(&[("b", 1), ("a", 2)]), "order changed");
    assert_eq!(change(&[("b", 1), ("a", 1), ("c", 1)]), "c:1 added, weight of a:1 changed from 2 to 1");
}

#[test]
fn an_address_moves_without_the_identity() {
    let mut bench = Bench::new();
    bench.observe(0, "a b", Authority::Hearsay);
    let moved = vec![Node::new("a", 1, 1).dialled_at("10.0.0.9"), Node::new("b", 1, 1)];
    let now = bench.at(1);
    let change = bench.damping.observe(&moved, Authority::Hearsay, now);
    assert_eq!(change, Some(Change("a:1 moved from a:1 to 10.0.0.9:1".to_owned())));
    assert_eq!(bench.ring(), "a b");
    assert_eq!(&*bench.damping.ring()[0].host, "10.0.0.9");
    assert_eq!(bench.damping.observe(&moved, Authority::Hearsay, now), None);
}

#[test]
fn a_change_says_what_and_why() {
    let mut bench = Bench::new();
    bench.observe(0, "a b", Authority::Version);
    let now = bench.at(1);
    let change = bench.damping.observe(&nodes("a c"), Authority::Version, now);
    assert_eq!(change, Some(Change("c:1 added".to_owned())));
    let change = bench.damping.probed("b:1", false, now);
    assert_eq!(change, Some(Change("b:1 dropped (absent from a higher version and not answering)".to_owned())));
}

/// One thing that happens, and how long after the one before.
#[derive(Debug, Clone)]
enum Event {
    Observe(Vec<u8>, Authority),
    Probed(u8, bool),
    Tick,
}

fn events() -> impl Strategy<Value = Vec<(u64, Event)>> {
    let authority = prop_oneof![
        1 => Just(Authority::Operator),
        4 => Just(Authority::Version),
        8 => Just(Authority::Hearsay)
    ];
    let list = proptest::sample::subsequence((0..8).collect::<Vec<u8>>(), 0..=8).prop_shuffle();
    let event = prop_oneof![
        4 => (list, authority).prop_map(|(list, authority)| Event::Observe(list, authority)),
        4 => (0_u8..8, any::<bool>()).prop_map(|(node, answers)| Event::Probed(node, answers)),
        2 => Just(Event::Tick),
    ];
    proptest::collection::vec((prop_oneof![4 => 0_u64..20, 1 => 0_u64..700], event), 1..60)
}

fn names(nodes: &[Node]) -> Vec<String> {
    nodes.iter().map(|node| node.name.to_string()).collect()
}

proptest! {
    #[test]
    fn the_rules_hold_whatever_happens(events in events()) {
        let mut bench = Bench::new();
        let (mut seconds, mut listed) = (0, Vec::new());
        let mut last_listed: HashMap<String, u64> = HashMap::new();
        let mut sizes: Vec<(u64, usize)> = Vec::new();
        for (pause, event) in events {
            seconds += pause;
            let now = bench.at(seconds);
            let before = names(bench.damping.ring());
            for name in &listed {
                last_listed.insert(String::clone(name), seconds);
            }
            let (mut operator, mut hearsay_only) = (false, true);
            let change = match &event {
                Event::Observe(list, authority) => {
                    let list: Vec<Node> = list.iter().map(|n| Node::new(&format!("n{n}"), 1, 1)).collect();
                    if !list.is_empty() {
                        listed = names(&list);
                        operator = *authority == Authority::Operator;
                    }
                    hearsay_only = *authority == Authority::Hearsay;
                    bench.damping.observe(&list, *authority, now)
                }
                Event::Probed(node, answers) => bench.damping.probed(&format!("n{node}:1"), *answers, now),
                Event::Tick => bench.damping.tick(now),
            };
            let ring = names(bench.damping.ring());
            prop_assert_eq!(change.is_some(), ring != before);
            prop_assert!(before.is_empty() || !ring.is_empty(), "emptied");
            prop_assert!(listed.iter().all(|name| ring.contains(name)), "an addition or a survivor is not there");
            let mut unique = ring.clone();
            unique.sort();
            unique.dedup();
            prop_assert_eq!(unique.len(), ring.len());
            if operator {
                prop_assert_eq!(&ring, &listed);
            }
            let dropped: Vec<_> = before.iter().filter(|name| !ring.contains(name)).collect();
            let all_may_be_gone = matches!(event, Event::Probed(_, false)) || !hearsay_only;
            if !operator && !all_may_be_gone {
                for name in &dropped {
                    prop_assert!(seconds - last_listed[*name] >= HOLD.as_secs(), "{name} was not held");
                }
                let recent = sizes.iter().enumerate().filter(|(index, _)| {
                    sizes.get(index + 1).is_none_or(|(next, _)| next + MEMORY.as_secs() >= seconds)
                });
                let largest = recent.map(|(_, (_, size))| *size).max().unwrap_or(0);
                prop_assert!(dropped.is_empty() || ring.len() * 2 >= largest, "below half");
            }
            let pending: Vec<String> = bench.damping.pending(now).into_iter().map(|pending| pending.node).collect();
            prop_assert!(ring.iter().all(|name| listed.contains(name) != pending.contains(name)));
            sizes.push((seconds, ring.len()));
        }
        // Left alone, the ring becomes what is listed: it may halve every ten minutes.
        for step in 1..8 {
            bench.tick(seconds + step * 700);
        }
        prop_assert_eq!(names(bench.damping.ring()), listed);
    }
}

#[test]
fn the_order_is_kept_where_it_counts_and_pinned_nodes_come_first() {
    let mut bench = Bench::new();
    bench.damping = Damping::new(HOLD).ordered(true, crate::discovery::parse_nodes("p", 1).unwrap());
    bench.observe(0, "c a b", Authority::Version);
    assert_eq!(bench.observe(10, "a b c", Authority::Hearsay), "c a b", "the same nodes in another order");
    assert_eq!(bench.observe(20, "d a b c", Authority::Version), "c a b d", "a new one is appended");
    assert_eq!(bench.observe(30, "d p a b c", Authority::Version), "p c a b d", "but a pinned one has its place");
    bench.observe(40, "d p b c", Authority::Version);
    assert_eq!(bench.probed(41, "a", false), "p c b d");
    assert_eq!(bench.observe(50, "p b c d", Authority::Operator), "p b c d", "an operator's order counts");
    assert_eq!(bench.observe(60, "p d c b", Authority::Hearsay), "p b c d");
}
