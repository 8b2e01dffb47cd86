//! The load of [`workload`](crate::workload) in packets of the binary protocol: gets as Get, multigets as quiet GetK with a
//! Noop behind them, as libraries ask. The opaque is 0, and the unique number of an answer is not looked at.

use crate::workload::Verdict;

const HEADER: usize = 24;
const GET: u8 = 0x00;
const SET: u8 = 0x01;
const NOOP: u8 = 0x0a;
const GETKQ: u8 = 0x0d;
const SETQ: u8 = 0x11;
/// Where the unique number is.
const UNIQUE: std::ops::Range<usize> = 16..24;

fn packet(magic: u8, opcode: u8, extras: &[u8], key: &[u8], value: &[u8]) -> Vec<u8> {
    let key_len = u16::try_from(key.len()).unwrap_or(0);
    let body_len = u32::try_from(extras.len() + key.len() + value.len()).unwrap_or(0);
    let mut packet = vec![magic, opcode];
    packet.extend(key_len.to_be_bytes());
    packet.extend([u8::try_from(extras.len()).unwrap_or(0), 0, 0, 0]);
    packet.extend(body_len.to_be_bytes());
    packet.resize(HEADER, 0);
    packet.extend([extras, key, value].concat());
    packet
}

pub(crate) fn get(key: &[u8]) -> Vec<u8> {
    packet(0x80, GET, &[], key, &[])
}

/// The whole answer to [`get`].
pub(crate) fn hit(value: &[u8]) -> Vec<u8> {
    packet(0x81, GET, &[0; 4], &[], value)
}

pub(crate) fn set(key: &[u8], value: &[u8]) -> Vec<u8> {
    packet(0x80, SET, &[0; 8], key, value)
}

/// One that is answered only if it fails.
pub(crate) fn silent_set(key: &[u8], value: &[u8]) -> Vec<u8> {
    packet(0x80, SETQ, &[0; 8], key, value)
}

/// The answer to [`set`].
pub(crate) fn stored() -> Vec<u8> {
    packet(0x81, SET, &[], &[], &[])
}

pub(crate) fn multiget<'a>(keys: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut packets: Vec<u8> = keys.flat_map(|key| packet(0x80, GETKQ, &[], key, &[])).collect();
    packets.extend(packet(0x80, NOOP, &[], &[], &[]));
    packets
}

/// The part of the answer to [`multiget`] that is about a key.
pub(crate) fn named_hit(key: &[u8], value: &[u8]) -> Vec<u8> {
    packet(0x81, GETKQ, &[0; 4], key, value)
}

/// The end of the answer to [`multiget`].
pub(crate) fn end() -> Vec<u8> {
    packet(0x81, NOOP, &[], &[], &[])
}

/// Compares the head of `input` with the only right packet.
pub(crate) fn same(right: &[u8], input: &[u8]) -> Verdict {
    let Some(&[magic, .., b0, b1, b2, b3]) = input.first_chunk::<12>() else { return Verdict::Partial };
    if magic != 0x81 {
        return Verdict::OutOfStep;
    }
    let len = HEADER + usize::try_from(u32::from_be_bytes([b0, b1, b2, b3])).unwrap_or(usize::MAX - HEADER);
    let Some(packet) = input.get(..len) else { return Verdict::Partial };
    let equal = len == right.len()
        && packet[..UNIQUE.start] == right[..UNIQUE.start]
        && packet[UNIQUE.end..] == right[UNIQUE.end..];
    if equal { Verdict::Right(len) } else { Verdict::Wrong(len) }
}

/// Compares the head of `input` with the only right packets, one after the other.
pub(crate) fn same_all<'a>(rights: impl Iterator<Item = &'a [u8]>, input: &[u8]) -> Verdict {
    let mut at = 0;
    for right in rights {
        match same(right, &input[at..]) {
            Verdict::Right(len) => at += len,
            Verdict::Partial => return Verdict::Partial,
            // What is missing is not known to be the last.
            Verdict::Wrong(_) | Verdict::OutOfStep => return Verdict::OutOfStep,
        }
    }
    Verdict::Right(at)
}
