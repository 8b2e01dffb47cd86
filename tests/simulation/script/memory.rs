//! One budget for everything that waits, and who gives way near it.

use slipring::config::OnNodeDown;
use slipring::metrics::Reason;
use slipring::proxy::{ClientId, CloseReason};

use super::{Rig, set, value};

const MIB: usize = 1 << 20;

/// A sidecar with the smallest budget there is.
fn tight(nodes: usize) -> Rig {
    Rig::with(nodes, |settings| settings.buffer_limit = 8 * MIB)
}

impl Rig {
    /// A client asks for a value and does not read it.
    fn asks_and_does_not_read(&mut self, key: &str, len: usize) -> ClientId {
        let client = self.client();
        self.send(client, format!("get {key}\r\n"));
        let lane = self.newest(0);
        self.sent(lane);
        self.reply(lane, [value(key, len), b"END\r\n".to_vec()].concat());
        // The kernel takes a little of a large answer.
        if self.core.client_out(client).is_some_and(|out| out.len() > 1000) {
            self.core.client_written(client, 100, self.now());
            self.core.client_blocked(client);
        }
        client
    }

    fn soft(&self, reason: Reason) -> u64 {
        self.cells.soft_sum(|_, counted| counted == reason)
    }
}

#[test]
fn values_for_which_there_is_no_room_are_misses_and_small_ones_still_pass() {
    for (policy, told) in
        [(OnNodeDown::Miss, "END\r\n"), (OnNodeDown::Error, "SERVER_ERROR proxy: out of memory for the value\r\n")]
    {
        let mut rig = Rig::with(1, |settings| {
            settings.buffer_limit = 8 * MIB;
            settings.on_node_down = policy;
        });
        let clients: Vec<ClientId> = (0..50).map(|n| rig.asks_and_does_not_read(&format!("k{n}"), MIB / 2)).collect();
        let refused = rig.soft(Reason::Memory);
        assert!((30..50).contains(&refused), "{refused}");
        assert!(rig.is_open(0), "no lane is given up for it");
        // Somebody else is served as if nothing was.
        let other = rig.client();
        rig.send(other, "get small\r\nset small 0 0 1\r\nx\r\n");
        rig.sent(0);
        rig.reply(0, "VALUE small 0 1\r\nx\r\nEND\r\nSTORED\r\n");
        assert_eq!(rig.got(other), "VALUE small 0 1\r\nx\r\nEND\r\nSTORED\r\n");
        let got: Vec<usize> = clients.iter().map(|client| rig.got_bytes(*client).len()).collect();
        let whole = MIB / 2 + "VALUE k0 0 524288\r\n\r\nEND\r\n".len() - 100;
        assert_eq!(got.iter().filter(|len| **len >= whole).count() as u64, 50 - refused);
        assert_eq!(got.iter().filter(|len| **len == told.len()).count() as u64, refused);
    }
}

#[test]
fn clients_that_do_not_read_are_closed_when_memory_is_tight_and_only_then() {
    let mut rig = tight(1);
    let idle = rig.client();
    let few: Vec<ClientId> = (0..4).map(|n| rig.asks_and_does_not_read(&format!("k{n}"), MIB)).collect();
    rig.pass(60_000);
    assert!(rig.closed.is_empty(), "there is room for them");
    let slow = rig.asks_and_does_not_read("slow", MIB);
    let large = rig.asks_and_does_not_read("large", MIB + MIB / 2);
    for n in 0..20 {
        rig.asks_and_does_not_read(&format!("small{n}"), 3000);
    }
    for _ in 0..30 {
        rig.pass(100);
        // One that reads, however slowly, is not closed.
        let now = rig.now();
        rig.core.client_written(slow, 10, now);
    }
    assert!(!rig.closed.contains(&idle) && !rig.closed.contains(&slow), "{:?}", rig.closed);
    assert!(rig.closed.contains(&large) || few.iter().any(|client| rig.closed.contains(client)), "{:?}", rig.closed);
    assert!(rig.cells.closed_sum(CloseReason::NotReading) > 0);
    // There is room again.
    let next = rig.asks_and_does_not_read("next", MIB / 2);
    assert!(rig.got_bytes(next).len() > MIB / 2 - 100, "all but what the kernel took at once");
}

#[test]
fn of_clients_whose_bodies_wait_little_is_read_while_memory_is_tight() {
    const CLIENTS: usize = 500;
    /// What the rim reads at once where there is no other bound.
    const READ: usize = 64 << 10;
    let mut rig = tight(1);
    let body = set("k", 900_000);
    let clients: Vec<ClientId> = (0..CLIENTS).map(|_| rig.client()).collect();
    assert!(rig.core.client_most_read(clients[0]) >= READ, "nothing is tight yet");
    let mut read = 0;
    for client in &clients {
        let most = rig.core.client_most_read(*client).min(READ);
        rig.send(*client, &body[..most]);
        read += most;
    }
    assert!(read < 8 * MIB, "{read} bytes were read of {CLIENTS} clients");
    // Who is being stored is read as before, whoever else waits.
    assert!(rig.core.client_may_read(clients[0]) && rig.core.client_most_read(clients[0]) >= READ);
    rig.pass(100);
    let held = usize::try_from(rig.cells.sum(|cells| &cells.buffered)).unwrap();
    // Of each who waits, and what the kernel may hold of its body besides.
    assert!(held < 8 * MIB + CLIENTS * (4096 + (16 << 10)), "{held}");
}

#[test]
fn bodies_wait_for_room_in_their_order_and_a_stalled_one_does_not_hold_it_for_ever() {
    let mut rig = tight(1);
    let clients: Vec<ClientId> = (0..9).map(|_| rig.client()).collect();
    let bodies: Vec<Vec<u8>> = (0..9).map(|n| set(&format!("{n}k"), 900_000)).collect();
    for (client, body) in clients.iter().zip(&bodies) {
        rig.send(*client, &body[..500]);
    }
    let reads = |rig: &Rig| clients.iter().map(|client| rig.core.client_may_read(*client)).collect::<Vec<_>>();
    assert_eq!(reads(&rig), [true, true, true, true, false, false, false, false, false], "half is for bodies");
    // The first completes; the next in line begins.
    rig.send(clients[0], &bodies[0][500..]);
    assert!(rig.sent_bytes(0) == bodies[0]);
    rig.reply(0, "STORED\r\n");
    assert_eq!(reads(&rig)[..6], [true, true, true, true, true, false]);
    // The second goes away in the middle.
    rig.core.client_gone(clients[1]);
    rig.apply();
    assert!(rig.core.client_may_read(clients[5]) && !rig.core.client_may_read(clients[6]));
    // Those that say nothing for two seconds give way to those that wait.
    for _ in 0..25 {
        rig.send(clients[3], "x");
        rig.pass(100);
    }
    assert!([2, 4, 5].iter().all(|n| rig.closed.contains(&clients[*n])), "{:?}", rig.closed);
    assert!(!rig.closed.contains(&clients[3]), "it moves");
    // Where nobody waits there is more time.
    assert!([6, 7, 8].iter().all(|n| rig.core.client_may_read(clients[*n])), "{:?}", rig.closed);
    rig.pass(3000);
    assert!(!rig.closed.contains(&clients[7]));
    rig.pass(2500);
    assert!([6, 7, 8].iter().all(|n| rig.closed.contains(&clients[*n])), "{:?}", rig.closed);
    assert_eq!(rig.cells.closed_sum(CloseReason::BodyStalled), 7);
    // Small bodies never wait, and nobody is closed for typing them slowly.
    let small = rig.client();
    rig.send(small, "set s 0 0 100\r\nxx");
    assert!(rig.core.client_may_read(small));
    rig.pass(10_000);
    assert!(!rig.closed.contains(&small));
}

#[test]
fn a_key_list_that_grows_while_memory_is_spent_is_refused_as_memcached_does() {
    let mut rig = Rig::with(1, |settings| settings.buffer_limit = MIB);
    // With no room at all for the four mebibytes that a key list may have.
    let clients: Vec<ClientId> = (0..20).map(|_| rig.client()).collect();
    for client in &clients {
        rig.send(*client, format!("get {}", "k ".repeat(40_000)));
    }
    let told: Vec<String> = clients.iter().map(|client| rig.got(*client)).collect();
    let refused = told.iter().filter(|text| *text == "SERVER_ERROR out of memory reading request\r\n").count();
    assert!(refused > 0 && refused < 20, "{told:?}");
}

#[test]
fn quiet_requests_are_held_back_by_the_memory_too_and_none_is_lost() {
    const NODES: usize = 20;
    let mut rig = tight(NODES);
    let clients: Vec<ClientId> = (0..4).map(|_| rig.client()).collect();
    // Nodes that take nothing: their lanes alone would hold 40 MiB.
    let mut next = [0; 4];
    let push = |rig: &mut Rig, next: &mut [usize; 4]| {
        let mut moved = false;
        for (n, client) in clients.iter().enumerate() {
            for _ in 0..16 {
                if next[n] < 4000 && rig.core.client_may_read(*client) {
                    let body = "v".repeat(4000);
                    rig.send(*client, format!("set k{n}-{} 0 0 4000 noreply\r\n{body}\r\n", next[n]));
                    next[n] += 1;
                    moved = true;
                }
            }
        }
        moved
    };
    while push(&mut rig, &mut next) {}
    assert!(next.iter().all(|next| (100..4000).contains(next)), "{next:?}");
    let held = usize::try_from(rig.cells.sum(|cells| &cells.buffered)).unwrap();
    assert!(held <= 8 * MIB + 4 * (64 << 10) + (64 << 10), "{held}");
    // The nodes go on, and with them the clients: what was held back comes too.
    let mut stored = 0;
    for _ in 0..1000 {
        for lane in 0..NODES {
            let count = rig.sent(lane).matches("set ").count();
            rig.reply(lane, "STORED\r\n".repeat(count));
            stored += count;
        }
        if !push(&mut rig, &mut next) {
            break;
        }
    }
    assert_eq!((stored, next), (16_000, [4000; 4]));
    rig.pass(1000);
    assert_eq!(rig.cells.sum(|cells| &cells.buffered), 0);
}

#[test]
fn when_a_node_goes_down_what_waits_for_it_is_dropped_and_its_clients_are_read_again() {
    let mut rig = tight(5);
    let client = rig.client();
    let body = "v".repeat(4000);
    let mut sent = 0;
    while rig.core.client_may_read(client) {
        rig.send(client, format!("set k{sent} 0 0 4000 noreply\r\n{body}\r\n"));
        sent += 1;
    }
    rig.mute = true;
    for lane in 0..5 {
        rig.fail(lane, slipring::proxy::FailReason::Closed);
        let next = rig.newest(rig.lanes[lane].node);
        rig.fail(next, slipring::proxy::FailReason::Connect);
    }
    assert!(rig.core.client_may_read(client));
    let lost = rig.cells.soft_sum(|_, _| true);
    assert_eq!(lost, sent, "each is counted");
}

#[test]
fn quiet_requests_to_all_nodes_are_few_a_step_and_within_the_memory() {
    const NODES: usize = 40;
    const COUNT: usize = 300;
    let mut rig = Rig::new(NODES);
    let client = rig.client();
    rig.send(client, "flush_all noreply\r\n".repeat(COUNT));
    assert_eq!(rig.turns, COUNT * NODES / 4096, "others have their turn between");
    assert_eq!(rig.sent(NODES - 1).matches("flush_all").count(), COUNT);

    let mut rig = Rig::with(NODES, |settings| settings.buffer_limit = 512 << 10);
    let client = rig.client();
    rig.send(client, "flush_all noreply\r\n".repeat(COUNT));
    assert!(!rig.core.client_may_read(client));
    let held = usize::try_from(rig.cells.sum(|cells| &cells.buffered)).unwrap();
    assert!(held <= 512 << 10, "{held}");
    let mut done = [0; NODES];
    for _ in 0..COUNT {
        for (lane, done) in done.iter_mut().enumerate() {
            let count = rig.sent(lane).matches("flush_all").count();
            rig.reply(lane, "OK\r\n".repeat(count));
            *done += count;
        }
        rig.pass(100);
        if rig.core.client_may_read(client) && done == [COUNT; NODES] {
            break;
        }
    }
    assert_eq!(done, [COUNT; NODES], "none is lost");
    rig.send(client, "mn\r\n");
    assert_eq!(rig.got(client), "MN\r\n");
}

/// Small values need no room where their client takes what it gets: of thousands that do not, each holds little.
#[test]
fn small_values_for_clients_that_do_not_read_stay_within_the_budget() {
    const LIMIT: usize = 8 << 20;
    const CLIENTS: usize = 1000;
    const KEYS: usize = 20;
    let mut rig = tight(1);
    let keys: Vec<String> = (0..KEYS).map(|i| format!("k{i}")).collect();
    let reply = [keys.iter().flat_map(|key| value(key, 4000)).collect(), b"END\r\n".to_vec()].concat();
    let clients: Vec<ClientId> = (0..CLIENTS).map(|_| rig.client()).collect();
    for client in &clients {
        rig.send(*client, format!("get {}\r\n", keys.join(" ")));
        rig.sent(0);
        rig.reply(0, &reply);
    }
    let held = usize::try_from(rig.cells.sum(|cells| &cells.buffered)).unwrap();
    assert!(held < LIMIT + CLIENTS * (16 << 10), "{held} bytes wait");
    assert!(rig.cells.soft_sum(|_, reason| reason == Reason::Memory) > 0);
    // Who takes what it gets is given it.
    let reader = rig.client();
    for key in &keys {
        rig.send(reader, format!("get {key}\r\n"));
        rig.sent(0);
        rig.reply(0, [value(key, 4000), b"END\r\n".to_vec()].concat());
        assert_eq!(rig.got_bytes(reader).len(), value(key, 4000).len() + 5);
    }
    for client in &clients {
        assert!(rig.got_bytes(*client).ends_with(b"\r\nEND\r\n"));
    }
    assert_eq!(rig.cells.sum(|cells| &cells.buffered), 0, "{}", rig.core.describe());
}

/// What needs no node: an answer follows at once, and may be many times as long as what asks for it.
#[test]
fn answers_that_are_there_at_once_stay_within_the_budget() {
    const LIMIT: usize = 8 << 20;
    const CLIENTS: usize = 200;
    let noop = {
        let mut packet = vec![0x80, 0x0a];
        packet.resize(24, 0);
        packet
    };
    for request in [b"\n".as_slice(), b"mn\r\n", b"x\r\n", &noop] {
        let mut rig = tight(1);
        let clients: Vec<ClientId> = (0..CLIENTS).map(|_| rig.client()).collect();
        let stream = request.repeat((128 << 10) / request.len());
        let mut sent = [0; CLIENTS];
        for _ in 0..8 {
            for (client, sent) in clients.iter().zip(&mut sent) {
                if rig.core.client_may_read(*client) {
                    // Whole requests: the beginning of one would wait for its end.
                    let most = rig.core.client_most_read(*client).min(64 << 10) / request.len() * request.len();
                    let bytes = &stream[*sent..(*sent + most).min(stream.len())];
                    *sent += bytes.len();
                    rig.send(*client, bytes);
                }
            }
        }
        let held = usize::try_from(rig.cells.sum(|cells| &cells.buffered)).unwrap();
        // What a client that waits has sent stays, a little each, in its socket and here.
        assert!(
            held < LIMIT + CLIENTS * (24 << 10),
            "{held} bytes wait after {:?}",
            request.escape_ascii().to_string()
        );
        // Nothing is lost: who reads gets the answers to all it has sent, as there is room for them.
        let mut answers = [0; CLIENTS];
        loop {
            let got: Vec<usize> = clients.iter().map(|client| rig.got_bytes(*client).len()).collect();
            answers.iter_mut().zip(&got).for_each(|(answer, got)| *answer += got);
            if got.iter().all(|got| *got == 0) {
                break;
            }
        }
        for (answer, sent) in answers.iter().zip(&sent) {
            assert!(*answer >= sent / request.len() * 4, "{answer} bytes for {sent}");
        }
        assert_eq!(rig.cells.sum(|cells| &cells.buffered), 0, "{}", rig.core.describe());
    }
}
