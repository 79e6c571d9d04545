//! TLS for the API over TCP: the daemon's certificate, and, where wanted, those of its clients.
//!
//! RFC 8446. Owner: the listener over TCP. Invariant: files that cannot be used keep a daemon from its start, but do not
//! stop one that serves.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

use crate::microvm::chain;

/// Where the certificates are, in PEM.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The daemon's certificate, and those between it and its root.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Roots of the certificates that clients must have; none: they need none.
    pub client_ca: Option<PathBuf>,
}

/// Why TLS cannot be spoken.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file that cannot be used.
    #[error("{0} holds no {1} in PEM")]
    File(PathBuf, &'static str, #[source] rustls::pki_types::pem::Error),
    /// A file without what it should hold.
    #[error("{0} holds no certificate")]
    Empty(PathBuf),
    /// What is in the files does not go together.
    #[error("these certificates and this key cannot be used together")]
    Config(#[from] rustls::Error),
    /// The clients' roots cannot be used.
    #[error("the certificates in {0} are no roots for clients' certificates")]
    Roots(PathBuf, #[source] rustls::server::VerifierBuilderError),
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bad = |error| TlsError::File(path.to_owned(), "certificates", error);
    let found: Vec<_> =
        CertificateDer::pem_file_iter(path).map_err(bad)?.collect::<Result<_, _>>().map_err(bad)?;
    if found.is_empty() { Err(TlsError::Empty(path.to_owned())) } else { Ok(found) }
}

/// What speaks TLS with clients, with the certificates that are in the files now.
pub struct Tls {
    files: TlsFiles,
    read: Mutex<Read>,
}

/// What was in the files, and as they were then.
struct Read {
    stamps: [Option<Stamp>; 3],
    acceptor: TlsAcceptor,
}

/// What changes when a file does: its inode, its length, when it was written.
type Stamp = (u64, u64, i64, i64);

fn stamps(files: &TlsFiles) -> [Option<Stamp>; 3] {
    [Some(&files.certificate), Some(&files.key), files.client_ca.as_ref()].map(|path| {
        let found = std::fs::metadata(path?).ok()?;
        Some((found.ino(), found.len(), found.mtime(), found.mtime_nsec()))
    })
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// When they cannot be used.
    pub fn new(files: TlsFiles) -> Result<Self, TlsError> {
        let stamps = stamps(&files);
        let read = Mutex::new(Read { stamps, acceptor: acceptor(&files)? });
        Ok(Self { files, read })
    }

    /// For a new connection: the files are read again where they have changed, so that certificates are renewed while the
    /// daemon runs. What cannot be used leaves it with what it had.
    pub fn acceptor(&self) -> TlsAcceptor {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let stamps = stamps(&self.files);
        if stamps != read.stamps {
            // Half of new files may be there: the other half changes them once more.
            read.stamps = stamps;
            match acceptor(&self.files) {
                Ok(acceptor) => {
                    tracing::info!("the certificates for TLS have changed: new connections get the new ones");
                    read.acceptor = acceptor;
                }
                Err(error) => {
                    tracing::warn!("the old certificates for TLS stay in use: {}", chain(&error));
                }
            }
        }
        read.acceptor.clone()
    }
}

fn acceptor(files: &TlsFiles) -> Result<TlsAcceptor, TlsError> {
    let provider = Arc::new(default_provider());
    let chain = certificates(&files.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|error| TlsError::File(files.key.clone(), "key", error))?;
    let builder =
        ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            certificates(path)?.into_iter().try_for_each(|root| roots.add(root))?;
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build();
            builder.with_client_cert_verifier(verifier.map_err(|error| TlsError::Roots(path.clone(), error))?)
        }
    };
    let mut config = builder.with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
