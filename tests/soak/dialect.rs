//! The requests of the mixed load in the words of each dialect, and what they are answered.
use super::support::packets::{Ask, HEADER_BYTES, Packet, ask, count, store, timed};
use super::support::{TextClient, shown};
use data_encoding::BASE64;
use slipring::protocol::binary::opcode;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    Text,
    Meta,
    Binary,
}

/// One request; a quiet one is answered only where it is not carried out, and in text not at all.
pub(crate) enum Request<'a> {
    /// `touch` sets an expiry, which is never.
    Get {
        touch: bool,
        quiet: bool,
    },
    Touch,
    Set(&'a [u8]),
    SetQuietly(&'a [u8]),
    Add(&'a [u8]),
    Compare(&'a [u8], u64),
    Delete,
    DeleteQuietly,
    Count,
    CountQuietly,
}

/// What a request was answered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Found {
        data: Vec<u8>,
        unique: u64,
    },
    Done,
    Number(u64),
    /// There is none.
    Missing,
    /// There is one already, or another.
    Refused,
}

/// Ends a pipeline in which something is quiet. It is answered behind all before it.
pub(crate) fn barrier(dialect: Dialect, opaque: u32, out: &mut Vec<u8>) {
    match dialect {
        Dialect::Text => {}
        Dialect::Meta => out.extend_from_slice(b"mn\r\n"),
        Dialect::Binary => out.extend(ask(opcode::NOOP, "").packet(opaque, 0)),
    }
}

/// A key without anything that text cannot carry may travel in base64, too.
pub(crate) fn write(dialect: Dialect, request: &Request<'_>, key: &[u8], base64: bool, opaque: u32, out: &mut Vec<u8>) {
    match dialect {
        Dialect::Text => text(request, std::str::from_utf8(key).unwrap(), out),
        Dialect::Meta => meta(request, key, base64, opaque, out),
        Dialect::Binary => {
            let unique = if let Request::Compare(_, unique) = request { *unique } else { 0 };
            out.extend(packet(request, key).packet(opaque, unique));
        }
    }
}

fn text(request: &Request<'_>, key: &str, out: &mut Vec<u8>) {
    let (line, block) = match request {
        Request::Get { touch: true, .. } => (format!("gats 0 {key}"), None),
        Request::Get { .. } => (format!("gets {key}"), None),
        Request::Touch => (format!("touch {key} 0"), None),
        Request::Set(data) => (format!("set {key} 0 0 {}", data.len()), Some(data)),
        Request::SetQuietly(data) => (format!("set {key} 0 0 {} noreply", data.len()), Some(data)),
        Request::Add(data) => (format!("add {key} 0 0 {}", data.len()), Some(data)),
        Request::Compare(data, unique) => (format!("cas {key} 0 0 {} {unique}", data.len()), Some(data)),
        Request::Delete => (format!("delete {key}"), None),
        Request::DeleteQuietly => (format!("delete {key} noreply"), None),
        Request::Count => (format!("incr {key} 1"), None),
        Request::CountQuietly => (format!("incr {key} 1 noreply"), None),
    };
    lines(&line, block.copied(), out);
}

fn meta(request: &Request<'_>, key: &[u8], base64: bool, opaque: u32, out: &mut Vec<u8>) {
    let plain = std::str::from_utf8(key).ok().filter(|_| !base64);
    let (key, b) = plain.map_or_else(|| (BASE64.encode(key), " b"), |key| (key.to_owned(), ""));
    let (line, block) = match request {
        Request::Get { touch, quiet } => {
            let (touch, quiet) = (if *touch { " T0" } else { "" }, if *quiet { " q" } else { "" });
            (format!("mg {key}{b} v k c{touch}{quiet}"), None)
        }
        Request::Touch => (format!("mg {key}{b} T0"), None),
        Request::Set(data) => (format!("ms {key} {}{b}", data.len()), Some(data)),
        Request::SetQuietly(data) => (format!("ms {key} {} q{b}", data.len()), Some(data)),
        Request::Add(data) => (format!("ms {key} {}{b} ME", data.len()), Some(data)),
        Request::Compare(data, unique) => (format!("ms {key} {}{b} C{unique}", data.len()), Some(data)),
        Request::Delete => (format!("md {key}{b}"), None),
        Request::DeleteQuietly => (format!("md {key}{b} q"), None),
        Request::Count => (format!("ma {key}{b} v"), None),
        Request::CountQuietly => (format!("ma {key}{b} q"), None),
    };
    lines(&format!("{line} O{opaque}"), block.copied(), out);
}

fn lines(line: &str, block: Option<&[u8]>, out: &mut Vec<u8>) {
    for part in [Some(line.as_bytes()), block].into_iter().flatten() {
        out.extend_from_slice(part);
        out.extend_from_slice(b"\r\n");
    }
}

fn packet(request: &Request<'_>, key: &[u8]) -> Ask {
    match request {
        Request::Get { touch: true, quiet: true } => timed(opcode::GATKQ, key, 0),
        Request::Get { touch: true, quiet: false } => timed(opcode::GATK, key, 0),
        Request::Get { touch: false, quiet: true } => ask(opcode::GETKQ, key),
        Request::Get { touch: false, quiet: false } => ask(opcode::GETK, key),
        Request::Touch => timed(opcode::TOUCH, key, 0),
        Request::Set(data) | Request::Compare(data, _) => store(opcode::SET, key, data, 0, 0),
        Request::SetQuietly(data) => store(opcode::SETQ, key, data, 0, 0),
        Request::Add(data) => store(opcode::ADD, key, data, 0, 0),
        Request::Delete => ask(opcode::DELETE, key),
        Request::DeleteQuietly => ask(opcode::DELETEQ, key),
        Request::Count => count(opcode::INCREMENT, key, 1, 0, u32::MAX),
        Request::CountQuietly => count(opcode::INCREMENTQ, key, 1, 0, u32::MAX),
    }
}

/// What came, and which request it is about; `None` for a barrier of meta, which does not say.
struct Frame {
    opaque: Option<u32>,
    key: Option<Vec<u8>>,
    answer: Answer,
}

/// A connection that speaks one dialect.
pub(crate) struct Client {
    dialect: Dialect,
    pub(crate) stream: TextClient,
    /// Read, and about a request that is still to come.
    next: Option<Frame>,
}

impl Client {
    pub(crate) fn new(dialect: Dialect, stream: TextClient) -> Self {
        Self { dialect, stream, next: None }
    }

    /// What is answered to this request, which is not quiet.
    ///
    /// # Panics
    /// When it is about another one.
    pub(crate) fn answer(&mut self, opaque: u32, key: &[u8]) -> Answer {
        if self.dialect == Dialect::Text {
            return self.line();
        }
        let frame = self.next.take().unwrap_or_else(|| self.frame());
        assert_eq!(frame.opaque, Some(opaque), "out of step: {:?} of {}", frame.answer, shown(key));
        assert!(frame.key.is_none_or(|named| named == key), "another key for {}", shown(key));
        frame.answer
    }

    /// As [`Client::answer`], for a quiet one: only a barrier or an answer to something behind it tells that there is none.
    pub(crate) fn quiet_answer(&mut self, opaque: u32, key: &[u8]) -> Option<Answer> {
        if self.dialect == Dialect::Text {
            return None;
        }
        let frame = self.next.take().unwrap_or_else(|| self.frame());
        if frame.opaque == Some(opaque) {
            assert!(frame.key.is_none_or(|named| named == key), "another key for {}", shown(key));
            return Some(frame.answer);
        }
        self.next = Some(frame);
        None
    }

    pub(crate) fn barrier(&mut self, opaque: u32) {
        if self.dialect == Dialect::Text {
            return;
        }
        let frame = self.next.take().unwrap_or_else(|| self.frame());
        let wanted = (self.dialect == Dialect::Binary).then_some(opaque);
        assert_eq!((frame.opaque, &frame.answer), (wanted, &Answer::Done), "no barrier");
    }

    /// The values of a `gets` of one or more keys, which come in the order of the keys.
    pub(crate) fn values(&mut self, keys: &[&[u8]]) -> Vec<Answer> {
        let mut values = self.stream.values().expect("values and END").into_iter().peekable();
        let answers = keys
            .iter()
            .map(|key| match values.next_if(|value| value.key == *key) {
                Some(value) => Answer::Found { data: value.data, unique: value.cas.expect("a unique") },
                None => Answer::Missing,
            })
            .collect();
        assert!(values.next().is_none(), "a value that was not asked for, or not there");
        answers
    }

    fn line(&mut self) -> Answer {
        let line = self.stream.line();
        match &*line {
            "STORED" | "DELETED" | "TOUCHED" => Answer::Done,
            "NOT_FOUND" => Answer::Missing,
            "NOT_STORED" | "EXISTS" => Answer::Refused,
            _ => Answer::Number(line.parse().unwrap_or_else(|_| panic!("answered {line:?}"))),
        }
    }

    fn frame(&mut self) -> Frame {
        if self.dialect == Dialect::Binary { self.packet() } else { self.meta_line() }
    }

    fn packet(&mut self) -> Frame {
        let mut bytes = self.stream.take(HEADER_BYTES);
        let body = u32::from_be_bytes(bytes[8..12].try_into().unwrap());
        bytes.extend(self.stream.take(body as usize));
        let (packet, _) = Packet::read(&bytes).unwrap();
        let reads = matches!(packet.opcode, opcode::GETK | opcode::GETKQ | opcode::GATK | opcode::GATKQ);
        let answer = match (packet.status, packet.opcode) {
            (0, opcode::INCREMENT) => Answer::Number(u64::from_be_bytes(packet.value.try_into().unwrap())),
            (0, _) if reads => Answer::Found { data: packet.value, unique: packet.unique },
            (0, _) => Answer::Done,
            (1, _) => Answer::Missing,
            (2, _) => Answer::Refused,
            _ => panic!("answered {}", shown(&bytes)),
        };
        Frame { opaque: Some(packet.opaque), key: reads.then_some(packet.key), answer }
    }

    fn meta_line(&mut self) -> Frame {
        let line = self.stream.line();
        let mut words = line.split(' ');
        let word = words.next();
        let len: Option<usize> = (word == Some("VA")).then(|| words.next().unwrap().parse().unwrap());
        let flags: Vec<&str> = words.collect();
        let flag = |letter: char| flags.iter().find_map(|flag| flag.strip_prefix(letter));
        let number = |letter: char| flag(letter).map(|digits| digits.parse::<u64>().unwrap());
        let answer = match (word, len) {
            (Some("VA"), Some(len)) => {
                let mut data = self.stream.take(len + 2);
                assert!(data.ends_with(b"\r\n"), "a block without its end: {}", shown(&data));
                data.truncate(len);
                match number('c') {
                    Some(unique) => Answer::Found { data, unique },
                    None => Answer::Number(std::str::from_utf8(&data).unwrap().parse().unwrap()),
                }
            }
            (Some("HD" | "MN"), _) => Answer::Done,
            (Some("EN" | "NF"), _) => Answer::Missing,
            (Some("NS" | "EX"), _) => Answer::Refused,
            _ => panic!("answered {line:?}"),
        };
        let key = flag('k').map(|key| match flags.contains(&"b") {
            true => BASE64.decode(key.as_bytes()).unwrap(),
            false => key.as_bytes().to_vec(),
        });
        Frame { opaque: number('O').map(|opaque| opaque as u32), key, answer }
    }
}
