//! `slipring reload`: SIGHUP to a running sidecar. The image has neither shell nor `kill`.

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

/// Why the signal could not be sent.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// Not a process id.
    #[error("{0} is not a process id")]
    NotAPid(i32),
    /// The kernel refused.
    #[error("cannot signal process {0}: {1}")]
    Refused(i32, Errno),
}

/// Sends SIGHUP.
///
/// # Errors
/// When there is no such process, or it belongs to someone else.
pub fn run(pid: i32) -> Result<(), ReloadError> {
    let target = Pid::from_raw(pid).filter(|_| pid > 0).ok_or(ReloadError::NotAPid(pid))?;
    kill_process(target, Signal::HUP).map_err(|error| ReloadError::Refused(pid, error))
}
