//! Split invariance: however a client's bytes and the nodes' replies are cut, the client gets the
//! same bytes.

use proptest::prelude::*;
use slipring::proxy::ClientId;

use slipring::protocol::binary::opcode;

use crate::Rng;
use crate::node::{Node, Session, segment};
use crate::packets::{ask, count, join, plain, set, store};
use crate::script::Rig;

const NODES: usize = 3;

/// What a client sends, made from a seed: valid requests, invalid ones, and blocks that look like
/// requests.
fn stream(seed: u64) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    let mut out = Vec::new();
    for serial in 0..20 {
        let key = format!("k{}", rng.below(6));
        let quiet = if rng.one_in(3) { " noreply" } else { "" };
        let end = if rng.one_in(4) { "\n" } else { "\r\n" };
        match rng.below(18) {
            0..3 => out.extend(format!("get {key}{end}").bytes()),
            3 => out.extend(format!("get k0 k1  k2 k3 k4 k5 k0 nobody{end}").bytes()),
            4 => out.extend(format!("gats 10 {key} hot{end}").bytes()),
            5..9 => {
                let verb = ["set", "add", "append", "prepend", "replace"][rng.below(5)];
                let most = [10, 3_000, 100_000][rng.below(3)];
                let data = segment(key.as_bytes(), serial, rng.below(most));
                let len = data.len();
                out.extend(format!("{verb} {key} 3 0 {len}{quiet}{end}").bytes());
                out.extend(data);
                out.extend(if rng.one_in(8) { b"ab" } else { b"\r\n" });
            }
            9 => out.extend(format!("delete {key}{quiet}{end}").bytes()),
            10 => out.extend(format!("touch {key} 0{quiet}{end}").bytes()),
            11 => out.extend(b"set k0 x 0 9\r\nget hot\r\n\r\n"),
            12 => {
                let quiet = ["", " q"][rng.below(2)];
                out.extend(format!("set n 0 0 2\r\n97\r\nma n D1 v{quiet} O{serial}{end}ma n D1{quiet}{end}").bytes());
            }
            13 => out.extend(format!("mg {key} v f k q{end}mg {key} v s O{serial}{end}md {key} q{end}").bytes()),
            14 => {
                let data = segment(key.as_bytes(), serial, rng.below(3_000));
                let quiet = ["", " q"][rng.below(2)];
                out.extend(format!("ms {key} {} F3 ME c{quiet}{end}", data.len()).bytes());
                out.extend(data);
                out.extend(b"\r\n");
            }
            15 => out.extend(format!("{}{end}", ["mn", "version", "bogus", "", " "][rng.below(5)]).bytes()),
            _ => out.extend(format!("get {} {}{end}", "x".repeat(251), key).bytes()),
        }
    }
    if rng.one_in(2) {
        let data = segment(b"big", 99, (1 << 20) + 5);
        out.extend(format!("set big 0 0 {}\r\n", data.len()).bytes());
        out.extend(data);
        out.extend(b"\r\nget k1 big k2\r\nmn\r\n");
    }
    out
}

/// The same in packets.
fn packets(seed: u64) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    let mut out = Vec::new();
    for serial in 0..20 {
        let key = if rng.one_in(4) { b"odd \0".to_vec() } else { format!("k{}", rng.below(6)).into_bytes() };
        let most = [10, 3_000, 100_000][rng.below(3)];
        let data = segment(&key, serial, rng.below(most));
        let quiet = rng.one_in(2);
        let asks = match rng.below(9) {
            0 => (0..6).map(|at| ask(opcode::GETKQ, format!("k{at}"))).chain([ask(opcode::NOOP, "")]).collect(),
            1 => vec![ask([opcode::GET, opcode::GETK, opcode::GETQ, opcode::GETKQ][rng.below(4)], &key)],
            2 => vec![plain([opcode::TOUCH, opcode::GAT, opcode::GATKQ][rng.below(3)], &key)],
            3..5 => {
                let verb = [opcode::SET, opcode::SETQ, opcode::ADD, opcode::ADDQ, opcode::REPLACEQ][rng.below(5)];
                vec![store(verb, &key, data, 3, 0)]
            }
            5 => vec![join(if quiet { opcode::APPENDQ } else { opcode::PREPEND }, &key, data)],
            6 => {
                let verb = if quiet { opcode::INCREMENTQ } else { opcode::INCREMENT };
                vec![set("n", "97"), count(verb, "n", 1, 0, u32::MAX), count(verb, "n", 10, 0, u32::MAX)]
            }
            7 => vec![ask(if quiet { opcode::DELETEQ } else { opcode::DELETE }, &key)],
            _ => vec![ask([opcode::NOOP, opcode::VERSION, 0x99][rng.below(3)], "")],
        };
        out.extend(asks.iter().flat_map(|ask| ask.packet(serial as u32, 0)));
    }
    if rng.one_in(2) {
        let data = segment(b"big", 99, (1 << 20) + 5);
        out.extend(
            [set("big", data), ask(opcode::GETK, "big"), ask(opcode::NOOP, "")].map(|ask| ask.packet(7, 0)).concat(),
        );
    }
    out
}

/// Pieces of random sizes, small ones and large ones.
fn pieces(mut bytes: &[u8], rng: &mut Rng) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let most = [1, 7, 500, 60_000][rng.below(4)];
        let (piece, rest) = bytes.split_at((1 + rng.below(most)).min(bytes.len()));
        all.push(piece.to_vec());
        bytes = rest;
    }
    all
}

/// Lets the nodes answer, their replies whole or (with `rng`) in pieces.
fn settle(
    rig: &mut Rig,
    nodes: &mut [Node],
    sessions: &mut Vec<Session>,
    mut rng: Option<&mut Rng>,
    client: ClientId,
    got: &mut Vec<u8>,
) {
    loop {
        let mut moved = false;
        for lane in 0..rig.lanes() {
            if sessions.len() <= lane {
                sessions.push(Session::new());
            }
            let sent = rig.sent_bytes(lane);
            let mut replies = Vec::new();
            sessions[lane].feed(&mut nodes[rig.node(lane)], &sent, &mut replies);
            moved |= !sent.is_empty();
            let cut = match &mut rng {
                Some(rng) => pieces(&replies, rng),
                None => vec![replies],
            };
            for piece in cut.iter().filter(|piece| !piece.is_empty()) {
                rig.reply(lane, piece);
                got.extend(rig.got_bytes(client));
            }
        }
        let more = rig.got_bytes(client);
        moved |= !more.is_empty();
        got.extend(more);
        if !moved {
            break;
        }
    }
}

fn run(stream: &[u8], mut rng: Option<Rng>) -> Vec<u8> {
    let mut rig = Rig::new(NODES);
    let mut nodes: Vec<Node> = (0..NODES).map(|_| Node::new("1.6.18", 0)).collect();
    let mut sessions = Vec::new();
    let mut got = Vec::new();
    let client = rig.core.client_connected();
    let cut = match &mut rng {
        Some(rng) => pieces(stream, rng),
        None => vec![stream.to_vec()],
    };
    for piece in cut {
        rig.send(client, piece);
        settle(&mut rig, &mut nodes, &mut sessions, rng.as_mut(), client, &mut got);
    }
    got
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn no_chunking_changes_what_a_client_gets(seed: u64, cuts: u64) {
        for stream in [stream(seed), packets(seed)] {
            let whole = run(&stream, None);
            prop_assert!(!whole.is_empty());
            let cut = run(&stream, Some(Rng::new(cuts)));
            prop_assert!(
                cut == whole,
                "{:?}\n{:?}",
                String::from_utf8_lossy(&cut),
                String::from_utf8_lossy(&whole)
            );
        }
    }
}
