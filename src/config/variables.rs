//! Variables that look like ours and are none: a misspelt one would be ignored in silence.

use std::collections::BTreeSet;

use clap::CommandFactory as _;

use super::cli::Cli;
use super::exit::one_line;

/// What our own variables begin with.
const PREFIX: &str = "SLIPRING_";

/// A line for each of `names`, the variables of the process, that begins as ours do and is none of them. Those that
/// Kubernetes sets for a Service whose name begins with `slipring` are left out.
#[must_use]
pub fn unknown_variables(names: impl IntoIterator<Item = String>) -> Vec<String> {
    let declared = Cli::command();
    let arguments = declared.get_subcommands().flat_map(clap::Command::get_arguments);
    let known: BTreeSet<String> =
        arguments.filter_map(|arg| arg.get_env()).map(|name| name.to_string_lossy().into_owned()).collect();
    let is_unknown = |name: &String| name.starts_with(PREFIX) && !known.contains(name) && !is_service_link(name);
    let unknown: BTreeSet<String> = names.into_iter().filter(is_unknown).collect();
    let line = |name: &String| {
        let nearest = known.iter().min_by_key(|other| strsim::osa_distance(name, other));
        let tip = nearest.map(|other| format!("; the most similar one is {other}")).unwrap_or_default();
        format!("{} ignored: there is no such variable{tip}", one_line(name))
    };
    unknown.iter().map(line).collect()
}

/// What the kubelet sets for each Service: `NAME_SERVICE_HOST`, `NAME_SERVICE_PORT…`, `NAME_PORT…`.
fn is_service_link(name: &str) -> bool {
    let numbered = |end: &str| end.is_empty() || end.starts_with(|c: char| c == '_' || c.is_ascii_digit());
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.split_once("_PORT").is_some_and(|(_, end)| numbered(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_variable_is_told_of_with_the_nearest() {
        let names = ["SLIPRING_LISTN", "SLIPRING_LISTEN", "PATH", "SLIPRING_SERVICE_HOST", "SLIPRING_PORT_11211_TCP"];
        assert_eq!(
            unknown_variables(names.map(str::to_owned)),
            ["SLIPRING_LISTN ignored: there is no such variable; the most similar one is SLIPRING_LISTEN"]
        );
    }
}
