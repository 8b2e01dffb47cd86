//! Who the nodes are: the one source that the options name.

use std::fmt::Display;
use std::net::IpAddr;

use super::cli::{self, ServeArgs};
use super::{Command, Exit, FromEnvironment, ListenAddress, source};
use crate::discovery::{Own, Source, parse_nodes, parse_server};
use crate::routing::Node;

/// The one source that was named; a discovery endpoint may have a list beside it.
pub(super) fn node_source(serve: &ServeArgs, from_env: &FromEnvironment) -> Result<Source, Exit> {
    let named = [serve.nodes.is_some(), serve.nodes_file.is_some(), serve.discovery.is_some(), serve.dns.is_some()];
    let named: Vec<&str> =
        cli::SOURCES.into_iter().zip(named).filter(|(_, named)| *named).map(|(long, _)| long).collect();
    let refuse = |long: &str, problem: &dyn Display| Exit::usage(&format!("{}: {problem}", source(long, from_env)));
    let list = || {
        let text = serve.nodes.as_deref().unwrap_or_default();
        parse_nodes(text, serve.node_port).map_err(|error| refuse("nodes", &error))
    };
    match (named.as_slice(), &serve.nodes_file, &serve.discovery, &serve.dns) {
        (["nodes"], ..) => list().map(Source::Static),
        (["nodes-file"], Some(path), ..) => Ok(Source::File(path.clone())),
        (["discovery"] | ["nodes", "discovery"], _, Some(server), _) => {
            let (host, port) =
                parse_server(server, serve.discovery_port).map_err(|error| refuse("discovery", &error))?;
            let first = if serve.nodes.is_some() { list()? } else { Vec::new() };
            Ok(Source::Endpoint { host, port, first })
        }
        (["dns"], .., Some(name)) => dns_source(name, serve.node_port).map_err(|problem| refuse("dns", &problem)),
        ([], ..) => Err(Exit::usage(
            "no nodes: name them with --nodes or MEMCACHED_NODES, --nodes-file or MEMCACHED_NODES_FILE, --discovery or \
             MEMCACHED_DISCOVERY_HOST, --dns or SLIPRING_DNS; `slipring dev` brings its own",
        )),
        (several, ..) => {
            let names: Vec<String> = several.iter().map(|long| source(long, from_env)).collect();
            Err(Exit::usage(&format!("{}: only one may say who the nodes are", names.join(" and "))))
        }
    }
}

/// The nodes whose order is pinned.
pub(super) fn node_order(serve: &ServeArgs, from_env: &FromEnvironment) -> Result<Vec<Node>, Exit> {
    let Some(order) = &serve.node_order else { return Ok(Vec::new()) };
    let refuse = |problem: &dyn Display| Exit::usage(&format!("{}: {problem}", source("node-order", from_env)));
    let pinned = parse_nodes(order, serve.node_port).map_err(|error| refuse(&error))?;
    match pinned.iter().find(|node| node.weight != 1) {
        Some(node) => Err(refuse(&format!("{node} has a weight, which belongs into the list of nodes"))),
        None => Ok(pinned),
    }
}

/// A list of nothing but ourselves can never serve.
pub(super) fn refuse_itself(
    command: &Command,
    listen: &[ListenAddress],
    from_env: &FromEnvironment,
) -> Result<(), Exit> {
    let Some(Source::Static(nodes)) = command.source() else { return Ok(()) };
    let refused = own(command, listen).refuse(nodes);
    refused.map_err(|problem| Exit::usage(&format!("{}: {problem}", source("nodes", from_env))))
}

/// What a sidecar listens on. Who only looks at the nodes listens nowhere.
pub(super) fn own(command: &Command, listen: &[ListenAddress]) -> Own {
    match command {
        Command::Serve { .. } => Own::new(listen.iter().flat_map(ListenAddress::addresses).collect()),
        _ => Own::default(),
    }
}

fn dns_source(name: &str, node_port: u16) -> Result<Source, String> {
    let (services, name) = match name.strip_prefix("srv:") {
        Some(name) => (true, name),
        None => (false, name),
    };
    let (host, port) = parse_server(name, node_port).map_err(|error| error.to_string())?;
    if host.parse::<IpAddr>().is_ok() {
        return Err(format!("{host} is an address; a list of those is given as --nodes"));
    }
    // The dot at the end keeps the resolver from trying its search list.
    let dot = if name.split(':').next().is_some_and(|name| name.ends_with('.')) { "." } else { "" };
    let host = format!("{host}{dot}");
    match services {
        true if name.contains(':') => Err("the port of srv: comes from its records".to_owned()),
        true => Ok(Source::Srv { name: host }),
        false => Ok(Source::Dns { name: host, port }),
    }
}
