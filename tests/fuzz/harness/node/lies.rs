//! What a node says in place of the truth.

use super::{Session, Truth, number};

/// What a node does with its next reply.
#[derive(Clone, Copy, Debug)]
pub enum Lie {
    /// Nothing is said.
    Silence,
    /// An error takes its place.
    Error,
    /// It is said twice.
    Twice,
    /// The last line is left out; of a packet the last byte.
    NoEnd,
    /// A value is announced under another key, the one of this number; a packet is another request's, or names a key.
    OtherKey(usize),
    /// A value, or what follows the head of a packet, is announced as longer or shorter than it is; another line is changed.
    Length(i64),
}

impl Session {
    /// Says it, or a lie in its place.
    pub(super) fn say(&mut self, mut reply: Vec<u8>, keys: &[Vec<u8>], truth: &mut Truth, out: &mut Vec<u8>) {
        let end = reply.iter().position(|&b| b == b'\n').unwrap_or(0) + 1;
        let first = reply[..end].strip_suffix(b"\r\n").unwrap_or_default().to_vec();
        let words: Vec<&[u8]> = first.split(|&b| b == b' ').collect();
        let is_value = words[0] == b"VALUE";
        match self.lie.take() {
            None => {}
            Some(Lie::Silence) => reply.clear(),
            Some(Lie::Error) => reply = b"SERVER_ERROR out of memory\r\n".to_vec(),
            Some(Lie::Twice) => reply = reply.repeat(2),
            Some(Lie::NoEnd) => {
                let end = reply[..reply.len() - 2].iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
                reply.truncate(end);
            }
            Some(Lie::OtherKey(number)) => {
                let key = &keys[number % keys.len()];
                truth.poisoned.insert(key.clone());
                let mut lie = [b"VALUE ", &**key].concat();
                if is_value {
                    let words = &words[2..];
                    words.iter().for_each(|word| lie.extend([b" ", *word].concat()));
                    reply.splice(..end - 2, lie);
                } else {
                    lie.extend_from_slice(b" 0 3\r\nlie\r\n");
                    reply.splice(..0, lie);
                }
            }
            Some(Lie::Length(by)) if words[0] == b"VA" => {
                let len = (number(words[1]) as i64 + by).max(0).to_string();
                let mut lie = words.clone();
                lie[1] = len.as_bytes();
                reply.splice(..end - 2, lie.join(&b' '));
            }
            Some(Lie::Length(by)) if is_value => {
                truth.poisoned.insert(words[1].to_vec());
                let len = (number(words[3]) as i64 + by).max(0).to_string();
                let mut lie = words.clone();
                lie[3] = len.as_bytes();
                reply.splice(..end - 2, lie.join(&b' '));
            }
            Some(Lie::Length(by)) if by > 0 => drop(reply.splice(end - 2..end - 2, *b"7")),
            Some(Lie::Length(_)) => drop(reply.splice(end - 3..end - 2, [])),
        }
        out.extend(reply);
    }

    /// Says a packet, or a lie in its place. What it says is not what is known of a key: only meta clients are answered by it,
    /// and of those who lie their values are not checked.
    pub(super) fn say_packet(&mut self, mut reply: Vec<u8>, keys: &[Vec<u8>], out: &mut Vec<u8>) {
        let announce = |packet: &mut Vec<u8>, len: i64| {
            let len = u32::try_from(len.max(0)).unwrap_or(u32::MAX);
            packet[8..12].copy_from_slice(&len.to_be_bytes());
        };
        let len = reply.len() as i64 - 24;
        self.must_close |= matches!(self.lie, Some(Lie::OtherKey(_)));
        match self.lie.take() {
            None => {}
            Some(Lie::Silence) => reply.clear(),
            Some(Lie::Error) => {
                reply.truncate(24);
                (reply[4], reply[7]) = (0, 0x82);
                reply.extend_from_slice(b"Out of memory\r\n");
                announce(&mut reply, 15);
            }
            Some(Lie::Twice) => reply = reply.repeat(2),
            Some(Lie::NoEnd) => drop(reply.pop()),
            Some(Lie::OtherKey(number)) if number % 4 == 3 => {
                let key = &keys[number % keys.len()];
                reply[3] = key.len() as u8;
                let at = 24 + usize::from(reply[4]);
                reply.splice(at..at, key.iter().copied());
                announce(&mut reply, len + key.len() as i64);
            }
            Some(Lie::OtherKey(number)) => reply[if number % 4 == 2 { 1 } else { 15 }] ^= 1 + number as u8,
            Some(Lie::Length(7)) => announce(&mut reply, 1 << 31),
            Some(Lie::Length(by)) => announce(&mut reply, len + by),
        }
        out.extend(reply);
    }
}
