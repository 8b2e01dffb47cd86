//! What clients send in packets.

use slipring::protocol::binary::{HEADER_BYTES, opcode};

use super::super::packets::{Ask, ask, count, join, plain, store, timed};
use super::World;

/// Values look like requests, in both dialects, which are done only where a value before them did not end.
const FILLING: &[u8] = b"\x80\x08\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\r\nflush_all\r\nset a 0 0 1\r\nx\r\n";

impl World<'_> {
    /// Sends one request in packets, or a batch of quiet ones, most of the time a good one.
    pub(super) fn ask_packets(&mut self, i: usize) {
        let kind = self.schedule.byte();
        match kind % 32 {
            0..6 => self.ask_packet(i, &[opcode::GET, opcode::GETK, opcode::GETQ, opcode::GETKQ]),
            6..9 => self.ask_packet(i, &[opcode::TOUCH, opcode::GAT, opcode::GATQ, opcode::GATK, opcode::GATKQ]),
            9..12 => self.ask_batch(i),
            12..21 => self.ask_packet(
                i,
                &[
                    opcode::SET,
                    opcode::SETQ,
                    opcode::ADD,
                    opcode::ADDQ,
                    opcode::REPLACE,
                    opcode::REPLACEQ,
                    opcode::APPEND,
                    opcode::APPENDQ,
                    opcode::PREPEND,
                    opcode::PREPENDQ,
                ],
            ),
            21..24 => self.ask_packet(i, &[opcode::DELETE, opcode::DELETEQ]),
            24..27 => {
                self.ask_packet(i, &[opcode::INCREMENT, opcode::INCREMENTQ, opcode::DECREMENT, opcode::DECREMENTQ]);
            }
            27..29 => self.ask_packet(i, &[opcode::NOOP, opcode::NOOP, opcode::VERSION, opcode::STAT]),
            29 => self.ask_packet(i, &[opcode::FLUSH, opcode::FLUSHQ]),
            30 => self.ask_packet(i, &[opcode::SASL_LIST, opcode::SASL_AUTH, opcode::CONFIG_GET, 0x1b, 0xff]),
            _ => self.ask_packet(i, &[opcode::NOOP, opcode::NOOP, opcode::QUIT, opcode::QUITQ]),
        }
    }

    fn opaque(&mut self, i: usize, how: u8) -> u32 {
        // Some clients have the same for all of their requests. Where many are owed there would be too many readings of what
        // comes: of quiet ones it could be any's.
        self.opaques += 1;
        if how & 1 == 1 && self.clients[i].asked() < 8 { 0 } else { self.opaques as u32 }
    }

    /// Many quiet reads, closed as clients do: by a noop, or by the last being loud.
    fn ask_batch(&mut self, i: usize) {
        let how = self.schedule.byte();
        let code = [opcode::GETKQ, opcode::GETQ, opcode::GETKQ, opcode::GATKQ][usize::from(how >> 1) % 4];
        let count = [2, 3, 40, 200][usize::from(how >> 3) % 4];
        let first = self.schedule.below(self.keys.len());
        let mut bytes = Vec::new();
        for n in first..first + count {
            let opaque = self.opaque(i, if count > 3 { 0 } else { how });
            bytes.extend(plain(code, &self.keys[n % self.keys.len()]).packet(opaque, 0));
        }
        let opaque = self.opaque(i, how);
        let last = if how >> 7 == 1 { ask(opcode::GETK, &self.keys[first]) } else { ask(opcode::NOOP, "") };
        bytes.extend(last.packet(opaque, 0));
        self.send(i, &bytes);
    }

    fn ask_packet(&mut self, i: usize, opcodes: &[u8]) {
        let code = self.schedule.pick(opcodes);
        let (how, wrong) = (self.schedule.byte(), self.schedule.byte());
        let exptime = [0, 0, 30, 2_592_001, u32::MAX, 0, 1, 0][usize::from(how >> 1) % 8];
        let mut key = self.key();
        match how >> 4 {
            // Keys that text cannot carry, and not even base64.
            12 => key = b"\0 x\r\nflush_all\r\n".to_vec(),
            13 => key = vec![b'\n'; 186],
            14 => key = vec![b'\n'; 187],
            15 => key = vec![b' '; 250],
            _ => {}
        }
        let request = match code {
            opcode::SET..=opcode::REPLACE | opcode::SETQ..=opcode::REPLACEQ => {
                let value = self.filling(&key, how);
                store(code, &key, value, 0xdead_beef, exptime)
            }
            opcode::APPEND | opcode::APPENDQ | opcode::PREPEND | opcode::PREPENDQ => {
                let value = self.filling(&key, how);
                join(code, &key, value)
            }
            opcode::INCREMENT | opcode::INCREMENTQ | opcode::DECREMENT | opcode::DECREMENTQ => {
                count(code, &key, 5, 7, if how & 2 == 2 { u32::MAX } else { exptime })
            }
            opcode::TOUCH | opcode::GAT | opcode::GATQ | opcode::GATK | opcode::GATKQ => timed(code, &key, exptime),
            opcode::STAT => ask(code, self.schedule.pick(&["", "nodes", "reset", "sum", "nonsense", "settings"])),
            opcode::FLUSH | opcode::FLUSHQ if how & 2 == 2 => timed(code, "", exptime),
            opcode::SASL_AUTH | opcode::CONFIG_GET | 0x1b | 0xff => {
                join(code, "cluster", &FILLING[..usize::from(how) % 50])
            }
            opcode::QUIT | opcode::QUITQ | opcode::NOOP | opcode::VERSION | opcode::FLUSH | opcode::FLUSHQ => {
                ask(code, "")
            }
            _ => ask(code, &key),
        };
        let unique = match wrong >> 6 {
            0 | 1 => 0,
            2 => 3,
            _ => u64::from(self.schedule.byte()),
        };
        let opaque = self.opaque(i, how);
        let bytes = self.spoil(wrong & 63, &request, request.packet(opaque, unique));
        self.send(i, &bytes);
    }

    /// Most packets are left as they are; others have lengths that do not fit, or are cut off.
    fn spoil(&mut self, how: u8, request: &Ask, mut bytes: Vec<u8>) -> Vec<u8> {
        let grow = |byte: &mut u8, by: u8| *byte = byte.wrapping_add(by);
        match how {
            // Another magic, key length, length of the extras, data type or whole length.
            40 => bytes[0] = 0x81,
            41 => grow(&mut bytes[3], 1),
            42 => grow(&mut bytes[3], 255),
            43 => grow(&mut bytes[2], 1),
            44 => grow(&mut bytes[4], 1),
            45 => grow(&mut bytes[4], 252),
            46 => grow(&mut bytes[5], 1),
            47 => grow(&mut bytes[11], 1),
            48 => grow(&mut bytes[11], 255),
            49 => grow(&mut bytes[8], 255),
            50 => bytes[8..12].fill(0xff),
            51 => grow(&mut bytes[9], 1),
            // No key, or one that is too long.
            52 => return Ask { key: Vec::new(), ..request.clone() }.packet(0, 0),
            53 => return Ask { key: vec![b'k'; 251], ..request.clone() }.packet(0, 0),
            54 => return Ask { extras: Vec::new(), ..request.clone() }.packet(0, 0),
            55 => return Ask { value: b"value".to_vec(), ..request.clone() }.packet(0, 0),
            // Cut off: what follows is the rest of it.
            56 => bytes.truncate(self.schedule.below(HEADER_BYTES)),
            57 => drop(bytes.pop()),
            58 => bytes.truncate(bytes.len() / 2),
            59 => bytes.truncate(HEADER_BYTES + usize::from(bytes[4])),
            60 => bytes.push(0x80),
            _ => {}
        }
        bytes
    }

    fn filling(&mut self, key: &[u8], how: u8) -> Vec<u8> {
        let mut len = self.schedule.pick(&[0, 1, 10, 100, 1400, 5000, 30_000, 1 << 20, (1 << 20) + 1]);
        if len >= 1 << 20 && !key.starts_with(b"large") {
            // As of lines.
            len = 50;
        }
        // Of a large one there would be too many.
        let filling = if len < 1 << 20 { FILLING } else { b"set a 0 0 1 " };
        let skip = usize::from(how) % filling.len();
        filling.repeat(len / filling.len() + 2)[skip..skip + len].to_vec()
    }
}
