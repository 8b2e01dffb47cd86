//! What must hold between steps: counts that are kept twice agree.

use std::collections::HashMap;

use super::lane::{Body, Entry};
use super::{ClientId, Core};

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
        }
        for (key, client) in self.clients.iter() {
            let counted = in_flight.get(&ClientId(key)).copied().unwrap_or(0);
            debug_assert_eq!(client.in_flight, counted, "in flight of {key:?}");
            let expired = orphans.get(&ClientId(key)).copied().unwrap_or(0);
            debug_assert_eq!(client.orphans, expired, "orphans of {key:?}");
            let replies = &client.replies;
            debug_assert!(!replies.is_empty() || replies.bytes() == replies.out.len(), "parked without a slot");
        }
        let clients = self.clients.iter().map(|(_, client)| (client.held, client.weight()));
        let lanes = self.upstreams.iter().map(|(_, up)| (up.held, up.weight()));
        let mut held = 0;
        for (charged, weight) in clients.chain(lanes) {
            debug_assert_eq!(charged, weight, "memory charged");
            held += charged;
        }
        debug_assert_eq!(held, self.shared.budget.used(), "all memory charged");
        let arriving: usize = self.upstreams.iter().filter_map(|(_, up)| up.body.as_ref().map(Body::expected)).sum();
        debug_assert_eq!(arriving, self.shared.budget.arriving, "memory kept for what arrives");
        let full = self.upstreams.iter().filter(|(_, up)| up.full).count();
        debug_assert_eq!(full, self.shared.full_lanes, "full lanes");
    }
}
