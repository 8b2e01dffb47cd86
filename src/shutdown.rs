//! How it ends: signals, and the drain that SIGTERM begins.
//!
//! In a pod without native sidecars all containers get SIGTERM at once, and the application drains through this one: it
//! must go on accepting and serving until nobody comes any more.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep};

use crate::discovery::Triggers;
use crate::listener::Acceptor;

/// Nobody has been connected for so long: nobody will come any more. An application that connects for each request
/// looks idle between two.
const QUIET: Duration = Duration::from_secs(5);
/// How often it is looked who is connected.
const LOOK: Duration = Duration::from_millis(50);

/// What the outside tells the process.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
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
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the handlers cannot be installed.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// The next SIGTERM or SIGINT; a SIGHUP before it has the source of nodes read again.
    pub async fn next(&mut self, triggers: &Triggers) -> Order {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return Order::Drain,
                _ = self.interrupt.recv() => return Order::Finish,
                _ = self.hangup.recv() => {
                    tracing::info!("reading the source of nodes again");
                    triggers.reload.notify_one();
                }
            }
        }
    }
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
