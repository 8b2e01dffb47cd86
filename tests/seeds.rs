//! The seeds of the fuzz targets, among them every input that once failed, with the stable toolchain: what was mended
//! stays mended. Then inputs made from them, the same ones each time; `SLIPRING_TEST_MUTATIONS=1000` makes so many of each
//! seed in place of a few. What no such input finds, `tests/fuzz/run 1800` searches for.

#![allow(
    clippy::cast_possible_truncation,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test ends at what it did not expect, and says so"
)]

#[path = "fuzz/harness/mod.rs"]
mod harness;
#[path = "support/random.rs"]
#[allow(dead_code, unreachable_pub, reason = "other tests draw from it, and otherwise")]
mod random;

use std::path::{Path, PathBuf};
use std::{env, fs, panic};

use random::Random;

/// How many inputs are made of each seed of the core, of which each takes some milliseconds. Of the others, ten times.
const MUTATIONS: usize = 50;

/// As the fuzzer's.
const MAX_LEN: usize = 1024;

fn replay(target: &str, times: usize, check: fn(&[u8])) {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz");
    let mut paths: Vec<_> =
        fs::read_dir(fuzz.join("seeds").join(target)).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty());
    let seeds: Vec<Vec<u8>> = paths.iter().map(|path| fs::read(path).unwrap()).collect();
    for (path, seed) in paths.iter().zip(&seeds) {
        println!("{}", path.display());
        check(seed);
    }
    let count = env::var("SLIPRING_TEST_MUTATIONS").map_or(times * MUTATIONS, |count| count.parse().unwrap());
    let mut random = Random::new(1);
    for (path, seed) in paths.iter().zip(&seeds) {
        for number in 0..count {
            let other = &seeds[random.below(seeds.len())];
            let input = mutated(seed, other, &mut random);
            if let Err(cause) = panic::catch_unwind(|| check(&input)) {
                let kept = keep(&fuzz.join("artifacts").join(target), &input);
                println!("number {number} made of {} failed; it is kept in {}", path.display(), kept.display());
                panic::resume_unwind(cause);
            }
        }
    }
}

/// An input that differs from a seed in a few places, and may go on as another seed does.
fn mutated(seed: &[u8], other: &[u8], random: &mut Random) -> Vec<u8> {
    let mut input = seed.to_vec();
    for _ in 0..random.between(1, 6) {
        let at = random.between(0, input.len());
        let end = random.between(at, input.len().min(at + 32));
        match random.below(6) {
            0 => input[at..end].fill_with(|| random.next() as u8),
            1 => input[at..end].fill_with(|| random.pick(&[0, 1, 2, 127, 128, 255, b' ', b'\r', b'\n'])),
            2 => drop(input.drain(at..end)),
            3 => {
                let part = input[at..end].to_vec();
                let to = random.between(0, input.len());
                input.splice(to..to, part);
            }
            4 if at < input.len() => input[at] ^= 1 << random.below(8),
            _ => {
                let from = random.between(0, other.len());
                let to = random.between(from, other.len());
                input.splice(at..end, other[from..to].iter().copied());
            }
        }
    }
    input.truncate(MAX_LEN);
    input
}

fn keep(directory: &Path, input: &[u8]) -> PathBuf {
    fs::create_dir_all(directory).unwrap();
    let hash = input.iter().fold(0_u64, |hash, byte| hash.wrapping_mul(31).wrapping_add(u64::from(*byte)));
    let path = directory.join(format!("made-{hash:016x}"));
    fs::write(&path, input).unwrap();
    path
}

#[test]
fn request() {
    replay("request", 10, harness::request);
}

#[test]
fn reply() {
    replay("reply", 10, harness::reply);
}

#[test]
fn packet() {
    replay("packet", 10, harness::packet);
}

#[test]
fn core() {
    replay("core", 1, harness::core);
}
