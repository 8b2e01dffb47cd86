//! The list in a file, or in a mounted directory: read again each second. The first read counts at once, a change when
//! two reads agree.
//!
//! A ConfigMap changes by a swap of a symlink, an editor renames over the file, others write into it: reading is what
//! works with all of them. What is missing, half written, empty or nonsense changes nothing.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::OFlags;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;

use super::nodes::{number, parse_nodes};
use super::{Authority, Observation};
use crate::files::read_regular;
use crate::routing::Node;

/// Keys of a mounted ConfigMap: the list, and the port of nodes named without one.
const LIST_KEY: &str = "MEMCACHED_NODES";
const PORT_KEY: &str = "MEMCACHED_PORT";

/// What the file or directory holds, unread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Content {
    list: String,
    port: Option<String>,
}

/// The file as it is watched.
#[derive(Debug)]
pub(super) struct ListFile {
    pub(super) path: PathBuf,
    pub(super) node_port: u16,
    /// How much later the second read of a change takes place.
    pub(super) confirm: Duration,
    /// Longest wait for one read: a file on a network may hang.
    pub(super) limit: Duration,
    /// Nothing has been read yet: somebody waits for the first ring.
    pub(super) is_first: bool,
    /// A read that took longer, still under way: there is one at a time, for it holds a thread.
    pub(super) reading: Option<JoinHandle<io::Result<Content>>>,
    pub(super) last: Option<Observed>,
}

/// What counts now, and what it was made from.
#[derive(Debug)]
pub(super) struct Observed {
    content: Content,
    nodes: Vec<Node>,
}

// === impl ListFile ===

impl ListFile {
    /// Reads once, and a second time when something changed; the first time, and an operator's wish, need no second
    /// read.
    pub(super) async fn read(&mut self, operator: bool) -> Result<Observation, String> {
        let believed = std::mem::take(&mut self.is_first) || operator;
        let content = self.content().await?;
        let unchanged = self.last.as_ref().is_some_and(|last| last.content == content);
        if !unchanged {
            if !believed {
                tokio::time::sleep(self.confirm).await;
                if self.content().await? != content {
                    return Err("changing while it is read".to_owned());
                }
            }
            let nodes = parse(&content, self.node_port)?;
            self.last = Some(Observed { content, nodes });
        }
        let nodes = self.last.as_ref().map(|last| last.nodes.clone()).unwrap_or_default();
        Ok(Observation { nodes, authority: Authority::Operator, why: "file".to_owned(), ttl: None })
    }

    /// Off the control thread: a file on a network may keep its reader waiting.
    async fn content(&mut self) -> Result<Content, String> {
        let path = self.path.clone();
        let mut reading = self.reading.take().unwrap_or_else(|| spawn_blocking(move || load(&path)));
        let Ok(read) = timeout(self.limit, &mut reading).await else {
            self.reading = Some(reading);
            return Err(format!("cannot read {} within {:?}", self.path.display(), self.limit));
        };
        let failed = |error: io::Error| format!("cannot read {}: {error}", self.path.display());
        read.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(failed)
    }
}

fn load(path: &Path) -> io::Result<Content> {
    if !path.is_dir() {
        return Ok(Content { list: text(path)?, port: None });
    }
    // Both keys out of one generation of the mount, though it may be swapped between the two reads.
    let directory = fs::canonicalize(path.join("..data")).unwrap_or_else(|_| path.to_owned());
    let port = match text(&directory.join(PORT_KEY)) {
        Ok(port) => Some(port),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let list = text(&directory.join(LIST_KEY)).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => io::Error::other(format!("there is no file {LIST_KEY} in it")),
        _ => error,
    })?;
    Ok(Content { list, port })
}

fn text(path: &Path) -> io::Result<String> {
    let bytes = read_regular(path, OFlags::empty())?;
    String::from_utf8(bytes).map_err(|_| io::Error::other("it is not text"))
}

/// The list without its comments, which go from `#` to the end of the line.
fn parse(content: &Content, node_port: u16) -> Result<Vec<Node>, String> {
    let port = match content.port.as_deref().map(str::trim) {
        None | Some("") => node_port,
        Some(port) => number(port)
            .and_then(|port| u16::try_from(port).ok())
            .filter(|port| *port != 0)
            .ok_or_else(|| format!("{PORT_KEY} must be a number from 1 to 65535"))?,
    };
    let list = content.list.strip_prefix('\u{feff}').unwrap_or(&content.list);
    let lines: Vec<&str> = list.lines().map(|line| line.split('#').next().unwrap_or_default()).collect();
    parse_nodes(&lines.join("\n"), port).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(list: &str, port: Option<&str>) -> Result<String, String> {
        let content = Content { list: list.to_owned(), port: port.map(str::to_owned) };
        let nodes = parse(&content, 5)?;
        Ok(nodes.iter().map(|node| node.name.to_string()).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn lists_with_comments_and_ports() {
        for (list, port, expected) in [
            ("a,b", None, "a:5 b:5"),
            ("# nodes\na # first\nb:7;c\n\n#d\n", None, "a:5 b:7 c:5"),
            ("\u{feff}a\r\nb\r\n", None, "a:5 b:5"),
            ("a", Some("11212\n"), "a:11212"),
            ("a", Some(" "), "a:5"),
        ] {
            assert_eq!(listed(list, port), Ok(expected.to_owned()), "{list:?}");
        }
    }

    #[test]
    fn what_makes_no_list_is_named() {
        for (list, port, problem) in [
            ("", None, "the list of nodes is empty"),
            ("# a\n", None, "the list of nodes is empty"),
            ("a,\u{0}", None, "not an IPv4 address"),
            ("a", Some("tcp://10.0.0.9:11211"), "MEMCACHED_PORT must be a number"),
            ("a", Some("0"), "MEMCACHED_PORT must be a number"),
        ] {
            let error = listed(list, port).unwrap_err();
            assert!(error.contains(problem), "{list:?}: {error}");
        }
    }
}
