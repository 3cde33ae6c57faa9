//! TLS on both sides, over rustls with an explicit provider: no process-wide default is read or set.
//!
//! [`ClientTls`] and [`ServerTls`] read their files when they are built and again on `reload()`, which takes over
//! everything or nothing. Connections that are open keep what they were made with.

mod client;
mod files;
mod server;
mod stream;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::OnceLock;

use rustls::SupportedProtocolVersion;
use rustls::crypto::CryptoProvider;
use schemars::JsonSchema;
use serde::Deserialize;
use serde::Serialize;

pub use client::{ClientConfig, ClientTls};
pub use server::{ServerConfig, ServerTls};
pub use stream::MaybeTls;

/// Why TLS could not be set up or a handshake failed.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A file is not PEM.
    #[error("{} is not PEM", file.display())]
    Pem {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        #[source]
        source: rustls_pki_types::pem::Error,
    },
    /// A file is PEM and does not hold what it should.
    #[error("{} holds no {what}", file.display())]
    Missing {
        /// The file.
        file: PathBuf,
        /// What it should hold.
        what: &'static str,
    },
    /// A certificate or key cannot be used.
    #[error("{} cannot be used", file.display())]
    Unusable {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// A key belongs to another certificate.
    #[error("the key in {} does not belong to the certificate in {}", key_file.display(), cert_file.display())]
    KeyMismatch {
        /// The certificate's file.
        cert_file: PathBuf,
        /// The key's file.
        key_file: PathBuf,
    },
    /// A certificate without its key or the reverse.
    #[error("cert_file and key_file must be set together")]
    HalfPair,
    /// A listener has TLS and no certificate or key.
    #[error("{0} must be set")]
    Unset(&'static str),
    /// The name to verify is neither a host name nor an address.
    #[error("{0:?} is not a host name or an IP address")]
    ServerName(String),
    /// There is no CA to verify a server with.
    #[error("no trusted CA certificate was found")]
    NoRoots,
    /// The versions or the verifier were refused.
    #[error("the TLS settings cannot be used")]
    Settings(#[source] rustls::Error),
    /// The client verifier was refused.
    #[error("{} cannot be used to verify clients", file.display())]
    ClientCa {
        /// The file of CA certificates.
        file: PathBuf,
        /// Why.
        #[source]
        source: rustls::server::VerifierBuilderError,
    },
    /// The handshake with a server failed.
    #[error("TLS handshake with {host} failed{}", hint(source))]
    Handshake {
        /// The server's name as it was verified.
        host: String,
        /// What failed.
        #[source]
        source: std::io::Error,
    },
    /// The server does not speak HTTP/2 over TLS.
    #[error("{0} did not agree to HTTP/2 in the TLS handshake")]
    NotHttp2(String),
}

/// The oldest TLS version that is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum MinVersion {
    /// TLS 1.2 (RFC 5246).
    #[default]
    #[serde(rename = "1.2")]
    Tls12,
    /// TLS 1.3 (RFC 8446).
    #[serde(rename = "1.3")]
    Tls13,
}

/// The protocols offered or accepted by ALPN (RFC 7301).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Alpn {
    /// None: the extension is not sent.
    None,
    /// `http/1.1`.
    Http1,
    /// `h2`.
    Http2,
    /// `h2`, then `http/1.1`.
    Http,
}

impl Alpn {
    const ALL: [Self; 4] = [Self::None, Self::Http1, Self::Http2, Self::Http];

    fn protocols(self) -> Vec<Vec<u8>> {
        match self {
            Self::None => vec![],
            Self::Http1 => vec![b"http/1.1".to_vec()],
            Self::Http2 => vec![b"h2".to_vec()],
            Self::Http => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        }
    }
}

/// What a reload did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reload {
    /// New connections use the new files.
    Changed,
    /// The files say what they said before.
    Unchanged,
}

/// The one provider of cryptography.
fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER
        .get_or_init(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .clone()
}

fn versions(min: MinVersion) -> &'static [&'static SupportedProtocolVersion] {
    static FROM_12: [&SupportedProtocolVersion; 2] =
        [&rustls::version::TLS13, &rustls::version::TLS12];
    static FROM_13: [&SupportedProtocolVersion; 1] = [&rustls::version::TLS13];
    match min {
        MinVersion::Tls12 => &FROM_12,
        MinVersion::Tls13 => &FROM_13,
    }
}

/// What to do about the failures that people meet most.
fn hint(source: &std::io::Error) -> &'static str {
    let error = source
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    use rustls::CertificateError as Cert;
    use rustls::Error;
    match error {
        Some(Error::InvalidCertificate(Cert::UnknownIssuer)) => {
            ": its certificate is signed by an unknown CA (set ca_file)"
        }
        Some(Error::InvalidCertificate(
            Cert::NotValidForName | Cert::NotValidForNameContext { .. },
        )) => ": its certificate is for another name (set server_name)",
        Some(Error::InvalidCertificate(Cert::Expired | Cert::ExpiredContext { .. })) => {
            ": its certificate has expired"
        }
        Some(Error::InvalidMessage(_)) => ": it does not speak TLS on this port",
        Some(Error::AlertReceived(rustls::AlertDescription::CertificateRequired)) => {
            ": it asks for a client certificate (set cert_file and key_file)"
        }
        _ => "",
    }
}
