//! Why a node is down, in one phrase.

use std::fmt;
use std::io;
use std::time::Duration;

use super::Unsecured;
use crate::phrase;
use crate::protocol::dialect::Stranger;

/// So many bytes of what a stranger says are shown.
const SHOWN: usize = 60;

/// Why the last connection to a node failed. The phrase follows "node is down: ".
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Nobody listens there.
    Refused,
    /// Its name has no address.
    NameNotFound,
    /// The name servers do not answer.
    NameUnanswered,
    /// What the operating system said of the attempt to connect, by its number.
    System(i32),
    /// The connection was not made within so long.
    NotConnected(Duration),
    /// It owed an answer and said nothing for so long.
    Unanswered(Duration),
    /// It hung up before it said its version.
    ClosedEarly,
    /// It hung up.
    Closed,
    /// It answered something else than its version: the beginning of that, printable.
    Answered(Box<str>),
    /// It answered as TLS does.
    Tls,
    /// It wants to be logged in to.
    Authentication,
    /// It has no room for one more connection.
    Full,
    /// A reply could not be the answer to what was asked.
    OutOfStep,
    /// What listens there is this process.
    Itself,
    /// TLS, or the log-in, failed.
    Unsecured(Unsecured),
    /// It hung up without the last word of TLS: it broke down, or somebody cut the connection.
    CutOff,
}

impl Cause {
    /// What follows from the first bytes that came instead of a version.
    #[must_use]
    pub fn answered(bytes: &[u8]) -> Self {
        let line = match Stranger::of(bytes) {
            Stranger::Tls => return Self::Tls,
            Stranger::Unauthenticated => return Self::Authentication,
            Stranger::Full => return Self::Full,
            Stranger::Says(line) => line,
        };
        let mut text = line.iter().take(SHOWN).flat_map(|byte| byte.escape_ascii()).map(char::from).collect::<String>();
        if line.len() > SHOWN {
            text.push('…');
        }
        Self::Answered(text.into())
    }

    /// Whether what listens there is another thing than the node that is meant, or speaks otherwise than memcached
    /// without TLS and authentication does: waiting does not mend that.
    #[must_use]
    pub const fn is_mistake(&self) -> bool {
        match self {
            Self::Answered(_) | Self::Tls | Self::Authentication => true,
            Self::Unsecured(why) => why.is_mistake(),
            _ => false,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("connection refused"),
            Self::NameNotFound => f.write_str(phrase::NAME_NOT_FOUND),
            Self::NameUnanswered => f.write_str(phrase::NAME_UNANSWERED),
            Self::System(number) => f.write_str(&phrase::of(&io::Error::from_raw_os_error(*number))),
            Self::NotConnected(time) => write!(f, "no answer for {}", Span(*time)),
            Self::Unanswered(time) => write!(f, "no answer to a request for {}", Span(*time)),
            Self::ClosedEarly => f.write_str("closed by it before it said its version"),
            Self::Closed => f.write_str("closed by it"),
            Self::Answered(line) => write!(f, "answered \"{line}\""),
            Self::Tls => f.write_str("TLS expected"),
            Self::Authentication => f.write_str("authentication wanted"),
            Self::Full => f.write_str("too many open connections (memcached's -c)"),
            Self::OutOfStep => f.write_str("answered out of step"),
            Self::Itself => f.write_str("is this sidecar itself"),
            Self::Unsecured(why) => why.fmt(f),
            Self::CutOff => f.write_str("cut off, without the end that TLS has"),
        }
    }
}

/// A time-out as people write it.
#[derive(Clone, Copy, Debug)]
pub struct Span(pub Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0.as_secs(), self.0.subsec_micros()) {
            (seconds, 0) => write!(f, "{seconds} s"),
            _ => write!(f, "{} ms", self.0.as_millis()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_instead_of_a_version_is_shown_without_harm() {
        for (bytes, phrase) in [
            (&b"HTTP/1.1 400 Bad Request\r\nServer: x\r\n"[..], r#"answered "HTTP/1.1 400 Bad Request""#),
            (b"-ERR unknown command\n", r#"answered "-ERR unknown command""#),
            (b"half", r#"answered "half""#),
            (b"\x1b[31m\"\xff\x00\r\n", r#"answered "\x1b[31m\"\xff\x00""#),
            (b"CLIENT_ERROR unauthenticated\r\n", "authentication wanted"),
            (b"ERROR Too many open connections\r\n", "too many open connections (memcached's -c)"),
            (b"ERROR\r\n", r#"answered "ERROR""#),
            (b"\x15\x03\x03\x00\x02\x02\x46", "TLS expected"),
            (b"\x16\x03\x01", "TLS expected"),
        ] {
            assert_eq!(Cause::answered(bytes).to_string(), phrase);
        }
        let long = Cause::answered(&[b'x'; 2000]).to_string();
        assert_eq!(long, format!("answered \"{}…\"", "x".repeat(SHOWN)));
    }

    #[test]
    fn what_the_system_and_the_clocks_say_is_a_phrase() {
        let unreachable = rustix::io::Errno::HOSTUNREACH.raw_os_error();
        assert_eq!(Cause::System(unreachable).to_string(), "No route to host");
        assert_eq!(Cause::NotConnected(Duration::from_millis(500)).to_string(), "no answer for 500 ms");
        assert_eq!(Cause::Unanswered(Duration::from_secs(2)).to_string(), "no answer to a request for 2 s");
    }
}
