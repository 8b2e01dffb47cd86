//! Who the nodes are: the one source that the options name.

use std::fmt::Display;
use std::net::IpAddr;
use std::path::Path;

use super::cli::{self, ServeArgs};
use super::{Command, Exit, FromEnvironment, ListenAddress, source};
use crate::discovery::{Own, Source, parse_nodes, parse_server};
use crate::routing::Node;

/// Ends of the names of files with text, none of which is a domain.
const FILES: [&str; 8] = ["txt", "yaml", "yml", "conf", "cfg", "csv", "ini", "lst"];

/// The one source that was named; a discovery endpoint may have a list beside it.
pub(super) fn node_source(serve: &ServeArgs, from_env: &FromEnvironment) -> Result<Source, Exit> {
    let named = [serve.nodes.is_some(), serve.nodes_file.is_some(), serve.discovery.is_some(), serve.dns.is_some()];
    let named: Vec<&str> =
        cli::SOURCES.into_iter().zip(named).filter(|(_, named)| *named).map(|(long, _)| long).collect();
    let refuse = |long: &str, problem: &dyn Display| Exit::usage(&format!("{}: {problem}", source(long, from_env)));
    let list = || node_list("nodes", serve.nodes.as_deref().unwrap_or_default(), serve.node_port, from_env);
    match (named.as_slice(), &serve.nodes_file, &serve.discovery, &serve.dns) {
        (["nodes"], ..) => list().map(Source::Static),
        (["nodes-file"], Some(path), ..) => {
            refuse_list("nodes-file", path, from_env)?;
            Ok(Source::File(path.clone()))
        }
        (["discovery"] | ["nodes", "discovery"], _, Some(server), _) if server.contains([',', ';']) => {
            Err(refuse("discovery", &"one endpoint is expected, not a list; a list of nodes is given as --nodes"))
        }
        (["discovery"] | ["nodes", "discovery"], _, Some(server), _) => {
            let (host, port) =
                parse_server(server, serve.discovery_port).map_err(|error| refuse("discovery", &error))?;
            let first = if serve.nodes.is_some() { list()? } else { Vec::new() };
            Ok(Source::Endpoint { host, port, first })
        }
        (["dns"], .., Some(name)) if name.contains([',', ';']) => {
            Err(refuse("dns", &"one name is expected, not a list; a list of nodes is given as --nodes"))
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

/// The nodes of an option that lists them.
pub(super) fn node_list(long: &str, text: &str, port: u16, from_env: &FromEnvironment) -> Result<Vec<Node>, Exit> {
    refuse_file(long, text, from_env)?;
    let refuse = |problem: &dyn Display| Exit::usage(&format!("{}: {problem}", source(long, from_env)));
    parse_nodes(text, port).map_err(|error| refuse(&error))
}

/// Refuses a list that is the name of a file, which would be taken for a host or for none. A host of such a name can be
/// written with its port.
pub(super) fn refuse_file(long: &str, text: &str, from_env: &FromEnvironment) -> Result<(), Exit> {
    let word = text.strip_prefix("ending:").unwrap_or(text).trim();
    if word.contains([',', ';', ':', '=', '"', '\'']) || word.contains(char::is_whitespace) {
        return Ok(());
    }
    let path = Path::new(word);
    let has_extension =
        path.extension().is_some_and(|found| FILES.iter().any(|known| found.eq_ignore_ascii_case(known)));
    let is_path = ["/", "./", "../", "~/"].iter().any(|beginning| word.starts_with(beginning));
    // A sidecar must not depend on what lies in its directory under the plain name of a host; a plan may.
    let is_there = || (word.contains(['.', '/']) || ["from", "to"].contains(&long)) && path.is_file();
    if !(is_path || has_extension || is_there()) {
        return Ok(());
    }
    let option = source(long, from_env);
    let instead = match (long, option.starts_with('-')) {
        ("nodes" | "nodes-before", true) => format!("{option}-file {word}"),
        ("nodes" | "nodes-before", false) => format!("{option}_FILE={word}"),
        ("from", _) => format!("--nodes-file {word}, without --from"),
        _ => format!("--{long} \"$(cat {word})\""),
    };
    Err(Exit::usage(&format!(
        "{option}: {word} looks like a file, and a list of nodes is expected; a file is given as {instead}"
    )))
}

/// Refuses the path of a file that is a list of nodes: it would be waited for.
pub(super) fn refuse_list(long: &str, path: &Path, from_env: &FromEnvironment) -> Result<(), Exit> {
    let Some(text) = path.to_str().filter(|text| !text.contains('/') && !path.exists()) else { return Ok(()) };
    let list = text.strip_prefix("ending:").unwrap_or(text);
    let is_list = parse_nodes(list, 1)
        .is_ok_and(|nodes| nodes.len() > 1 || nodes.iter().any(|node| node.host.parse::<IpAddr>().is_ok()));
    if !is_list {
        return Ok(());
    }
    let instead = long.trim_end_matches("-file");
    Err(Exit::usage(&format!(
        "{}: {text} is a list of nodes, and a file is expected; a list is given as --{instead}",
        source(long, from_env)
    )))
}

/// The nodes whose order is pinned.
pub(super) fn node_order(serve: &ServeArgs, from_env: &FromEnvironment) -> Result<Vec<Node>, Exit> {
    let Some(order) = &serve.node_order else { return Ok(Vec::new()) };
    let refuse = |problem: &dyn Display| Exit::usage(&format!("{}: {problem}", source("node-order", from_env)));
    let pinned = node_list("node-order", order, serve.node_port, from_env)?;
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
    let (services, name) = match name.strip_prefix("srv:").or_else(|| name.strip_prefix("SRV:")) {
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
