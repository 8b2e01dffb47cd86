//! What is known of keys that many clients read and write at once, and what that leaves possible for a read.
//!
//! A write has a number that goes up with its beginning, and the time at which it was known to be done; both come from one
//! clock that all connections share. A write that was done before another began, which was done before a read began, can
//! no longer be read. Nothing is said of writes that overlap, for a node may take these in any order.
use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Not known to be done, now or ever.
const UNKNOWN: u64 = u64::MAX;
/// Deletes of a key that a miss is looked for among.
const DELETES: usize = 256;

pub(crate) struct History {
    clock: AtomicU64,
    /// By the number of a write.
    done_at: Vec<AtomicU64>,
    /// By the number of a write: it was replaced by one that compared its unique.
    replaced: Vec<AtomicBool>,
    keys: Vec<Key>,
    counters: Vec<Counter>,
}

#[derive(Default)]
struct Key {
    /// The latest beginning of a write that is known to be done.
    floor: AtomicU64,
    /// The latest deletes, the first of which is that there was nothing to begin with.
    deletes: Mutex<VecDeque<u64>>,
}

/// Counts up by one, from 0.
#[derive(Default)]
struct Counter {
    sent: AtomicU64,
    done: AtomicU64,
    highest: AtomicU64,
    seen: Mutex<HashSet<u64>>,
}

type Verdict = Result<(), String>;

impl History {
    /// Of so many keys and counters; there may be so many writes.
    pub(crate) fn new(keys: usize, counters: usize, writes: usize) -> Self {
        // Each takes the clock twice; the first number is what was before all of them.
        let history = Self {
            clock: AtomicU64::new(1),
            done_at: (0..2 * writes).map(|_| AtomicU64::new(UNKNOWN)).collect(),
            replaced: (0..2 * writes).map(|_| AtomicBool::new(false)).collect(),
            keys: (0..keys).map(|_| Key { deletes: Mutex::new([0].into()), ..Key::default() }).collect(),
            counters: (0..counters).map(|_| Counter::default()).collect(),
        };
        history.done_at[0].store(0, Ordering::SeqCst);
        history
    }

    pub(crate) fn now(&self) -> u64 {
        self.clock.load(Ordering::SeqCst)
    }

    /// The number of a write that is about to be sent.
    pub(crate) fn begin(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    /// As [`History::begin`], of one that leaves nothing at this key.
    pub(crate) fn begin_delete(&self, key: usize) -> u64 {
        let number = self.begin();
        let mut deletes = self.keys[key].deletes.lock().unwrap_or_else(PoisonError::into_inner);
        deletes.push_back(number);
        if deletes.len() > DELETES {
            deletes.pop_front();
        }
        number
    }

    /// The write of this number was carried out.
    pub(crate) fn done(&self, key: usize, number: u64) {
        self.done_at[number as usize].store(self.begin(), Ordering::SeqCst);
        self.keys[key].floor.fetch_max(number, Ordering::SeqCst);
    }

    /// A read that is sent now may not find what was done before the write of this number began.
    pub(crate) fn floor(&self, key: usize) -> u64 {
        self.keys[key].floor.load(Ordering::SeqCst)
    }

    /// A read with this floor found what the write of this number wrote.
    pub(crate) fn found(&self, number: u64, floor: u64) -> Verdict {
        if number == 0 || number >= self.now() {
            return Err(format!("number {number} was never written"));
        }
        let done_at = self.done_at[number as usize].load(Ordering::SeqCst);
        if done_at >= floor { Ok(()) } else { Err(format!("{number}, done at {done_at}, was replaced by {floor}")) }
    }

    /// A read with this floor found nothing.
    pub(crate) fn missed(&self, key: usize, floor: u64) -> Verdict {
        let deletes = self.keys[key].deletes.lock().unwrap_or_else(PoisonError::into_inner);
        let possible = deletes.iter().any(|&number| self.done_at[number as usize].load(Ordering::SeqCst) >= floor);
        if possible { Ok(()) } else { Err(format!("missing, and {floor} was not deleted")) }
    }

    /// A write that compared the unique of what this number wrote was carried out.
    pub(crate) fn replaced(&self, number: u64) -> Verdict {
        let twice = self.replaced[number as usize].swap(true, Ordering::SeqCst);
        if twice { Err(format!("{number} was replaced twice by writes that compared it")) } else { Ok(()) }
    }

    /// A counter is about to be counted up; gives what its number will be above.
    pub(crate) fn count(&self, counter: usize) -> u64 {
        let counter = &self.counters[counter];
        counter.sent.fetch_add(1, Ordering::SeqCst);
        counter.highest.load(Ordering::SeqCst)
    }

    /// It was counted up, whatever to.
    pub(crate) fn counted(&self, counter: usize) {
        self.counters[counter].done.fetch_add(1, Ordering::SeqCst);
    }

    /// It was counted up to this number, which was to be above that one.
    pub(crate) fn counted_to(&self, counter: usize, number: u64, above: u64) -> Verdict {
        self.counted(counter);
        let counter = &self.counters[counter];
        counter.highest.fetch_max(number, Ordering::SeqCst);
        let first = counter.seen.lock().unwrap_or_else(PoisonError::into_inner).insert(number);
        if first && number > above {
            Ok(())
        } else {
            Err(format!("counted to {number}, behind {above}, first: {first}"))
        }
    }

    /// What it is when nobody counts any more.
    pub(crate) fn counter_is(&self, counter: usize, number: u64) -> Verdict {
        let counter = &self.counters[counter];
        let possible = counter.done.load(Ordering::SeqCst)..=counter.sent.load(Ordering::SeqCst);
        if possible.contains(&number) { Ok(()) } else { Err(format!("counted {possible:?} times, and is {number}")) }
    }
}

#[test]
fn the_history_sees_what_is_stale_missing_or_counted_twice() {
    let history = History::new(2, 1, 100);
    history.missed(0, history.floor(0)).unwrap();
    history.found(1, 0).unwrap_err();

    let first = history.begin();
    // While it is under way all is possible.
    history.found(first, history.floor(0)).unwrap();
    history.missed(0, history.floor(0)).unwrap();
    let early = history.floor(0);
    history.done(0, first);
    history.missed(0, history.floor(0)).unwrap_err();
    history.missed(0, early).unwrap();

    let (second, third) = (history.begin(), history.begin());
    history.done(0, third);
    history.done(0, second);
    // The first ended before the others began, and these in any order.
    history.found(first, history.floor(0)).unwrap_err();
    history.found(second, history.floor(0)).unwrap();
    history.found(third, history.floor(0)).unwrap();

    let delete = history.begin_delete(0);
    history.missed(0, history.floor(0)).unwrap();
    history.done(0, delete);
    history.missed(0, history.floor(0)).unwrap();
    history.found(third, history.floor(0)).unwrap_err();
    history.missed(1, history.floor(1)).unwrap();

    history.replaced(third).unwrap();
    history.replaced(third).unwrap_err();

    let above = history.count(0);
    history.counted_to(0, 1, above).unwrap();
    let above = history.count(0);
    history.counted_to(0, 1, above).unwrap_err();
    history.counter_is(0, 2).unwrap();
    history.counter_is(0, 1).unwrap_err();
    history.counter_is(0, 3).unwrap_err();
}
