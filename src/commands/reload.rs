//! `slipring reload`: SIGHUP to a running sidecar, and what came of it. The image has neither shell nor `kill`.
//!
//! The sidecar counts at `/ring` how often it has read its source because it was told to: when that has grown, what stands
//! beside it is the outcome. Where its admin endpoint listens it was told as we are, by arguments and environment, which
//! `/proc` shows to who may signal it.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, getpid, kill_process};
use serde::Deserialize;
use tokio::time::{Instant, sleep};

use super::{counted, endpoint};
use crate::config::{self, Command, Config};
use crate::discovery;
use crate::phrase;

/// Longest wait for the outcome. A source that answers late has its own time-out, of 3 s by default.
const PATIENCE: Duration = Duration::from_secs(15);
/// Between two questions.
const PAUSE: Duration = Duration::from_millis(50);

/// Why there is no reload, or none that is known of.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The kernel refused.
    #[error("cannot signal process {}: {}", .0, phrase::of(.1))]
    Refused(i32, Errno),
    /// Another program: SIGHUP may end it.
    #[error("process {0} is {1:?}, not a slipring: nothing was sent")]
    Stranger(i32, String),
    /// It is at work on something else, which SIGHUP would end.
    #[error("process {0} is another command of slipring, not a sidecar: nothing was sent")]
    Command(i32),
    /// None that may be seen.
    #[error("no slipring runs here, or none that this user may see")]
    Nobody,
    /// Several, one a line: the process id, and where it listens.
    #[error("several run here: name one of them with --pid:\n{0}")]
    Several(String),
    /// Its admin endpoint did not answer.
    #[error("process {0} was told to read its nodes again, but only its log has the outcome: {1}: {2}")]
    Unknown(i32, SocketAddr, String),
    /// The new list was refused; what that leaves.
    #[error("{0}; {1}")]
    Unread(String, String),
}

/// What of `/ring` tells the outcome.
#[derive(Debug, Deserialize)]
struct Report {
    /// How often it has read its source because it was told to.
    reloads: u64,
    /// Absent from an older one.
    pid: Option<i32>,
    #[serde(default)]
    draining: bool,
    fingerprint: String,
    source: String,
    version: u64,
    nodes: Vec<serde::de::IgnoredAny>,
    #[serde(default)]
    pending: Vec<String>,
    last_error: Option<String>,
    before: Option<Before>,
    changes: Vec<Change>,
}

/// The ring before.
#[derive(Debug, Deserialize)]
struct Before {
    state: String,
    #[serde(default)]
    vanished: bool,
    moved: f64,
}

#[derive(Debug, Deserialize)]
struct Change {
    version: u64,
    moved: f64,
}

/// Sends SIGHUP to the sidecar with this process id, or to the only one there is, and waits for the outcome. Returns it in
/// a line.
///
/// # Errors
/// When there is no such sidecar, when it belongs to someone else, when its source gave no list, or when it does not tell.
pub async fn run(pid: Option<i32>) -> Result<String, ReloadError> {
    let pid = match pid {
        Some(pid) => pid,
        None => the_only_one().await?,
    };
    let target = Pid::from_raw(pid).ok_or(ReloadError::Refused(pid, Errno::SRCH))?;
    match name(pid) {
        None => return Err(ReloadError::Refused(pid, Errno::SRCH)),
        Some(name) if !is_slipring(&name) => return Err(ReloadError::Stranger(pid, name)),
        Some(_) if !is_sidecar(pid) => return Err(ReloadError::Command(pid)),
        Some(_) => {}
    }
    let send = || kill_process(target, Signal::HUP).map_err(|error| ReloadError::Refused(pid, error));
    let Some(admin) = admin(pid) else {
        send()?;
        return Ok(format!(
            "process {pid} reads its nodes again; without an admin endpoint only its log tells the outcome"
        ));
    };
    let unknown = |problem: String| ReloadError::Unknown(pid, admin, problem);
    let before = ask(admin).await;
    send()?;
    let before = before.map_err(unknown)?;
    // Of two that are told the same address the second is without an endpoint.
    if let Some(other) = before.pid.filter(|other| *other != inner(pid)) {
        return Err(unknown(format!("another slipring, process {other}, listens there")));
    }
    let began_at = Instant::now();
    let after = loop {
        match ask(admin).await {
            Ok(report) if report.reloads > before.reloads => break report,
            Ok(_) if began_at.elapsed() < PATIENCE => sleep(PAUSE).await,
            Ok(_) => return Err(unknown(format!("no new answer of its source within {} s", PATIENCE.as_secs()))),
            Err(problem) => return Err(unknown(problem)),
        }
    };
    match after.last_error {
        Some(ref problem) => Err(ReloadError::Unread(discovery::blamed(&after.source, problem), after.left())),
        None => Ok(after.outcome(before.version)),
    }
}

/// The only sidecar that runs here, besides those that serve their last clients: they need no nodes any more.
async fn the_only_one() -> Result<i32, ReloadError> {
    let own = getpid().as_raw_nonzero().get();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|process| process.file_name().to_str()?.parse::<i32>().ok());
    let mut found: Vec<i32> = pids.filter(|pid| *pid != own && is_sidecar(*pid)).collect();
    found.sort_unstable();
    if found.len() > 1 {
        found = without_draining(found).await;
    }
    match found.as_slice() {
        [] => Err(ReloadError::Nobody),
        [pid] => Ok(*pid),
        several => Err(ReloadError::Several(several.iter().map(|pid| told(*pid)).collect::<Vec<_>>().join("\n"))),
    }
}

/// Those that are not known to drain; all, where all drain. They are asked at once, for one may not answer.
async fn without_draining(pids: Vec<i32>) -> Vec<i32> {
    let asked: Vec<_> = pids.iter().map(|pid| tokio::spawn(drains(*pid))).collect();
    let mut left = Vec::new();
    for (pid, asked) in pids.iter().zip(asked) {
        if !asked.await.unwrap_or(false) {
            left.push(*pid);
        }
    }
    if left.is_empty() { pids } else { left }
}

/// Whether a sidecar says that it drains.
async fn drains(pid: i32) -> bool {
    let Some(admin) = admin(pid) else { return false };
    ask(admin).await.is_ok_and(|report| report.draining && report.pid == Some(inner(pid)))
}

/// A sidecar as its user knows it.
fn told(pid: i32) -> String {
    described(pid, parsed(pid).as_ref())
}

fn described(pid: i32, config: Option<&Config>) -> String {
    let Some(Config { listen, admin_listen, instance, .. }) = config else {
        return format!("  {pid}: its options cannot be read by this user");
    };
    let joined = |addresses: Vec<String>| if addresses.is_empty() { "off".to_owned() } else { addresses.join(",") };
    let (clients, admin) = (listen.iter().map(ToString::to_string), admin_listen.iter().map(ToString::to_string));
    let name = instance.as_ref().map(|name| format!(" {name},")).unwrap_or_default();
    format!("  {pid}:{name} --listen {}, --admin-listen {}", joined(clients.collect()), joined(admin.collect()))
}

/// Whether a process is a slipring that serves.
fn is_sidecar(pid: i32) -> bool {
    let serves = |command: &Command| matches!(command, Command::Serve { .. } | Command::Dev { .. });
    name(pid).is_some_and(|name| is_slipring(&name)) && parsed(pid).is_none_or(|config| serves(&config.command))
}

/// The process id as the process sees it itself, which is another one in a namespace of its own.
fn inner(pid: i32) -> i32 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    ids.and_then(|ids| ids.split_whitespace().next_back()?.parse().ok()).unwrap_or(pid)
}

/// The name of a process' program, at most 15 bytes of it; none for one that has ended and is only not waited for yet.
fn name(pid: i32) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    field("Name:").filter(|_| field("State:").is_some_and(|state| !state.starts_with('Z'))).map(str::to_owned)
}

fn is_slipring(name: &str) -> bool {
    name.starts_with("slipring")
}

/// What a sidecar was told, if it may be seen and can be understood.
fn parsed(pid: i32) -> Option<Config> {
    let read = |file: &str| fs::read(Path::new("/proc").join(pid.to_string()).join(file)).ok();
    let words = |bytes: &[u8]| -> Vec<OsString> {
        let bytes = bytes.strip_suffix(b"\0").unwrap_or(bytes);
        bytes.split(|byte| *byte == 0).map(|word| OsStr::from_bytes(word).to_owned()).collect()
    };
    let variables: HashMap<String, String> = words(&read("environ")?)
        .iter()
        .filter_map(|word| {
            word.to_string_lossy().split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()))
        })
        .collect();
    config::parse(words(&read("cmdline")?), &|name| variables.get(name).cloned()).ok()
}

/// Where its admin endpoint can be reached from here, if it has one.
fn admin(pid: i32) -> Option<SocketAddr> {
    let listens = match parsed(pid) {
        Some(config) => config.admin_listen.first().copied()?,
        // It was told by one whose words may not be seen.
        None => (Ipv4Addr::UNSPECIFIED, config::ADMIN_PORT).into(),
    };
    Some(endpoint::reachable(listens))
}

/// Asks for `/ring`.
async fn ask(admin: SocketAddr) -> Result<Report, String> {
    let body = endpoint::get(admin, "/ring").await?;
    serde_json::from_slice(&body).map_err(|_| endpoint::STRANGER.to_owned())
}

// === impl Report ===

impl Report {
    fn ring(&self) -> String {
        // The ring without a node has a fingerprint, too.
        if self.nodes.is_empty() {
            return "no list of nodes has been read yet".to_owned();
        }
        format!("{}, ring {}", counted(self.nodes.len(), "node"), self.fingerprint)
    }

    /// What there is after a list that was refused.
    fn left(&self) -> String {
        let kept = if self.nodes.is_empty() { "" } else { "the ring stays as it is: " };
        format!("{kept}{}", self.ring())
    }

    /// What the ring is now, and what that changed since a version of it.
    fn outcome(&self, since: u64) -> String {
        let moved: Vec<String> = self
            .changes
            .iter()
            .rev()
            .filter(|change| change.version > since)
            .map(|change| format!("{:.1} % of the keys moved", 100.0 * change.moved))
            .collect();
        let moved = if moved.is_empty() { "nothing changed".to_owned() } else { moved.join(", then ") };
        let mut line = if self.nodes.is_empty() { self.ring() } else { format!("{}, {moved}", self.ring()) };
        if let Some(before) = &self.before {
            line.push('\n');
            line.push_str(&before.outcome());
        }
        for pending in &self.pending {
            line.push('\n');
            line.push_str(pending);
        }
        line
    }
}

// === impl Before ===

impl Before {
    fn outcome(&self) -> String {
        let (state, moved) = (&self.state, 100.0 * self.moved);
        match self.vanished {
            false => format!("ring before: {state}, {moved:.1} % of the keys have an old place"),
            true => format!(
                "ring before: vanished without `ending:`; old places, which {moved:.1} % of the keys have, are no longer read, \
                 and invalidated only until five minutes after it vanished: put it back, and end it by `ending:` later"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(version: u64, changes: &str) -> Report {
        let json = format!(
            r#"{{"reloads":1,"fingerprint":"a1b2c3d4","source":"list","version":{version},"nodes":[{{"name":"a"}},{{"name":"b"}},{{"name":"c"}}],
            "changes":[{changes}],"status":"healthy"}}"#
        );
        serde_json::from_str(&json).unwrap()
    }

    #[test]
    fn the_outcome_is_the_ring_and_what_moved() {
        let first = r#"{"version":1,"moved":0.0}"#;
        assert_eq!(report(1, first).outcome(1), "3 nodes, ring a1b2c3d4, nothing changed");
        let second = r#"{"version":2,"moved":0.25},{"version":1,"moved":0.0}"#;
        assert_eq!(report(2, second).outcome(1), "3 nodes, ring a1b2c3d4, 25.0 % of the keys moved");
        let told = |vanished| {
            let before = Some(Before { state: "ending".to_owned(), vanished, moved: 0.25 });
            Report { before, ..report(2, "") }.outcome(1)
        };
        assert_eq!(
            told(false),
            "3 nodes, ring a1b2c3d4, nothing changed\nring before: ending, 25.0 % of the keys have an old place"
        );
        let vanished = told(true);
        assert!(
            vanished.contains("\nring before: vanished without `ending:`; ") && !vanished.contains("before: ending")
        );
    }

    #[test]
    fn without_a_list_there_is_no_ring_to_name() {
        let none = Report { nodes: Vec::new(), fingerprint: "00000000".to_owned(), ..report(0, "") };
        assert_eq!(none.outcome(0), "no list of nodes has been read yet");
        assert_eq!(none.left(), "no list of nodes has been read yet");
        assert_eq!(report(1, "").left(), "the ring stays as it is: 3 nodes, ring a1b2c3d4");
    }

    #[test]
    fn a_sidecar_is_named_by_where_it_listens() {
        let config = |line: &str| config::parse(line.split(' ').map(OsString::from), &|_| None).unwrap();
        let one = config("slipring --nodes a --listen 127.0.0.1:1,unix:/a --admin-listen 127.0.0.1:2 --instance shop");
        assert_eq!(described(7, Some(&one)), "  7: shop, --listen 127.0.0.1:1,unix:/a, --admin-listen 127.0.0.1:2");
        let other = described(8, Some(&config("slipring dev --admin-listen off")));
        assert!(other.starts_with("  8: --listen localhost") && other.ends_with(", --admin-listen off"), "{other}");
        assert_eq!(described(9, None), "  9: its options cannot be read by this user");
    }

    #[test]
    fn programs_are_told_apart_by_name() {
        // The tests of slipring are a program of that name, too.
        let own = getpid().as_raw_nonzero().get();
        assert!(name(own).is_some_and(|name| is_slipring(&name)), "{:?}", name(own));
        assert_eq!(name(i32::MAX), None);
        assert!(!is_slipring("memcached") && !is_slipring("pause"));
    }
}
