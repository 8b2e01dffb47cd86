//! Why a connection to a node was not secured: what TLS, or the log-in, came to.

use std::fmt;
use std::time::Duration;

use super::Span;

/// Why TLS or the log-in failed on a connection that was made. The phrase follows "node is down: ".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsecured {
    /// The node's certificate, or one above it, is no longer valid.
    Expired,
    /// It is not valid yet: often a clock is wrong.
    NotYetValid,
    /// It is for other names.
    WrongName,
    /// It is signed by nobody who is trusted.
    UnknownIssuer,
    /// It is the certificate of an authority, which is to sign those of servers.
    CaCertificate,
    /// It is of X.509 version 1, which has no room for the names that it is for.
    VersionOne,
    /// It is for something else than servers (its extended key usage).
    WrongPurpose,
    /// It is another certificate that cannot be accepted.
    BadCertificate,
    /// What answered does not speak TLS.
    NotTls,
    /// The handshake was not completed within so long.
    Unanswered(Duration),
    /// The node hung up during the handshake.
    HungUp,
    /// The node wants a certificate of ours, or another one.
    ClientCertificate,
    /// The node and we have no version of TLS or cipher in common.
    NothingInCommon,
    /// The node refused for another reason: the number of its alert (RFC 8446, section 6).
    Refused(u8),
    /// TLS failed otherwise.
    Failed,
    /// The log-in was not answered within so long.
    LoginUnanswered(Duration),
    /// The node hung up when it was logged in to.
    LoginHungUp,
    /// User or password are wrong.
    LoginRefused,
    /// The log-in was answered by something else.
    LoginMisunderstood,
}

impl Unsecured {
    /// The results that handshakes are counted by, besides `ok`.
    pub const WORDS: [&'static str; 6] = ["certificate", "not_tls", "timeout", "closed", "refused", "failed"];

    /// Its place among [`Self::WORDS`]; nothing for those of the log-in, which follows a good handshake.
    #[must_use]
    pub const fn place(self) -> Option<usize> {
        Some(match self {
            Self::Expired
            | Self::NotYetValid
            | Self::WrongName
            | Self::UnknownIssuer
            | Self::CaCertificate
            | Self::VersionOne
            | Self::WrongPurpose
            | Self::BadCertificate => 0,
            Self::NotTls => 1,
            Self::Unanswered(_) => 2,
            Self::HungUp => 3,
            Self::ClientCertificate | Self::NothingInCommon | Self::Refused(_) => 4,
            Self::Failed => 5,
            Self::LoginUnanswered(_) | Self::LoginHungUp | Self::LoginRefused | Self::LoginMisunderstood => {
                return None;
            }
        })
    }

    /// Whether waiting does not mend it: a setting is wrong, here or at the node.
    #[must_use]
    pub const fn is_mistake(self) -> bool {
        !matches!(
            self,
            Self::Unanswered(_) | Self::HungUp | Self::Failed | Self::LoginUnanswered(_) | Self::LoginHungUp
        )
    }

    /// What it usually means, for whoever has to mend it.
    #[must_use]
    pub const fn hint(self) -> &'static str {
        match self {
            Self::Expired => "the certificate was not renewed, or the node has not read the new one (`refresh_certs`)",
            Self::NotYetValid => "the clock of this machine or of the one that made the certificate is wrong",
            Self::WrongName => {
                "the node is named otherwise than in its certificate: give that name with --node-tls-name, or list the \
                 node by it"
            }
            Self::UnknownIssuer => {
                "the certificate is signed by an authority of your own: name its file with --node-tls-ca"
            }
            Self::CaCertificate => {
                "the node was given the certificate of an authority (CA:TRUE, as `openssl req -x509` makes it): have that \
                 sign one for the node (CA:FALSE)"
            }
            Self::VersionOne => {
                "`openssl x509 -req` was run without -extfile: it takes a file with `subjectAltName=DNS:name of the node`"
            }
            Self::WrongPurpose => "the certificate's extendedKeyUsage leaves out serverAuth",
            Self::BadCertificate => {
                "`openssl s_client` shows the certificate; a critical extension or its form is unknown"
            }
            Self::NotTls => "the node has no TLS: leave out --node-tls, or it is another port",
            Self::Unanswered(_) | Self::HungUp => {
                "a node without TLS, one that is overloaded, or something between that lets TLS not pass"
            }
            Self::ClientCertificate => {
                "the node wants a client certificate that its own authority has signed: --node-tls-cert and --node-tls-key"
            }
            Self::NothingInCommon => "the node speaks TLS older than 1.2, or old ciphers alone",
            Self::Refused(_) | Self::Failed => "the node's log, and its `stats` (`ssl_handshake_errors`), may say more",
            Self::LoginUnanswered(_) | Self::LoginHungUp => "the node hangs, is overloaded, or is no memcached",
            Self::LoginRefused => "user or password in --node-auth-file are not those of the node (`memcached -Y`)",
            Self::LoginMisunderstood => "something else than a memcached listens there",
        }
    }
}

impl fmt::Display for Unsecured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Expired => f.write_str("its certificate has expired"),
            Self::NotYetValid => f.write_str("its certificate is not valid yet"),
            Self::WrongName => f.write_str("its certificate is for another name"),
            Self::UnknownIssuer => f.write_str("its certificate is signed by an unknown authority"),
            Self::CaCertificate => f.write_str("its certificate is a CA certificate"),
            Self::VersionOne => f.write_str("its certificate is of X.509 version 1, without names"),
            Self::WrongPurpose => f.write_str("its certificate is not for servers"),
            Self::BadCertificate => f.write_str("its certificate is not acceptable"),
            Self::NotTls => f.write_str("does not speak TLS"),
            Self::Unanswered(time) => write!(f, "no answer to the TLS handshake for {}", Span(*time)),
            Self::HungUp => f.write_str("closed by it during the TLS handshake"),
            Self::ClientCertificate => f.write_str("wants a client certificate, or another one"),
            Self::NothingInCommon => f.write_str("no TLS version or cipher in common"),
            Self::Refused(alert) => write!(f, "TLS refused by it (alert {alert})"),
            Self::Failed => f.write_str("TLS failed"),
            Self::LoginUnanswered(time) => write!(f, "no answer to the authentication for {}", Span(*time)),
            Self::LoginHungUp => f.write_str("closed by it at the authentication"),
            Self::LoginRefused => f.write_str("authentication refused"),
            Self::LoginMisunderstood => f.write_str("authentication answered out of step"),
        }
    }
}

/// What is shown of TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsNumbers {
    /// Handshakes by result and kind (`full`, `resumed`, `none`).
    pub handshakes: Vec<(&'static str, &'static str, u64)>,
    /// When the certificate of each node expires, in seconds of Unix time.
    pub nodes: Vec<(String, u64)>,
    /// When our own does.
    pub client: Option<u64>,
    /// Certificates are not verified.
    pub is_insecure: bool,
}
