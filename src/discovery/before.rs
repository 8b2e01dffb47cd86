//! The ring before a planned change as the operator declares it: from a list, from the file of the nodes, or from a file of its
//! own; and what is made of it when it changes or vanishes.
//!
//! It is to end in two steps: `ending:LIST`, and away when every sidecar shows that. One that vanishes without the first is
//! treated as ending for some minutes: other sidecars may still read old places, and go on while this one would not invalidate
//! them any more.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::file::read_before;
use super::nodes::{NodeListError, parse_nodes};
use super::own::Own;
use super::slips;
use crate::routing::{Node, Phase, Placement, PlacementError, Topology, TopologyError};

/// So long old places are still invalidated after the ring before has vanished without `ending:`.
const VANISHED: Duration = Duration::from_secs(300);

/// What stands before the list that is about to be taken away.
pub(super) const ENDING: &str = "ending:";

/// What a line begins with that tells of the ring before in a file of its own: it is not the source of nodes that is wrong.
pub(super) const OWN_FILE: &str = "ring before in ";

/// The ring before, as it was declared.
#[derive(Debug, Clone, PartialEq)]
pub struct Declared {
    /// At least one, all different; as listed.
    pub nodes: Vec<Node>,
    /// What old places are used for.
    pub phase: Phase,
    /// Where keys lived.
    pub placement: Arc<Placement>,
}

/// Where the ring before is declared.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum BeforeSource {
    /// Nowhere, or in the file that the nodes come from.
    #[default]
    WithNodes,
    /// By an option: it stays as it is.
    List(Declared),
    /// In a file of its own, or in a directory with the keys `MEMCACHED_NODES_BEFORE`, `SLIPRING_PLACEMENT_BEFORE` and
    /// `MEMCACHED_PORT`; and what it held when it was first read, or what was wrong with that, in a line.
    File(PathBuf, Result<Option<Declared>, String>),
}

/// Why a declaration was refused: one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BeforeError {
    /// The list.
    #[error(transparent)]
    List(#[from] NodeListError),
    /// The placement.
    #[error(transparent)]
    Placement(#[from] PlacementError),
    /// The nodes make no ring there.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// A slip in `ending:LIST` would add a node that nobody has.
    #[error("{0:?} is no node: to end the ring before, write \"ending:\" and the list behind it, without a blank")]
    Ending(String),
    /// A slip in the word `ending:`.
    #[error("{0}")]
    Word(String),
    /// A line that is no list, by its number.
    #[error("line {0}: {1}")]
    Line(usize, String),
    /// Several lists, or several placements.
    #[error("{0} is given twice")]
    Twice(&'static str),
}

/// A change of what is in use, as it is told.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// It is there, or another one is.
    Declared,
    /// Another one is there, and the one before it was still read.
    Replaced,
    /// The same in another phase.
    Phase,
    /// It was taken away as it is to be.
    Ended,
    /// It was taken away while old places were read.
    Vanished,
    /// It is forgotten now.
    Forgotten,
}

/// What is in use of what was declared.
#[derive(Debug, Default)]
pub(super) struct InUse {
    declared: Option<Declared>,
    /// When what has vanished is forgotten.
    forgotten_at: Option<Instant>,
}

// === impl BeforeSource ===

impl BeforeSource {
    /// A file of its own, or a directory, as it is now. The ring before may have none of `own` alone.
    #[must_use]
    pub fn file(path: PathBuf, node_port: u16, placement: &Arc<Placement>, own: &Own) -> Self {
        let read = read_before(&path, node_port, placement);
        let declared = read.and_then(|declared| {
            declared.iter().try_for_each(|declared| own.refuse(&declared.nodes))?;
            Ok(declared)
        });
        let declared = declared.map_err(|problem| wrong(&path, &problem));
        Self::File(path, declared)
    }
}

/// What is told of a file of its own that is wrong.
pub(super) fn wrong(path: &Path, problem: &str) -> String {
    format!("{OWN_FILE}{}: {problem}", path.display())
}

// === impl Declared ===

impl Declared {
    /// Reads `LIST` or `ending:LIST`. Nodes without a port get `default_port`.
    ///
    /// # Errors
    /// When it is no list of nodes, or makes no ring in the placement.
    pub fn parse(text: &str, default_port: u16, placement: &Arc<Placement>) -> Result<Self, BeforeError> {
        let text = text.trim();
        let (phase, list) = match text.strip_prefix(ENDING) {
            Some(list) => (Phase::Ending, list),
            None => (Phase::Reading, text),
        };
        if let Some(problem) = slips::of_declaration(list) {
            return Err(BeforeError::Word(problem));
        }
        let declared = Self { nodes: parse_nodes(list, default_port)?, phase, placement: Arc::clone(placement) };
        if let Some(slip) = declared.nodes.iter().find(|node| node.host.trim_end_matches(':') == "ending") {
            return Err(BeforeError::Ending(slip.host.to_string()));
        }
        declared.topology()?;
        Ok(declared)
    }

    /// Its ring.
    ///
    /// # Errors
    /// When the nodes make none in the placement.
    pub fn topology(&self) -> Result<Topology, TopologyError> {
        Topology::placed(0, self.nodes.iter().cloned().map(Arc::new).collect(), &self.placement)
    }

    /// As it is written down.
    #[must_use]
    pub fn listed(&self) -> String {
        self.nodes.iter().map(Node::entry).collect::<Vec<_>>().join(",")
    }

    fn is_same_ring(&self, other: &Self) -> bool {
        (&self.nodes, &self.placement) == (&other.nodes, &other.placement)
    }
}

impl fmt::Display for Declared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ending = if self.phase == Phase::Ending { ENDING } else { "" };
        write!(f, "{ending}{} by {}", self.listed(), self.placement)
    }
}

// === impl InUse ===

impl InUse {
    /// The ring before, as it is to be used now.
    pub(super) fn declared(&self) -> Option<&Declared> {
        self.declared.as_ref()
    }

    /// Whether it is used though it has vanished.
    pub(super) fn has_vanished(&self) -> bool {
        self.forgotten_at.is_some()
    }

    /// When [`tick`](Self::tick) makes a difference.
    pub(super) fn due(&self) -> Option<Instant> {
        self.forgotten_at
    }

    /// Takes what is declared now.
    pub(super) fn observe(&mut self, declared: Option<&Declared>, now: Instant) -> Option<Told> {
        let Some(declared) = declared else { return self.vanish(now) };
        let told = match &self.declared {
            Some(before) if before == declared => None,
            Some(before) if before.is_same_ring(declared) => Some(Told::Phase),
            Some(before) if before.phase == Phase::Reading => Some(Told::Replaced),
            _ => Some(Told::Declared),
        };
        self.forgotten_at = None;
        self.declared = Some(declared.clone());
        told
    }

    fn vanish(&mut self, now: Instant) -> Option<Told> {
        let declared = self.declared.as_mut().filter(|_| self.forgotten_at.is_none())?;
        if declared.phase == Phase::Ending {
            self.declared = None;
            return Some(Told::Ended);
        }
        declared.phase = Phase::Ending;
        self.forgotten_at = Some(now + VANISHED);
        Some(Told::Vanished)
    }

    /// Time has passed.
    pub(super) fn tick(&mut self, now: Instant) -> Option<Told> {
        self.forgotten_at.filter(|at| *at <= now)?;
        *self = Self::default();
        Some(Told::Forgotten)
    }
}

// === impl Told ===

impl Told {
    /// Writes the line about it, and returns the reason of the new ring.
    pub(super) fn tell(&self, declared: Option<&Declared>) -> String {
        let list = declared.map(ToString::to_string).unwrap_or_default();
        match self {
            Self::Declared => {
                tracing::info!(before = %list, "the ring before is declared: moved keys keep their old place");
            }
            Self::Replaced => tracing::warn!(
                before = %list,
                "a ring before replaced another one without `ending:` in between: sidecars that still read the old places of the \
                 other may return deleted values"
            ),
            Self::Phase if declared.is_some_and(|declared| declared.phase == Phase::Ending) => {
                tracing::info!(before = %list, "the ring before is ending: slipring reads no old places any more, but still invalidates them");
            }
            Self::Phase => tracing::info!(before = %list, "slipring reads old places again"),
            Self::Ended => tracing::info!("the ring before has ended"),
            Self::Vanished => tracing::warn!(
                before = %list,
                "the ring before has vanished without `ending:`: slipring reads no old places any more, and still invalidates \
                 them for {} min, because other sidecars may read them",
                VANISHED.as_secs() / 60
            ),
            Self::Forgotten => tracing::info!("slipring no longer invalidates old places: the ring before is over"),
        }
        let reason = match self {
            Self::Declared | Self::Replaced => "ring before declared",
            Self::Phase if declared.is_some_and(|declared| declared.phase == Phase::Ending) => "ring before ends",
            Self::Phase => "ring before is read again",
            Self::Ended | Self::Forgotten => "ring before taken away",
            Self::Vanished => "ring before vanished without ending:",
        };
        reason.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declared(text: &str) -> Declared {
        Declared::parse(text, 1, &Arc::default()).unwrap()
    }

    #[test]
    fn a_list_and_its_end_are_read() {
        let all = declared("a,b:2=3 , [::1]:7/x");
        assert_eq!((all.phase, all.listed().as_str()), (Phase::Reading, "a:1,b:2=3,[::1]:7/x"));
        let ending = declared(" ending: a;b\n");
        assert_eq!((ending.phase, ending.listed().as_str()), (Phase::Ending, "a:1,b:1"));
        assert_eq!(ending.to_string(), "ending:a:1,b:1 by ring");
        assert_eq!(declared(&all.listed()), all, "what is written can be read");
        let refused = |text: &str| Declared::parse(text, 1, &Arc::new("gomemcache".parse().unwrap())).unwrap_err();
        assert_eq!(refused("ending:").to_string(), "the list of nodes is empty");
        for slip in ["ending", "ending a", "a,ending:1"] {
            assert!(refused(slip).to_string().starts_with("\"ending\" is no node: "), "{slip}");
        }
        for slip in ["endng:a", "Ending:a,b", "endig: a", "endng:10.0.0.2:11211,10.0.0.3", "endng:10.0.0.2"] {
            let word = slip.split(':').next().unwrap();
            let said = format!("\"{word}:\" means nothing; the most similar word is ending:");
            assert_eq!(refused(slip).to_string(), said);
        }
        assert_eq!(declared("ending2:5,endings:11211").phase, Phase::Reading, "hosts of such names, with their ports");
        assert_eq!(refused("a,a").to_string(), "node \"a\" is listed twice");
        assert_eq!(refused("a=2").to_string(), "placement gomemcache has no weights, but a:1 has one");
    }

    #[test]
    fn what_vanishes_is_invalidated_for_five_minutes_and_what_ends_is_not() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut in_use = InUse::default();
        let (reading, ending, other) = (declared("a,b"), declared("ending:a,b"), declared("c"));
        assert_eq!(in_use.observe(None, at(0)), None);
        assert_eq!(in_use.observe(Some(&reading), at(1)), Some(Told::Declared));
        assert_eq!(in_use.observe(Some(&reading), at(2)), None);
        assert_eq!(in_use.observe(None, at(3)), Some(Told::Vanished));
        assert_eq!((in_use.declared(), in_use.due()), (Some(&ending), Some(at(303))));
        assert_eq!(in_use.observe(None, at(4)), None, "the five minutes are those of the first look");
        assert_eq!((in_use.tick(at(302)), in_use.has_vanished()), (None, true));
        assert_eq!(in_use.tick(at(303)), Some(Told::Forgotten));
        assert_eq!((in_use.declared(), in_use.due()), (None, None));
        assert_eq!(in_use.tick(at(999)), None);
        // Back within the time, and then as it is to be.
        in_use.observe(Some(&reading), at(400));
        in_use.observe(None, at(401));
        assert_eq!(in_use.observe(Some(&reading), at(402)), Some(Told::Phase));
        assert_eq!((in_use.declared(), in_use.due()), (Some(&reading), None));
        assert_eq!(in_use.observe(Some(&other), at(403)), Some(Told::Replaced));
        assert_eq!(in_use.observe(Some(&declared("ending:c")), at(404)), Some(Told::Phase));
        assert_eq!(in_use.observe(None, at(405)), Some(Told::Ended));
        assert_eq!(in_use.declared(), None);
        // What comes while the last one ends is no replacement of one that is read.
        in_use.observe(Some(&ending), at(406));
        assert_eq!(in_use.observe(Some(&other), at(407)), Some(Told::Declared));
    }
}
