//! Who waits for memory, who gets it, and who gives way when it is tight (`account.rs` has the account).
//!
//! Nothing waits for ever for memory: every wait has a clock (the table at [`Stall`]), and no holder keeps it for ever: a
//! lane drains or is given up by its clocks, a stored body moves, and at a good pace while others wait, or closes its
//! client, and a client that does not read is closed when memory is tight.

use std::time::Duration;

use super::account::SMALL;
use super::client::{Client, Pace, Reading, Stall};
use super::upstream::Role;
use super::values::NO_MEMORY;
use super::{ClientId, CloseReason, Core, Key};
use crate::metrics::{Reason, Wait};
use crate::protocol::command::Command;
use crate::time::Tick;

/// A client that takes nothing for so long does not read.
const PATIENCE: Duration = Duration::from_secs(1);
/// A client that sends nothing of a body that room or a lane is kept for is closed after this, or,
/// where others wait for the room, after less.
const BODY_PATIENCE: Duration = Duration::from_secs(5);
const WANTED_BODY_PATIENCE: Duration = Duration::from_secs(2);
/// Who holds what others wait for, and moves less than so many bytes in so long, is closed: a drip holds nothing.
const PACE_BYTES: usize = 64 << 10;
const PACE: Duration = Duration::from_secs(5);
/// A body that waits for room is not stored when nobody got any for so long: longer than a holder that stands still, or
/// drips, keeps it.
const ROOM_PATIENCE: Duration = Duration::from_millis(5500);

const NO_ROOM: &str = "SERVER_ERROR proxy: no room for the value in time\r\n";

impl Core {
    /// Most bytes that the rim should read from this client at once.
    #[inline]
    #[must_use]
    pub fn client_most_read(&self, id: ClientId) -> usize {
        self.shared.budget.most_read(|| self.clients.get(id.0).map_or(0, Client::room))
    }

    /// Half of the memory is spent: what the kernel holds besides is no small matter any more.
    #[must_use]
    pub fn is_memory_wanted(&self) -> bool {
        self.shared.budget.total() > self.shared.budget.limit() / 2
    }

    /// A body is to be stored: keeps room for it, or lets its client wait. `true`: go on.
    pub(super) fn reserve_body(&mut self, id: ClientId, len: usize) -> bool {
        let Self { clients, shared, .. } = self;
        let Some(client) = clients.get_mut(id.0) else { return false };
        if client.reserved > 0 || len <= SMALL {
            return true;
        }
        shared.ask_for_tick();
        client.last_read_at = shared.now;
        shared.budget.pieces = shared.pool.pieces();
        if shared.budget.waiting.is_empty() && shared.budget.takes_body(len) {
            client.reserved = len;
            client.pace = Pace::begin(shared.now);
            shared.budget.bodies += len;
            shared.budget.arriving += len;
            return true;
        }
        client.stall = Stall::Memory { bytes: len, body: true };
        shared.budget.waiting.push_back(id);
        shared.cells().waits(Wait::Memory);
        false
    }

    /// Lets those go on who wait for room, as far as there is some. Returns whether there is one.
    pub(super) fn grant_room(&mut self) -> bool {
        let Self { clients, shared, .. } = self;
        let mut granted = false;
        shared.budget.pieces = shared.pool.pieces();
        while let Some(&id) = shared.budget.waiting.front() {
            let waits = clients.get_mut(id.0).and_then(|client| match client.stall {
                Stall::Memory { bytes, body } => Some((client, bytes, body)),
                _ => None,
            });
            if let Some((client, bytes, body)) = waits {
                let budget = &mut shared.budget;
                if !(if body { budget.takes_body(bytes) } else { budget.has_room(bytes) }) {
                    return granted;
                }
                granted = true;
                if body {
                    client.reserved = bytes;
                    client.pace = Pace::begin(shared.now);
                    budget.bodies += bytes;
                } else {
                    client.promised = bytes;
                    client.reserve(bytes);
                }
                budget.arriving += bytes;
                budget.granted_at = shared.now;
                client.last_read_at = shared.now;
                client.stall = Stall::Granted;
                shared.resume.push_back(id);
            }
            shared.budget.waiting.pop_front();
        }
        granted
    }

    /// Others find no room: values that wait for their turn give way, those first that have waited longest.
    fn give_way(&mut self) {
        let waiting = self.clients.iter().filter_map(|(key, client)| Some((client.replies.waits_with_values()?, key)));
        let mut waiting: Vec<(Tick, Key)> = waiting.collect();
        waiting.sort_unstable_by_key(|(since_at, _)| *since_at);
        for (_, key) in waiting {
            let Self { clients, shared, .. } = self;
            let Some(client) = clients.get_mut(key) else { continue };
            let misses = shared.misses();
            let dropped = client.replies.give_way((!misses).then_some(NO_MEMORY), &mut shared.pool);
            shared.cells().soft(Command::Get, Reason::Memory, dropped as u64, misses);
            client.settle(ClientId(key), shared);
            if self.grant_room() {
                return;
            }
        }
    }

    /// Reads that have waited for room for the queue time-out, while nobody got any, go on without.
    fn give_up_room(&mut self) {
        let Self { clients, shared, .. } = self;
        let (now, patience) = (shared.now, shared.settings.queue_timeout);
        if shared.budget.granted_at.after(patience) > now {
            return;
        }
        let resume = &mut shared.resume;
        shared.budget.waiting.retain(|id| {
            let Some(client) = clients.get_mut(id.0) else { return false };
            let waits = matches!(client.stall, Stall::Memory { body: false, .. });
            let over = waits && client.last_read_at.after(patience) <= now;
            if over {
                client.no_room = true;
                client.stall = Stall::Granted;
                resume.push_back(*id);
            }
            !over
        });
    }

    /// Looks after the memory. Returns whether there is something to look after.
    pub(super) fn check_memory(&mut self) -> bool {
        self.shared.exchange();
        if !self.grant_room() && !self.shared.budget.waiting.is_empty() {
            self.give_way();
        }
        self.close_stalled_bodies();
        self.give_up_room();
        self.refuse_bodies();
        let tight = self.shared.budget.is_tight();
        if tight {
            self.close_unread();
        }
        self.close_slow_holders();
        tight || self.shared.budget.bodies > 0 || !self.shared.budget.waiting.is_empty()
    }

    /// Memory is tight: closes the clients that do not read, those first that hold the most.
    fn close_unread(&mut self) {
        let now = self.shared.now;
        let mut unread: Vec<(usize, ClientId)> = self
            .clients
            .iter()
            .filter(|(_, client)| client.blocked && client.last_write_at.after(PATIENCE) <= now)
            .map(|(key, client)| (client.charged(), ClientId(key)))
            .collect();
        unread.sort_unstable_by_key(|(held, _)| std::cmp::Reverse(*held));
        let mut left = self.shared.budget.total();
        for (held, id) in unread {
            // Down to where there is room again for large things of those who read.
            if left <= self.shared.budget.limit() / 2 {
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
                client.stall == Stall::None && client.last_read_at.after(patience) <= now
            })
            .filter(|(_, client)| client.reserved > 0 || matches!(client.reading, Reading::Stream { .. }))
            .map(|(key, _)| ClientId(key))
            .collect();
        for id in stalled {
            self.close_client(id, CloseReason::BodyStalled);
        }
    }

    /// Bodies that have waited for room while nobody got any are not stored, unless nobody waits for their answer: those
    /// are slowed down rather than lost.
    fn refuse_bodies(&mut self) {
        let Self { clients, shared, .. } = self;
        if !shared.budget.waiting.is_empty() {
            shared.budget.wanted_at = shared.now;
        }
        let (now, granted_at) = (shared.now, shared.budget.granted_at);
        let over = |id: &ClientId| {
            let client = clients.get(id.0).filter(|client| matches!(client.stall, Stall::Memory { body: true, .. }));
            client.is_some_and(|client| client.last_read_at.max(granted_at).after(ROOM_PATIENCE) <= now)
        };
        let over: Vec<ClientId> = shared.budget.waiting.iter().copied().filter(over).collect();
        for id in over {
            if self.clients.get(id.0).is_some_and(|client| self.next_is_awaited(client)) {
                self.refuse_next(id, Reason::Memory, NO_ROOM);
            }
        }
    }

    /// Closes clients that hold what others wait for, an own lane or room for a body, and hardly move.
    fn close_slow_holders(&mut self) {
        let now = self.shared.now;
        let mut slow = Vec::new();
        let mut look = |id: ClientId, client: &mut Client, wanted_at: Tick, sends: bool| {
            let pace = client.pace;
            if pace.began_at.after(PACE) > now {
                return;
            }
            let moved = if sends { pace.sent } else { pace.taken };
            if moved < PACE_BYTES && wanted_at >= pace.began_at && wanted_at > Tick(0) {
                slow.push((id, if sends { CloseReason::BodyStalled } else { CloseReason::NotReading }));
            } else {
                client.pace = Pace::begin(now);
            }
        };
        let Self { clients, upstreams, nodes, shared, .. } = self;
        if shared.budget.bodies > 0 {
            for (key, client) in clients.iter_mut().filter(|(_, client)| client.reserved > 0) {
                look(ClientId(key), client, shared.budget.wanted_at, true);
            }
        }
        for (_, up) in upstreams.iter() {
            let Role::Own { owner } = up.role else { continue };
            let (Some(client), Some(node)) = (clients.get_mut(owner.0), nodes.get(up.node.0)) else { continue };
            let sends = matches!(client.reading, Reading::Stream { .. });
            look(owner, client, node.own.wanted_at, sends);
        }
        for (id, reason) in slow {
            self.close_client(id, reason);
        }
    }
}
