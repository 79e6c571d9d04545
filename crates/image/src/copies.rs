//! Files and directories of the host as one read-only block image, for a guest that is to see a copy of them.
//!
//! Runs on a blocking thread of the caller. Each goes the way of an image's layer: packed, then flattened to EROFS, so
//! that owners, permissions, times, links and extended attributes are as they were. Invariant: what is too much is
//! refused before it is written; nothing that was written has a name, so nothing is left behind.

use std::fs::{self, File};
use std::io::{self, Seek, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::digest::Digest;
use crate::flatten::{FlattenError, Layer, flatten};
use crate::layer::LayerError;
use crate::limits::Limits;
use crate::pack::{PackError, pack_tree};

/// The most bytes of all copies together, with what describes them.
const BYTES_MAX: u64 = 64 << 20;
/// The most files and directories of all copies together.
const ENTRIES_MAX: u64 = 10_000;

/// Why there are no copies.
#[derive(Debug, thiserror::Error)]
pub enum CopiesError {
    /// A source cannot be read.
    #[error("the host's {0} cannot be copied")]
    Source(PathBuf, #[source] io::Error),
    /// A file below one cannot be read.
    #[error("the host's {0} cannot be copied")]
    Pack(PathBuf, #[source] PackError),
    /// There is too much.
    #[error(
        "the host's {0} is too large to be copied at every start (64 MiB and 10,000 files are the most for all \
         copies together): put it into a volume or an image"
    )]
    TooMuch(PathBuf),
    /// The image cannot be written.
    #[error("the copies of the host's files cannot be written")]
    Write(#[source] io::Error),
    /// The files cannot be expressed.
    #[error("the copies of the host's files cannot be made into a disk")]
    Flatten(#[from] FlattenError),
}

/// Copies the sources, links to them followed, under the names 0, 1, 2 and so on, into an image that is read only;
/// `scratch` is the directory whose file system it takes room of.
///
/// # Errors
/// When one cannot be read, or all are too much.
pub fn copies_image(sources: &[PathBuf], scratch: &Path) -> Result<File, CopiesError> {
    let (mut layers, mut left) = (Vec::new(), BYTES_MAX);
    for (number, source) in sources.iter().enumerate() {
        let path = fs::canonicalize(source).map_err(|error| CopiesError::Source(source.clone(), error))?;
        let file = tempfile::tempfile_in(scratch).map_err(CopiesError::Write)?;
        let mut spool = Spool { file, left, hasher: Sha256::new(), over: false };
        match pack_tree(&path, number.to_string().as_bytes(), &mut spool) {
            Ok(()) => {}
            Err(_) if spool.over => return Err(CopiesError::TooMuch(source.clone())),
            Err(PackError::Write(error)) => return Err(CopiesError::Write(error)),
            Err(error) => return Err(CopiesError::Pack(source.clone(), error)),
        }
        let Spool { mut file, hasher, left: rest, .. } = spool;
        left = rest;
        file.rewind().map_err(CopiesError::Write)?;
        let digest = Digest::finish(hasher);
        layers.push(Ok(Layer { raw: file, diff_id: digest.clone(), digest }));
    }
    let limits = Limits { max_entries: ENTRIES_MAX, ..Limits::default() };
    let image = tempfile::tempfile_in(scratch).map_err(CopiesError::Write)?;
    flatten(layers, &image, [0; 16], &limits).map_err(|error| match error {
        FlattenError::Layer { source: LayerError::Limit { .. }, .. } => {
            CopiesError::TooMuch(sources.last().cloned().unwrap_or_default())
        }
        error => error.into(),
    })?;
    // The descriptor that is handed on can only be read.
    File::open(format!("/proc/self/fd/{}", image.as_raw_fd())).map_err(CopiesError::Write)
}

/// A file that takes so many bytes and no more.
struct Spool {
    file: File,
    left: u64,
    hasher: Sha256,
    over: bool,
}

impl Write for Spool {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.left.checked_sub(bytes.len() as u64) {
            Some(left) => self.left = left,
            None => {
                self.over = true;
                return Err(io::ErrorKind::FileTooLarge.into());
            }
        }
        self.file.write_all(bytes)?;
        self.hasher.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what it expects")]

    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn files_and_trees_become_one_image_that_cannot_be_written() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("tree")).unwrap();
        fs::write(dir.path().join("tree/file"), "needle in a tree").unwrap();
        fs::write(dir.path().join("single"), "needle by itself").unwrap();
        std::os::unix::fs::symlink("single", dir.path().join("link")).unwrap();
        let image = copies_image(&[dir.path().join("tree"), dir.path().join("link")], dir.path()).unwrap();
        let mut bytes = vec![0; usize::try_from(image.metadata().unwrap().len()).unwrap()];
        image.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(bytes[1024..1028], 0xe0f5_e1e2_u32.to_le_bytes());
        for needle in ["needle in a tree", "needle by itself"] {
            assert!(bytes.windows(needle.len()).any(|window| window == needle.as_bytes()), "{needle}");
        }
        image.write_at(b"x", 0).unwrap_err();
        // Nothing but the sources is there.
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
    }

    #[test]
    fn what_is_missing_or_too_much_is_refused_in_words() {
        let dir = tempfile::tempdir().unwrap();
        let refused = |name: &str| {
            let error = copies_image(&[dir.path().join(name)], dir.path()).unwrap_err();
            error.to_string()
        };
        assert!(refused("missing").contains("missing cannot be copied"));
        // Holes count for nothing: it is the data that is copied.
        let large = File::create(dir.path().join("large")).unwrap();
        (0..65).for_each(|mib| large.write_all_at(&[1; 1 << 20], mib << 20).unwrap());
        assert!(refused("large").contains("put it into a volume"), "{}", refused("large"));
        let many = dir.path().join("many");
        fs::create_dir(&many).unwrap();
        (0..ENTRIES_MAX).for_each(|number| fs::write(many.join(number.to_string()), "").unwrap());
        assert!(refused("many").contains("put it into a volume"), "{}", refused("many"));
    }
}
