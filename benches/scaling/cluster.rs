//! The processes: memcacheds, and sidecars that each read a nodes file of their own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};
use std::{fs, io};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::process::{Process, free_address};
use crate::scratch::Scratch;
use crate::{admin, node};

const NODE_MIB: u32 = 128;
/// A sidecar that does not show an edit after this long has failed.
const SHOW_LIMIT: Duration = Duration::from_secs(30);

/// A memcached; it stops when this goes.
pub(crate) struct Node {
    pub(crate) address: SocketAddr,
    _process: Process,
}

pub(crate) fn nodes(count: usize, scratch: &Scratch) -> io::Result<Vec<Node>> {
    let start = |_| node::start(NODE_MIB, &[], scratch).map(|(process, address)| Node { address, _process: process });
    (0..count).map(start).collect()
}

/// The ring before, as the nodes file has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Before {
    pub(crate) nodes: Vec<SocketAddr>,
    pub(crate) placement: &'static str,
    pub(crate) ending: bool,
}

/// What a nodes file says.
#[derive(Clone, Debug)]
pub(crate) struct Declared {
    pub(crate) nodes: Vec<SocketAddr>,
    pub(crate) before: Option<Before>,
}

fn list(nodes: &[SocketAddr]) -> String {
    nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

impl Declared {
    /// Puts it in place of what the file was, in one step, so that nobody reads half of it.
    pub(crate) fn write(&self, file: &Path) -> io::Result<()> {
        let mut text = format!("{}\n", list(&self.nodes));
        if let Some(before) = &self.before {
            let ending = if before.ending { "ending:" } else { "" };
            text += &format!("before: {ending}{}\nplacement-before: {}\n", list(&before.nodes), before.placement);
        }
        let new = file.with_extension("new");
        fs::write(&new, text)?;
        fs::rename(new, file)
    }

    /// Whether a sidecar says in `/ring` that it has all this, and is connected to all of it.
    fn is_shown_by(&self, ring: &Value) -> bool {
        let are_up = |listed: &Value, wanted: &[SocketAddr]| {
            let Some(listed) = listed.as_array() else { return false };
            listed.len() == wanted.len()
                && listed.iter().zip(wanted).all(|(node, wanted)| {
                    node["name"].as_str() == Some(&*wanted.to_string()) && node["state"].as_str() == Some("up")
                })
        };
        let before = &ring["before"];
        are_up(&ring["nodes"], &self.nodes)
            && match &self.before {
                None => before.is_null(),
                Some(wanted) => {
                    let state = if wanted.ending { "ending" } else { "reading" };
                    before["state"].as_str() == Some(state) && are_up(&before["nodes"], &wanted.nodes)
                }
            }
    }
}

/// A slipring with one worker.
pub(crate) struct Sidecar {
    process: Process,
    pub(crate) address: SocketAddr,
    admin: SocketAddr,
    pub(crate) file: PathBuf,
}

impl Sidecar {
    /// Starts one that has what its file says when this returns.
    pub(crate) fn start(
        program: &Path,
        file: &Path,
        placement: &str,
        declared: &Declared,
        scratch: &Scratch,
    ) -> io::Result<Self> {
        let (address, admin) = (free_address()?, free_address()?);
        let mut command = Command::new(program);
        command.arg("serve").arg("--nodes-file").arg(file);
        command.args(["--placement", placement, "--workers", "1"]);
        command.args(["--listen", &address.to_string(), "--admin-listen", &admin.to_string()]);
        let log = scratch.path().join(format!("slipring-{}.log", address.port()));
        let process = Process::start("slipring", command, address, Some(&log))?;
        let sidecar = Self { process, address, admin, file: file.to_owned() };
        sidecar.until_shown(declared)?;
        Ok(sidecar)
    }

    /// Has it read its file now rather than within a second.
    pub(crate) fn reload(&self) -> io::Result<()> {
        let pid = i32::try_from(self.process.pid()).ok().and_then(Pid::from_raw);
        Ok(kill_process(pid.ok_or_else(|| io::Error::other("no process"))?, Signal::HUP)?)
    }

    /// Waits until it says that it has all this.
    pub(crate) fn until_shown(&self, declared: &Declared) -> io::Result<()> {
        let deadline = Instant::now() + SHOW_LIMIT;
        loop {
            let ring: Value = serde_json::from_str(&admin::page(self.admin, "/ring")?)?;
            if declared.is_shown_by(&ring) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(io::Error::other(format!("a sidecar does not show {declared:?}: {ring}")));
            }
            sleep(Duration::from_millis(10));
        }
    }

    /// Keys that it has found at their old place.
    pub(crate) fn hits_at_old_places(&self) -> io::Result<f64> {
        let metrics = admin::page(self.admin, "/metrics")?;
        Ok(admin::sum(&metrics, "slipring_before_reads_total", "result=\"hit\""))
    }
}
