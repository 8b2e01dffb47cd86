//! A blocking client of the classic text protocol that believes nothing.
use super::PATIENCE;
use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

/// One `VALUE` block.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Value {
    pub key: Vec<u8>,
    pub flags: u32,
    pub data: Vec<u8>,
    pub cas: Option<u64>,
}

pub struct TextClient {
    stream: Socket,
    /// Bytes received and not yet asked for, from `start` on.
    buffer: Vec<u8>,
    start: usize,
}

impl TextClient {
    /// # Panics
    /// When the connection is refused.
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap_or_else(|error| panic!("cannot connect to {address}: {error}"));
        stream.set_nodelay(true).expect("TCP_NODELAY");
        Self::over(stream.into())
    }

    /// As [`TextClient::connect`], with a receive buffer of so many bytes: what it does not read soon waits on the other
    /// side.
    ///
    /// # Panics
    /// When the connection is refused.
    pub fn connect_narrow(address: SocketAddr, bytes: usize) -> Self {
        let stream = Socket::new(Domain::for_address(address), Type::STREAM, None).expect("a socket");
        // Before the connection is made, or the window is as wide as it was.
        stream.set_recv_buffer_size(bytes).expect("SO_RCVBUF");
        stream.connect(&address.into()).unwrap_or_else(|error| panic!("cannot connect to {address}: {error}"));
        stream.set_tcp_nodelay(true).expect("TCP_NODELAY");
        Self::over(stream)
    }

    /// Through a Unix socket.
    ///
    /// # Panics
    /// When nobody listens there.
    pub fn connect_unix(path: &Path) -> Self {
        let stream = UnixStream::connect(path);
        Self::over(stream.unwrap_or_else(|error| panic!("cannot connect to {}: {error}", path.display())).into())
    }

    fn over(stream: Socket) -> Self {
        let mut client = Self { stream, buffer: Vec::new(), start: 0 };
        client.set_patience(PATIENCE);
        client
    }

    /// Longest silence that a read or a write bears.
    pub fn set_patience(&mut self, patience: Duration) {
        self.stream.set_read_timeout(Some(patience)).expect("a time-out");
        self.stream.set_write_timeout(Some(patience)).expect("a time-out");
    }

    pub fn stream(&self) -> &Socket {
        &self.stream
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        let bytes = bytes.as_ref();
        self.stream.write_all(bytes).unwrap_or_else(|error| panic!("sending {}: {error}", shown(bytes)));
        self
    }

    /// Sends what the other side may refuse to take by closing.
    pub fn send_if_taken(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Says that nothing more will be sent; answers may still come.
    pub fn half_close(&mut self) -> &mut Self {
        match self.stream.shutdown(Shutdown::Write) {
            // The other side has closed.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => {}
            result => result.expect("half-close"),
        }
        self
    }

    /// Leaves with a reset instead of a farewell.
    pub fn abort(self) {
        self.stream.set_linger(Some(Duration::ZERO)).expect("SO_LINGER");
    }

    fn received(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    fn consume(&mut self, count: usize) {
        self.start += count;
        if self.start == self.buffer.len() {
            self.buffer.clear();
            self.start = 0;
        }
    }

    /// One read; 0 at the end.
    fn fill(&mut self) -> io::Result<usize> {
        if self.start > 1 << 20 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        let held = self.buffer.len();
        self.buffer.resize(held + (64 << 10), 0);
        let result = loop {
            match self.stream.read(&mut self.buffer[held..]) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        self.buffer.truncate(held + *result.as_ref().unwrap_or(&0));
        result
    }

    fn fill_or_panic(&mut self, waiting_for: &str) {
        match self.fill() {
            Ok(0) => panic!("closed, having {}, waiting for {waiting_for}", shown(self.received())),
            Ok(_) => {}
            Err(error) => {
                panic!("{error}, having {}, waiting for {waiting_for}", shown(self.received()))
            }
        }
    }

    /// Reads exactly these bytes, and stops at the first that differs.
    pub fn expect(&mut self, wanted: impl AsRef<[u8]>) -> &mut Self {
        let wanted = wanted.as_ref();
        let mut same = 0;
        loop {
            let held = self.received();
            let upto = held.len().min(wanted.len());
            assert!(held[same..upto] == wanted[same..upto], "wanted {}\n   got {}", shown(wanted), shown(held));
            same = upto;
            if same == wanted.len() {
                self.consume(same);
                return self;
            }
            self.fill_or_panic(&shown(wanted));
        }
    }

    /// Sends, and expects exactly this reply.
    pub fn ask(&mut self, request: impl AsRef<[u8]>, reply: impl AsRef<[u8]>) -> &mut Self {
        let request = request.as_ref();
        let wanted = reply.as_ref();
        self.send(request);
        self.expect(wanted)
    }

    /// Nothing was received beyond what was read: an `mn` is answered at once with its `MN`.
    pub fn in_step(&mut self) -> &mut Self {
        self.ask("mn\r\n", "MN\r\n")
    }

    /// One line, without its CR LF.
    pub fn line(&mut self) -> String {
        String::from_utf8_lossy(&self.line_bytes()).into_owned()
    }

    /// One line, or nothing when the other side closes before its end.
    pub fn line_or_end(&mut self) -> Option<String> {
        while !self.received().contains(&b'\n') {
            match self.fill() {
                Ok(0) => return None,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("{error}, having {}, waiting for a line", shown(self.received())),
            }
        }
        Some(self.line())
    }

    /// Sends, and gives the one line that comes back.
    pub fn ask_line(&mut self, request: impl AsRef<[u8]>) -> String {
        self.send(request);
        self.line()
    }

    /// Exactly `count` bytes.
    pub fn take(&mut self, count: usize) -> Vec<u8> {
        while self.received().len() < count {
            self.fill_or_panic("a data block");
        }
        let bytes = self.received()[..count].to_vec();
        self.consume(count);
        bytes
    }

    /// Reads and forgets `count` bytes, handing each piece to `check` with its offset.
    pub fn stream_through(&mut self, count: usize, mut check: impl FnMut(usize, &[u8])) {
        let mut done = 0;
        while done < count {
            if self.received().is_empty() {
                self.fill_or_panic("more of a data block");
            }
            let piece = self.received().len().min(count - done);
            check(done, &self.received()[..piece]);
            self.consume(piece);
            done += piece;
        }
    }

    /// The reply to a retrieval: its values, or the error line that stands where `END` would.
    pub fn values(&mut self) -> Result<Vec<Value>, String> {
        let mut values = Vec::new();
        loop {
            let line = self.line_bytes();
            let Some(rest) = line.strip_prefix(b"VALUE ") else {
                return if line == b"END" { Ok(values) } else { Err(String::from_utf8_lossy(&line).into_owned()) };
            };
            let words: Vec<&[u8]> = rest.split(|&byte| byte == b' ').collect();
            let number = |at: usize| -> u64 {
                std::str::from_utf8(words[at])
                    .ok()
                    .and_then(|text| text.parse().ok())
                    .unwrap_or_else(|| panic!("not a VALUE line: {}", shown(&line)))
            };
            assert!((3..=4).contains(&words.len()), "not a VALUE line: {}", shown(&line));
            let length = number(2) as usize;
            let data = self.take(length + 2);
            assert!(data.ends_with(b"\r\n"), "a block does not end in CR LF: {}", shown(&data));
            values.push(Value {
                key: words[0].to_vec(),
                flags: number(1) as u32,
                data: data[..length].to_vec(),
                cas: (words.len() == 4).then(|| number(3)),
            });
        }
    }

    fn line_bytes(&mut self) -> Vec<u8> {
        let mut searched = 0;
        loop {
            let held = self.received();
            if let Some(at) = held[searched..].iter().position(|&byte| byte == b'\n') {
                let end = searched + at;
                assert!(end > 0 && held[end - 1] == b'\r', "a line without CR: {}", shown(&held[..=end]));
                let line = held[..end - 1].to_vec();
                self.consume(end + 1);
                return line;
            }
            searched = held.len();
            self.fill_or_panic("a line");
        }
    }

    /// Sends a `get`, and gives its values.
    ///
    /// # Panics
    /// When an error line comes instead.
    pub fn get(&mut self, keys: &[&str]) -> Vec<Value> {
        self.send(format!("get {}\r\n", keys.join(" ")));
        self.values().unwrap_or_else(|line| panic!("get {keys:?} was answered {line:?}"))
    }

    pub fn set(&mut self, key: &str, value: impl AsRef<[u8]>) -> &mut Self {
        let value = value.as_ref();
        let mut request = format!("set {key} 0 0 {}\r\n", value.len()).into_bytes();
        request.extend_from_slice(value);
        request.extend_from_slice(b"\r\n");
        self.ask(request, "STORED\r\n")
    }

    /// The reply to a `stats` command, every line of it well formed.
    pub fn stats(&mut self, command: &str) -> BTreeMap<String, String> {
        self.send(format!("{command}\r\n"));
        let mut stats = BTreeMap::new();
        loop {
            let line = self.line();
            if line == "END" {
                return stats;
            }
            let pair = line.strip_prefix("STAT ").and_then(|rest| rest.split_once(' '));
            let (name, value) = pair.unwrap_or_else(|| panic!("{command}: not a STAT line: {line:?}"));
            stats.insert(name.to_owned(), value.to_owned());
        }
    }

    /// All that still comes until the other side closes (a reset is a close too).
    pub fn rest(&mut self) -> Vec<u8> {
        loop {
            match self.fill() {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
                Err(error) => panic!("{error}: waiting for the end after {}", shown(self.received())),
            }
        }
        let rest = self.received().to_vec();
        self.consume(rest.len());
        rest
    }

    /// The other side closes without another byte.
    pub fn expect_closed(&mut self) {
        let rest = self.rest();
        assert!(rest.is_empty(), "before the close came {}", shown(&rest));
    }

    /// Sends a whole session, however large, while reading; half-closes; gives all that came.
    pub fn session(mut self, pieces: &[&[u8]]) -> Vec<u8> {
        let mut writer = self.stream.try_clone().expect("a second handle");
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for piece in pieces {
                    // The other side may have closed (`quit`); what it said is what counts.
                    if writer.write_all(piece).is_err() {
                        return;
                    }
                }
                let _ = writer.shutdown(Shutdown::Write);
            });
            self.rest()
        })
    }
}

/// Bytes for a failure's text: escaped, and cut when long.
pub fn shown(bytes: &[u8]) -> String {
    const MOST: usize = 400;
    let cut = &bytes[..bytes.len().min(MOST)];
    let more = if bytes.len() > MOST { "…" } else { "" };
    format!("{} bytes \"{}{more}\"", bytes.len(), cut.escape_ascii())
}
