//! Pulling from a registry (OCI distribution specification, "Pull").
//!
//! Runs as a task of the caller; disk and hashing run on blocking threads. Invariants: every blob is hashed as it
//! arrives and kept only if digest and size are those of the manifest; a registry that stalls, trickles or never ends
//! is given up.

mod http;
mod registry;
mod signatures;
mod token;

use std::collections::HashSet;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};
use futures_util::{StreamExt, TryStreamExt};
use hull_protocol::api::{Progress, PullRequest};
use oci_spec::distribution::Reference;
use reqwest::StatusCode;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::blob::{BlobError, BlobWriter, write_chunks};
use crate::digest::Digest;
use crate::manifest::{Descriptor, Document, Manifest, ManifestError, Platform, choose};
use crate::record::ImageRecord;
use crate::reference::{self, ReferenceError};
use crate::signature::Key;
use crate::store::{InstallError, Store};

pub use http::RequestError;
use registry::Registry;
use signatures::Signatures;

/// Layers that arrive at a time.
const CONCURRENCY: usize = 3;

/// How often a blob is asked for before the pull fails.
const ATTEMPTS: u32 = 3;

/// Bytes between two reports of progress.
const REPORT: u64 = 1 << 20;

/// Why an image could not be pulled.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The reference is none.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// The registry has no such image.
    #[error("{0} is not in its registry, or needs credentials: check the name and log in")]
    NotFound(String),
    /// The registry refuses.
    #[error("the registry does not let {0} be pulled: check the credentials")]
    Unauthorized(String),
    /// The registry's name cannot be spoken to.
    #[error("the registry of {0} is no host name or address with a port: check the name")]
    Address(String),
    /// The certificates given are none.
    #[error("the certificates to trust are not in PEM: give a file with BEGIN CERTIFICATE lines")]
    Certificates,
    /// No request can be made at all.
    #[error("cannot begin with HTTPS: check the system's certificates and those that are to be trusted")]
    Client(#[source] reqwest::Error),
    /// The credentials are of a kind that the registry does not take.
    #[error("the registry takes no identity tokens: log in with a user and password or access token")]
    IdentityToken,
    /// The registry failed, or the connection to it.
    #[error("the registry failed at {what}: check the name, the network and the certificate, then try again")]
    Registry {
        /// What was asked of it.
        what: String,
        /// How.
        #[source]
        source: RequestError,
    },
    /// The registry is too slow.
    #[error(
        "the registry was too slow with {0}: try again later, or raise stall_seconds or lower min_bytes_per_second"
    )]
    TooSlow(String),
    /// A blob is not what it should be, or could not be written.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// The manifest cannot be used.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The image cannot be used.
    #[error(transparent)]
    Install(#[from] InstallError),
    /// None of the keys that may sign it did.
    #[error(
        "{0} has no signature of a key that is trusted with it: sign it with cosign, or have the policy changed"
    )]
    Unsigned(String),
    /// The runtime is going down.
    #[error("the pull was abandoned because the program is ending")]
    Ending,
}

impl Store {
    /// Pulls an image, flattens it and names it; blobs that are there are not asked for again.
    ///
    /// # Errors
    /// See [`PullError`]. What was verified by then is kept for the next attempt.
    pub async fn pull(
        &self,
        request: &PullRequest,
        progress: impl Fn(Progress) + Send + Sync,
    ) -> Result<ImageRecord, PullError> {
        self.pull_by(request, None, progress).await
    }

    /// The same for an image that one of these keys must have signed: else nothing of it is fetched but its manifest.
    ///
    /// # Errors
    /// See [`PullError`].
    pub async fn pull_signed(
        &self,
        request: &PullRequest,
        keys: &[Key],
        progress: impl Fn(Progress) + Send + Sync,
    ) -> Result<ImageRecord, PullError> {
        self.pull_by(request, Some(keys), progress).await
    }

    async fn pull_by(
        &self,
        request: &PullRequest,
        keys: Option<&[Key]>,
        progress: impl Fn(Progress) + Send + Sync,
    ) -> Result<ImageRecord, PullError> {
        let reference = reference::parse(&request.reference)?;
        let wanted = Platform::parse(request.platform.as_deref())?;
        let arrival = self.begin_arrival();
        let pull = Pull {
            store: self,
            registry: Registry::new(request, reference.clone(), self.limits())?,
            progress: &progress,
        };
        progress(Progress::Step(format!("looking up {}", reference.whole())));
        let (found, manifest) = pull.manifest(&reference, &wanted).await?;
        if let Some(keys) = keys {
            progress(Progress::Step("looking for a signature".to_owned()));
            pull.signed(&reference, &found, keys).await?;
        }
        let digest = found.image;
        pull.blobs(&manifest).await?;
        progress(Progress::Step("flattening".to_owned()));
        let (store, name) = (self.clone(), reference.whole());
        let installed = blocking(move || {
            // Goes on when the caller gives up waiting, and so does the protection from collection.
            let _arrival = arrival;
            store.install(&digest, &name, &wanted)
        })
        .await?;
        Ok(installed?)
    }
}

/// Runs blocking work on the runtime's threads for it.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, PullError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| PullError::Ending)
}

/// What a reference led to.
struct Found {
    /// The index that the image is of.
    through: Option<Digest>,
    /// The image's manifest.
    image: Digest,
}

/// One pull.
struct Pull<'a, P> {
    store: &'a Store,
    registry: Registry,
    progress: &'a P,
}

impl<P: Fn(Progress) + Send + Sync> Pull<'_, P> {
    /// Finds the manifest for the platform, through an index where there is one, and keeps it.
    async fn manifest(
        &self,
        reference: &Reference,
        wanted: &Platform,
    ) -> Result<(Found, Manifest), PullError> {
        let limits = self.store.limits();
        let fetch = async |reference| self.registry.manifest(reference, limits.max_manifest_bytes).await;
        let mut bytes = fetch(reference).await?;
        let mut document = Document::parse(&bytes, limits)?;
        let mut through = None;
        if let Document::Index(index) = &document {
            through = Some(Digest::of(&bytes));
            let chosen = choose(index, wanted)?;
            bytes = fetch(&reference.clone_with_digest(chosen.digest.to_string())).await?;
            document = Document::parse(&bytes, limits)?;
        }
        let Document::Manifest(manifest) = document else {
            let why = "an index within an index is not supported: name the image by its digest".to_owned();
            return Err(ManifestError::Unsupported(why).into());
        };
        let blobs = self.store.blobs().clone();
        let image = blocking(move || blobs.put(&bytes)).await??;
        Ok((Found { through, image }, manifest))
    }

    /// Asks for the signature of one of these keys, on the image or on the index that led to it.
    async fn signed(&self, reference: &Reference, found: &Found, keys: &[Key]) -> Result<(), PullError> {
        let signatures = Signatures { registry: &self.registry, reference };
        let signed = [found.through.as_ref(), Some(&found.image)];
        let signer = signatures.signer(signed.into_iter().flatten(), keys).await?;
        signer.map(drop).ok_or_else(|| PullError::Unsigned(reference.whole()))
    }

    /// Gets all blobs that are not there, each once.
    async fn blobs(&self, manifest: &Manifest) -> Result<(), PullError> {
        let mut seen = HashSet::new();
        let wanted: Vec<&Descriptor> = std::iter::once(&manifest.config)
            .chain(&manifest.layers)
            .filter(|blob| seen.insert(&blob.digest))
            .collect();
        // Boxed before they are polled: the compiler cannot see that a lazily mapped one can move between threads.
        let transfers: Vec<BoxFuture<'_, _>> =
            wanted.into_iter().map(|blob| self.blob(blob).boxed()).collect();
        futures_util::stream::iter(transfers).buffer_unordered(CONCURRENCY).try_collect().await
    }

    async fn blob(&self, blob: &Descriptor) -> Result<(), PullError> {
        if self.store.may_reuse(&blob.digest, blob.size) {
            self.report(blob, blob.size);
            return Ok(());
        }
        let limits = self.store.limits();
        let transfer = blob.size / limits.min_bytes_per_second.max(1);
        let deadline = Duration::from_secs(transfer.saturating_add(300));
        let what = || format!("blob {}", blob.digest);
        timeout(deadline, self.download(blob)).await.map_err(|_| PullError::TooSlow(what()))?
    }

    /// Asks for a blob, from where the last attempt ended, until it is whole.
    async fn download(&self, blob: &Descriptor) -> Result<(), PullError> {
        let mut writer = self.store.blobs().begin()?;
        let mut attempt = 1;
        loop {
            let (returned, result) = self.attempt(blob, writer).await?;
            writer = returned;
            match result {
                _ if writer.size() >= blob.size => break,
                Err(error) if attempt >= ATTEMPTS => return Err(error),
                Ok(()) if attempt >= ATTEMPTS => break,
                _ => tokio::time::sleep(Duration::from_millis(500 << attempt)).await,
            }
            attempt += 1;
        }
        let (digest, size) = (blob.digest.clone(), blob.size);
        blocking(move || writer.keep_as(&digest, size)).await??;
        Ok(())
    }

    /// One request. The writer comes back whatever happens to the connection.
    async fn attempt(
        &self,
        blob: &Descriptor,
        writer: BlobWriter,
    ) -> Result<(BlobWriter, Result<(), PullError>), PullError> {
        let mut response = match self.registry.blob(&blob.digest, writer.size()).await {
            Err(error) => return Ok((writer, Err(error))),
            Ok(response) => response,
        };
        let writer = match response.status() {
            StatusCode::PARTIAL_CONTENT => writer,
            _ if writer.size() == 0 => writer,
            _ => self.store.blobs().begin()?,
        };
        let mut done = writer.size();
        let (sender, receiver) = mpsc::channel(8);
        let writing = tokio::task::spawn_blocking(move || write_chunks(writer, receiver));
        let mut reported = done;
        let mut result = Ok(());
        loop {
            let chunk = match response.chunk().await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => break,
                Err(error) => {
                    let what = format!("blob {}", blob.digest);
                    result = Err(self.registry.error(what, error.into()));
                    break;
                }
            };
            done = done.saturating_add(chunk.len() as u64);
            if done > blob.size {
                let digest = blob.digest.to_string();
                return Err(BlobError::Size { digest, expected: blob.size, found: done }.into());
            }
            if sender.send(chunk).await.is_err() {
                break; // the writer failed, and says how below
            }
            if done - reported >= REPORT || done == blob.size {
                reported = done;
                self.report(blob, done);
            }
        }
        drop(sender);
        let writer = writing.await.map_err(|_| PullError::Ending)??;
        Ok((writer, result))
    }

    fn report(&self, blob: &Descriptor, done: u64) {
        (self.progress)(Progress::Blob { digest: blob.digest.to_string(), done, total: blob.size });
    }
}
