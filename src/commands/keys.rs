//! Keys that the user gives: in arguments, in a file, on standard input.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use super::{CommandError, counted};
use crate::log;
use crate::phrase;
use crate::protocol::is_key;
use crate::routing::MAX_KEY;

/// So many keys that are none are told of.
const REFUSED_TOLD: u64 = 10;

/// Longest line that is shown, in bytes.
const SHOWN: usize = 80;

/// Whether any client could store it.
///
/// # Errors
/// What is wrong with it.
pub(super) fn check(key: &[u8]) -> Result<(), String> {
    match key.len() {
        0 => Err("a key has at least one byte".to_owned()),
        len if len > MAX_KEY => Err(format!("the key has {len} bytes, more than {MAX_KEY}")),
        _ if key.iter().all(u8::is_ascii_whitespace) => Err("the key is blank".to_owned()),
        _ => Ok(()),
    }
}

/// A key for a message.
pub(super) fn show(key: &[u8]) -> String {
    let text = String::from_utf8_lossy(key.get(..SHOWN).unwrap_or(key)).replace(char::is_control, "?");
    if key.len() > SHOWN { format!("{text}…") } else { text }
}

/// Says so when some of these keys cannot be named in the text protocol: most likely there is a space too many.
pub(super) fn warn_of_spaces(spaced: usize, first: &str) {
    if spaced > 0 {
        tracing::warn!(
            "{} with a space or a NUL, first in {first}: only binary clients, and meta requests with a base64 key, can \
             send such keys",
            counted(spaced, "key")
        );
    }
}

/// What is wrong with keys that have no answer: the others have theirs before the command fails.
#[derive(Debug, Default)]
pub(super) struct Refused {
    count: u64,
    /// Not told yet: where it is the only one, it is why the command fails.
    last: Option<CommandError>,
}

// === impl Refused ===

impl Refused {
    /// Takes what is wrong with one key, and tells it if it is one of the first.
    pub(super) fn add(&mut self, error: CommandError) {
        self.count += 1;
        if let Some(error) = self.last.replace(error).filter(|_| self.count <= REFUSED_TOLD) {
            log::tell(&format!("slipring: {error}"));
        }
    }

    /// When the others have their answers.
    ///
    /// # Errors
    /// If there is one.
    pub(super) fn end(self) -> Result<(), CommandError> {
        match (self.count, self.last) {
            (_, None) => Ok(()),
            (1, Some(error)) => Err(error),
            (count, Some(error)) => {
                if count <= REFUSED_TOLD {
                    log::tell(&format!("slipring: {error}"));
                }
                Err(CommandError::Refused(count))
            }
        }
    }
}

/// Calls `f` with each line, without its end, and `refuse` with what is wrong with one that is no key; empty ones are passed
/// over.
///
/// # Errors
/// When `f` or `refuse` fails, and when nothing can be read.
pub(super) fn each_line(
    input: &mut impl BufRead,
    mut f: impl FnMut(&[u8]) -> Result<(), CommandError>,
    mut refuse: impl FnMut(CommandError) -> Result<(), CommandError>,
) -> Result<(), CommandError> {
    let mut line = Vec::with_capacity(MAX_KEY + 2);
    let (mut spaced, mut first) = (0, 0);
    for number in 1_u64.. {
        line.clear();
        if input.read_until(b'\n', &mut line)? == 0 {
            break;
        }
        let key = line.strip_suffix(b"\n").unwrap_or(&line);
        let key = key.strip_suffix(b"\r").unwrap_or(key);
        if key.is_empty() {
            continue;
        }
        if let Err(problem) = check(key) {
            refuse(CommandError::Line(number, problem))?;
            continue;
        }
        if !is_key(key) {
            spaced += 1;
            first = if first == 0 { number } else { first };
        }
        f(key)?;
    }
    warn_of_spaces(spaced, &format!("line {first}"));
    Ok(())
}

/// The keys in a file, at most `limit`.
///
/// # Errors
/// When it cannot be read, or a line is no key.
pub(super) fn file(path: &Path, limit: usize) -> Result<Vec<Vec<u8>>, CommandError> {
    let option = format!("--keys {}", path.display());
    let named =
        |error: io::Error| CommandError::File(option.clone(), format!("cannot read it: {}", phrase::of(&error)));
    let mut input = BufReader::new(File::open(path).map_err(named)?);
    let mut keys = Vec::new();
    let take = |key: &[u8]| {
        if keys.len() < limit {
            keys.push(key.to_vec());
        }
        Ok(())
    };
    each_line(&mut input, take, Err).map_err(|error| CommandError::File(option.clone(), error.to_string()))?;
    if keys.is_empty() {
        return Err(CommandError::File(option, "it has no keys".to_owned()));
    }
    Ok(keys)
}
