//! The handshake and the log-in of one connection that is made.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{AlertDescription, CertificateError, ClientConfig, Error, HandshakeKind, InvalidMessage};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::Secured;
use super::certificate::Certificate;
use super::login::Login;
use crate::metrics::Unsecured;

/// Longest answer to a log-in, in bytes.
const MAX_ANSWER: usize = 512;

/// A connection to a node, secured or not.
#[derive(Debug)]
pub enum Stream {
    /// As it is.
    Plain(TcpStream),
    /// By TLS, whose handshake is over.
    Tls(Box<TlsStream<TcpStream>>),
}

/// What was agreed on, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Security {
    /// Such as `TLSv1.3`.
    pub version: String,
    /// Such as `TLS13_AES_256_GCM_SHA384`.
    pub cipher: String,
    /// What the node showed.
    pub certificate: Option<Certificate>,
}

/// Why an attempt within a time failed.
enum Ended {
    Late,
    Failed(io::Error),
}

// === impl Secured ===

impl Secured {
    /// Makes a connection to a node a secured one: its handshake, then its log-in, which are over by `ends_at` or are given
    /// up. `limit` is what that was reckoned from, for whoever is told; `host` is what the certificate is to be for, `node`
    /// under which name its expiry is shown.
    ///
    /// # Errors
    /// What failed. How it ended is counted.
    pub async fn open(
        &self,
        stream: TcpStream,
        (host, node): (&str, Option<&Arc<str>>),
        ends_at: Instant,
        limit: Duration,
    ) -> Result<Stream, Unsecured> {
        let Some(inner) = &self.0 else { return Ok(Stream::Plain(stream)) };
        // A change meanwhile is for the next one.
        let credentials = inner.current.load_full();
        let mut stream = match &credentials.tls {
            None => Stream::Plain(stream),
            Some(config) => {
                let name = inner.options.tls.as_ref().and_then(|tls| tls.name.as_deref()).unwrap_or(host);
                let shaken = match ServerName::try_from(name.to_owned()) {
                    Err(_) => Err(Unsecured::WrongName),
                    Ok(name) => {
                        let handshake = TlsConnector::from(Arc::clone(config)).connect(name, stream);
                        within(ends_at, handshake).await.map_err(|ended| match ended {
                            Ended::Late => Unsecured::Unanswered(limit),
                            Ended::Failed(error) => unsecured(&error).unwrap_or(Unsecured::HungUp),
                        })
                    }
                };
                let tls = shaken.inspect_err(|why| inner.counts.failed(*why))?;
                let (_, session) = tls.get_ref();
                let resumed = session.handshake_kind() == Some(HandshakeKind::Resumed);
                let count = if resumed { &inner.counts.resumed } else { &inner.counts.full };
                count.fetch_add(1, Relaxed);
                // A session that is resumed remembers what was shown when it began.
                if let (Some(node), false) = (node, resumed) {
                    inner.counts.shown(node, session);
                }
                Stream::Tls(Box::new(tls))
            }
        };
        if let Some(login) = &credentials.login {
            let why = match within(ends_at, log_in(&mut stream, login)).await {
                Ok(answer) if answer == b"STORED\r\n" => return Ok(stream),
                Ok(answer) if answer.starts_with(b"CLIENT_ERROR") => Unsecured::LoginRefused,
                Ok(_) => Unsecured::LoginMisunderstood,
                Err(Ended::Late) => Unsecured::LoginUnanswered(limit),
                // Of TLS 1.3 the node says only now that it does not want us.
                Err(Ended::Failed(error)) => unsecured(&error).unwrap_or(Unsecured::LoginHungUp),
            };
            inner.counts.failed(why);
            return Err(why);
        }
        Ok(stream)
    }

    /// Looks at the certificate that a node shows now: a handshake, and nothing else. Long after a connection was made the
    /// node may have another one.
    ///
    /// # Errors
    /// What failed; nothing is counted.
    pub async fn look(
        &self,
        stream: TcpStream,
        (host, node): (&str, &Arc<str>),
        limit: Duration,
    ) -> Result<(), Unsecured> {
        let Some(inner) = &self.0 else { return Ok(()) };
        let Some(config) = inner.current.load_full().tls.clone() else { return Ok(()) };
        let name = inner.options.tls.as_ref().and_then(|tls| tls.name.as_deref()).unwrap_or(host);
        let name = ServerName::try_from(name.to_owned()).map_err(|_| Unsecured::WrongName)?;
        let mut config = ClientConfig::clone(&config);
        config.resumption = Resumption::disabled();
        let handshake = TlsConnector::from(Arc::new(config)).connect(name, stream);
        let mut tls = within(Instant::now() + limit, handshake).await.map_err(|ended| match ended {
            Ended::Late => Unsecured::Unanswered(limit),
            Ended::Failed(error) => unsecured(&error).unwrap_or(Unsecured::HungUp),
        })?;
        inner.counts.shown(node, tls.get_ref().1);
        // Our last word; whether it arrives does not matter.
        let _ = within(Instant::now() + limit, tls.shutdown()).await;
        Ok(())
    }

    /// Counts a connection that the node refused after its handshake, as TLS 1.3 has it.
    pub fn refused(&self, why: Unsecured) {
        if let Some(inner) = &self.0 {
            inner.counts.failed(why);
        }
    }
}

async fn within<T>(ends_at: Instant, attempt: impl Future<Output = io::Result<T>>) -> Result<T, Ended> {
    timeout_at(ends_at, attempt).await.map_err(|_| Ended::Late)?.map_err(Ended::Failed)
}

/// Says who we are, and returns the answer: nothing else may be said before it is there.
async fn log_in(stream: &mut Stream, login: &Login) -> io::Result<Vec<u8>> {
    stream.write_all(login.request()).await?;
    stream.flush().await?;
    let mut answer = Vec::with_capacity(64);
    while !answer.ends_with(b"\n") && answer.len() < MAX_ANSWER {
        if stream.read_buf(&mut answer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(answer)
}

/// What TLS has against a connection; nothing where the connection itself broke.
#[must_use]
pub fn unsecured(error: &io::Error) -> Option<Unsecured> {
    error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()).map(Unsecured::from)
}

impl From<&Error> for Unsecured {
    fn from(error: &Error) -> Self {
        match error {
            Error::InvalidCertificate(problem) => match problem {
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Self::NotYetValid,
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => Self::WrongName,
                CertificateError::UnknownIssuer | CertificateError::BadSignature => Self::UnknownIssuer,
                CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => Self::WrongPurpose,
                // rustls has no names for these, and passes on what the verifier said.
                CertificateError::Other(other) => match other.0.downcast_ref::<webpki::Error>() {
                    Some(webpki::Error::CaUsedAsEndEntity) => Self::CaCertificate,
                    Some(webpki::Error::UnsupportedCertVersion) => Self::VersionOne,
                    _ => Self::BadCertificate,
                },
                _ => Self::BadCertificate,
            },
            Error::InvalidMessage(
                InvalidMessage::InvalidContentType
                | InvalidMessage::UnknownProtocolVersion
                | InvalidMessage::MessageTooLarge
                | InvalidMessage::InvalidEmptyPayload,
            ) => Self::NotTls,
            Error::AlertReceived(alert) => match alert {
                AlertDescription::CertificateRequired
                | AlertDescription::BadCertificate
                | AlertDescription::UnsupportedCertificate
                | AlertDescription::CertificateRevoked
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateUnknown
                | AlertDescription::NoCertificate
                | AlertDescription::UnknownCA => Self::ClientCertificate,
                AlertDescription::ProtocolVersion | AlertDescription::InsufficientSecurity => Self::NothingInCommon,
                other => Self::Refused(u8::from(*other)),
            },
            Error::PeerIncompatible(_) => Self::NothingInCommon,
            Error::NoCertificatesPresented => Self::BadCertificate,
            _ => Self::Failed,
        }
    }
}

// === impl Stream ===

impl Stream {
    /// The connection below.
    #[must_use]
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }

    /// What was agreed on; nothing of a plain connection.
    #[must_use]
    pub fn security(&self) -> Option<Security> {
        let Self::Tls(tls) = self else { return None };
        let (_, session) = tls.get_ref();
        let version = session.protocol_version()?.as_str()?;
        let cipher = session.negotiated_cipher_suite()?.suite().as_str()?;
        Some(Security {
            version: version.replace('_', "."),
            cipher: cipher.to_owned(),
            certificate: session.peer_certificates().and_then(<[_]>::first).and_then(Certificate::read),
        })
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
