//! How long the longest poll of a worker took, by its thread's CPU clock: a debug counter, compiled in by the feature
//! `poll-clock` alone, for it costs two system calls a poll.
//!
//! Each new maximum above 1 ms is logged: `cargo run --release --features poll-clock -- serve …`.

#[cfg(feature = "poll-clock")]
mod clock {
    use std::cell::Cell;
    use std::time::Duration;

    use rustix::time::{ClockId, clock_gettime};

    fn now() -> Duration {
        let at = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(u64::try_from(at.tv_sec).unwrap_or(0), u32::try_from(at.tv_nsec).unwrap_or(0))
    }

    /// See the module.
    #[derive(Debug, Default)]
    pub(in crate::worker) struct PollClock {
        longest: Cell<Duration>,
    }

    impl PollClock {
        /// Runs a poll of a kind.
        pub(in crate::worker) fn time<T>(&self, kind: &'static str, poll: impl FnOnce() -> T) -> T {
            let begin = now();
            let result = poll();
            let took = now().saturating_sub(begin);
            if took > self.longest.get().max(Duration::from_millis(1)) {
                self.longest.set(took);
                tracing::info!(kind, micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX), "longest poll");
            }
            result
        }
    }
}

#[cfg(not(feature = "poll-clock"))]
mod clock {
    /// See the module.
    #[derive(Debug, Default)]
    pub(in crate::worker) struct PollClock(());

    impl PollClock {
        /// Runs a poll of a kind.
        #[inline]
        #[expect(clippy::unused_self, reason = "as where there is a clock")]
        pub(in crate::worker) fn time<T>(&self, _kind: &'static str, poll: impl FnOnce() -> T) -> T {
            poll()
        }
    }
}

pub(super) use clock::PollClock;
