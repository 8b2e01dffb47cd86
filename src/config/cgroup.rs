//! The CPU and memory limits of the control group this process runs in, cgroup v2 or v1.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// What the tightest limits on the way to the root allow; `None` without a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Limits {
    /// CPUs' worth of time.
    pub(super) cpus: Option<f64>,
    /// Bytes of memory.
    pub(super) memory: Option<u64>,
}

/// `root` is `/`, or in tests a directory that looks like it.
pub(super) fn limits(root: &Path) -> Limits {
    let membership = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let mounts = root.join("sys/fs/cgroup");
    Limits {
        cpus: directories(&membership, &mounts, "cpu").iter().filter_map(|dir| cpus_of(dir)).reduce(f64::min),
        memory: directories(&membership, &mounts, "memory").iter().filter_map(|dir| memory_of(dir)).min(),
    }
}

/// Where a controller keeps the limits of this process.
fn directories(membership: &str, mounts: &Path, controller: &str) -> Vec<PathBuf> {
    let mut directories = Vec::new();
    for line in membership.lines() {
        // hierarchy-ID:controller-list:path; the list is empty for cgroup v2
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else {
            continue;
        };
        if controllers.is_empty() {
            with_ancestors(mounts, path, &mut directories);
        } else if controllers.split(',').any(|name| name == controller) {
            // Mounted under the full list or a link of the controller's own name, depending on the distribution.
            with_ancestors(&mounts.join(controllers), path, &mut directories);
            with_ancestors(&mounts.join(controller), path, &mut directories);
        }
    }
    directories
}

/// `mount/a/b`, `mount/a` and `mount` for the path `/a/b`. Inside a container the path may be the host's and lead
/// nowhere; the container's own group is then mounted at the top.
fn with_ancestors(mount: &Path, path: &str, directories: &mut Vec<PathBuf>) {
    let relative = Path::new(path.trim_start_matches('/'));
    directories.extend(relative.ancestors().map(|ancestor| mount.join(ancestor)));
}

fn cpus_of(directory: &Path) -> Option<f64> {
    let read = |name: &str| fs::read_to_string(directory.join(name)).ok();
    let (quota, period) = match read("cpu.max") {
        Some(line) => {
            let mut fields = line.split_ascii_whitespace();
            (fields.next()?.to_owned(), fields.next()?.to_owned())
        }
        None => (read("cpu.cfs_quota_us")?, read("cpu.cfs_period_us")?),
    };
    // "max" in v2 and -1 in v1 mean no limit.
    let quota: f64 = quota.trim().parse().ok().filter(|quota| *quota > 0.0)?;
    let period: f64 = period.trim().parse().ok().filter(|period| *period > 0.0)?;
    Some(quota / period)
}

fn memory_of(directory: &Path) -> Option<u64> {
    let read = |name: &str| fs::read_to_string(directory.join(name)).ok();
    // "max" in v2 and a number near 2^63 in v1 mean no limit.
    let limit = read("memory.max").or_else(|| read("memory.limit_in_bytes"))?;
    limit.trim().parse().ok().filter(|limit| (1..1 << 60).contains(limit))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory that looks like `/`, removed at the end.
    struct Root(PathBuf);

    impl Root {
        fn new(name: &str, files: &[(&str, &str)]) -> Self {
            let root = std::env::temp_dir().join(format!("slipring-cgroup-{}-{name}", std::process::id()));
            for (path, text) in files {
                let path = root.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            Self(root)
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn the_tightest_limit_on_the_way_to_the_root_counts() {
        for (name, files, expected) in [
            ("none", &[][..], None),
            ("v2", &[("proc/self/cgroup", "0::/\n"), ("sys/fs/cgroup/cpu.max", "200000 100000\n")], Some(2.0)),
            ("v2-max", &[("proc/self/cgroup", "0::/\n"), ("sys/fs/cgroup/cpu.max", "max 100000\n")], None),
            (
                "v2-nested",
                &[
                    ("proc/self/cgroup", "0::/pod/container\n"),
                    ("sys/fs/cgroup/pod/container/cpu.max", "400000 100000\n"),
                    ("sys/fs/cgroup/pod/cpu.max", "150000 100000\n"),
                ],
                Some(1.5),
            ),
            (
                "v1",
                &[
                    ("proc/self/cgroup", "5:memory:/x\n4:cpu,cpuacct:/host/path\n"),
                    ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "300000\n"),
                    ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
                ],
                Some(3.0),
            ),
            (
                "v1-none",
                &[
                    ("proc/self/cgroup", "4:cpu:/\n"),
                    ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n"),
                    ("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"),
                ],
                None,
            ),
            ("nonsense", &[("proc/self/cgroup", "x\n0::/\n"), ("sys/fs/cgroup/cpu.max", "a b\n")], None),
            ("zero", &[("proc/self/cgroup", "0::/\n"), ("sys/fs/cgroup/cpu.max", "100 0\n")], None),
        ] {
            let root = Root::new(name, files);
            assert_eq!(limits(&root.0).cpus, expected, "{name}");
        }
    }

    #[test]
    fn memory_is_limited_by_the_tightest_too() {
        for (name, files, expected) in [
            ("m-none", &[][..], None),
            ("m-v2", &[("proc/self/cgroup", "0::/\n"), ("sys/fs/cgroup/memory.max", "67108864\n")], Some(64 << 20)),
            ("m-v2-max", &[("proc/self/cgroup", "0::/\n"), ("sys/fs/cgroup/memory.max", "max\n")], None),
            (
                "m-v2-nested",
                &[
                    ("proc/self/cgroup", "0::/pod/container\n"),
                    ("sys/fs/cgroup/pod/container/memory.max", "max\n"),
                    ("sys/fs/cgroup/pod/memory.max", "1048576\n"),
                ],
                Some(1 << 20),
            ),
            (
                "m-v1",
                &[
                    ("proc/self/cgroup", "5:memory:/x\n4:cpu,cpuacct:/y\n"),
                    ("sys/fs/cgroup/memory/x/memory.limit_in_bytes", "134217728\n"),
                    ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
                ],
                Some(128 << 20),
            ),
        ] {
            let root = Root::new(name, files);
            assert_eq!(limits(&root.0).memory, expected, "{name}");
        }
    }
}
