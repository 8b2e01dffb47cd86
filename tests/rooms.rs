//! The rooms of the core import each other one way only: a file may use what stands before it in this list.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "a test")]

use std::path::Path;

/// The files of `src/proxy`, from the bottom to the top; a name stands for a folder's `mod.rs`, too.
const FILES: &[&str] = &[
    "table",
    "ids",
    "buffer",
    "sizes",
    "effect",
    "fail_reason",
    "ends",
    "discovery_answer",
    "settings",
    "account",
    "shared",
    "stats",
    // A client connection.
    "client/gather",
    "client/order",
    "client/replies",
    "client/retries",
    "client/elsewhere",
    "client/moves",
    "client/key_list",
    "client/reading",
    "client/stall",
    "client",
    // A lane and its node.
    "upstream/asked",
    "upstream/group",
    "upstream/entry",
    "upstream/health",
    "upstream/said",
    "upstream/fifo",
    "upstream/marks",
    "upstream/node",
    "upstream",
    // What joins the two: only these are `impl Core`.
    "handoff",
    "old_places",
    "second_places",
    "values",
    "large",
    "failure",
    "cause",
    "routes",
    "lanes",
    "binary_lanes",
    "own_lanes",
    "memory",
    "waits",
    "clocks",
    "renewal",
    "ring",
    "slow",
    "conns",
    "auto_discovery",
    "bodies",
    "requests",
    "meta",
    "fan_out",
    "packets",
    "key_lists",
    "input",
    "answers",
    "steps",
    "passing",
    "invariants",
];

/// A module and its parent are one room: these pairs use each other's types.
const ONE_ROOM: &[(&str, &str)] = &[
    ("client/elsewhere", "client"),
    ("client/moves", "client"),
    ("client/key_list", "client"),
    ("upstream/entry", "upstream"),
    ("upstream/fifo", "upstream"),
    ("upstream/marks", "upstream"),
];

fn rank(file: &str) -> usize {
    FILES.iter().position(|name| *name == file).unwrap_or_else(|| panic!("{file} has no place in this list"))
}

/// What a file imports from `src/proxy`, as names of the list.
fn imports(file: &str, text: &str) -> Vec<String> {
    let code = text.split("#[cfg(test)]").next().unwrap();
    let folder =
        file.split_once('/').map(|(folder, _)| folder).or(["client", "upstream"].contains(&file).then_some(file));
    let mut found = Vec::new();
    for statement in code.split("\nuse ").skip(1) {
        let path = statement.split(';').next().unwrap().replace(char::is_whitespace, "");
        let path = match (path.strip_prefix("crate::proxy::"), path.strip_prefix("super::")) {
            (Some(rest), _) => rest.to_owned(),
            // In a folder's file its own room; in that folder's mod.rs, and elsewhere, the core.
            (None, Some(rest)) if file.contains('/') => format!("{}::{rest}", folder.unwrap()),
            (None, Some(rest)) => rest.to_owned(),
            (None, None) => {
                let own = folder.filter(|folder| *folder == file).map(|folder| format!("{folder}::{path}"));
                match own {
                    Some(path) => path,
                    None => continue,
                }
            }
        };
        let words: Vec<&str> = path.split("::").collect();
        let [first, rest @ ..] = words.as_slice() else { continue };
        let below = rest.first().map(|second| format!("{first}/{second}"));
        let named = below
            .filter(|name| FILES.contains(&&**name))
            .or_else(|| FILES.contains(first).then(|| (*first).to_owned()));
        found.extend(named.filter(|name| name != file));
    }
    found
}

#[test]
fn the_rooms_of_the_core_import_each_other_one_way() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/proxy");
    let mut wrong = Vec::new();
    let mut seen = 0;
    for file in FILES {
        let path = [format!("{file}.rs"), format!("{file}/mod.rs")].map(|name| root.join(name));
        let path = path.iter().find(|path| path.is_file()).unwrap_or_else(|| panic!("{file} is no file"));
        for other in imports(file, &std::fs::read_to_string(path).unwrap()) {
            seen += 1;
            let one_room = ONE_ROOM.contains(&(file, &*other));
            if rank(&other) >= rank(file) && !one_room {
                wrong.push(format!("{file} uses {other}, which stands above it"));
            }
        }
    }
    assert!(seen > 60, "only {seen} imports were found: the test does not see them any more");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for (folder, prefix) in [(root.clone(), ""), (root.join("client"), "client/"), (root.join("upstream"), "upstream/")]
    {
        for entry in std::fs::read_dir(&folder).unwrap().flatten() {
            let name = entry.file_name().into_string().unwrap();
            if let Some(name) = name.strip_suffix(".rs").filter(|name| !["mod", "tests"].contains(name)) {
                let name = format!("{prefix}{name}");
                assert!(FILES.contains(&&*name), "{name}.rs has no place in the list of rooms");
            }
        }
    }
}
