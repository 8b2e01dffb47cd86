//! Sessions of binary packets, and what two sides may answer otherwise.
//!
//! What is left out, since it is answered otherwise on purpose, is in the table of deviations; and what depends on who
//! holds an item at that moment: numbers live at keys of their own that are never read, for a number that gets shorter is
//! padded only where nobody holds it.
use super::support::Random;
use super::support::packets::{Ask, HEADER_BYTES, Packet, QUIET, ask, count, join, plain, store, timed};
use super::{KEYS, Piece};
use slipring::protocol::binary::opcode;

/// In the opaque of a noop: all before it is answered before anything behind it is sent.
const BARRIER: u32 = 0xba00_0000;
/// In the opaque of the noop that ends a session.
const END: u32 = 0xed00_0000;

/// An expiry that does not come to pass while the test runs: never, far away, or long ago.
const TIMES: &[u32] = &[0, 0, 0, 3600, 2_592_000, 2_592_001, 4_102_444_800, i32::MAX as u32, 1 << 31, u32::MAX];

pub(crate) fn noop(opaque: u32) -> Piece {
    ask(opcode::NOOP, "").packet(opaque, 0)
}

/// What ends the input of a session.
pub(crate) fn end() -> Piece {
    noop(END)
}

/// The answer to the barrier that these bytes begin with, and the barrier's length.
pub(crate) fn barrier_in(piece: &[u8]) -> Option<(Vec<u8>, usize)> {
    let opaque = u32::from_be_bytes(*piece.get(12..16)?.first_chunk()?);
    if opaque & 0xff00_0000 != BARRIER || !piece.starts_with(&noop(opaque)) {
        return None;
    }
    let mut reply = noop(opaque);
    reply[0] = 0x81;
    Some((reply, HEADER_BYTES))
}

/// Packets that a memcached 1.6.18 answers the same way every time. With `uniques` some name a number that could be right:
/// one node counts them.
pub(crate) fn pieces(random: &mut Random, uniques: bool) -> Vec<Piece> {
    let count = random.between(20, 200);
    let mut pieces: Vec<Piece> = (0..count).map(|_| piece(random, uniques)).collect();
    if random.one_in(3) {
        // A node may drop what it has not yet said when it closes, and what is behind is not answered.
        pieces.push([noop(BARRIER | random.below(1 << 20) as u32), last(random)].concat());
    }
    pieces
}

fn key(random: &mut Random) -> Vec<u8> {
    match random.below(40) {
        0 => vec![b'K'; 250],
        1 => b"noreply".to_vec(),
        2 => b"azE=".to_vec(),
        3 => b"\xff\x80\xc3\xa9".to_vec(),
        4 => b"a\r\nflush_all\r\n".to_vec(),
        5 => b"\0".to_vec(),
        6 => b"a b".to_vec(),
        7 => vec![b' '; 186],
        8 => b"\t\x7f".to_vec(),
        _ => format!("k{}", random.below(KEYS)).into_bytes(),
    }
}

/// Never a number.
fn value(random: &mut Random, uniques: bool) -> Vec<u8> {
    match random.below(40) {
        0..4 => Vec::new(),
        4..8 => b"\r\nSTORED\r\nEN\r\nflush_all\r\n".to_vec(),
        8..10 => [&b"v"[..], &(0..random.below(20_000)).map(|_| random.next() as u8).collect::<Vec<_>>()].concat(),
        11 if random.one_in(4) => vec![b'x'; random.between(60_000, 140_000)],
        // Too large. What follows of the same key waits for the old value to be gone, other keys do not.
        10 if !uniques => vec![b'x'; random.pick(&[1_048_517, 1_100_000])],
        _ => format!("v{}", random.below(100_000)).into_bytes(),
    }
}

fn piece(random: &mut Random, uniques: bool) -> Piece {
    let flush = random.pick(&[opcode::FLUSH, opcode::FLUSHQ]);
    let request = match random.below(100) {
        0..70 => of_a_key(random, uniques),
        70..80 => of_a_number(random),
        80..88 => return multiget(random),
        88 => ask(flush, ""),
        89 => timed(flush, "", 0),
        90 => ask(opcode::VERSION, ""),
        91 => ask(opcode::STAT, "nonsense"),
        92 => match random.below(3) {
            0 => ask(opcode::SASL_LIST, ""),
            1 => join(opcode::SASL_AUTH, "PLAIN", "\0user\0password"),
            _ => join(opcode::SASL_STEP, "PLAIN", "\0user\0password"),
        },
        // Of what memcached swallows rightly: nothing, or a value alone.
        93 => join(random.pick(&[0x1b, 0x1f, 0x25, 0x40, 0x99, 0xff]), "", random.pick(&["", "flush_all\r\n"])),
        94 => return noop(BARRIER | random.below(1 << 20) as u32),
        _ => ask(opcode::NOOP, ""),
    };
    let unique = match random.below(10) {
        0 if uniques => random.between(1, 150) as u64,
        1 => 987_654_321,
        _ => 0,
    };
    // An opaque that is no barrier's.
    let mut piece = request.packet(random.next() as u32 >> 1, unique);
    if random.one_in(10) {
        // What nobody looks at.
        piece[5..8].copy_from_slice(&random.next().to_le_bytes()[..3]);
    }
    piece
}

fn of_a_key(random: &mut Random, uniques: bool) -> Ask {
    let (loud, quiet) = random.pick(&QUIET);
    let chosen = random.pick(&[loud, loud, quiet, opcode::TOUCH, opcode::GETK, opcode::GET, opcode::SET]);
    let key = key(random);
    let time = random.pick(TIMES);
    match plain(chosen, &key).extras.len() {
        20 => count(chosen, &key, random.pick(&[0, 1, 10, u64::MAX]), 7, u32::MAX),
        8 => {
            let mut value = value(random, uniques);
            if !matches!(chosen, opcode::SET | opcode::SETQ) {
                // What is too large is kept out, and what is read often is no test of memory.
                value.truncate(20_000);
            }
            store(chosen, &key, value, random.pick(&[0, 1, 0xdead_beef, u32::MAX]), time)
        }
        4 => timed(chosen, &key, time),
        _ => {
            let mut request = plain(chosen, &key);
            if !request.value.is_empty() {
                request.value = value(random, uniques);
                // Joined often, it stays far below what is too large.
                request.value.truncate(300);
            }
            request
        }
    }
}

fn of_a_number(random: &mut Random) -> Ask {
    let key = random.pick(&["n0", "n1", "n2", "n 3"]);
    match random.below(8) {
        0 => store(opcode::SET, key, random.pick(&["0", "9", "100", "18446744073709551615", " 7", "x", ""]), 0, 0),
        1 => store(random.pick(&[opcode::ADDQ, opcode::REPLACE]), key, "99", 0, 3600),
        2 => ask(random.pick(&[opcode::DELETE, opcode::DELETEQ]), key),
        3 => timed(opcode::TOUCH, key, random.pick(TIMES)),
        _ => {
            let verbs = [opcode::INCREMENT, opcode::INCREMENTQ, opcode::DECREMENT, opcode::DECREMENTQ];
            let delta = random.pick(&[0, 1, 95, 10_000_000_000, u64::MAX]);
            count(random.pick(&verbs), key, delta, random.pick(&[0, 5, 100, u64::MAX]), random.pick(TIMES))
        }
    }
}

/// As libraries ask for many keys: quiet ones and a noop, or the last one loud.
fn multiget(random: &mut Random) -> Piece {
    let quiet = random.pick(&[opcode::GETQ, opcode::GETKQ, opcode::GATQ, opcode::GATKQ]);
    let same = random.one_in(2).then(|| random.next() as u32);
    let mut piece = Piece::new();
    for _ in 0..random.pick(&[1, 2, 5, 24, 200]) {
        let key = if random.one_in(10) { key(random) } else { format!("k{}", random.below(2 * KEYS)).into_bytes() };
        piece.extend(plain(quiet, &key).packet(same.unwrap_or(random.next() as u32), 0));
    }
    let last = if random.one_in(2) { ask(opcode::NOOP, "") } else { ask(opcode::GETK, key(random)) };
    piece.extend(last.packet(same.unwrap_or(7), 0));
    piece
}

/// What a node closes behind.
fn last(random: &mut Random) -> Piece {
    let (loud, quiet) = random.pick(&QUIET);
    let opcode = random.pick(&[loud, quiet, opcode::TOUCH]);
    let mut piece = match random.below(10) {
        0 => ask(opcode::QUIT, "").packet(9, 0),
        1 => ask(opcode::QUITQ, "").packet(9, 0),
        2 => plain(opcode, b"").packet(1, 0),
        3 => plain(opcode, &[b'k'; 251]).packet(1, 0),
        4 => Ask { extras: vec![0; random.pick(&[1, 3, 5, 255])], ..plain(opcode, b"k") }.packet(1, 0),
        5 => join(random.pick(&[opcode::GET, opcode::GETKQ, opcode::DELETE, opcode::NOOP]), "k", "value").packet(1, 0),
        6 => ask(random.pick(&[opcode::NOOP, opcode::VERSION, opcode::QUIT, opcode::FLUSHQ, opcode::SASL_LIST]), "k")
            .packet(1, 0),
        // Fewer bytes in all than in its parts.
        7 => {
            let mut piece = plain(opcode, b"key").packet(1, 0);
            let parts = 3 + u32::from(piece[4]);
            piece[8..12].copy_from_slice(&(random.below(parts as usize) as u32).to_be_bytes());
            piece
        }
        8 => b"get k1\r\nget k2\r\nget k3\r\n".to_vec(),
        _ => [&[0x81], &ask(opcode::GET, "k1").packet(1, 0)[1..]].concat(),
    };
    piece.extend(noop(8));
    piece
}

/// The answers with what three nodes may do otherwise taken out: the uniques.
pub(crate) fn without_uniques(replies: &[u8]) -> Vec<u8> {
    let mut out = replies.to_vec();
    let mut at = 0;
    while let Some((packet, len)) = out.get(at..).filter(|rest| rest.first() == Some(&0x81)).and_then(Packet::read) {
        out[at + 16..at + 24].copy_from_slice(&u64::from(packet.unique != 0).to_be_bytes());
        at += len;
    }
    out
}

/// For the table of deviations: opcode, status, key and value of each answer on a line of its own, a noop as `MN`.
pub(crate) fn as_lines(replies: &[u8]) -> String {
    let mut out = String::new();
    let mut rest = replies;
    while let Some((packet, len)) = Packet::read(rest) {
        rest = &rest[len..];
        if packet.opcode == opcode::NOOP {
            out.push_str("MN\r\n");
            continue;
        }
        let words = [packet.key.escape_ascii().to_string(), packet.value.escape_ascii().to_string()];
        out.push_str(&format!("{:02x} {:04x}", packet.opcode, packet.status));
        for word in words.iter().filter(|word| !word.is_empty()) {
            out.push_str(&format!(" {word}"));
        }
        out.push_str("\r\n");
    }
    out
}
