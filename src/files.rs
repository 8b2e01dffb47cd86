//! Reading small files that somebody else writes: lists of nodes, certificates, passwords.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::OFlags;

/// Largest file, in bytes: a thousand nodes of the longest names are a quarter of it.
const MAX_FILE: u64 = 1 << 20;

/// Reads a regular file of at most 1 MiB; `flags` are more of `open`'s.
///
/// # Errors
/// When it is none, or cannot be read.
pub fn read_regular(path: &Path, flags: OFlags) -> io::Result<Vec<u8>> {
    // Else opening a pipe would wait for its writer. Of a regular file it changes nothing.
    let flags = flags | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file: File = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    // Of what is open now, not of what was there before.
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(io::Error::other("it is larger than 1 MiB"));
    }
    Ok(bytes)
}
