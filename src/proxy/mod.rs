//! The core: bytes and a time in, bytes out. No socket, clock, await or unsafe.
//!
//! The rim (`worker.rs`) feeds [`Core::client_read`] and [`Core::upstream_read`], writes what the
//! queues hold and carries out the [`Effect`]s. Everything between is plain `&mut` data, so the
//! whole proxy can be measured, simulated and fuzzed without a socket.
//!
//! # The rooms
//! - `client/` is what a client connection is: unparsed bytes, what it waits for, its replies in order. It knows nothing
//!   of lanes but their ids.
//! - `upstream/` is what a lane is: queue, FIFO, groups, clocks, health, the node's state. It knows nothing of clients
//!   but their ids.
//! - Below both: `shared`, `account` (the memory), `buffer`, `sizes`, `settings`, `discovery_answer`, `ends`, `effect`, `fail_reason`,
//!   `ids`, `table`.
//! - The other files join the two, and only they are `impl Core`: `input`, `requests`, `meta`, `packets` and
//!   `key_lists` (a request on its way down), `answers` and `values` (a reply on its way up), `large` and `own_lanes`
//!   (large values), `binary_lanes` (nodes that are asked in packets), `fan_out`, `lanes`, `routes` (which lane is whose),
//!   `handoff`, `steps`, `second_places`, `old_places` (keys that have moved, while a ring before is declared),
//!   `failure`, `ring` (nodes and rings that change), `renewal` (connections
//!   that are made anew), `clocks`, `memory`, `waits`, `slow`, `conns` and `auto_discovery`
//!   (what is answered here), `invariants`.
//!
//! # The way of a request
//! `input` cuts a client's bytes into requests; `requests` routes each and puts it on a lane: a line in the
//! lane's sending queue and an entry in its FIFO. `answers` cuts a node's bytes into replies and
//! gives each to the entry at the FIFO's head. `client/replies` keeps a client's replies in order.
//!
//! # Designs tried and left
//! - *Lanes that turn*: at a large value a fresh lane took the place of the shared one, and everyone else's reads were
//!   asked again there. 1,000 clients that asked for one value of 1.1 MB waited 8 to 18 s where they now wait 0.3 s, the
//!   node wrote 3.8 to 4.5 bytes for each that was delivered, and each read cost a connection.
//! - *A slot for each node of a read*: values came in the order in which nodes answered. Clients that match them by
//!   position took another key's value.
//! - *Keeping any slice from 16 KiB on where it was read*: slices of 17 KB held reads of 64 KiB, and the memory was
//!   overrun fourfold. Now what fills three quarters of a read is kept, the rest is copied once.
//! - *A look behind a value that finds no room, for the same key and for writes*: members times keys for each such value.
//!   Now the same key is found when its own answer comes, and only writes are looked for.
//! - *A write for each read of a large value*: each wakes its reader; 512 KiB cost 270 us, in pieces of 192 KiB 200 us,
//!   and 140 us in pieces of 512 KiB whose rest waits for one more look at the node.
//! - *Reading every value*: what is copied in and out again is more than a third of the cost of 512 KiB. Pieces of a long value
//!   for one client pass by a pipe instead (`passing.rs`); below 128 KiB the system calls cost more than the copies.
//! - *Bounding what the kernel holds of every node*: nodes were woken for each part of a value, which doubled its cost.
//!   Only connections that pause for their readers are bounded.
//!
//! # Invariants
//! A to H of the design; [`Core::check_invariants`] checks what can be checked from the data.

mod account;
mod answers;
mod auto_discovery;
mod binary_lanes;
mod bodies;
mod buffer;
mod cause;
mod client;
mod clocks;
mod conns;
mod discovery_answer;
mod effect;
mod ends;
mod fail_reason;
mod failure;
mod fan_out;
mod handoff;
mod ids;
mod input;
mod invariants;
mod key_lists;
mod lanes;
mod large;
mod memory;
mod meta;
mod old_places;
mod own_lanes;
mod packets;
mod passing;
mod renewal;
mod requests;
mod ring;
mod routes;
mod second_places;
mod settings;
mod shared;
mod sizes;
mod slow;
pub mod stats;
mod steps;
mod table;
mod upstream;
mod values;
mod waits;

use std::sync::Arc;
use std::time::Duration;

pub use buffer::{MAX_SLICES, OutBuf, READ_BYTES, ReadBuffer};
pub use discovery_answer::DiscoveryAnswer;
pub use effect::Effect;
pub use ends::{Ends, TcpEnds};
pub use fail_reason::{FailReason, ITSELF};
pub use ids::{ClientId, UpstreamId};
pub use settings::Settings;
pub use table::Key;

use crate::metrics::Cells;
pub use crate::metrics::CloseReason;
use crate::routing::Topology;
use crate::time::Tick;
use client::Client;
use handoff::Handoff;
use ids::NodeId;
use shared::Shared;
use table::Table;
use upstream::Upstream;
use upstream::group::GroupPool;
use upstream::node::NodeEntry;

/// Longest time in which nobody is blamed after this process has stood still.
const GRACE: Duration = Duration::from_secs(1);

/// One worker's proxy.
#[derive(Debug)]
pub struct Core {
    topology: Arc<Topology>,
    nodes: Table<NodeEntry>,
    /// The nodes in the order of the topology's.
    ring: Vec<NodeId>,
    /// Those of the ring before, in its order; none where none is declared.
    old_ring: Vec<NodeId>,
    /// Requests for moved keys that take steps.
    handoffs: Table<Handoff>,
    clients: Table<Client>,
    upstreams: Table<Upstream>,
    groups: GroupPool,
    shared: Shared,
    next_lane: usize,
}

impl Core {
    /// A core that has no connection yet; the first effects ask for the lanes of each node.
    #[must_use]
    pub fn new(topology: Arc<Topology>, settings: Settings, cells: Arc<Cells>, worker: usize) -> Self {
        let shared = Shared::new(settings, cells, worker);
        let mut core = Self {
            topology,
            nodes: Table::new(),
            ring: Vec::new(),
            old_ring: Vec::new(),
            handoffs: Table::new(),
            clients: Table::new(),
            upstreams: Table::new(),
            groups: GroupPool::default(),
            shared,
            next_lane: 0,
        };
        core.join_nodes();
        core
    }

    /// Moves the effects asked for since the last call to `into`.
    pub fn take_effects(&mut self, into: &mut Vec<Effect>) {
        into.append(&mut self.shared.effects);
    }

    /// Whether [`Core::take_effects`] would give something.
    #[must_use]
    pub fn has_effects(&self) -> bool {
        !self.shared.effects.is_empty()
    }

    /// Whether some socket has something to be written.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        !self.shared.dirty_clients.is_empty() || !self.shared.dirty_upstreams.is_empty()
    }

    /// Moves the sockets that have something to be written to the given lists.
    pub fn take_dirty(&mut self, clients: &mut Vec<ClientId>, upstreams: &mut Vec<UpstreamId>) {
        hand_over(&mut self.shared.dirty_clients, clients);
        hand_over(&mut self.shared.dirty_upstreams, upstreams);
    }

    /// Gives the lists that [`Core::take_dirty`] has given away back, so that the next round allocates none.
    pub fn reuse_dirty(&mut self, clients: Vec<ClientId>, upstreams: Vec<UpstreamId>) {
        take_back(clients, &mut self.shared.dirty_clients);
        take_back(upstreams, &mut self.shared.dirty_upstreams);
    }

    /// Does what is due. Returns when to call again, while there is anything to wait for.
    pub fn tick(&mut self, now: Tick) -> Option<Tick> {
        self.shared.now = now;
        let stood_still = self.stood_still();
        let waiting = stood_still || self.check_all();
        for up in self.upstreams.values_mut() {
            up.rest(&mut self.shared);
        }
        self.show_lanes();
        self.finish_round();
        self.shared.ticking = waiting;
        let period = self.shared.settings.period();
        let grace = (self.shared.settings.request_timeout / 2).clamp(period, GRACE.max(period));
        self.shared.due = now.after(if stood_still { grace } else { period });
        waiting.then_some(self.shared.due)
    }

    /// Whether this process itself stood still. Then nobody is to be blamed before what came meanwhile is read and what
    /// waits is written: a later tick judges. Every clock of the core is looked at in a tick, and knows it by this.
    fn stood_still(&mut self) -> bool {
        let shared = &mut self.shared;
        let shortest = shared.settings.request_timeout.min(shared.settings.connect_timeout);
        let late = shared.due.after(shortest / 2) < shared.now;
        // Where each comes late the machine is merely slow, and they judge.
        !std::mem::replace(&mut shared.frozen, late) && late
    }

    /// Looks at every clock. Returns whether something waits.
    fn check_all(&mut self) -> bool {
        self.check_clocks()
            | self.check_memory()
            | self.check_own_waits()
            | self.check_waits()
            | self.close_idle()
            | self.close_silent()
    }

    /// Ends every public step: resumes clients whose turn has come, forgets those that are done.
    fn finish_round(&mut self) {
        // Each turn ends a wait, so there are not many: two that begin each other would never end.
        let mut turns = 0_u32;
        loop {
            turns += 1;
            debug_assert!(turns < 1 << 20, "waits that never end:\n{}", self.describe());
            if let Some(id) = self.shared.due_again.pop_front() {
                self.ask_again(id);
            } else if let Some(id) = self.shared.resume.pop_front() {
                self.resume_client(id);
            } else if let Some((id, reason)) = self.shared.finished.pop() {
                self.close_client(id, reason);
            } else if self.shared.budget.waiting.is_empty() || !self.grant_room() {
                break;
            }
        }
        self.shared.tell_budget();
        #[cfg(debug_assertions)]
        self.check_invariants();
    }
}

/// Moves a list to another; the list itself, where the other is empty.
fn hand_over<T>(from: &mut Vec<T>, into: &mut Vec<T>) {
    if into.is_empty() {
        std::mem::swap(from, into);
    } else {
        into.append(from);
    }
}

/// Keeps the larger room: that of a list that is done with, or that of the list in use, whose entries stay.
fn take_back<T>(mut list: Vec<T>, in_use: &mut Vec<T>) {
    if list.capacity() > in_use.capacity() {
        list.clear();
        list.append(in_use);
        *in_use = list;
    }
}
