//! What the log was told of a node: one line for each change of its state, and one more where the cause of an outage has
//! become another, whatever the number of workers and attempts.

use std::time::Duration;

use tokio::time::Instant;

use crate::metrics::{Cause, NodeState};

/// A node whose cause changes again and again is told of so often.
const AGAIN: Duration = Duration::from_secs(60);

/// What was last told of a node.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    state: NodeState,
    /// Why that was so.
    cause: Option<Cause>,
    /// When it was last told that the cause is another one.
    again_at: Option<Instant>,
}

/// A line about a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    /// It has another state.
    Change(NodeState),
    /// It has the same state for another cause.
    Still(NodeState),
}

impl Told {
    /// Writes the line about a node that is now so, for this cause, if there is something to say.
    pub(super) fn tell(&mut self, node: &str, state: NodeState, cause: Option<&Cause>, now: Instant) {
        let line = self.line(state, cause, now);
        let is_mistake = cause.is_some_and(Cause::is_mistake);
        let cause = cause.map_or_else(|| "unknown".to_owned(), ToString::to_string);
        match line {
            None => {}
            Some(Line::Change(NodeState::Up)) => tracing::info!(node, "node is up"),
            Some(Line::Change(NodeState::Degraded)) => {
                tracing::warn!(node, cause, "node is degraded: some connections to it cannot be made");
            }
            Some(Line::Change(_)) if is_mistake => tracing::error!(node, cause, "node is down"),
            Some(Line::Change(_)) => tracing::warn!(node, cause, "node is down"),
            Some(Line::Still(NodeState::Degraded)) => tracing::info!(node, cause, "node is still degraded"),
            Some(Line::Still(_)) if is_mistake => tracing::error!(node, cause, "node is still down"),
            Some(Line::Still(_)) => tracing::info!(node, cause, "node is still down"),
        }
    }

    /// When there may be a line though nothing changes meanwhile: the cause is another than the one that was told, and was
    /// told to be another shortly before.
    pub(super) fn due(&self, state: NodeState, cause: Option<&Cause>) -> Option<Instant> {
        self.has_another(state, cause).then(|| self.again_at.map(|at| at + AGAIN)).flatten()
    }

    /// A connection that is made anew and works is no change, and a node that is down is down however often it answers once.
    fn line(&mut self, state: NodeState, cause: Option<&Cause>, now: Instant) -> Option<Line> {
        if state != self.state && !matches!(state, NodeState::Connecting | NodeState::Probing) {
            (self.state, self.cause) = (state, cause.cloned());
            return Some(Line::Change(state));
        }
        if !self.has_another(state, cause) || self.again_at.is_some_and(|at| now < at + AGAIN) {
            return None;
        }
        (self.cause, self.again_at) = (cause.cloned(), Some(now));
        Some(Line::Still(self.state))
    }

    fn has_another(&self, state: NodeState, cause: Option<&Cause>) -> bool {
        let lasts = match self.state {
            NodeState::Down => matches!(state, NodeState::Down | NodeState::Probing),
            told => told == state,
        };
        lasts && state.has_cause() && cause.is_some() && cause != self.cause.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use NodeState::{Connecting, Degraded, Down, Probing, Up};

    #[test]
    fn a_change_is_told_once_and_what_works_again_at_once_is_none() {
        let (mut told, now) = (Told::default(), Instant::now());
        // At the start; a connection lost and made anew; an outage in which it answers once, twice over; short of one.
        let states = [Up, Connecting, Up, Down, Probing, Down, Connecting, Down, Probing, Up, Degraded, Connecting, Up];
        let lines = states.into_iter().filter_map(|state| told.line(state, Some(&Cause::Refused), now));
        assert_eq!(lines.collect::<Vec<_>>(), [Up, Down, Up, Degraded, Up].map(Line::Change));
    }

    #[test]
    fn another_cause_of_the_same_outage_is_told_once_a_minute_at_most() {
        let (mut told, start) = (Told::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(told.line(Down, Some(&Cause::ClosedEarly), at(0)), Some(Line::Change(Down)));
        assert_eq!(told.line(Probing, Some(&Cause::ClosedEarly), at(1)), None, "the same cause");
        assert_eq!(told.line(Connecting, Some(&Cause::Refused), at(1)), None, "it may work now");
        assert_eq!(told.line(Down, None, at(1)), None);
        assert_eq!(told.line(Down, Some(&Cause::Refused), at(1)), Some(Line::Still(Down)));
        assert_eq!(told.due(Down, Some(&Cause::Refused)), None, "nothing is left to say");
        // As where each worker has its own.
        for second in 2..61 {
            let cause = if second % 2 == 0 { Cause::Closed } else { Cause::Refused };
            assert_eq!(told.line(Down, Some(&cause), at(second)), None);
        }
        assert_eq!(told.due(Probing, Some(&Cause::Closed)), Some(at(61)), "it is looked at again then");
        assert_eq!(told.line(Probing, Some(&Cause::Closed), at(61)), Some(Line::Still(Down)));
        // The end of an outage does not begin the minute anew.
        assert_eq!(told.line(Up, None, at(62)), Some(Line::Change(Up)));
        assert_eq!(told.line(Up, Some(&Cause::Closed), at(62)), None);
        assert_eq!(told.line(Down, Some(&Cause::ClosedEarly), at(63)), Some(Line::Change(Down)));
        assert_eq!(told.line(Down, Some(&Cause::Refused), at(64)), None);
        assert_eq!(told.line(Down, Some(&Cause::Refused), at(121)), Some(Line::Still(Down)));
        assert_eq!(told.line(Degraded, Some(&Cause::Refused), at(122)), Some(Line::Change(Degraded)));
        assert_eq!(told.line(Degraded, Some(&Cause::Closed), at(200)), Some(Line::Still(Degraded)));
    }
}
