//! One layer of an image: a tar stream, possibly compressed (OCI image specification, "Image Layer Filesystem Changeset").
//!
//! [`stream`] decompresses within limits and hashes, [`records`] turns the bytes into entries, [`pax`] and [`sparse`]
//! read the extensions. Owned by the thread that flattens or imports. Invariant: no length in a layer is believed
//! before it has been compared with a limit, and nothing here writes to the host's file system.

pub(crate) mod pax;
pub(crate) mod records;
pub(crate) mod sparse;
pub(crate) mod stream;

use std::io;

/// Why a layer or an archive was refused.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// Reading or decompressing failed.
    #[error("cannot read or decompress it: it is damaged or cut short")]
    Read(#[source] io::Error),
    /// The archive's structure is broken.
    #[error("it is not a good tar archive: {what} at byte {at} of the unpacked stream")]
    Malformed {
        /// What is broken.
        what: String,
        /// Where.
        at: u64,
    },
    /// A limit was hit.
    #[error("it is too large: {what} (limit {limit}); raise {name} if you trust this image")]
    Limit {
        /// What was too much.
        what: &'static str,
        /// The bound.
        limit: u64,
        /// The name of the limit in [`Limits`](crate::Limits).
        name: &'static str,
    },
    /// An entry that must not be followed.
    #[error("entry {path:?}: {why}")]
    Entry {
        /// The entry's path, shortened and made printable.
        path: String,
        /// What is wrong with it and what to do.
        why: String,
    },
}

impl LayerError {
    /// An error about one entry.
    pub(crate) fn entry(path: &[u8], why: impl Into<String>) -> Self {
        let shown = path.get(..path.len().min(200)).unwrap_or_default();
        Self::Entry { path: String::from_utf8_lossy(shown).into_owned(), why: why.into() }
    }
}

impl From<io::Error> for LayerError {
    fn from(error: io::Error) -> Self {
        match error.downcast::<LayerError>() {
            Ok(ours) => ours,
            Err(error) => Self::Read(error),
        }
    }
}
