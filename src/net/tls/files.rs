//! PEM files: read once with a cap on their size, so that what is compared is what is used.

use std::io::Read;
use std::path::Path;
use std::path::PathBuf;

use rustls::InconsistentKeys;
use rustls::RootCertStore;
use rustls::sign::CertifiedKey;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem;
use rustls_pki_types::pem::PemObject;

use super::TlsError;

/// Larger than any bundle of CA certificates in use.
const MAX_FILE: u64 = 8 << 20;

/// A file's content with its name, for messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PemFile {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl PemFile {
    pub(super) fn read(path: &Path) -> Result<Self, TlsError> {
        let read = || {
            let mut bytes = Vec::new();
            std::fs::File::open(path)?
                .take(MAX_FILE + 1)
                .read_to_end(&mut bytes)?;
            if bytes.len() as u64 > MAX_FILE {
                return Err(std::io::Error::other("larger than 8 MiB"));
            }
            Ok(bytes)
        };
        match read() {
            Ok(bytes) => Ok(Self {
                path: path.to_owned(),
                bytes,
            }),
            Err(source) => Err(TlsError::Read {
                file: path.to_owned(),
                source,
            }),
        }
    }

    /// Reads the files of a certificate and its key. `None`: neither is set.
    pub(super) fn read_pair(
        cert_file: Option<&Path>,
        key_file: Option<&Path>,
    ) -> Result<Option<(Self, Self)>, TlsError> {
        match (cert_file, key_file) {
            (Some(cert), Some(key)) => Ok(Some((Self::read(cert)?, Self::read(key)?))),
            (None, None) => Ok(None),
            _ => Err(TlsError::HalfPair),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Every certificate in the file, at least one.
    pub(super) fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let certificates: Vec<_> = CertificateDer::pem_slice_iter(&self.bytes)
            .collect::<Result<_, _>>()
            .map_err(|source| self.pem_error(source, "certificate"))?;
        if certificates.is_empty() {
            return Err(self.pem_error(pem::Error::NoItemsFound, "certificate"));
        }
        Ok(certificates)
    }

    /// The first private key in the file.
    fn key(&self) -> Result<PrivateKeyDer<'static>, TlsError> {
        PrivateKeyDer::from_pem_slice(&self.bytes)
            .map_err(|source| self.pem_error(source, "private key (an encrypted one is not read)"))
    }

    /// Adds every certificate in the file to the trusted ones.
    pub(super) fn add_roots(&self, roots: &mut RootCertStore) -> Result<(), TlsError> {
        for certificate in self.certificates()? {
            roots
                .add(certificate)
                .map_err(|source| self.unusable(source))?;
        }
        Ok(())
    }

    fn pem_error(&self, source: pem::Error, what: &'static str) -> TlsError {
        let file = self.path.clone();
        match source {
            pem::Error::NoItemsFound => TlsError::Missing { file, what },
            source => TlsError::Pem { file, source },
        }
    }

    fn unusable(&self, source: rustls::Error) -> TlsError {
        TlsError::Unusable {
            file: self.path.clone(),
            source,
        }
    }
}

/// A certificate chain with its key, checked to belong together.
pub(super) fn certified_key(cert: &PemFile, key: &PemFile) -> Result<CertifiedKey, TlsError> {
    let chain = cert.certificates()?;
    let private = super::provider()
        .key_provider
        .load_private_key(key.key()?)
        .map_err(|source| key.unusable(source))?;
    let certified = CertifiedKey::new(chain, private);
    match certified.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(certified),
        Err(rustls::Error::InconsistentKeys(_)) => Err(TlsError::KeyMismatch {
            cert_file: cert.path.clone(),
            key_file: key.path.clone(),
        }),
        Err(source) => Err(cert.unusable(source)),
    }
}
