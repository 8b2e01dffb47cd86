//! What stands beside figures: the date and the machine.

use std::fs;
use std::time::SystemTime;

use x509_cert::der::DateTime;

/// The date, in UTC, as 2026-11-30.
pub(crate) fn today() -> String {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    DateTime::from_unix_duration(since).map_or_else(|_| "no date".to_owned(), |date| date.to_string()[..10].to_owned())
}

/// Processor and kernel.
pub(crate) fn machine() -> String {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map(|(_, model)| model);
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!(
        "{count} × {}, Linux {}",
        model.unwrap_or("a processor without a name"),
        kernel.trim().split('-').next().unwrap_or_default()
    )
}
