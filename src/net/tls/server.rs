//! The side that accepts: which certificate to show, whom to ask for one.

use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls::sign::SingleCertAndKey;
use schemars::JsonSchema;
use serde::Deserialize;
use serde::Serialize;
use tokio_rustls::TlsAcceptor;

use super::Alpn;
use super::MinVersion;
use super::Reload;
use super::TlsError;
use super::files;
use super::files::PemFile;
use super::provider;
use super::versions;

/// How to speak TLS to clients.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ServerConfig {
    /// PEM file of the certificate to show, leaf first, then the intermediate ones.
    ///
    /// Default: none; must be set. Reload: live (new connections), also when the file changes.
    pub cert_file: PathBuf,
    /// PEM file of the private key of `cert_file`.
    ///
    /// Default: none; must be set. Reload: live (new connections), also when the file changes.
    pub key_file: PathBuf,
    /// PEM file of the CA certificates that must have signed the client's certificate. Setting it makes client
    /// certificates mandatory.
    ///
    /// Default: none, clients show no certificate. Reload: live (new connections), also when the file changes.
    pub client_ca_file: Option<PathBuf>,
    /// The oldest TLS version to speak.
    ///
    /// Values: `"1.2"`, `"1.3"`. Default: `"1.2"`. Reload: new connections.
    pub min_version: MinVersion,
}

/// The TLS settings of a listener, with the files read. Held by every worker; cloning shares them.
#[derive(Debug, Clone)]
pub struct ServerTls {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: ServerConfig,
    alpn: Alpn,
    loaded: ArcSwap<Loaded>,
}

#[derive(Debug)]
struct Loaded {
    files: Files,
    tls: Arc<rustls::ServerConfig>,
}

#[derive(Debug, PartialEq)]
struct Files {
    cert: PemFile,
    key: PemFile,
    client_ca: Option<PemFile>,
}

impl ServerTls {
    /// Reads the files.
    ///
    /// # Errors
    /// See [`TlsError`]; each names its file.
    pub fn new(config: &ServerConfig, alpn: Alpn) -> Result<Self, TlsError> {
        let loaded = load(config, alpn, read(config)?)?;
        Ok(Self {
            shared: Arc::new(Shared {
                config: config.clone(),
                alpn,
                loaded: ArcSwap::from_pointee(loaded),
            }),
        })
    }

    /// Reads the files again, for connections accepted from now on. Sessions made with other files cannot be
    /// resumed after a change: the client's certificate is then verified anew.
    ///
    /// # Errors
    /// See [`TlsError`]; what was loaded stays in use.
    pub fn reload(&self) -> Result<Reload, TlsError> {
        let Shared {
            config,
            alpn,
            loaded,
        } = &*self.shared;
        let files = read(config)?;
        if loaded.load().files == files {
            return Ok(Reload::Unchanged);
        }
        loaded.store(Arc::new(load(config, *alpn, files)?));
        Ok(Reload::Changed)
    }

    /// Shakes hands with whatever is loaded now. To be asked for per connection.
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.config())
    }

    /// The settings as rustls takes them.
    pub fn config(&self) -> Arc<rustls::ServerConfig> {
        self.shared.loaded.load().tls.clone()
    }

    /// The files whose change calls for [`ServerTls::reload`].
    pub fn files(&self) -> Vec<PathBuf> {
        let config = &self.shared.config;
        [&config.cert_file, &config.key_file]
            .into_iter()
            .chain(&config.client_ca_file)
            .cloned()
            .collect()
    }
}

fn read(config: &ServerConfig) -> Result<Files, TlsError> {
    for (file, key) in [
        (&config.cert_file, "cert_file"),
        (&config.key_file, "key_file"),
    ] {
        if file.as_os_str().is_empty() {
            return Err(TlsError::Unset(key));
        }
    }
    Ok(Files {
        cert: PemFile::read(&config.cert_file)?,
        key: PemFile::read(&config.key_file)?,
        client_ca: config
            .client_ca_file
            .as_deref()
            .map(PemFile::read)
            .transpose()?,
    })
}

fn load(config: &ServerConfig, alpn: Alpn, files: Files) -> Result<Loaded, TlsError> {
    let builder = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(versions(config.min_version))
        .map_err(TlsError::Settings)?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(ca) => {
            let mut roots = RootCertStore::empty();
            ca.add_roots(&mut roots)?;
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
                .build()
                .map_err(|source| TlsError::ClientCa {
                    file: ca.path().to_owned(),
                    source,
                })?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let certified = files::certified_key(&files.cert, &files.key)?;
    let mut tls = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    tls.alpn_protocols = alpn.protocols();
    // Tickets, so that every worker resumes what another began and no session takes memory.
    tls.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().map_err(TlsError::Settings)?;
    Ok(Loaded {
        files,
        tls: Arc::new(tls),
    })
}
