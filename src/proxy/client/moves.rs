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
    /// Requests that take steps. An idle client has none, and pays a word for that.
    steps: Option<Box<Steps>>,
}

#[derive(Debug, Default)]
struct Steps {
    /// Hashes of their keys, each as often as there are.
    hashes: Vec<u64>,
    /// Of reads that create what is missing, by their slots: how their nodes are asked at last.
    texts: Vec<(u32, Box<[u8]>)>,
}

impl Moves {
    /// Whether nothing is under way.
    #[inline]
    pub(in crate::proxy) fn is_empty(&self) -> bool {
        self.reads == 0 && !self.has_steps()
    }

    fn hashes(&self) -> &[u64] {
        self.steps.as_ref().map_or(&[], |steps| &steps.hashes)
    }

    /// Whether a request for a key has to wait; `changes`: it is no mere read.
    pub(in crate::proxy) fn stops(&self, hash: u64, changes: bool) -> bool {
        changes && (self.reads > 0 || self.steps() >= MOST) || self.hashes().contains(&hash)
    }

    /// Whether a request takes steps.
    #[inline]
    pub(in crate::proxy) fn has_steps(&self) -> bool {
        self.steps() > 0
    }

    /// How many do.
    #[inline]
    pub(in crate::proxy) fn steps(&self) -> usize {
        self.hashes().len()
    }

    /// A request for a key takes steps from now on.
    pub(in crate::proxy) fn hold(&mut self, hash: u64) {
        self.steps.get_or_insert_default().hashes.push(hash);
    }

    /// It is over.
    pub(in crate::proxy) fn release(&mut self, hash: u64) {
        let Some(steps) = &mut self.steps else { return };
        if let Some(at) = steps.hashes.iter().position(|other| *other == hash) {
            steps.hashes.swap_remove(at);
        }
        self.forget();
    }

    /// Keeps how a read that creates what is missing is asked at last.
    pub(in crate::proxy) fn keep(&mut self, seq: u32, text: &[u8]) {
        self.steps.get_or_insert_default().texts.push((seq, text.into()));
    }

    /// Takes it.
    pub(in crate::proxy) fn take(&mut self, seq: u32) -> Option<Box<[u8]>> {
        let texts = &mut self.steps.as_mut()?.texts;
        let at = texts.iter().position(|(other, _)| *other == seq)?;
        let (_, text) = texts.swap_remove(at);
        self.forget();
        Some(text)
    }

    /// Gives the memory back after the last one.
    fn forget(&mut self) {
        if self.steps.as_ref().is_some_and(|steps| steps.hashes.is_empty() && steps.texts.is_empty()) {
            self.steps = None;
        }
    }

    /// Bytes of memory held.
    pub(super) fn weight(&self) -> usize {
        let Some(steps) = &self.steps else { return 0 };
        size_of::<Steps>()
            + steps.hashes.capacity() * size_of::<u64>()
            + steps.texts.capacity() * size_of::<(u32, Box<[u8]>)>()
            + steps.texts.iter().map(|(_, text)| text.len()).sum::<usize>()
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
