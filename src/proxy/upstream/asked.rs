//! What is kept of a request on its way, to be told of if it takes long.

use std::borrow::Cow;

use crate::key_name::key_name;
use crate::protocol::meta;
use crate::proxy::settings::Settings;

/// The key of a request on its way: all that is kept of it, and its text only where that may be told; or the line that is
/// asked by a packet, of which the answer is made.
#[derive(Debug)]
pub(in crate::proxy) enum Asked {
    Hash(u64),
    Key(Box<[u8]>),
    Line { hash: u64, line: Box<[u8]>, may_tell: bool },
}

/// The key of a request for one key, as it is sent: its second word, or what that stands for.
pub(in crate::proxy) fn key_of(line: &[u8]) -> Cow<'_, [u8]> {
    let line = line.strip_suffix(b"\r\n").unwrap_or(line);
    match meta::request::encoded_key(line) {
        Some(key) => Cow::Owned(key),
        None => Cow::Borrowed(line.split(|byte| *byte == b' ').nth(1).unwrap_or_default()),
    }
}

impl Asked {
    /// `line` is the request as it is sent.
    #[inline]
    pub(in crate::proxy) fn new(hash: u64, line: &[u8], settings: &Settings) -> Self {
        if settings.log_keys && settings.slow_request.is_some() { Self::key(line) } else { Self::Hash(hash) }
    }

    fn key(line: &[u8]) -> Self {
        Self::Key(key_of(line).into_owned().into())
    }

    /// The same where the line is kept.
    pub(in crate::proxy) fn line(hash: u64, line: &[u8], settings: &Settings) -> Self {
        Self::Line { hash, line: line.into(), may_tell: settings.log_keys }
    }

    /// Bytes of memory held apart.
    pub(in crate::proxy) fn weight(&self) -> usize {
        match self {
            Self::Hash(_) => 0,
            Self::Key(key) => key.len(),
            Self::Line { line, .. } => line.len(),
        }
    }

    /// How the key is told.
    pub(in crate::proxy) fn name(&self) -> String {
        match self {
            Self::Hash(hash) => key_name(*hash, None),
            Self::Key(key) => key_name(0, Some(key)),
            Self::Line { hash, line, may_tell } => key_name(*hash, may_tell.then(|| key_of(line)).as_deref()),
        }
    }
}
