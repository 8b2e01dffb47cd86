//! On which CPUs everything runs.

use std::io;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::Options;

pub(crate) struct Placement {
    /// Where anything runs.
    pub(crate) all: CpuSet,
    nodes: CpuSet,
    /// The proxy and the generator.
    rest: CpuSet,
    /// For the report.
    pub(crate) about: String,
    /// What the names of kept results begin with.
    pub(crate) file: &'static str,
}

impl Placement {
    pub(crate) fn of(options: &Options) -> io::Result<Self> {
        let allowed = sched_getaffinity(None)?;
        let mut cpus = (0..CpuSet::MAX_CPU).rev().filter(|cpu| allowed.is_set(*cpu));
        let only = |cpu: usize| {
            let mut one = CpuSet::new();
            one.set(cpu);
            one
        };
        // The last one: the first usually takes most of the interrupts.
        let last = cpus.next().unwrap_or(0);
        if options.one_core {
            let about = "everything on one CPU".to_owned();
            return Ok(Self { all: only(last), nodes: only(last), rest: only(last), about, file: "e2e-one-core" });
        }
        if options.two_cores || options.own_network {
            let option = if options.own_network { "--own-network" } else { "--two-cores" };
            let other = cpus.next().ok_or_else(|| io::Error::other(format!("{option} needs two CPUs")))?;
            let mut both = only(last);
            both.set(other);
            let mut about = "proxy and generator on one CPU, the nodes on another".to_owned();
            let mut file = "e2e-two-cores";
            if options.own_network {
                about += " and in a network of their own";
                file = "e2e-own-network";
            }
            return Ok(Self { all: both, nodes: only(other), rest: only(last), about, file });
        }
        let about = format!("free placement on {} CPUs", allowed.count());
        Ok(Self { all: allowed, nodes: allowed, rest: allowed, about, file: "e2e" })
    }

    /// What is started from now on is a node. Processes inherit it.
    pub(crate) fn of_nodes(&self) -> io::Result<()> {
        Ok(sched_setaffinity(None, &self.nodes)?)
    }

    /// What is started from now on is a proxy; the generator moves there, too.
    pub(crate) fn of_the_rest(&self) -> io::Result<()> {
        Ok(sched_setaffinity(None, &self.rest)?)
    }
}
