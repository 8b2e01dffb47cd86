//! A directory for configurations and logs, removed when dropped.

use std::path::{Path, PathBuf};
use std::{fs, io};

pub(crate) struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// An empty one, named after the bench and its process.
    pub(crate) fn new(bench: &str) -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("slipring-{bench}-{}", std::process::id()));
        fs::create_dir(&path)?;
        Ok(Self { path })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}
