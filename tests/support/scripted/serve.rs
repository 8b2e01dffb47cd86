//! One connection to the scripted node: what is read from it, and the steps of its answers.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use super::{Request, Shared, Step};

/// What follows the steps of a script.
#[derive(PartialEq, Eq)]
enum Then {
    /// The next request.
    Next,
    /// Requests that are read and not answered.
    Silence,
    /// The connection's end.
    End,
}

pub(super) fn serve(shared: &Shared, mut stream: TcpStream, connection: usize) {
    let _ = stream.set_nodelay(true);
    let mut held = Vec::new();
    let mut then = Then::Next;
    while then != Then::End {
        let Some(line) = take_line(shared, &mut stream, &mut held) else {
            return;
        };
        if line.first() == Some(&0x80) {
            // It does not speak the binary protocol.
            let _ = stream.write_all(b"ERROR\r\n");
            return;
        }
        let line = String::from_utf8_lossy(&line).into_owned();
        if line == "version" {
            shared.state().versions.push(connection);
            shared.changed.notify_all();
            if then == Then::Next {
                let steps = shared.version.lock().unwrap_or_else(|poison| poison.into_inner()).clone();
                then = perform(shared, &mut stream, steps);
            }
            continue;
        }
        let mut request = Request { line, block: Vec::new(), connection };
        let words = request.words();
        if matches!(words[0], "set" | "add" | "replace" | "append" | "prepend" | "cas" | "ms") {
            let place = if words[0] == "ms" { 2 } else { 4 };
            let Some(length) = words.get(place).and_then(|word| word.parse::<usize>().ok()) else {
                return;
            };
            while held.len() < length + 2 {
                if !more(shared, &mut stream, &mut held) {
                    return;
                }
            }
            request.block = held.drain(..length + 2).take(length).collect();
        }
        shared.state().requests.push(request.clone());
        shared.changed.notify_all();
        if then == Then::Next {
            then = perform(shared, &mut stream, (shared.script)(&request));
            shared.state().answered += 1;
            shared.changed.notify_all();
        }
    }
}

fn perform(shared: &Shared, stream: &mut TcpStream, steps: Vec<Step>) -> Then {
    for step in steps {
        if !shared.thawed() {
            return Then::End;
        }
        match step {
            Step::Send(bytes) => {
                if stream.write_all(&bytes).is_err() {
                    return Then::End;
                }
            }
            Step::Hold => {
                let mut state = shared.state();
                state.held += 1;
                let turn = state.held;
                drop(state);
                shared.changed.notify_all();
                let state = shared.wait("a release", |state| state.stop || state.released >= turn);
                if state.stop {
                    return Then::End;
                }
            }
            Step::Pause(pause) => {
                if !shared.pause(pause) {
                    return Then::End;
                }
            }
            Step::Silence => return Then::Silence,
            Step::Close => {
                let _ = stream.shutdown(Shutdown::Both);
                return Then::End;
            }
            Step::Reset => {
                // The reset goes out when the last handle is dropped, which the end does.
                let _ = socket2::SockRef::from(&*stream).set_linger(Some(Duration::ZERO));
                return Then::End;
            }
        }
    }
    Then::Next
}

fn take_line(shared: &Shared, stream: &mut TcpStream, held: &mut Vec<u8>) -> Option<Vec<u8>> {
    loop {
        if let Some(end) = held.iter().position(|&byte| byte == b'\n') {
            let mut line: Vec<u8> = held.drain(..=end).collect();
            line.pop();
            if line.last() == Some(&b'\r') {
                line.pop();
            }
            return Some(line);
        }
        if !more(shared, stream, held) {
            return None;
        }
    }
}

fn more(shared: &Shared, stream: &mut TcpStream, held: &mut Vec<u8>) -> bool {
    let mut piece = [0; 16 << 10];
    loop {
        let pace = shared.state().pace;
        let (most, pause) = pace.unwrap_or((piece.len(), Duration::ZERO));
        if !shared.pause(pause) || !shared.thawed() {
            return false;
        }
        let most = most.min(piece.len());
        match stream.read(&mut piece[..most]) {
            Ok(0) => return false,
            Ok(count) => {
                held.extend_from_slice(&piece[..count]);
                shared.state().raw.extend_from_slice(&piece[..count]);
                return true;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return false,
        }
    }
}
