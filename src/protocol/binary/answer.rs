//! What a node, or the proxy itself, says in text, as the packets that a client is sent.

use super::opcode;
use super::reply::Reply;
use super::translate::{Form, flags_and_cas};
use crate::protocol::reply::Line;
use crate::protocol::text::reply::parse;

impl Form {
    /// The whole answer to a request, its lines with their CRLF: the one line of most, the lines of statistics.
    pub fn say(self, text: &[u8], out: &mut Vec<u8>) {
        let line = text.strip_suffix(b"\r\n").unwrap_or(text);
        match self.opcode() {
            opcode::STAT => {}
            // Classic words have the number alone, and no flags with a touch.
            _ if self.counts() && line.first().is_some_and(u8::is_ascii_digit) => {
                return self.number(b"VA 1", line, out);
            }
            opcode::TOUCH if line == b"TOUCHED" => return self.value_head(b"", 0, 0, 0, out),
            _ => return self.answer(line, out),
        }
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            let line = line.strip_suffix(b"\r\n").unwrap_or(line);
            match parse(line) {
                Some(Line::Stat { name, value }) => {
                    Reply::stat(self.opcode(), self.opaque(), name, value).write(out);
                }
                Some(Line::End | Line::Reset) => Reply::stat(self.opcode(), self.opaque(), b"", b"").write(out),
                _ => self.error(line, out),
            }
        }
    }

    const fn counts(self) -> bool {
        let opcode = self.opcode();
        matches!(opcode, opcode::INCREMENT | opcode::DECREMENT | opcode::INCREMENTQ | opcode::DECREMENTQ)
    }

    /// What stands in front of a value, from the line that announces it, CRLF included; `asked` is the key where the line
    /// does not name it.
    pub fn announce(self, line: &[u8], asked: &[u8], out: &mut Vec<u8>) {
        let line = line.strip_suffix(b"\r\n").unwrap_or(line);
        let (key, len) = match parse(line) {
            Some(Line::Value { key, len }) => (key, len),
            Some(Line::Va { len }) => (asked, len),
            _ => return self.answer(line, out),
        };
        let (flags, cas) = flags_and_cas(line).unwrap_or_default();
        self.value_head(key, flags, cas, usize::try_from(len).unwrap_or(usize::MAX), out);
    }

    /// A whole value, or the line in place of one, in which case `value` is empty. Appends what stands in front of it, and
    /// returns what is sent behind: nothing where that was all.
    pub fn value<'a>(self, line: &[u8], asked: &[u8], value: &'a [u8], out: &mut Vec<u8>) -> &'a [u8] {
        let counts =
            matches!(self.opcode(), opcode::INCREMENT | opcode::DECREMENT | opcode::INCREMENTQ | opcode::DECREMENTQ);
        if counts && line.starts_with(b"VA ") {
            self.number(line.strip_suffix(b"\r\n").unwrap_or(line), value, out);
            return &[];
        }
        self.announce(line, asked, out);
        value
    }
}
