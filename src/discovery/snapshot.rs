//! The last good ring, kept in `--state-dir`: what a restarted sidecar serves while its source does not answer.

use std::collections::HashSet;
use std::fs::{self, OpenOptions};
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use super::dns::may_be_a_node;
use super::nodes::{is_host, is_name, parse_node};
use crate::files::read_regular;
use crate::routing::{MAX_NODES, MAX_WEIGHT, Node};

/// Name of the file in the directory.
pub const FILE: &str = "last-good.json";

/// Draws of a name for the draft. That one is there already says that somebody guesses them.
const DRAWS: u32 = 4;

/// A ring, and where it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// What was asked, as [`Source`](super::Source) shows itself; the snapshot of another source is not used.
    pub source: String,
    /// The endpoint's version of the list, if it had one.
    pub version: Option<u64>,
    /// At least one.
    pub nodes: Vec<Node>,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    source: String,
    version: Option<u64>,
    nodes: Vec<StoredNode>,
}

#[derive(Serialize, Deserialize)]
struct StoredNode {
    name: String,
    host: String,
    port: u16,
    weight: u32,
    /// Absent in those of earlier versions.
    #[serde(default)]
    named: bool,
    /// Absent in those of earlier versions, and where it is the host's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    certified: Option<String>,
}

// === impl Snapshot ===

impl Snapshot {
    /// Reads the snapshot of a directory; `None` when there is none. Others may write there, too: what they put in its
    /// place must not hold us up, nor bring a name that no source may give.
    ///
    /// # Errors
    /// When there is one that cannot be read or makes no ring.
    pub fn load(directory: &Path) -> io::Result<Option<Self>> {
        let bytes = match read_regular(&path(directory), OFlags::NOFOLLOW) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let stored: Stored = serde_json::from_slice(&bytes)?;
        let mut names = HashSet::new();
        let all_sound = stored.nodes.iter().all(|node| node.is_sound() && names.insert(&node.name));
        if !(1..=MAX_NODES).contains(&stored.nodes.len()) || !all_sound {
            return Err(io::Error::other("it holds no valid list of nodes"));
        }
        let node = |node: StoredNode| Node {
            name: node.name.into(),
            named: node.named,
            host: node.host.into(),
            port: node.port,
            weight: node.weight,
            certified: node.certified.map(Into::into),
        };
        let nodes = stored.nodes.into_iter().map(node).collect();
        Ok(Some(Self { source: stored.source, version: stored.version, nodes }))
    }

    /// Writes it so that a reader finds the old one or the new one, whole.
    ///
    /// # Errors
    /// When the directory cannot be made or written to.
    pub fn save(&self, directory: &Path) -> io::Result<()> {
        fs::create_dir_all(directory)?;
        let node = |node: &Node| StoredNode {
            name: node.name.to_string(),
            host: node.host.to_string(),
            port: node.port,
            weight: node.weight,
            named: node.named,
            certified: node.certified.as_deref().map(str::to_owned),
        };
        let stored =
            Stored { source: self.source.clone(), version: self.version, nodes: self.nodes.iter().map(node).collect() };
        let draft = draft(directory, &serde_json::to_vec_pretty(&stored)?)?;
        fs::rename(&draft, path(directory)).inspect_err(|_| drop(fs::remove_file(&draft)))
    }
}

// === impl StoredNode ===

impl StoredNode {
    /// Whether a source could have given it: its name is that of a node in a list, as it is written here, or one that a
    /// list gives it.
    fn is_sound(&self) -> bool {
        let listed = || parse_node(&self.name, 0).is_ok_and(|node| *node.name == *self.name && node.port == self.port);
        let named = if self.named { is_name(&self.name) } else { listed() };
        let dialled = is_host(&self.host) && self.host.parse::<IpAddr>().ok().is_none_or(may_be_a_node);
        self.port != 0 && named && dialled && (1..=MAX_WEIGHT).contains(&self.weight)
    }
}

/// Writes a file of our own beside the snapshot: under a name that nobody knows before, and never through a link.
fn draft(directory: &Path, bytes: &[u8]) -> io::Result<PathBuf> {
    let mut draws = 0;
    loop {
        let draw = RandomState::new().build_hasher().finish();
        let draft = path(directory).with_extension(format!("{draw:016x}.tmp"));
        match OpenOptions::new().write(true).create_new(true).open(&draft) {
            Ok(mut file) => {
                let written = file.write_all(bytes).and_then(|()| file.sync_all());
                return written.map(|()| draft.clone()).inspect_err(|_| drop(fs::remove_file(&draft)));
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && draws < DRAWS => draws += 1,
            Err(error) => return Err(error),
        }
    }
}

fn path(directory: &Path) -> PathBuf {
    directory.join(FILE)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let directory = std::env::temp_dir().join(format!("slipring-snapshot-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&directory);
            Self(directory)
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn snapshot() -> Snapshot {
        let a = Node::new("a", 1, 7).dialled_at("10.0.0.1");
        let nodes = vec![a, Node::new("::1", 2, 1), Node::new("b", 3, 1).named("Server_1")];
        Snapshot { source: "dns x:1".to_owned(), version: Some(9), nodes }
    }

    #[test]
    fn what_is_saved_is_loaded_and_what_is_broken_is_refused() {
        let Directory(directory) = &Directory::new("kept");
        assert_eq!(Snapshot::load(directory).unwrap(), None);
        snapshot().save(directory).unwrap();
        snapshot().save(directory).unwrap();
        assert_eq!(Snapshot::load(directory).unwrap(), Some(snapshot()));
        assert_eq!(fs::read_dir(directory).unwrap().count(), 1, "no draft stays behind");
        for broken in ["", "{", "{}", r#"{"source":"s","version":null,"nodes":[]}"#] {
            fs::write(path(directory), broken).unwrap();
            assert!(Snapshot::load(directory).is_err(), "{broken}");
        }
    }

    #[test]
    fn a_node_that_no_source_could_give_is_refused() {
        let Directory(directory) = &Directory::new("names");
        fs::create_dir_all(directory).unwrap();
        let load_one = |node: serde_json::Value| {
            let good = serde_json::json!({"name": "good:1", "host": "good", "port": 1, "weight": 1});
            let stored = serde_json::json!({"source": "s", "version": null, "nodes": [good, node]});
            fs::write(path(directory), stored.to_string()).unwrap();
            Snapshot::load(directory)
        };
        let load = |name: &str, host: &str, port: u16, weight: u32| {
            load_one(serde_json::json!({"name": name, "host": host, "port": port, "weight": weight}))
        };
        let load_named = |name: &str, host: &str, port: u16| {
            load_one(serde_json::json!({"name": name, "host": host, "port": port, "weight": 1, "named": true}))
        };
        load("a:1", "10.0.0.1", 1, 1000).unwrap();
        for name in ["x", "Server_1", "a:2"] {
            load_named(name, "a", 1).unwrap();
        }
        for (name, host, port, weight) in [
            ("a:1\r\nEND", "a", 1, 1),
            ("a:1\r\nEND:1", "a", 1, 1),
            ("a b:1", "a", 1, 1),
            ("a", "a", 1, 1),
            ("a:1=2", "a", 1, 1),
            ("A:1", "a", 1, 1),
            ("a:2", "a", 1, 1),
            ("a:0", "a", 0, 1),
            ("", "a", 1, 1),
            ("good:1", "a", 1, 1),
            ("a:1", "", 1, 1),
            ("a:1", "a b", 1, 1),
            ("a:1", "0.0.0.0", 1, 1),
            ("a:1", "a", 1, 0),
            ("a:1", "a", 1, 1001),
        ] {
            let error = load(name, host, port, weight).unwrap_err().to_string();
            assert!(error.contains("no valid list"), "{name:?} {host:?}: {error}");
        }
        for (name, host, port) in [
            ("", "a", 1),
            ("x y", "a", 1),
            ("x\r\nEND", "a", 1),
            ("a:1/x", "a", 1),
            ("x=2", "a", 1),
            ("good:1", "a", 1),
            ("x", "", 1),
            ("x", "0.0.0.0", 1),
            ("x", "a", 0),
        ] {
            let error = load_named(name, host, port).unwrap_err().to_string();
            assert!(error.contains("no valid list"), "{name:?} {host:?}: {error}");
        }
    }

    #[test]
    fn what_is_no_regular_file_or_too_long_is_not_read() {
        let Directory(directory) = &Directory::new("kinds");
        fs::create_dir_all(directory).unwrap();
        let file = path(directory);
        let refused = |part: &str| {
            let error = Snapshot::load(directory).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        };
        // Opened without care, a pipe waits for somebody who writes.
        mknodat(CWD, &file, FileType::Fifo, Mode::RWXU, 0).unwrap();
        refused("no regular file");
        fs::remove_file(&file).unwrap();
        for endless in ["/dev/zero", "/dev/null"] {
            symlink(endless, &file).unwrap();
            refused("symbolic link");
            fs::remove_file(&file).unwrap();
        }
        fs::create_dir(&file).unwrap();
        refused("no regular file");
        fs::remove_dir(&file).unwrap();
        fs::write(&file, vec![b' '; 2 << 20]).unwrap();
        refused("larger than 1 MiB");
        // None of these is in the way of the next one.
        snapshot().save(directory).unwrap();
        assert_eq!(Snapshot::load(directory).unwrap(), Some(snapshot()));
    }

    #[test]
    fn a_link_in_the_place_of_the_file_is_replaced_and_not_followed() {
        let Directory(directory) = &Directory::new("links");
        fs::create_dir_all(directory).unwrap();
        let victim = directory.join("victim");
        fs::write(&victim, "mine").unwrap();
        // As an earlier version named its draft.
        for planted in [FILE.to_owned(), format!("last-good.{}.tmp", std::process::id())] {
            symlink(&victim, directory.join(planted)).unwrap();
        }
        snapshot().save(directory).unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "mine");
        assert_eq!(Snapshot::load(directory).unwrap(), Some(snapshot()));
    }
}
