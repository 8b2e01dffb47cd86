//! The list in a file, or in a mounted directory: read again each second. The first read counts at once, a change when
//! two reads agree.
//!
//! A ConfigMap changes by a swap of a symlink, an editor renames over the file, others write into it: reading is what
//! works with all of them. What is missing, half written, empty or nonsense changes nothing.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::OFlags;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;

use super::Options;
use super::before::{BeforeError, Declared};
use super::nodes::{add_nodes, entries, is_service_link, number, quote};
use super::slips::{self, Variables};
use crate::files::read_regular;
use crate::metrics::Span;
use crate::phrase;
use crate::routing::{Node, Placement};

/// Keys of a mounted ConfigMap: the list, the port of nodes named without one, the ring before and its placement.
pub(super) const LIST_KEY: &str = "MEMCACHED_NODES";
const PORT_KEY: &str = "MEMCACHED_PORT";
pub(super) const BEFORE_KEY: &str = "MEMCACHED_NODES_BEFORE";
pub(super) const PLACEMENT_BEFORE_KEY: &str = "SLIPRING_PLACEMENT_BEFORE";
pub(super) const KEYS: [&str; 4] = [LIST_KEY, PORT_KEY, BEFORE_KEY, PLACEMENT_BEFORE_KEY];

/// What lines of a list begin with that say the same as these keys.
pub(super) const BEFORE_LINE: &str = "before:";
pub(super) const PLACEMENT_BEFORE_LINE: &str = "placement-before:";

/// What is read for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holds {
    /// The nodes, and the ring before if there is one.
    Nodes,
    /// The ring before alone. Where there is no such file, there is none.
    Before,
}

/// What the file or directory holds, unread. What is blank is not there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Content {
    list: String,
    port: Option<String>,
    before: Option<String>,
    placement_before: Option<String>,
    /// It is a file, which may be the wrong one: what it holds is not shown.
    is_file: bool,
    /// Of a directory the names that look like keys, and are none.
    slips: BTreeSet<String>,
}

/// What it says.
#[derive(Debug, Clone, Default)]
pub(super) struct Listed {
    /// None where it holds the ring before alone.
    pub(super) nodes: Vec<Node>,
    pub(super) before: Option<Declared>,
    /// A placement of the ring before is given, and no ring before.
    has_lone_placement: bool,
}

/// The file as it is watched.
#[derive(Debug)]
pub(super) struct ListFile {
    pub(super) path: PathBuf,
    pub(super) holds: Holds,
    pub(super) node_port: u16,
    /// Placement of a ring before that names none.
    pub(super) placement_before: Arc<Placement>,
    /// What a directory may hold besides.
    pub(super) variables: Arc<Variables>,
    /// How much later the second read of a change takes place.
    pub(super) confirm: Duration,
    /// Longest wait for one read: a file on a network may hang.
    pub(super) limit: Duration,
    /// Nothing has been read yet: somebody waits for the first ring.
    pub(super) is_first: bool,
    /// A read that took longer, still under way: there is one at a time, for it holds a thread.
    pub(super) reading: Option<JoinHandle<io::Result<Content>>>,
    pub(super) last: Option<Observed>,
    /// What was wrong when it was last read, if that counts.
    problem: Option<String>,
    /// How many looks in a row have met a change.
    changing: u32,
}

/// What counts now, and what it was made from.
#[derive(Debug)]
pub(super) struct Observed {
    content: Content,
    listed: Listed,
}

/// What a look at the file finds.
#[derive(Debug)]
enum Look {
    Unchanged,
    Changed(Content),
    /// It changed while we looked.
    Changing,
}

/// So many looks in a row that meet a change are told of: an editor that writes in two steps is met by one, or by two.
const RESTLESS: u32 = 3;

// === impl Content ===

impl Content {
    /// The port, if it is what Kubernetes sets for a Service.
    fn service_link(&self) -> Option<&str> {
        self.port.as_deref().map(str::trim).filter(|port| is_service_link(port))
    }
}

// === impl ListFile ===

impl ListFile {
    pub(super) fn new(path: &Path, holds: Holds, options: &Options) -> Self {
        Self {
            path: path.to_owned(),
            holds,
            node_port: options.node_port,
            placement_before: Arc::clone(&options.placement_before),
            variables: Arc::clone(&options.variables),
            confirm: options.file_confirm,
            limit: options.timeout,
            is_first: true,
            reading: None,
            last: None,
            problem: None,
            changing: 0,
        }
    }

    /// What it says now.
    pub(super) async fn read(&mut self, operator: bool) -> Result<Listed, String> {
        let look = self.look(operator).await;
        self.take(look)
    }

    /// Reads once, and a second time when something changed; the first time, and an operator's wish, need no second
    /// read.
    async fn look(&mut self, operator: bool) -> Result<Look, String> {
        let believed = std::mem::take(&mut self.is_first) || operator;
        let content = self.content().await?;
        if self.last.as_ref().is_some_and(|last| last.content == content) {
            return Ok(Look::Unchanged);
        }
        if !believed {
            tokio::time::sleep(self.confirm).await;
            // A file that cannot be read any more has changed, too: the next look says how.
            if self.content().await.as_ref() != Ok(&content) {
                return Ok(Look::Changing);
            }
        }
        Ok(Look::Changed(content))
    }

    /// What is made of a look. As long as it may have met an edit, what was said last is said again.
    fn take(&mut self, look: Result<Look, String>) -> Result<Listed, String> {
        self.changing = if matches!(look, Ok(Look::Changing)) { self.changing.saturating_add(1) } else { 0 };
        if !(1..RESTLESS).contains(&self.changing) {
            self.problem = match look {
                Ok(Look::Unchanged) => None,
                Ok(Look::Changed(content)) => self.adopt(content).err(),
                Ok(Look::Changing) => Some("changing while it is read".to_owned()),
                Err(problem) => Some(problem),
            };
        }
        let listed = self.last.as_ref().map(|last| last.listed.clone());
        self.problem.clone().map_or_else(|| Ok(listed.unwrap_or_default()), Err)
    }

    fn adopt(&mut self, content: Content) -> Result<(), String> {
        let listed = parse(&content, self.holds, self.node_port, &self.placement_before)?;
        self.tell_what_is_ignored(&content, &listed);
        self.last = Some(Observed { content, listed });
        Ok(())
    }

    /// Once for each content.
    fn tell_what_is_ignored(&self, content: &Content, listed: &Listed) {
        let path = self.path.display();
        if let Some(port) = content.service_link() {
            tracing::warn!(
                "{PORT_KEY}={} in {path} ignored: it is what Kubernetes sets for a Service, not a port; nodes listed without a \
                 port have {}",
                quote(port).escape_debug(),
                self.node_port
            );
        }
        for key in &content.slips {
            if let Some(problem) = slips::of_key(key, &self.variables) {
                tracing::warn!("{} in {path} ignored: {problem}", quote(key).escape_debug());
            }
        }
        if listed.has_lone_placement {
            let (placement, list) = match content.is_file {
                true => (PLACEMENT_BEFORE_LINE, BEFORE_LINE),
                false => (PLACEMENT_BEFORE_KEY, BEFORE_KEY),
            };
            tracing::warn!("{placement} in {path} ignored: it has no effect without {list}");
        }
    }

    /// Off the control thread: a file on a network may keep its reader waiting.
    async fn content(&mut self) -> Result<Content, String> {
        let (path, holds) = (self.path.clone(), self.holds);
        let mut reading = self.reading.take().unwrap_or_else(|| spawn_blocking(move || load(&path, holds)));
        let Ok(read) = timeout(self.limit, &mut reading).await else {
            self.reading = Some(reading);
            return Err(format!("cannot be read: no answer within {}", Span(self.limit)));
        };
        read.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(|error| unread(&error))
    }
}

/// That it cannot be read. Who tells it names the file.
fn unread(error: &io::Error) -> String {
    format!("cannot be read: {}", phrase::of(error))
}

/// Reads the ring before that a file or directory of its own holds.
///
/// # Errors
/// What is wrong, when it cannot be read, or makes no ring; to be told behind the path.
pub(super) fn read_before(path: &Path, node_port: u16, placement: &Arc<Placement>) -> Result<Option<Declared>, String> {
    let content = load(path, Holds::Before).map_err(|error| unread(&error))?;
    parse(&content, Holds::Before, node_port, placement).map(|listed| listed.before)
}

fn load(path: &Path, holds: Holds) -> io::Result<Content> {
    if !path.is_dir() {
        return match holds {
            Holds::Nodes => Ok(Content { list: text(path)?, is_file: true, ..Content::default() }),
            Holds::Before => Ok(Content { before: present(path)?, is_file: true, ..Content::default() }),
        };
    }
    // All keys out of one generation of the mount, though it may be swapped between two reads.
    let directory = fs::canonicalize(path.join("..data")).unwrap_or_else(|_| path.to_owned());
    let key = |key: &str| present(&directory.join(key));
    let (port, before, placement_before) = (key(PORT_KEY)?, key(BEFORE_KEY)?, key(PLACEMENT_BEFORE_KEY)?);
    // A directory that cannot be listed may have keys that can be read.
    let names = fs::read_dir(&directory).into_iter().flatten().flatten();
    let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let slips = slips::among(names);
    // The last of them: a generation that is gone by now has no keys to miss.
    let list = match holds {
        Holds::Nodes => text(&directory.join(LIST_KEY)).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                let near = slips::meant_for_the_list(&slips);
                let near = near.map(|name| format!(", but {}", quote(name).escape_debug())).unwrap_or_default();
                io::Error::other(format!("there is no file {LIST_KEY} in it{near}"))
            }
            _ => error,
        })?,
        Holds::Before => fs::metadata(&directory).map(|_| String::new())?,
    };
    Ok(Content { list, port, before, placement_before, is_file: false, slips })
}

/// The text of a file that need not be there, or may be blank.
fn present(path: &Path) -> io::Result<Option<String>> {
    match text(path) {
        Ok(text) => Ok(Some(text).filter(|text| !text.trim().is_empty())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn text(path: &Path) -> io::Result<String> {
    let bytes = read_regular(path, OFlags::empty())?;
    String::from_utf8(bytes).map_err(|_| io::Error::other("it is not text"))
}

fn parse(content: &Content, holds: Holds, node_port: u16, placement_before: &Arc<Placement>) -> Result<Listed, String> {
    let port = match content.port.as_deref().map(str::trim) {
        None | Some("") => node_port,
        Some(_) if content.service_link().is_some() => node_port,
        Some(port) => number(port)
            .and_then(|port| u16::try_from(port).ok())
            .filter(|port| *port != 0)
            .ok_or_else(|| format!("{PORT_KEY} must be a number from 1 to 65535"))?,
    };
    let list = uncommented(&content.list);
    let said = |line: &str, prefix: &str| line.trim().strip_prefix(prefix).map(|text| text.trim().to_owned());
    let all = |prefix: &str, key: Option<&String>| -> Vec<String> {
        let lines = list.iter().filter_map(|line| said(line, prefix)).filter(|text| !text.is_empty());
        let key = key.map(|text| uncommented(text).join("\n").trim().to_owned()).filter(|text| !text.is_empty());
        lines.chain(key).collect()
    };
    let before = only(all(BEFORE_LINE, content.before.as_ref()), "the ring before");
    let placement = only(all(PLACEMENT_BEFORE_LINE, content.placement_before.as_ref()), "its placement");
    let refused = |error: BeforeError| match error {
        BeforeError::List(error) if content.is_file && holds == Holds::Before => error.at("an entry of the list"),
        error if holds == Holds::Before => error.to_string(),
        error => format!("ring before: {error}"),
    };
    let slip = content.before.as_deref().and_then(|text| first_slip((1..).zip(uncommented(text)), Holds::Before));
    if let Some((number, slip)) = slip {
        return Err(refused(BeforeError::Line(number, slip)));
    }
    let (placement, before) = (placement.map_err(refused)?, before.map_err(refused)?);
    // It has no effect, so it does no harm even where it is wrong.
    let has_lone_placement = placement.is_some() && before.is_none();
    let declared = |list: String| {
        let placement = match &placement {
            None => Arc::clone(placement_before),
            Some(name) => Arc::new(name.parse::<Placement>()?.with_names_of(placement_before)),
        };
        Declared::parse(&list, port, &placement)
    };
    let before = before.map(declared).transpose().map_err(refused)?;
    if holds == Holds::Before {
        return Ok(Listed { nodes: Vec::new(), before, has_lone_placement });
    }
    let is_node = |line: &str| said(line, BEFORE_LINE).or(said(line, PLACEMENT_BEFORE_LINE)).is_none();
    let lines = || (1_usize..).zip(&list).filter(|(_, line)| is_node(line));
    if let Some((number, slip)) = first_slip(lines().map(|(number, line)| (number, *line)), Holds::Nodes) {
        return Err(format!("line {number}: {slip}"));
    }
    let is_continued = |line: &str| said(line, BEFORE_LINE).is_some_and(|list| list.ends_with([',', ';']));
    if let Some((number, _)) = (1..).zip(&list).find(|(_, line)| is_continued(line)) {
        return Err(format!(
            "line {number}: the ring before is one line, which a comma at its end does not continue on the next one"
        ));
    }
    let mut nodes = Vec::new();
    add_nodes(lines().flat_map(|(_, line)| entries(line)), port, &mut nodes).map_err(|error| {
        let places =
            lines().flat_map(|(number, line)| (1_usize..).zip(entries(line)).map(move |(entry, _)| (number, entry)));
        match { places }.nth(nodes.len()) {
            Some((line, entry)) if content.is_file => error.at(&format!("line {line}, entry {entry}")),
            _ => error.to_string(),
        }
    })?;
    Ok(Listed { nodes, before, has_lone_placement })
}

/// The lines without their comments, which go from `#` to the end of the line.
fn uncommented(text: &str) -> Vec<&str> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    text.lines().map(|line| line.split('#').next().unwrap_or_default()).collect()
}

/// The first of these lines, with their numbers, that is no list.
fn first_slip<'a>(mut lines: impl Iterator<Item = (usize, &'a str)>, holds: Holds) -> Option<(usize, String)> {
    lines.find_map(|(number, line)| Some((number, slips::of_line(line, holds)?)))
}

fn only(said: Vec<String>, what: &'static str) -> Result<Option<String>, BeforeError> {
    if said.len() > 1 { Err(BeforeError::Twice(what)) } else { Ok(said.into_iter().next()) }
}

#[cfg(test)]
mod tests;
