//! Whether a node is asked, and when to connect to it again: a function of events and of time.
//!
//! ```text
//!   Connecting ──── VERSION ───▶ Up ─── 3 time-outs in a row, or a connection that cannot be made ───▶ Down
//!        └── the first connection fails ──▶ Down                                                  ▲    │
//!                                                                             failed ─── Probing ◀─┴─── VERSION
//!                                                         Up ◀── VERSION again, 100 ms later ──┘
//! ```

use std::time::Duration;

use crate::time::Tick;

/// The first wait, and the ceiling of the first minute of an outage.
const FIRST: Duration = Duration::from_millis(200);
const EARLY_CEILING: Duration = Duration::from_secs(1);
/// The ceiling after that minute.
const LATE_CEILING: Duration = Duration::from_secs(5);
const EARLY: Duration = Duration::from_secs(60);
/// No attempt follows another sooner, whatever the jitter.
const LEAST: Duration = Duration::from_millis(10);

/// A connection that held so long counts as a success.
const LASTING: Duration = Duration::from_secs(1);

/// So many time-outs in a row are an outage.
const TIMEOUTS: u32 = 3;
/// Between the two answers that end an outage.
pub(in crate::proxy) const PROBE_GAP: Duration = Duration::from_millis(100);

/// The token bucket of connections that take the place of failed ones: so many at once, then one in
/// each interval. A node that restarts is met by every sidecar of the fleet. Those of large values,
/// from a node that works, are not rationed.
const BURST: u32 = 16;
const INTERVAL: Duration = Duration::from_millis(100);
/// Nobody waits longer for a token, however many were taken.
const MOST_DEBT: Duration = Duration::from_secs(1);

/// What is known of a node's failures.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Health {
    /// Failed connections since one has lasted.
    failures: u32,
    /// When the first of them was.
    since: Tick,
    /// When a connection was last validated.
    up_since: Tick,
    /// Time-outs since the node last answered.
    timeouts: u32,
    /// When the bucket of connections is full again.
    full_at: Tick,
    /// When the node is asked for the second answer that ends an outage.
    pub(in crate::proxy) probe_at: Option<Tick>,
}

impl Health {
    /// A connection has been established and validated.
    pub(in crate::proxy) fn succeeded(&mut self, now: Tick) {
        self.up_since = now;
        self.probe_at = None;
        self.timeouts = 0;
    }

    /// The first answer after an outage.
    pub(in crate::proxy) fn probed(&mut self, now: Tick) {
        self.probe_at = Some(now.after(PROBE_GAP));
    }

    /// A request was answered by the node.
    #[inline]
    pub(in crate::proxy) fn answered(&mut self) {
        self.timeouts = 0;
    }

    /// A connection was silent for a time-out while it owed a reply. Returns whether that makes an
    /// outage.
    pub(in crate::proxy) fn timed_out(&mut self) -> bool {
        self.timeouts = self.timeouts.saturating_add(1);
        self.timeouts >= TIMEOUTS
    }

    /// A connection failed. `random` is any number; full jitter spreads a fleet's attempts.
    /// Returns how long to wait before the next: nothing after the first failure of a connection
    /// that worked.
    pub(in crate::proxy) fn failed(&mut self, worked: bool, now: Tick, random: u64) -> Duration {
        self.probe_at = None;
        // A node that takes connections and drops them at once must not be asked in a tight loop.
        if worked && self.up_since.after(LASTING) <= now {
            self.failures = 0;
        }
        if self.failures == 0 {
            self.since = now;
        }
        self.failures = self.failures.saturating_add(1);
        if worked && self.failures == 1 && self.timeouts < TIMEOUTS {
            return Duration::ZERO;
        }
        let ceiling = if now < self.since.after(EARLY) { EARLY_CEILING } else { LATE_CEILING };
        let step = FIRST.saturating_mul(1 << (self.failures - 1).min(6)).min(ceiling);
        let micros = u64::try_from(step.as_micros()).unwrap_or(0).max(1);
        Duration::from_micros(random % micros).max(LEAST)
    }

    /// Takes a token for one connection. Returns how long it has to wait for it.
    pub(in crate::proxy) fn take_token(&mut self, now: Tick) -> Duration {
        let full = now.after(INTERVAL * BURST);
        self.full_at = self.full_at.max(now).after(INTERVAL).min(full.after(MOST_DEBT));
        Duration::from_micros(self.full_at.0.saturating_sub(full.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Tick {
        Tick(millis * 1000)
    }

    #[test]
    fn a_node_that_worked_is_tried_again_at_once_then_ever_later() {
        let mut health = Health::default();
        let mut now = 2_000;
        assert_eq!(health.failed(true, at(now), 7), Duration::ZERO);
        let mut longest = Duration::ZERO;
        for random in 0..200_u64 {
            let wait = health.failed(false, at(now), random.wrapping_mul(0x9E37_79B9_7F4A_7C15));
            let ceiling = if now < 62_000 { EARLY_CEILING } else { LATE_CEILING };
            assert!(wait >= LEAST && wait <= ceiling, "{wait:?} after {now} ms");
            longest = longest.max(wait);
            now += 1_000;
        }
        assert!(longest > EARLY_CEILING, "later waits are longer: {longest:?}");
        health.succeeded(at(now));
        assert_ne!(health.failed(true, at(now), 7), Duration::ZERO, "one that does not last is no success");
        health.succeeded(at(now));
        assert_eq!(health.failed(true, at(now + 1_000), 7), Duration::ZERO);
        assert_ne!(Health::default().failed(false, at(0), 7), Duration::ZERO, "a refused first connection waits");
    }

    #[test]
    fn three_time_outs_in_a_row_are_an_outage_and_any_answer_breaks_the_row() {
        let mut health = Health::default();
        assert!(!health.timed_out() && !health.timed_out());
        health.answered();
        assert!(!health.timed_out() && !health.timed_out() && health.timed_out());
        assert_ne!(health.failed(true, at(5_000), 7), Duration::ZERO, "a node that is silent is not asked at once");
    }

    #[test]
    fn connections_are_rationed() {
        let mut health = Health::default();
        let waits: Vec<Duration> = (0..BURST + 3).map(|_| health.take_token(at(1))).collect();
        let (burst, further) = waits.split_at(BURST as usize);
        assert!(burst.iter().all(Duration::is_zero), "{waits:?}");
        assert_eq!(further, [INTERVAL, INTERVAL * 2, INTERVAL * 3]);
        assert_eq!((0..1000).map(|_| health.take_token(at(1))).max(), Some(MOST_DEBT));
        assert_eq!(health.take_token(at(10_000)), Duration::ZERO, "the bucket fills again");
    }
}
