//! What must hold between steps: counts that are kept twice agree.

use std::collections::HashMap;

use super::client::key_list::WINDOW;
use super::client::{Client, Reading, Stall};
use super::handoff::Kind;
use super::ids::{HandoffId, Stage};
use super::upstream::node::MAX_OWN;
use super::upstream::{Body, Entry, Role};
use super::{ClientId, Core, NodeId, UpstreamId};

impl Core {
    /// Checks what must hold between steps; called after each in debug builds.
    ///
    /// # Panics
    /// In debug builds, when an invariant is broken.
    pub fn check_invariants(&self) {
        let (mut in_flight, mut orphans) = (HashMap::new(), HashMap::new());
        for (_, up) in self.upstreams.iter() {
            for entry in up.fifo.iter() {
                for client in entry.clients() {
                    *in_flight.entry(client).or_insert(0_u32) += 1;
                    *orphans.entry(client).or_insert(0_u32) += u32::from(entry.is_expired());
                }
            }
            let group = matches!(up.fifo.back(), Some(Entry::Group(_)));
            debug_assert!(!up.open || group, "an open group is the last entry");
            let is_said = |entry: &Entry| matches!(entry, Entry::Version) || entry.line().is_some();
            debug_assert!(!up.is_binary || up.fifo.iter().all(is_said), "a line is kept of what is asked in packets");
        }
        for (key, client) in self.clients.iter() {
            let counted = in_flight.get(&ClientId(key)).copied().unwrap_or(0);
            debug_assert_eq!(client.in_flight, counted, "in flight of {key:?}");
            let expired = orphans.get(&ClientId(key)).copied().unwrap_or(0);
            debug_assert_eq!(client.orphans, expired, "orphans of {key:?}");
            let replies = &client.replies;
            debug_assert!(!replies.is_empty() || replies.bytes() == replies.out.len(), "parked without a slot");
            replies.check();
            debug_assert!(client.promised == 0 || client.stall != Stall::None, "room that nobody asks for");
            // A body waits before its end only for what has a short clock.
            let ends =
                matches!((&client.reading, client.stall), (Reading::Body(_), Stall::LaneChange | Stall::LostWrite));
            let body = matches!(client.reading, Reading::Body(_)) && !ends;
            let holds = client.reserved > 0 && !ends || client.promised > 0 || body;
            debug_assert!(!client.is_waiting() || !holds, "{key:?} waits for {:?} and holds room", client.stall);
            if let Reading::Keys(list) = &client.reading {
                debug_assert!(replies.places(list.seq) <= WINDOW, "places of {key:?}");
            }
        }
        let clients = self.clients.iter().map(|(_, client)| (client.held, client.weight()));
        let lanes = self.upstreams.iter().map(|(_, up)| (up.held, up.weight()));
        let handoffs = self.handoffs.iter().map(|(_, handoff)| (handoff.held, handoff.weight()));
        let mut held = 0;
        for (charged, weight) in clients.chain(lanes).chain(handoffs) {
            debug_assert_eq!(charged, weight, "memory charged");
            held += charged;
        }
        debug_assert_eq!(held, self.shared.budget.used(), "all memory charged");
        let values: usize = self.upstreams.iter().filter_map(|(_, up)| up.body.as_ref().map(Body::expected)).sum();
        let kept = |client: &Client| {
            let asked = client.elsewhere.iter().filter_map(|other| other.request.as_ref());
            let asked: usize = asked.flat_map(|request| &request.keys).map(|(_, reserved)| reserved).sum();
            asked + client.promised + client.body_to_come()
        };
        let kept: usize = self.clients.iter().map(|(_, client)| kept(client)).sum();
        debug_assert_eq!(values + kept, self.shared.budget.arriving, "memory kept for what arrives");
        let bodies: usize = self.clients.iter().map(|(_, client)| client.reserved).sum();
        debug_assert_eq!(bodies, self.shared.budget.bodies, "memory kept for bodies");
        self.check_moves();
        self.check_elsewhere();
        self.check_connections();
        let full = self.upstreams.iter().filter(|(_, up)| up.full).count();
        debug_assert_eq!(full, self.shared.full_lanes, "full lanes");
    }

    /// What every client and every lane is at, a line each: for tests that fail.
    #[must_use]
    pub fn describe(&self) -> String {
        let clients = self.clients.iter().map(|(key, client)| {
            let (stall, input, since) = (client.stall, client.input, client.stalled_at);
            format!(
                "{key:?}: {stall:?} since {since:?}, {input:?}, {:?}, {} unparsed, {} replies, {} in flight, {} reserved\n",
                client.reading,
                client.unparsed.len(),
                client.replies.len(),
                client.in_flight,
                client.reserved + client.promised,
            ) + &client.again.iter().map(|again| format!("  {again:?}, due is {:?}\n", client.replies.due())).collect::<String>()
        });
        let lanes = self.upstreams.iter().map(|(key, up)| {
            let held = (up.out.held(), up.partial.len(), up.partial.capacity(), up.fifo.held());
            format!(
                "{key:?}: {:?}, {} entries, {} bytes to send, holds {held:?}\n",
                up.role,
                up.fifo.len(),
                up.out.len()
            )
        });
        let own = self.nodes.iter().filter(|(_, entry)| !entry.own.is_unused()).map(|(key, entry)| {
            let (state, version) = (entry.state, entry.version.is_some());
            format!("{key:?}: {state:?}, version known {version}, own lanes {:?}\n", entry.own)
        });
        let budget = &self.shared.budget;
        let memory =
            format!("{} bytes of {}, {} wait for room\n", budget.total(), budget.limit(), budget.waiting.len());
        clients.chain(lanes).chain(own).chain([memory]).collect()
    }

    /// What clients have under way for moved keys is there, and goes on.
    fn check_moves(&self) {
        let (mut reads, mut steps) = (HashMap::new(), HashMap::new());
        let (mut held, mut under_way) = (HashMap::new(), HashMap::new());
        for entry in self.upstreams.iter().flat_map(|(_, up)| up.fifo.iter()) {
            match entry {
                Entry::Group(group) => {
                    for member in group.members.iter().filter(|member| member.stage != Stage::Plain) {
                        *reads.entry(member.client).or_insert(0_u32) += 1;
                        *steps.entry(member.client).or_insert(0_usize) += usize::from(group.verb.takes_steps());
                    }
                    if let Some(step) = group.step.filter(|_| !group.expired) {
                        *under_way.entry(step).or_insert(0_u32) += 1;
                    }
                }
                Entry::Step(step) if !step.expired => *under_way.entry(step.handoff).or_insert(0) += 1,
                _ => {}
            }
        }
        for (key, handoff) in self.handoffs.iter() {
            *held.entry(handoff.client).or_insert(0_usize) += usize::from(handoff.kind != Kind::Invalidate);
            debug_assert!(under_way.contains_key(&HandoffId(key)), "nothing is under way for {handoff:?}");
        }
        for (key, client) in self.clients.iter() {
            let id = ClientId(key);
            debug_assert_eq!(
                client.moves.reads,
                reads.get(&id).copied().unwrap_or(0),
                "reads of moved keys of {key:?}"
            );
            let again =
                client.again.iter().filter(|a| a.stage != Stage::Plain && a.lane.is_none() && a.verb.takes_steps());
            let all = held.get(&id).copied().unwrap_or(0) + steps.get(&id).copied().unwrap_or(0) + again.count();
            debug_assert_eq!(client.moves.steps(), all, "steps of {key:?}");
        }
    }

    /// What clients have elsewhere is there.
    fn check_elsewhere(&self) {
        for (key, client) in self.clients.iter() {
            for other in &client.elsewhere {
                let up = self.upstreams.get(other.lane.0);
                debug_assert!(up.is_some(), "something of {key:?} on a lane that is gone");
                let there = up.map_or(0, |up| up.fifo.iter().flat_map(Entry::clients).filter(|c| c.0 == key).count());
                debug_assert!(other.entries > 0 && other.entries as usize <= there, "what {key:?} has elsewhere");
            }
        }
    }

    /// A node has no more connections than it may have, those apart that are left over from another address of it.
    fn check_connections(&self) {
        for (key, entry) in self.nodes.iter() {
            let all = || self.upstreams.iter().map(|(_, up)| up).filter(|up| up.node == NodeId(key));
            let lanes = || all().filter(|up| !up.moved);
            let own = all().filter(|up| up.is_own()).count();
            debug_assert_eq!(own, entry.own.busy + entry.own.idle.len(), "own lanes");
            debug_assert!(own <= MAX_OWN, "too many own lanes");
            debug_assert!(lanes().filter(|up| up.role == Role::Large && !up.is_draining()).count() <= 1, "large lanes");
            let binary = lanes().filter(|up| up.role == Role::Binary && !up.is_draining()).count();
            debug_assert!(binary <= 1, "binary lanes");
            let probes = all().filter(|up| up.role == Role::Probe).count();
            debug_assert_eq!(probes, usize::from(entry.probe != UpstreamId::NONE), "probes");
            let shared = lanes().filter(|up| up.role == Role::Shared && !up.is_draining()).count();
            let fresh = usize::from(entry.renewal.fresh != UpstreamId::NONE);
            debug_assert!(shared <= self.shared.settings.lanes.max(1) + fresh, "shared lanes");
        }
    }
}
