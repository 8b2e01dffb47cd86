//! Split invariance: however a client's bytes and the nodes' replies are cut, the client gets the
//! same bytes.

use proptest::prelude::*;
use slipring::proxy::ClientId;

use crate::Rng;
use crate::node::{Node, Session, segment};
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
        match rng.below(14) {
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
            12 => out.extend(format!("{}{end}", ["mn", "version", "bogus", "", " "][rng.below(5)]).bytes()),
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
        let stream = stream(seed);
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
