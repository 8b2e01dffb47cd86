//! Packets of the binary protocol: what a client sends, and what it is answered.
pub use slipring::protocol::binary::HEADER_BYTES;
use slipring::protocol::binary::opcode;

/// The unique number a request names.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Unique {
    None,
    /// The one the item has at that node.
    Right,
    Wrong,
}

#[derive(Clone, Debug)]
pub struct Ask {
    pub opcode: u8,
    pub extras: Vec<u8>,
    pub key: Vec<u8>,
    pub value: Vec<u8>,
    pub unique: Unique,
}

pub fn ask(opcode: u8, key: impl AsRef<[u8]>) -> Ask {
    Ask { opcode, extras: Vec::new(), key: key.as_ref().to_vec(), value: Vec::new(), unique: Unique::None }
}

pub fn store(opcode: u8, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>, flags: u32, exptime: u32) -> Ask {
    let extras = [flags.to_be_bytes(), exptime.to_be_bytes()].concat();
    Ask { extras, value: value.as_ref().to_vec(), ..ask(opcode, key) }
}

pub fn set(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Ask {
    store(opcode::SET, key, value, 0xdead_beef, 0)
}

pub fn join(opcode: u8, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Ask {
    Ask { value: value.as_ref().to_vec(), ..ask(opcode, key) }
}

pub fn timed(opcode: u8, key: impl AsRef<[u8]>, exptime: u32) -> Ask {
    Ask { extras: exptime.to_be_bytes().to_vec(), ..ask(opcode, key) }
}

pub fn count(opcode: u8, key: impl AsRef<[u8]>, delta: u64, initial: u64, exptime: u32) -> Ask {
    let extras = [&delta.to_be_bytes()[..], &initial.to_be_bytes(), &exptime.to_be_bytes()].concat();
    Ask { extras, ..ask(opcode, key) }
}

impl Ask {
    pub fn naming(self, unique: Unique) -> Self {
        Self { unique, ..self }
    }

    pub fn packet(&self, opaque: u32, unique: u64) -> Vec<u8> {
        let mut bytes = vec![0x80, self.opcode];
        bytes.extend((self.key.len() as u16).to_be_bytes());
        bytes.extend([self.extras.len() as u8, 0, 0, 0]);
        bytes.extend(((self.extras.len() + self.key.len() + self.value.len()) as u32).to_be_bytes());
        bytes.extend(opaque.to_be_bytes());
        bytes.extend(unique.to_be_bytes());
        bytes.extend([&self.extras[..], &self.key, &self.value].concat());
        bytes
    }
}

pub const QUIET: [(u8, u8); 12] = [
    (opcode::SET, opcode::SETQ),
    (opcode::ADD, opcode::ADDQ),
    (opcode::REPLACE, opcode::REPLACEQ),
    (opcode::APPEND, opcode::APPENDQ),
    (opcode::PREPEND, opcode::PREPENDQ),
    (opcode::DELETE, opcode::DELETEQ),
    (opcode::INCREMENT, opcode::INCREMENTQ),
    (opcode::DECREMENT, opcode::DECREMENTQ),
    (opcode::GET, opcode::GETQ),
    (opcode::GETK, opcode::GETKQ),
    (opcode::GAT, opcode::GATQ),
    (opcode::GATK, opcode::GATKQ),
];

/// A request of this opcode with arguments that fit.
pub fn plain(opcode: u8, key: &[u8]) -> Ask {
    match opcode {
        opcode::SET..=opcode::REPLACE | opcode::SETQ..=opcode::REPLACEQ => store(opcode, key, "12", 7, 0),
        opcode::APPEND | opcode::PREPEND | opcode::APPENDQ | opcode::PREPENDQ => join(opcode, key, "3"),
        opcode::INCREMENT | opcode::DECREMENT | opcode::INCREMENTQ | opcode::DECREMENTQ => {
            count(opcode, key, 5, 0, u32::MAX)
        }
        opcode::TOUCH | opcode::GAT | opcode::GATQ | opcode::GATK | opcode::GATKQ => timed(opcode, key, 3600),
        _ => ask(opcode, key),
    }
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    pub opcode: u8,
    pub status: u16,
    pub opaque: u32,
    pub unique: u64,
    pub extras: Vec<u8>,
    pub key: Vec<u8>,
    pub value: Vec<u8>,
}

impl Packet {
    /// The answer these bytes begin with and its length; `None` where it is not whole.
    ///
    /// # Panics
    /// When they are no answer.
    pub fn read(bytes: &[u8]) -> Option<(Self, usize)> {
        let header = bytes.first_chunk::<HEADER_BYTES>()?;
        assert_eq!(header[0], 0x81, "not an answer");
        let number = |from: usize, to: usize| header[from..to].iter().fold(0, |sum, &byte| sum << 8 | u64::from(byte));
        let end = HEADER_BYTES + number(8, 12) as usize;
        let body = bytes.get(HEADER_BYTES..end)?;
        let (extras, rest) = body.split_at(usize::from(header[4]));
        let (key, value) = rest.split_at(number(2, 4) as usize);
        let packet = Self {
            opcode: header[1],
            status: number(6, 8) as u16,
            opaque: number(12, 16) as u32,
            unique: number(16, 24),
            extras: extras.to_vec(),
            key: key.to_vec(),
            value: value.to_vec(),
        };
        Some((packet, end))
    }
}
