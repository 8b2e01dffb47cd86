//! The loop around a source: read, believe, probe, publish, wait.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::damping::{Change, Damping};
use super::declaration::{Declaration, usable};
use super::dns::{Dns, Question};
use super::endpoint::{Endpoint, Versions};
use super::file::{Holds, ListFile};
use super::jitter::jitter;
use super::names::Names;
use super::order::arranged;
use super::probe::Probes;
use super::snapshot::Snapshot;
use super::{Authority, Observation, Options, Origin, Source, Status, Triggers, View, blamed};
use crate::log::Pace;
use crate::phrase;
use crate::routing::{Node, Topology};

/// First pause of a source that has not answered yet; doubled each time, up to the interval.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// While there is no node it is logged so often.
const NO_NODE_AGAIN: Duration = Duration::from_secs(60);

/// A source as it is read.
pub(super) enum Reader {
    Static(Vec<Node>),
    File(ListFile),
    Endpoint(Endpoint),
    Dns(Box<Dns>),
}

/// A line about a source that gives no list.
#[derive(Debug, PartialEq, Eq)]
enum Trouble {
    /// The ring stays as it is.
    NothingChanges,
    /// There is no ring yet.
    NoNode,
}

/// Owns everything about the source; lives on the control thread.
pub(super) struct Control {
    reader: Reader,
    /// Until the first ring may be made of what is known without asking.
    source: Option<Source>,
    options: Options,
    triggers: Triggers,
    names: Names,
    /// Of nodes that are missing. Silent ones are many at a time, and must not keep the source from being read.
    probes: Probes,
    damping: Damping,
    generation: u64,
    reason: String,
    status: Status,
    /// What was missing when it was last logged.
    reported: Vec<String>,
    /// Nodes that are one server, as last logged.
    alike: Vec<String>,
    saved: Option<Snapshot>,
    /// Of the line that there is no node at all.
    no_node: Pace,
    before: Declaration,
    published: watch::Sender<Arc<View>>,
}

// === impl Reader ===

impl Reader {
    pub(super) fn new(source: &Source, options: &Options) -> Self {
        let dns = |question| Self::Dns(Box::new(Dns::new(question, &options.name_servers, options.timeout)));
        match source {
            Source::Static(nodes) => Self::Static(nodes.clone()),
            Source::File(path) => Self::File(ListFile::new(path, Holds::Nodes, options)),
            Source::Endpoint { host, port, .. } => Self::Endpoint(Endpoint {
                host: host.clone(),
                port: *port,
                versions: Versions::default(),
                bridging: false,
                secured: options.secured.clone(),
            }),
            Source::Dns { name, port } => dns(Question::Addresses(name.clone(), *port)),
            Source::Srv { name } => dns(Question::Services(name.clone())),
        }
    }

    pub(super) async fn read(&mut self, operator: bool, options: &Options) -> Result<Observation, String> {
        let read = match self {
            Self::Static(nodes) => Ok(Observation {
                nodes: nodes.clone(),
                authority: Authority::Operator,
                why: "list".to_owned(),
                ttl: None,
                before: None,
            }),
            Self::File(file) => file.read(operator).await.map(|listed| Observation {
                nodes: listed.nodes,
                authority: Authority::Operator,
                why: "file".to_owned(),
                ttl: None,
                before: listed.before,
            }),
            Self::Endpoint(endpoint) => endpoint.read(operator, options.timeout).await,
            Self::Dns(dns) => dns.read(operator).await,
        };
        let read = read?;
        options.own.refuse(&read.nodes)?;
        let before = read.before.map(|declared| usable(declared, options)).transpose();
        let before = before.map_err(|problem| format!("ring before: {problem}"))?;
        Ok(Observation { nodes: arranged(read.nodes, &options.pinned), before, ..read })
    }

    /// Whether somebody wrote the nodes down: their host names are for us to resolve.
    fn is_list(&self) -> bool {
        matches!(self, Self::Static(_) | Self::File(_))
    }

    /// Least time between two reads that are asked for by failed connections; `None` when they make no difference.
    fn least_gap(&self, interval: Duration) -> Option<Duration> {
        match self {
            Self::Static(_) | Self::File(_) => None,
            Self::Endpoint(_) => Some(interval / 2),
            Self::Dns(_) => Some(interval / 10),
        }
    }
}

// === impl Control ===

impl Control {
    pub(super) fn new(source: Source, options: Options, triggers: Triggers) -> (Self, watch::Receiver<Arc<View>>) {
        let status = Status {
            source: source.to_string(),
            origin: Origin::Nowhere,
            last_success: None,
            last_error: None,
            kind: source.kind(),
            reads: 0,
            reloads: 0,
            failures: 0,
            changes: 0,
            holds: 0,
        };
        let empty = View {
            nodes: Vec::new(),
            generation: 0,
            reason: "no nodes known yet".to_owned(),
            pending: Vec::new(),
            alike: Vec::new(),
            before: None,
            before_error: None,
            source: status.clone(),
        };
        let reason = empty.reason.clone();
        let (published, view) = watch::channel(Arc::new(empty));
        let (before, told) = Declaration::new(&options);
        let mut control = Self {
            reader: Reader::new(&source, &options),
            source: Some(source),
            names: Names::new(&options),
            probes: Probes::new(options.probe_timeout, options.secured.clone()),
            damping: Damping::new(options.removal_hold).ordered(options.keep_order, options.pinned.clone()),
            options,
            triggers,
            generation: 0,
            reason,
            status,
            reported: Vec::new(),
            alike: Vec::new(),
            saved: None,
            no_node: Pace::every(NO_NODE_AGAIN),
            before,
            published,
        };
        // The ring before is known before the first ring is.
        control.note_before(told);
        control.begin();
        (control, view)
    }

    /// Takes over what became of the declaration of the ring before: it is seen with the next publication.
    fn note_before(&mut self, reason: Option<String>) {
        let Some(reason) = reason else { return };
        self.reason = reason;
        self.names.list_before(self.before.nodes());
    }

    /// The first ring, once it is known what the ring before is: a list that was given, or the last good one.
    fn begin(&mut self) {
        let Some(source) = self.source.take_if(|_| self.before.unknown().is_none()) else { return };
        let (nodes, origin, why) = match source {
            Source::Static(nodes) => (nodes, Origin::Source, "list"),
            Source::Endpoint { first, .. } => (first, Origin::FirstList, "first list, until the endpoint answers"),
            _ => (Vec::new(), Origin::Nowhere, ""),
        };
        let (nodes, origin, why) = match self.snapshot() {
            Some(nodes) if origin != Origin::Source => (nodes, Origin::Snapshot, "last good ring of an earlier run"),
            _ => (nodes, origin, why),
        };
        if nodes.is_empty() {
            return;
        }
        if let Err(problem) = self.options.own.refuse(&nodes) {
            return tracing::warn!("the {why} is not used: {problem}");
        }
        let nodes = arranged(nodes, &self.options.pinned);
        if let (Reader::Endpoint(endpoint), Origin::FirstList) = (&mut self.reader, origin) {
            endpoint.bridging = true;
        }
        self.status.origin = origin;
        if self.reader.is_list() {
            self.names.list(&nodes);
        }
        let change = self.damping.observe(&nodes, Authority::Operator, Instant::now());
        self.note(change, why);
        self.publish();
    }

    fn snapshot(&mut self) -> Option<Vec<Node>> {
        let directory = self.options.state_dir.as_deref()?;
        let snapshot = match Snapshot::load(directory) {
            Ok(snapshot) => snapshot?,
            Err(error) => {
                tracing::warn!(directory = %directory.display(), error = phrase::of(&error), "cannot read the last good ring from --state-dir");
                return None;
            }
        };
        if snapshot.source != self.status.source {
            tracing::info!(of = ?snapshot.source, "the last good ring in --state-dir is of another source: slipring does not use it");
            return None;
        }
        if let (Reader::Endpoint(endpoint), Some(version)) = (&mut self.reader, snapshot.version) {
            endpoint.versions = Versions::known(version, snapshot.nodes.clone());
        }
        let nodes = snapshot.nodes.clone();
        self.saved = Some(snapshot);
        Some(nodes)
    }

    pub(super) async fn run(mut self) {
        let mut operator = false;
        loop {
            let read = Instant::now();
            self.status.reads += 1;
            // The ring before first: a ring that is published has it.
            let told = self.before.read(operator, &self.options).await;
            self.note_before(told);
            self.begin();
            let outcome = match self.before.unknown() {
                Some(problem) => Err(problem.to_owned()),
                None => self.reader.read(operator, &self.options).await,
            };
            let pause = self.pause(&outcome);
            self.status.reloads += u64::from(operator);
            self.take(outcome);
            self.probes.begin(self.damping.missing());
            self.save().await;
            operator = self.wait(read, pause).await;
        }
    }

    fn take(&mut self, outcome: Result<Observation, String>) {
        match outcome {
            Ok(observation) => {
                if self.status.last_error.take().is_some() {
                    tracing::info!(source = %self.status.source, "the source of nodes answers again");
                }
                self.status.last_success = Some(SystemTime::now());
                self.status.origin = Origin::Source;
                let told = self.before.with_nodes(observation.before.as_ref(), &self.options);
                self.note_before(told);
                let nodes = if self.reader.is_list() { self.names.list(&observation.nodes) } else { observation.nodes };
                let now = Instant::now();
                let change = self.damping.observe(&nodes, observation.authority, now);
                match &change {
                    Some(_) => self.status.changes += 1,
                    None if !self.damping.pending(now).is_empty() => self.status.holds += 1,
                    None => {}
                }
                self.note(change, &observation.why);
            }
            Err(error) => {
                self.status.failures += 1;
                let trouble = self.trouble(&error, Instant::now());
                let source = &self.status.source;
                match trouble {
                    None => {}
                    Some(Trouble::NothingChanges) => {
                        tracing::warn!(%source, %error, "the source of nodes failed; the ring stays as it is");
                    }
                    Some(Trouble::NoNode) => tracing::warn!("there is no node: {}", blamed(source, &error)),
                }
                self.status.last_error = Some(error);
            }
        }
        self.publish();
    }

    /// What is to be logged of an error: once per kind of trouble, not once per question; while nobody is served again
    /// and again.
    fn trouble(&mut self, error: &str, now: Instant) -> Option<Trouble> {
        let is_new = self.status.last_error.as_deref() != Some(error);
        if !self.damping.ring().is_empty() {
            return is_new.then_some(Trouble::NothingChanges);
        }
        let is_due = self.no_node.allows(now);
        if is_new && !is_due {
            self.no_node.told(now);
        }
        (is_new || is_due).then_some(Trouble::NoNode)
    }

    fn note(&mut self, change: Option<Change>, why: &str) {
        let Some(Change(text)) = change else { return };
        self.generation += 1;
        self.reason = format!("{why}: {text}");
        tracing::info!(reason = %self.reason, nodes = self.damping.ring().len(), "nodes changed");
    }

    fn publish(&mut self) {
        let now = Instant::now();
        let pending = self.damping.pending(now);
        let names: Vec<String> = pending.iter().map(|pending| pending.node.clone()).collect();
        for pending in pending.iter().filter(|pending| !self.reported.contains(&pending.node)) {
            tracing::warn!("{}", pending.text(now));
        }
        self.reported = names;
        let alike = self.names.alike();
        for line in alike.iter().filter(|line| !self.alike.contains(line)) {
            tracing::warn!("{line}: it gets the keys of both");
        }
        self.alike = alike;
        let before = self.before.view(&self.names, self.damping.ring());
        if self.published.borrow().before != before {
            self.generation += 1;
        }
        self.published.send_replace(Arc::new(View {
            before,
            before_error: self.before.error().map(str::to_owned),
            nodes: self.damping.ring().to_vec(),
            generation: self.generation,
            reason: self.reason.clone(),
            pending,
            alike: self.alike.clone(),
            source: self.status.clone(),
        }));
    }

    /// Whether the ring before is another than it was published.
    fn has_another_before(&self) -> bool {
        let (view, published) = (self.before.view(&self.names, self.damping.ring()), self.published.borrow());
        published.before != view || published.before_error.as_deref() != self.before.error()
    }

    /// Keeps the ring for the next run, when the source itself gave it.
    async fn save(&mut self) {
        let Some(directory) = self.options.state_dir.clone() else { return };
        if self.status.origin != Origin::Source || matches!(self.reader, Reader::Static(_)) {
            return;
        }
        // With a node pending the ring is not the list of that version.
        let settled = self.damping.missing().is_empty();
        let version = match &self.reader {
            Reader::Endpoint(endpoint) if settled => endpoint.versions.version(),
            _ => None,
        };
        let nodes: Vec<Node> = self.damping.ring().iter().map(|node| self.names.as_listed(node)).collect();
        // What makes no ring has not become one: the one before stays the last good one.
        let members = nodes.iter().cloned().map(Arc::new).collect();
        if Topology::placed(0, members, &self.options.placement).is_err() {
            return;
        }
        let snapshot = Snapshot { source: self.status.source.clone(), version, nodes };
        if self.saved.as_ref() == Some(&snapshot) {
            return;
        }
        self.saved = Some(snapshot.clone());
        let saved = tokio::task::spawn_blocking(move || snapshot.save(&directory)).await;
        if let Err(error) = saved.unwrap_or_else(|error| Err(std::io::Error::other(error))) {
            tracing::warn!(error = phrase::of(&error), "cannot write the last good ring to --state-dir");
        }
    }

    /// Until the next read.
    fn pause(&self, outcome: &Result<Observation, String>) -> Duration {
        let interval = self.options.interval;
        match (&self.reader, outcome) {
            _ if self.before.unknown().is_some() => self.options.file_interval,
            (Reader::Static(_), _) => Duration::from_secs(3600),
            (Reader::File(_), _) => self.options.file_interval,
            (_, Err(_)) if self.status.last_success.is_none() => {
                let doublings = u32::try_from(self.status.failures.min(16)).unwrap_or(16);
                jitter(FIRST_PAUSE.saturating_mul(1 << doublings).min(interval))
            }
            (Reader::Dns(_), Ok(Observation { ttl: Some(ttl), .. })) => {
                jitter((*ttl).clamp(interval / 2, interval * 3))
            }
            _ => jitter(interval),
        }
    }

    /// Waits for the next read, and drops what is due meanwhile. True when an operator asks for it.
    async fn wait(&mut self, read: Instant, pause: Duration) -> bool {
        let next = Instant::now() + pause;
        let soonest = self.reader.least_gap(self.options.interval).map(|gap| read + gap);
        let mut wanted = next;
        let mut read_before_at = Instant::now() + self.options.file_interval;
        loop {
            let due = self.damping.deadline(Instant::now()).unwrap_or(next).min(wanted);
            let look = self.names.due();
            let forget = self.before.due();
            tokio::select! {
                () = self.triggers.reload.notified() => {
                    self.names.hurry();
                    return true;
                }
                () = self.triggers.resolve.notified(), if soonest.is_some_and(|soonest| soonest < wanted) => {
                    wanted = soonest.unwrap_or(next).max(Instant::now());
                }
                () = self.triggers.resolve.notified(), if self.names.heeds() => self.names.suspect(),
                () = sleep_until(look.unwrap_or(next)), if look.is_some() => self.names.look(),
                Some(Ok(found)) = self.names.ended() => {
                    if self.names.take(found) {
                        if self.reader.is_list() {
                            let now = Instant::now();
                            let change = self.damping.observe(&self.names.dialled(), Authority::Operator, now);
                            self.note(change, "host names");
                        } else {
                            "host names of the ring before".clone_into(&mut self.reason);
                        }
                        self.publish();
                    } else if self.names.alike() != self.alike || self.has_another_before() {
                        self.publish();
                    }
                }
                () = sleep_until(read_before_at), if self.before.has_file() => {
                    read_before_at = Instant::now() + self.options.file_interval;
                    let told = self.before.read(false, &self.options).await;
                    self.note_before(told);
                    if self.has_another_before() {
                        self.publish();
                    }
                }
                () = sleep_until(forget.unwrap_or(next)), if forget.is_some() => {
                    let told = self.before.tick(Instant::now());
                    self.note_before(told);
                    self.publish();
                }
                Some((node, answers)) = self.probes.next() => {
                    let change = self.damping.probed(&node.name, answers, Instant::now());
                    let left = change.is_some();
                    self.note(change, "probe");
                    self.publish();
                    if left {
                        self.save().await;
                    }
                }
                () = sleep_until(due) => {
                    if due == wanted {
                        return false;
                    }
                    let change = self.damping.tick(Instant::now());
                    self.note(change, "hold ended");
                    self.publish();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn while_there_is_no_node_the_log_says_so_each_minute() {
        let source = Source::File("/nodes".into());
        let (mut control, _view) = Control::new(source, Options::default(), Triggers::default());
        let start = Instant::now();
        let told = |second, error: &str, control: &mut Control| {
            let trouble = control.trouble(error, start + Duration::from_secs(second));
            control.status.last_error = Some(error.to_owned());
            trouble.map(|trouble| (second, trouble))
        };
        let each_second = (0..200).filter_map(|second| told(second, "it is gone", &mut control)).collect::<Vec<_>>();
        assert_eq!(each_second, [0, 60, 120, 180].map(|second| (second, Trouble::NoNode)));
        // Another trouble is news, and begins the minute anew.
        let each_second = (200..300).filter_map(|second| told(second, "it is empty", &mut control)).collect::<Vec<_>>();
        assert_eq!(each_second, [200, 260].map(|second| (second, Trouble::NoNode)));
        // Those that are served go on.
        control.damping.observe(&[Node::new("a", 1, 1)], Authority::Operator, start);
        let each_second = (300..500).filter_map(|second| told(second, "it is gone", &mut control)).collect::<Vec<_>>();
        assert_eq!(each_second, [(300, Trouble::NothingChanges)]);
    }
}
