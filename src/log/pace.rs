//! How often a line is written whose reason lasts.

use std::time::Duration;

use tokio::time::Instant;

/// Lets a line through once in a while.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    gap: Duration,
    told_at: Option<Instant>,
}

/// Lets a line through when something begins, once in a while at most.
#[derive(Clone, Copy, Debug)]
pub struct Onset {
    pace: Pace,
    lasts: bool,
}

impl Pace {
    /// At most one line in `gap`.
    #[must_use]
    pub const fn every(gap: Duration) -> Self {
        Self { gap, told_at: None }
    }

    /// Whether a line may be written now; then it counts as written.
    #[must_use]
    pub fn allows(&mut self, now: Instant) -> bool {
        let allows = self.told_at.is_none_or(|told_at| now >= told_at + self.gap);
        if allows {
            self.told_at = Some(now);
        }
        allows
    }

    /// A line was written, whether it was due or not.
    pub const fn told(&mut self, now: Instant) {
        self.told_at = Some(now);
    }
}

impl Onset {
    /// At most one line in `gap`, however often it ends and begins.
    #[must_use]
    pub const fn every(gap: Duration) -> Self {
        Self { pace: Pace::every(gap), lasts: false }
    }

    /// It begins, or goes on. Returns whether that is to be told.
    #[must_use]
    pub fn begins(&mut self, now: Instant) -> bool {
        !std::mem::replace(&mut self.lasts, true) && self.pace.allows(now)
    }

    /// It is over.
    pub const fn ends(&mut self) {
        self.lasts = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_written_once_in_a_gap() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut pace = Pace::every(Duration::from_secs(60));
        let written = [0, 1, 59, 60, 61, 119, 120, 500, 501].map(|second| pace.allows(at(second)));
        assert_eq!(written, [true, false, false, true, false, false, true, true, false]);
        pace.told(at(530));
        assert!(!pace.allows(at(561)) && pace.allows(at(590)));
    }

    #[test]
    fn what_lasts_is_told_when_it_begins() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut onset = Onset::every(Duration::from_secs(60));
        assert!(onset.begins(at(0)));
        assert!((1..200).all(|second| !onset.begins(at(second))), "it goes on");
        onset.ends();
        assert!(onset.begins(at(200)));
        onset.ends();
        assert!(!onset.begins(at(201)), "it comes and goes");
        assert!(!onset.begins(at(300)), "it was told of");
        onset.ends();
        assert!(onset.begins(at(301)));
    }
}
