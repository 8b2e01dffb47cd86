//! A client's binary packet: what is accepted is one line of text that means the same, and what is refused says how much
//! is swallowed. What a node answers becomes whole packets.

use slipring::protocol::MAX_KEY;
use slipring::protocol::binary::HEADER_BYTES;
use slipring::protocol::binary::reply::Status;
use slipring::protocol::binary::request::{Action, Header, Packet, Refusal, parse};
use slipring::protocol::binary::translate::{Form, MAX_ODD_KEY, Refused, is_odd, write_line};

use super::{first_line, show};

/// The first byte is the largest value that is forwarded, then a packet, and behind its head a node's answer.
pub fn packet(data: &[u8]) {
    let Some((&limit, data)) = data.split_first() else { return };
    let max_value = [0, 100, 1 << 20, 128 << 20, usize::MAX][usize::from(limit) % 5];
    let Some(header) = Header::read(data) else { return assert!(data.len() < HEADER_BYTES) };
    let Ok(header) = header else { return assert_ne!(data[0], 0x80) };
    let checked = header.check();
    if let Err(refusal) = checked {
        check_refusal(&refusal, &header, HEADER_BYTES);
    }
    let head = &data[..header.head_len().min(data.len())];
    match parse(head, max_value) {
        Ok(packet) => {
            assert!(checked.is_ok() && head.len() == header.head_len() && head.len() <= 600);
            assert_eq!((head.len() + packet.value_len) - HEADER_BYTES, header.body_len);
            assert!(packet.value_len <= max_value);
            let stores = matches!(packet.action, Action::Store { .. } | Action::Join { .. });
            assert!(stores || packet.value_len == 0, "{packet:?}");
            line(&packet);
            answers(Form::from(&packet), &data[head.len()..]);
        }
        Err(refusal) => {
            check_refusal(&refusal, &header, head.len());
            assert!(
                refusal.close || head.len() < header.head_len() || checked.is_err() || header.value_len() > max_value
            );
        }
    }
}

fn check_refusal(refusal: &Refusal<'_>, header: &Header, given: usize) {
    assert_ne!(refusal.status, Status::Ok);
    assert_eq!((refusal.opcode, refusal.opaque), (header.opcode, header.opaque));
    assert_eq!(refusal.swallow, (HEADER_BYTES + header.body_len).saturating_sub(given) as u64);
    assert!(refusal.stale.is_none() || refusal.status == Status::TooLarge && !refusal.close);
    packets(|out| refusal.write(out));
}

fn line(packet: &Packet<'_>) {
    let mut out = Vec::new();
    match write_line(packet, &mut out) {
        Ok(()) => {
            let line = out.strip_suffix(b"\r\n").expect("a line ends with CRLF");
            assert!(out.len() <= 450 && line.iter().all(|&byte| byte >= b' ' && byte != 0x7f), "{}", show(&out));
            let words: Vec<&[u8]> = line.split(|&byte| byte == b' ').collect();
            assert!(words.iter().all(|word| (1..=MAX_KEY).contains(&word.len())));
            let Some(key) = packet.key() else { return assert_eq!(words[0], b"flush_all") };
            assert_eq!(words[1] == key, !is_odd(key));
            assert_eq!(words.contains(&&b"b"[..]), is_odd(key) || key == b"b");
            if words[0] == b"ms" {
                assert_eq!(words[2], packet.value_len.to_string().as_bytes());
            }
        }
        Err(refused) => {
            assert!(out.is_empty());
            let too_long = packet.key().is_some_and(|key| is_odd(key) && key.len() > MAX_ODD_KEY);
            assert_eq!(refused == Refused::KeyTooLong, too_long);
            assert!(too_long || packet.key().is_none());
        }
    }
}

/// Whatever a node says, the client gets one whole packet or none.
fn answers(form: Form, said: &[u8]) {
    let line = first_line(said);
    packets(|out| form.answer(line, out));
    packets(|out| form.error(line, out));
    packets(|out| form.miss(line, out));
    packets(|out| form.number(line, said.get(line.len() + 1..).map_or(b"", first_line), out));
}

fn packets(say: impl FnOnce(&mut Vec<u8>)) {
    let mut out = Vec::new();
    say(&mut out);
    if !out.is_empty() {
        let body = u32::from_be_bytes(out[8..12].try_into().unwrap());
        assert_eq!((out[0], out.len()), (0x81, HEADER_BYTES + body as usize));
    }
}
