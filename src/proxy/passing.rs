//! Pieces of values that go from a node's socket to a client's by themselves: the kernel moves them, and they are never
//! copied here. Only of a long value that flows to one client, who has taken all there was before; the core learns how
//! much it was.

use super::upstream::{Entry, STREAM_BYTES};
use super::{ClientId, Core, UpstreamId};
use crate::time::Tick;

/// It takes two more system calls than a read, in bytes: so much must be to come.
const WORTH: usize = 128 << 10;

impl Core {
    /// The client that alone is given what a lane brings next, and how many bytes of it are nothing but that: they may go
    /// to it as they are, once it has been written all that waits for it.
    #[must_use]
    pub fn upstream_passes(&self, id: UpstreamId) -> Option<(ClientId, usize)> {
        // A packet has nothing behind its value, and its end must not be missed.
        let up = self.upstreams.get(id.0).filter(|up| !up.is_binary)?;
        let body = up.body.as_ref()?;
        // The last two are looked at.
        let left = usize::try_from(body.left).ok()?.checked_sub(2)?;
        let Some(Entry::Group(group)) = up.fifo.front() else { return None };
        let mut askers = group.askers(body.key);
        let asker = askers.next()?;
        let member = group.members.get(asker.member).filter(|member| !member.done)?;
        if askers.next().is_some() {
            return None;
        }
        let client = self.clients.get(member.client.0)?;
        // What its reader does not take of a value on its own lane is bounded; for all of another room is kept.
        let room = if up.is_own() { STREAM_BYTES.saturating_sub(client.replies.out.len()) } else { usize::MAX };
        let passes = left.min(room) >= WORTH && !client.blocked && client.replies.flows(member.seq, asker.place);
        passes.then_some((member.client, left.min(room)))
    }

    /// So many bytes have gone from a lane to the client that [`Core::upstream_passes`] named.
    pub fn upstream_passed(&mut self, id: UpstreamId, to: ClientId, bytes: usize, now: Tick) {
        self.shared.now = now;
        let Self { upstreams, clients, shared, .. } = self;
        let Some(up) = upstreams.get_mut(id.0) else { return };
        let own = up.is_own();
        let Some(body) = up.body.as_mut() else { return };
        debug_assert!(body.left > bytes as u64 + 1, "more has passed than was to come");
        body.left -= bytes as u64;
        shared.budget.arriving -= bytes * body.copies;
        if let Some(client) = clients.get_mut(to.0).filter(|_| !own) {
            client.unreserve(bytes);
        }
        self.note_received(id, bytes, 0);
        self.client_took(to, bytes, false, now);
    }
}
