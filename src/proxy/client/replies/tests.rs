use super::*;
use crate::proxy::buffer::Input;

const STAMP: Stamp = Stamp { kind: Kind::Other, arrived_at: Tick(0) };

fn sent(replies: &mut Replies, pool: &mut BufferPool) -> String {
    let mut text = Vec::new();
    while !replies.out.is_empty() {
        let mut slices = [std::io::IoSlice::new(&[]); 8];
        let filled = replies.out.slices(&mut slices);
        let bytes: Vec<u8> = slices[..filled].iter().flat_map(|s| s.iter().copied()).collect();
        replies.out.advance(bytes.len(), pool);
        text.extend(bytes);
    }
    replies.check();
    String::from_utf8(text).unwrap()
}

fn value(key: &str) -> (String, &'static [u8]) {
    (format!("VALUE {key} 0 1\r\n"), b"x\r\n")
}

fn give(replies: &mut Replies, seq: u32, place: u32, key: &str, pool: &mut BufferPool) {
    let (header, block) = value(key);
    replies.value(seq, place, header.as_bytes(), block, pool);
}

/// A read that went to so many nodes.
fn read(replies: &mut Replies, parts: usize, pool: &mut BufferPool) -> u32 {
    let seq = replies.push_read(STAMP, Form::Text);
    for _ in 0..parts {
        replies.add_part(seq);
    }
    replies.close_read(seq, pool);
    seq
}

#[test]
fn replies_leave_in_the_order_of_the_requests() {
    let mut pool = BufferPool::default();
    let mut replies = Replies::default();
    let first = replies.push(STAMP, Form::Text);
    replies.push_ready(b"MN\r\n", STAMP, Form::Text, &mut pool);
    let third = replies.push(STAMP, Form::Text);
    replies.answer(third, b"STORED\r\n", &mut pool);
    assert_eq!(sent(&mut replies, &mut pool), "");
    assert_eq!(replies.bytes(), 12);
    replies.answer(first, b"DELETED\r\n", &mut pool);
    assert_eq!(sent(&mut replies, &mut pool), "DELETED\r\nMN\r\nSTORED\r\n");
    assert!(replies.is_empty());
    assert_eq!(replies.held(), 0);
}

#[test]
fn what_is_answered_is_not_answered_again() {
    let mut pool = BufferPool::default();
    let mut replies = Replies::default();
    let first = replies.push(STAMP, Form::Text);
    let second = replies.push(STAMP, Form::Text);
    replies.answer(second, b"SERVER_ERROR object too large for cache\r\n", &mut pool);
    replies.answer(second, b"CLIENT_ERROR bad data chunk\r\n", &mut pool);
    replies.answer(first, b"STORED\r\n", &mut pool);
    assert_eq!(sent(&mut replies, &mut pool), "STORED\r\nSERVER_ERROR object too large for cache\r\n");
    assert_eq!(replies.held(), 0);
}

#[test]
fn values_leave_in_the_order_of_the_keys_and_are_held_for_the_end() {
    let mut pool = BufferPool::default();
    let mut replies = Replies::default();
    let seq = read(&mut replies, 2, &mut pool);
    give(&mut replies, seq, 1, "b", &mut pool);
    give(&mut replies, seq, 3, "d", &mut pool);
    replies.part_done(seq, &mut pool);
    assert_eq!(replies.out.len(), 0, "a is not known yet");
    give(&mut replies, seq, 0, "a", &mut pool);
    assert!(!replies.wants_flush(), "held until END");
    replies.miss(seq, 2, &mut pool);
    replies.part_done(seq, &mut pool);
    assert!(replies.wants_flush());
    let expected: String = ["a", "b", "d"].map(|key| value(key).0 + "x\r\n").concat();
    assert_eq!(sent(&mut replies, &mut pool), expected + "END\r\n");
    assert_eq!(replies.held(), 0);
}

#[test]
fn an_error_takes_the_place_of_end_only_in_its_own_read() {
    let mut pool = BufferPool::default();
    let mut replies = Replies::default();
    let first = read(&mut replies, 2, &mut pool);
    let second = read(&mut replies, 1, &mut pool);
    replies.miss(second, 0, &mut pool);
    replies.part_done(second, &mut pool);
    give(&mut replies, first, 1, "b", &mut pool);
    replies.part_done(first, &mut pool);
    replies.fail(first, b"SERVER_ERROR proxy\r\n", &mut pool);
    replies.miss(first, 0, &mut pool);
    replies.part_done(first, &mut pool);
    assert_eq!(sent(&mut replies, &mut pool), "VALUE b 0 1\r\nx\r\nSERVER_ERROR proxy\r\nEND\r\n");
    assert_eq!(replies.held(), 0);
}

#[test]
fn a_value_that_has_not_been_sent_can_be_taken_back_and_one_that_has_cannot() {
    let mut pool = BufferPool::default();
    let mut replies = Replies::default();
    let seq = read(&mut replies, 2, &mut pool);
    replies.begin(seq, 1, b"VALUE b 0 40000\r\n", &mut pool);
    replies.piece(seq, 1, Input::borrowed(&[b'b'; 30_000]), 0, &mut pool);
    assert!(!replies.cut_off(seq, 1, &mut pool));
    replies.miss(seq, 1, &mut pool);
    replies.part_done(seq, &mut pool);
    replies.begin(seq, 0, b"VALUE a 0 5\r\n", &mut pool);
    assert!(replies.cut_off(seq, 0, &mut pool));
    replies.piece(seq, 0, Input::borrowed(b"aaaaa\r\n"), 2, &mut pool);
    replies.end(seq, 0, &mut pool);
    replies.part_done(seq, &mut pool);
    assert_eq!(sent(&mut replies, &mut pool), "VALUE a 0 5\r\naaaaa\r\nEND\r\n");
    assert_eq!(replies.held(), 0);
}

#[test]
fn values_that_wait_for_their_turn_give_way_and_are_missed() {
    let mut pool = BufferPool::default();
    let mut replies = Replies::default();
    let seq = read(&mut replies, 2, &mut pool);
    let large = vec![b'c'; 200_000];
    replies.value(seq, 1, b"VALUE b 0 1\r\n", b"b\r\n", &mut pool);
    replies.value(seq, 2, b"VALUE c 0 200000\r\n", &[&*large, b"\r\n"].concat(), &mut pool);
    assert_eq!(replies.waits_with_values(), Some(Tick(0)));
    assert!(replies.held() > 200_000);
    assert_eq!(replies.give_way(None, &mut pool), 2);
    assert!(replies.held() < 10_000 && replies.waits_with_values().is_none());
    replies.check();
    replies.value(seq, 0, b"VALUE a 0 1\r\n", b"a\r\n", &mut pool);
    replies.part_done(seq, &mut pool);
    replies.part_done(seq, &mut pool);
    assert_eq!(sent(&mut replies, &mut pool), "VALUE a 0 1\r\na\r\nEND\r\n");
    assert_eq!(replies.held(), 0);
}

#[test]
fn a_value_that_came_before_its_turn_flows_on_when_that_comes() {
    let mut pool = BufferPool::default();
    let mut replies = Replies::default();
    let first = replies.push(STAMP, Form::Text);
    let seq = read(&mut replies, 2, &mut pool);
    replies.begin(seq, 1, b"VALUE b 0 6\r\n", &mut pool);
    replies.piece(seq, 1, Input::borrowed(b"bbb"), 0, &mut pool);
    replies.again(seq, 0, &mut pool);
    assert_eq!(replies.due(), None, "another reply is owed first");
    replies.answer(first, b"OK\r\n", &mut pool);
    assert_eq!(replies.due(), Some((seq, 0)));
    replies.asked(seq, 0);
    replies.part_done(seq, &mut pool);
    replies.miss(seq, 0, &mut pool);
    assert_eq!(sent(&mut replies, &mut pool), "OK\r\nVALUE b 0 6\r\nbbb");
    replies.piece(seq, 1, Input::borrowed(b"bbb\r\n"), 2, &mut pool);
    replies.end(seq, 1, &mut pool);
    replies.part_done(seq, &mut pool);
    assert!(!replies.is_empty(), "what was asked again is not over");
    replies.part_done(seq, &mut pool);
    assert_eq!(sent(&mut replies, &mut pool), "bbb\r\nEND\r\n");
    assert_eq!(replies.held(), 0);
}
