//! Importing an image from a tar stream: an OCI layout, what `docker save` writes, or a root file system.
//!
//! The stream is spooled first, because what proves its kind may come last. Runs as a task of the caller with the
//! disk on blocking threads. Invariant: whatever is imported becomes ordinary verified blobs with a manifest, and goes
//! the way of a pulled image from there.

mod archive;
mod docker;
mod layout;
mod rootfs;

use std::io;

use bytes::BytesMut;
use hull_protocol::api::Progress;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::mpsc;

use crate::blob::{BlobError, BlobWriter, write_chunks};
use crate::digest::{Digest, DigestError};
use crate::layer::LayerError;
use crate::manifest::{ManifestError, Platform};
use crate::record::ImageRecord;
use crate::reference::{self, ReferenceError};
use crate::store::{InstallError, Store};

use archive::Survey;

/// What a tar stream holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ImportKind {
    /// An OCI image layout: `oci-layout`, `index.json`, `blobs/`.
    OciArchive,
    /// What `docker save` writes: `manifest.json` and layers.
    DockerArchive,
    /// The files of a root file system.
    Rootfs,
}

/// Why a stream was not imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The name cannot be one.
    #[error(transparent)]
    Name(#[from] ReferenceError),
    /// The stream broke.
    #[error("the stream to import broke: send it again")]
    Stream(#[source] io::Error),
    /// The archive is broken, hostile or too large.
    #[error("the archive was refused")]
    Archive(#[from] LayerError),
    /// The archive's content is not what an archive of its kind has.
    #[error("{0}")]
    Content(String),
    /// One of its JSON files is broken.
    #[error("{file} in the archive is broken: pack it again")]
    Json {
        /// Which.
        file: &'static str,
        /// How.
        #[source]
        source: serde_json::Error,
    },
    /// A blob goes by a digest of another kind.
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// A blob is not what its name says, or could not be written.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// The manifest cannot be used.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The image cannot be used.
    #[error(transparent)]
    Install(#[from] InstallError),
    /// The runtime is going down.
    #[error("the import was abandoned because the program is ending")]
    Ending,
}

impl Store {
    /// Imports a tar stream (plain, gzip or zstd) under `name`, which is later found exactly as typed. An empty name
    /// stands for the one that the archive itself has. The kind is told by content that proves it; where nothing
    /// does, by `kind`, and as a root file system without that.
    ///
    /// # Errors
    /// See [`ImportError`]; the store is then as it was.
    pub async fn import(
        &self,
        stream: impl AsyncRead + Send + Unpin,
        name: &str,
        kind: Option<ImportKind>,
        progress: impl Fn(Progress) + Send + Sync,
    ) -> Result<ImageRecord, ImportError> {
        if !name.is_empty() {
            reference::check_imported(name)?;
        }
        let arrival = self.begin_arrival();
        progress(Progress::Step("receiving".to_owned()));
        let spool = self.spool(stream).await?;
        progress(Progress::Step("verifying and flattening".to_owned()));
        let (store, name) = (self.clone(), name.to_owned());
        let imported = tokio::task::spawn_blocking(move || {
            // Goes on when the caller gives up waiting, and so does the protection from collection.
            let _arrival = arrival;
            let result = store.import_spooled(spool, &name, kind);
            // What else the archive held, or all of it after a failure, is of no use.
            if let Err(error) = store.collect_garbage() {
                tracing::warn!(%error, "cannot collect what the import left");
            }
            result
        });
        imported.await.map_err(|_| ImportError::Ending)?
    }

    /// Takes the whole stream into the store's scratch directory.
    async fn spool(&self, mut stream: impl AsyncRead + Send + Unpin) -> Result<BlobWriter, ImportError> {
        let writer = self.blobs().begin()?;
        let limit = self.limits().max_image_bytes;
        let (sender, receiver) = mpsc::channel(8);
        let writing = tokio::task::spawn_blocking(move || write_chunks(writer, receiver));
        let mut total = 0_u64;
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(256 << 10);
            let read = stream.read_buf(&mut buffer).await.map_err(ImportError::Stream)?;
            total = total.saturating_add(read as u64);
            if total > limit {
                let what = "the archive".to_owned();
                return Err(BlobError::TooLarge { what, limit, name: "max_image_bytes" }.into());
            }
            if read == 0 || sender.send(buffer.split().freeze()).await.is_err() {
                break;
            }
        }
        drop(sender);
        Ok(writing.await.map_err(|_| ImportError::Ending)??)
    }

    pub(crate) fn import_spooled(
        &self,
        spool: BlobWriter,
        name: &str,
        kind: Option<ImportKind>,
    ) -> Result<ImageRecord, ImportError> {
        let survey = Survey::of(spool.reopen()?, self.limits())?;
        let (digest, own_name) = match decide(&survey, kind)? {
            ImportKind::OciArchive => layout::import(self, &spool, &survey, name)?,
            ImportKind::DockerArchive => docker::import(self, &spool, &survey, name)?,
            ImportKind::Rootfs => (rootfs::import(self, spool, &survey)?, None),
        };
        let name = match own_name {
            Some(own) if name.is_empty() => own,
            _ => name.to_owned(),
        };
        reference::check_imported(&name)?;
        Ok(self.install(&digest, &name, &Platform::host())?)
    }
}

/// The kind that the content proves, checked against the one that was said.
fn decide(survey: &Survey, said: Option<ImportKind>) -> Result<ImportKind, ImportError> {
    let (oci, docker) = (survey.proves_oci(), survey.proves_docker());
    let missing = |what: &str| {
        Err(ImportError::Content(format!(
            "the archive has no {what}: it is not of the kind that was given; leave the kind out"
        )))
    };
    match said {
        Some(ImportKind::OciArchive) if !oci => missing("oci-layout and index.json"),
        Some(ImportKind::DockerArchive) if !docker => missing("manifest.json with Config and Layers"),
        Some(kind) => Ok(kind),
        // `docker save` of later versions writes both, with the same content.
        None if oci => Ok(ImportKind::OciArchive),
        None if docker => Ok(ImportKind::DockerArchive),
        None => Ok(ImportKind::Rootfs),
    }
}

/// Writes the manifest of an image that came without one.
fn put_manifest(
    store: &Store,
    config: (&Digest, u64),
    layers: &[(Digest, u64, &'static str)],
) -> Result<Digest, ImportError> {
    let layers: Vec<_> = layers
        .iter()
        .map(|(digest, size, kind)| serde_json::json!({ "mediaType": kind, "digest": digest, "size": size }))
        .collect();
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config.0, "size": config.1 },
        "layers": layers,
    });
    Ok(store.blobs().put(manifest.to_string().as_bytes())?)
}
