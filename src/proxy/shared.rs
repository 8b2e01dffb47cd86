//! What both sides of the core need: memory and its account, what is to be written, what the rim is asked for.

use std::collections::VecDeque;
use std::sync::Arc;

use super::account::Budget;
use super::buffer::BufferPool;
use super::effect::Effect;
use super::ids::{ClientId, UpstreamId};
use super::settings::Settings;
use super::sizes::LargeKeys;
use crate::config::OnNodeDown;
use crate::metrics::{Cells, CloseReason, WorkerCells, hot};
use crate::protocol::request::ReadVerb;
use crate::time::Tick;

/// The other workers are told when so many bytes were taken or given back.
const TELL: usize = 64 << 10;

/// What every part of the core may touch besides the connection at hand.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) pool: BufferPool,
    /// The line under construction.
    pub(super) line: Vec<u8>,
    pub(super) dirty_clients: Vec<ClientId>,
    pub(super) dirty_upstreams: Vec<UpstreamId>,
    pub(super) effects: Vec<Effect>,
    /// Clients whose reason to wait is gone, in the order it went.
    pub(super) resume: VecDeque<ClientId>,
    /// Clients to be closed: drained, or doomed.
    pub(super) finished: Vec<(ClientId, CloseReason)>,
    pub(super) budget: Budget,
    pub(super) cells: Arc<Cells>,
    pub(super) worker: usize,
    pub(super) now: Tick,
    pub(super) settings: Settings,
    /// So many keys come before the next one that is sampled.
    pub(super) unsampled: u32,
    /// When a slow request of each kind was last told of.
    pub(super) slow_told: [Tick; 6],
    /// When it was last told that a client does not read its replies.
    pub(super) not_reading_told_at: Option<Tick>,
    /// Some node may still carry out a write that was given up.
    pub(super) lost_writes: bool,
    /// How many lanes are at their limit.
    pub(super) full_lanes: usize,
    /// When the next tick is due.
    pub(super) due: Tick,
    /// The last tick came so late that this process must have stood still.
    pub(super) frozen: bool,
    /// The rim will call [`Core::tick`] without being asked again.
    pub(super) ticking: bool,
    /// Clients one of whose values is to be asked for again now.
    pub(super) due_again: VecDeque<ClientId>,
    /// The rim looks at the node again after this read: a value that goes on may be held back until then.
    pub(super) may_hold_back: bool,
    /// Clients to whom a value flows that is written in larger pieces than it is read.
    pub(super) held_back: Vec<ClientId>,
    /// Which keys had large values lately.
    pub(super) large_keys: LargeKeys,
    /// Who asked for keys of a group that are missing where they were asked for, and may be elsewhere: member and place, of
    /// all keys with the key. Filled and emptied in one step.
    pub(super) passed_on: Vec<(usize, u32)>,
    pub(super) missed: Vec<(usize, usize, u32)>,
    /// The mark of the uniques of old places, as long as a ring before is declared.
    pub(super) before_tag: u8,
    pub(super) random: u64,
}

impl Shared {
    pub(super) fn new(settings: Settings, cells: Arc<Cells>, worker: usize) -> Self {
        Self {
            pool: BufferPool::default(),
            line: Vec::new(),
            dirty_clients: Vec::new(),
            dirty_upstreams: Vec::new(),
            effects: Vec::new(),
            resume: VecDeque::new(),
            finished: Vec::new(),
            budget: Budget::new(settings.buffer_limit),
            cells,
            worker,
            now: Tick(0),
            random: settings.seed | 1,
            settings,
            unsampled: 0,
            slow_told: [Tick(0); 6],
            not_reading_told_at: None,
            lost_writes: false,
            full_lanes: 0,
            due: Tick(0),
            frozen: false,
            ticking: false,
            due_again: VecDeque::new(),
            may_hold_back: false,
            held_back: Vec::new(),
            large_keys: LargeKeys::default(),
            passed_on: Vec::new(),
            missed: Vec::new(),
            before_tag: 0,
        }
    }

    pub(super) fn cells(&self) -> &WorkerCells {
        self.cells.worker(self.worker)
    }

    /// Whether reads that cannot be answered are misses; else errors.
    pub(super) fn misses(&self) -> bool {
        self.settings.on_node_down == OnNodeDown::Miss
    }

    /// Whether a read of this kind that cannot be answered is a miss; else an error.
    pub(super) fn may_miss(&self, verb: ReadVerb) -> bool {
        self.misses() && !verb.writes()
    }

    /// A step of xorshift: jitter needs no better, and a simulation replays it.
    pub(super) fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    /// Looks at one key in [`hot::EVERY`].
    #[inline]
    pub(super) fn sample(&mut self, key: &[u8], hash: u64) {
        match self.unsampled.checked_sub(1) {
            Some(left) => self.unsampled = left,
            None => self.take_sample(key, hash),
        }
    }

    /// How many keys come before the next is random: else a client's own rhythm would choose.
    #[cold]
    fn take_sample(&mut self, key: &[u8], hash: u64) {
        let skip = u32::try_from(self.random() % u64::from(2 * hot::EVERY - 1)).unwrap_or_default();
        self.unsampled = if self.settings.hot_keys { skip } else { u32::MAX };
        if self.settings.hot_keys {
            let keeps = self.settings.log_keys || self.settings.placed_by_key;
            self.cells().sampled(hash, keeps.then_some(key), self.now);
        }
    }

    /// Asks for ticks, unless they come anyway.
    #[inline]
    pub(super) fn ask_for_tick(&mut self) {
        if !self.ticking {
            self.ticking = true;
            self.due = self.now.after(self.settings.period());
            self.effects.push(Effect::Tick(self.settings.period()));
        }
    }

    /// Counts the memory that is shared, and tells the other workers what this one holds when it has changed by much.
    #[inline]
    pub(super) fn tell_budget(&mut self) {
        self.budget.pieces = self.pool.pieces();
        let (here, told) = (self.budget.here(), self.budget.told);
        if here.abs_diff(told) >= TELL || here == 0 && told > 0 {
            self.exchange();
        }
    }

    /// Tells the other workers what this one holds, and looks at what they do.
    pub(super) fn exchange(&mut self) {
        self.budget.pieces = self.pool.pieces();
        self.budget.told = self.budget.here();
        self.cells().buffered.set(self.budget.told as u64);
        let all = usize::try_from(self.cells.sum(|cells| &cells.buffered)).unwrap_or(usize::MAX);
        self.budget.others = all.saturating_sub(self.budget.told);
        if self.budget.is_tight() {
            self.ask_for_tick();
        }
    }
}
