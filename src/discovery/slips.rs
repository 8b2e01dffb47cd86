//! Slips of the pen in a nodes file and among the keys of a mounted ConfigMap, which would be ignored in silence or be taken for
//! nodes.

use std::collections::BTreeSet;
use std::net::Ipv6Addr;

use super::before::ENDING;
use super::file::{BEFORE_KEY, BEFORE_LINE, Holds, KEYS, LIST_KEY, PLACEMENT_BEFORE_KEY, PLACEMENT_BEFORE_LINE};
use super::nodes::entries;

/// What the names of variables and of keys begin with.
const PREFIXES: [&str; 2] = ["MEMCACHED_", "SLIPRING_"];

/// A name that apps give to a key of their own, and no slip for MEMCACHED_PORT.
const APPS_OWN: &str = "MEMCACHED_HOST";

/// Words that mean something where the ring before is written down.
const WORDS: [&str; 3] = [ENDING, BEFORE_LINE, PLACEMENT_BEFORE_LINE];

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

/// What is wrong with a line of a file or key that holds the nodes, or the ring before alone, if it is no list.
pub(super) fn of_line(line: &str, holds: Holds) -> Option<String> {
    let line = line.trim();
    if line == "-" || line.starts_with("- ") || line == "---" {
        return Some("it is no YAML: write the nodes alone, one a line or separated by commas".to_owned());
    }
    let line = line.strip_prefix("export ").unwrap_or(line).trim_start();
    let first = line.split(|c: char| c == '=' || c.is_whitespace()).next().unwrap_or_default();
    let meant = WORDS.into_iter().find(|word| first.eq_ignore_ascii_case(word.trim_end_matches(':')));
    if let Some(word) = meant.filter(|_| holds == Holds::Nodes && first.len() < line.len()) {
        return Some(match word {
            ENDING => format!("a colon is missing: to end the ring before, write {BEFORE_LINE} {ENDING}LIST"),
            word => format!("a colon is missing: write {word} and what it is"),
        });
    }
    let end = line.find([':', '='])?;
    let (word, rest) = (line.get(..end)?, line.get(end + 1..)?);
    if PREFIXES.iter().any(|prefix| word.starts_with(prefix)) && is_plain(word) {
        let instead = match (word, holds) {
            (LIST_KEY, Holds::Nodes) | (BEFORE_KEY, Holds::Before) => {
                "the file holds the list alone, without a name before it".to_owned()
            }
            (BEFORE_KEY, Holds::Nodes) => format!("in a file it is written {BEFORE_LINE} LIST"),
            (PLACEMENT_BEFORE_KEY, Holds::Nodes) => format!("in a file it is written {PLACEMENT_BEFORE_LINE} NAME"),
            (PLACEMENT_BEFORE_KEY, Holds::Before) => "give it as a variable, or as a key of a directory".to_owned(),
            _ => "a file holds the list of nodes alone, and no variables".to_owned(),
        };
        return Some(format!("it begins with {word}: {instead}"));
    }
    let is_word = !word.is_empty() && !word.contains(|c: char| c == ',' || c == ';' || c.is_whitespace());
    if !is_word || !line.get(end..)?.starts_with(':') || is_address(line, rest) {
        return None;
    }
    let shown = format!("it begins with \"{word}:\"");
    match (known(word), holds) {
        // It is the list that it stands before which is read there.
        (Some(ENDING), Holds::Before) => None,
        (Some(ENDING), Holds::Nodes) => {
            Some(format!("{shown}; to end the ring before, write {BEFORE_LINE} {ENDING}LIST"))
        }
        (Some(BEFORE_LINE), Holds::Before) => {
            Some(format!("{shown}; the ring before is written here without \"{BEFORE_LINE}\""))
        }
        (Some(PLACEMENT_BEFORE_LINE), Holds::Before) => Some(format!(
            "{shown}; in this file stands the list alone: give --placement-before, or a key of a directory"
        )),
        (Some(nearest), _) => Some(format!("{shown}, which means nothing; the most similar word is {nearest}")),
        (None, _) if is_name_of_a_list(word) && !rest.starts_with(|c: char| !c.is_whitespace()) => {
            Some(format!("{shown}, which means nothing: the file holds the list alone, without a name before it"))
        }
        // It may be the wrong file, and hold what is not to be shown.
        (None, holds) if rest.starts_with(char::is_whitespace) => {
            let words = match holds {
                Holds::Nodes => format!("no word but {BEFORE_LINE} and {PLACEMENT_BEFORE_LINE} begins a line"),
                Holds::Before => format!("no word but {ENDING} begins it"),
            };
            Some(format!("a blank follows its first colon: a port stands right behind the colon, and {words}"))
        }
        (None, _) => None,
    }
}

/// Where the word of an entry `word:…` of a list belongs, if it is one that belongs elsewhere.
pub(super) fn of_entry(entry: &str) -> Option<String> {
    let (word, rest) = entry.split_once(':')?;
    if is_address(entry, rest) {
        return None;
    }
    let Some(nearest) = known(word) else {
        let told = format!("there is no word \"{word}:\" here: the list is nodes alone, separated by commas");
        return (is_name_of_a_list(word) && rest.is_empty()).then_some(told);
    };
    let place = match nearest {
        ENDING => "stands before the list of the ring before, in --nodes-before or where that is written down",
        _ => "begins a line of a nodes file, and has no place in a list",
    };
    Some(match nearest.trim_end_matches(':') == word {
        true => format!("\"{nearest}\" {place}"),
        false => format!("the most similar word is {nearest}, which {place}"),
    })
}

/// What is wrong with the word before a list of the ring before, if it was to be `ending:`.
pub(super) fn of_declaration(text: &str) -> Option<String> {
    let (word, rest) = text.split_once(':')?;
    let is_slip = known(word) == Some(ENDING) && !is_address(text, rest);
    is_slip.then(|| format!("\"{word}:\" means nothing; the most similar word is {ENDING}"))
}

/// Whether what begins with a word and a colon is a host of that name with its port, or an IPv6 address.
fn is_address(text: &str, behind_colon: &str) -> bool {
    let first = entries(text).next().and_then(|entry| entry.split(['/', '=']).next());
    let port = behind_colon.split(|c: char| matches!(c, ',' | ';' | '/' | '=') || c.is_whitespace()).next();
    port.is_some_and(|port| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()))
        || first.is_some_and(|entry| entry.parse::<Ipv6Addr>().is_ok())
}

/// Of the words that something means the one that this is, or a slip of.
fn known(word: &str) -> Option<&'static str> {
    let word = word.to_ascii_lowercase();
    let distances = WORDS.map(|known| (strsim::osa_distance(&word, known.trim_end_matches(':')), known));
    distances.into_iter().filter(|(distance, _)| *distance <= NEAR).min().map(|(_, known)| known)
}

/// Whether it is what a list of nodes is called elsewhere.
fn is_name_of_a_list(word: &str) -> bool {
    ["node", "nodes", "server", "servers", "host", "hosts", "list"].contains(&&*word.to_ascii_lowercase())
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
            ("ending: a,b", "it begins with \"ending:\"; to end the ring before, write before: ending:LIST"),
            ("ending:a", "it begins with \"ending:\"; to end the ring before"),
            ("befor:10.0.0.2,10.0.0.3", "it begins with \"befor:\", which means nothing"),
            ("endng:10.0.0.2:11211", "it begins with \"endng:\"; to end the ring before"),
            ("endng: a", "it begins with \"endng:\"; to end the ring before, write before: ending:LIST"),
            ("before 10.0.0.2,10.0.0.3", "a colon is missing: write before: and what it is"),
            ("Before=10.0.0.2", "a colon is missing: write before: and what it is"),
            ("placement-before ring", "a colon is missing: write placement-before: and what it is"),
            ("ending 10.0.0.2", "a colon is missing: to end the ring before, write before: ending:LIST"),
            ("nodes: a", "it begins with \"nodes:\", which means nothing: the file holds the list alone"),
            ("servers:", "it begins with \"servers:\", which means nothing"),
            ("- 10.0.0.2:11211", "it is no YAML: write the nodes alone, one a line"),
            ("---", "it is no YAML"),
            ("10.0.0.2: 11211", "a blank follows its first colon: a port stands right behind the colon"),
            ("user: secret", "a blank follows its first colon"),
        ] {
            let found = of_line(line, Holds::Nodes).unwrap_or_default();
            assert!(!found.contains("secret"), "{found}");
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
            "server:http",
        ] {
            assert_eq!(of_line(line, Holds::Nodes), None, "{line}");
        }
        for (line, said) in [
            ("before: a", "it begins with \"before:\"; the ring before is written here without \"before:\""),
            ("MEMCACHED_NODES_BEFORE=a", "it begins with MEMCACHED_NODES_BEFORE: the file holds the list alone"),
            ("SLIPRING_PLACEMENT_BEFORE=jump", "it begins with SLIPRING_PLACEMENT_BEFORE: give it as a variable"),
            ("- a", "it is no YAML"),
            (
                "placement-before: ring",
                "it begins with \"placement-before:\"; in this file stands the list alone: give",
            ),
            (
                "placement: ring",
                "a blank follows its first colon: a port stands right behind the colon, and no word but ending:",
            ),
        ] {
            let found = of_line(line, Holds::Before).unwrap_or_default();
            assert!(found.starts_with(said), "{line}: {found}");
        }
        assert_eq!(of_line("ending: a", Holds::Before), None);
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
