//! What is told of a certificate.

use rustls::pki_types::CertificateDer;
use x509_cert::der::{Decode as _, Encode as _};

/// What is told of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Its subject, printable (RFC 4514).
    pub subject: String,
    /// When it expires, in seconds of Unix time.
    pub expires_at: u64,
}

impl Certificate {
    /// Reads one. Nothing for what cannot be read: whether it is to be trusted is not judged here.
    pub(super) fn read(der: &CertificateDer<'_>) -> Option<Self> {
        let read = x509_cert::Certificate::from_der(der).ok()?;
        let fields = read.tbs_certificate;
        let subject = fields.subject.to_string();
        // Many have alternative names alone, and an empty subject.
        let subject = if fields.subject.to_der().is_ok_and(|der| der.len() > 2) { subject } else { "-".to_owned() };
        let subject = subject.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] });
        let subject = subject.take(MAX_SUBJECT).collect();
        Some(Self { subject, expires_at: fields.validity.not_after.to_unix_duration().as_secs() })
    }

    /// When it expires, as people write it: `2030-01-31T12:00:00Z`.
    #[must_use]
    pub fn expiry(&self) -> String {
        let at = std::time::Duration::from_secs(self.expires_at);
        x509_cert::der::DateTime::from_unix_duration(at)
            .map_or_else(|_| self.expires_at.to_string(), |at| at.to_string())
    }
}

/// Longest subject that is shown, in characters.
const MAX_SUBJECT: usize = 200;
