use super::*;

const NOW: u64 = 1_800_000_000;
const MIB: u64 = 1 << 20;
const VALUE: usize = 1 << 20;

fn store() -> Store {
    Store::new(64 * MIB, VALUE, NOW - 100)
}

fn line<'a>(verb: StoreVerb, key: &'a str, exptime: i32, len: usize) -> StoreLine<'a> {
    StoreLine { verb, key: key.as_bytes(), flags: 7, exptime, len, unique: 0, quiet: false }
}

fn put(store: &mut Store, verb: StoreVerb, key: &str, value: &str, exptime: i32) -> &'static str {
    let line = line(verb, key, exptime, value.len());
    store.store(&line, Bytes::copy_from_slice(value.as_bytes()), NOW)
}

fn value(store: &mut Store, key: &str, now: u64) -> Option<String> {
    let item = store.get(key.as_bytes(), now)?;
    Some(String::from_utf8_lossy(&item.data).into_owned())
}

#[test]
fn expiries_are_relative_absolute_never_or_at_once() {
    for (exptime, gone_at) in [
        (0, None),
        (-1, Some(NOW)),
        (i32::MIN, Some(NOW)),
        (1, Some(NOW + 1)),
        (2_592_000, Some(NOW + 2_592_000)),
        (2_592_001, Some(NOW)),
        (1_800_000_000 + 50, Some(NOW + 50)),
        (1_800_000_000, Some(NOW)),
    ] {
        let mut store = store();
        assert_eq!(put(&mut store, StoreVerb::Set, "k", "v", exptime), "STORED");
        match gone_at {
            None => assert!(value(&mut store, "k", NOW + 1_000_000_000).is_some()),
            Some(at) => {
                if at > NOW {
                    assert!(value(&mut store, "k", at - 1).is_some(), "{exptime} before");
                }
                assert!(value(&mut store, "k", at).is_none(), "{exptime} at its end");
                assert_eq!(put(&mut store, StoreVerb::Add, "k", "w", 0), "STORED");
            }
        }
    }
}

#[test]
fn touch_moves_the_end_and_keeps_the_unique() {
    let mut store = store();
    put(&mut store, StoreVerb::Set, "k", "v", 10);
    let unique = store.get(b"k", NOW).unwrap().unique;
    assert!(store.touch(b"k", 100, NOW + 9).is_some());
    assert_eq!(store.get(b"k", NOW + 50).unwrap().unique, unique);
    assert!(store.get(b"k", NOW + 109).is_none());
    assert!(store.touch(b"k", 100, NOW + 110).is_none());
    put(&mut store, StoreVerb::Set, "k", "v", 10);
    // The value is given once more, then it is gone.
    assert!(store.touch(b"k", -1, NOW).is_some());
    assert!(store.get(b"k", NOW).is_none());
}

const IN_PLACE: bool = true;

const fn counted(value: u64, in_place: bool) -> Counted {
    Counted::Value { value, in_place }
}

#[test]
fn counting_keeps_the_length_and_wraps_upwards() {
    for (text, step, counted, left) in [
        ("100", Step::Down(95), counted(5, IN_PLACE), "5  "),
        ("5", Step::Down(6), counted(0, IN_PLACE), "0"),
        ("99", Step::Up(1), counted(100, !IN_PLACE), "100"),
        ("5 x", Step::Up(1), counted(6, IN_PLACE), "6  "),
        ("5\0x", Step::Up(1), counted(6, IN_PLACE), "6  "),
        ("18446744073709551615", Step::Up(1), counted(0, IN_PLACE), "0                   "),
        ("", Step::Up(1), Counted::NonNumeric, ""),
        ("\0", Step::Up(1), Counted::NonNumeric, "\0"),
        ("-5", Step::Up(1), Counted::NonNumeric, "-5"),
        ("abc", Step::Down(1), Counted::NonNumeric, "abc"),
        ("18446744073709551616", Step::Down(1), Counted::NonNumeric, "18446744073709551616"),
    ] {
        let mut store = store();
        put(&mut store, StoreVerb::Set, "k", text, 0);
        assert_eq!(store.count(b"k", step, NOW), counted, "{text:?}");
        assert_eq!(value(&mut store, "k", NOW).as_deref(), Some(left));
        assert_eq!(store.get(b"k", NOW).unwrap().flags, 7);
        assert_eq!(store.count(b"none", step, NOW), Counted::NotFound);
    }
}

#[test]
fn a_flush_ends_what_was_stored_before_it() {
    let mut store = store();
    put(&mut store, StoreVerb::Set, "k", "old", 0);
    store.flush_all(None, NOW);
    assert_eq!(value(&mut store, "k", NOW), None);
    put(&mut store, StoreVerb::Set, "k", "new", 0);
    assert_eq!(value(&mut store, "k", NOW).as_deref(), Some("new"));
    // Delayed: nothing happens before its time.
    store.flush_all(Some(10), NOW);
    assert_eq!(value(&mut store, "k", NOW + 8).as_deref(), Some("new"));
    assert_eq!(value(&mut store, "k", NOW + 9), None);
    assert_eq!(store.counters.get_flushed, 2);
}

#[test]
fn a_joined_value_above_the_limit_is_not_stored_and_the_old_one_stays() {
    let mut store = store();
    let big = "x".repeat(600_000);
    assert_eq!(put(&mut store, StoreVerb::Set, "k", &big, 0), "STORED");
    for verb in [StoreVerb::Append, StoreVerb::Prepend] {
        assert_eq!(put(&mut store, verb, "k", &big, 0), "NOT_STORED");
    }
    assert_eq!(value(&mut store, "k", NOW).map(|v| v.len()), Some(600_000));
}

#[test]
fn an_item_fits_as_in_memcached_and_never_takes_more_than_half_the_memory() {
    let store = Store::new(64 * MIB, VALUE, NOW);
    assert!(store.fits(b"k", 0, 1_048_516));
    assert!(!store.fits(b"k", 0, 1_048_517));
    assert!(!store.fits(b"k", 1, 1_048_513));
    assert!(!store.fits(b"k", 0, usize::MAX));
    assert_eq!(Store::new(MIB, 64 << 20, NOW).max_item(), 512 << 10);
}

#[test]
fn memory_stays_bounded_and_the_newest_values_are_kept() {
    let mut store = Store::new(4 * MIB, VALUE, NOW);
    let text = "v".repeat(10_000);
    for i in 0..5_000 {
        put(&mut store, StoreVerb::Set, &format!("k{i}"), &text, 0);
        assert!(store.cache.weighted_size() < 6 * MIB);
        let key = format!("k{i}");
        assert!(store.cache.get(key.as_bytes()).is_some(), "{key} refused");
    }
    let sizes = store.sizes();
    assert!(sizes.bytes <= 4 * MIB && sizes.items > 300, "{sizes:?}");
    assert_eq!(sizes.items + sizes.evictions, 5_000);
    for i in 4_800..5_000 {
        assert!(value(&mut store, &format!("k{i}"), NOW).is_some(), "k{i}");
    }
}

#[test]
fn a_value_of_a_megabyte_is_taken_when_memory_is_full() {
    let mut store = Store::new(4 * MIB, VALUE, NOW);
    for i in 0..40 {
        let key = format!("k{i}");
        let big = "x".repeat(1_000_000);
        assert_eq!(put(&mut store, StoreVerb::Set, &key, &big, 0), "STORED");
        assert!(value(&mut store, &key, NOW).is_some(), "{key}");
        assert!(store.sizes().bytes <= 4 * MIB);
    }
}

#[test]
fn the_size_is_exact_after_any_mix_of_writes_and_removals() {
    let mut state = 7_u64;
    let mut random = |n: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from((state >> 33) % n).unwrap()
    };
    let mut store = store();
    for i in 0..100_000 {
        let key = format!("k{}", random(10));
        match random(10) {
            0..=4 => {
                let value = "x".repeat(random(50) * 100);
                put(&mut store, StoreVerb::Set, &key, &value, [0, 1_000][random(2)]);
            }
            5 => drop(store.delete(key.as_bytes(), NOW)),
            6 => drop(put(&mut store, StoreVerb::Set, &key, "x", -1)),
            7 => drop(store.touch(key.as_bytes(), 100, NOW)),
            8 => drop(store.count(key.as_bytes(), Step::Up(1), NOW)),
            _ => drop(store.get(key.as_bytes(), NOW)),
        }
        if i % 1_000 == 0 {
            let sizes = store.sizes();
            let kept = store.cache.iter();
            let bytes: usize = kept.map(|(key, item)| weight(&key, &item)).sum();
            assert_eq!(sizes.bytes, bytes as u64, "after {i} commands");
        }
    }
}
