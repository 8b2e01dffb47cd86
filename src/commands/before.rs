//! What `slipring check` says of the ring before: is there anything to hand off, are its nodes there, and does it still give
//! anything? The last is known by the sidecar that runs beside it, if one does.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::SystemTime;

use serde::Deserialize;

use super::check::{self, Finding};
use super::{counted, endpoint};
use crate::discovery::Declared;
use crate::routing::{Phase, Topology};
use crate::time::unix_seconds;

/// One that gave nothing for so long is to be taken away, in seconds.
const IDLE: u64 = 86_400;

/// The counter of reads that an old place has answered.
const READS: &str = "slipring_before_reads_total";

/// What a sidecar tells of the ring before.
#[derive(Debug, Default)]
pub struct Told {
    before: Option<Report>,
    /// Reads that old places have answered, since its start; unknown where it does not count them.
    hits: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct Ring {
    before: Option<Report>,
}

#[derive(Debug, Deserialize)]
struct Report {
    fingerprint: String,
    since: u64,
}

/// Asks the sidecar whose admin endpoint listens there.
///
/// # Errors
/// One line with the address and its option, when there is none.
pub async fn ask(admin: SocketAddr) -> Result<Told, String> {
    let admin = endpoint::reachable(admin);
    let told = told(admin).await;
    told.map_err(|problem| format!("no sidecar answers at {admin}, the address of --admin-listen: {problem}"))
}

async fn told(admin: SocketAddr) -> Result<Told, String> {
    let ring = endpoint::get(admin, "/ring").await?;
    let Ring { before } = serde_json::from_slice(&ring).map_err(|_| endpoint::STRANGER.to_owned())?;
    let metrics = endpoint::get(admin, "/metrics").await?;
    Ok(Told { before, hits: hits(&String::from_utf8_lossy(&metrics)) })
}

fn hits(metrics: &str) -> Option<u64> {
    let is_hit = |line: &&str| line.starts_with(READS) && line.contains("result=\"hit\"");
    let counts = metrics.lines().filter(is_hit).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
    counts.map(|count| count as u64).reduce(|one, other| one + other)
}

/// The ring before for people: what it is, its nodes that the ring has not, and what is to be warned of.
#[must_use]
pub fn report(
    declared: &Declared,
    (before, now): (&Topology, &Topology),
    findings: &[Finding],
    told: &Result<Told, String>,
) -> String {
    let phase = if declared.phase == Phase::Reading { "reading" } else { "ending" };
    let moved = 100.0 * before.moved(now);
    let mut text =
        format!("\nring before: {} by {}, {phase}; ", counted(before.nodes().len(), "node"), declared.placement);
    let _ = writeln!(text, "{moved:.1} % of the keys have an old place");
    if !findings.is_empty() {
        text.push_str(&check::table(findings));
    }
    let failed = findings.iter().filter(|finding| finding.fault.is_some()).count();
    for warning in warnings(before, now, findings, told, unix_seconds(SystemTime::now())) {
        let _ = writeln!(text, "warning: {warning}");
    }
    if failed > 0 {
        let all = counted(findings.len(), "node");
        let _ = writeln!(
            text,
            "failed: {failed} of {all} that only the ring before has; the exit code tells of the nodes of the ring alone"
        );
    }
    text
}

fn warnings(
    before: &Topology,
    now: &Topology,
    findings: &[Finding],
    told: &Result<Told, String>,
    unix: u64,
) -> Vec<String> {
    let mut warnings = Vec::new();
    if before.fingerprint() == now.fingerprint() {
        warnings.push("the ring before is the same as the ring in use: no key has an old place (yet)".to_owned());
    }
    for finding in findings.iter().filter(|finding| finding.fault.is_some()) {
        warnings.push(format!(
            "{} of the ring before does not answer: reads of its moved keys miss, and while it is silent writes of them fail",
            finding.name
        ));
    }
    match told {
        Err(problem) => warnings.push(format!(
            "cannot tell whether reads still hit old places ({problem}): look at {READS} of each sidecar"
        )),
        Ok(Told { before: Some(report), hits: Some(0) })
            if report.fingerprint == before.name() && report.since + IDLE <= unix =>
        {
            let hours = (unix - report.since) / 3600;
            warnings.push(format!(
                "no read has hit an old place for {hours} h: you can remove the ring before (ending: first)"
            ));
        }
        Ok(_) => {}
    }
    warnings
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::commands::check::Fault;
    use crate::routing::Node;

    fn topology(hosts: &[&str]) -> Topology {
        Topology::new(1, hosts.iter().map(|host| Arc::new(Node::new(host, 1, 1))).collect()).unwrap()
    }

    #[test]
    fn hits_are_summed_and_may_be_unknown() {
        assert_eq!(hits("slipring_before_reads_total{result=\"miss\"} 3\nslipring_ring_nodes 1\n"), None);
        let text = "slipring_before_reads_total{result=\"hit\"} 3\nslipring_before_reads_total{result=\"miss\"} 9\n";
        assert_eq!(hits(text), Some(3));
    }

    #[test]
    fn what_is_to_be_taken_away_or_does_not_answer_is_warned_of() {
        let (before, now) = (topology(&["a", "b"]), topology(&["a", "b", "c"]));
        let told = |since, hits| {
            let report = Report { fingerprint: before.name(), since };
            Ok(Told { before: Some(report), hits })
        };
        let warned = |now: &Topology, findings: &[Finding], told: Result<Told, String>| {
            warnings(&before, now, findings, &told, 200_000)
        };
        let none: [String; 0] = [];
        assert_eq!(warned(&now, &[], told(0, Some(1))), none);
        assert_eq!(warned(&now, &[], told(150_000, Some(0))), none, "not for a day");
        assert_eq!(warned(&now, &[], told(0, None)), none, "not known");
        assert_eq!(warned(&now, &[], Ok(Told::default())), none, "the sidecar has none yet");
        assert!(warned(&now, &[], told(0, Some(0)))[0].starts_with("no read has hit an old place for 55 h"));
        assert!(warned(&topology(&["b", "a"]), &[], told(0, Some(1)))[0].contains("no key has an old place (yet)"));
        assert!(warned(&now, &[], Err("no answer".to_owned()))[0].contains(READS));
        let (address, version, security) = (None, None, None);
        let dead = Finding { name: "b:1".into(), address, version, security, fault: Some(Fault::Refused) };
        assert!(warned(&now, &[dead], told(0, Some(1)))[0].starts_with("b:1 of the ring before does not answer"));
    }
}
