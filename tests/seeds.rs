//! The seeds of the fuzz targets, and every input that once failed, with the stable toolchain: what
//! was mended stays mended. New inputs are found by `tests/fuzz/run`.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a test ends at what it did not expect, and says so")]

#[path = "fuzz/harness/mod.rs"]
mod harness;

use std::{fs, path::Path};

fn replay(target: &str, check: fn(&[u8])) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/seeds").join(target);
    let mut seeds: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    seeds.sort();
    assert!(!seeds.is_empty());
    for seed in seeds {
        println!("{}", seed.display());
        check(&fs::read(seed).unwrap());
    }
}

#[test]
fn request() {
    replay("request", harness::request);
}

#[test]
fn reply() {
    replay("reply", harness::reply);
}

#[test]
fn packet() {
    replay("packet", harness::packet);
}

#[test]
fn core() {
    replay("core", harness::core);
}
