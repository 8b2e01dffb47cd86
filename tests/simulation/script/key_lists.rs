//! Limits hold within a read, however long its line is.

use slipring::config::OnNodeDown;
use slipring::proxy::{ClientId, FailReason};

use super::Rig;

/// Most keys of one read that are asked for and not answered.
const WINDOW: usize = 4096;

impl Rig {
    /// Sends a line as the rim would: 64 KiB at a time.
    fn send_line(&mut self, client: ClientId, line: &str) {
        for piece in line.as_bytes().chunks(64 << 10) {
            assert!(self.core.client_may_read(client));
            self.send(client, piece);
        }
    }

    fn buffered(&self) -> usize {
        usize::try_from(self.cells.sum(|cells| &cells.buffered)).unwrap()
    }
}

/// A read of so many keys that are called `prefix`, a number of so many digits.
fn long_get(prefix: &str, count: usize, digits: usize) -> (String, Vec<String>) {
    let keys: Vec<String> = (0..count).map(|n| format!("{prefix}{n:0digits$}")).collect();
    (format!("get {}\r\n", keys.join(" ")), keys)
}

/// The keys of the lines that a lane has been sent.
fn keys(sent: &str) -> Vec<&str> {
    sent.lines().flat_map(|line| line.strip_prefix("get ").unwrap().split(' ')).collect()
}

#[test]
fn a_long_line_costs_little_more_than_its_bytes_and_is_asked_by_windows() {
    let mut rig = Rig::new(1);
    let client = rig.client();
    let line = format!("get{}\r\n", " k".repeat(500_000));
    rig.send_line(client, &line);
    let (mut asked, mut steps, mut most) = (0, 0, 0);
    while asked < 500_000 {
        assert_eq!(rig.core.client_may_read(client), asked + WINDOW >= 500_000, "it goes on when all is asked for");
        let sent = rig.sent(0);
        let count = keys(&sent).len();
        assert!((1..=WINDOW).contains(&count), "{count} keys at once");
        assert!(sent.lines().count() <= 2, "{} lines at once", sent.lines().count());
        asked += count;
        steps += 1;
        most = most.max(rig.buffered());
        rig.reply(0, "END\r\n".repeat(sent.lines().count()));
    }
    assert!(most * 2 <= line.len() * 5, "{most} bytes for a line of {}", line.len());
    assert!(steps <= 2 * 500_000 / WINDOW + 2, "{steps} steps");
    assert_eq!(rig.got(client), "END\r\n");
    assert_eq!((asked, rig.count(|c| &c.dropped_replies)), (500_000, 0));
    assert!(rig.core.client_may_read(client));
    rig.pass(1000);
    assert_eq!(rig.buffered(), 0);
}

#[test]
fn at_most_two_lines_of_a_read_are_on_a_lane() {
    let mut rig = Rig::new(2);
    let client = rig.client();
    let (line, all) = long_get(&"x".repeat(200), 1000, 4);
    rig.send_line(client, &line);
    let mut seen = Vec::new();
    while seen.len() < all.len() {
        let before = seen.len();
        for lane in 0..2 {
            let sent = rig.sent(lane);
            assert!(sent.lines().count() <= 2 && sent.len() <= 2 * (8 << 10) + 300, "{} bytes", sent.len());
            seen.extend(keys(&sent).into_iter().map(str::to_owned));
            // Nothing follows before one of them is over.
            assert_eq!(rig.sent(lane), "");
            rig.reply(lane, "END\r\n".repeat(sent.lines().count()));
        }
        assert!(seen.len() > before, "it hangs");
    }
    seen.sort();
    assert!(seen == all, "each once");
    assert_eq!(rig.got(client), "END\r\n");
}

#[test]
fn values_of_a_long_line_come_in_the_order_of_its_keys() {
    let mut rig = Rig::new(3);
    let client = rig.client();
    let (line, all) = long_get("k", 20_000, 5);
    rig.send_line(client, &line);
    let mut got = String::new();
    for turn in 0.. {
        let sent: Vec<String> = (0..3).map(|lane| rig.sent(lane)).collect();
        if sent.iter().all(String::is_empty) {
            break;
        }
        // Each time another node is the first to answer; every third key has no value.
        for lane in (0..3).map(|lane| (lane + turn) % 3) {
            for line in sent[lane].lines() {
                let there = keys(line).into_iter().filter(|key| !key.ends_with(['3', '6', '9']));
                let values: Vec<String> = there.map(|key| format!("VALUE {key} 0 1\r\nx\r\n")).collect();
                rig.reply(lane, values.concat() + "END\r\n");
            }
            got += &rig.got(client);
        }
    }
    let there = all.iter().filter(|key| !key.ends_with(['3', '6', '9']));
    let expected: Vec<String> = there.map(|key| format!("VALUE {key} 0 1\r\nx\r\n")).collect();
    assert!(got == expected.concat() + "END\r\n", "{} bytes", got.len());
    rig.pass(1000);
    assert_eq!(rig.buffered(), 0);
}

#[test]
fn what_stands_behind_a_long_line_is_asked_behind_it() {
    let mut rig = Rig::new(1);
    let client = rig.client();
    let (line, _) = long_get("k", 10_000, 5);
    rig.send_line(client, &(line + "set k00001 0 0 1\r\nx\r\nget k00001\r\n"));
    let mut lines = Vec::new();
    loop {
        let sent = rig.sent(0);
        let new: Vec<String> = sent.lines().map(str::to_owned).collect();
        let written = new.iter().any(|line| line.starts_with("set"));
        lines.extend(new);
        if written {
            break;
        }
        rig.reply(0, "END\r\n".repeat(sent.lines().count()));
    }
    assert_eq!(lines[lines.len() - 3..], ["set k00001 0 0 1", "x", "get k00001"]);
    assert!(lines[lines.len() - 4].ends_with(" k09999"), "all of it was asked for first");
}

#[test]
fn keys_of_nodes_that_are_down_are_passed_over_step_by_step() {
    for policy in [OnNodeDown::Miss, OnNodeDown::Error] {
        let mut rig = Rig::with(1, |settings| settings.on_node_down = policy);
        for lane in 0..8 {
            if rig.lanes.len() > lane && rig.is_open(lane) {
                rig.mute = true;
                rig.fail(lane, FailReason::Connect);
            }
        }
        assert_eq!(rig.state(0), "down");
        let client = rig.client();
        rig.send_line(client, &long_get("k", 10 * WINDOW, 5).0);
        assert_eq!(rig.turns, 9, "no more than a window a step");
        let told = rig.got(client);
        match policy {
            OnNodeDown::Miss => assert_eq!(told, "END\r\n"),
            OnNodeDown::Error => assert!(told.starts_with("SERVER_ERROR proxy: node node-0:11211 is down"), "{told}"),
        }
    }
}

#[test]
fn an_error_line_to_one_of_many_lines_does_not_stand_for_all() {
    let mut rig = Rig::new(1);
    let client = rig.client();
    rig.send_line(client, &long_get("k", 5_000, 5).0);
    let first = rig.sent(0);
    let lines = first.lines().count();
    rig.reply(0, "SERVER_ERROR out of memory\r\n".repeat(lines));
    loop {
        let sent = rig.sent(0);
        let Some(key) = keys(&sent).first().copied() else { break };
        let value = format!("VALUE {key} 0 1\r\nx\r\n");
        rig.reply(0, value + &"END\r\n".repeat(sent.lines().count()));
    }
    let got = rig.got(client);
    assert!(got.starts_with("VALUE k") && got.ends_with("\r\nEND\r\n") && !got.contains("ERROR"), "{got}");
}

#[test]
fn a_lost_connection_in_the_middle_of_a_long_line_loses_only_what_was_asked_there() {
    let mut rig = Rig::new(1);
    let client = rig.client();
    rig.send_line(client, &long_get("k", 10_000, 5).0);
    let first = rig.sent(0);
    rig.reply(0, "VALUE k00000 0 1\r\nx\r\n");
    rig.fail(0, FailReason::Closed);
    let lane = rig.newest(0);
    let mut asked = Vec::new();
    loop {
        let sent = rig.sent(lane);
        if sent.is_empty() {
            break;
        }
        asked.extend(keys(&sent).into_iter().map(str::to_owned));
        rig.reply(lane, "END\r\n".repeat(sent.lines().count()));
    }
    assert_eq!(rig.got(client), "VALUE k00000 0 1\r\nx\r\nEND\r\n");
    // The line whose reply had begun is not asked again, the other is.
    let begun = keys(first.lines().next().unwrap()).len();
    assert_eq!(asked.len(), 10_000 - begun);
}

#[test]
fn a_client_that_leaves_in_the_middle_of_a_long_line_leaves_nothing() {
    let mut rig = Rig::new(1);
    let client = rig.client();
    rig.send_line(client, &long_get("k", 10_000, 5).0);
    let lines = rig.sent(0).lines().count();
    rig.core.client_gone(client);
    rig.apply();
    assert_eq!(rig.sent(0), "");
    rig.reply(0, "END\r\n".repeat(lines));
    rig.pass(1000);
    assert_eq!(rig.buffered(), 0);
}

#[test]
fn an_ended_client_gets_all_of_a_long_line() {
    let mut rig = Rig::new(1);
    let client = rig.client();
    rig.send_line(client, &long_get("k", 10_000, 5).0);
    rig.core.client_ended(client);
    rig.apply();
    let mut asked = 0;
    while !rig.closed.contains(&client) {
        let sent = rig.sent(0);
        asked += keys(&sent).len();
        rig.reply(0, "END\r\n".repeat(sent.lines().count()));
        let got = rig.got(client);
        assert_eq!(got, if asked == 10_000 { "END\r\n" } else { "" });
    }
}

#[test]
fn while_memory_is_spent_a_long_line_goes_on_in_small_steps() {
    let mut rig = Rig::with(1, |settings| settings.buffer_limit = 300 << 10);
    let client = rig.client();
    rig.send_line(client, &long_get("k", 6_000, 5).0);
    let mut asked = 0;
    while asked < 6_000 {
        let sent = rig.sent(0);
        let count = keys(&sent).len();
        assert!((1..=128).contains(&count), "{count} keys at once");
        asked += count;
        rig.reply(0, "END\r\n".repeat(sent.lines().count()));
    }
    assert_eq!(rig.got(client), "END\r\n");
}
