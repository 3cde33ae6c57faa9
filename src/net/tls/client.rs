//! The side that connects: whom to trust, which certificate to show.

use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::DigitallySignedStruct;
use rustls::RootCertStore;
use rustls::SignatureScheme;
use rustls::client::Resumption;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::client::danger::ServerCertVerified;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::ServerName;
use rustls_pki_types::UnixTime;
use schemars::JsonSchema;
use serde::Deserialize;
use serde::Serialize;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::Alpn;
use super::MinVersion;
use super::Reload;
use super::TlsError;
use super::files;
use super::files::PemFile;
use super::provider;
use super::versions;

/// Sessions remembered for resumption.
const SESSIONS: usize = 256;

/// How to speak TLS to a server.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ClientConfig {
    /// PEM file of the CA certificates that may sign the server's. They replace the system's.
    ///
    /// Default: none, the system's CA certificates. Reload: live.
    pub ca_file: Option<PathBuf>,
    /// Trust the system's CA certificates beside those in `ca_file`.
    ///
    /// Default: `false`. Reload: live.
    pub include_system_roots: bool,
    /// PEM file of the certificate to show to the server, leaf first.
    ///
    /// Default: none. Reload: live.
    pub cert_file: Option<PathBuf>,
    /// PEM file of the private key of `cert_file`.
    ///
    /// Default: none. Reload: live.
    pub key_file: Option<PathBuf>,
    /// The name to ask for and to verify, where it is not the host that is connected to.
    ///
    /// Default: none, the host. Reload: live.
    pub server_name: Option<String>,
    /// The oldest TLS version to speak.
    ///
    /// Values: `"1.2"`, `"1.3"`. Default: `"1.2"`. Reload: live.
    pub min_version: MinVersion,
    /// Accept any certificate. Anybody on the way can then read and change what is sent.
    ///
    /// Default: `false`. Reload: live.
    pub insecure_skip_verify: bool,
}

/// The TLS settings of a client, with the files read. Cloning shares them and the session cache.
#[derive(Debug, Clone)]
pub struct ClientTls {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: ClientConfig,
    server_name: Option<ServerName<'static>>,
    loaded: ArcSwap<Loaded>,
}

#[derive(Debug)]
struct Loaded {
    files: Files,
    by_alpn: [Arc<rustls::ClientConfig>; Alpn::ALL.len()],
}

#[derive(Debug, PartialEq)]
struct Files {
    ca: Option<PemFile>,
    pair: Option<(PemFile, PemFile)>,
}

impl ClientTls {
    /// Reads the files and the system's CA certificates.
    ///
    /// # Errors
    /// See [`TlsError`]; each names its file.
    pub fn new(config: &ClientConfig) -> Result<Self, TlsError> {
        let server_name = config.server_name.as_deref().map(parse_name).transpose()?;
        Ok(Self {
            shared: Arc::new(Shared {
                loaded: ArcSwap::from_pointee(load(config, read(config)?)?),
                config: config.clone(),
                server_name,
            }),
        })
    }

    /// Reads the files again, for connections made from now on.
    ///
    /// # Errors
    /// See [`TlsError`]; what was loaded stays in use.
    pub fn reload(&self) -> Result<Reload, TlsError> {
        let files = read(&self.shared.config)?;
        if self.shared.loaded.load().files == files {
            return Ok(Reload::Unchanged);
        }
        let loaded = load(&self.shared.config, files)?;
        self.shared.loaded.store(Arc::new(loaded));
        Ok(Reload::Changed)
    }

    /// The files whose change calls for [`ClientTls::reload`].
    pub fn files(&self) -> Vec<PathBuf> {
        let config = &self.shared.config;
        [&config.ca_file, &config.cert_file, &config.key_file]
            .into_iter()
            .flatten()
            .cloned()
            .collect()
    }

    /// The settings as rustls takes them.
    pub fn config(&self, alpn: Alpn) -> Arc<rustls::ClientConfig> {
        self.shared.loaded.load().by_alpn[alpn as usize].clone()
    }

    /// Shakes hands as a client. `host`: a host name or an address, without brackets; verified unless
    /// `server_name` is configured.
    ///
    /// # Errors
    /// [`TlsError::ServerName`], [`TlsError::Handshake`].
    pub async fn connect<IO>(
        &self,
        host: &str,
        io: IO,
        alpn: Alpn,
    ) -> Result<TlsStream<IO>, TlsError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let name = match &self.shared.server_name {
            Some(name) => name.clone(),
            None => parse_name(host)?,
        };
        let shown = name.to_str().into_owned();
        TlsConnector::from(self.config(alpn))
            .connect(name, io)
            .await
            .map_err(|source| TlsError::Handshake {
                host: shown,
                source,
            })
    }
}

fn parse_name(name: &str) -> Result<ServerName<'static>, TlsError> {
    ServerName::try_from(name.to_owned()).map_err(|_| TlsError::ServerName(name.to_owned()))
}

fn read(config: &ClientConfig) -> Result<Files, TlsError> {
    Ok(Files {
        ca: config.ca_file.as_deref().map(PemFile::read).transpose()?,
        pair: PemFile::read_pair(config.cert_file.as_deref(), config.key_file.as_deref())?,
    })
}

fn load(config: &ClientConfig, files: Files) -> Result<Loaded, TlsError> {
    let builder = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions(config.min_version))
        .map_err(TlsError::Settings)?;
    let builder = if config.insecure_skip_verify {
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AcceptAny(provider())))
    } else {
        builder.with_root_certificates(roots(config, files.ca.as_ref())?)
    };
    let mut tls = match &files.pair {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => {
            let certified = files::certified_key(cert, key)?;
            builder.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(
                certified,
            )))
        }
    };
    tls.resumption = Resumption::in_memory_sessions(SESSIONS);
    let by_alpn = Alpn::ALL.map(|alpn| {
        let mut tls = tls.clone();
        tls.alpn_protocols = alpn.protocols();
        Arc::new(tls)
    });
    Ok(Loaded { files, by_alpn })
}

/// The configured CA certificates; without any, the system's; without those, Mozilla's, built in.
fn roots(config: &ClientConfig, ca: Option<&PemFile>) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    if let Some(ca) = ca {
        ca.add_roots(&mut roots)?;
    }
    if ca.is_none() || config.include_system_roots {
        let native = rustls_native_certs::load_native_certs();
        let (added, _) = roots.add_parsable_certificates(native.certs);
        if added == 0 {
            tracing::info!(
                errors = ?native.errors,
                "the system has no CA certificates, using the built-in ones"
            );
            roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        }
    }
    if roots.is_empty() {
        return Err(TlsError::NoRoots);
    }
    Ok(roots)
}

/// Accepts any certificate and still checks that the server holds its key.
#[derive(Debug)]
struct AcceptAny(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
