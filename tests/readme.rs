//! The documentation: its tables are the ones the program is declared by, its links lead somewhere, README is short.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test may panic"
)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::{env, fs};

const REFRESH: &str = "UPDATE_README=1 cargo test --test readme -- --test-threads 1";
const PAGES: [&str; 11] = [
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "CHANGELOG.md",
    "benches/README.md",
    "deploy/README.md",
    "deploy/OPERATING.md",
    "deploy/example/README.md",
    "deploy/helm/README.md",
    "deploy/monitoring/README.md",
    "tests/README.md",
];
/// What a newcomer reads is read in ten minutes.
const README_LINES: usize = 220;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf()
}

/// Compares what a page holds between two markers with what is declared, or puts it there.
fn holds(page: &str, name: &str, declared: &str) {
    let path = root().join(page);
    let text = fs::read_to_string(&path).unwrap();
    let (begin, end) = (format!("<!-- {name}: begin -->\n"), format!("<!-- {name}: end -->"));
    let (before, rest) = text.split_once(&begin).expect("the marker of its begin");
    let (table, after) = rest.split_once(&end).expect("the marker of its end");
    if table == declared {
        return;
    }
    if env::var_os("UPDATE_README").is_some() {
        fs::write(&path, format!("{before}{begin}{declared}{end}{after}")).unwrap();
        return;
    }
    panic!("the table of {name} in {page} is not the declared one; refresh it: {REFRESH}");
}

#[test]
fn the_manual_holds_the_option_table_as_declared() {
    holds("deploy/OPERATING.md", "options", &slipring::config::option_table());
}

#[test]
fn the_manual_holds_the_placements_as_declared() {
    holds("deploy/OPERATING.md", "placements", &slipring::commands::placements::markdown());
}

#[test]
fn the_monitoring_page_holds_the_metric_table_as_declared() {
    holds("deploy/monitoring/README.md", "metrics", &slipring::metrics::metric_table());
}

#[test]
fn readme_is_short() {
    let lines = fs::read_to_string(root().join("README.md")).unwrap().lines().count();
    assert!(lines <= README_LINES, "{lines} lines");
}

/// The lines of a page outside of its code.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut code = false;
    text.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        code ^= fence;
        !code && !fence
    })
}

/// The names by which the headings of a page are linked to.
fn anchors(text: &str) -> BTreeSet<String> {
    let heading = |line: &str| {
        let title = line.trim_start_matches('#').strip_prefix(' ').filter(|_| line.starts_with('#'))?;
        let kept = title.chars().filter(|c| c.is_alphanumeric() || "-_ ".contains(*c));
        Some(kept.collect::<String>().to_lowercase().replace(' ', "-"))
    };
    prose(text).filter_map(heading).collect()
}

/// What the links of a page lead to.
fn links(text: &str) -> Vec<String> {
    prose(text)
        .flat_map(|line| line.split("](").skip(1))
        .filter_map(|rest| Some(rest.split_once(')')?.0.to_owned()))
        .collect()
}

#[test]
fn links_lead_to_what_is_there() {
    let mut wrong = Vec::new();
    let mut seen = 0;
    for page in PAGES {
        let path = root().join(page);
        let text = fs::read_to_string(&path).unwrap();
        for link in links(&text).into_iter().filter(|link| !link.contains("://")) {
            seen += 1;
            let (file, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let to = if file.is_empty() { path.clone() } else { path.parent().unwrap().join(file) };
            let known = to.exists()
                && (anchor.is_empty() || fs::read_to_string(&to).is_ok_and(|text| anchors(&text).contains(anchor)));
            if !known {
                wrong.push(format!("{page}: {link}"));
            }
        }
    }
    assert!(seen > 50, "{seen} links were found");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_manual_lists_its_chapters() {
    for page in PAGES.iter().filter(|page| page.contains('/')) {
        let text = fs::read_to_string(root().join(page)).unwrap();
        let chapters = prose(&text).filter_map(|line| line.strip_prefix("## "));
        let listed: Vec<String> =
            prose(&text).filter_map(|line| Some(line.strip_prefix("- [")?.split_once("](#")?.0.to_owned())).collect();
        assert!(chapters.eq(listed.iter()), "{page} lists {listed:?}");
    }
}

/// What is said in running text without a link, and was a chapter's name once.
#[test]
fn references_are_links() {
    for page in PAGES {
        let text = fs::read_to_string(root().join(page)).unwrap();
        for line in prose(&text) {
            assert!(!line.contains("see *") && !line.contains("(see \""), "{page}: {line}");
        }
    }
}

/// The sources, with the strings that go on in the next line put together.
fn files() -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    let mut directories = vec![root().join("src")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let mut pieces = text.split("\\\n");
                let first = pieces.next().unwrap_or_default().to_owned();
                files.push((path, pieces.fold(first, |text, piece| text + piece.trim_start())));
            }
        }
    }
    files
}

/// The same as one text.
fn sources() -> String {
    files().into_iter().map(|(_, text)| text).collect()
}

/// The cells of the rows of a table.
fn rows(text: &str) -> Vec<Vec<&str>> {
    let rows = text.lines().filter(|line| line.starts_with("| ")).skip(1);
    rows.map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect()).collect()
}

#[test]
fn the_log_lines_of_the_manual_are_those_of_the_program() {
    let text = fs::read_to_string(root().join("deploy/OPERATING.md")).unwrap();
    let (_, table) = text.split_once("<!-- log lines: begin -->\n").unwrap();
    let (table, _) = table.split_once("<!-- log lines: end -->").unwrap();
    let sources = sources();
    let mut seen = 0;
    for row in rows(table) {
        assert_eq!(row.len(), 4, "{row:?}");
        for line in row[1].split('`').skip(1).step_by(2) {
            // What differs is between the parts.
            for part in line.split('…').map(str::trim).filter(|part| part.len() > 3) {
                seen += 1;
                assert!(sources.contains(part), "{part:?} of {line:?} is no text of the program");
            }
        }
    }
    assert!(seen > 40, "{seen} texts were found");
}

/// A line that is of no use to an operator: a counter that is compiled in for measurements.
const NOT_FOR_OPERATORS: [&str; 1] = ["longest poll"];

/// The texts that a source logs, each with its level.
fn logged(source: &str) -> Vec<(&'static str, String)> {
    const CALLS: [(&str, &str); 4] = [
        ("tracing::info!(", "INFO"),
        ("tracing::warn!(", "WARN"),
        ("tracing::error!(", "ERROR"),
        ("warnings.push(", "WARN"),
    ];
    let mut found = Vec::new();
    for (call, level) in CALLS {
        for (at, _) in source.match_indices(call) {
            // The text is the last string that is an argument itself; of a warning the only one, within `format!`.
            let depth_of_text = if call.starts_with("warnings") { 2 } else { 1 };
            let (mut depth, mut text) = (1, None);
            let mut rest = source[at + call.len()..].chars();
            while depth > 0 {
                match rest.next().expect("a call ends") {
                    '(' => depth += 1,
                    ')' => depth -= 1,
                    '"' => {
                        let mut literal = String::new();
                        loop {
                            match rest.next().expect("a string ends") {
                                '"' => break,
                                '\\' => literal.extend(rest.next()),
                                letter => literal.push(letter),
                            }
                        }
                        if depth <= depth_of_text {
                            text = Some(literal);
                        }
                    }
                    _ => {}
                }
            }
            found.extend(text.map(|text| (level, text)));
        }
    }
    found
}

/// What stands in a text between the parts that differ.
fn fixed_parts(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut differs = false;
    for letter in text.chars() {
        match letter {
            '{' => differs = true,
            '}' => {
                differs = false;
                parts.push(String::new());
            }
            _ if differs => {}
            letter => parts.last_mut().unwrap().push(letter),
        }
    }
    parts.into_iter().map(|part| part.trim().to_owned()).filter(|part| part.len() > 3).collect()
}

#[test]
fn the_manual_has_every_line_that_the_program_logs() {
    let text = fs::read_to_string(root().join("deploy/OPERATING.md")).unwrap();
    let (_, table) = text.split_once("<!-- log lines: begin -->\n").unwrap();
    let (table, _) = table.split_once("<!-- log lines: end -->").unwrap();
    let rows = rows(table);
    let has = |level: &str, text: &str| {
        let lines =
            rows.iter().filter(|row| row[0].contains(level)).flat_map(|row| row[1].split('`').skip(1).step_by(2));
        let mut lines = lines.filter(|line| line.chars().filter(|letter| letter.is_alphabetic()).count() > 3);
        lines.any(|line| line.split('…').map(str::trim).all(|part| text.contains(part)))
    };
    let (mut seen, mut missing) = (0, Vec::new());
    for (path, source) in files() {
        // What other programs and tests are told is no log of ours; neither are the warnings that a command prints.
        let source = source.split("#[cfg(test)]\nmod tests {").next().unwrap();
        let is_printed = path.starts_with(root().join("src/commands"));
        for (level, text) in logged(source) {
            let is_known = fixed_parts(&text).is_empty() || NOT_FOR_OPERATORS.contains(&&*text);
            if is_known || (is_printed && !source.contains("tracing::")) {
                continue;
            }
            seen += 1;
            if !has(level, &text) {
                missing.push(format!("{level} {text:?} of {}", path.display()));
            }
        }
    }
    assert!(seen > 50, "{seen} lines were found");
    assert!(missing.is_empty(), "the table of log lines in deploy/OPERATING.md lacks {missing:#?}");
}

#[test]
fn the_exit_codes_of_the_manual_are_those_of_the_program() {
    let text = fs::read_to_string(root().join("deploy/OPERATING.md")).unwrap();
    let (_, table) = text.split_once("### Exit codes\n").unwrap();
    let (table, _) = table.split_once("\n## ").unwrap();
    let codes: BTreeSet<&str> = rows(table).into_iter().map(|row| row[0]).collect();
    for (arguments, code) in [
        (&["--help"][..], 0),
        (&["check", "--nodes-file", "/nonexistent"], 1),
        (&["serve", "--nodes", "a,a"], 64),
        (&["frobnicate"], 64),
    ] {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_slipring"))
            .args(arguments)
            .env_remove("MEMCACHED_NODES")
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
        assert!(codes.contains(&*code.to_string()), "{code} is not among {codes:?}");
    }
}
