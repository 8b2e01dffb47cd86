//! Limits: what is full stalls its clients and loses nothing.

use slipring::proxy::ClientId;
use slipring::time::Tick;

use super::Rig;

#[test]
fn a_full_lane_stalls_its_clients_and_loses_nothing() {
    let mut rig = Rig::new(1);
    let clients: Vec<ClientId> = (0..3).map(|_| rig.client()).collect();
    let mut asked = 0;
    let mut waiting: Vec<Vec<Vec<u8>>> = vec![Vec::new(); 3];
    for n in 0..200 {
        for (c, queue) in waiting.iter_mut().enumerate() {
            let block = "v".repeat(10_000);
            queue.push(format!("set k-{c}-{n} 0 0 10000 noreply\r\n{block}\r\n").into_bytes());
            asked += 1;
        }
    }
    for queue in &mut waiting {
        queue.reverse();
    }
    // The node takes nothing: at some point none of them is read any more.
    let push = |rig: &mut Rig, waiting: &mut Vec<Vec<Vec<u8>>>| {
        let mut moved = false;
        for (c, queue) in waiting.iter_mut().enumerate() {
            if rig.core.client_may_read(clients[c])
                && let Some(bytes) = queue.pop()
            {
                rig.send(clients[c], bytes);
                moved = true;
            }
        }
        moved
    };
    while push(&mut rig, &mut waiting) {}
    assert!(waiting.iter().all(|queue| !queue.is_empty()), "never full");
    let queued = rig.core.upstream_out(rig.lanes[0].id).unwrap().len();
    assert!(queued < (2 << 20) + (200 << 10), "{queued} bytes wait");
    let mut next = [0; 3];
    let mut stored = 0;
    let mut tail = Vec::new();
    for _ in 0..10_000 {
        rig.write(0, 100_000);
        let bytes = std::mem::take(&mut rig.lanes[0].sent);
        tail.extend(bytes);
        while let Some(end) = tail.windows(2).position(|w| w == b"\r\n") {
            let line: Vec<u8> = tail.drain(..end + 2).take(end).collect();
            let line = String::from_utf8(line).unwrap();
            let Some(rest) = line.strip_prefix("set k-") else {
                assert_eq!(line.len(), 10_000, "a torn block");
                stored += 1;
                continue;
            };
            let mut words = rest.split(['-', ' ']).map(|w| w.parse::<usize>().unwrap());
            let (c, n) = (words.next().unwrap(), words.next().unwrap());
            assert_eq!(n, next[c], "client {c}: out of order");
            next[c] += 1;
        }
        push(&mut rig, &mut waiting);
        if stored == asked {
            break;
        }
    }
    assert_eq!(stored, asked, "lost on the way");
    rig.sent(0);
    rig.reply(0, "STORED\r\n".repeat(asked));
    assert!(rig.is_open(0));
    assert_eq!(rig.count(|c| &c.dropped_replies), asked as u64);
    for client in clients {
        rig.send(client, "mn\r\n");
        assert_eq!(rig.got(client), "MN\r\n");
    }
}

#[test]
fn a_client_that_does_not_read_is_not_read() {
    let mut rig = Rig::new(1);
    let client = rig.client();
    let mut sent = 0;
    while rig.core.client_may_read(client) {
        rig.send(client, "mn\r\n");
        sent += 1;
        assert!(sent < 10_000_000, "never stalled");
        if sent > 5_000 {
            break;
        }
    }
    // `MN` is four bytes: the pipeline's limit does not hold it, for nothing waits on a node.
    assert_eq!(rig.got(client).len(), sent * 4);
    rig.send(client, "get a\r\n".repeat(3_000));
    assert!(!rig.core.client_may_read(client));
    assert!(rig.sent(0).matches(" a").count() <= 1024, "all of them at once");
}

/// As the rim: a socket that is full is passed over by the flusher, and announced when it has room.
#[test]
fn what_came_while_a_socket_was_full_is_sent_when_it_has_room() {
    let mut rig = Rig::new(1);
    let client = rig.client();
    let lane = rig.lanes[0].id;
    let dirty = |rig: &mut Rig| {
        let (mut clients, mut upstreams) = (Vec::new(), Vec::new());
        rig.core.take_dirty(&mut clients, &mut upstreams);
        (clients, upstreams)
    };
    dirty(&mut rig);
    rig.send(client, "get a\r\n");
    assert_eq!(dirty(&mut rig).1, [lane]);
    // The kernel takes a part.
    rig.core.upstream_out(lane);
    rig.core.upstream_written(lane, 3, Tick(0));
    rig.send(client, "get b\r\n");
    // Its turn comes, but it is full.
    assert_eq!(dirty(&mut rig).1, [lane]);
    rig.core.upstream_writable(lane);
    assert_eq!(dirty(&mut rig).1, [lane], "the lane is forgotten");
    rig.sent(0);

    rig.reply(0, "END\r\n");
    assert_eq!(dirty(&mut rig).0, [client]);
    rig.core.client_out(client);
    rig.core.client_written(client, 2, Tick(0));
    rig.reply(0, "END\r\n");
    assert_eq!(dirty(&mut rig).0, [client]);
    rig.core.client_writable(client);
    assert_eq!(dirty(&mut rig).0, [client], "the client is forgotten");
}
