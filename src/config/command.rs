//! What is to be run, with what it is told.

use std::path::PathBuf;
use std::time::Duration;

use clap_complete::Shell;

use crate::discovery::Source;
use crate::routing::{Node, Placement};

/// What to run.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// The sidecar.
    Serve {
        /// Who the nodes are.
        source: Source,
    },
    /// Checks each node and ends.
    Check {
        /// Where the nodes come from.
        source: Source,
    },
    /// Tells where keys live and ends.
    Locate {
        /// Where the nodes come from.
        source: Source,
        /// The keys; those of standard input when there are none.
        keys: Vec<String>,
        /// For programs.
        json: bool,
    },
    /// Lists the placements and ends.
    Placements,
    /// Finds out which placement put the keys of the nodes there, and ends.
    Detect {
        /// Where the nodes come from.
        source: Source,
        /// How it is found out.
        how: Detect,
    },
    /// Tells what a change would move and ends.
    Plan {
        /// Where the nodes before come from.
        from: Source,
        /// Whether that is where a sidecar with these options has its nodes from; else they were given for the plan alone.
        is_source: bool,
        /// The nodes after, if others; at least one.
        to: Option<Vec<Node>>,
        /// The placement after, if another.
        to_placement: Option<Placement>,
        /// A file with keys.
        keys: Option<PathBuf>,
    },
    /// Sends SIGHUP to a running sidecar, tells what came of it, and ends.
    Reload {
        /// Its process id, at least 1; if not given, that of the only one there is.
        pid: Option<i32>,
    },
    /// Prints the completions for a shell and ends.
    Completions {
        /// Which shell.
        shell: Shell,
    },
    /// Prints a page of the manual and ends.
    Manual {
        /// Of which command; of the program when there is none.
        command: Option<String>,
    },
    /// The sidecar in front of embedded nodes.
    Dev {
        /// Number of embedded nodes, 1 to 20.
        nodes: usize,
        /// Memory for values of each, in bytes, 1 MiB to 64 GiB.
        node_memory: u64,
    },
}

/// How `slipring detect` finds out.
#[derive(Debug, Clone, PartialEq)]
pub struct Detect {
    /// A file with keys to ask for.
    pub keys: Option<PathBuf>,
    /// The placement that must match.
    pub verify: Option<Placement>,
    /// The share of keys that must, 0 to 1.
    pub min: f64,
    /// Most keys read from each node, 1 to 10,000,000.
    pub limit: usize,
    /// Longest time for reading them, 1 s to 60 min.
    pub time: Duration,
}

// === impl Command ===

impl Command {
    /// Where the nodes come from, if from anywhere.
    pub(super) const fn source(&self) -> Option<&Source> {
        match self {
            Self::Serve { source }
            | Self::Check { source }
            | Self::Locate { source, .. }
            | Self::Detect { source, .. } => Some(source),
            Self::Placements
            | Self::Plan { .. }
            | Self::Reload { .. }
            | Self::Completions { .. }
            | Self::Manual { .. }
            | Self::Dev { .. } => None,
        }
    }
}
