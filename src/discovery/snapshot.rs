//! The last good ring, kept in `--state-dir`: what a restarted sidecar serves while its source does not answer.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::routing::{MAX_NODES, MAX_WEIGHT, Node};

/// Name of the file in the directory.
pub const FILE: &str = "last-good.json";

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
}

// === impl Snapshot ===

impl Snapshot {
    /// Reads the snapshot of a directory; `None` when there is none.
    ///
    /// # Errors
    /// When there is one that cannot be read or makes no ring.
    pub fn load(directory: &Path) -> io::Result<Option<Self>> {
        let bytes = match fs::read(path(directory)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let stored: Stored = serde_json::from_slice(&bytes)?;
        let sound = |node: &StoredNode| {
            node.port != 0 && !node.host.is_empty() && !node.name.is_empty() && (1..=MAX_WEIGHT).contains(&node.weight)
        };
        if !(1..=MAX_NODES).contains(&stored.nodes.len()) || !stored.nodes.iter().all(sound) {
            return Err(io::Error::other("it holds no valid list of nodes"));
        }
        let node = |node: StoredNode| Node {
            name: node.name.into(),
            named: node.named,
            host: node.host.into(),
            port: node.port,
            weight: node.weight,
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
        };
        let stored =
            Stored { source: self.source.clone(), version: self.version, nodes: self.nodes.iter().map(node).collect() };
        let path = path(directory);
        let draft = path.with_extension(format!("{}.tmp", std::process::id()));
        let mut file = File::create(&draft)?;
        file.write_all(&serde_json::to_vec_pretty(&stored)?)?;
        file.sync_all()?;
        fs::rename(&draft, &path)
    }
}

fn path(directory: &Path) -> PathBuf {
    directory.join(FILE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_loaded_and_what_is_broken_is_refused() {
        let directory = std::env::temp_dir().join(format!("slipring-snapshot-{}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        assert_eq!(Snapshot::load(&directory).unwrap(), None);
        let nodes = vec![Node::new("a", 1, 7).dialled_at("10.0.0.1"), Node::new("::1", 2, 1)];
        let snapshot = Snapshot { source: "dns x:1".to_owned(), version: Some(9), nodes };
        snapshot.save(&directory).unwrap();
        snapshot.save(&directory).unwrap();
        assert_eq!(Snapshot::load(&directory).unwrap(), Some(snapshot));
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1, "no draft stays behind");
        for broken in ["", "{", "{}", r#"{"source":"s","version":null,"nodes":[]}"#] {
            fs::write(path(&directory), broken).unwrap();
            assert!(Snapshot::load(&directory).is_err(), "{broken}");
        }
        fs::remove_dir_all(&directory).unwrap();
    }
}
