//! Clients that would take all memory, if one let them.
use crate::alone;
use crate::group::Group;
use crate::load::{Kind, Order, Stage, Tally, Watch};
use crate::scenario::{BESIDE_IT_MIB, BUDGET_MIB, Fleet, outage_time, quiet_time, spread, sum};
use crate::support::{Link, Memcached, Pattern, Slipring, TextClient, eventually};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;

/// Bytes of this value, which say whose they are.
fn big(number: usize) -> Vec<u8> {
    let word = format!("<{number}>");
    word.bytes().cycle().take(MIB).collect()
}

/// As many as this test needs, if the system lets us.
fn allow_open_files(wanted: u64) {
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    if limit.current.is_some_and(|current| current < wanted) {
        limit.current = Some(wanted);
        let set = rustix::process::setrlimit(rustix::process::Resource::Nofile, limit);
        assert!(set.is_ok(), "this test opens {wanted} files; `ulimit -n` allows only {:?}", limit.maximum);
    }
}

// === clients that never read ===

/// The invariant checks of a debug build look at every client, again and again.
const NEVER_READ: usize = if cfg!(debug_assertions) { 100 } else { 1_000 };
const BIG_VALUES: usize = 64;

/// The most of what is sampled.
#[derive(Debug, Default)]
struct Peak {
    resident_kib: u64,
    charged: u64,
    of_sockets: u64,
}

/// Notes the most of what a process takes, until it is over.
fn sample(slipring: &Slipring, group: Option<&Group>, over: &AtomicBool, peak: &Mutex<Peak>) {
    while !over.load(Ordering::SeqCst) {
        let resident = slipring.memory_kib("VmHWM");
        let (charged, of_sockets) = group.map_or((0, 0), |group| group.read().unwrap());
        let mut peak = peak.lock().unwrap();
        peak.resident_kib = peak.resident_kib.max(resident);
        peak.charged = peak.charged.max(charged);
        peak.of_sockets = peak.of_sockets.max(of_sockets);
        drop(peak);
        sleep(Duration::from_millis(5));
    }
}

/// The process and its sockets stay within the budget and what is beside it.
fn assert_within(peak: &Peak, budget_mib: u64) {
    let most = (budget_mib + BESIDE_IT_MIB) << 10;
    assert!(peak.resident_kib <= most, "the resident set reached {} KiB, more than {most}", peak.resident_kib);
    assert!(peak.charged >> 10 <= most, "the group was charged for {} KiB, more than {most}", peak.charged >> 10);
}

#[test]
#[cfg_attr(debug_assertions, ignore = "under full load: in a release build")]
fn clients_that_never_read() {
    never_read(&Link::Plain);
}

/// The buffers of TLS are in the budget, too.
#[test]
#[cfg_attr(debug_assertions, ignore = "under full load: in a release build")]
fn clients_that_never_read_over_tls_and_a_log_in() {
    never_read(&Link::secured());
}

fn never_read(link: &Link) {
    let _alone = alone();
    allow_open_files(4_096);
    let group = Group::new();
    let nodes = link.nodes(3, &["-I", "2m"]);
    let addresses: Vec<SocketAddr> = nodes.iter().map(Memcached::address).collect();
    let list: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
    let (list, budget) = (list.join(","), format!("{BUDGET_MIB}MiB"));
    let arguments = link.arguments(&["serve", "--nodes", &list, "--buffer-limit", &budget]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let slipring = match &group {
        Ok(group) => Slipring::in_group(&group.members(), &arguments),
        Err(_) => Slipring::command(&arguments, &[]),
    };
    slipring.wait_for_states("up", nodes.len());
    let mut client = slipring.client();
    for number in 0..BIG_VALUES {
        client.set(&format!("big:{number}"), big(number));
    }
    let (pattern, watch) = (Pattern::new(), Watch::new());
    let (over, peak) = (AtomicBool::new(false), Mutex::new(Peak::default()));
    let (tallies, closed) = std::thread::scope(|scope| {
        let _over = Over(&over);
        let (slipring, group, over, peak) = (&slipring, &group, &over, &peak);
        scope.spawn(move || sample(slipring, group.as_ref().ok(), over, peak));
        let fleet = Fleet::start(scope, slipring.address(), &addresses, 0, &pattern, &watch);
        fleet.wait(Duration::from_millis(500));
        fleet.all(Order::Stage(Stage::Quiet));
        fleet.wait(quiet_time());
        fleet.all(Order::Stage(Stage::Falling));
        fleet.all(Order::Tight);
        let silent: Vec<TcpStream> = (0..NEVER_READ)
            .map(|number| {
                // All at once would be 2 GiB at once: not what is asked here.
                if number % 4 == 0 {
                    fleet.wait(Duration::from_millis(20));
                }
                never_reads(slipring.address(), number)
            })
            .collect();
        fleet.all(Order::Stage(Stage::Down));
        fleet.wait(outage_time());
        let closed = silent.iter().filter(|stream| is_closed(stream)).count();
        drop(silent);
        fleet.all(Order::Stage(Stage::After));
        fleet.wait(quiet_time() / 2);
        fleet.all(Order::Rest);
        (fleet.end(), closed)
    });
    // The proxy serves on, values of that size included.
    let mut client = slipring.client();
    for number in 0..BIG_VALUES {
        let key = format!("big:{number}");
        let values = client.get(&[&key]);
        assert!(values.len() == 1 && values[0].data == big(number), "{key} is not what was stored");
    }
    client.in_step();
    let after_kib = slipring.memory_kib("VmRSS");
    let peak = peak.into_inner().unwrap();
    println!(
        "\n{NEVER_READ} clients ask for values of 1 MiB, twice each, and never read; {closed} of them were closed"
    );
    print_others(&tallies);
    let charged = match &group {
        Ok(_) => {
            format!("{} KiB charged to its group, {} KiB of it sockets", peak.charged >> 10, peak.of_sockets >> 10)
        }
        Err(reason) => format!("NOT MEASURED, no control group can be made: {reason}"),
    };
    println!(
        "  budget {BUDGET_MIB} MiB; at the peak: resident set {} KiB, {charged}; resident set afterwards {after_kib} KiB",
        peak.resident_kib
    );
    assert_within(&peak, BUDGET_MIB);
    for tally in &tallies {
        let served = tally.served_while[Stage::Down as usize];
        assert!(served > 0, "{:?} keys were not served while the others were there", tally.kind);
    }
}

/// Who fails must not leave the others at work.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn never_reads(address: SocketAddr, number: usize) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the proxy accepts");
    // What lies with the reader is not the proxy's burden: let it be little.
    socket2::SockRef::from(&stream).set_recv_buffer_size(4 << 10).unwrap();
    let (one, other) = (number % BIG_VALUES, (number * 7 + 1) % BIG_VALUES);
    let request = format!("get big:{one}\r\nget big:{other}\r\n");
    std::io::Write::write_all(&mut &stream, request.as_bytes()).unwrap();
    stream
}

/// Whether the kernel knows that the other side has closed, without reading anything.
fn is_closed(stream: &TcpStream) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut sockets = [PollFd::new(stream, PollFlags::RDHUP)];
    poll(&mut sockets, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap();
    sockets[0].revents().intersects(PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR)
}

fn print_others(tallies: &[Tally]) {
    println!("  latency of the others in ms: p50 / p99 / worst, from the time a request was due");
    for (label, stage) in [
        ("before", Stage::Quiet),
        ("while they come", Stage::Falling),
        ("while they are there", Stage::Down),
        ("after", Stage::After),
    ] {
        let refused: u64 = tallies.iter().map(|tally| tally.refused_while[stage as usize]).sum();
        let latency = spread(sum(tallies, &[Kind::Healthy, Kind::Mixed], &[stage]));
        println!("  | {label:20} | {latency} | {refused} refused |");
    }
    let late: u64 = tallies.iter().map(|tally| tally.late).sum();
    let cut: u64 = tallies.iter().map(|tally| tally.cut).sum();
    println!("  wrong values: 0; connections out of step: 0; closed: {cut}; late writes seen: {late}");
}

// === clients that stand still in the middle of a `set` ===

const SMALL_BUDGET: [&str; 2] = ["--buffer-limit", "8MiB"];

fn with_small_budget(nodes: &[Memcached]) -> Slipring {
    let addresses: Vec<SocketAddr> = nodes.iter().map(Memcached::address).collect();
    Slipring::with(&addresses, &SMALL_BUDGET)
}

/// Sends a `set` up to its middle.
fn half(address: SocketAddr, number: usize) -> TextClient {
    let mut client = TextClient::connect(address);
    client.send(format!("set half:{number} 0 0 {MIB}\r\n")).send(&big(number)[..MIB / 2]);
    client
}

fn other_half(client: &mut TextClient, number: usize) {
    client.send(&big(number)[MIB / 2..]).ask("\r\n", "STORED\r\n").in_step();
}

fn within_the_budget(slipring: &Slipring) -> u64 {
    let (peak, most) = (slipring.memory_kib("VmHWM"), (8 + BESIDE_IT_MIB) << 10);
    assert!(peak <= most, "the resident set reached {peak} KiB, more than {most}");
    peak
}

#[test]
#[cfg_attr(debug_assertions, ignore = "under full load: in a release build")]
fn fifty_clients_halfway_through_a_set() {
    const CLIENTS: usize = 50;
    let _alone = alone();
    let nodes: Vec<Memcached> = (0..3).map(|_| Memcached::with(&["-I", "2m"])).collect();
    let slipring = with_small_budget(&nodes);
    slipring.client().set("small", "value");
    let (go_on, stored) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut worst = Duration::ZERO;
    let began = Instant::now();
    std::thread::scope(|scope| {
        for number in 0..CLIENTS {
            let (address, go_on, stored) = (slipring.address(), &go_on, &stored);
            scope.spawn(move || {
                // It may be held up in its first half already, where the proxy does not read it.
                let mut client = half(address, number);
                eventually("it goes on", || go_on.load(Ordering::SeqCst));
                other_half(&mut client, number);
                stored.fetch_add(1, Ordering::SeqCst);
            });
        }
        let _go_on = Over(&go_on);
        // Reads need none of the room that the others wait for.
        let mut reader = slipring.client();
        while began.elapsed() < Duration::from_secs(1) {
            let asked = Instant::now();
            assert_eq!(reader.get(&["small"])[0].data, b"value");
            worst = worst.max(asked.elapsed());
            sleep(Duration::from_millis(5));
        }
    });
    let all = began.elapsed();
    assert_eq!(stored.into_inner(), CLIENTS);
    let mut client = slipring.client();
    for number in 0..CLIENTS {
        let values = client.get(&[&format!("half:{number}")]);
        assert!(values.len() == 1 && values[0].data == big(number), "half:{number} is not what was stored");
    }
    let peak = within_the_budget(&slipring);
    println!(
        "\n{CLIENTS} clients stand still for 1 s in the middle of a `set` of 1 MiB, budget 8 MiB: all STORED after {:.1} s; \
         worst get of another {:.1} ms; resident set at its peak {peak} KiB",
        all.as_secs_f64(),
        worst.as_secs_f64() * 1e3
    );
}

#[test]
#[cfg_attr(debug_assertions, ignore = "under full load: in a release build")]
fn a_thousand_clients_halfway_through_a_set() {
    halfway_through_a_set(&Link::Plain);
}

#[test]
#[cfg_attr(debug_assertions, ignore = "under full load: in a release build")]
fn a_thousand_clients_halfway_through_a_set_over_tls_and_a_log_in() {
    halfway_through_a_set(&Link::secured());
}

fn halfway_through_a_set(link: &Link) {
    /// As in a pod of 64 MiB.
    const BUDGET_MIB: u64 = 25;
    let _alone = alone();
    allow_open_files(4_096);
    let group = Group::new();
    let node = link.node(&["-I", "2m"]);
    let (list, budget) = (node.address().to_string(), format!("{BUDGET_MIB}MiB"));
    let arguments = link.arguments(&["serve", "--nodes", &list, "--buffer-limit", &budget]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let slipring = match &group {
        Ok(group) => Slipring::in_group(&group.members(), &arguments),
        Err(_) => Slipring::command(&arguments, &[]),
    };
    slipring.wait_for_states("up", 1);
    let mut client = slipring.client();
    client.set("small", "value");
    let (over, peak) = (AtomicBool::new(false), Mutex::new(Peak::default()));
    std::thread::scope(|scope| {
        let _over = Over(&over);
        let (slipring, group, over, peak) = (&slipring, &group, &over, &peak);
        scope.spawn(move || sample(slipring, group.as_ref().ok(), over, peak));
        let half: Vec<TcpStream> = (0..NEVER_READ)
            .map(|number| {
                let stream = TcpStream::connect(slipring.address()).expect("the proxy accepts");
                // What the kernels on the way do not take is not sent.
                stream.set_nonblocking(true).unwrap();
                let head = format!("set half:{number} 0 0 {MIB}\r\n");
                let all = [head.as_bytes(), &big(number)[..MIB / 2]].concat();
                let mut rest = &all[..];
                while let Ok(sent @ 1..) = std::io::Write::write(&mut &stream, rest) {
                    rest = &rest[sent..];
                }
                stream
            })
            .collect();
        // As long as those that wait are not told that there is no room.
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(4) {
            assert_eq!(client.get(&["small"])[0].data, b"value");
            sleep(Duration::from_millis(5));
        }
        drop(half);
    });
    let mut other = slipring.client();
    other.set("big", big(0));
    assert_eq!(other.get(&["big"])[0].data, big(0));
    let peak = peak.into_inner().unwrap();
    println!(
        "\n{NEVER_READ} clients stand still in the middle of a `set` of 1 MiB, budget {BUDGET_MIB} MiB; at the peak: resident set \
         {} KiB, {} KiB charged, {} KiB of it sockets",
        peak.resident_kib,
        peak.charged >> 10,
        peak.of_sockets >> 10
    );
    assert_within(&peak, BUDGET_MIB);
}

#[test]
#[cfg_attr(debug_assertions, ignore = "under full load: in a release build")]
fn clients_that_never_finish_a_set_give_their_room_back() {
    const STUCK: usize = 2;
    let _alone = alone();
    let nodes = [Memcached::with(&["-I", "2m"])];
    let slipring = with_small_budget(&nodes);
    // More than the part of the budget that is for bodies holds.
    let stuck: Vec<TcpStream> = (0..STUCK)
        .map(|number| {
            let stream = TcpStream::connect(slipring.address()).unwrap();
            // Not more than the sockets on the way hold: what is not read must not stop the test.
            let head = format!("set stuck:{number} 0 0 {MIB}\r\n1234567890");
            std::io::Write::write_all(&mut &stream, head.as_bytes()).unwrap();
            stream
        })
        .collect();
    sleep(Duration::from_millis(200));
    let began = Instant::now();
    std::thread::scope(|scope| {
        for number in 0..8 {
            let address = slipring.address();
            scope.spawn(move || {
                let mut client = TextClient::connect(address);
                client.set(&format!("big:{number}"), big(number)).in_step();
            });
        }
        let mut client = slipring.client();
        client.set("small", "value");
        println!(
            "\nbehind {STUCK} clients that never finish a `set` of 1 MiB, budget 8 MiB: a small `set` took {:.1} s",
            began.elapsed().as_secs_f64()
        );
    });
    println!("  eight of 1 MiB took {:.1} s", began.elapsed().as_secs_f64());
    let mut client = slipring.client();
    for number in 0..8 {
        let values = client.get(&[&format!("big:{number}")]);
        assert!(values.len() == 1 && values[0].data == big(number), "big:{number} is not what was stored");
    }
    println!(
        "  {} of the {STUCK} were closed; resident set at its peak {} KiB",
        stuck.iter().filter(|stream| is_closed(stream)).count(),
        within_the_budget(&slipring)
    );
}
