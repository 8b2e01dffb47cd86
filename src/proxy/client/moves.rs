//! What of a client is under way for keys that have moved and have an old place.
//!
//! Such a request may take several steps, at two nodes, and the client's next for the same key must not overtake it
//! (invariant B). So a request waits while an earlier one for its key takes steps, and one that changes something also while
//! the client reads moved keys, whichever: those may still be asked at their old places.

use super::{Client, Stall};
use crate::proxy::ids::{ClientId, Stage};
use crate::proxy::shared::Shared;

/// Most requests of a client that take steps at the same time; the next waits.
const MOST: usize = 256;

/// See the module.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Moves {
    /// Parts of reads that may be asked at another place.
    pub(in crate::proxy) reads: u32,
    /// Hashes of the keys of requests that take steps, each as often as there are.
    hashes: Vec<u64>,
    /// Of reads that create what is missing, by their slots: how their nodes are asked at last.
    texts: Vec<(u32, Box<[u8]>)>,
}

impl Moves {
    /// Whether nothing is under way.
    #[inline]
    pub(in crate::proxy) const fn is_empty(&self) -> bool {
        self.reads == 0 && self.hashes.is_empty()
    }

    /// Whether a request for a key has to wait; `changes`: it is no mere read.
    pub(in crate::proxy) fn stops(&self, hash: u64, changes: bool) -> bool {
        changes && (self.reads > 0 || self.hashes.len() >= MOST) || self.hashes.contains(&hash)
    }

    /// Whether a request takes steps.
    pub(in crate::proxy) const fn has_steps(&self) -> bool {
        !self.hashes.is_empty()
    }

    /// How many do.
    pub(in crate::proxy) const fn steps(&self) -> usize {
        self.hashes.len()
    }

    /// A request for a key takes steps from now on.
    pub(in crate::proxy) fn hold(&mut self, hash: u64) {
        self.hashes.push(hash);
    }

    /// It is over.
    pub(in crate::proxy) fn release(&mut self, hash: u64) {
        if let Some(at) = self.hashes.iter().position(|other| *other == hash) {
            self.hashes.swap_remove(at);
        }
        if self.hashes.is_empty() {
            self.hashes = Vec::new();
        }
    }

    /// Keeps how a read that creates what is missing is asked at last.
    pub(in crate::proxy) fn keep(&mut self, seq: u32, text: &[u8]) {
        self.texts.push((seq, text.into()));
    }

    /// Takes it.
    pub(in crate::proxy) fn take(&mut self, seq: u32) -> Option<Box<[u8]>> {
        let at = self.texts.iter().position(|(other, _)| *other == seq)?;
        let (_, text) = self.texts.swap_remove(at);
        if self.texts.is_empty() {
            self.texts = Vec::new();
        }
        Some(text)
    }

    /// Bytes of memory held.
    pub(super) fn weight(&self) -> usize {
        self.hashes.capacity() * size_of::<u64>()
            + self.texts.capacity() * size_of::<(u32, Box<[u8]>)>()
            + self.texts.iter().map(|(_, text)| text.len()).sum::<usize>()
    }
}

impl Client {
    /// A part of a read, for the slot `seq`, is over at a stage; `steps`: it was a request that takes steps, for the key with
    /// this hash, and this was the last.
    pub(in crate::proxy) fn part_over(
        &mut self,
        id: ClientId,
        seq: u32,
        stage: &mut Stage,
        steps: Option<u64>,
        shared: &mut Shared,
    ) {
        if std::mem::take(stage) == Stage::Plain {
            return;
        }
        self.moves.reads = self.moves.reads.saturating_sub(1);
        if let Some(hash) = steps {
            self.moves.release(hash);
            self.moves.take(seq);
        }
        self.resume_moves(id, shared);
    }

    /// A request that takes steps is over.
    pub(in crate::proxy) fn steps_over(&mut self, id: ClientId, hash: u64, shared: &mut Shared) {
        self.moves.release(hash);
        self.resume_moves(id, shared);
    }

    fn resume_moves(&self, id: ClientId, shared: &mut Shared) {
        if self.stall == Stall::Moves {
            shared.resume.push_back(id);
        }
    }
}
