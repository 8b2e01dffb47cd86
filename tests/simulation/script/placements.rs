//! Placements that need the key itself: where a request is routed later than its line was read, the key is still there.

use std::sync::Arc;

use slipring::proxy::ClientId;
use slipring::routing::{Placement, Topology};

use super::{LARGE, Rig, set};

/// One of each way of finding a node: by scores, on a circle, by a remainder, by a walk.
const PLACEMENTS: [&str; 5] = ["pymemcache", "dalli", "python-memcached", "mcrouter", "twemproxy,hash-tag={}"];

impl Rig {
    /// Three nodes in this placement.
    fn placed(placement: &str) -> (Self, Arc<Placement>) {
        let mut rig = Self::new(3);
        let placement = Arc::new(placement.parse().unwrap());
        rig.topology = rig.ring_of(&[0, 1, 2], &placement);
        rig.turn(&Arc::clone(&rig.topology));
        (rig, placement)
    }

    /// Of some of the nodes. They keep their numbers.
    fn ring_of(&self, nodes: &[usize], placement: &Arc<Placement>) -> Arc<Topology> {
        let nodes = nodes.iter().map(|node| Arc::clone(&self.topology.nodes()[*node])).collect();
        Arc::new(Topology::placed(self.core.topology().version() + 1, nodes, placement).unwrap())
    }

    fn turn(&mut self, topology: &Arc<Topology>) {
        let now = self.now();
        self.core.set_topology(Arc::clone(topology), now);
        self.apply();
    }

    /// The node that has a key in the ring that is in use.
    fn home(&self, key: &str) -> usize {
        let owner = self.core.topology().owner(key.as_bytes()).unwrap();
        self.topology.nodes().iter().position(|node| node.name == owner.name).unwrap()
    }

    /// Somebody sends this much of a large value to node 0, which has as many of them as it may have.
    fn waits_behind_others(&mut self, key: &str, bytes: usize) -> ClientId {
        for n in 0..3 {
            let held = self.key(0, &format!("held{n}"));
            let holder = self.client();
            self.send(holder, &set(&held, LARGE)[..100]);
        }
        let client = self.client();
        self.send(client, &set(key, LARGE)[..bytes]);
        assert!(!self.core.client_may_read(client), "no lane is free");
        client
    }
}

#[test]
fn a_body_that_is_on_its_way_when_the_ring_changes_is_stored_where_its_key_lives_then() {
    for placement in PLACEMENTS {
        let (mut rig, parsed) = Rig::placed(placement);
        let key = rig.key(0, "k");
        let request = set(&key, 1000);
        let client = rig.client();
        rig.send(client, &request[..500]);
        // Node 0 goes.
        let after = rig.ring_of(&[1, 2], &parsed);
        rig.turn(&after);
        rig.send(client, &request[500..]);
        let home = rig.home(&key);
        assert_eq!(rig.sent_bytes(home), request, "{placement}");
        assert!((0..3).filter(|lane| *lane != home).all(|lane| rig.sent_bytes(lane).is_empty()), "{placement}");
        rig.reply(home, "STORED\r\n");
        // And is read there by others.
        let other = rig.client();
        rig.send(other, format!("get {key}\r\n"));
        assert_eq!(rig.sent(home), format!("get {key}\r\n"), "{placement}");
        rig.reply(home, "END\r\n");
        assert_eq!([rig.got(client), rig.got(other)], ["STORED\r\n", "END\r\n"]);
    }
}

#[test]
fn a_large_body_that_waits_for_a_lane_waits_where_its_key_lives_after_a_change() {
    for placement in PLACEMENTS {
        let (mut rig, parsed) = Rig::placed(placement);
        let key = rig.key(0, "k");
        let request = set(&key, LARGE);
        let client = rig.waits_behind_others(&key, 100);
        let after = rig.ring_of(&[1, 2], &parsed);
        rig.turn(&after);
        let home = rig.home(&key);
        assert!(rig.core.client_may_read(client), "{placement}: a lane of the other node is free");
        rig.send(client, &request[100..]);
        let lane = rig.newest(home);
        assert_eq!(rig.open_lanes(home), 2, "{placement}: one for small values, one for it");
        assert!(rig.sent_bytes(lane) == request, "{placement}");
        rig.reply(lane, "STORED\r\n");
        assert_eq!(rig.got(client), "STORED\r\n", "{placement}");
    }
}

#[test]
fn a_large_body_whose_node_stays_goes_on_waiting_there() {
    for placement in PLACEMENTS {
        let (mut rig, parsed) = Rig::placed(placement);
        let key = rig.key(0, "k");
        let client = rig.waits_behind_others(&key, 100);
        // The last node goes, and with a consistent placement node 0 keeps what it has.
        let after = rig.ring_of(&[0, 1], &parsed);
        rig.turn(&after);
        assert_eq!(rig.core.client_may_read(client), rig.home(&key) != 0, "{placement}");
    }
}
