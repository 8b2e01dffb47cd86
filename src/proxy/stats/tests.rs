use super::*;
use proptest::prelude::*;

// Captured from two memcached 1.6.18, shortened.
const ONE: &[u8] = b"STAT pid 8800\r\nSTAT uptime 20\r\nSTAT time 1795407954\r\n\
STAT version 1.6.18\r\nSTAT libevent 2.1.12-stable\r\nSTAT pointer_size 64\r\n\
STAT rusage_user 0.006824\r\nSTAT rusage_system 0.900000\r\nSTAT max_connections 1024\r\n\
STAT curr_connections 1\r\nSTAT cmd_get 2\r\nSTAT cmd_set 2\r\nSTAT get_hits 1\r\n\
STAT get_misses 1\r\nSTAT get_expired 3\r\nSTAT limit_maxbytes 67108864\r\n\
STAT accepting_conns 1\r\nSTAT hash_power_level 16\r\nSTAT bytes 2123\r\nSTAT curr_items 2\r\n\
STAT total_items 2\r\nSTAT evictions 0\r\n";
const TWO: &[u8] = b"STAT pid 9000\r\nSTAT uptime 10\r\nSTAT time 1795407955\r\n\
STAT version 1.6.15\r\nSTAT libevent 2.1.12-stable\r\nSTAT pointer_size 64\r\n\
STAT rusage_user 1.000001\r\nSTAT rusage_system 0.200000\r\nSTAT max_connections 1024\r\n\
STAT curr_connections 4\r\nSTAT cmd_get 5\r\nSTAT cmd_set 1\r\nSTAT only_here 7\r\n\
STAT get_hits 4\r\nSTAT get_misses 1\r\nSTAT get_expired 1\r\nSTAT limit_maxbytes 67108864\r\n\
STAT accepting_conns 0\r\nSTAT hash_power_level 17\r\nSTAT bytes 100\r\nSTAT curr_items 1\r\n\
STAT total_items 9\r\nSTAT evictions 5\r\nEND\r\n";

const fn up<'a>(name: &'a str, stats: &'a [u8]) -> NodeReport<'a> {
    NodeReport { name, state: "up", cause: "", stats }
}

const DOWN: NodeReport<'static> =
    NodeReport { name: "10.0.0.3:11211", state: "down", cause: "answered \"END\"", stats: b"" };

fn text(render: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut out = Vec::new();
    render(&mut out);
    let text = String::from_utf8(out).unwrap();
    let body = text.strip_suffix("END\r\n").expect("ends with END");
    for line in body.split_terminator("\r\n") {
        assert!(line.starts_with("STAT "), "{line:?}");
        assert!(!line.contains("END"), "{line:?}");
        assert!(line.split(' ').count() >= 3, "{line:?}");
    }
    text
}

#[test]
fn the_general_answer_has_the_sidecars_counters_and_the_nodes_sizes() {
    let sidecar = Sidecar {
        pid: 1,
        uptime_seconds: 60,
        unix_time: 1_795_408_000,
        version: "1.6.15".into(),
        rusage_user_micros: 1_500_000,
        max_connections: 4096,
        curr_connections: 3,
        cmd_get: 100,
        cmd_set: 10,
        get_hits: 90,
        get_misses: 10,
        bytes_read: 5_000,
        threads: 2,
        ..Sidecar::default()
    };
    let reports = [up("10.0.0.1:11211", ONE), up("10.0.0.2:11211", TWO), DOWN];
    let text = text(|out| general(out, &sidecar, &reports));
    for line in [
        "pid 1",
        "uptime 60",
        "time 1795408000",
        "version 1.6.15",
        "pointer_size 64",
        "rusage_user 1.500000",
        "rusage_system 0.000000",
        "max_connections 4096",
        "curr_connections 3",
        "cmd_get 100",
        "cmd_set 10",
        "get_hits 90",
        "get_misses 10",
        "get_expired 4",
        "bytes_read 5000",
        "threads 2",
        "limit_maxbytes 134217728",
        "bytes 2223",
        "curr_items 3",
        "total_items 11",
        "evictions 5",
    ] {
        assert!(text.contains(&format!("STAT {line}\r\n")), "{line} in {text}");
    }
    assert!(text.starts_with("STAT pid 1\r\nSTAT uptime 60\r\nSTAT time 1795408000\r\n"));
    assert!(!text.contains("only_here"));
}

#[test]
fn without_a_reachable_node_every_name_is_still_there() {
    let text = text(|out| general(out, &Sidecar::default(), &[DOWN]));
    assert!(text.contains("STAT curr_items 0\r\nSTAT total_items 0\r\n"));
    assert_eq!(text.lines().count(), GENERAL.len() + 1);
}

#[test]
fn a_reset_takes_what_was_counted_before_away_and_leaves_what_is_now() {
    let before = Sidecar { cmd_get: 100, bytes_read: 5_000, curr_connections: 3, ..Sidecar::default() };
    let now = Sidecar { cmd_get: 130, uptime_seconds: 60, before_reset: counted(&before), ..before };
    let text = text(|out| general(out, &now, &[]));
    for line in ["cmd_get 30", "bytes_read 0", "curr_connections 3", "uptime 60", "cmd_set 0"] {
        assert!(text.contains(&format!("STAT {line}\r\n")), "{line} in {text}");
    }
}

/// collectd's plugin reads no more.
#[test]
fn the_general_answer_is_shorter_than_4_kib_whatever_the_figures() {
    let line = |(name, _): &(&str, Source)| format!("STAT {name} {}\r\n", u64::MAX).len();
    let all: usize = GENERAL.iter().map(line).sum();
    assert!(all + "END\r\n".len() < 4096, "{all} bytes");
}

#[test]
fn each_node_is_told_apart_by_its_name() {
    let reports = [up("10.0.0.1:11211", ONE), DOWN, up("BACKEND 1:1", TWO)];
    let text = text(|out| nodes(out, &reports));
    assert!(text.starts_with(
        "STAT 10.0.0.1:11211.state up\r\nSTAT 10.0.0.1:11211.version 1.6.18\r\n\
         STAT 10.0.0.1:11211.uptime 20\r\nSTAT 10.0.0.1:11211.curr_connections 1\r\n\
         STAT 10.0.0.1:11211.curr_items 2\r\n"
    ));
    assert!(text.contains("\r\nSTAT 10.0.0.3:11211.state down\r\nSTAT 10.0.0.3:11211.cause answered \"End\"\r\nSTAT backend_1:1.state up\r\n"));
    assert!(text.contains("STAT backend_1:1.get_hits 4\r\nSTAT backend_1:1.get_misses 1\r\n"));
}

#[test]
fn the_nodes_counters_are_added_up_where_a_sum_means_something() {
    let reports = [up("a:1", ONE), DOWN, up("b:1", TWO)];
    assert_eq!(
        text(|out| sum(out, &reports)),
        "STAT uptime 10\r\nSTAT time 1795407955\r\nSTAT pointer_size 64\r\n\
         STAT rusage_user 1.006825\r\nSTAT rusage_system 1.100000\r\n\
         STAT max_connections 2048\r\nSTAT curr_connections 5\r\nSTAT cmd_get 7\r\n\
         STAT cmd_set 3\r\nSTAT get_hits 5\r\nSTAT get_misses 2\r\nSTAT get_expired 4\r\n\
         STAT limit_maxbytes 134217728\r\nSTAT accepting_conns 0\r\nSTAT hash_power_level 17\r\n\
         STAT bytes 2223\r\nSTAT curr_items 3\r\nSTAT total_items 11\r\nSTAT evictions 5\r\n\
         STAT only_here 7\r\nEND\r\n"
    );
}

#[test]
fn the_classes_of_all_nodes_stand_in_order() {
    let one = b"STAT items:1:number 1\r\nSTAT items:1:age 5\r\nSTAT items:15:number 1\r\n\
        STAT items:15:age 2\r\n";
    let two = b"STAT items:3:number 7\r\nSTAT items:3:age 1\r\nSTAT items:15:number 4\r\n\
        STAT items:15:age 9\r\nSTAT items:15:evicted_time 3\r\n";
    assert_eq!(
        text(|out| items(out, &[up("a:1", one), up("b:1", two)])),
        "STAT items:1:number 1\r\nSTAT items:1:age 5\r\nSTAT items:3:number 7\r\n\
         STAT items:3:age 1\r\nSTAT items:15:number 5\r\nSTAT items:15:age 9\r\n\
         STAT items:15:evicted_time 3\r\nEND\r\n"
    );
    let one = b"STAT 1:chunk_size 96\r\nSTAT 1:chunks_per_page 10922\r\nSTAT 1:used_chunks 1\r\n\
        STAT 15:chunk_size 2320\r\nSTAT 15:used_chunks 1\r\nSTAT active_slabs 2\r\n\
        STAT total_malloced 2097152\r\n";
    let two = b"STAT 1:chunk_size 96\r\nSTAT 1:chunks_per_page 10922\r\nSTAT 1:used_chunks 5\r\n\
        STAT 3:chunk_size 152\r\nSTAT active_slabs 2\r\nSTAT total_malloced 1048576\r\n";
    assert_eq!(
        text(|out| slabs(out, &[up("a:1", one), up("b:1", two)])),
        "STAT 1:chunk_size 96\r\nSTAT 1:chunks_per_page 10922\r\nSTAT 1:used_chunks 6\r\n\
         STAT 3:chunk_size 152\r\nSTAT 15:chunk_size 2320\r\nSTAT 15:used_chunks 1\r\n\
         STAT active_slabs 3\r\nSTAT total_malloced 3145728\r\nEND\r\n"
    );
    assert_eq!(text(|out| items(out, &[DOWN])), "END\r\n");
}

#[test]
fn settings_are_a_nodes_with_the_sidecars_connection_limit() {
    let stats = b"STAT maxbytes 67108864\r\nSTAT maxconns 1024\r\nSTAT domain_socket /run/END\r\n\
        STAT inter 127.0.0.1\r\nSTAT item_size_max 1048576\r\n";
    let sidecar = Sidecar { max_connections: 4096, ..Sidecar::default() };
    assert_eq!(
        text(|out| settings(out, &sidecar, &[DOWN, up("a:1", stats)])),
        "STAT maxconns 4096\r\nSTAT maxbytes 67108864\r\nSTAT domain_socket /run/end\r\n\
         STAT inter 127.0.0.1\r\nSTAT item_size_max 1048576\r\nEND\r\n"
    );
    assert_eq!(text(|out| settings(out, &sidecar, &[DOWN])), "STAT maxconns 4096\r\nEND\r\n");
}

#[test]
fn figures_are_read_with_and_without_decimals() {
    for (value, read) in [
        ("0", Some((0, false))),
        ("12", Some((12_000_000, false))),
        ("0.006824", Some((6_824, true))),
        ("1.5", Some((1_500_000, true))),
        ("1.", None),
        (".5", None),
        ("1.1234567", None),
        ("-1", None),
        ("1.6.18", None),
        ("yes", None),
        ("", None),
    ] {
        assert_eq!(millionths(value.as_bytes()), read, "{value:?}");
    }
}

proptest! {
    #[test]
    fn whatever_a_node_says_the_answer_is_well_formed(
        stats in "(STAT [a-zE:0-9]{1,6} ?[0-9.END]{0,22}\r?\n|.{0,20}\r\n){0,12}",
    ) {
        let reports = [up("a:1", stats.as_bytes()), up("b:1", ONE)];
        let sidecar = Sidecar { version: "1.6.18".into(), ..Sidecar::default() };
        for render in [sum, items, slabs, nodes] {
            text(|out| render(out, &reports));
        }
        text(|out| general(out, &sidecar, &reports));
        text(|out| settings(out, &sidecar, &reports));
    }
}
