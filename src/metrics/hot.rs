//! Which keys are asked for most: a sample of the requests, in memory that does not grow.
//!
//! Each worker takes about one key in [`EVERY`] and counts it by the Space-Saving method (Metwally, Agrawal and
//! El Abbadi, "Efficient Computation of Frequent and Top-k Elements in Data Streams", 2005): a new key takes the place
//! of the least counted and inherits its count as its error. What is reported is the count less that error, so no key is
//! reported with samples that were not its own; the rest is the chance of a sample. Two windows follow each other: what
//! is shown covers the last half to whole minute.

use std::collections::HashMap;
use std::time::Duration;

use serde::Serialize;

use crate::key_name::key_name;
use crate::time::Tick;

/// One key in so many is looked at.
pub const EVERY: u32 = 32;
/// Counts are kept for one to two of these.
const WINDOW: Duration = Duration::from_secs(30);
/// Keys that are counted in each window; every key with a larger share of the samples than one in so many is among
/// them.
const CAPACITY: usize = 128;
/// Most keys that are reported.
const SHOWN: usize = 20;
/// A key with fewer samples may be there by chance.
const LEAST: u64 = 10;

type Kept = Option<Box<[u8]>>;

#[derive(Debug)]
struct Entry {
    count: u64,
    /// Of those, how many may be of keys that were here before.
    error: u64,
    /// Only where keys may be told, or the placement needs them.
    key: Kept,
}

#[derive(Debug, Default)]
struct Window {
    start: Tick,
    total: u64,
    /// Apart from the entries of the same index: they are searched for each sample.
    hashes: Vec<u64>,
    entries: Vec<Entry>,
}

impl Window {
    fn add(&mut self, hash: u64, key: Option<&[u8]>) {
        self.total += 1;
        if let Some(entry) = self.hashes.iter().position(|other| *other == hash).and_then(|at| self.entries.get_mut(at))
        {
            entry.count += 1;
            return;
        }
        let key = key.map(Box::from);
        if self.entries.len() < CAPACITY {
            self.hashes.push(hash);
            return self.entries.push(Entry { count: 1, error: 0, key });
        }
        let least = self.entries.iter_mut().zip(&mut self.hashes).min_by_key(|(entry, _)| entry.count);
        if let Some((entry, place)) = least {
            *place = hash;
            *entry = Entry { count: entry.count + 1, error: entry.count, key };
        }
    }

    fn restart(&mut self, now: Tick) {
        self.start = now;
        self.total = 0;
        self.hashes.clear();
        self.entries.clear();
    }
}

/// What one worker has counted.
#[derive(Debug, Default)]
pub struct Sketch {
    now: Window,
    before: Window,
}

impl Sketch {
    /// Counts a sample; `key` only where keys may be told, or the placement needs them.
    pub fn add(&mut self, hash: u64, key: Option<&[u8]>, now: Tick) {
        self.turn(now);
        self.now.add(hash, key);
    }

    /// Begins the window that `now` is in.
    fn turn(&mut self, now: Tick) {
        if now < self.now.start.after(WINDOW) {
            return;
        }
        let followed = now < self.now.start.after(2 * WINDOW);
        std::mem::swap(&mut self.now, &mut self.before);
        if !followed {
            self.before.restart(now);
        }
        self.now.restart(now);
    }
}

/// `/hotkeys`
#[derive(Clone, Debug, Default, Serialize)]
pub struct HotKeys {
    /// `--hot-keys`
    pub enabled: bool,
    /// Keys that were looked at in the time reported on.
    pub sampled: u64,
    /// One key in so many is looked at.
    pub every: u32,
    /// The time reported on.
    pub seconds: f64,
    /// The hottest first.
    pub keys: Vec<HotKey>,
}

/// One of [`HotKeys`].
#[derive(Clone, Debug, Serialize)]
pub struct HotKey {
    /// The key, or `#` and its hash where keys are not told.
    pub key: String,
    /// Its share of all keys asked for, 0 to 1, as the sample has it.
    pub share: f64,
    /// Times asked for in a second, as the sample has it.
    pub rate: f64,
    /// The node it lives on.
    pub node: String,
}

/// What the workers counted, as one. Keys that were kept are told with `told` alone; `owner` is the node of a hash and,
/// where it was kept, its key.
pub(super) fn report<'a>(
    sketches: impl Iterator<Item = &'a mut Sketch>,
    now: Tick,
    told: bool,
    owner: impl Fn(u64, Option<&[u8]>) -> String,
) -> HotKeys {
    let mut found: HashMap<u64, (u64, Kept)> = HashMap::new();
    let (mut sampled, mut start) = (0, now);
    for sketch in sketches {
        sketch.turn(now);
        for window in [&sketch.before, &sketch.now] {
            if window.total > 0 {
                start = start.min(window.start);
            }
            sampled += window.total;
            for (hash, entry) in window.hashes.iter().zip(&window.entries) {
                let sum = found.entry(*hash).or_insert_with(|| (0, entry.key.clone()));
                sum.0 += entry.count - entry.error;
            }
        }
    }
    let mut found: Vec<(u64, u64, Kept)> = found.into_iter().map(|(hash, (n, key))| (n, hash, key)).collect();
    found.retain(|(samples, ..)| *samples >= LEAST);
    found.sort_unstable_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
    found.truncate(SHOWN);
    let seconds = now.0.saturating_sub(start.0) as f64 / 1e6;
    let key = |(samples, hash, key): (u64, u64, Kept)| HotKey {
        key: key_name(hash, key.as_deref().filter(|_| told)),
        share: samples as f64 / sampled as f64,
        rate: samples as f64 * f64::from(EVERY) / seconds.max(1.0),
        node: owner(hash, key.as_deref()),
    };
    HotKeys { enabled: true, sampled, every: EVERY, seconds, keys: found.into_iter().map(key).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Tick {
        Tick(seconds * 1_000_000)
    }

    fn reported(sketch: &mut Sketch, now: Tick) -> HotKeys {
        report([sketch].into_iter(), now, true, |_, _| "a:1".to_owned())
    }

    #[test]
    fn hot_keys_are_found_among_many_and_never_counted_too_high() {
        let mut sketch = Sketch::default();
        // One in ten is for `hot`, one in twenty for `warm`, the others are all different.
        for i in 0..20_000_u64 {
            let (hash, key) = match i % 20 {
                0 | 10 => (1, "hot".to_owned()),
                5 => (2, "warm".to_owned()),
                _ => (1000 + i, format!("cold:{i}")),
            };
            sketch.add(hash, Some(key.as_bytes()), at(1));
        }
        let report = reported(&mut sketch, at(11));
        assert_eq!((report.sampled, report.every, report.seconds), (20_000, EVERY, 11.0));
        let [hot, warm, ..] = report.keys.as_slice() else { panic!("{report:?}") };
        assert_eq!((hot.key.as_str(), warm.key.as_str()), ("hot", "warm"));
        assert!(hot.share > 0.09 && hot.share <= 0.1, "{report:?}");
        assert!(warm.share > 0.04 && warm.share <= 0.05, "{report:?}");
        assert!(hot.rate <= 2000.0 * f64::from(EVERY) / 11.0 && hot.rate > 5000.0, "{report:?}");
        assert!(report.keys.iter().skip(2).all(|key| key.share < 0.005), "{report:?}");
        assert!(sketch.now.entries.len() == CAPACITY && report.keys.len() <= SHOWN);
    }

    #[test]
    fn what_was_hot_is_forgotten() {
        let mut sketch = Sketch::default();
        let names = |report: HotKeys| report.keys.into_iter().map(|key| key.key).collect::<Vec<_>>();
        for _ in 0..100 {
            sketch.add(1, Some(b"old"), at(1));
        }
        for _ in 0..50 {
            sketch.add(2, Some(b"new"), at(31));
        }
        assert_eq!(names(reported(&mut sketch, at(40))), ["old", "new"]);
        assert_eq!(names(reported(&mut sketch, at(62))), ["new"]);
        assert_eq!(names(reported(&mut sketch, at(130))), [""; 0]);
        let empty = reported(&mut sketch, at(131));
        assert_eq!((empty.sampled, empty.keys.len()), (0, 0));
    }

    #[test]
    fn workers_are_one_and_few_samples_are_chance() {
        let mut sketches = [Sketch::default(), Sketch::default()];
        for sketch in &mut sketches {
            for _ in 0..5 {
                sketch.add(7, None, at(1));
            }
            for _ in 0..4 {
                sketch.add(8, None, at(1));
            }
        }
        let report = report(sketches.iter_mut(), at(2), true, |hash, _| format!("node {hash}"));
        let [key] = report.keys.as_slice() else { panic!("{report:?}") };
        assert_eq!((key.key.as_str(), key.node.as_str()), ("#0000000000000007", "node 7"));
        assert_eq!((key.share, key.rate), (10.0 / 18.0, 10.0 * f64::from(EVERY) / 2.0));
    }

    #[test]
    fn a_key_that_is_kept_for_its_placement_is_not_told() {
        let mut sketch = Sketch::default();
        (0..LEAST).for_each(|_| sketch.add(7, Some(b"secret"), at(1)));
        let owner = |_, key: Option<&[u8]>| String::from_utf8_lossy(key.unwrap()).to_uppercase();
        let report = report([&mut sketch].into_iter(), at(2), false, owner);
        assert_eq!((report.keys[0].key.as_str(), report.keys[0].node.as_str()), ("#0000000000000007", "SECRET"));
    }
}
