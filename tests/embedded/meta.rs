//! The meta commands.

use super::meta_streams::{self, Contents, masked};
use super::*;

fn command(random: &mut Random, out: &mut Vec<u8>) {
    let contents = Contents { uniques: true, direct: true };
    meta_streams::request(&mut |n| random.below(n), contents, out);
}

#[test]
fn random_meta_streams_get_the_bytes_memcached_gives() {
    // Young nodes: a unique that is made up may be right.
    for seed in 1_000..1_060 {
        let (memcached, embedded) = (Memcached::start(), Embedded::start());
        compare(seed, memcached.addr, embedded.addr, command);
    }
}

#[test]
fn single_meta_streams_get_the_bytes_memcached_gives() {
    let memcached = Memcached::start();
    let embedded = Embedded::start();
    let ask =
        |addr, stream: &str| String::from_utf8_lossy(&masked(ask(addr, stream.as_bytes()).as_bytes())).into_owned();
    let big = format!("ms k 1\r\n1\r\nms k 1048576 ME q\r\n{}\r\nmg k v\r\n", "x".repeat(MIB));
    let big_base64 = format!("ms foo 1\r\n1\r\nms Zm9v 1048576 b\r\n{}\r\nmg foo v\r\n", "x".repeat(MIB));
    for stream in [
        // Stale, one winner, replaced by an older unique, then by the right one.
        "ms s 1 T100000 c\r\n1\r\nmd s I T50000\r\nmg s v c t\r\nmg s v\r\nms s 1 C1 I\r\n2\r\nmg s v c t\r\n\
            ms s 1 C2 I T0\r\n3\r\nmg s v t\r\nms s 1 C999 I\r\n4\r\nmg s v\r\n",
        "ms s 1\r\n1\r\nmd s I\r\nms s 1 I C5 c\r\n2\r\nmg s c W\r\nmg s c\r\nms s 1 I C6\r\n2\r\nmg s c v\r\n",
        "md s\r\nmd s\r\nmd s q k O1\r\nmd s C5 k\r\nms s 1 q\r\n1\r\nmd s C1 q k\r\nmd s q\r\nmg s\r\n",
        // Autovivify and recache.
        "mg v N100000 v t c f s h k O1\r\nmg v N100000 v t\r\nms v 1 T30\r\n1\r\nmg v R60 v\r\nmg v R60 v\r\nmg v R10\r\n",
        "mg v2 N-1 v\r\nmg v2 v\r\nmg v3 N0 T100000 t\r\nmg v3 t\r\nmg v3 T0 t\r\nmg v3 t T100000\r\nmg v3 t q\r\n",
        // Fetched, and left no trace.
        "ms h 1\r\n1\r\nmg h h u\r\nmg h h l\r\nmg h h\r\nme h\r\nset h 5 0 1\r\n1\r\nme h\r\nget h\r\nme h\r\nmg h h f\r\n",
        "ms h 1\r\n1\r\ngat 0 h\r\nmg h h\r\nms h 1 MA\r\n2\r\nmg h h v\r\n",
        // Keys in base64: echoed as stored.
        "ms foo 1\r\n1\r\nmg Zm9v b k v\r\nms Zm9v 2 b k\r\nhi\r\nmg foo k\r\nget foo\r\nme foo\r\nme Zm9v b\r\nme Zm9v\r\n",
        "ms Zm9v 2 b MA k\r\nhi\r\nmg foo k v\r\nmd Zm9v b k O1\r\nmg Zm9v O1 k b\r\nmg Zm9v b k N0\r\nma Zm9v b k N0\r\n",
        "ms AAECIA== 1 b k\r\n1\r\nmg AAECIA== b k v\r\nmd AAECIA== k b\r\nme AAECIA== b\r\n",
        // Modes.
        "ms m 1 MR\r\n1\r\nms m 1 MA\r\n1\r\nms m 1 MP\r\n1\r\nms m 1 ME c\r\n1\r\nms m 1 ME c k\r\n2\r\nms m 1 MA F5 T9 c\r\n3\r\n\
            ms m 1 MP\r\n0\r\nmg m v f t s\r\nms m 1 MR F7\r\n9\r\nmg m v f\r\nms m 1 MS F4294967295\r\n8\r\nmg m v f\r\n",
        "ms m 1 MA C999\r\n1\r\nms m 1 MA C0\r\n1\r\nms m 1 C0 c\r\n1\r\nms mm 1 C0 c\r\n1\r\nms mm 1 MR C5\r\n1\r\nms mm 1 ME C5\r\n1\r\nms mm 1 MA C0\r\n1\r\n",
        // Numbers.
        "ma a\r\nma a q\r\nma a N0 v t c k O1\r\nma a v\r\nma a v q\r\nma a N0 J5 v\r\nma a D9 v T100000 t\r\nma a t\r\nme a\r\n",
        "ma b N0 J99 q\r\nma b N0 q\r\nma b v T50000 t\r\nma b v t\r\nma b MD D900 v\r\nma b M- v\r\nma b M+ D18446744073709551615 v\r\nma b v\r\n",
        "ma c N100000 J10 T0 v t\r\nma c t\r\nma c C999 v k\r\nma c C0 v\r\nma c N-1\r\nma d N-1 v\r\nma d v\r\n",
        "ms e 1\r\nx\r\nma e\r\nma e q\r\nma e C999\r\nms e 0\r\n\r\nma e C999\r\nms e 3\r\n7 x\r\nma e v\r\nma e T100000 t\r\nma e t\r\n",
        // Errors are said in spite of q.
        "mg k q c c\r\nms k 3 q\r\nabcdef\r\nms k 1 q MX\r\n1\r\nmd k q W\r\nma k q M\r\nms k 1 q x\r\n1\r\nmd k x\r\nmg k E1\r\nma k E1\r\n",
        &big,
        &big_base64,
        "mg T k1\r\nms T 3 T\r\nabc\r\nmg  k1   v  \r\n  mg k1\r\nmg\tk1\r\n",
    ] {
        assert_eq!(ask(memcached.addr, stream), ask(embedded.addr, stream), "{stream:.300?}");
    }
}

/// Where the answers differ, and why.
#[test]
fn no_block_and_no_key_is_executed() {
    let long = "k".repeat(251);
    let memcached = Memcached::start();
    let embedded = Embedded::start();
    for (stream, theirs, ours) in [
        (
            format!("ms {long} 9 T0\r\nflush_all\r\n"),
            "CLIENT_ERROR bad command line format\r\nOK\r\nMN\r\n",
            "CLIENT_ERROR bad command line format\r\nMN\r\n",
        ),
        (
            "ms k x\r\nversion\r\n".into(),
            "CLIENT_ERROR bad command line format\r\nVERSION 1.6.18\r\nMN\r\n",
            "CLIENT_ERROR bad command line format\r\n",
        ),
        // Not base64 as encoders write it: memcached looks up something else than what is said.
        ("mg Zg==Zg== b v\r\n".into(), "EN\r\nMN\r\n", "CLIENT_ERROR error decoding key\r\nMN\r\n"),
        // A key that memcached has not stored as base64 itself, as bytes: two lines.
        ("mg eA0KSEQ= b N0 k\r\n".into(), "HD kx\r\nHD W\r\nMN\r\n", "HD keA0KSEQ= b W\r\nMN\r\n"),
        // Counted before it is refused, there.
        (
            format!("ms c 1\r\n1\r\nma c O{}\r\nma c v\r\n", "o".repeat(32)),
            "HD\r\nCLIENT_ERROR opaque token too long\r\nVA 1\r\n3\r\nMN\r\n",
            "HD\r\nCLIENT_ERROR opaque token too long\r\nVA 1\r\n2\r\nMN\r\n",
        ),
    ] {
        assert_eq!(ask(memcached.addr, stream.as_bytes()), theirs, "{stream:?}");
        assert_eq!(ask(embedded.addr, stream.as_bytes()), ours, "{stream:?}");
    }
}
