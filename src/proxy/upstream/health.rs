//! Whether a node is asked, and when to connect to it again: a function of events and of time.
//!
//! ```text
//!   Connecting ──── VERSION ───▶ Up ─── silent, or a connection that cannot be made ───▶ Down
//!        └── the first connection fails ──▶ Down                                     ▲    │
//!                                                                failed ─── Probing ◀─┴─── VERSION
//!                                            Up ◀── VERSION again, 100 ms later ──┘
//! ```
//! A node is *silent* when it owed an answer for a time-out, answered nothing meanwhile on any connection, and did not
//! answer a question of our own, on a connection made for that, within the connect time-out. So a node is judged by how
//! long it was silent, however many connections there are to it; one that only paused, or is slow to answer one
//! request, stays.

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
    first_failed_at: Tick,
    /// When a connection was last validated.
    validated_at: Tick,
    /// When it last answered something.
    answered_at: Tick,
    /// When it was first asked whether it still answers at all, as long as it has answered nothing since.
    suspected_at: Option<Tick>,
    /// When the bucket of connections is full again.
    full_at: Tick,
    /// When the node is asked for the second answer that ends an outage.
    pub(in crate::proxy) probe_at: Option<Tick>,
}

impl Health {
    /// A connection has been established and validated.
    pub(in crate::proxy) fn succeeded(&mut self, now: Tick) {
        self.validated_at = now;
        self.probe_at = None;
        self.answered(now);
    }

    /// The first answer after an outage.
    pub(in crate::proxy) fn probed(&mut self, now: Tick) {
        self.probe_at = Some(now.after(PROBE_GAP));
    }

    /// The node has answered something. Returns whether that ends a suspicion.
    #[inline]
    pub(in crate::proxy) const fn answered(&mut self, now: Tick) -> bool {
        self.answered_at = now;
        self.suspected_at.take().is_some()
    }

    /// A connection was silent for a time-out while it owed a reply. Returns whether the node is to be asked, on a
    /// connection of its own, whether it still answers.
    pub(in crate::proxy) fn timed_out(&mut self, now: Tick, timeout: Duration) -> bool {
        if self.suspected_at.is_some() || self.answered_at.after(timeout.max(INTERVAL)) > now {
            return false;
        }
        self.suspected_at = Some(now);
        true
    }

    /// What is known of its silence says nothing any more.
    pub(in crate::proxy) const fn trusted(&mut self) {
        self.suspected_at = None;
    }

    /// Whether a node that was asked if it still answers has said nothing for so long.
    pub(in crate::proxy) fn is_silent(&self, now: Tick, patience: Duration) -> bool {
        self.suspected_at.is_some_and(|at| at.after(patience) <= now)
    }

    /// A connection failed. `random` is any number; full jitter spreads a fleet's attempts.
    /// Returns how long to wait before the next: nothing after the first failure of a connection
    /// that worked.
    pub(in crate::proxy) fn failed(&mut self, worked: bool, now: Tick, random: u64) -> Duration {
        self.probe_at = None;
        // A node that takes connections and drops them at once must not be asked in a tight loop.
        if worked && self.validated_at.after(LASTING) <= now {
            self.failures = 0;
        }
        if self.failures == 0 {
            self.first_failed_at = now;
        }
        self.failures = self.failures.saturating_add(1);
        if worked && self.failures == 1 {
            return Duration::ZERO;
        }
        let ceiling = if now < self.first_failed_at.after(EARLY) { EARLY_CEILING } else { LATE_CEILING };
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
    fn a_node_is_silent_when_it_answers_nothing_for_a_time_out_and_then_not_even_a_question_of_our_own() {
        let (timeout, patience) = (Duration::from_millis(500), Duration::from_millis(250));
        let mut health = Health::default();
        health.answered(at(1_000));
        assert!(!health.timed_out(at(1_400), timeout), "another connection was answered meanwhile");
        assert!(health.timed_out(at(1_500), timeout));
        assert!(!health.timed_out(at(1_510), timeout), "however many connections are silent, it is asked once");
        assert!(!health.is_silent(at(1_749), patience));
        assert!(health.is_silent(at(1_750), patience));
        assert!(health.answered(at(1_760)) && !health.is_silent(at(9_000), patience), "any answer will do");
        assert!(!health.answered(at(1_770)), "nobody was in doubt");
        assert!(health.timed_out(at(3_000), timeout));
        health.failed(true, at(3_100), 7);
        assert!(health.is_silent(at(3_250), patience), "a lost connection is no answer");
        health.trusted();
        assert!(!health.is_silent(at(9_000), patience), "what is known is asked no more");
    }

    #[test]
    fn a_node_that_is_slow_again_and_again_is_asked_rarely() {
        let mut health = Health::default();
        let mut asked = 0;
        for millis in 1_000..2_000 {
            if health.timed_out(at(millis), Duration::from_millis(1)) {
                asked += 1;
                health.answered(at(millis));
            }
        }
        assert_eq!(asked, 10);
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
