//! A real memcached with one thread.

use std::io;
use std::net::SocketAddr;
use std::process::Command;

use crate::process::{Process, free_address};
use crate::scratch::Scratch;

/// Starts one with so many MiB, and these further arguments, on a free loopback port; it listens when this returns.
pub(crate) fn start(mib: u32, further: &[&str], scratch: &Scratch) -> io::Result<(Process, SocketAddr)> {
    let address = free_address()?;
    let mut command = Command::new("memcached");
    command.args(["-l", "127.0.0.1", "-p", &address.port().to_string(), "-U", "0"]).args([
        "-t",
        "1",
        "-m",
        &mib.to_string(),
    ]);
    command.args(further);
    if rustix::process::geteuid().is_root() {
        command.args(["-u", "nobody"]);
    }
    let log = scratch.path().join(format!("memcached-{}.log", address.port()));
    Ok((Process::start("memcached", command, address, Some(&log))?, address))
}
