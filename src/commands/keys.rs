//! Keys that the user gives: in arguments, in a file, on standard input.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use super::{CommandError, counted};
use crate::protocol::is_key;
use crate::routing::MAX_KEY;

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

/// Calls `f` with each line, without its end; empty ones are no keys and passed over.
///
/// # Errors
/// At the first line that is no key, and when `f` fails.
pub(super) fn each_line(
    input: &mut impl BufRead,
    mut f: impl FnMut(&[u8]) -> Result<(), CommandError>,
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
        check(key).map_err(|problem| CommandError::Line(number, problem))?;
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
    let named = |error: io::Error| CommandError::File(option.clone(), format!("cannot read it: {error}"));
    let mut input = BufReader::new(File::open(path).map_err(named)?);
    let mut keys = Vec::new();
    each_line(&mut input, |key| {
        if keys.len() < limit {
            keys.push(key.to_vec());
        }
        Ok(())
    })
    .map_err(|error| CommandError::File(option.clone(), error.to_string()))?;
    if keys.is_empty() {
        return Err(CommandError::File(option, "it has no keys".to_owned()));
    }
    Ok(keys)
}
