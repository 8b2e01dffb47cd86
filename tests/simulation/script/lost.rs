//! Lost connections: what is asked again and what is not.

use slipring::config::OnNodeDown;
use slipring::proxy::FailReason;

use super::Rig;

#[test]
fn what_waits_on_a_lost_connection_is_answered_at_once() {
    let lost = "SERVER_ERROR proxy: node node-0:11211 closed the connection\r\n";
    for (policy, touch) in [(OnNodeDown::Miss, "NOT_FOUND\r\n"), (OnNodeDown::Error, lost)] {
        let mut rig = Rig::with(1, |settings| settings.on_node_down = policy);
        let client = rig.client();
        rig.send(client, "set a 0 0 1\r\nx\r\ndelete a\r\ntouch a 0\r\nincr a 1 noreply\r\nmn\r\n");
        rig.sent(0);
        rig.fail(0, FailReason::Closed);
        assert_eq!(rig.got(client), format!("{lost}{lost}{touch}MN\r\n"));
    }
}

#[test]
fn a_read_is_asked_again_once_when_its_connection_is_lost_before_a_byte_of_its_reply() {
    for (policy, read) in [
        (OnNodeDown::Miss, "END\r\n"),
        (OnNodeDown::Error, "SERVER_ERROR proxy: node node-0:11211 closed the connection\r\n"),
    ] {
        let mut rig = Rig::with(1, |settings| settings.on_node_down = policy);
        rig.now = 2_000_000;
        let client = rig.client();
        rig.send(client, "get a b\r\ngat 7 c\r\nmn\r\n");
        rig.sent(0);
        rig.fail(0, FailReason::Closed);
        let again = rig.newest(0);
        // What is new comes behind what is asked again.
        rig.send(client, "get d\r\n");
        assert_eq!(rig.sent(again), "get a b\r\ngat 7 c\r\nget d\r\n");
        assert_eq!(rig.count(|c| &c.retries), 2);
        rig.reply(again, "VALUE b 0 1\r\ny\r\nEND\r\n");
        assert_eq!(rig.got(client), "VALUE b 0 1\r\ny\r\nEND\r\n");
        rig.now += 2_000_000;
        rig.fail(again, FailReason::Closed);
        let third = rig.newest(0);
        assert_eq!(rig.sent(third), "get d\r\n", "asked twice is enough");
        rig.reply(third, "END\r\n");
        assert_eq!(rig.got(client), format!("{read}MN\r\nEND\r\n"));
    }
}

#[test]
fn a_read_is_not_asked_again_behind_a_later_write_of_its_client() {
    for write in ["set a 0 0 1\r\nx\r\n", "delete a\r\n", "incr a 1\r\n", "set a 0 0 1 noreply\r\nx\r\n"] {
        let mut rig = Rig::new(1);
        rig.now = 2_000_000;
        let (writer, reader) = (rig.client(), rig.client());
        rig.send(writer, "get b\r\n");
        rig.sent(0);
        rig.send(writer, format!("get a\r\n{write}get c\r\n"));
        rig.sent(0);
        rig.send(reader, "get a\r\n");
        rig.sent(0);
        rig.fail(0, FailReason::Closed);
        let again = rig.newest(0);
        // Behind the write it may be asked, as the one of another client.
        assert_eq!(rig.sent(again), "get c\r\nget a\r\n", "{write:?}");
        rig.reply(again, "END\r\nVALUE a 0 1\r\nx\r\nEND\r\n");
        let lost = "SERVER_ERROR proxy: node node-0:11211 closed the connection\r\n";
        let lost = if write.contains("noreply") { "" } else { lost };
        assert_eq!(rig.got(writer), format!("END\r\nEND\r\n{lost}END\r\n"), "{write:?}");
        assert_eq!(rig.got(reader), "VALUE a 0 1\r\nx\r\nEND\r\n");
    }
}

#[test]
fn a_read_whose_reply_has_begun_is_not_asked_again() {
    for begun in ["V", "VALUE a 0 1\r\nx\r\n", "VALUE a 0 1\r\nx\r\nE"] {
        let mut rig = Rig::new(1);
        rig.now = 2_000_000;
        let client = rig.client();
        rig.send(client, "get a b\r\n");
        rig.sent(0);
        rig.reply(0, begun);
        rig.fail(0, FailReason::Closed);
        let next = rig.newest(0);
        assert_eq!(rig.sent(next), "", "{begun:?}");
        assert!(rig.got(client).ends_with("END\r\n"), "{begun:?}");
        assert_eq!(rig.count(|c| &c.retries), 0, "{begun:?}");
    }
}
