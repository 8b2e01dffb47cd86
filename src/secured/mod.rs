//! Nodes that are spoken to by TLS, or that want to be logged in to: what is needed for that, where it comes from, and how
//! a connection is made with it.
//!
//! - `options`: what the operator said. Files are named there, never what is in them.
//! - `credentials`: the files, read and checked; rustls' configuration made of them.
//! - `login`: user and password, and how they are said.
//! - `certificate`: what is told of a certificate: subject, and when it expires.
//! - `dial`: the handshake and the log-in of one connection; the worker's lanes, probes, the discovery endpoint and
//!   the commands all go by it.
//! - `watch`: the files change while we run.
//! - `ageing`: certificates of nodes near their end are looked at again.
//!
//! Nothing here is needed for plain nodes: [`Secured::default`] is empty, and opens a connection by doing nothing.

mod ageing;
mod certificate;
mod credentials;
mod dial;
mod login;
mod options;
mod watch;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use rustls::ClientConnection;
use tokio::sync::watch::{Receiver, Sender};

use crate::metrics::{TlsNumbers, Unsecured};
pub use ageing::look_after;
pub use certificate::Certificate;
use credentials::Credentials;
pub use dial::{Security, Stream, unsecured};
pub use options::{Options, TlsOptions};
pub use watch::watch;

/// How nodes are secured; the same for all of them. Cheap to clone; what is shown of it are the options alone.
#[derive(Clone, Default)]
pub struct Secured(Option<Arc<Inner>>);

struct Inner {
    options: Options,
    current: ArcSwap<Credentials>,
    /// Moves with each change of the credentials. A `watch` loses no wake.
    changed: Sender<u64>,
    counts: Counts,
}

/// What is counted of handshakes; by any thread, once for each connection.
#[derive(Debug, Default)]
struct Counts {
    full: AtomicU64,
    resumed: AtomicU64,
    /// In the order of [`Unsecured::WORDS`].
    failed: [AtomicU64; Unsecured::WORDS.len()],
    /// When the certificate expires that a node showed last, in seconds of Unix time. Locked at each handshake, and to
    /// report.
    expires_at: Mutex<HashMap<Arc<str>, u64>>,
}

// === impl Secured ===

impl Secured {
    /// Reads and checks what the options name.
    ///
    /// # Errors
    /// One line that names the file and what is wrong with it, never what is in it.
    pub fn new(options: Options) -> Result<Self, String> {
        if options.is_plain() {
            return Ok(Self::default());
        }
        let current = Credentials::load(&options)?;
        Ok(Self(Some(Arc::new(Inner {
            options,
            current: ArcSwap::from_pointee(current),
            changed: Sender::new(0),
            counts: Counts::default(),
        }))))
    }

    /// Whether nodes are spoken to as they are: nothing is to be done for a connection.
    #[must_use]
    pub const fn is_plain(&self) -> bool {
        self.0.is_none()
    }

    /// Whether nodes are spoken to by TLS.
    #[must_use]
    pub fn has_tls(&self) -> bool {
        self.0.as_ref().is_some_and(|inner| inner.options.tls.is_some())
    }

    /// Whether nodes are logged in to.
    #[must_use]
    pub fn logs_in(&self) -> bool {
        self.0.as_ref().is_some_and(|inner| inner.current.load().login.is_some())
    }

    /// Whether a node's answer to `get auth` shows user and password: it has no authentication, and took them for a value.
    #[must_use]
    pub fn is_login(&self, answer: &[u8]) -> bool {
        let current = self.0.as_ref().map(|inner| inner.current.load());
        current.is_some_and(|current| current.login.as_ref().is_some_and(|login| login.is_value_of(answer)))
    }

    /// Is told of every change of the credentials from now on; nothing where there are none.
    #[must_use]
    pub fn subscribe(&self) -> Option<Receiver<u64>> {
        self.0.as_ref().map(|inner| inner.changed.subscribe())
    }

    /// The nodes whose certificate, as it was last shown, has expired by `at`, in seconds of Unix time.
    fn expired_by(&self, at: u64) -> Vec<Arc<str>> {
        let Some(inner) = &self.0 else { return Vec::new() };
        inner
            .counts
            .expires_at()
            .iter()
            .filter(|(_, expiry)| **expiry <= at)
            .map(|(node, _)| Arc::clone(node))
            .collect()
    }

    /// What is shown of it by metrics; nothing without TLS. Of nodes that are not `wanted` nothing is kept.
    #[must_use]
    pub fn numbers(&self, wanted: impl Fn(&str) -> bool) -> Option<TlsNumbers> {
        let inner = self.0.as_ref()?;
        let tls = inner.options.tls.as_ref()?;
        let Counts { full, resumed, failed, .. } = &inner.counts;
        let failed = Unsecured::WORDS.into_iter().zip(failed).map(|(word, count)| (word, "none", count.load(Relaxed)));
        let mut expires_at = inner.counts.expires_at();
        expires_at.retain(|node, _| wanted(node));
        let mut nodes: Vec<(String, u64)> = expires_at.iter().map(|(node, at)| (node.to_string(), *at)).collect();
        nodes.sort_unstable();
        Some(TlsNumbers {
            handshakes: [("ok", "full", full.load(Relaxed)), ("ok", "resumed", resumed.load(Relaxed))]
                .into_iter()
                .chain(failed)
                .collect(),
            nodes,
            client: inner.current.load().expires_at,
            is_insecure: tls.is_insecure,
        })
    }
}

impl fmt::Debug for Secured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Secured").field(&self.0.as_ref().map(|inner| &inner.options)).finish()
    }
}

impl PartialEq for Secured {
    /// Whether it was made of the same options.
    fn eq(&self, other: &Self) -> bool {
        let options = |this: &Self| this.0.as_ref().map(|inner| inner.options.clone());
        options(self) == options(other)
    }
}

// === impl Counts ===

impl Counts {
    fn expires_at(&self) -> MutexGuard<'_, HashMap<Arc<str>, u64>> {
        self.expires_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A node has shown its certificate.
    fn shown(&self, node: &Arc<str>, session: &ClientConnection) {
        let shown = session.peer_certificates().and_then(<[_]>::first).and_then(Certificate::read);
        if let Some(certificate) = shown {
            self.expires_at().insert(Arc::clone(node), certificate.expires_at);
        }
    }

    fn failed(&self, why: Unsecured) {
        if let Some(count) = why.place().and_then(|place| self.failed.get(place)) {
            count.fetch_add(1, Relaxed);
        }
    }
}
