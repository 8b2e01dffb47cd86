//! A pair of virtual interfaces between two network namespaces, made by `ip`.

use std::io;
use std::process::{Command, Stdio};

/// One interface of a pair.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End<'a> {
    pub(crate) device: &'a str,
    /// With the length of the network that both ends are in.
    pub(crate) address: &'a str,
}

/// Joins this network namespace with the one that `ip` knows by this name or process id, and in which `inside` starts a program.
pub(crate) fn join(netns: &str, inside: &[&str], near: End<'_>, far: End<'_>) -> io::Result<()> {
    run(&["ip", "link", "add", near.device, "type", "veth", "peer", "name", far.device, "netns", netns])?;
    run(&["ip", "address", "add", near.address, "dev", near.device])?;
    run(&["ip", "link", "set", near.device, "up"])?;
    let there = |words: &[&str]| run(&[inside, words].concat());
    there(&["ip", "link", "set", "lo", "up"])?;
    there(&["ip", "address", "add", far.address, "dev", far.device])?;
    there(&["ip", "link", "set", far.device, "up"])?;
    Ok(())
}

/// Runs a program to its end and gives back what it printed; an error has what it complained of.
pub(crate) fn run(words: &[&str]) -> io::Result<String> {
    let [program, arguments @ ..] = words else { return Err(io::Error::other("no program")) };
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| io::Error::new(error.kind(), format!("{program}: {error}")))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("`{}`: {}", words.join(" "), complaint.trim())))
}
