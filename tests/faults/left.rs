//! Clients that leave while they are not read.
use crate::support::{TextClient, eventually, honest};
use crate::{NEVER, behind};

/// Has a connection of its own, of which a node has three.
const LARGE: usize = 2 << 20;

fn connections(client: &mut TextClient) -> usize {
    client.send("stats\r\n");
    let mut found = None;
    loop {
        let line = client.line();
        if line == "END" {
            return found.expect("curr_connections");
        }
        if let Some(number) = line.strip_prefix("STAT curr_connections ") {
            found = Some(number.parse().expect("a number"));
        }
    }
}

#[test]
fn clients_that_are_reset_while_they_wait_are_noticed() {
    // Nothing that they wait for ends by itself.
    let (_node, slipring) = behind(honest, &[&NEVER[..], &["--queue-timeout", "60s"]].concat());
    let mut observer = slipring.client();
    observer.in_step();
    let mut clients: Vec<TextClient> = (0..8).map(|_| slipring.client()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.send(format!("set large{number} 0 0 {LARGE}\r\nx"));
    }
    eventually("all are connected", || connections(&mut observer) == 9);
    for client in clients.split_off(3) {
        client.abort();
    }
    eventually("five have gone", || connections(&mut observer) == 4);
}
