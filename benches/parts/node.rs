//! A real memcached with one thread.

use std::io;
use std::net::SocketAddr;
use std::process::Command;

use crate::process::{Process, free_address};
use crate::scratch::Scratch;

/// Starts one with so many MiB, and these further arguments, on a free loopback port; it listens when this returns.
pub(crate) fn start(mib: u32, further: &[&str], scratch: &Scratch) -> io::Result<(Process, SocketAddr)> {
    let address = free_address()?;
    Ok((start_by(Command::new("memcached"), address, mib, further, scratch)?, address))
}

/// Starts one by a command that becomes it when the arguments are added, at this address.
pub(crate) fn start_by(
    mut command: Command,
    address: SocketAddr,
    mib: u32,
    further: &[&str],
    scratch: &Scratch,
) -> io::Result<Process> {
    let (host, port) = (address.ip().to_string(), address.port().to_string());
    command.args(["-l", &host, "-p", &port, "-U", "0", "-t", "1", "-m", &mib.to_string()]).args(further);
    if rustix::process::geteuid().is_root() {
        command.args(["-u", "nobody"]);
    }
    let log = scratch.path().join(format!("memcached-{port}.log"));
    Process::start("memcached", command, address, Some(&log))
}
