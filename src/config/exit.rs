//! What is said, and with which code the process ends, when an option is wrong or only help was asked for.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};

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
        if last.ends_with([',', ';']) || word.starts_with([',', ';']) {
            let mut options = before.iter().rev().map(|arg| arg.to_string_lossy()).filter(|arg| arg.starts_with("--"));
            let option = options.next()?.split('=').next().unwrap_or_default().to_owned();
            return Some(Self::usage(&format!(
                "{option}: {word:?} is behind a blank, where the list has ended: write it without blanks, or in quotes"
            )));
        }
        let command = declared.find_subcommand(args.get(1)?)?;
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
        // What is wrong, and perhaps what was meant; usage and the way to the help follow.
        let mut paragraphs = text.trim_start_matches("error: ").split("\n\n");
        let mut problem = paragraphs.next().unwrap_or_default().to_owned();
        let tip = paragraphs.find(|paragraph| paragraph.trim_start().starts_with("tip:"));
        if let Some(tip) = tip.filter(|_| is_near(error)) {
            problem.push_str("; ");
            problem.push_str(tip);
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

/// Whether the command that clap suggests may have been meant: it is generous, `locate` for `frobnicate`.
fn is_near(error: &clap::Error) -> bool {
    let (Some(ContextValue::String(given)), Some(suggested)) =
        (error.get(ContextKind::InvalidSubcommand), error.get(ContextKind::SuggestedSubcommand))
    else {
        return true;
    };
    let near = |word: &str| strsim::osa_distance(given, word) <= 2;
    match suggested {
        ContextValue::String(word) => near(word),
        ContextValue::Strings(words) => words.iter().any(|word| near(word)),
        _ => true,
    }
}

/// Whatever a value contained, the complaint about it is one line.
pub(super) fn one_line(text: &str) -> String {
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    words.replace(char::is_control, "?")
}
