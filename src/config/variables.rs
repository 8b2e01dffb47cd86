//! Variables that look like ours and are none: a misspelt one would be ignored in silence.

use std::collections::BTreeSet;

use clap::CommandFactory as _;

use super::FromEnvironment;
use super::cli::Cli;
use super::exit::one_line;
use crate::discovery::Variables;

/// What our own variables begin with, and those that name the nodes.
const PREFIXES: [&str; 2] = ["SLIPRING_", "MEMCACHED_"];

/// All there are.
fn known() -> BTreeSet<String> {
    let declared = Cli::command();
    let arguments = declared.get_subcommands().flat_map(clap::Command::get_arguments);
    arguments.filter_map(|arg| arg.get_env()).map(|name| name.to_string_lossy().into_owned()).collect()
}

/// All there are, and those that an option was taken from.
pub(super) fn variables(from_env: &FromEnvironment) -> Variables {
    Variables { known: known(), in_use: from_env.iter().map(|(_, name)| name.clone()).collect() }
}

/// A line for each of `names`, the variables of the process, that begins as ours do and is none of them, or that is a
/// letter away from one that names the nodes: others with that beginning may be the application's. Those that Kubernetes
/// sets for a Service are left out.
#[must_use]
pub fn unknown_variables(names: impl IntoIterator<Item = String>) -> Vec<String> {
    let known = known();
    let names: BTreeSet<String> = names.into_iter().collect();
    let line = |name: &String| {
        let own = name.strip_prefix(PREFIXES[0]);
        // The beginning is what is mistaken first.
        let distance = |other: &str| match own {
            Some(own) => {
                let rest = PREFIXES.iter().find_map(|prefix| other.strip_prefix(prefix));
                strsim::osa_distance(own, rest.unwrap_or(other))
            }
            None => strsim::osa_distance(name, other),
        };
        // Of those that are alike, one that has it whole.
        let nearest = known.iter().min_by_key(|other| (distance(other), !other.contains(own.unwrap_or(name))))?;
        let is_near = name.starts_with(PREFIXES[1]) && strsim::osa_distance(name, nearest) == 1;
        // Where more than half of it would have to be another, none is meant.
        let is_similar = distance(nearest) <= own.unwrap_or(name).len() / 2;
        (own.is_some() || is_near).then(|| {
            let hint = match is_similar {
                true => format!("the most similar one is {nearest}"),
                false => "slipring serve --help lists them".to_owned(),
            };
            format!("{} ignored: there is no such variable; {hint}", one_line(name))
        })
    };
    // Of a process in Kubernetes there are hundreds of others: nobody waits for their distances.
    let is_like = |name: &&String| PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    let unknown = names.iter().filter(is_like).filter(|name| !known.contains(*name) && !is_service_link(name, &names));
    unknown.filter_map(line).collect()
}

/// What the kubelet sets for each Service: `NAME_SERVICE_HOST`, `NAME_SERVICE_PORT…`, `NAME_PORT…`.
fn is_service_link(name: &str, names: &BTreeSet<String>) -> bool {
    let ends = ["_SERVICE_HOST", "_SERVICE_PORT", "_PORT"];
    let services = ends.iter().filter_map(|end| name.find(end).and_then(|at| name.get(..at)));
    services.into_iter().any(|service| names.contains(&format!("{service}_SERVICE_HOST")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_variable_is_told_of_with_the_nearest() {
        let none: [String; 0] = [];
        let names = ["SLIPRING_LISTEN", "PATH", "SLIPRING_SERVICE_HOST", "SLIPRING_PORT_11211_TCP", "MEMCACHED_HOST"];
        assert_eq!(unknown_variables(names.map(str::to_owned)), none);
        for (name, nearest) in [
            ("SLIPRING_LISTN", "SLIPRING_LISTEN"),
            ("SLIPRING_NODES", "MEMCACHED_NODES"),
            ("SLIPRING_NODES_FILE", "MEMCACHED_NODES_FILE"),
            ("SLIPRING_DISCOVERY_HOST", "MEMCACHED_DISCOVERY_HOST"),
            ("SLIPRING_LISTEN_PORT", "SLIPRING_LISTEN"),
            ("SLIPRING_NODE_MEMORY", "SLIPRING_DEV_NODE_MEMORY"),
            ("MEMCACHED_NODES_FILES", "MEMCACHED_NODES_FILE"),
        ] {
            let line = format!("{name} ignored: there is no such variable; the most similar one is {nearest}");
            assert_eq!(unknown_variables([name.to_owned()]), [line]);
        }
        let line = "SLIPRING_FOO ignored: there is no such variable; slipring serve --help lists them";
        assert_eq!(unknown_variables(["SLIPRING_FOO".to_owned()]), [line]);
    }
}
