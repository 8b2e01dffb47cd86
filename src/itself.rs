//! Is it ourselves that we talk to? A list of nodes may name this sidecar, by a variable that was meant for the
//! application; then each request would come back as a client's, for ever.
//!
//! A connection has the same two ends whoever looks at it, and no other connection has both: one that is accepted here
//! and made here is known by them. Behind address translation the ends differ, and nothing is seen.
//!
//! Written when a connection to a node is made or closed, read when a client is accepted; by no request.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Most clients that are remembered while connections to nodes are on their way.
const UNCLEAR: usize = 1024;

/// An end of a connection; scope and flow of an IPv6 address are each side's own affair.
type End = (IpAddr, u16);

/// Both ends of a connection, that of who made it first.
type Ends = (End, End);

/// The connections to nodes, all workers' together.
#[derive(Debug, Default)]
pub struct Itself(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// Each, and whether it has arrived here.
    made: HashMap<Ends, bool>,
    /// How many are on their way. The kernel may hand one to the listener before who makes it knows its address.
    connecting: usize,
    /// Clients accepted meanwhile, the last ones.
    unclear: VecDeque<Ends>,
}

/// A connection to a node that is on its way.
#[derive(Debug)]
pub struct Connecting(Arc<Itself>);

/// A connection to a node; forgotten when this is dropped.
#[derive(Debug)]
pub struct Made {
    known: Arc<Itself>,
    ends: Ends,
}

fn ends(from: SocketAddr, to: SocketAddr) -> Ends {
    let end = |address: SocketAddr| (address.ip().to_canonical(), address.port());
    (end(from), end(to))
}

// === impl Itself ===

impl Itself {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection to a node is about to be made: call before its first packet.
    #[must_use]
    pub fn connecting(self: &Arc<Self>) -> Connecting {
        self.known().connecting += 1;
        Connecting(Arc::clone(self))
    }

    /// A client was accepted: `peer` is its end. Returns whether it is one of our own connections, which is to be
    /// closed; who made it is told then.
    #[must_use]
    pub fn is_ours(&self, peer: SocketAddr, local: SocketAddr) -> bool {
        let ends = ends(peer, local);
        let mut known = self.known();
        if let Some(arrived) = known.made.get_mut(&ends) {
            *arrived = true;
            return true;
        }
        if known.connecting > 0 {
            if known.unclear.len() == UNCLEAR {
                known.unclear.pop_front();
            }
            known.unclear.push_back(ends);
        }
        false
    }
}

// === impl Connecting ===

impl Connecting {
    /// It is made, from `local` to `peer`.
    #[must_use]
    pub fn made(self, local: SocketAddr, peer: SocketAddr) -> Made {
        let ends = ends(local, peer);
        let mut known = self.0.known();
        let arrived = known.unclear.contains(&ends);
        known.made.insert(ends, arrived);
        drop(known);
        Made { known: Arc::clone(&self.0), ends }
    }
}

impl Drop for Connecting {
    fn drop(&mut self) {
        let mut known = self.0.known();
        known.connecting = known.connecting.saturating_sub(1);
        if known.connecting == 0 {
            known.unclear.clear();
        }
    }
}

// === impl Made ===

impl Made {
    /// Whether it has arrived at our own listener.
    #[must_use]
    pub fn is_itself(&self) -> bool {
        self.known.known().made.get(&self.ends).copied().unwrap_or(false)
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        self.known.known().made.remove(&self.ends);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    #[test]
    fn only_the_connection_with_both_our_ends_is_ours() {
        let itself = Arc::new(Itself::default());
        let made = itself.connecting().made(at(1), at(9));
        assert!(!itself.is_ours(at(2), at(9)), "another client");
        assert!(!itself.is_ours(at(1), at(8)), "the kernel gives a port to connections that go elsewhere, too");
        assert!(!made.is_itself());
        assert!(itself.is_ours(at(1), at(9)));
        assert!(made.is_itself());
        drop(made);
        assert!(!itself.is_ours(at(1), at(9)), "it is closed: the port is another's");
    }

    #[test]
    fn one_that_arrives_before_it_is_known_is_found_by_who_makes_it() {
        let itself = Arc::new(Itself::default());
        let (first, second) = (itself.connecting(), itself.connecting());
        assert!(!itself.is_ours(at(1), at(9)));
        assert!(!itself.is_ours(at(2), at(9)));
        assert!(first.made(at(1), at(9)).is_itself());
        assert!(!second.made(at(3), at(9)).is_itself());
        assert!(itself.known().unclear.is_empty() && itself.known().made.is_empty(), "nothing is kept");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let itself = Arc::new(Itself::default());
        let connecting = itself.connecting();
        for port in 1..2000 {
            assert!(!itself.is_ours(at(port), at(9)));
        }
        assert_eq!(itself.known().unclear.len(), UNCLEAR);
        assert!(connecting.made(at(1999), at(9)).is_itself());
    }
}
