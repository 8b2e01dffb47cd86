//! What needs a clock; the rest is compared with memcached in `tests/embedded.rs`.

use super::*;

const NOW: u64 = 1_800_000_000;

fn ask(store: &mut Store, line: &str, data: &str, now: u64) -> String {
    let meta = parse(line.as_bytes(), 1 << 20).unwrap();
    let mut buffer = [0; MAX_KEY];
    let key = meta.routing_key(&mut buffer);
    let mut out = Vec::new();
    match meta.verb {
        Verb::Get => drop(get(store, &meta, key, now, &mut out)),
        Verb::Set => set(store, &meta, key, Bytes::copy_from_slice(data.as_bytes()), now, &mut out),
        Verb::Delete => delete(store, &meta, key, now, &mut out),
        Verb::Arithmetic => arithmetic(store, &meta, key, now, &mut out),
        Verb::Debug => debug(store, &meta, key, now, &mut out),
    }
    String::from_utf8(out).unwrap()
}

#[test]
fn times_are_told_in_seconds_left_and_seconds_ago() {
    let mut store = Store::new(64 << 20, 1 << 20, NOW - 100);
    let store = &mut store;
    assert_eq!(ask(store, "ms k 1 T30", "1", NOW), "HD\r\n");
    assert_eq!(ask(store, "mg k t l h", "", NOW + 10), "HD t20 l10 h0\r\n");
    // The first read sets the mark, later ones the time.
    assert_eq!(ask(store, "mg k t l h", "", NOW + 11), "HD t19 l11 h1\r\n");
    assert_eq!(ask(store, "mg k l", "", NOW + 12), "HD l1\r\n");
    assert_eq!(ask(store, "me k", "", NOW + 13), "ME k exp=-17 la=1 cas=1 fetch=yes cls=1 size=61\r\n");
    assert_eq!(ask(store, "mg k t T60", "", NOW + 29), "HD t1\r\n");
    assert_eq!(ask(store, "mg k T50 t", "", NOW + 39), "HD t50\r\n");
    assert_eq!(ask(store, "mg k k O1", "", NOW + 89), "EN kk O1\r\n");
}

#[test]
fn one_reader_is_told_to_renew_what_ends_soon() {
    let mut store = Store::new(64 << 20, 1 << 20, NOW - 100);
    let store = &mut store;
    ask(store, "ms k 1 T60", "1", NOW);
    assert_eq!(ask(store, "mg k R30", "", NOW + 30), "HD\r\n");
    assert_eq!(ask(store, "mg k R30", "", NOW + 31), "HD W\r\n");
    assert_eq!(ask(store, "mg k R30", "", NOW + 31), "HD Z\r\n");
    // Renewed: nobody is told any more.
    ask(store, "ms k 1 T60", "2", NOW + 32);
    assert_eq!(ask(store, "mg k R30", "", NOW + 32), "HD\r\n");
}

#[test]
fn what_is_marked_stale_lives_on_for_the_time_given() {
    let mut store = Store::new(64 << 20, 1 << 20, NOW - 100);
    let store = &mut store;
    ask(store, "ms k 1 T600", "1", NOW);
    assert_eq!(ask(store, "md k I T30 q", "", NOW), "");
    assert_eq!(ask(store, "mg k t c", "", NOW + 10), "HD t20 c2 X W\r\n");
    assert_eq!(ask(store, "mg k t", "", NOW + 10), "HD t20 Z X\r\n");
    // By an older unique: the value is new, time and marks are the old ones.
    assert_eq!(ask(store, "ms k 1 C1 I T600", "2", NOW + 11), "HD\r\n");
    assert_eq!(ask(store, "mg k t s", "", NOW + 12), "HD t18 s1 Z X\r\n");
    assert_eq!(ask(store, "mg k", "", NOW + 30), "EN\r\n");
}
