//! A writer of uncompressed EROFS images (Linux `Documentation/filesystems/erofs.rst`, on-disk format of Linux 5.15).
//!
//! Owned by the thread that flattens. Block 0 holds the superblock; [`data`] appends file contents from block 1 on as
//! they stream in, [`metadata`] lays out directories and inodes after them once the tree is final, [`inode`] encodes
//! them. Invariants: the same tree and data give the same bytes, and no content of a file is held in memory but that
//! of small files, within a budget.

mod checksum;
mod data;
mod inode;
mod metadata;

pub(crate) use data::{DataWriter, FileData};
pub(crate) use metadata::write_metadata;

use crate::layer::LayerError;

/// Bytes of a block.
pub(crate) const BLOCK: u64 = 4096;

/// Why no image could be written.
#[derive(Debug, thiserror::Error)]
pub enum ErofsError {
    /// The file system under the store failed, or is full.
    #[error("cannot write the image: free some space, or look at the disk")]
    Write(#[source] std::io::Error),
    /// The tree cannot be expressed.
    #[error(transparent)]
    Content(#[from] LayerError),
}

/// How many blocks hold so many bytes.
pub(crate) fn blocks(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK)
}
