//! What is made from the declaration of the command line besides `--help`: completions, the manual, and the
//! table in deploy/OPERATING.md.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io;

use clap::CommandFactory as _;

use super::SERVE;
use super::cli::{Cli, with_headings};

/// The completions for a shell, as a script of it.
///
/// # Errors
/// None but those of `out`.
pub fn completions(shell: clap_complete::Shell, out: &mut impl io::Write) -> io::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "slipring", &mut script);
    out.write_all(&script)
}

/// A page of the manual: of the program, or of one of its commands.
///
/// # Errors
/// Those of `out`; and when there is no such command.
pub fn manual(command: Option<&str>, out: &mut impl io::Write) -> io::Result<()> {
    // There is no page for `help`.
    let mut cli = with_headings(Cli::command()).disable_help_subcommand(true);
    cli.build();
    let mut described = match command {
        None => cli,
        Some(name) => cli.find_subcommand(name).ok_or(io::ErrorKind::NotFound)?.clone(),
    };
    // As in `--help`: the list of all options is below.
    let usage = described.render_usage().to_string();
    let described = described.override_usage(usage.trim_start_matches("Usage: ").to_owned());
    let page = clap_mangen::Man::new(described)
        // An empty one is left out of the title line, and what follows takes its place.
        .date(" ")
        .source(concat!("slipring ", env!("CARGO_PKG_VERSION")))
        .manual("slipring manual");
    let mut text = Vec::new();
    page.render(&mut text)?;
    out.write_all(unfilled(&String::from_utf8_lossy(&text)).as_bytes())
}

/// The page with the lines behind its options as they are, and not filled to a paragraph.
fn unfilled(page: &str) -> String {
    let Some((options, rest)) = page.split_once(".SH EXTRA\n") else { return page.to_owned() };
    let (lines, end) = rest.split_once(".SH ").unwrap_or((rest, ""));
    let (heading, lines) = match lines.strip_prefix("Examples:\n") {
        Some(examples) => ("EXAMPLES", examples),
        None => ("NOTES", lines),
    };
    format!("{options}.SH {heading}\n.nf\n{lines}.fi\n.SH {end}")
}

/// Every option as a Markdown table: flag, variable, default, meaning. deploy/OPERATING.md holds it, a test
/// compares them.
#[must_use]
pub fn option_table() -> String {
    let mut table = "| flag | environment | default | meaning |\n|---|---|---|---|\n".to_owned();
    let mut seen = HashSet::new();
    for command in Cli::command().get_subcommands() {
        for arg in command.get_arguments() {
            let (Some(long), Some(env)) = (arg.get_long(), arg.get_env()) else {
                continue;
            };
            if !seen.insert(env.to_owned()) {
                continue;
            }
            let only = if command.get_name() == SERVE { "" } else { "`slipring dev`: " };
            let default = match arg.get_default_values() {
                [] => "–".to_owned(),
                values => format!("`{}`", values.join(OsStr::new(" ")).to_string_lossy()),
            };
            let help = arg.get_help().map(ToString::to_string).unwrap_or_default().replace('|', "\\|");
            // Writing to a string cannot fail.
            let _ = writeln!(table, "| `--{long}` | `{}` | {default} | {only}{help} |", env.to_string_lossy());
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum as _;

    #[test]
    fn every_shell_and_every_command_is_described() {
        for shell in clap_complete::Shell::value_variants() {
            let mut script = Vec::new();
            completions(*shell, &mut script).unwrap();
            let script = String::from_utf8(script).unwrap();
            assert!(script.contains("connections-per-node") && script.contains("detect"), "{shell}");
        }
        let page = |command: Option<&str>| {
            let mut page = Vec::new();
            manual(command, &mut page).unwrap();
            String::from_utf8(page).unwrap()
        };
        let title =
            |name: &str| format!(".TH {name} 1 \" \" \"slipring {}\" \"slipring manual\"\n", env!("CARGO_PKG_VERSION"));
        assert!(page(None).contains(&title("slipring")) && page(None).contains("slipring\\-serve"), "{}", page(None));
        assert!(page(None).contains(".SH EXAMPLES\n.nf\n  slipring dev "), "{}", page(None));
        assert!(!page(None).contains("slipring\\-help"), "{}", page(None));
        let check = page(Some("check"));
        assert!(check.contains(&title("slipring-check")), "{check}");
        assert!(check.contains(".SH SYNOPSIS\n\\fBslipring check\\fR [OPTIONS]\n"), "{check}");
        assert!(!check.contains("merge\\-gets") && check.contains("MEMCACHED_NODES"), "{check}");
        for command in Cli::command().get_subcommands().map(|command| command.get_name().to_owned()) {
            assert!(page(Some(&command)).contains(".SH NAME"), "{command}");
        }
        assert!(page(Some("serve")).contains("connections\\-per\\-node"));
        assert!(manual(Some("frobnicate"), &mut Vec::new()).is_err());
    }
}
