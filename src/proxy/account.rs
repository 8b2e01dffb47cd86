//! The memory for everything that waits: one limit for the process.
//!
//! What a client or a lane holds is measured where it changes and charged here as a difference, so the sum is exact at
//! any time. Memory that several share is charged once in full for as long as one of them holds it, and counts in equal
//! parts against their shares.
//!
//! - A *value* from a node is given to a client only if there is room for all of it, kept from then on; else see
//!   `large.rs`: the lane is never paused for it.
//! - A *body* from a client is stored only when there is room for all of it; until then it is not read. So is a read of a
//!   value that is known to be large.
//! - A *request* waits, unread, while its client has others waiting, answered or quiet, and the memory is spent. So a
//!   client brings at most one more: what is held stays within the limit and one read of 64 KiB a client.
//! - What is *read* of a client before it is known what it is, is little while memory is tight: a thousand clients
//!   whose bodies have to wait would else each have left a whole read here.

use std::collections::VecDeque;

use super::ids::ClientId;
use crate::time::Tick;

/// What the kernel is taken to hold for a client that does not read, in bytes. With the bound that
/// the listening socket sets on unsent bytes it holds about so much.
pub(super) const KERNEL: usize = 96 << 10;
/// What the kernel is taken to hold for a client that is not read, in bytes: what the listening socket lets it send.
pub(super) const KERNEL_INPUT: usize = 16 << 10;
/// What the kernel is taken to hold of a node that is not read, in bytes: what the rim lets it send.
pub(super) const KERNEL_NODE: usize = 256 << 10;
/// A body, or a value, of at most so many bytes is never what fills the memory.
pub(super) const SMALL: usize = 4 << 10;
/// A client that holds at most so many bytes takes what it gets; less than [`KERNEL`].
const LITTLE: usize = 64 << 10;
/// Nothing larger than this is held whole, in bytes, but what several share: it is streamed.
const LARGEST: usize = 1 << 20;
/// What one client may hold is a quarter of all, but not more than this many bytes.
const MOST_SHARE: usize = 32 << 20;

/// This worker's part of the account.
#[derive(Debug)]
pub(super) struct Budget {
    /// For all workers.
    limit: usize,
    /// Held by this worker's clients and lanes, memory that is shared apart.
    used: usize,
    /// Memory that is shared, as it was when it was last looked at.
    pub(super) pieces: usize,
    /// Bytes still to come for which room is kept: of values, of values that were asked for, of bodies.
    pub(super) arriving: usize,
    /// Bytes of bodies that are being stored, come or not.
    pub(super) bodies: usize,
    /// What this worker last told the others.
    pub(super) told: usize,
    /// What the others have told.
    pub(super) others: usize,
    /// Clients that wait for room, in the order they came.
    pub(super) waiting: VecDeque<ClientId>,
    /// When one of them last got it.
    pub(super) granted_at: Tick,
    /// When somebody was last seen waiting.
    pub(super) wanted_at: Tick,
}

impl Budget {
    pub(super) const fn new(limit: usize) -> Self {
        Self {
            limit,
            used: 0,
            pieces: 0,
            arriving: 0,
            bodies: 0,
            told: 0,
            others: 0,
            waiting: VecDeque::new(),
            granted_at: Tick(0),
            wanted_at: Tick(0),
        }
    }

    /// Somebody who held `held` bytes now holds `now`.
    #[inline]
    pub(super) const fn recharge(&mut self, held: &mut usize, now: usize) {
        self.used = self.used + now - *held;
        *held = now;
    }

    /// All that waits here, in bytes.
    pub(super) const fn here(&self) -> usize {
        self.used + self.pieces + self.arriving
    }

    /// All that waits, in bytes.
    pub(super) const fn total(&self) -> usize {
        self.here() + self.others
    }

    /// Whether so many bytes more are within the limit.
    pub(super) const fn fits(&self, len: usize) -> bool {
        self.total() + len <= self.limit
    }

    /// For all workers, in bytes.
    pub(super) const fn limit(&self) -> usize {
        self.limit
    }

    /// What large things leave to small ones.
    const fn tight(&self) -> usize {
        self.limit / 4 * 3
    }

    /// So little is left that the next value may find no room: those who do not read give way.
    pub(super) const fn is_tight(&self) -> bool {
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

    /// Whether a value of so many bytes may come for a client that holds so many for itself. A small one for a
    /// client that takes what it gets always may: it is gone in the same round. When all is spent it must have taken what
    /// it got before: else thousands that take nothing would hold many times the limit.
    #[inline]
    pub(super) fn passes(&self, len: usize, held: usize) -> bool {
        len <= SMALL && (held <= SMALL || held <= LITTLE && !self.is_spent())
    }

    /// Whether there is room for so many bytes more.
    pub(super) fn has_room(&self, len: usize) -> bool {
        self.total().saturating_add(len) <= self.tight()
    }

    /// Whether a body of so many bytes may be stored. One may while anything is left: else nothing would move. When all
    /// is spent others hold it, and their clocks end that.
    pub(super) fn takes_body(&self, len: usize) -> bool {
        let room = self.bodies + len <= self.limit / 2 && self.has_room(len);
        room || self.bodies == 0 && !self.is_spent()
    }

    /// Most bytes to read at once of a client that has `room` kept for what it sends.
    #[inline]
    pub(super) fn most_read(&self, room: impl FnOnce() -> usize) -> usize {
        if self.is_tight() { room().max(SMALL) } else { usize::MAX }
    }

    /// Bytes that this worker's clients and lanes hold, memory that is shared apart.
    pub(super) const fn used(&self) -> usize {
        self.used
    }
}
