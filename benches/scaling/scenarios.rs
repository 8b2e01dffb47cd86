//! What is done to the sidecars while the clients ask, in the order of the manual: the list is opened, the ring is changed,
//! the list is ended when it gives nothing any more, and removed.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::cluster::{Before, Declared, Node, Sidecar, nodes};
use crate::ledger::Ledger;
use crate::load::{ABSENT_PER_THOUSAND, Clients, SETS_PER_HUNDRED};
use crate::record::{Bound, Mark, Run};
use crate::scratch::Scratch;

const SIDECARS: usize = 3;
/// Between the sidecars: each sees an edit at its own time.
const APART: Duration = Duration::from_millis(300);
/// Between the nodes of an instance that join one after another. What is written at the fourth in between, and moved on by the
/// last two, is lost: so much of a round of the sets, of a twelfth of the keys.
const BETWEEN_NODES: Duration = Duration::from_millis(500);
/// Between an edit that all have seen and the next one, where nothing else is waited for.
const REST: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scenario {
    Grow,
    Placement,
    Pool,
}

/// How it is run.
pub(crate) struct Settings<'a> {
    pub(crate) program: &'a Path,
    pub(crate) scratch: &'a Scratch,
    /// Operations per second, of all clients together.
    pub(crate) rate: f64,
    /// In which every key is stored anew.
    pub(crate) round: Duration,
}

impl Settings<'_> {
    pub(crate) fn keys(&self) -> usize {
        (self.rate * SETS_PER_HUNDRED as f64 / 100.0 * self.round.as_secs_f64()) as usize
    }
}

impl Scenario {
    pub(crate) const ALL: [Self; 3] = [Self::Grow, Self::Placement, Self::Pool];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Grow => "grow",
            Self::Placement => "placement",
            Self::Pool => "pool",
        }
    }

    pub(crate) fn of_name(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|scenario| scenario.name() == name).ok_or_else(|| "no such scenario".to_owned())
    }

    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Grow => "3 nodes → 4 → 6",
            Self::Placement => "placement pymemcache → ring",
            Self::Pool => "pool of 3 nodes → another of 5",
        }
    }

    pub(crate) const fn bound(self) -> Bound {
        match self {
            Self::Grow | Self::Placement => Bound::PointsBelow(0.5),
            Self::Pool => Bound::Share(0.99),
        }
    }

    pub(crate) fn run(self, settings: &Settings<'_>, with: bool) -> io::Result<Run> {
        let placement = if self == Self::Placement { "pymemcache" } else { "ring" };
        let mut old = nodes(3, settings.scratch)?;
        let new = nodes(
            match self {
                Self::Grow => 3,
                Self::Placement => 0,
                Self::Pool => 5,
            },
            settings.scratch,
        )?;
        let at = |nodes: &[Node]| nodes.iter().map(|node| node.address).collect::<Vec<_>>();
        let mut stage = Stage::set(settings, with, at(&old), placement)?;
        sleep(settings.round.mul_f64(0.25));
        stage.open()?;
        match self {
            Self::Grow => {
                stage.change([at(&old), at(&new[..1])].concat(), "4 nodes")?;
                sleep(BETWEEN_NODES);
                stage.change([at(&old), at(&new)].concat(), "6 nodes")?;
            }
            Self::Placement => stage.restart("ring")?,
            Self::Pool => stage.change(at(&new), "the other pool")?,
        }
        stage.close()?;
        if self == Self::Pool {
            stage.mark("old pool stopped");
            old.clear();
        }
        sleep(settings.round.mul_f64(0.1));
        stage.end()
    }
}

/// Sidecars and clients of one run.
struct Stage<'a> {
    settings: &'a Settings<'a>,
    with: bool,
    placement: &'static str,
    declared: Declared,
    sidecars: Vec<Sidecar>,
    clients: Clients,
    marks: Vec<Mark>,
    change: Option<usize>,
}

impl<'a> Stage<'a> {
    fn set(
        settings: &'a Settings<'a>,
        with: bool,
        nodes: Vec<SocketAddr>,
        placement: &'static str,
    ) -> io::Result<Self> {
        let declared = Declared { nodes, before: None };
        let start = |index| {
            let file = settings.scratch.path().join(format!("nodes-{index}"));
            declared.write(&file)?;
            Sidecar::start(settings.program, &file, placement, &declared, settings.scratch)
        };
        let sidecars = (0..SIDECARS).map(start).collect::<io::Result<Vec<_>>>()?;
        let addresses: Vec<SocketAddr> = sidecars.iter().map(|sidecar| sidecar.address).collect();
        let ledger = Ledger::new(settings.keys(), ABSENT_PER_THOUSAND);
        let clients = Clients::start(&addresses, ledger, settings.rate)?;
        Ok(Self { settings, with, placement, declared, sidecars, clients, marks: Vec::new(), change: None })
    }

    fn mark(&mut self, what: &str) {
        let at_s = self.clients.begun_at.elapsed().as_secs_f64();
        eprintln!("{at_s:6.1} s: {what}");
        self.marks.push(Mark { at_s, what: what.to_owned() });
    }

    /// Edits the file of one sidecar after the other; returns when all show it.
    fn edit(&self) -> io::Result<()> {
        for sidecar in &self.sidecars {
            self.declared.write(&sidecar.file)?;
            sidecar.reload()?;
            sleep(APART);
        }
        self.sidecars.iter().try_for_each(|sidecar| sidecar.until_shown(&self.declared))
    }

    /// Declares the ring in use to be the one before.
    fn open(&mut self) -> io::Result<()> {
        if self.with {
            self.mark("declared");
            let nodes = self.declared.nodes.clone();
            self.declared.before = Some(Before { nodes, placement: self.placement, ending: false });
            self.edit()?;
            sleep(REST);
        }
        Ok(())
    }

    fn change(&mut self, nodes: Vec<SocketAddr>, what: &str) -> io::Result<()> {
        self.change.get_or_insert(self.marks.len());
        self.mark(what);
        self.declared.nodes = nodes;
        self.clients.differ(true)?;
        self.edit()?;
        self.clients.differ(false)
    }

    /// Starts each sidecar anew, in another placement; its clients move over.
    fn restart(&mut self, placement: &'static str) -> io::Result<()> {
        self.change.get_or_insert(self.marks.len());
        self.mark("placement ring");
        self.placement = placement;
        self.clients.differ(true)?;
        let Settings { program, scratch, .. } = self.settings;
        for (index, old) in self.sidecars.iter_mut().enumerate() {
            let new = Sidecar::start(program, &old.file, placement, &self.declared, scratch)?;
            self.clients.move_to(index, new.address)?;
            *old = new;
            sleep(APART);
        }
        self.clients.differ(false)
    }

    /// Ends the ring before when it gives nothing any more, and removes it. Without one, waits for as long as that takes.
    fn close(&mut self) -> io::Result<()> {
        if !self.with {
            sleep(self.settings.round);
            return Ok(());
        }
        self.until_hits_stand_still()?;
        self.mark("ending");
        if let Some(before) = &mut self.declared.before {
            before.ending = true;
        }
        self.edit()?;
        sleep(REST);
        self.mark("removed");
        self.declared.before = None;
        self.edit()?;
        sleep(REST);
        Ok(())
    }

    fn until_hits_stand_still(&self) -> io::Result<()> {
        let limit = Instant::now() + 3 * self.settings.round;
        let hits = || self.sidecars.iter().map(Sidecar::hits_at_old_places).sum::<io::Result<f64>>();
        let mut last = hits()?;
        loop {
            sleep(Duration::from_secs(1));
            let now = hits()?;
            if now <= last {
                return Ok(());
            }
            if Instant::now() > limit {
                return Err(io::Error::other("old places do not cease to be of use"));
            }
            last = now;
        }
    }

    fn end(self) -> io::Result<Run> {
        let whole = usize::try_from(self.clients.begun_at.elapsed().as_secs()).unwrap_or(0);
        let found = self.clients.stop()?;
        let mut seconds = found.seconds;
        seconds.truncate(whole);
        let change = self.change.unwrap_or(0);
        Ok(Run { with: self.with, seconds, marks: self.marks, change, first_fault: found.first_fault })
    }
}
