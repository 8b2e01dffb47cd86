//! What is said, and with which code the process ends, when an option is wrong or only help was asked for.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::SERVE;
use crate::phrase;

/// Exit code for a wrong option or a wrong variable (`EX_USAGE` of sysexits.h).
const EXIT_USAGE: u8 = 64;

/// Why the process ends before it has begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// What to print, without the last line end; one line unless it is the help.
    pub text: String,
    /// Where to print it.
    pub stream: Stream,
    /// Exit code: 0 for help and version, 64 for anything wrong.
    pub code: u8,
}

/// An output of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

// === impl Exit ===

impl Exit {
    pub(super) fn usage(problem: &str) -> Self {
        Self { text: format!("slipring: {}", one_line(problem)), stream: Stream::Stderr, code: EXIT_USAGE }
    }

    /// Of a word that no option took, but that was meant for the one before it.
    pub(super) fn of_stray_word(error: &clap::Error, args: &[OsString], declared: &clap::Command) -> Option<Self> {
        let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidArg) else { return None };
        if error.kind() != ErrorKind::UnknownArgument || word.starts_with('-') {
            return None;
        }
        let at = args.iter().position(|arg| arg == word.as_str())?;
        let before = args.get(..at)?;
        let last = before.last()?.to_string_lossy();
        let name = args.get(1)?;
        if declared.find_subcommand(word).is_some() && name == SERVE {
            return Some(Self::usage(&format!("{word} is a command, which comes first: slipring {word} [OPTIONS]")));
        }
        let command = declared.find_subcommand(name)?;
        let has_comma = last.ends_with([',', ';']) || word.starts_with([',', ';']);
        // The last option, and how many words stand behind it.
        let options = (0..).zip(before.iter().rev()).map(|(behind, arg)| (behind, arg.to_string_lossy()));
        if let Some((behind, option)) = { options }.find(|(_, arg)| arg.starts_with("--")) {
            let option = option.split('=').next().unwrap_or_default();
            let arg = command.get_arguments().find(|arg| arg.get_long() == option.strip_prefix("--"));
            let is_list = arg.and_then(|arg| arg.get_value_names()?.first()).is_some_and(|name| name == "LIST");
            if has_comma || (is_list && behind <= 1) {
                return Some(Self::usage(&format!(
                    "{option}: {} is behind a blank, where the list has ended: write it without blanks, or in quotes",
                    phrase::quoted(word)
                )));
            }
        }
        let flag = last.strip_prefix("--")?;
        let is_switch = command.get_arguments().any(|arg| arg.get_long() == Some(flag) && arg.is_require_equals_set());
        is_switch.then(|| {
            Self::usage(&format!(
                "{last} {word}: write {last}, {last}=true or {last}=false (on, off, 1 and 0 do, too), with \"=\" before the value"
            ))
        })
    }

    pub(super) fn from_clap(error: &clap::Error, from_env: &[(String, String)]) -> Self {
        let text = error.to_string();
        if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
            return Self { text: text.trim_end().to_owned(), stream: Stream::Stdout, code: 0 };
        }
        let given =
            |kind| if let Some(ContextValue::String(text)) = error.get(kind) { Some(text.as_str()) } else { None };
        if let (ErrorKind::InvalidSubcommand, Some(word)) = (error.kind(), given(ContextKind::InvalidSubcommand)) {
            if looks_like_a_node(word) {
                return Self::usage(&format!(
                    "there is no command {}; nodes are named by --nodes LIST",
                    phrase::quoted(word)
                ));
            }
            let meant = nearest(error, word).map(|meant| format!(", perhaps {meant} is meant")).unwrap_or_default();
            return Self::usage(&format!(
                "there is no command {}{meant} (they are listed by: slipring --help)",
                phrase::quoted(word)
            ));
        }
        // What is wrong, and perhaps what was meant; usage and the way to the help follow.
        let mut paragraphs = text.trim_start_matches("error: ").split("\n\n");
        let mut problem = paragraphs.next().unwrap_or_default().to_owned();
        let tip = paragraphs.find(|paragraph| paragraph.trim_start().starts_with("tip:"));
        match tip {
            Some(tip) => problem.push_str(&format!("; {tip}")),
            None if given(ContextKind::InvalidArg).is_some_and(looks_like_a_node) => {
                problem.push_str("; nodes are named by --nodes LIST");
            }
            None if error.kind() == ErrorKind::UnknownArgument => {
                problem.push_str("; the options are listed by: slipring COMMAND --help");
            }
            None => {}
        }
        let Some(ContextValue::String(shown)) = error.get(ContextKind::InvalidArg) else {
            return Self::usage(&problem);
        };
        if error.kind() == ErrorKind::ArgumentConflict && problem.contains("multiple times") && shown.contains("LIST") {
            problem.push_str("; give all nodes in one list, separated by commas");
        }
        let long = shown.trim_start_matches('-').split([' ', '=', '[']).next().unwrap_or_default();
        match from_env.iter().find(|(option, _)| option == long) {
            Some((_, name)) => Self::usage(&problem.replace(&format!("'{shown}'"), name)),
            None => Self::usage(&problem),
        }
    }
}

/// Whether a word that is no option may be an address.
fn looks_like_a_node(word: &str) -> bool {
    !word.starts_with('-') && word.contains([':', '.'])
}

/// Of the commands that clap suggests the one that may have been meant: it is generous, `locate` for `frobnicate`.
fn nearest<'a>(error: &'a clap::Error, word: &str) -> Option<&'a str> {
    let suggested = match error.get(ContextKind::SuggestedSubcommand)? {
        ContextValue::String(suggested) => std::slice::from_ref(suggested),
        ContextValue::Strings(suggested) => suggested.as_slice(),
        _ => &[],
    };
    let distances = suggested.iter().map(|suggested| (strsim::osa_distance(word, suggested), suggested.as_str()));
    distances.filter(|(distance, _)| *distance <= 2).min().map(|(_, suggested)| suggested)
}

/// Whatever a value contained, the complaint about it is one line.
pub(super) fn one_line(text: &str) -> String {
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    words.replace(char::is_control, "?")
}
