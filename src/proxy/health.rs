//! When to connect to a node again: a function of its failures and of time.

use std::time::Duration;

/// The first wait, and the ceiling of the first minute of an outage.
const FIRST: Duration = Duration::from_millis(200);
const EARLY_CEILING: Duration = Duration::from_secs(1);
/// The ceiling after that minute.
const LATE_CEILING: Duration = Duration::from_secs(5);
const EARLY: Duration = Duration::from_secs(60);

/// A connection that held so long counts as a success.
const LASTING: Duration = Duration::from_secs(1);

/// What is known of a node's failures.
#[derive(Debug, Default)]
pub(super) struct Health {
    /// Failed connections since one has lasted.
    failures: u32,
    /// When the first of them was, in µs since start.
    since: u64,
    /// When a connection was last validated.
    up_since: u64,
}

impl Health {
    /// A connection has been established and validated.
    pub(super) fn succeeded(&mut self, now: u64) {
        self.up_since = now;
    }

    /// A connection failed. `random` is any number; full jitter spreads a fleet's attempts.
    /// Returns how long to wait before the next: nothing after the first failure of a connection
    /// that worked.
    pub(super) fn failed(&mut self, worked: bool, now: u64, random: u64) -> Duration {
        // A node that takes connections and drops them at once must not be asked in a tight loop.
        if worked && Duration::from_micros(now.saturating_sub(self.up_since)) >= LASTING {
            self.failures = 0;
        }
        if self.failures == 0 {
            self.since = now;
        }
        self.failures = self.failures.saturating_add(1);
        if worked && self.failures == 1 {
            return Duration::ZERO;
        }
        let outage = Duration::from_micros(now.saturating_sub(self.since));
        let ceiling = if outage < EARLY { EARLY_CEILING } else { LATE_CEILING };
        let step = FIRST.saturating_mul(1 << self.failures.min(6)).min(ceiling);
        // Never at once again: half of the step is certain.
        let jitter = u64::try_from(step.as_micros() / 2).unwrap_or(0).max(1);
        step / 2 + Duration::from_micros(random % jitter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_worked_is_tried_again_at_once_then_ever_later() {
        let mut health = Health::default();
        let mut now = 2_000_000;
        assert_eq!(health.failed(true, now, 7), Duration::ZERO);
        for _ in 0..200 {
            let wait = health.failed(false, now, 0xdead_beef_dead_beef);
            let ceiling = if now < 62_000_000 { EARLY_CEILING } else { LATE_CEILING };
            assert!(wait >= FIRST / 2 && wait <= ceiling, "{wait:?} after {now} µs");
            now += 1_000_000;
        }
        health.succeeded(now);
        assert_ne!(health.failed(true, now + 10, 7), Duration::ZERO, "one that does not last is no success");
        health.succeeded(now);
        assert_eq!(health.failed(true, now + 1_000_000, 7), Duration::ZERO);
        assert_ne!(Health::default().failed(false, 0, 7), Duration::ZERO, "a refused first connection waits");
    }
}
