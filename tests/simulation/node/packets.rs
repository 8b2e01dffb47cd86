//! The binary protocol of the model, as a node before 1.6 is asked in it: loud packets, each with a reply.

use super::{Input, MAX_ITEM, Node, Sight};

/// What a node that has no meta commands says to packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packets {
    /// It answers them.
    Answered,
    /// They are a line that it does not know.
    Refused,
    /// Nothing.
    Ignored,
    /// Behind its address are others: every third connection in packets leads to one that refuses them, every third in text
    /// to one that has the meta commands.
    Mixed,
}

impl Packets {
    pub(super) fn of(seed: u64) -> Self {
        [Self::Answered, Self::Refused, Self::Mixed, Self::Ignored][(seed % 4) as usize]
    }
}

impl Node {
    /// Whether other nodes are behind its address, too, which have the meta commands or refuse packets.
    pub(crate) fn is_mixed(&self) -> bool {
        self.is_old() && self.packets == Packets::Mixed
    }

    /// Whether it has no meta commands and answers packets instead.
    pub(crate) fn answers_packets(&self) -> bool {
        self.is_old() && matches!(self.packets, Packets::Answered | Packets::Mixed)
    }

    /// What follows on a connection that is begun by a packet.
    pub(super) fn first_packet(&mut self, out: &mut Vec<u8>) -> Input {
        assert!(self.is_old(), "packets to a node that knows the meta commands");
        self.asked += 1;
        let is_refused = match self.packets {
            Packets::Mixed => self.asked.is_multiple_of(3),
            packets => packets == Packets::Refused,
        };
        if is_refused {
            out.extend_from_slice(b"ERROR\r\n");
        }
        if is_refused || self.packets == Packets::Ignored { Input::Deaf } else { Input::Packets }
    }
}

pub(super) const HEADER: usize = 24;
/// An expiry that is over.
const LONG_AGO: u32 = 2_592_001;

fn number<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().unwrap()
}

/// How much of `bytes` is the packet at its front, and how much of it is swallowed. `None`: it is not whole.
pub(super) fn take(node: &mut Node, bytes: &[u8], out: &mut Vec<u8>) -> Option<(usize, usize)> {
    if bytes.len() < HEADER {
        return None;
    }
    assert_eq!(bytes[0], 0x80, "a packet");
    let opcode = bytes[1];
    let key_len = usize::from(u16::from_be_bytes(number(bytes, 2)));
    let extras_len = usize::from(bytes[4]);
    let body_len = u32::from_be_bytes(number(bytes, 8)) as usize;
    let head_len = HEADER + extras_len + key_len;
    let value_len = body_len - extras_len - key_len;
    let head = bytes.get(..head_len)?;
    let cas = u64::from_be_bytes(number(bytes, 16));
    let opaque: [u8; 4] = number(bytes, 12);
    let say = |status: u16, cas: u64, extras: &[u8], value: &[u8], out: &mut Vec<u8>| {
        out.extend_from_slice(&[0x81, opcode, 0, 0, extras.len() as u8, 0]);
        out.extend_from_slice(&status.to_be_bytes());
        out.extend_from_slice(&((extras.len() + value.len()) as u32).to_be_bytes());
        out.extend_from_slice(&opaque);
        out.extend_from_slice(&cas.to_be_bytes());
        out.extend_from_slice(extras);
        out.extend_from_slice(value);
    };
    let error = |status: u16, text: &str, out: &mut Vec<u8>| say(status, 0, &[], text.as_bytes(), out);
    let key = head[HEADER + extras_len..].to_vec();
    assert!(opcode == 0x0a || (1..=250).contains(&key_len), "a key of {key_len} bytes");
    node.ledger.packets += u64::from(opcode != 0x0a);
    if value_len > MAX_ITEM {
        // As memcached: the answer comes before the value, which is swallowed; a Set takes the old one with it.
        if opcode == 0x01 {
            node.items.remove(&key);
        }
        error(0x03, "Too large.", out);
        return Some((head_len, value_len));
    }
    let value = bytes.get(head_len..head_len + value_len)?;
    let exptime = |at: usize| u32::from_be_bytes(number(head, at));
    match opcode {
        0x0a => say(0, 0, &[], &[], out),
        0x00 | 0x1c | 0x1d => {
            if key.starts_with(b"once.") {
                node.ledger.seen.push(Sight::Once(key.clone()));
            }
            if opcode == 0x1c {
                node.ledger.seen.push(Sight::Change("touch", key.clone()));
            }
            if node.hiccups() {
                error(0x82, "Out of memory", out);
            } else if let Some(item) = node.items.get(&key) {
                let data: &[u8] = if opcode == 0x1c { &[] } else { &item.data };
                say(0, item.unique, &item.flags.to_be_bytes(), data, out);
                if opcode == 0x1c {
                    node.note("TOUCHED", &key);
                }
                if opcode != 0x00 && exptime(HEADER) == LONG_AGO {
                    node.items.remove(&key);
                }
            } else {
                error(0x01, "Not found", out);
            }
        }
        0x01 | 0x02 | 0x03 | 0x0e | 0x0f => {
            if node.hiccups() {
                error(0x82, "Out of memory allocating item", out);
                return Some((head_len + value_len, 0));
            }
            let verb: &[u8] = match opcode {
                _ if cas != 0 => b"cas",
                0x01 => b"set",
                0x02 => b"add",
                0x03 => b"replace",
                0x0e => b"append",
                _ => b"prepend",
            };
            let stores = extras_len == 8;
            let flags = if stores { u32::from_be_bytes(number(head, HEADER)) } else { 0 };
            let drops = stores && exptime(HEADER + 4) == LONG_AGO;
            let unique = (cas != 0).then(|| cas.to_string().into_bytes());
            match (node.keep(verb, &key, flags, drops, unique.as_deref(), value), opcode) {
                (b"STORED\r\n", _) => say(0, node.unique, &[], &[], out),
                (b"EXISTS\r\n", _) | (b"NOT_STORED\r\n", 0x02) => error(0x02, "Data exists for key.", out),
                (b"NOT_FOUND\r\n", _) | (b"NOT_STORED\r\n", 0x03) => error(0x01, "Not found", out),
                _ => error(0x05, "Not stored.", out),
            }
        }
        0x04 => {
            node.ledger.seen.push(Sight::Change("delete", key.clone()));
            if node.items.remove(&key).is_some() {
                node.note("DELETED", &key);
                say(0, 0, &[], &[], out);
            } else {
                error(0x01, "Not found", out);
            }
        }
        0x05 | 0x06 => {
            let delta = u64::from_be_bytes(number(head, HEADER)).to_string();
            assert_eq!(exptime(HEADER + 16), u32::MAX, "nothing is created");
            let told = node.count(opcode == 0x05, &key, delta.as_bytes());
            match String::from_utf8(told).unwrap() {
                told if told == "NOT_FOUND" => error(0x01, "Not found", out),
                told if told.starts_with("CLIENT") => {
                    error(0x06, "Non-numeric server-side value for incr or decr", out);
                }
                told => say(0, node.unique, &[], &told.parse::<u64>().unwrap().to_be_bytes(), out),
            }
        }
        _ => panic!("a node was sent the packet {opcode:#x}"),
    }
    Some((head_len + value_len, 0))
}
