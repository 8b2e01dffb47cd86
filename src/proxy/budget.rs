//! The memory for everything that waits: one limit for the process, and who gives way near it.
//!
//! What a client or a lane holds is measured where it changes and charged here as a difference, so
//! the sum is exact at any time. Nothing waits for ever for memory, because no holder keeps it for
//! ever: a lane drains or is given up by its clocks, a stored body moves or closes its client, and a
//! client that does not read is closed when memory is tight.
//!
//! - A *value* from a node is given to a client only if there is room for all of it, else the client
//!   gets a miss and the value is dropped as it comes: the lane is never paused for it.
//! - A *body* from a client is stored only when there is room for all of it; until then it is not read.
//! - A *request* waits, unread, while its client has others waiting and the memory is spent.
//! - What is *read* of a client before it is known what it is, is little while memory is tight: a thousand clients
//!   whose bodies have to wait would else each have left a whole read here.

use std::collections::VecDeque;
use std::time::Duration;

use super::client::{Reading, Stall};
use super::{ClientId, CloseReason, Core, Shared, UpstreamId};
use crate::metrics::Wait;

/// What the kernel is taken to hold for a client that does not read, in bytes. With the bound that
/// the listening socket sets on unsent bytes it holds about so much.
pub(super) const KERNEL: usize = 96 << 10;
/// A body, or a value, of at most so many bytes is never what fills the memory.
const SMALL: usize = 4 << 10;
/// A client that holds at most so many bytes takes what it gets; less than [`KERNEL`].
const LITTLE: usize = 64 << 10;
/// Nothing larger than this is held whole, in bytes: it is streamed.
const LARGEST: usize = 1 << 20;
/// What one client may hold is a quarter of all, but not more than this many bytes.
const MOST_SHARE: usize = 32 << 20;
/// The other workers are told when so many bytes were taken or given back.
const TELL: usize = 64 << 10;
/// A client that takes nothing for so long does not read.
const PATIENCE: Duration = Duration::from_secs(1);
/// A client that sends nothing of a body that room or a lane is kept for is closed after this, or,
/// where others wait for the room, after less.
const BODY_PATIENCE: Duration = Duration::from_secs(5);
const WANTED_BODY_PATIENCE: Duration = Duration::from_secs(2);

/// This worker's part of the account.
#[derive(Debug)]
pub(super) struct Budget {
    /// For all workers.
    limit: usize,
    /// Held by this worker's clients and lanes.
    used: usize,
    /// Bytes of values still to come, for which room was found.
    pub(super) arriving: usize,
    /// Bytes of bodies that are being stored; part of `used`.
    bodies: usize,
    /// What this worker last told the others.
    told: usize,
    /// What the others have told.
    others: usize,
    /// Clients whose body waits for room, in the order they came.
    waiting: VecDeque<ClientId>,
}

impl Budget {
    pub(super) const fn new(limit: usize) -> Self {
        Self { limit, used: 0, arriving: 0, bodies: 0, told: 0, others: 0, waiting: VecDeque::new() }
    }

    /// Somebody who held `held` bytes now holds `now`.
    #[inline]
    pub(super) const fn recharge(&mut self, held: &mut usize, now: usize) {
        self.used = self.used + now - *held;
        *held = now;
    }

    /// All that waits, in bytes.
    const fn total(&self) -> usize {
        self.used + self.arriving + self.others
    }

    /// What large things leave to small ones.
    const fn tight(&self) -> usize {
        self.limit / 4 * 3
    }

    /// So little is left that the next value may find no room: those who do not read give way.
    const fn is_tight(&self) -> bool {
        self.total() + LARGEST > self.tight()
    }

    /// No room for anything that can wait.
    #[inline]
    pub(super) const fn is_spent(&self) -> bool {
        self.total() >= self.limit
    }

    /// Most bytes that one client may hold.
    pub(super) fn share(&self) -> usize {
        (self.limit / 4).min(MOST_SHARE)
    }

    /// Whether a value of so many bytes may come for a client that holds `held`. A small one for a
    /// client that takes what it gets always may: it is gone in the same round.
    pub(super) fn admits(&self, len: usize, held: usize) -> bool {
        let passes = len <= SMALL && held <= LITTLE;
        passes || self.total().saturating_add(len) <= self.tight() && held.saturating_add(len) <= self.share()
    }

    /// Whether a body of so many bytes may be stored. One always may: else nothing would move.
    fn takes_body(&self, len: usize) -> bool {
        let room = self.bodies + len <= self.limit / 2 && self.total() + len <= self.tight();
        room || self.bodies == 0
    }

    /// Most bytes to read at once of a client that has `room` kept for what it sends.
    #[inline]
    pub(super) fn most_read(&self, room: impl FnOnce() -> usize) -> usize {
        if self.is_tight() { room().max(SMALL) } else { usize::MAX }
    }

    /// Bytes that this worker's clients and lanes hold.
    pub(super) const fn used(&self) -> usize {
        self.used
    }
}

impl Shared {
    /// Tells the other workers what this one holds, when it has changed by much.
    #[inline]
    pub(super) fn tell_budget(&mut self) {
        if (self.budget.used + self.budget.arriving).abs_diff(self.budget.told) >= TELL {
            self.exchange();
        }
    }

    fn exchange(&mut self) {
        self.budget.told = self.budget.used + self.budget.arriving;
        self.cells().buffered.set(self.budget.told as u64);
        let all = usize::try_from(self.cells.sum(|cells| &cells.buffered)).unwrap_or(usize::MAX);
        self.budget.others = all.saturating_sub(self.budget.told);
        if self.budget.is_tight() {
            self.ask_for_tick();
        }
    }
}

impl Core {
    /// A body is to be stored: keeps room for it, or lets its client wait. `true`: go on.
    pub(super) fn reserve_body(&mut self, id: ClientId, len: usize) -> bool {
        let Self { clients, shared, .. } = self;
        let Some(client) = clients.get_mut(id.0) else { return false };
        if client.reserved > 0 || len <= SMALL {
            return true;
        }
        shared.ask_for_tick();
        client.fed = shared.now;
        if shared.budget.waiting.is_empty() && shared.budget.takes_body(len) {
            client.reserved = len;
            shared.budget.bodies += len;
            return true;
        }
        client.stall = Stall::Memory { body: len };
        shared.budget.waiting.push_back(id);
        shared.cells().waits(Wait::Memory);
        false
    }

    /// A body has been forwarded, or its client has gone.
    pub(super) fn release_body(&mut self, reserved: usize) {
        self.shared.budget.bodies = self.shared.budget.bodies.saturating_sub(reserved);
        self.grant_bodies();
    }

    /// Lets those begin whose bodies have room now.
    fn grant_bodies(&mut self) {
        let Self { clients, shared, .. } = self;
        while let Some(&id) = shared.budget.waiting.front() {
            let waiting = clients.get_mut(id.0).and_then(|client| match client.stall {
                Stall::Memory { body } => Some((client, body)),
                _ => None,
            });
            if let Some((client, body)) = waiting {
                if !shared.budget.takes_body(body) {
                    return;
                }
                client.reserved = body;
                client.fed = shared.now;
                client.stall = Stall::Granted;
                shared.budget.bodies += body;
                shared.resume.push_back(id);
            }
            shared.budget.waiting.pop_front();
        }
    }

    /// Looks after the memory. Returns whether there is something to look after.
    pub(super) fn check_memory(&mut self) -> bool {
        self.shared.exchange();
        self.grant_bodies();
        self.close_stalled_bodies();
        let tight = self.shared.budget.is_tight();
        if tight {
            self.close_unread();
        }
        self.free_bulk_lanes();
        tight || self.shared.budget.bodies > 0 || !self.shared.budget.waiting.is_empty()
    }

    /// Memory is tight: closes the clients that do not read, those first that hold the most.
    fn close_unread(&mut self) {
        let now = self.shared.now;
        let mut unread: Vec<(usize, ClientId)> = self
            .clients
            .iter()
            .filter(|(_, client)| client.blocked && client.took.after(PATIENCE) <= now)
            .map(|(key, client)| (client.held, ClientId(key)))
            .collect();
        unread.sort_unstable_by_key(|(held, _)| std::cmp::Reverse(*held));
        let mut left = self.shared.budget.total();
        for (held, id) in unread {
            // Down to where there is room again for large things of those who read.
            if left <= self.shared.budget.limit / 2 {
                break;
            }
            left = left.saturating_sub(held);
            self.close_client(id, CloseReason::NotReading);
        }
    }

    /// Closes clients that do not go on with the body that room or a lane is kept for.
    fn close_stalled_bodies(&mut self) {
        let now = self.shared.now;
        let wanted = !self.shared.budget.waiting.is_empty();
        let stalled: Vec<ClientId> = self
            .clients
            .iter()
            .filter(|(_, client)| {
                let patience = if wanted && client.reserved > 0 { WANTED_BODY_PATIENCE } else { BODY_PATIENCE };
                client.stall == Stall::None && client.fed.after(patience) <= now
            })
            .filter(|(_, client)| client.reserved > 0 || matches!(client.reading, Reading::Stream { .. }))
            .map(|(key, _)| ClientId(key))
            .collect();
        for id in stalled {
            self.close_client(id, CloseReason::BodyStalled);
        }
    }

    /// Closes clients that hold a bulk lane others wait for and do not read.
    fn free_bulk_lanes(&mut self) {
        let now = self.shared.now;
        let wanted = |lane: &UpstreamId| {
            let node = self.upstreams.get(lane.0).and_then(|up| self.nodes.get(up.node.0));
            node.is_some_and(|entry| entry.bulk.is_awaited())
        };
        let holders: Vec<ClientId> = self
            .clients
            .iter()
            .filter(|(_, client)| client.took.after(BODY_PATIENCE) <= now && client.paused.iter().any(wanted))
            .map(|(key, _)| ClientId(key))
            .collect();
        for id in holders {
            self.close_client(id, CloseReason::NotReading);
        }
    }
}
