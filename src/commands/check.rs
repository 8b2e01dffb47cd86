//! `slipring check`: is each node there, is it a memcached, does it store and give back?

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout};

use crate::metrics::{Cause, Span, Unsecured};
use crate::phrase;
use crate::routing::Node;
use crate::secured::{self, Secured, Security, Stream};

/// How long a node is waited for, per step of its check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// Until the connection is made.
    pub connect: Duration,
    /// Until a request is answered.
    pub answer: Duration,
}

impl Default for Patience {
    /// A person waits for it, and a node that is slow to answer is to be told from one that is gone.
    fn default() -> Self {
        Self { connect: Duration::from_secs(2), answer: Duration::from_secs(2) }
    }
}

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
    /// What TLS has agreed on with it.
    pub security: Option<Security>,
    /// What is wrong, if anything.
    pub fault: Option<Fault>,
}

/// What is wrong with a node.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// Its name has no address, or nobody says which, in the phrase that the sidecar has for it.
    #[error("{0}")]
    Unresolved(String),
    /// Nobody listens there.
    #[error("connection refused")]
    Refused,
    /// No connection in time.
    #[error("no connection within {}", Span(*.0))]
    TimedOut(Duration),
    /// A connection, and no answer in time.
    #[error("connected, but no answer within {}", Span(*.0))]
    Silent(Duration),
    /// Anything else that the network says.
    #[error("{}", phrase::of(.0))]
    Failed(io::Error),
    /// It hung up when it was asked.
    #[error("closed the connection without an answer")]
    HungUp,
    /// It talks, but not as memcached does: the first line, printable.
    #[error("unexpected answer \"{0}\"")]
    Strange(Box<str>),
    /// It talks TLS.
    #[error("TLS expected")]
    Tls,
    /// It wants to be logged in to.
    #[error("authentication wanted")]
    Authentication,
    /// It has none, and took user and password for a value.
    #[error("no authentication: it kept user and password as a value, which anyone can get")]
    NoAuthentication,
    /// It has no room for one more connection.
    #[error("too many open connections")]
    Full,
    /// It is a slipring of this machine, most likely the one that was to use it as a node.
    #[error("is a slipring of this machine, not a memcached")]
    Sidecar,
    /// TLS, or the log-in, failed.
    #[error("{0}")]
    Unsecured(Unsecured),
}

impl Fault {
    /// What it usually means, for whoever has to mend it.
    fn hint(&self) -> &'static str {
        match self {
            Self::Unresolved(why) if why == phrase::NAME_UNANSWERED => {
                "the name servers of /etc/resolv.conf cannot be reached, or have no answer in time"
            }
            Self::Unresolved(_) => "wrong name, or no headless service of that name in this namespace",
            Self::Refused => "wrong port, or the node is restarting: nothing listens there",
            Self::TimedOut(_) => {
                "packets are dropped: network not peered with this cluster, a NetworkPolicy or a firewall, or an \
                 address that is no longer a node"
            }
            Self::Silent(_) => "the node hangs or is overloaded, or something else listens there",
            Self::Failed(_) => "the network between this pod and the node",
            Self::HungUp => {
                "something else listens there, or a node that takes only TLS (then: --node-tls) or, with SASL \
                 authentication, only the binary protocol, which slipring does not speak to nodes"
            }
            Self::Strange(_) => "something else listens there, or the node is full (out of memory) or read-only",
            Self::Tls => {
                "TLS (in-transit encryption) is on at the node, which --node-tls speaks, or something else listens there"
            }
            Self::Authentication => {
                "the node has authentication (`memcached -Y`): --node-auth-file FILE with `user:password` logs in"
            }
            Self::NoAuthentication => {
                "start the node with authentication (`memcached -Y`), or leave --node-auth-file out; this check has deleted \
                 the value (key `auth`), a sidecar with that file stores it again"
            }
            Self::Sidecar => {
                "an application's own variable names the sidecar, and was taken for the list of nodes: name the memcached \
                 nodes"
            }
            Self::Unsecured(why) => why.hint(),
            Self::Full => {
                "the node has as many connections as it may (`memcached -c`, `listen_disabled_num` of its `stats`): raise \
                 that, or let fewer clients connect"
            }
        }
    }

    /// What follows from an answer that is not the one that was expected.
    fn answered(answer: &[u8]) -> Self {
        match Cause::answered(answer) {
            Cause::Tls => Self::Tls,
            Cause::Authentication => Self::Authentication,
            Cause::Full => Self::Full,
            Cause::Answered(line) => Self::Strange(line),
            other => Self::Strange(other.to_string().into()),
        }
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::ConnectionRefused => Self::Refused,
            ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Self::HungUp,
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
pub async fn run(nodes: &[Node], secured: &Secured, patience: Patience) -> Vec<Finding> {
    let check = |node: Node| tokio::spawn(check(node, secured.clone(), patience));
    let tasks: Vec<_> = nodes.iter().cloned().map(check).collect();
    let mut findings = Vec::with_capacity(tasks.len());
    for task in tasks {
        if let Ok(finding) = task.await {
            findings.push(finding);
        }
    }
    findings
}

async fn check(node: Node, secured: Secured, patience: Patience) -> Finding {
    let name = node.name.to_string();
    let mut finding = Finding { name, address: None, version: None, security: None, fault: None };
    finding.fault = probe(&node, &secured, patience, &mut finding).await.err();
    finding
}

async fn probe(node: &Node, secured: &Secured, patience: Patience, finding: &mut Finding) -> Result<(), Fault> {
    let target = lookup_host(node.address())
        .await
        .and_then(|mut found| found.next().ok_or_else(|| io::Error::other(phrase::NAME_NOT_FOUND)))
        .map_err(|error| Fault::Unresolved(phrase::of(&error)))?;
    finding.address = Some(target);
    let connected = timeout(patience.connect, TcpStream::connect(target)).await;
    let stream = connected.map_err(|_| Fault::TimedOut(patience.connect))??;
    let ends_at = Instant::now() + patience.connect;
    let opened = secured.open(stream, (node.certificate_name(), None), ends_at, patience.connect).await;
    let mut stream = opened.map_err(Fault::Unsecured)?;
    finding.security = stream.security();
    let mut ask = async |request: &str, whole: &(dyn Fn(&[u8]) -> bool + Sync)| {
        ask(&mut stream, patience.answer, request, whole).await
    };
    let told = ask("version\r\n", &|answer| answer.ends_with(b"\r\n")).await?;
    let number = told.strip_prefix(b"VERSION ").ok_or_else(|| Fault::answered(&told))?;
    finding.version = Some(String::from_utf8_lossy(number).trim_end().to_owned());
    // A key of our own that expires by itself, in case the delete is lost.
    let key = format!("slipring:check:{}", std::process::id());
    let stored = ask(&format!("set {key} 0 60 5\r\nhello\r\n"), &|answer| answer.ends_with(b"\r\n")).await?;
    if stored != b"STORED\r\n" {
        return Err(Fault::answered(&stored));
    }
    let ended = |answer: &[u8]| answer.ends_with(b"END\r\n") || memchr::memmem::find(answer, b"ERROR").is_some();
    let got = ask(&format!("get {key}\r\n"), &ended).await?;
    if got != format!("VALUE {key} 0 5\r\nhello\r\nEND\r\n").as_bytes() {
        return Err(Fault::answered(&got));
    }
    ask(&format!("delete {key}\r\n"), &|answer| answer.ends_with(b"\r\n")).await?;
    if secured.logs_in() && secured.is_login(&ask("get auth\r\n", &ended).await?) {
        ask("delete auth\r\n", &|answer| answer.ends_with(b"\r\n")).await?;
        return Err(Fault::NoAuthentication);
    }
    // What no memcached knows.
    if target.ip().is_loopback() && ask("stats ring\r\n", &ended).await?.starts_with(b"STAT ") {
        return Err(Fault::Sidecar);
    }
    Ok(())
}

/// Sends a request and reads until its answer is whole, or what came of it when the node hangs up or says nothing more.
async fn ask(
    stream: &mut Stream,
    limit: Duration,
    request: &str,
    whole: &(dyn Fn(&[u8]) -> bool + Sync),
) -> Result<Vec<u8>, Fault> {
    let mut answer = Vec::new();
    let exchange = async {
        let sent = async {
            stream.write_all(request.as_bytes()).await?;
            stream.flush().await
        };
        match sent.await {
            Ok(()) => {}
            // It may have said something before it hung up.
            Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {}
            Err(error) => return Err(error),
        }
        let mut buffer = [0; 512];
        loop {
            match stream.read(&mut buffer).await? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                read => answer.extend_from_slice(buffer.get(..read).unwrap_or_default()),
            }
            if whole(&answer) || answer.len() > ANSWER {
                return Ok(());
            }
        }
    };
    let ended = timeout(limit, exchange).await;
    match ended {
        // A whole answer, or at least the beginning of one, which says more than how it ended.
        Ok(Ok(())) => Ok(answer),
        _ if !answer.is_empty() => Ok(answer),
        // Of TLS 1.3 the node says only now that it does not want us.
        Ok(Err(error)) => Err(secured::unsecured(&error).map_or_else(|| error.into(), Fault::Unsecured)),
        Err(_) => Err(Fault::Silent(limit)),
    }
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
        if let Some(Security { version, cipher, certificate }) = &finding.security {
            let _ = writeln!(text, "{:width$}  {version} {cipher}", "");
            if let Some(certificate) = certificate {
                let (subject, expiry) = (&certificate.subject, certificate.expiry());
                let _ = writeln!(text, "{:width$}  certificate: {subject}, expires {expiry}", "");
            }
        }
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
                security: None,
                fault: None,
            },
            Finding {
                name: "cache:1".into(),
                address: None,
                version: None,
                security: None,
                fault: Some(Fault::TimedOut(Duration::from_millis(250))),
            },
        ];
        let text = table(&findings);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].starts_with("10.0.0.2:11211  10.0.0.2:11211") && lines[1].ends_with("ok"), "{text}");
        assert!(lines[2].contains("no connection within 250 ms"), "{text}");
        assert!(lines[3].contains("NetworkPolicy"), "{text}");
    }

    #[test]
    fn an_unexpected_answer_has_a_hint_of_its_own() {
        for (answer, fault, hint) in [
            (
                &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
                "unexpected answer \"HTTP/1.1 400 Bad Request\"",
                "something else",
            ),
            (b"\x15\x03\x01\x00\x02\x02\x46", "TLS expected", "in-transit encryption"),
            (b"CLIENT_ERROR unauthenticated\r\n", "authentication wanted", "--node-auth-file"),
            (b"ERROR Too many open connections\r\n", "too many open connections", "memcached -c"),
        ] {
            let found = Fault::answered(answer);
            assert_eq!(found.to_string(), fault);
            assert!(found.hint().contains(hint), "{}", found.hint());
        }
    }
}
