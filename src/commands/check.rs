//! `slipring check`: is each node there, is it a memcached, does it store and give back?

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::Duration;

use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use crate::routing::Node;

/// Longest wait for each step of the check of one node.
const PATIENCE: Duration = Duration::from_secs(2);
/// Most bytes of one answer that are looked at.
const ANSWER: usize = 4096;

/// What was found of one node.
#[derive(Debug)]
pub struct Finding {
    /// The node's identity.
    pub name: String,
    /// Where it was dialled, as far as that is known.
    pub address: Option<SocketAddr>,
    /// Its `VERSION`, when it told one.
    pub version: Option<String>,
    /// What is wrong, if anything.
    pub fault: Option<Fault>,
}

/// What is wrong with a node.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// Its name has no address.
    #[error("the name cannot be resolved: {0}")]
    Unresolved(io::Error),
    /// Nobody listens there.
    #[error("connection refused")]
    Refused,
    /// No answer in time, to the connection attempt or to a request.
    #[error("no answer within {} s", PATIENCE.as_secs())]
    TimedOut,
    /// Anything else that the network says.
    #[error("{0}")]
    Failed(io::Error),
    /// It talks, but not as memcached does.
    #[error("unexpected answer {0:?}")]
    Strange(String),
}

impl Fault {
    /// What it usually means, for whoever has to mend it.
    const fn hint(&self) -> &'static str {
        match self {
            Self::Unresolved(_) => "wrong name, or no headless service of that name in this namespace",
            Self::Refused => "wrong port, or the node is restarting: nothing listens there",
            Self::TimedOut => {
                "packets are dropped: network not peered with this cluster, a NetworkPolicy or a firewall, or an \
                 address that is no longer a node"
            }
            Self::Failed(_) => "the network between this pod and the node",
            Self::Strange(_) => "something else listens there, or the node is full (maxconns) or read-only",
        }
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::ConnectionRefused => Self::Refused,
            ErrorKind::TimedOut => Self::TimedOut,
            _ => Self::Failed(error),
        }
    }
}

/// The arguments for `slipring check` without a word more, beside a sidecar that was told its nodes by
/// flags: the sidecar's own. `cmdline` is its `/proc/PID/cmdline`; its environment we share anyway.
#[must_use]
pub fn sidecars_own(args: &[OsString], cmdline: &[u8]) -> Option<Vec<OsString>> {
    let [program, command] = args else { return None };
    let mut words = cmdline.split(|byte| *byte == 0).map(|word| OsStr::from_bytes(word).to_owned());
    let is_slipring = Path::new(&words.next()?).file_name()? == "slipring";
    let options = words.filter(|word| word != "serve" && !word.is_empty());
    (command == "check" && is_slipring).then(|| [program.clone(), command.clone()].into_iter().chain(options).collect())
}

/// Checks all nodes at once, in the order given.
pub async fn run(nodes: &[Node]) -> Vec<Finding> {
    let tasks: Vec<_> = nodes.iter().cloned().map(|node| tokio::spawn(check(node))).collect();
    let mut findings = Vec::with_capacity(tasks.len());
    for task in tasks {
        if let Ok(finding) = task.await {
            findings.push(finding);
        }
    }
    findings
}

async fn check(node: Node) -> Finding {
    let mut finding = Finding { name: node.name.to_string(), address: None, version: None, fault: None };
    finding.fault = probe(&node, &mut finding.address, &mut finding.version).await.err();
    finding
}

async fn probe(node: &Node, address: &mut Option<SocketAddr>, version: &mut Option<String>) -> Result<(), Fault> {
    let target = lookup_host(node.address())
        .await
        .and_then(|mut found| found.next().ok_or_else(|| io::Error::other("no address")))
        .map_err(Fault::Unresolved)?;
    *address = Some(target);
    let stream = timeout(PATIENCE, TcpStream::connect(target)).await.map_err(|_| Fault::TimedOut)??;
    let told = ask(&stream, "version\r\n", |answer| answer.ends_with("\r\n")).await?;
    let Some(number) = told.strip_prefix("VERSION ") else { return Err(Fault::Strange(first_line(&told))) };
    *version = Some(number.trim_end().to_owned());
    // A key of our own that expires by itself, in case the delete is lost.
    let key = format!("slipring:check:{}", std::process::id());
    let stored = ask(&stream, &format!("set {key} 0 60 5\r\nhello\r\n"), |answer| answer.ends_with("\r\n")).await?;
    if stored != "STORED\r\n" {
        return Err(Fault::Strange(first_line(&stored)));
    }
    let ended = |answer: &str| answer.ends_with("END\r\n") || answer.contains("ERROR");
    let got = ask(&stream, &format!("get {key}\r\n"), ended).await?;
    if got != format!("VALUE {key} 0 5\r\nhello\r\nEND\r\n") {
        return Err(Fault::Strange(first_line(&got)));
    }
    ask(&stream, &format!("delete {key}\r\n"), |answer| answer.ends_with("\r\n")).await?;
    Ok(())
}

/// Sends a request and reads until its answer is whole.
async fn ask(stream: &TcpStream, request: &str, whole: impl Fn(&str) -> bool) -> Result<String, Fault> {
    let exchange = async {
        let mut rest = request.as_bytes();
        while !rest.is_empty() {
            stream.writable().await?;
            match stream.try_write(rest) {
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        let mut answer = Vec::new();
        let mut buffer = [0; 512];
        loop {
            stream.readable().await?;
            match stream.try_read(&mut buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(read) => answer.extend_from_slice(buffer.get(..read).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            let text = String::from_utf8_lossy(&answer);
            if whole(&text) || answer.len() > ANSWER {
                return Ok(text.into_owned());
            }
        }
    };
    Ok(timeout(PATIENCE, exchange).await.map_err(|_| Fault::TimedOut)??)
}

fn first_line(answer: &str) -> String {
    answer.lines().next().unwrap_or_default().to_owned()
}

/// The findings as a table for people, and a hint for each fault.
#[must_use]
pub fn table(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.name.len()).max().unwrap_or(0).max(4);
    let mut text = format!("{:width$}  {:24}  {:10}  RESULT\n", "NODE", "ADDRESS", "VERSION");
    for finding in findings {
        let address = finding.address.map_or_else(|| "-".to_owned(), |address| address.to_string());
        let version = finding.version.as_deref().unwrap_or("-");
        let result = finding.fault.as_ref().map_or_else(|| "ok".to_owned(), ToString::to_string);
        let _ = writeln!(text, "{:width$}  {address:24}  {version:10}  {result}", finding.name);
        if let Some(fault) = &finding.fault {
            let _ = writeln!(text, "{:width$}  usually: {}", "", fault.hint());
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_check_takes_the_arguments_of_the_sidecar_and_nobody_elses() {
        let args = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        let own = |words: &[&str], cmdline: &str| sidecars_own(&args(words), cmdline.as_bytes());
        let sidecar = "/usr/bin/slipring\0serve\0--nodes\0a,b\0";
        assert_eq!(own(&["s", "check"], sidecar), Some(args(&["s", "check", "--nodes", "a,b"])));
        assert_eq!(own(&["s", "check"], "slipring\0--nodes=a\0"), Some(args(&["s", "check", "--nodes=a"])));
        assert_eq!(own(&["s", "check"], "/sbin/init\0--nodes\0a\0"), None);
        assert_eq!(own(&["s", "check"], ""), None);
        assert_eq!(own(&["s", "locate"], sidecar), None);
        assert_eq!(own(&["s", "check", "--nodes"], sidecar), None);
    }

    #[test]
    fn the_table_says_what_is_wrong_and_what_it_usually_means() {
        let findings = [
            Finding {
                name: "10.0.0.2:11211".into(),
                address: Some(([10, 0, 0, 2], 11211).into()),
                version: Some("1.6.18".into()),
                fault: None,
            },
            Finding { name: "cache:1".into(), address: None, version: None, fault: Some(Fault::TimedOut) },
        ];
        let text = table(&findings);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].starts_with("10.0.0.2:11211  10.0.0.2:11211") && lines[1].ends_with("ok"), "{text}");
        assert!(lines[2].contains("no answer within 2 s"), "{text}");
        assert!(lines[3].contains("NetworkPolicy"), "{text}");
    }
}
