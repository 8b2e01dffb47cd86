//! How a client wants its replies: in the dialect in which it asked.

use super::binary::translate as binary;
use super::meta::request::Verb;
use super::request::ReadVerb;

/// The dialect of one reply, and what is left out of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The classic commands: what the node says, as it says it.
    Text,
    /// The meta commands: what the node says, but for what `q` hides.
    Meta {
        /// `q`
        quiet: bool,
        /// `mg`, of which `q` hides the miss; of the others it hides the success.
        reads: bool,
    },
    /// A meta command that its node was asked in classic words. The line is kept.
    Classic,
    /// A meta command whose node was not asked to say the key again. The line is kept.
    KeptKey {
        /// `q`
        quiet: bool,
    },
    /// The binary protocol: what the node says, as packets.
    Binary(binary::Form),
}

impl Form {
    /// Whether the line of the request is kept for the answer to be made of.
    #[must_use]
    pub const fn keeps_line(self) -> bool {
        matches!(self, Self::Classic | Self::KeptKey { .. })
    }

    /// Whether a line that answers a request, or the value behind it, is not for its client.
    #[must_use]
    pub fn hides(self, line: &[u8]) -> bool {
        match self {
            Self::Text | Self::Classic | Self::Binary(_) | Self::Meta { quiet: false, .. } => false,
            Self::KeptKey { quiet } => quiet && line.starts_with(b"EN"),
            Self::Meta { reads: true, .. } => line.starts_with(b"EN"),
            Self::Meta { .. } => line.starts_with(b"HD") || line.starts_with(b"VA"),
        }
    }

    /// What ends the reply to a read; `found`: a value was given.
    #[must_use]
    pub const fn end(self, found: bool) -> &'static [u8] {
        match self {
            Self::Text => b"END\r\n",
            Self::Meta { quiet: false, .. } if !found => b"EN\r\n",
            Self::Meta { .. } | Self::Classic | Self::KeptKey { .. } | Self::Binary(_) => b"",
        }
    }
}

impl ReadVerb {
    /// Whether it is of the meta commands: one key, and its answer is not closed by `END`.
    #[must_use]
    pub const fn is_meta(self) -> bool {
        matches!(self, Self::Meta { .. })
    }

    /// Whether its answer may be a number that it made.
    #[must_use]
    pub const fn counts(self) -> bool {
        matches!(self, Self::Meta { verb: Verb::Arithmetic, .. })
    }

    /// Whether it may change what it reads: its loss is an error, and it is not asked twice.
    #[must_use]
    pub const fn writes(self) -> bool {
        matches!(self, Self::Meta { writes: true, .. })
    }
}

#[cfg(test)]
mod tests {
    use super::Form;

    #[test]
    fn quiet_hides_what_was_expected_only() {
        let answers = ["HD", "VA 1", "EN ka", "NF", "NS", "EX", "ME a b=c", "CLIENT_ERROR x", "SERVER_ERROR x"];
        for (form, hidden) in [
            (Form::Meta { quiet: true, reads: true }, vec!["EN ka"]),
            (Form::KeptKey { quiet: true }, vec!["EN ka"]),
            (Form::Meta { quiet: true, reads: false }, vec!["HD", "VA 1"]),
            (Form::Meta { quiet: false, reads: true }, vec![]),
            (Form::Meta { quiet: false, reads: false }, vec![]),
            (Form::Text, vec![]),
        ] {
            let found: Vec<&str> = answers.into_iter().filter(|answer| form.hides(answer.as_bytes())).collect();
            assert_eq!(found, hidden, "{form:?}");
        }
    }
}
