//! The nodes as DNS names them: the addresses of a name, or the targets of its SRV records.
//!
//! Every read asks the name server: the resolver keeps nothing, for when to ask again is decided here.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{Authority, Observation};
use crate::phrase;
use crate::routing::{MAX_NODES, Node};

/// Most SRV targets resolved at once.
const AT_ONCE: usize = 16;

/// What to ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Question {
    /// Each address of the name is a node at this port.
    Addresses(String, u16),
    /// Each target of the name's SRV records is a node; weights and priorities are for others.
    Services(String),
}

/// The name as it is asked for.
pub(super) struct Dns {
    /// Made at the first read.
    resolver: Option<TokioResolver>,
    question: Question,
    servers: Vec<SocketAddr>,
    limit: Duration,
    /// Whether the name has had IPv4 addresses: a name server that fails to give them must not swap every node for its
    /// IPv6 twin.
    ipv4: bool,
    /// Where SRV targets were found last, for when one cannot be resolved.
    addresses: BTreeMap<String, IpAddr>,
    /// It has been said that the records have several ports.
    ports_told: bool,
}

// === impl Dns ===

impl Dns {
    /// Asks `servers`, or those of the system when none are given. `limit` bounds one read.
    pub(super) fn new(question: Question, servers: &[SocketAddr], limit: Duration) -> Self {
        Self {
            resolver: None,
            question,
            servers: servers.to_vec(),
            limit,
            ipv4: false,
            addresses: BTreeMap::new(),
            ports_told: false,
        }
    }

    fn resolver(&mut self) -> Result<TokioResolver, String> {
        if let Some(resolver) = &self.resolver {
            return Ok(resolver.clone());
        }
        let resolver = resolver(&self.servers, self.limit)?;
        Ok(self.resolver.insert(resolver).clone())
    }

    /// Asks once.
    pub(super) async fn read(&mut self, operator: bool) -> Result<Observation, String> {
        let limit = self.limit;
        let resolver = self.resolver()?;
        let asked = async {
            match self.question.clone() {
                Question::Addresses(name, port) => self.of_addresses(&resolver, &name, port).await,
                Question::Services(name) => self.of_services(&resolver, &name).await,
            }
        };
        let answered = tokio::time::timeout(limit, asked).await;
        let (nodes, ttl) = answered.map_err(|_| phrase::NAME_UNANSWERED.to_owned())??;
        if nodes.len() > MAX_NODES {
            return Err(format!("it has {} nodes, more than {MAX_NODES}", nodes.len()));
        }
        let authority = if operator { Authority::Operator } else { Authority::Hearsay };
        Ok(Observation { nodes, authority, why: "DNS".to_owned(), ttl: Some(ttl), before: None })
    }

    async fn of_addresses(
        &mut self,
        resolver: &TokioResolver,
        name: &str,
        port: u16,
    ) -> Result<(Vec<Node>, Duration), String> {
        let (addresses, ttl) = addresses(resolver, name, self.ipv4).await?;
        self.ipv4 = addresses.first().is_some_and(IpAddr::is_ipv4);
        let node = |address: &IpAddr| Node::new(&address.to_string(), port, 1).certified_as(name);
        Ok((addresses.iter().map(node).collect(), ttl))
    }

    async fn of_services(&mut self, resolver: &TokioResolver, name: &str) -> Result<(Vec<Node>, Duration), String> {
        let lookup = resolver.srv_lookup(name).await.map_err(|error| describe(&error))?;
        let mut ttl = ttl(&lookup, RecordType::SRV);
        let targets: BTreeSet<(String, u16)> = lookup
            .answers()
            .iter()
            .filter_map(|record| match &record.data {
                RData::SRV(srv) if srv.port != 0 => Some((srv.target.to_utf8(), srv.port)),
                _ => None,
            })
            // "." is how a service says that it is decidedly not available.
            .filter(|(target, _)| target != ".")
            .collect();
        if targets.is_empty() {
            return Err("it has no SRV records".to_owned());
        }
        if let Some(text) = several_ports(name, targets.iter().map(|(_, port)| *port))
            && !std::mem::replace(&mut self.ports_told, true)
        {
            tracing::warn!("{text}");
        }
        let hosts: BTreeSet<String> = targets.iter().map(|(target, _)| target.clone()).collect();
        self.addresses.retain(|host, _| hosts.contains(host));
        for (host, found) in resolve_all(resolver, hosts, Instant::now() + self.limit / 2).await {
            // A target that cannot be resolved now is still a target.
            let Ok((addresses, lasts)) = found else { continue };
            ttl = ttl.min(lasts);
            let known = self.addresses.get(&host).filter(|known| addresses.contains(known)).copied();
            if let Some(address) = known.or_else(|| addresses.first().copied()) {
                self.addresses.insert(host, address);
            }
        }
        let node = |(target, port): &(String, u16)| {
            let node = Node::new(target, *port, 1);
            self.addresses.get(target).into_iter().fold(node, |node, ip| node.dialled_at(&ip.to_string()))
        };
        Ok((targets.iter().map(node).collect(), ttl))
    }
}

/// What to say of SRV records with these ports: a name without `_port._proto` has a record for each port of the service,
/// that of an exporter included.
fn several_ports(name: &str, ports: impl Iterator<Item = u16>) -> Option<String> {
    let ports: BTreeSet<u16> = ports.collect();
    if ports.len() < 2 || name.starts_with('_') {
        return None;
    }
    let ports = ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
    Some(format!(
        "the SRV records of {name} have several ports ({ports}), and each becomes a node; to take one port, ask for its name, \
         as in srv:_memcached._tcp.{name}"
    ))
}

/// Asks `servers`, or those of the system when none are given. `limit` is for several questions.
pub(super) fn resolver(servers: &[SocketAddr], limit: Duration) -> Result<TokioResolver, String> {
    let mut builder = if servers.is_empty() {
        TokioResolver::builder_tokio()
            .map_err(|error| format!("cannot read /etc/resolv.conf: {}", phrase::of(&error)))?
    } else {
        let config = ResolverConfig::from_name_servers(servers.iter().map(name_server).collect());
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
    };
    tune(builder.options_mut(), servers.is_empty(), limit);
    builder.build().map_err(|error| error.to_string())
}

fn name_server(address: &SocketAddr) -> NameServerConfig {
    let (mut udp, mut tcp) = (ConnectionConfig::udp(), ConnectionConfig::tcp());
    udp.port = address.port();
    tcp.port = address.port();
    NameServerConfig::new(address.ip(), true, vec![udp, tcp])
}

fn tune(options: &mut ResolverOpts, system: bool, limit: Duration) {
    options.cache_size = 0;
    options.attempts = 2;
    options.timeout = limit / 3;
    options.try_tcp_on_error = false;
    options.use_hosts_file = if system { ResolveHosts::Auto } else { ResolveHosts::Never };
}

/// Resolves each name, as far as there is time.
pub(super) async fn resolve_all(
    resolver: &TokioResolver,
    names: BTreeSet<String>,
    ends_at: Instant,
) -> Vec<(String, Result<(Vec<IpAddr>, Duration), String>)> {
    let mut left = names.into_iter();
    let mut lookups = JoinSet::new();
    let mut found = Vec::new();
    loop {
        while lookups.len() < AT_ONCE
            && let Some(name) = left.next()
        {
            let resolver = resolver.clone();
            lookups.spawn(async move {
                let lookup = tokio::time::timeout_at(ends_at, addresses(&resolver, &name, false)).await;
                (name, lookup.unwrap_or_else(|_| Err(phrase::NAME_UNANSWERED.to_owned())))
            });
        }
        match lookups.join_next().await {
            Some(Ok(result)) => found.push(result),
            Some(Err(_)) => {}
            None => return found,
        }
    }
}

/// The IPv4 addresses of a name or, only when it decidedly has none, its IPv6 addresses: of a pod that has both, one
/// is taken. Sorted, for name servers shuffle them. `ipv4` asks for nothing else.
async fn addresses(resolver: &TokioResolver, name: &str, ipv4: bool) -> Result<(Vec<IpAddr>, Duration), String> {
    let mut record_type = RecordType::A;
    // As it is written: by the rules of internationalised names an underscore, which Compose allows, is none.
    let name = Name::from_ascii(name).map_err(|error| error.to_string())?;
    let mut lookup = resolver.lookup(name.clone(), record_type).await;
    if !ipv4 && lookup.as_ref().is_err_and(NetError::is_no_records_found) {
        record_type = RecordType::AAAA;
        lookup = resolver.lookup(name, record_type).await;
    }
    let lookup = lookup.map_err(|error| describe(&error))?;
    let told: BTreeSet<IpAddr> = lookup.answers().iter().filter_map(|record| record.data.ip_addr()).collect();
    let found: BTreeSet<IpAddr> = told.iter().copied().filter(|address| may_be_a_node(*address)).collect();
    match (told.first(), found.is_empty()) {
        (None, _) => return Err("the name has no addresses".to_owned()),
        (Some(first), true) => return Err(format!("{first} is no address of a node")),
        (Some(_), false) => {}
    }
    Ok((found.into_iter().collect(), ttl(&lookup, record_type)))
}

/// What no server has: "no address", by which a name is blocked and which the kernel takes for ourselves, and what
/// stands for many.
pub(super) fn may_be_a_node(address: IpAddr) -> bool {
    let address = address.to_canonical();
    let many = address.is_multicast() || matches!(address, IpAddr::V4(address) if address.is_broadcast());
    !address.is_unspecified() && !many
}

/// How long an answer lasts: its records, the aliases on the way included.
fn ttl(lookup: &Lookup, record_type: RecordType) -> Duration {
    let counts = |found: RecordType| found == record_type || found == RecordType::CNAME;
    let records = lookup.answers().iter().filter(|record| counts(record.record_type()));
    Duration::from_secs(records.map(|record| u64::from(record.ttl)).min().unwrap_or(0))
}

fn describe(error: &NetError) -> String {
    if error.is_nx_domain() {
        phrase::NAME_NOT_FOUND.to_owned()
    } else if error.is_no_records_found() {
        "the name has no such records".to_owned()
    } else {
        match error {
            NetError::Timeout | NetError::NoConnections => phrase::NAME_UNANSWERED.to_owned(),
            NetError::Io(error) => format!("{}: {}", phrase::NAME_UNANSWERED, phrase::of(error)),
            error => phrase::of(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn srv_records_of_several_ports_are_told_where_none_was_asked_for() {
        let told = several_ports("cache.example.", [11211, 9150, 11211].into_iter());
        let text = told.unwrap();
        assert!(text.contains("(9150, 11211)") && text.contains("srv:_memcached._tcp.cache.example."), "{text}");
        assert_eq!(several_ports("_memcache._tcp.cache.example.", [11211, 9150].into_iter()), None);
        assert_eq!(several_ports("cache.example.", [11211, 11211].into_iter()), None);
    }
}
