//! What `slipring check` says of the ring before: is there anything to hand off, are its nodes there, and does it still give
//! anything? The last is known by the sidecar that runs beside it, if one does; and what its ring is, so that a change
//! without a ring before is noticed.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::check::{self, Finding};
use super::{counted, endpoint};
use crate::discovery::Declared;
use crate::routing::{Phase, Topology};
use crate::time::unix_seconds;

/// One that gave nothing for so long is to be taken away, in seconds.
const IDLE: u64 = 86_400;

/// The counter of reads that an old place has answered.
const READS: &str = "slipring_before_reads_total";

/// What a sidecar tells of its ring, and of the ring before.
#[derive(Debug)]
pub struct Told {
    /// Where it was asked.
    admin: SocketAddr,
    /// The name of its ring, if that has nodes.
    ring: Option<String>,
    before: Option<Report>,
    /// Reads that old places have answered, since its start; unknown where it does not count them.
    hits: Option<u64>,
    /// Those of the last ten minutes; unknown to an older sidecar.
    lately: Option<Lately>,
}

/// Reads that old places of the ring before have answered in the last ten minutes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Lately {
    reads: u64,
    /// The last of them was no longer ago, in seconds.
    within_seconds: u64,
}

#[derive(Debug, Deserialize)]
struct Ring {
    fingerprint: String,
    nodes: Vec<IgnoredAny>,
    before: Option<Report>,
}

#[derive(Debug, Deserialize)]
struct Report {
    state: String,
    #[serde(default)]
    vanished: bool,
    fingerprint: String,
    since: u64,
}

/// What `/history` has of the last ten minutes.
#[derive(Debug, Deserialize)]
struct Minutes {
    now: f64,
    slot_seconds: u64,
    last_slot_seconds: f64,
    before_hits: Vec<u64>,
}

impl Minutes {
    /// Those since a moment, in seconds of Unix time: hits of an earlier ring before are not those of this one.
    fn lately(&self, since: u64) -> Lately {
        let mut lately = Lately::default();
        let (mut began_before, mut ended_at) = (self.last_slot_seconds, self.now);
        for hits in self.before_hits.iter().rev().copied() {
            if ended_at <= since as f64 {
                break;
            }
            // What follows is older.
            if lately.reads == 0 && hits > 0 {
                lately.within_seconds = Duration::try_from_secs_f64(began_before.ceil()).map_or(0, |ago| ago.as_secs());
            }
            lately.reads += hits;
            ended_at = self.now - began_before;
            began_before += self.slot_seconds as f64;
        }
        lately
    }
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
    let Ring { fingerprint, nodes, before } =
        serde_json::from_slice(&ring).map_err(|_| endpoint::STRANGER.to_owned())?;
    let metrics = endpoint::get(admin, "/metrics").await?;
    let history = endpoint::get(admin, "/history").await?;
    let minutes = serde_json::from_slice::<Minutes>(&history).ok();
    let lately = minutes.zip(before.as_ref()).map(|(minutes, before)| minutes.lately(before.since));
    let ring = (!nodes.is_empty()).then_some(fingerprint);
    Ok(Told { admin, ring, before, hits: hits(&String::from_utf8_lossy(&metrics)), lately })
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
    if before.fingerprint() == now.fingerprint() {
        text.push_str("note: the ring before is the same as the ring in use: no key has an old place (yet)\n");
    }
    for warning in warnings(before, findings, told, unix_seconds(SystemTime::now())) {
        let _ = writeln!(text, "warning: {warning}");
    }
    if let Ok(told) = told {
        text.push_str(&consequences(Some((before, declared.phase)), told));
        text.push_str(&undeclared(Some(before), now, told));
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

/// The same where no ring before is declared. The sidecar that runs beside it may still have one, or another ring; or there
/// is none.
#[must_use]
pub fn report_of_none(now: &Topology, told: &Result<Told, String>) -> String {
    match told {
        Err(problem) => format!("\nnote: not compared with the ring of a sidecar: {problem}\n"),
        Ok(told) => {
            let text = consequences(None, told) + &undeclared(None, now, told);
            if text.is_empty() { text } else { format!("\n{text}") }
        }
    }
}

/// Keys that move from the ring of the sidecar without a ring before that says so.
fn undeclared(before: Option<&Topology>, now: &Topology, told: &Told) -> String {
    let (Some(ring), admin) = (&told.ring, told.admin) else { return String::new() };
    if now.name() == *ring || before.is_some_and(|before| before.name() == *ring) {
        return String::new();
    }
    match before {
        Some(_) => format!(
            "warning: neither these nodes nor the ring before are the ring of the sidecar at {admin}: reads of keys that this edit \
             moves from there miss\n"
        ),
        None => format!(
            "warning: these nodes make another ring than the sidecar at {admin} has, and no ring before is declared: reads of the \
             keys that move miss; `slipring plan` with the nodes of after the change prints the edits that avoid it\n"
        ),
    }
}

/// What an edit makes of the ring before that the sidecar has: in lines, where there is something to say. `edit` is what it
/// declares.
fn consequences(edit: Option<(&Topology, Phase)>, told: &Told) -> String {
    let (Some(before), admin) = (&told.before, told.admin) else { return String::new() };
    if before.vanished && edit.is_none() {
        return format!(
            "warning: the ring before of the sidecar at {admin} has vanished without `ending:`; other sidecars may still read old \
             places: put it back, and end it by `ending:` when reads hit old places no more\n"
        );
    }
    let is_same = edit.is_some_and(|(ring, _)| ring.name() == before.fingerprint);
    let phase = edit.map(|(_, phase)| phase);
    if before.state != Phase::Reading.word() || (is_same && phase == Some(Phase::Reading)) {
        return String::new();
    }
    let ended = match phase {
        _ if is_same => String::new(),
        Some(_) => format!(
            "warning: the sidecar at {admin} reads another ring before, which this edit replaces without `ending:` first: \
             sidecars that get the edit late may return deleted values\n"
        ),
        None => format!(
            "warning: this edit takes the ring before, which the sidecar at {admin} reads, away without `ending:` first: sidecars \
             that get the edit late may return deleted values\n"
        ),
    };
    ended + &lost_hits(told)
}

/// What an edit that ends the reads of old places costs. Only hits of the last minutes tell that there will be more; the count
/// since the start tells of values that are read less often, which may have moved meanwhile.
fn lost_hits(told: &Told) -> String {
    let reads = |count: u64| {
        let have = if count == 1 { "has" } else { "have" };
        format!("{} {have} hit an old place", counted(usize::try_from(count).unwrap_or(usize::MAX), "read"))
    };
    let admin = told.admin;
    match (told.lately, told.hits) {
        (Some(Lately { reads: count @ 1.., within_seconds }), _) => format!(
            "warning: {} in the last 10 min at the sidecar at {admin}, the last one not longer than {within_seconds} s ago; reads \
             like these miss after this edit: wait until there are none for as long as your keys live\n",
            reads(count)
        ),
        (lately, Some(count @ 1..)) => {
            let none = if lately.is_some() { ", none of them in the last 10 min" } else { "" };
            format!(
                "note: {} since the sidecar at {admin} started{none}; this edit turns those of values that have not moved into \
                 misses\n",
                reads(count)
            )
        }
        _ => String::new(),
    }
}

fn warnings(before: &Topology, findings: &[Finding], told: &Result<Told, String>, unix: u64) -> Vec<String> {
    let mut warnings = Vec::new();
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
        Ok(Told { before: Some(report), hits: Some(0), .. })
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

    /// A sidecar without nodes and without a ring before.
    fn without() -> Told {
        Told { admin: ([127, 0, 0, 1], 9150).into(), ring: None, before: None, hits: None, lately: None }
    }

    fn reading(before: &Topology) -> Report {
        Report { state: "reading".to_owned(), vanished: false, fingerprint: before.name(), since: 0 }
    }

    #[test]
    fn an_edit_that_ends_reads_which_still_hit_is_warned_of() {
        let (before, other) = (topology(&["a", "b"]), topology(&["a"]));
        let told = |hits, lately: Option<u64>| {
            let lately = lately.map(|reads| Lately { reads, within_seconds: 12 });
            Told { before: Some(reading(&before)), hits, lately, ..without() }
        };
        let (goes_on, ends) = (Some((&before, Phase::Reading)), Some((&before, Phase::Ending)));
        let hits = "warning: 7 reads have hit an old place in the last 10 min at the sidecar at 127.0.0.1:9150, the last one not \
                    longer than 12 s ago; ";
        assert!(consequences(ends, &told(Some(9), Some(7))).starts_with(hits));
        let rarely = consequences(ends, &told(Some(1), Some(0)));
        assert!(
            rarely.starts_with("note: 1 read has hit an old place since ") && rarely.contains("none of them in the")
        );
        assert!(consequences(ends, &told(Some(2), None)).starts_with("note: 2 reads have hit"));
        assert_eq!(consequences(ends, &told(Some(0), Some(0))), "");
        assert_eq!(consequences(goes_on, &told(Some(9), Some(7))), "", "it goes on");
        // Away, or another one, without the step between.
        let away = consequences(None, &told(Some(9), Some(7)));
        assert!(away.starts_with("warning: this edit takes the ring before, ") && away.contains(hits), "{away}");
        assert!(report_of_none(&other, &Ok(told(Some(0), Some(0)))).contains("without `ending:` first"));
        for phase in [Phase::Reading, Phase::Ending] {
            let replaced = consequences(Some((&other, phase)), &told(Some(9), Some(7)));
            assert!(replaced.contains("reads another ring before, which") && replaced.contains(hits), "{replaced}");
        }
        // As it is to be, and where somebody else did not do so.
        let ended = |vanished| {
            let report = Report { state: "ending".to_owned(), vanished, ..reading(&before) };
            report_of_none(&other, &Ok(Told { before: Some(report), ..told(Some(9), Some(7)) }))
        };
        assert_eq!(ended(false), "");
        assert!(
            ended(true).starts_with("\nwarning: the ring before of the sidecar at 127.0.0.1:9150 has vanished without")
        );
        assert_eq!(report_of_none(&other, &Ok(without())), "");
        let alone = report_of_none(&other, &Err("nobody".to_owned()));
        assert_eq!(alone, "\nnote: not compared with the ring of a sidecar: nobody\n");
    }

    #[test]
    fn a_change_without_its_ring_before_is_warned_of() {
        let [two, three, four] = [&["a", "b"][..], &["a", "b", "c"], &["a", "b", "c", "d"]].map(topology);
        let told = Told { ring: Some(two.name()), ..without() };
        assert!(
            undeclared(None, &three, &told).contains("no ring before is declared: reads of the keys that move miss; ")
        );
        assert!(
            report_of_none(&three, &Ok(Told { ring: Some(two.name()), ..without() })).starts_with("\nwarning: these")
        );
        // The same ring, or a sidecar that has no nodes yet.
        assert_eq!(undeclared(None, &two, &told), "");
        assert_eq!(undeclared(None, &three, &without()), "");
        // Edit 1, edit 2, and one that is about another ring.
        assert_eq!(undeclared(Some(&two), &two, &told), "");
        assert_eq!(undeclared(Some(&two), &three, &told), "");
        assert!(undeclared(Some(&three), &four, &told).starts_with("warning: neither these nodes nor the ring before"));
    }

    #[test]
    fn hits_of_an_earlier_ring_before_are_not_counted() {
        let minutes =
            Minutes { now: 1002.0, slot_seconds: 5, last_slot_seconds: 2.0, before_hits: vec![9, 0, 4, 3, 0, 0] };
        assert_eq!(minutes.lately(0), Lately { reads: 16, within_seconds: 12 });
        // The slots end at 980, 985, 990, 995, 1000 and now.
        assert_eq!(minutes.lately(982), Lately { reads: 7, within_seconds: 12 });
        assert_eq!(minutes.lately(990), Lately { reads: 3, within_seconds: 12 });
        assert_eq!(minutes.lately(996), Lately::default());
        assert_eq!(Minutes { before_hits: vec![5], ..minutes }.lately(1001), Lately { reads: 5, within_seconds: 2 });
    }

    #[test]
    fn hits_are_summed_and_may_be_unknown() {
        assert_eq!(hits("slipring_before_reads_total{result=\"miss\"} 3\nslipring_ring_nodes 1\n"), None);
        let text = "slipring_before_reads_total{result=\"hit\"} 3\nslipring_before_reads_total{result=\"miss\"} 9\n";
        assert_eq!(hits(text), Some(3));
    }

    #[test]
    fn what_is_to_be_taken_away_or_does_not_answer_is_warned_of() {
        let before = topology(&["a", "b"]);
        let told = |since, hits| {
            let report = Report { since, ..reading(&before) };
            Ok(Told { before: Some(report), hits, ..without() })
        };
        let warned = |findings: &[Finding], told: Result<Told, String>| warnings(&before, findings, &told, 200_000);
        let none: [String; 0] = [];
        assert_eq!(warned(&[], told(0, Some(1))), none);
        assert_eq!(warned(&[], told(150_000, Some(0))), none, "not for a day");
        assert_eq!(warned(&[], told(0, None)), none, "not known");
        assert_eq!(warned(&[], Ok(without())), none, "the sidecar has none yet");
        assert!(warned(&[], told(0, Some(0)))[0].starts_with("no read has hit an old place for 55 h"));
        assert!(warned(&[], Err("no answer".to_owned()))[0].contains(READS));
        let (address, version, security) = (None, None, None);
        let dead = Finding { name: "b:1".into(), address, version, security, fault: Some(Fault::Refused) };
        assert!(warned(&[dead], told(0, Some(1)))[0].starts_with("b:1 of the ring before does not answer"));
    }
}
