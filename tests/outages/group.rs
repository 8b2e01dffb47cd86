//! What a control group counts: the memory of the process and, which its resident set does not show,
//! what the kernel holds for its sockets.
use std::fs;
use std::path::{Path, PathBuf};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Memory and sockets are two counters.
    Old,
    /// One counter has both.
    Unified,
}

/// A control group of the test's own.
pub(crate) struct Group {
    path: PathBuf,
    kind: Kind,
}

impl Group {
    /// `Err` says why this machine has none for us.
    pub(crate) fn new() -> Result<Self, String> {
        let mut reasons = Vec::new();
        for (root, kind) in parents() {
            let path = root.join(format!("slipring-test-{}", std::process::id()));
            match fs::create_dir(&path) {
                Ok(()) => {}
                Err(error) => {
                    reasons.push(format!("{}: {error}", path.display()));
                    continue;
                }
            }
            let group = Self { path, kind };
            if kind == Kind::Old {
                // The kernel counts sockets from the first limit on.
                let _ = fs::write(group.path.join("memory.kmem.tcp.limit_in_bytes"), (64_u64 << 30).to_string());
            }
            match group.read() {
                Ok(_) => return Ok(group),
                Err(error) => reasons.push(error),
            }
        }
        Err(if reasons.is_empty() { "no control groups are mounted".to_owned() } else { reasons.join("; ") })
    }

    /// The file that a process writes its number into to become a member.
    pub(crate) fn members(&self) -> PathBuf {
        self.path.join("cgroup.procs")
    }

    fn number(&self, file: &str) -> Result<u64, String> {
        let path = self.path.join(file);
        let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        text.trim().parse().map_err(|error| format!("{}: {error}", path.display()))
    }

    /// A line of `memory.stat`.
    fn line(&self, name: &str) -> Result<u64, String> {
        let path = self.path.join("memory.stat");
        let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
        line.ok_or_else(|| format!("no {name} in {}", path.display()))
    }

    /// Bytes that the group is charged for, files in the page cache aside; and those of sockets.
    pub(crate) fn read(&self) -> Result<(u64, u64), String> {
        let (all, files, sockets) = match self.kind {
            Kind::Old => {
                let sockets = self.number("memory.kmem.tcp.usage_in_bytes")?;
                (self.number("memory.usage_in_bytes")? + sockets, self.line("cache")?, sockets)
            }
            Kind::Unified => (self.number("memory.current")?, self.line("file")?, self.line("sock")?),
        };
        Ok((all.saturating_sub(files), sockets))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Its members are gone: they were started after it, and so end before.
        let _ = fs::remove_dir(&self.path);
    }
}

/// Where a group of ours could be: under the one that this process is in, and at the roots.
fn parents() -> Vec<(PathBuf, Kind)> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mut parents = Vec::new();
    for mount in mounts.lines() {
        let words: Vec<&str> = mount.split(' ').collect();
        let (kind, controller) = match words[..] {
            [_, _, "cgroup", options, ..] if options.split(',').any(|option| option == "memory") => {
                (Kind::Old, "memory")
            }
            [_, _, "cgroup2", ..] => (Kind::Unified, ""),
            _ => continue,
        };
        let root = Path::new(words[1]);
        for line in own.lines() {
            let mut parts = line.splitn(3, ':').skip(1);
            if let (Some(controllers), Some(path)) = (parts.next(), parts.next())
                && controllers.split(',').any(|name| name == controller)
            {
                // Beside ours: a group with members may have no children that count memory.
                let ours = root.join(path.trim_start_matches('/'));
                parents.extend(
                    ours.parent().filter(|parent| parent.starts_with(root)).map(|path| (path.to_owned(), kind)),
                );
            }
        }
        parents.push((root.to_owned(), kind));
    }
    parents
}
