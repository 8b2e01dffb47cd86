//! `slipring placements`: where another client may have put the keys.

use std::fmt::Write as _;

use crate::routing::PRESETS;

/// Widest line, in characters.
const WIDTH: usize = 110;

/// Every preset with the clients it matches, its options and its limits.
#[must_use]
pub fn table() -> String {
    let mut text = String::from(
        "Placements, for --placement NAME[,option=value…]. The order of the nodes counts in those marked *.\n",
    );
    for preset in PRESETS {
        let order = preset.name.parse().is_ok_and(|placement: crate::routing::Placement| placement.counts_order());
        let _ = writeln!(text, "\n{}{}", preset.name, if order { " *" } else { "" });
        paragraph(&mut text, "matches", preset.clients);
        paragraph(&mut text, "options", &preset.options());
        if !preset.limits.is_empty() {
            paragraph(&mut text, "limits", preset.limits);
        }
    }
    text
}

/// The same as Markdown, for deploy/OPERATING.md; a test compares them.
#[must_use]
pub fn markdown() -> String {
    let mut table = "| placement | what it matches | limits |\n|---|---|---|\n".to_owned();
    for preset in PRESETS {
        let limits = if preset.limits.is_empty() { "–" } else { preset.limits };
        let _ = writeln!(table, "| `{}` | {} | {} |", preset.name, cell(preset.clients), cell(limits));
    }
    table
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

/// A heading and words, wrapped.
fn paragraph(text: &mut String, heading: &str, words: &str) {
    let mut line = format!("    {heading:8}");
    for word in words.split(' ') {
        if line.chars().count() + 1 + word.chars().count() > WIDTH {
            let _ = writeln!(text, "{}", line.trim_end());
            line = " ".repeat(12);
        }
        line.push_str(word);
        line.push(' ');
    }
    let _ = writeln!(text, "{}", line.trim_end());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_is_listed_with_what_it_matches() {
        let text = table();
        assert!(text.lines().all(|line| line.chars().count() <= 200), "{text}");
        for preset in PRESETS {
            assert!(text.lines().any(|line| line.split(' ').next() == Some(preset.name)), "{}", preset.name);
            assert!(markdown().contains(&format!("| `{}` | {}", preset.name, cell(preset.clients))));
        }
        assert!(text.contains("gomemcache *") && !text.contains("pymemcache *"), "{text}");
    }
}
