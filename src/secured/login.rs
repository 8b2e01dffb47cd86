//! Logging in to a node (memcached's `-Y`): user and password as the first request of a connection.

use std::fmt;

/// Longest line `user:password`, in bytes: memcached's own limit for a line of its file is 256, with its end.
const MAX_LINE: usize = 255;

/// User and password. Nothing shows them: no log, no error, no debug output.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Login {
    request: Box<[u8]>,
}

impl Login {
    /// Reads one line `user:password`.
    ///
    /// # Errors
    /// What is wrong with it, without a byte of it.
    pub(super) fn read(text: &[u8]) -> Result<Self, String> {
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        let line = text.trim_ascii_end();
        if line.is_empty() {
            return Err("it is empty; one line user:password is expected".to_owned());
        }
        if line.contains(&b'\n') {
            return Err("it has several lines; one line user:password is expected".to_owned());
        }
        if line.len() > MAX_LINE {
            return Err(format!("its line is longer than {MAX_LINE} bytes, which memcached does not accept"));
        }
        // The node splits what it is told at blanks, and takes no quotes.
        if line.iter().any(|byte| byte.is_ascii_whitespace() || byte.is_ascii_control()) {
            return Err("user and password must not hold blanks or control characters".to_owned());
        }
        let at = memchr::memchr(b':', line).filter(|at| *at > 0 && at + 1 < line.len());
        let (user, password) =
            at.map(|at| line.split_at(at)).ok_or_else(|| "one line user:password is expected".to_owned())?;
        let password = password.get(1..).unwrap_or_default();
        // The key may be any, and so may flags and time; the node looks at the length and at the block.
        let mut request = format!("set auth 0 0 {}\r\n", line.len()).into_bytes();
        request.extend_from_slice(user);
        request.push(b' ');
        request.extend_from_slice(password);
        request.extend_from_slice(b"\r\n");
        Ok(Self { request: request.into() })
    }

    /// What is to be sent before anything else, alone, and once: what is pipelined behind it may be lost, and said again
    /// it is an ordinary `set`, which leaves the password in the cache.
    pub(super) const fn request(&self) -> &[u8] {
        &self.request
    }

    /// Whether an answer to `get auth` shows it: then its node has no authentication, and took it for a value.
    pub(super) fn is_value_of(&self, answer: &[u8]) -> bool {
        // Both are a line and a block, each with its CRLF.
        let block = |text: &[u8]| memchr::memmem::find(text, b"\r\n").and_then(|at| text.get(at..).map(<[u8]>::to_vec));
        let value = answer.strip_suffix(b"END\r\n").filter(|answer| answer.starts_with(b"VALUE auth "));
        value.is_some_and(|value| block(value) == block(&self.request))
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login(not shown)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_becomes_the_request() {
        for (text, request) in [
            (&b"app:secret"[..], &b"set auth 0 0 10\r\napp secret\r\n"[..]),
            (b"app:secret\r\n", b"set auth 0 0 10\r\napp secret\r\n"),
            (b"\xef\xbb\xbfapp:a:b\n\n", b"set auth 0 0 7\r\napp a:b\r\n"),
            ("ü:ö".as_bytes(), b"set auth 0 0 5\r\n\xc3\xbc \xc3\xb6\r\n"),
        ] {
            assert_eq!(Login::read(text).unwrap().request(), request);
        }
    }

    #[test]
    fn what_is_no_login_is_refused_and_never_shown() {
        for (text, problem) in [
            (&b""[..], "it is empty"),
            (b" \n", "it is empty"),
            (b"hunter2", "one line user:password"),
            (b":hunter2", "one line user:password"),
            (b"hunter2:", "one line user:password"),
            (b"hunter2:b\nhunter2:d\n", "several lines"),
            (b"app:hunter2 x", "blanks"),
            (b"app:hunter2\x00", "blanks or control"),
        ] {
            let error = Login::read(text).unwrap_err();
            assert!(error.contains(problem) && !error.contains("hunter2"), "{error}");
        }
        assert!(Login::read(&[&b"a:"[..], &[b'x'; MAX_LINE]].concat()).is_err());
        let login = Login::read(b"app:hunter2").unwrap();
        assert_eq!(format!("{login:?}"), "Login(not shown)");
    }
}
