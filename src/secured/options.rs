//! What the operator said about TLS and authentication.

use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How nodes are secured. It names files, and holds nothing of what is in them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// TLS towards nodes and the discovery endpoint.
    pub tls: Option<TlsOptions>,
    /// File with `user:password`.
    pub auth_file: Option<PathBuf>,
}

/// How TLS is spoken.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsOptions {
    /// File with the certificates that are trusted; those of the system when absent.
    pub ca: Option<PathBuf>,
    /// Files with our own certificate and its key.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// The name that every node's certificate is to have, in place of its own. Valid.
    pub name: Option<Arc<str>>,
    /// Certificates are not verified.
    pub is_insecure: bool,
}

impl Options {
    /// Whether nothing is to be done.
    #[must_use]
    pub const fn is_plain(&self) -> bool {
        self.tls.is_none() && self.auth_file.is_none()
    }

    /// Each option that names a file, with it.
    pub(super) fn files(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        let tls = self.tls.as_ref();
        let pair = tls.and_then(|tls| tls.certificate.as_ref());
        [
            tls.and_then(|tls| tls.ca.as_deref()).map(|path| ("node-tls-ca", path)),
            pair.map(|(certificate, _)| ("node-tls-cert", certificate.as_path())),
            pair.map(|(_, key)| ("node-tls-key", key.as_path())),
            self.auth_file.as_deref().map(|path| ("node-auth-file", path)),
        ]
        .into_iter()
        .flatten()
    }

    /// The files that others than their owner's group may read, though they hold a secret: the option of each.
    #[must_use]
    pub fn open_to_all(&self) -> Vec<(&'static str, PathBuf)> {
        use std::os::unix::fs::PermissionsExt as _;
        let secret = |option: &str| ["node-tls-key", "node-auth-file"].contains(&option);
        let is_open =
            |path: &Path| std::fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o007 != 0);
        let files = self.files().filter(|(option, path)| secret(option) && is_open(path));
        files.map(|(option, path)| (option, path.to_owned())).collect()
    }
}
