//! How it ends: signals, and the drain that SIGTERM begins.
//!
//! In a pod without native sidecars all containers get SIGTERM at once, and the application drains through this one: it
//! must go on accepting and serving until nobody comes any more.

use std::fs::{self, File};
use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep};

use crate::discovery::Triggers;
use crate::listener::Acceptor;

/// Nobody has been connected for so long: nobody will come any more. An application that connects for each request
/// looks idle between two.
const QUIET: Duration = Duration::from_secs(5);
/// The same signal again within so long is the same order: who ends a process group may send it to each and to all.
const SAME_ORDER: Duration = Duration::from_secs(1);
/// How often, and how many times, it is looked whether the terminal has gone with a SIGHUP: the kernel sends it before.
const TERMINAL_LOOK: Duration = Duration::from_millis(50);
const TERMINAL_LOOKS: usize = 10;
/// How often it is looked who is connected.
const LOOK: Duration = Duration::from_millis(50);

/// What the outside tells the process.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    /// A person runs it on a terminal, and it ends with that.
    is_on_terminal: bool,
}

/// How it is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// SIGTERM: when the clients have gone.
    Drain,
    /// SIGINT, a person at a terminal: when what is in flight is answered.
    Finish,
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// No client came for a while, or none is connected when the wait is over.
    Quiet,
    /// The longest wait is over, and so many clients are connected.
    TimedOut(u64),
}

// === impl Signals ===

impl Signals {
    /// Must be called within a tokio runtime. `ends_with_terminal`: a SIGHUP that comes because the controlling terminal
    /// has gone is an order to end, unless SIGHUP was ignored from the start (`nohup`).
    ///
    /// # Errors
    /// When the handlers cannot be installed.
    pub fn listen(ends_with_terminal: bool) -> io::Result<Self> {
        let is_on_terminal = ends_with_terminal && has_terminal() && !ignores_hangups();
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            is_on_terminal,
        })
    }

    /// The next SIGTERM or SIGINT; a SIGHUP before it has the source of nodes read again.
    pub async fn next(&mut self, triggers: &Triggers) -> Order {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return Order::Drain,
                _ = self.interrupt.recv() => return Order::Finish,
                _ = self.hangup.recv() => {
                    if self.is_on_terminal && terminal_goes().await {
                        return Order::Finish;
                    }
                    tracing::info!("reading the source of nodes again");
                    triggers.reload.notify_one();
                }
            }
        }
    }

    /// Until somebody is impatient: told to end once more, after this order.
    pub async fn again(&mut self, first: Order, triggers: &Triggers) {
        let first_at = Instant::now();
        while is_same(first, self.next(triggers).await, first_at.elapsed()) {
            tracing::info!("the same signal came again within a second: ignored");
        }
    }
}

/// Whether a second order, so long after the first, is the first one again.
fn is_same(first: Order, second: Order, between: Duration) -> bool {
    first == second && between < SAME_ORDER
}

/// Whether the process has a controlling terminal.
fn has_terminal() -> bool {
    File::open("/dev/tty").is_ok()
}

/// Whether the terminal goes, now that there was a SIGHUP.
async fn terminal_goes() -> bool {
    for _ in 0..TERMINAL_LOOKS {
        if !has_terminal() {
            return true;
        }
        sleep(TERMINAL_LOOK).await;
    }
    false
}

/// Whether SIGHUP is ignored (proc_pid_status(5)): to be asked before it is listened for.
fn ignores_hangups() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    // SIGHUP is 1, and so the first bit.
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

/// Waits until no client has been connected for a while, however shortly, or for `longest`.
pub async fn drain(acceptor: &Acceptor, longest: Duration) -> Drained {
    let end = Instant::now() + longest;
    let mut seen = acceptor.handed();
    let mut quiet_since = Instant::now();
    loop {
        let now = Instant::now();
        let (clients, handed) = (acceptor.clients(), acceptor.handed());
        if clients > 0 || handed != seen {
            (seen, quiet_since) = (handed, now);
        }
        if now.duration_since(quiet_since) >= QUIET {
            return Drained::Quiet;
        }
        if now >= end {
            return if clients > 0 { Drained::TimedOut(clients) } else { Drained::Quiet };
        }
        sleep(LOOK.min(end - now)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_signal_within_a_second_is_no_impatience() {
        let millis = Duration::from_millis;
        assert!(is_same(Order::Drain, Order::Drain, Duration::ZERO));
        assert!(is_same(Order::Finish, Order::Finish, millis(999)));
        assert!(!is_same(Order::Drain, Order::Drain, millis(1000)));
        assert!(!is_same(Order::Drain, Order::Finish, Duration::ZERO), "a person, after a supervisor");
    }
}
