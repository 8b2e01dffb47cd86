//! The files, read and checked, and what is made of them.

use std::fmt;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::OFlags;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::certificate::Certificate;
use super::login::Login;
use super::{Options, TlsOptions};
use crate::files::read_regular;
use crate::phrase;
use crate::routing::MAX_NODES;

/// So many tickets of a server rustls keeps.
const TICKETS: usize = 8;

/// What the files hold, as it was read. They may be secret: nothing shows it.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Contents(Vec<(&'static str, Vec<u8>)>);

/// What connections are made with.
pub(super) struct Credentials {
    /// What it was made of.
    pub(super) contents: Contents,
    pub(super) tls: Option<Arc<ClientConfig>>,
    pub(super) login: Option<Login>,
    /// When our own certificate expires, in seconds of Unix time.
    pub(super) expires_at: Option<u64>,
}

// === impl Contents ===

impl Contents {
    /// Reads each file.
    pub(super) fn read(options: &Options) -> Result<Self, String> {
        let read = |(option, path): (&'static str, &Path)| {
            let bytes = read_regular(path, OFlags::empty());
            let bytes = bytes.map_err(|error| {
                if error.kind() == ErrorKind::NotFound && path.as_os_str().as_encoded_bytes().contains(&b':') {
                    // It may be the log-in itself.
                    return format!("--{option}: it names no file that is there (its value is not shown)");
                }
                format!("--{option}: cannot read {}: {}", path.display(), phrase::of(&error))
            })?;
            Ok((option, bytes))
        };
        options.files().map(read).collect::<Result<_, String>>().map(Self)
    }

    fn of(&self, option: &str) -> Option<&[u8]> {
        self.0.iter().find(|(name, _)| *name == option).map(|(_, bytes)| bytes.as_slice())
    }
}

impl fmt::Debug for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(option, _)| option)).finish()
    }
}

// === impl Credentials ===

impl Credentials {
    pub(super) fn load(options: &Options) -> Result<Self, String> {
        Self::of(options, Contents::read(options)?)
    }

    /// Makes them of what was read.
    pub(super) fn of(options: &Options, contents: Contents) -> Result<Self, String> {
        let named = |option: &str, problem: &dyn fmt::Display| {
            let path = options.files().find(|(name, _)| *name == option).map(|(_, path)| path.display().to_string());
            format!("--{option}: {}: {problem}", path.unwrap_or_default())
        };
        let login = contents.of("node-auth-file").map(Login::read).transpose();
        let login = login.map_err(|problem| named("node-auth-file", &problem))?;
        let Some(tls) = &options.tls else {
            return Ok(Self { contents, tls: None, login, expires_at: None });
        };
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| format!("--node-tls: {error}"))?;
        let builder = if tls.is_insecure {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Unverified(provider)))
        } else {
            let roots = roots(tls, contents.of("node-tls-ca")).map_err(|problem| named("node-tls-ca", &problem))?;
            builder.with_root_certificates(roots)
        };
        let certified = contents.of("node-tls-cert").is_some();
        let (mut config, expires_at) = match (contents.of("node-tls-cert"), contents.of("node-tls-key")) {
            (Some(chain), Some(key)) => {
                let chain = certificates(chain).map_err(|problem| named("node-tls-cert", &problem))?;
                let expires_at = chain.first().and_then(Certificate::read).map(|certificate| certificate.expires_at);
                let key = PrivateKeyDer::from_pem_slice(key)
                    .map_err(|_| named("node-tls-key", &"it holds no private key in PEM (one without a passphrase)"))?;
                let config = builder.with_client_auth_cert(chain, key);
                (config.map_err(|error| named("node-tls-key", &mismatch(&error)))?, expires_at)
            }
            _ => (builder.with_no_client_auth(), None),
        };
        // Nothing is negotiated: memcached has no name for its protocol.
        config.alpn_protocols.clear();
        // Sessions are resumed: for each node as many as rustls keeps of one (its default is for 32 nodes). But a
        // memcached that asks for client certificates (1.6.18; any OpenSSL server without a session id context) gives
        // tickets, and ends the connection that shows it one by alert 80.
        config.resumption = match certified {
            true => Resumption::disabled(),
            false => Resumption::in_memory_sessions(MAX_NODES * TICKETS),
        };
        Ok(Self { contents, tls: Some(Arc::new(config)), login, expires_at })
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("contents", &self.contents).finish_non_exhaustive()
    }
}

/// Why a key and a certificate do not go together; rustls says it for programmers.
fn mismatch(error: &Error) -> String {
    match error {
        Error::InconsistentKeys(_) => "the key is not that of the certificate in --node-tls-cert".to_owned(),
        error => format!("the key cannot be used: {error}"),
    }
}

/// All certificates of a PEM file; at least one.
fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match all {
        Ok(all) if all.is_empty() => Err("it holds no certificate in PEM".to_owned()),
        Ok(all) => Ok(all),
        Err(error) => Err(format!("it is no PEM: {error}")),
    }
}

/// Whom we trust: those of the file; else the system's; else, in an image that has none, those that Mozilla trusted when
/// this was built.
fn roots(tls: &TlsOptions, ca: Option<&[u8]>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    if let (Some(_), Some(ca)) = (&tls.ca, ca) {
        for certificate in certificates(ca)? {
            roots.add(certificate).map_err(|error| format!("a certificate in it cannot be trusted: {error}"))?;
        }
        return Ok(roots);
    }
    // Some that a system trusts may be too old to be read; the others count.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    Ok(roots)
}

/// Takes every certificate (`--node-tls-insecure`). That who shows it has its key is verified all the same.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
