//! Slips of the pen in a nodes file and among the keys of a mounted ConfigMap, which would be ignored in silence or be taken for
//! nodes.

use std::collections::BTreeSet;
use std::net::Ipv6Addr;

use super::file::{BEFORE_KEY, BEFORE_LINE, KEYS, LIST_KEY, PLACEMENT_BEFORE_KEY, PLACEMENT_BEFORE_LINE};
use super::nodes::entries;

/// What the names of variables and of keys begin with.
const PREFIXES: [&str; 2] = ["MEMCACHED_", "SLIPRING_"];

/// A name that apps give to a key of their own, and no slip for MEMCACHED_PORT.
const APPS_OWN: &str = "MEMCACHED_HOST";

/// Letters that differ in a slip, at most.
const NEAR: usize = 2;

/// The variables of the program, which the same ConfigMap may hold for the container's environment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Variables {
    /// All there are.
    pub known: BTreeSet<String>,
    /// Those that an option was taken from.
    pub in_use: BTreeSet<String>,
}

/// What is wrong with a line of a nodes file that begins with a word, if it does.
pub(super) fn of_line(line: &str) -> Option<String> {
    let line = line.trim();
    let line = line.strip_prefix("export ").unwrap_or(line).trim_start();
    let end = line.find([':', '='])?;
    let (word, rest) = (line.get(..end)?, line.get(end + 1..)?);
    if PREFIXES.iter().any(|prefix| word.starts_with(prefix)) && is_plain(word) {
        let instead = match word {
            LIST_KEY => "the file holds the list alone, without a name before it".to_owned(),
            BEFORE_KEY => format!("in a file it is written {BEFORE_LINE} LIST"),
            PLACEMENT_BEFORE_KEY => format!("in a file it is written {PLACEMENT_BEFORE_LINE} NAME"),
            _ => "a file holds the list of nodes alone, and no variables".to_owned(),
        };
        return Some(format!("it begins with {word}: {instead}"));
    }
    // A host of such a name, with its port.
    let port: &str = rest.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
    let is_address = entries(line).next().is_some_and(|entry| entry.parse::<Ipv6Addr>().is_ok());
    if !line.get(end..)?.starts_with(':') || !port.is_empty() || is_address {
        return None;
    }
    if word.eq_ignore_ascii_case("ending") {
        return Some(format!("to end the ring before, write {BEFORE_LINE} ending:LIST"));
    }
    let distance = |known: &str| strsim::osa_distance(&word.to_ascii_lowercase(), known.trim_end_matches(':'));
    let nearest = [BEFORE_LINE, PLACEMENT_BEFORE_LINE].into_iter().min_by_key(|known| distance(known))?;
    let is_slip = distance(nearest) <= NEAR;
    is_slip.then(|| format!("it begins with \"{word}:\", which means nothing; the most similar word is {nearest}"))
}

/// Letters of a variable's name alone.
fn is_plain(word: &str) -> bool {
    word.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_')
}

/// Of the names in a mounted directory those that look like keys that are read there, and are none.
pub(super) fn among(names: impl Iterator<Item = String>) -> BTreeSet<String> {
    let is_slip = |name: &String| {
        let is_ours = name.starts_with(PREFIXES[1]) || nearest(name).0 <= NEAR;
        is_ours && !KEYS.contains(&name.as_str()) && name != APPS_OWN
    };
    names.filter(is_slip).collect()
}

/// What is to be said of such a key, if anything.
pub(super) fn of_key(key: &str, variables: &Variables) -> Option<String> {
    if variables.in_use.contains(key) {
        return None;
    }
    if variables.known.contains(key) {
        return Some(
            "slipring does not read this key there; set it as a variable of the container and restart that".to_owned(),
        );
    }
    Some(match nearest(key) {
        (distance, known) if distance <= NEAR => format!("there is no such key; the most similar one is {known}"),
        _ => "there is no such key".to_owned(),
    })
}

/// Of keys that are none the one that was meant for the list of nodes.
pub(super) fn meant_for_the_list(slips: &BTreeSet<String>) -> Option<&String> {
    slips.iter().find(|name| matches!(nearest(name), (..=NEAR, LIST_KEY)))
}

/// The key that is read which is most similar, and how many letters differ.
fn nearest(name: &str) -> (usize, &'static str) {
    let name = name.to_ascii_uppercase();
    let distances = KEYS.into_iter().map(|key| (strsim::osa_distance(&name, key), key));
    distances.min_by_key(|(distance, _)| *distance).unwrap_or((usize::MAX, LIST_KEY))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_meant_for_something_else_is_told_from_a_node() {
        for (line, said) in [
            ("MEMCACHED_NODES=10.0.0.2,10.0.0.3", "it begins with MEMCACHED_NODES: the file holds the list alone"),
            (" export MEMCACHED_NODES=a", "it begins with MEMCACHED_NODES: the file holds"),
            ("MEMCACHED_NODES: \"a\"", "it begins with MEMCACHED_NODES: the file holds"),
            ("MEMCACHED_NODES_BEFORE=a", "it begins with MEMCACHED_NODES_BEFORE: in a file it is written before: LIST"),
            (
                "SLIPRING_PLACEMENT_BEFORE=jump",
                "it begins with SLIPRING_PLACEMENT_BEFORE: in a file it is written placement-",
            ),
            ("SLIPRING_WORKERS=2", "it begins with SLIPRING_WORKERS: a file holds the list of nodes alone"),
            ("befor: a,b", "it begins with \"befor:\", which means nothing; the most similar word is before:"),
            ("Before: a", "it begins with \"Before:\""),
            ("befroe:a", "it begins with \"befroe:\""),
            (
                "placement_before: jump",
                "it begins with \"placement_before:\", which means nothing; the most similar word is placement",
            ),
            ("ending: a,b", "to end the ring before, write before: ending:LIST"),
            ("ending:a", "to end the ring before"),
        ] {
            let found = of_line(line).unwrap_or_default();
            assert!(found.starts_with(said), "{line}: {found}");
        }
        for line in [
            "",
            "a",
            "a,b",
            "befort:11211",
            "cache:11211=2",
            "a=2",
            "[::1]:1",
            "befe::1,a",
            "user:password",
            "before-1:5,b:x",
        ] {
            assert_eq!(of_line(line), None, "{line}");
        }
    }

    #[test]
    fn a_key_that_is_ignored_is_told_of_with_the_nearest() {
        let names = [
            "MEMCACHED_NODES",
            "MEMCACHED_PORT",
            "MEMCACHED_NODE",
            "memcached_nodes",
            "MEMCACHED_NODES_BEFOR",
            "MEMCACHED_DISCOVERY_HOST",
            "MEMCACHED_HOST",
            "SLIPRING_DNS",
            "SLIPRING_PLACMENT",
            "application.yaml",
            "ca.crt",
        ];
        let found = among(names.map(str::to_owned).into_iter());
        let expected =
            ["MEMCACHED_NODE", "MEMCACHED_NODES_BEFOR", "SLIPRING_DNS", "SLIPRING_PLACMENT", "memcached_nodes"];
        assert_eq!(found.iter().map(String::as_str).collect::<Vec<_>>(), expected);
        let known = BTreeSet::from(["SLIPRING_DNS".to_owned(), "SLIPRING_PLACEMENT".to_owned()]);
        let variables = Variables { in_use: BTreeSet::from(["SLIPRING_DNS".to_owned()]), known };
        let said = |key: &str| of_key(key, &variables).unwrap_or_default();
        assert_eq!(
            said("MEMCACHED_NODES_BEFOR"),
            "there is no such key; the most similar one is MEMCACHED_NODES_BEFORE"
        );
        assert_eq!(said("memcached_nodes"), "there is no such key; the most similar one is MEMCACHED_NODES");
        assert_eq!(said("SLIPRING_WORKRS"), "there is no such key");
        assert_eq!(said("SLIPRING_DNS"), "", "the container has it as a variable");
        assert!(said("SLIPRING_PLACEMENT").starts_with("slipring does not read this key there; set it as a variable"));
        let meant = |name: &str| meant_for_the_list(&BTreeSet::from([name.to_owned()])).is_some();
        assert!(meant("MEMCACHED_NODE") && !meant("SLIPRING_DNS") && !meant("MEMCACHED_NODES_BEFOR"));
    }
}
