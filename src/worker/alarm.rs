//! What wakes a worker for its ticks, in place of a timer of the runtime.
//!
//! A timer of the runtime is a time-out of each wait for events, which the kernel sets up before it and takes down after
//! it, twice in a request of a lone client. This one is set once a tick, and the waits have none.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::sleep;

/// A timer of the kernel, where it has such: there is one tick at a time.
#[derive(Debug)]
pub(super) struct Alarm(Option<AsyncFd<OwnedFd>>);

impl Alarm {
    /// On the worker's own runtime. Where none can be made, the runtime's timers do.
    #[expect(
        deprecated,
        reason = "what replaces it is `unsafe`, for types that may not own what they name; this one does"
    )]
    pub(super) fn new() -> Self {
        Self(timer().and_then(|timer| AsyncFd::with_interest(timer, Interest::READABLE)).ok())
    }

    /// Waits so long.
    pub(super) async fn wait(&self, wait: Duration) {
        if let Some(timer) = &self.0
            && set(timer.get_ref(), wait).is_ok()
            && let Ok(mut rung) = timer.readable().await
        {
            // It is not read: to set it again is enough.
            return rung.clear_ready();
        }
        sleep(wait).await;
    }
}

#[cfg(target_os = "linux")]
fn timer() -> io::Result<OwnedFd> {
    use rustix::time::{TimerfdClockId, TimerfdFlags, timerfd_create};
    Ok(timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?)
}

#[cfg(target_os = "linux")]
fn set(timer: &OwnedFd, wait: Duration) -> io::Result<()> {
    use rustix::time::{Itimerspec, TimerfdTimerFlags, Timespec, timerfd_settime};
    // Zero would be never.
    let wait = wait.max(Duration::from_nanos(1));
    let it_value = Timespec::try_from(wait).map_err(io::Error::other)?;
    let once = Itimerspec { it_interval: Timespec::default(), it_value };
    timerfd_settime(timer, TimerfdTimerFlags::empty(), &once)?;
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn timer() -> io::Result<OwnedFd> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(not(target_os = "linux"))]
fn set(_: &OwnedFd, _: Duration) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
