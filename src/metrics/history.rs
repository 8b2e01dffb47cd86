//! The last ten minutes of what the page's charts show, in memory that does not grow: about 13 KB.
//!
//! There is no timer. Who is awake anyway brings it up to date: a worker at each of its ticks, which come while there is
//! traffic, and who reads it. Where nobody was awake nothing happened: the slots of such a gap are filled, with nothing,
//! by the next one.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::Serialize;

use super::{Cells, Counter, DURATIONS, Outcome, micros};
use crate::protocol::command::Command;
use crate::time::Tick;

/// What is counted together.
const SLOT: Duration = Duration::from_secs(5);
/// Slots that are kept, besides the one that is not over yet: ten minutes.
const SLOTS: usize = 120;
/// What [`Totals::counts`] begins with. Then follow the durations of requests, by bucket.
const COUNTS: [&str; 8] =
    ["commands", "keys", "hits", "lookups", "client_errors", "server_errors", "soft_failures", "before_hits"];
/// What [`Totals::gauges`] holds.
const GAUGES: [&str; 2] = ["connections", "buffer_bytes"];
const BUCKETS: usize = DURATIONS.len() + 1;

/// Counters and gauges at one moment, all workers together.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Totals {
    counts: [u64; COUNTS.len() + BUCKETS],
    gauges: [u64; GAUGES.len()],
}

impl Totals {
    /// What the workers have counted by now.
    pub(super) fn of(cells: &Cells) -> Self {
        let [mut commands, mut keys, mut hits, mut lookups] = [0; 4];
        let [mut client_errors, mut server_errors, mut soft_failures] = [0; 3];
        let (mut before_hits, mut buckets) = (0, [0; BUCKETS]);
        for worker in &cells.workers {
            commands += worker.commands.iter().map(Counter::get).sum::<u64>();
            before_hits += worker.before_reads.first().map_or(0, Counter::get);
            soft_failures += worker.soft.iter().flatten().map(Counter::get).sum::<u64>();
            for (command, row) in Command::ALL.into_iter().zip(&worker.requests) {
                for (outcome, count) in Outcome::ALL.into_iter().zip(row) {
                    let count = count.get();
                    keys += count;
                    match outcome {
                        Outcome::Hit | Outcome::Miss | Outcome::SoftMiss if command.is_read() => {
                            lookups += count;
                            hits += if outcome == Outcome::Hit { count } else { 0 };
                        }
                        Outcome::ClientError => client_errors += count,
                        Outcome::ServerError | Outcome::SoftError => server_errors += count,
                        _ => {}
                    }
                }
            }
            for histogram in &worker.durations {
                histogram.add_to(&mut buckets);
            }
        }
        let mut totals = Self {
            counts: [0; COUNTS.len() + BUCKETS],
            gauges: [cells.sum(|c| &c.connections), cells.sum(|c| &c.buffered)],
        };
        let counts = [commands, keys, hits, lookups, client_errors, server_errors, soft_failures, before_hits];
        for (to, from) in totals.counts.iter_mut().zip(counts.into_iter().chain(buckets)) {
            *to = from;
        }
        totals
    }
}

/// What happened in one slot: how far the counters rose, and the highest values of the gauges.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    counts: [u32; COUNTS.len() + BUCKETS],
    gauges: [u64; GAUGES.len()],
}

/// See the module.
#[derive(Debug)]
pub(super) struct History {
    /// The last one is not over yet.
    slots: VecDeque<Slot>,
    /// The number of the last one; the first since the start is 0.
    newest: u64,
    /// When last looked.
    before: Totals,
}

impl Default for History {
    fn default() -> Self {
        let mut slots = VecDeque::with_capacity(SLOTS + 1);
        slots.push_back(Slot::default());
        Self { slots, newest: 0, before: Totals::default() }
    }
}

impl History {
    /// Brings it up to date. What was counted since the last time belongs to the slot that runs: as long as something is
    /// counted, this is called at each tick, many times in a slot.
    pub(super) fn update(&mut self, now: Tick, totals: &Totals) {
        // The workers do not look at the clock at the same instant: one that is behind never opens a slot again.
        let number = (now.0 / micros(SLOT)).max(self.newest);
        let gap = usize::try_from(number - self.newest).unwrap_or(usize::MAX);
        for _ in 0..gap.min(SLOTS + 1) {
            if self.slots.len() > SLOTS {
                self.slots.pop_front();
            }
            self.slots.push_back(Slot { gauges: self.before.gauges, ..Slot::default() });
        }
        self.newest = number;
        if let Some(slot) = self.slots.back_mut() {
            for ((sum, after), before) in slot.counts.iter_mut().zip(totals.counts).zip(self.before.counts) {
                *sum = sum.saturating_add(u32::try_from(after.saturating_sub(before)).unwrap_or(u32::MAX));
            }
            for (most, value) in slot.gauges.iter_mut().zip(totals.gauges) {
                *most = value.max(*most);
            }
        }
        self.before = *totals;
    }

    /// What is known at `now`, which is `unix` seconds of Unix time. It must have been brought up to date.
    #[expect(clippy::cast_precision_loss, reason = "microseconds of a slot, and of a bucket")]
    pub(super) fn report(&self, now: Tick, unix: f64) -> HistoryReport {
        let count =
            |at: usize| self.slots.iter().map(move |slot| slot.counts.get(at).map_or(0, |count| (*count).into()));
        let gauge = |at: usize| self.slots.iter().map(move |slot| slot.gauges.get(at).copied().unwrap_or_default());
        let counts = COUNTS.into_iter().zip(0..).map(|(name, at)| (name, count(at).collect()));
        let gauges = GAUGES.into_iter().zip(0..).map(|(name, at)| (name, gauge(at).collect()));
        HistoryReport {
            now: unix,
            slot_seconds: SLOT.as_secs(),
            last_slot_seconds: now.0.saturating_sub(self.newest * micros(SLOT)) as f64 / 1e6,
            series: counts.chain(gauges).collect(),
            durations: self.slots.iter().map(|slot| slot.counts.iter().skip(COUNTS.len()).copied().collect()).collect(),
            duration_bounds: DURATIONS.into_iter().map(|bound| bound as f64 / 1e6).collect(),
        }
    }
}

/// `/history`: the last ten minutes, or the time since the start, in slots of equal length. In each list the oldest slot
/// is the first and the last one is not over yet.
#[derive(Clone, Debug, Default, Serialize)]
pub struct HistoryReport {
    /// When this was, in seconds of Unix time: the end of the last slot.
    pub now: f64,
    /// Length of a slot.
    pub slot_seconds: u64,
    /// How long the last slot has run.
    pub last_slot_seconds: f64,
    /// By name. Counted in each slot: `commands`; `keys`, of reads, and else requests; `lookups`, keys of reads that were
    /// hits or misses, and `hits` of them; `client_errors`, `server_errors` and `soft_failures`, in keys or requests;
    /// `before_hits`, keys that were found at their old place. The highest value in each slot: `connections` of clients and `buffer_bytes`.
    #[serde(flatten)]
    pub series: BTreeMap<&'static str, Vec<u64>>,
    /// Commands of each slot by how long they took; as many as there are bounds, and one more for those above.
    pub durations: Vec<Vec<u32>>,
    /// The upper bounds of the durations, in seconds.
    pub duration_bounds: Vec<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Kind, Reason};

    fn at(seconds: f64) -> Tick {
        Tick::default().after(Duration::from_secs_f64(seconds))
    }

    fn series<'a>(report: &'a HistoryReport, name: &str) -> &'a [u64] {
        &report.series[name]
    }

    #[test]
    fn what_is_counted_lies_in_the_slot_of_its_time_and_gaps_are_empty() {
        let cells = Cells::new(2);
        for worker in [0, 1, 1] {
            cells.worker(worker).command(Command::Get);
        }
        cells.update_history(at(4.9));
        cells.worker(0).command(Command::Set);
        cells.update_history(at(5.1));
        // Then nobody is awake, until the next request.
        cells.worker(1).command(Command::Touch);
        cells.update_history(at(21.0));
        let report = cells.history(at(27.5), 1000.25);
        assert_eq!(series(&report, "commands"), [3, 1, 0, 0, 1, 0]);
        assert_eq!((report.now, report.slot_seconds, report.last_slot_seconds), (1000.25, 5, 2.5));
    }

    #[test]
    fn it_says_what_the_charts_show() {
        let cells = Cells::new(2);
        let worker = cells.worker(0);
        for (command, outcome) in [
            (Command::Get, Outcome::Hit),
            (Command::MetaGet, Outcome::Miss),
            (Command::Set, Outcome::ClientError),
            (Command::Set, Outcome::ServerError),
        ] {
            worker.request(command, outcome, 10);
        }
        worker.soft(Command::Gets, Reason::Down, 3, true);
        cells.worker(1).soft(Command::Set, Reason::Down, 4, false);
        worker.before_reads[0].add(5);
        worker.took(Kind::from(Command::Get), Duration::from_micros(60));
        worker.took(Kind::from(Command::Get), Duration::from_secs(9));
        let report = cells.history(at(1.0), 0.0);
        let sums = COUNTS.map(|name| series(&report, name)[0]);
        assert_eq!(sums, [0, 47, 10, 23, 10, 14, 7, 5]);
        let durations = &report.durations[0];
        assert_eq!((durations.len(), durations[1], durations[14]), (report.duration_bounds.len() + 1, 1, 1));
        assert_eq!((durations.iter().sum::<u32>(), report.duration_bounds[1]), (2, 0.0001));
    }

    #[test]
    fn of_gauges_the_highest_value_counts_and_lasts_until_another_is_seen() {
        let cells = Cells::new(1);
        for (seconds, clients) in [(1.0, 4), (2.0, 9), (3.0, 2), (16.0, 1)] {
            cells.worker(0).connections.set(clients);
            cells.update_history(at(seconds));
        }
        assert_eq!(series(&cells.history(at(20.0), 0.0), "connections"), [9, 2, 2, 2, 1]);
    }

    #[test]
    fn ten_minutes_are_kept_in_memory_that_does_not_grow() {
        let cells = Cells::new(1);
        let room = cells.history.lock().unwrap().slots.capacity();
        for second in 0..3000_u32 {
            cells.worker(0).command(Command::Get);
            cells.update_history(at(f64::from(second)));
        }
        let report = cells.history(at(3000.0), 0.0);
        assert_eq!(series(&report, "commands").len(), SLOTS + 1);
        assert_eq!(series(&report, "commands").iter().sum::<u64>(), 600);
        // A gap longer than that leaves nothing of what was.
        let report = cells.history(at(90_000.0), 0.0);
        assert_eq!(series(&report, "commands"), [0; SLOTS + 1]);
        assert_eq!(cells.history.lock().unwrap().slots.capacity(), room);
        assert!(room * size_of::<Slot>() < 32 << 10);
    }

    #[test]
    fn a_clock_that_is_behind_opens_no_slot() {
        let cells = Cells::new(2);
        cells.update_history(at(10.01));
        cells.worker(1).command(Command::Get);
        cells.update_history(at(9.99));
        assert_eq!(series(&cells.history(at(10.02), 0.0), "commands"), [0, 0, 1]);
    }

    #[test]
    fn a_worker_waits_for_nobody() {
        let cells = Cells::new(1);
        let held = cells.history.lock().unwrap();
        cells.worker(0).command(Command::Get);
        cells.update_history(at(1.0));
        drop(held);
        assert_eq!(series(&cells.history(at(2.0), 0.0), "commands"), [1]);
    }
}
