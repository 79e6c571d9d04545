//! The way to a daemon: a unix socket, or TCP with TLS.
//!
//! RFC 8446. Owner: the client; a connection a request. Invariant: a daemon at a name is believed only with a certificate
//! for that name.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

/// Where a daemon is.
#[derive(Clone, Debug)]
pub(crate) enum Endpoint {
    /// On this host.
    Unix(PathBuf),
    /// At a name or address.
    Tcp { name: String, port: u16, tls: Option<Tls> },
}

/// What is trusted, and who one is.
#[derive(Clone)]
pub(crate) struct Tls(Arc<ClientConfig>);

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

/// Bytes both ways.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Tcp { name, port, tls } => {
                let scheme = if tls.is_some() { "https" } else { "http" };
                let name = if name.contains(':') { format!("[{name}]") } else { name.clone() };
                write!(f, "{scheme}://{name}:{port}")
            }
        }
    }
}

impl Endpoint {
    /// A connection.
    pub(super) async fn connect(&self) -> Result<Box<dyn Stream>> {
        match self {
            Self::Unix(path) => {
                let stream = UnixStream::connect(path).await;
                Ok(Box::new(stream.with_context(|| format!("the daemon's socket {self} cannot be reached"))?))
            }
            Self::Tcp { name, port, tls } => {
                let stream = TcpStream::connect((name.as_str(), *port)).await;
                let stream = stream.with_context(|| format!("{self} cannot be reached"))?;
                stream.set_nodelay(true)?;
                let Some(Tls(config)) = tls else { return Ok(Box::new(stream)) };
                let name = ServerName::try_from(name.clone()).context("that is no name of a host")?;
                let stream = TlsConnector::from(config.clone()).connect(name, stream).await;
                Ok(Box::new(stream.with_context(|| {
                    format!("{self} and this client do not come to terms over TLS: check --ca and --cert")
                })?))
            }
        }
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let read = || CertificateDer::pem_file_iter(path)?.collect::<Result<Vec<_>, _>>();
    let found = read().with_context(|| format!("{} holds no certificates in PEM", path.display()))?;
    if found.is_empty() {
        bail!("{} holds no certificate", path.display());
    }
    Ok(found)
}

impl Tls {
    /// Trusts the certificates in `ca`, without it the system's; shows the certificate in the files of `own`.
    pub(super) fn new(ca: Option<&Path>, own: Option<(&Path, &Path)>) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        match ca {
            Some(path) => certificates(path)?.into_iter().try_for_each(|root| roots.add(root))?,
            None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
        let builder = builder.with_safe_default_protocol_versions()?.with_root_certificates(roots);
        let config = match own {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => {
                let key = PrivateKeyDer::from_pem_file(key)
                    .with_context(|| format!("{} holds no key in PEM", key.display()))?;
                builder.with_client_auth_cert(certificates(cert)?, key)?
            }
        };
        Ok(Self(Arc::new(config)))
    }
}
