//! What was sent and not answered, and is answered as failed, does not overtake what its client sends after that.
use crate::support::{Slipring, eventually};
use crate::{SHORT, expect_proxy_error};
use socket2::{Domain, Socket, Type};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

/// A node that says `VERSION` on its first connection, and then does not read it any more; its kernel takes little. On
/// later ones it stores. Returns its address, and the first connection.
fn deaf_at_first() -> (SocketAddr, Receiver<TcpStream>) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4 << 10).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(16).unwrap();
    let listener = TcpListener::from(socket);
    let address = listener.local_addr().unwrap();
    let (first, deaf) = channel();
    thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let mut stream = stream.unwrap();
            if number == 0 {
                stream.read_exact(&mut [0; b"version\r\n".len()]).unwrap();
                stream.write_all(b"VERSION 1.6.18\r\n").unwrap();
                first.send(stream).unwrap();
            } else {
                thread::spawn(move || stores(&stream));
            }
        }
    });
    (address, deaf)
}

fn stores(stream: &TcpStream) {
    for line in BufReader::new(stream).lines().map_while(Result::ok) {
        let answer: &[u8] = match &*line {
            "version" => b"VERSION 1.6.18\r\n",
            "new" => b"STORED\r\n",
            _ => continue,
        };
        let mut stream = stream;
        let _ = stream.write_all(answer);
    }
}

#[test]
fn a_set_that_was_answered_as_failed_does_not_reach_the_node_behind_a_newer_one() {
    let (address, deaf) = deaf_at_first();
    let slipring = Slipring::with(&[address], &[&["--workers", "1"], &SHORT[..]].concat());
    let mut deaf = deaf.recv().unwrap();
    let mut client = slipring.client();
    // More than the node's kernel takes: the second is in ours.
    client.send(format!("set before 0 0 60000\r\n{}\r\nset k 0 0 3\r\nold\r\n", "x".repeat(60_000)));
    expect_proxy_error(&mut client, "the first");
    expect_proxy_error(&mut client, "the second");
    eventually("the newer is stored", || client.ask_line("set k 0 0 3\r\nnew\r\n") == "STORED");
    // Only now does the node go on with its first connection.
    let mut late = Vec::new();
    let _ = deaf.read_to_end(&mut late);
    assert!(late.starts_with(b"set before "), "something was sent");
    assert!(!late.windows(3).any(|three| three == b"old"), "the older set came behind the newer one");
}
