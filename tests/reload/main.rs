//! Nodes come and go while clients work: the slipring binary over real memcached nodes.
//!
//! `SLIPRING_RELOAD_SWAPS` sets how many swaps the load has to bear; 1,000 in a release build, 60 in
//! a debug build, which checks the invariants of the core over the same traffic.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::cast_possible_truncation,
    missing_docs,
    reason = "test code: a panic is how it says no, and real processes need a real clock"
)]

#[path = "../support/mod.rs"]
mod support;

mod agreement;
mod before;
mod commands;
mod endpoint;
mod file;
mod load;
mod model;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::atomic::{AtomicU32, Ordering};

use support::{Memcached, Slipring, eventually, run_to_end};

/// A directory of the test's own, gone with it.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("reload-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Writes beside the file and renames over it: no reader sees half of it.
fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(&new, path).unwrap();
}

/// The list as users write it.
fn list<'a>(nodes: impl IntoIterator<Item = &'a Memcached>) -> String {
    let names: Vec<String> = nodes.into_iter().map(|node| node.address().to_string()).collect();
    names.join(",")
}

/// What `/ring` says.
struct Ring(serde_json::Value);

impl Ring {
    fn of(slipring: &Slipring) -> Self {
        let (status, body) = slipring.admin("/ring");
        assert_eq!(status, 200, "whatever it says: {body}");
        Self(serde_json::from_str(&body).unwrap())
    }

    fn text(&self, field: &str) -> String {
        self.0[field].as_str().unwrap_or_default().to_owned()
    }

    fn version(&self) -> u64 {
        self.0["version"].as_u64().unwrap()
    }

    fn names(&self) -> BTreeSet<String> {
        let nodes = self.0["nodes"].as_array().unwrap();
        nodes.iter().map(|node| node["name"].as_str().unwrap().to_owned()).collect()
    }

    fn pending(&self) -> Vec<String> {
        let pending = self.0["pending"].as_array().unwrap();
        pending.iter().map(|text| text.as_str().unwrap().to_owned()).collect()
    }
}

/// Waits until `/ring` is as wanted; gives it.
fn until(slipring: &Slipring, what: &str, wanted: impl Fn(&Ring) -> bool) -> Ring {
    let mut last = None;
    eventually(what, || {
        let ring = Ring::of(slipring);
        let done = wanted(&ring);
        last = Some(ring);
        done
    });
    last.unwrap()
}

/// Waits until exactly these are the nodes, and all of them up.
fn until_nodes(slipring: &Slipring, nodes: &[&Memcached]) -> Ring {
    let names: BTreeSet<String> = nodes.iter().map(|node| node.address().to_string()).collect();
    until(slipring, &format!("the ring is {names:?}"), |ring| ring.names() == names);
    slipring.wait_for_states("up", nodes.len());
    Ring::of(slipring)
}

/// Every key can be written and read back, on each node.
fn serves(slipring: &Slipring) {
    let mut client = slipring.client();
    for number in 0..50 {
        let key = format!("serves{number}");
        client.set(&key, &key);
        assert_eq!(client.get(&[&key])[0].data, key.as_bytes());
    }
}

/// `slipring reload`: SIGHUP, and the new list is taken.
fn reload(slipring: &Slipring) {
    let output = try_reload(slipring);
    assert!(output.status.success(), "{output:?}");
}

/// `slipring reload`, whatever comes of it.
fn try_reload(slipring: &Slipring) -> Output {
    run_to_end(&["reload", "--pid", &slipring.pid().to_string()], &[])
}
