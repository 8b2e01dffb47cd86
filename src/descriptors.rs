//! How many descriptors there may be, and for whom.
//!
//! Clients must not take the last ones: without one for a node that comes back its keys would be gone, and without one
//! for a probe the kubelet would kill a sidecar that works.

use std::{ffi::OsStr, fs};

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The process itself: standard streams, the control runtime with its signals, listening sockets, a file that is read;
/// a handful of connections of probes, and of clients that are told a last word.
const OWN: u64 = 24;
/// With fewer left there is nobody who could say what is wrong: tokio's signals panic without theirs.
const LEAST: u64 = 5;
/// Once everything listens, beside workers and connections to nodes: one for a client, and one for a file or a probe.
const LEAST_TO_SERVE: u64 = 2;
/// A worker's runtime, its pipe, and its timer.
const PER_WORKER: u64 = 7;
/// Connections of a worker to a node that come and go with large values.
const BULK_LANES: u64 = 4;
/// One for a node before memcached 1.6.10 that is asked in packets.
const BINARY_LANE: u64 = 1;
/// One more, to ask a node that is silent whether it is there.
const PROBE: u64 = 1;
/// Nodes that are reckoned with while none is known yet.
const UNKNOWN_NODES: u64 = 8;

/// Raises the soft limit to the hard one, which needs no privilege. Returns what it is then.
#[must_use]
pub fn raise() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // `None` is no limit.
    if current.is_some()
        && current != maximum
        && setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_ok()
    {
        return maximum.unwrap_or(u64::MAX);
    }
    current.unwrap_or(u64::MAX)
}

/// Whether so many leave too few to start with, beside those that are open (some may be inherited).
#[must_use]
pub fn too_few(limit: u64) -> bool {
    left(limit) < LEAST
}

/// Whether so many leave too few for one client beside so many connections of each worker to the nodes, once everything
/// listens: the nodes come first.
#[must_use]
pub fn too_few_to_serve(limit: u64, workers: usize, to_nodes: usize) -> bool {
    left(limit) < LEAST_TO_SERVE + workers as u64 * (PER_WORKER + to_nodes as u64)
}

/// How many more can be opened.
fn left(limit: u64) -> u64 {
    let below = |name: &OsStr| name.to_str().and_then(|name| name.parse().ok()).is_some_and(|fd: u64| fd < limit);
    let open = match fs::read_dir("/proc/self/fd") {
        Ok(open) => open.flatten().filter(|entry| below(&entry.file_name())).count() as u64,
        Err(error) if error.raw_os_error() == Some(Errno::MFILE.raw_os_error()) => return 0,
        // Without procfs: the standard streams, and the directory that would have been read.
        Err(_) => 4,
    };
    limit.saturating_add(1).saturating_sub(open)
}

/// How many clients there is room for beside everything else, at least one.
#[must_use]
pub fn room(limit: u64, workers: usize, nodes: usize, lanes: usize) -> u64 {
    let nodes = if nodes == 0 { UNKNOWN_NODES } else { nodes as u64 };
    let upstream = nodes * (lanes as u64 + BULK_LANES + BINARY_LANE + PROBE);
    limit.saturating_sub(OWN + workers as u64 * (PER_WORKER + upstream)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_get_what_nodes_and_the_process_leave() {
        assert_eq!(room(1024, 1, 3, 1), 1024 - 24 - 7 - 21);
        assert_eq!(room(1024, 2, 3, 2), 1024 - 24 - 14 - 48);
        assert_eq!(room(1024, 1, 0, 1), 1024 - 24 - 7 - 56);
        assert_eq!(room(1024, 1, 120, 1), 1024 - 24 - 7 - 840);
        assert_eq!(room(256, 1, 120, 1), 1, "fewer than the nodes would need");
        assert_eq!(room(10, 1, 3, 1), 1);
        assert!(room(u64::MAX, 64, 1000, 16) > 1 << 40);
    }

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        let limit = raise();
        let now = getrlimit(Resource::Nofile);
        assert_eq!(now.current, now.maximum);
        assert_eq!(now.current.unwrap_or(u64::MAX), limit);
    }
}
