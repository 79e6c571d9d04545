//! Content that is only kept once its digest and size are proved.
//!
//! Owned by the task that downloads or imports. Invariant: a file under `blobs/` is whole, verified and on disk; what
//! is still arriving has a name in `tmp/` only, and none at all once its writer is dropped.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;
use tokio::sync::mpsc::Receiver;

use crate::digest::Digest;

/// Why a blob was not kept.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The store's file system failed.
    #[error("cannot write to the image store: free some space, or look at the disk")]
    Write(#[source] io::Error),
    /// The content is not what was announced.
    #[error("content is {found}, but {expected} was announced: the source is damaged or lies")]
    Digest {
        /// What it should have been.
        expected: Digest,
        /// What it is.
        found: Digest,
    },
    /// The content is longer or shorter than was announced.
    #[error(
        "content of {digest} has {found} bytes or more, but {expected} were announced: the source is damaged or lies"
    )]
    Size {
        /// Whose.
        digest: String,
        /// What it should have been.
        expected: u64,
        /// How many came.
        found: u64,
    },
    /// More than the limits allow.
    #[error("{what} has more than {limit} bytes; raise {name} if you trust its source")]
    TooLarge {
        /// Which.
        what: String,
        /// The bound.
        limit: u64,
        /// The name of the limit in [`Limits`](crate::Limits).
        name: &'static str,
    },
}

/// The directory of a store's blobs, and the one where they begin.
#[derive(Clone, Debug)]
pub(crate) struct Blobs {
    sha256: PathBuf,
    tmp: PathBuf,
}

impl Blobs {
    /// Those of a store in `root`, whose directories exist.
    pub(crate) fn new(root: &Path) -> Self {
        Self { sha256: root.join("blobs/sha256"), tmp: root.join("tmp") }
    }

    /// Where a blob is, or would be.
    pub(crate) fn path(&self, digest: &Digest) -> PathBuf {
        self.sha256.join(digest.hex())
    }

    /// Whether a blob of this size is there: what is there was verified when it came.
    pub(crate) fn has(&self, digest: &Digest, size: u64) -> bool {
        self.path(digest).metadata().is_ok_and(|metadata| metadata.is_file() && metadata.len() == size)
    }

    /// Reads a small blob.
    pub(crate) fn read(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, BlobError> {
        let mut bytes = Vec::new();
        let file = File::open(self.path(digest)).map_err(BlobError::Write)?;
        file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(BlobError::Write)?;
        if bytes.len() as u64 > limit {
            return Err(BlobError::TooLarge { what: digest.to_string(), limit, name: "max_manifest_bytes" });
        }
        Ok(bytes)
    }

    /// Opens a blob.
    pub(crate) fn open(&self, digest: &Digest) -> io::Result<File> {
        File::open(self.path(digest))
    }

    /// Begins a blob.
    pub(crate) fn begin(&self) -> Result<BlobWriter, BlobError> {
        let file = NamedTempFile::new_in(&self.tmp).map_err(BlobError::Write)?;
        Ok(BlobWriter { file, hasher: Sha256::new(), size: 0, sha256: self.sha256.clone() })
    }

    /// Keeps bytes that are in memory.
    pub(crate) fn put(&self, bytes: &[u8]) -> Result<Digest, BlobError> {
        let digest = Digest::of(bytes);
        if !self.has(&digest, bytes.len() as u64) {
            let mut writer = self.begin()?;
            writer.write(bytes)?;
            writer.keep()?;
        }
        Ok(digest)
    }
}

/// A blob that is arriving.
#[derive(Debug)]
pub(crate) struct BlobWriter {
    file: NamedTempFile,
    hasher: Sha256,
    size: u64,
    sha256: PathBuf,
}

impl BlobWriter {
    /// Appends.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), BlobError> {
        self.hasher.update(bytes);
        self.size = self.size.saturating_add(bytes.len() as u64);
        self.file.write_all(bytes).map_err(BlobError::Write)
    }

    /// Opens what has been written so far a second time, from its beginning.
    pub(crate) fn reopen(&self) -> Result<File, BlobError> {
        self.file.reopen().map_err(BlobError::Write)
    }

    /// Bytes so far.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Keeps it under the digest it has, if that is the announced one.
    pub(crate) fn keep_as(self, expected: &Digest, size: u64) -> Result<(), BlobError> {
        if self.size != size {
            let digest = expected.to_string();
            return Err(BlobError::Size { digest, expected: size, found: self.size });
        }
        let found = Digest::finish(self.hasher.clone());
        if found != *expected {
            return Err(BlobError::Digest { expected: expected.clone(), found });
        }
        self.keep().map(|_| ())
    }

    /// Keeps it under the digest it has.
    pub(crate) fn keep(self) -> Result<Digest, BlobError> {
        let digest = Digest::finish(self.hasher);
        persist(self.file, &self.sha256.join(digest.hex()), &self.sha256).map_err(BlobError::Write)?;
        Ok(digest)
    }
}

/// Hashes and writes what arrives, on a blocking thread.
pub(crate) fn write_chunks(
    mut writer: BlobWriter,
    mut chunks: Receiver<Bytes>,
) -> Result<BlobWriter, BlobError> {
    while let Some(chunk) = chunks.blocking_recv() {
        writer.write(&chunk)?;
    }
    Ok(writer)
}

/// Syncs a finished file, gives it its name and syncs that too.
pub(crate) fn persist(file: NamedTempFile, path: &Path, directory: &Path) -> io::Result<()> {
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    File::open(directory)?.sync_all()
}
