//! Host names in a list that somebody wrote: is what is dialled still where the name points?
//!
//! A connection to a host name resolves it, so a node that restarts elsewhere is found when its connection fails. One
//! whose name merely points elsewhere keeps a connection that works, to a server that is not the node any more: hence
//! each name is asked for again and again, and a node whose address is no longer among the answers is dialled at one
//! that is. Its name, and so its keys, stay.
//!
//! Asked with the resolver of `dns.rs`, not the system's: that has no time-out of ours, and keeps a thread while it
//! hangs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use super::jitter::jitter;
use super::{Options, dns, probe};
use crate::routing::Node;
use crate::secured::Secured;

/// Most names at once whose addresses are tried.
const AT_ONCE: usize = 16;

/// A node that is named, and where it is.
#[derive(Debug, Clone)]
struct Place {
    /// As it was listed: dialled by its name.
    node: Node,
    /// What the name resolved to last; nothing before the first answer.
    known: BTreeSet<IpAddr>,
    /// Where it is dialled; `None` while the name itself is.
    at: Option<IpAddr>,
    /// Whether it could not be resolved last.
    failing: bool,
}

/// What a look at one place found: the answers, and where to dial.
type Found = (Arc<str>, Result<(BTreeSet<IpAddr>, Option<IpAddr>), String>);

/// The named nodes of a list.
#[derive(Debug)]
pub(super) struct Names {
    places: BTreeMap<Arc<str>, Place>,
    listed: Vec<Node>,
    /// Those of the ring before.
    before: Vec<Node>,
    /// Made at the first question.
    resolver: Option<TokioResolver>,
    servers: Vec<SocketAddr>,
    limit: Duration,
    probe_limit: Duration,
    secured: Secured,
    interval: Duration,
    /// The look that is under way; it must not keep a file from being read.
    looks: JoinSet<Vec<Found>>,
    asked_at: Option<Instant>,
    next_at: Instant,
    /// A connection failed since the last look.
    suspicious: bool,
}

// === impl Place ===

impl Place {
    /// Where to dial, now that the name has these addresses.
    async fn decide(
        &self,
        addresses: &BTreeSet<IpAddr>,
        suspicious: bool,
        secured: &Secured,
        limit: Duration,
    ) -> Option<IpAddr> {
        let valid = match self.at {
            Some(at) => addresses.contains(&at),
            // Which of them was dialled is not known: none may be gone.
            None => self.known.is_subset(addresses),
        };
        // By its name every address is tried.
        if valid && (self.at.is_none() || !suspicious || addresses.len() == 1) {
            return self.at;
        }
        // Rather one that was there before; while it answers, the one that is dialled.
        let current = self.at.filter(|_| valid);
        let before = addresses.intersection(&self.known).copied();
        let mut candidates: Vec<IpAddr> = current.into_iter().chain(before).collect();
        candidates.extend(addresses.difference(&self.known));
        let first = candidates.first().copied();
        if candidates.len() > 1 {
            for address in candidates {
                if probe::answers(&self.node.clone().dialled_at(&address.to_string()), secured, limit).await {
                    return Some(address);
                }
            }
        }
        first
    }
}

// === impl Names ===

impl Names {
    pub(super) fn new(options: &Options) -> Self {
        Self {
            places: BTreeMap::new(),
            listed: Vec::new(),
            before: Vec::new(),
            resolver: None,
            servers: options.name_servers.clone(),
            limit: options.timeout,
            probe_limit: options.probe_timeout,
            secured: options.secured.clone(),
            interval: options.resolve_interval,
            looks: JoinSet::new(),
            asked_at: None,
            next_at: Instant::now(),
            suspicious: false,
        }
    }

    /// Takes a list, and returns it with each node dialled where it is.
    pub(super) fn list(&mut self, nodes: &[Node]) -> Vec<Node> {
        if self.listed != nodes {
            self.listed = nodes.to_vec();
            self.find_places();
        }
        self.dialled()
    }

    /// Takes the list of the ring before.
    pub(super) fn list_before(&mut self, nodes: &[Node]) {
        if self.before != nodes {
            self.before = nodes.to_vec();
            self.find_places();
        }
    }

    fn find_places(&mut self) {
        let mut known = std::mem::take(&mut self.places);
        let all = self.listed.iter().chain(&self.before).filter(|node| node.host.parse::<IpAddr>().is_err());
        for node in all {
            if self.places.contains_key(&node.name) {
                continue;
            }
            let place = known.remove(&node.name).unwrap_or_else(|| {
                self.next_at = Instant::now();
                Place { node: node.clone(), known: BTreeSet::new(), at: None, failing: false }
            });
            self.places.insert(Arc::clone(&node.name), Place { node: node.clone(), ..place });
        }
    }

    /// The list, with each node dialled where it is.
    pub(super) fn dialled(&self) -> Vec<Node> {
        self.listed.iter().map(|node| self.dialled_node(node)).collect()
    }

    fn dialled_node(&self, node: &Node) -> Node {
        let is_placed = |place: &&Place| place.node.host == node.host && place.node.port == node.port;
        let place = self.places.get(&node.name).filter(is_placed);
        place.map_or_else(
            || node.clone(),
            |place| place.at.into_iter().fold(node.clone(), |node, at| node.dialled_at(&at.to_string())),
        )
    }

    /// The nodes of the ring before, each dialled where it is: where the ring dials a node of that name, or that server.
    pub(super) fn dialled_before(&self, ring: &[Node]) -> Vec<Node> {
        let dialled = |node: &Node| {
            let by_name = ring.iter().find(|other| other.name == node.name);
            let by_server = || {
                let servers = self.servers(node);
                let is_same = |other: &&Node| servers.len() == 1 && !servers.is_disjoint(&self.servers(other));
                ring.iter().find(is_same)
            };
            match (by_name, by_name.or_else(by_server)) {
                (Some(same), _) => Node { weight: node.weight, ..same.clone() },
                (None, Some(server)) => node.clone().dialled_at(&server.host),
                (None, None) => self.dialled_node(node),
            }
        };
        self.before.iter().map(dialled).collect()
    }

    /// Where a node may be, as far as that is known.
    fn servers(&self, node: &Node) -> BTreeSet<SocketAddr> {
        let addresses = match (self.places.get(&node.name), node.host.parse::<IpAddr>()) {
            (_, Ok(at)) => BTreeSet::from([at]),
            (Some(Place { at: Some(at), .. }), _) => BTreeSet::from([*at]),
            (Some(place), _) => place.known.clone(),
            (None, Err(_)) => BTreeSet::new(),
        };
        addresses.into_iter().map(|address| SocketAddr::new(address.to_canonical(), node.port)).collect()
    }

    /// A line for each node that leads to the same server as one before it in the list: their keys share its memory, and it
    /// takes the place of two on the ring.
    pub(super) fn alike(&self) -> Vec<String> {
        let mut servers: BTreeMap<SocketAddr, &Node> = BTreeMap::new();
        let mut told = Vec::new();
        for node in &self.listed {
            let servers_of = self.servers(node);
            if let Some((server, other)) = servers_of.iter().find_map(|server| Some((server, servers.get(server)?))) {
                told.push(format!("{} and {} are one server, {server}", other.name, node.name));
            }
            for server in servers_of {
                servers.entry(server).or_insert(node);
            }
        }
        told
    }

    /// A node as it was listed: addresses are not kept for another run.
    pub(super) fn as_listed(&self, node: &Node) -> Node {
        self.places.get(&node.name).map_or(node, |place| &place.node).clone()
    }

    /// When to look next; `None` without names, and while a look is under way.
    pub(super) fn due(&self) -> Option<Instant> {
        (!self.places.is_empty() && self.looks.is_empty()).then_some(self.next_at)
    }

    /// Whether a failed connection makes a difference now.
    pub(super) fn heeds(&self) -> bool {
        self.due().is_some_and(|next| self.soonest() < next)
    }

    /// A connection failed: looks soon.
    pub(super) fn suspect(&mut self) {
        self.suspicious = true;
        self.next_at = self.soonest();
    }

    /// An operator asks: looks now.
    pub(super) fn hurry(&mut self) {
        self.next_at = Instant::now();
    }

    fn soonest(&self) -> Instant {
        let now = Instant::now();
        self.asked_at.map_or(now, |asked_at| now.max(asked_at + self.interval / 30))
    }

    /// Begins a look at every name.
    pub(super) fn look(&mut self) {
        let now = Instant::now();
        self.asked_at = Some(now);
        self.next_at = now + jitter(self.interval);
        let suspicious = std::mem::take(&mut self.suspicious);
        let resolver = match self.resolver() {
            Ok(resolver) => resolver,
            Err(error) => return tracing::warn!(%error, "cannot look the host names of the nodes up"),
        };
        let places: Vec<Place> = self.places.values().cloned().collect();
        let ends_at = now + self.limit.max(self.interval / 2);
        self.looks.spawn(look(resolver, places, suspicious, (self.probe_limit, self.secured.clone()), ends_at));
    }

    fn resolver(&mut self) -> Result<TokioResolver, String> {
        if self.resolver.is_none() {
            self.resolver = Some(dns::resolver(&self.servers, self.limit)?);
        }
        self.resolver.clone().ok_or_else(String::new)
    }

    /// The look that is under way, when it ends; `None` when there is none.
    pub(super) async fn ended(&mut self) -> Option<Result<Vec<Found>, JoinError>> {
        self.looks.join_next().await
    }

    /// Takes what a look found. Returns whether a node is to be dialled elsewhere.
    pub(super) fn take(&mut self, found: Vec<Found>) -> bool {
        let mut changed = false;
        for (name, result) in found {
            let Some(place) = self.places.get_mut(&name) else { continue };
            match result {
                Ok((known, at)) => {
                    changed |= place.at != at;
                    (place.known, place.at, place.failing) = (known, at, false);
                }
                // Once per trouble, not once per question.
                Err(error) => {
                    let is_news = !std::mem::replace(&mut place.failing, true);
                    match place.known.is_empty() {
                        _ if !is_news => {}
                        true => tracing::warn!(node = %name, %error, "cannot resolve the node's name"),
                        false => {
                            tracing::warn!(node = %name, %error, "cannot resolve the node's name; the address in use stays");
                        }
                    }
                }
            }
        }
        changed
    }
}

async fn look(
    resolver: TokioResolver,
    places: Vec<Place>,
    suspicious: bool,
    (limit, secured): (Duration, Secured),
    ends_at: Instant,
) -> Vec<Found> {
    let hosts = places.iter().map(|place| place.node.host.to_string()).collect();
    let answers: BTreeMap<_, _> = dns::resolve_all(&resolver, hosts, ends_at).await.into_iter().collect();
    let mut found = Vec::new();
    let mut places = places.into_iter();
    let mut deciding = JoinSet::new();
    loop {
        // Each may have to wait for addresses that do not answer.
        while deciding.len() < AT_ONCE
            && let Some(place) = places.next()
        {
            let name = Arc::clone(&place.node.name);
            match answers.get(&*place.node.host) {
                Some(Ok((addresses, _))) => {
                    let addresses: BTreeSet<IpAddr> = addresses.iter().copied().collect();
                    let secured = secured.clone();
                    deciding.spawn(async move {
                        let at = place.decide(&addresses, suspicious, &secured, limit).await;
                        (name, Ok((addresses, at)))
                    });
                }
                Some(Err(error)) => found.push((name, Err(error.clone()))),
                None => {}
            }
        }
        match deciding.join_next().await {
            Some(Ok(decided)) => found.push(decided),
            Some(Err(_)) => {}
            None => return found,
        }
    }
}
