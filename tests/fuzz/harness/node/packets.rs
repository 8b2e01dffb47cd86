//! The binary protocol, as memcached 1.5.16 speaks it to who asks in loud packets: each has a reply.

use super::super::show;
use super::{Deed, Input, Item, MAX_GROWN, MAX_ITEM, Node, Session, Truth};

/// What a node says to packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Packets {
    #[default]
    Answered,
    /// The connection is closed.
    Closed,
    /// They are a line that it does not know.
    Refused,
    /// Nothing is said.
    Ignored,
}

impl Packets {
    pub fn of(number: usize) -> Self {
        // The seeds are older than the last.
        if number % 7 == 6 { Self::Ignored } else { [Self::Answered, Self::Closed, Self::Refused][number % 3] }
    }

    /// The same without a wait.
    pub fn calm(self) -> Self {
        if self == Self::Ignored { Self::Refused } else { self }
    }
}

impl Session {
    /// What follows on a connection that is begun by a packet.
    pub(super) fn first_packet(&mut self, truth: &mut Truth, out: &mut Vec<u8>) -> Input {
        // It may have become another meanwhile, or have lied about its version.
        assert!(truth.had_old || truth.lied, "a packet to a node that always knew the meta commands");
        match self.kind.packets {
            Packets::Answered => return Input::Packets,
            Packets::Closed => self.is_closed = true,
            Packets::Refused => out.extend_from_slice(b"ERROR\r\n"),
            // Who waits for it may wait for too long.
            Packets::Ignored => truth.shaken = true,
        }
        Input::Deaf
    }

    /// Whether nothing more is answered on it.
    pub fn is_deaf(&self) -> bool {
        matches!(self.input, Input::Deaf)
    }

    /// Whether packets are answered on it.
    pub fn speaks_packets(&self) -> bool {
        matches!(self.input, Input::Packets | Input::PacketRest(_))
    }
}

const HEADER: usize = 24;
const NOT_FOUND: u16 = 0x01;
const EXISTS: u16 = 0x02;
const TOO_LARGE: u16 = 0x03;
const NOT_STORED: u16 = 0x05;
/// An expiry that is over.
const LONG_AGO: u32 = 2_592_001;

fn number<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("as many bytes")
}

/// The packet at the front of some bytes.
struct Packet<'a> {
    opcode: u8,
    cas: u64,
    opaque: [u8; 4],
    extras: &'a [u8],
    key: &'a [u8],
}

impl Packet<'_> {
    fn reply(&self, status: u16, cas: u64, extras: &[u8], value: &[u8]) -> Vec<u8> {
        let mut out = vec![0x81, self.opcode, 0, 0, extras.len() as u8, 0];
        out.extend_from_slice(&status.to_be_bytes());
        out.extend_from_slice(&((extras.len() + value.len()) as u32).to_be_bytes());
        out.extend_from_slice(&self.opaque);
        out.extend_from_slice(&cas.to_be_bytes());
        out.extend_from_slice(extras);
        out.extend_from_slice(value);
        out
    }

    fn error(&self, status: u16) -> Vec<u8> {
        let text: &[u8] = match status {
            NOT_FOUND => b"Not found",
            EXISTS => b"Data exists for key.",
            TOO_LARGE => b"Too large.",
            _ => b"Not stored.",
        };
        self.reply(status, 0, &[], text)
    }

    /// The expiry that stands here in the extras.
    fn is_over(&self, at: usize) -> bool {
        u32::from_be_bytes(number(self.extras, at)) == LONG_AGO
    }
}

/// Takes the packet at the front of `bytes`: how much of them it is, how much behind them is swallowed, and the reply. `None`:
/// it is not whole.
pub fn take(node: &mut Node, bytes: &[u8], truth: &mut Truth) -> Option<(usize, usize, Vec<u8>)> {
    if bytes.len() < HEADER {
        return None;
    }
    assert_eq!((bytes[0], number(bytes, 5)), (0x80, [0; 3]), "a packet");
    let (key_len, extras_len) = (usize::from(u16::from_be_bytes(number(bytes, 2))), usize::from(bytes[4]));
    let body_len = u32::from_be_bytes(number(bytes, 8)) as usize;
    let head_len = HEADER + extras_len + key_len;
    let value_len = body_len.checked_sub(extras_len + key_len).expect("lengths that fit");
    let head = bytes.get(..head_len)?;
    let (extras, key) = head[HEADER..].split_at(extras_len);
    let packet =
        Packet { opcode: bytes[1], cas: u64::from_be_bytes(number(bytes, 16)), opaque: number(bytes, 12), extras, key };
    let (must, stores) = match packet.opcode {
        0x00 | 0x04 => (0, false),
        0x0a => {
            assert_eq!(body_len, 0, "a noop with a body");
            return Some((HEADER, 0, packet.reply(0, 0, &[], &[])));
        }
        0x01..=0x03 => (8, true),
        0x05 | 0x06 => (20, false),
        0x0e | 0x0f => (0, true),
        0x1c | 0x1d => (4, false),
        opcode => panic!("a node was sent the packet {opcode:#x}"),
    };
    assert!(extras_len == must && (1..=250).contains(&key_len) && (stores || value_len == 0), "{:?}", show(head));
    if value_len > MAX_ITEM {
        // As memcached: the answer comes before the value, which is swallowed; a Set takes the old one with it.
        if packet.opcode == 0x01 {
            node.items.remove(key);
        }
        return Some((head_len, value_len, packet.error(TOO_LARGE)));
    }
    let value = bytes.get(head_len..head_len + value_len)?;
    match packet.opcode {
        0x00 | 0x1c | 0x1d => truth.check_read(key),
        _ if stores => truth.sent(head, &[value, b"\r\n"].concat()),
        _ => truth.sent(head, b""),
    }
    Some((head_len + value_len, 0, node.packet(&packet, value_len, truth)))
}

impl Node {
    fn packet(&mut self, packet: &Packet<'_>, value_len: usize, truth: &mut Truth) -> Vec<u8> {
        let key = packet.key;
        let old = self.items.get(key).copied();
        let differs = |old: Item| packet.cas != 0 && packet.cas != old.serial;
        match (packet.opcode, old) {
            (0x01..=0x03 | 0x0e | 0x0f, old) => self.store_packet(packet, old, value_len, truth),
            (0x05 | 0x06, None) if u32::from_be_bytes(number(packet.extras, 16)) != u32::MAX => {
                let item = truth.item(0, 1);
                truth.did(Deed::Counted, key);
                self.items.insert(key.to_vec(), item);
                packet.reply(0, item.serial, &[], &item.serial.to_be_bytes())
            }
            (_, None) => packet.error(NOT_FOUND),
            (0x04..=0x06, Some(item)) if differs(item) => packet.error(EXISTS),
            (0x04, Some(_)) => {
                truth.did(Deed::Deleted, key);
                self.items.remove(key);
                packet.reply(0, 0, &[], &[])
            }
            (0x05 | 0x06, Some(item)) => {
                truth.did(Deed::Counted, key);
                packet.reply(0, item.serial, &[], &item.serial.to_be_bytes())
            }
            (opcode, Some(item)) => {
                if opcode != 0x00 && packet.is_over(0) {
                    self.items.remove(key);
                }
                let value = if opcode == 0x1c { Vec::new() } else { item.value(key) };
                packet.reply(0, item.serial, &item.flags.to_be_bytes(), &value)
            }
        }
    }

    fn store_packet(&mut self, packet: &Packet<'_>, old: Option<Item>, len: usize, truth: &mut Truth) -> Vec<u8> {
        let Packet { opcode, cas, key, .. } = *packet;
        let joins = matches!(opcode, 0x0e | 0x0f);
        match (opcode, old) {
            (0x0e | 0x0f, None) => return packet.error(NOT_STORED),
            // With a unique all the others are a cas.
            (_, None) if cas != 0 => return packet.error(NOT_FOUND),
            (_, Some(old)) if cas != 0 && old.serial != cas => return packet.error(EXISTS),
            (0x02, Some(_)) if cas == 0 => return packet.error(EXISTS),
            (0x03, None) => return packet.error(NOT_FOUND),
            _ => {}
        }
        let flags = if joins { 0 } else { u32::from_be_bytes(number(packet.extras, 0)) };
        let fresh = truth.item(flags, len);
        truth.did(Deed::Stored, key);
        let item = match old {
            Some(old) if joins => Item { len: (old.len + len).min(MAX_GROWN), serial: fresh.serial, ..old },
            _ => fresh,
        };
        if !joins && packet.is_over(4) {
            self.items.remove(key);
        } else {
            self.items.insert(key.to_vec(), item);
        }
        packet.reply(0, item.serial, &[], &[])
    }
}
