//! The content store: verified blobs, flattened images, and the index of names.
//!
//! Owned by the daemon; cheap to clone and shared between its tasks, a lock file keeps a second process out.
//! Invariants: `index.json` is replaced in one step and names only images whose files are whole and on disk, so that
//! a process killed at any moment leaves a store that opens; nothing is collected while something is arriving.
//!
//! ```text
//! lock                    held by the process
//! index.json              images with their names
//! blobs/sha256/<hex>      manifests, configurations, layers: verified
//! images/<hex>.erofs      flattened images, by their manifest's digest
//! tmp/                    whatever is being made; emptied at every start
//! ```

mod index;
mod install;
mod owner;

use std::collections::HashSet;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use crate::blob::Blobs;
use crate::digest::Digest;
use crate::limits::Limits;
use crate::lock::lock_within;
use crate::record::ImageRecord;

use index::Index;
pub use install::InstallError;

/// How long an earlier process may take to let go of the store.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// Why the store did not do something.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has it.
    #[error(
        "the image store {0} is in use by another process: stop that one, or choose another data directory"
    )]
    Locked(PathBuf),
    /// The file system failed.
    #[error("cannot use {path} of the image store: look at its permissions and at the disk's free space")]
    Io {
        /// Which file or directory.
        path: PathBuf,
        /// What failed.
        #[source]
        source: io::Error,
    },
    /// The index is not one.
    #[error(
        "{path} is damaged: move it away to start with no images; pulls will reuse the blobs that are there"
    )]
    Index {
        /// Which file.
        path: PathBuf,
        /// What failed.
        #[source]
        source: serde_json::Error,
    },
    /// There is no such image.
    #[error("no image {0:?} in the store: pull or import it first")]
    NotFound(String),
    /// An id prefix fits several.
    #[error("{0:?} fits more than one image: give more digits")]
    Ambiguous(String),
    /// A microVM needs it.
    #[error("image {0} is in use by a microVM: remove that first")]
    InUse(String),
}

/// What a removal did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// Names that are gone.
    pub untagged: Vec<String>,
    /// The image, if that went with its last name.
    pub deleted: Option<Digest>,
    /// What was collected then.
    pub freed: Freed,
}

/// What a collection freed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Freed {
    /// Files.
    pub files: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// Put off until the pulls and imports that are running have ended.
    pub deferred: bool,
}

/// The images of one data directory: all of them, or those that one owner has ([`Store::of`]).
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
    /// Whose names count; none: everybody's, as they are kept.
    owner: Option<Arc<str>>,
    limits: Limits,
    /// The most bytes that all images of the owner together may have.
    room: u64,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    blobs: Blobs,
    state: Mutex<State>,
    /// Locked as long as the store is open.
    _lock: File,
}

#[derive(Debug)]
struct State {
    index: Index,
    /// Pulls and imports that are running.
    arriving: usize,
    collect_wanted: bool,
}

/// A pull or import that is running: nothing is collected meanwhile.
#[derive(Debug)]
pub(crate) struct Arrival(Arc<Inner>);

impl Drop for Arrival {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.arriving = state.arriving.saturating_sub(1);
        if state.collect_wanted
            && let Err(error) = self.0.collect(&mut state)
        {
            tracing::warn!(%error, "cannot collect what the image store no longer needs");
        }
    }
}

impl Store {
    /// Opens the store in `dir`, making it if it is not there, and clears what an earlier process left half made.
    ///
    /// # Errors
    /// Another process has it, the file system fails, or the index is damaged.
    pub fn open(dir: &Path, limits: Limits) -> Result<Self, StoreError> {
        for part in ["", "blobs/sha256", "images", "tmp"] {
            let path = dir.join(part);
            fs::create_dir_all(&path).map_err(at(&path))?;
        }
        let lock_path = dir.join("lock");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(at(&lock_path))?;
        lock_within(LOCK_WAIT, || lock.try_lock()).map_err(|error| match error {
            TryLockError::WouldBlock => StoreError::Locked(dir.to_owned()),
            TryLockError::Error(source) => StoreError::Io { path: lock_path, source },
        })?;
        let tmp = dir.join("tmp");
        fs::remove_dir_all(&tmp).and_then(|()| fs::create_dir(&tmp)).map_err(at(&tmp))?;
        let mut index = Index::load(&dir.join("index.json"))?;
        index.images.retain(|image| {
            let there = image_path(dir, &image.record.digest).is_file();
            if !there {
                tracing::warn!(digest = %image.record.digest, "an image's file is missing: the image is forgotten");
            }
            there
        });
        let state = Mutex::new(State { index, arriving: 0, collect_wanted: false });
        let inner = Inner { root: dir.to_owned(), blobs: Blobs::new(dir), state, _lock: lock };
        Ok(Self { inner: Arc::new(inner), owner: None, limits, room: u64::MAX })
    }

    /// All images, by digest.
    pub fn list(&self) -> Vec<ImageRecord> {
        self.seen(&self.inner.state().index).images.iter().map(|image| image.record.clone()).collect()
    }

    /// Finds an image by a name as typed, by a reference as Docker reads it, by its digest, or by four or more
    /// leading digits of that.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] and [`StoreError::Ambiguous`].
    pub fn resolve(&self, name_or_digest: &str) -> Result<ImageRecord, StoreError> {
        self.seen(&self.inner.state().index).find(name_or_digest).map(|found| found.record.clone())
    }

    /// Takes a name from an image and deletes the image with its last one; a digest or id takes all names.
    ///
    /// # Errors
    /// No such image, or it would be deleted while `in_use` says that something needs it.
    pub fn remove(
        &self,
        name_or_digest: &str,
        in_use: impl Fn(&Digest) -> bool,
    ) -> Result<Removed, StoreError> {
        self.release(name_or_digest, in_use, |_| false)
    }

    /// Deletes blobs and block images that no image of the index needs.
    ///
    /// # Errors
    /// The file system fails.
    pub fn collect_garbage(&self) -> Result<Freed, StoreError> {
        let mut state = self.inner.state();
        self.inner.collect(&mut state)
    }

    /// Opens the flattened image, read-only: an EROFS file system with 4 KiB blocks.
    ///
    /// # Errors
    /// It was removed meanwhile, or the file system fails.
    pub fn open_block_image(&self, image: &ImageRecord) -> Result<File, StoreError> {
        let path = image_path(&self.inner.root, &image.digest);
        File::open(&path).map_err(at(&path))
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(crate) fn blobs(&self) -> &Blobs {
        &self.inner.blobs
    }

    /// Marks a pull or import as running.
    pub(crate) fn begin_arrival(&self) -> Arrival {
        let mut state = self.inner.state();
        state.arriving += 1;
        // Nobody but its owner could use what is left of one that fails, and only its owner pays for it.
        state.collect_wanted |= !self.is_trusted();
        drop(state);
        Arrival(Arc::clone(&self.inner))
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes `index` the one on disk and in memory.
    fn save(&self, state: &mut State, index: Index) -> Result<(), StoreError> {
        index.save(&self.root)?;
        state.index = index;
        Ok(())
    }

    fn collect(&self, state: &mut State) -> Result<Freed, StoreError> {
        if state.arriving > 0 {
            state.collect_wanted = true;
            return Ok(Freed { deferred: true, ..Freed::default() });
        }
        state.collect_wanted = false;
        let mut needed: HashSet<String> = HashSet::new();
        for image in &state.index.images {
            needed.insert(format!("{}.erofs", image.record.digest.hex()));
            needed.extend(image.blobs.iter().map(|digest| digest.hex().to_owned()));
        }
        let mut freed = Freed::default();
        for part in ["blobs/sha256", "images"] {
            let directory = self.root.join(part);
            for entry in fs::read_dir(&directory).map_err(at(&directory))? {
                let entry = entry.map_err(at(&directory))?;
                let path = entry.path();
                if entry.file_name().to_str().is_some_and(|name| needed.contains(name)) {
                    continue;
                }
                freed.bytes += disk_bytes(&path);
                freed.files += 1;
                fs::remove_file(&path).map_err(at(&path))?;
            }
        }
        Ok(freed)
    }
}

/// Bytes that a file takes on disk; a sparse one takes less than its length.
fn disk_bytes(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    path.metadata().map_or(0, |metadata| metadata.blocks() * 512)
}

fn image_path(root: &Path, digest: &Digest) -> PathBuf {
    root.join("images").join(format!("{}.erofs", digest.hex()))
}

/// Wraps an I/O error with the path it is about.
fn at(path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io { path, source }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what it expects")]

    use std::thread;

    use super::*;

    #[test]
    fn a_store_is_one_processs_and_one_that_lets_go_of_it_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let first = Store::open(dir.path(), Limits::default()).unwrap();
        let lock = File::open(dir.path().join("lock")).unwrap();
        let refused = lock_within(Duration::ZERO, || lock.try_lock());
        assert!(matches!(refused, Err(TryLockError::WouldBlock)));
        let leaving = thread::spawn(move || {
            thread::sleep(Duration::from_millis(100));
            drop(first);
        });
        Store::open(dir.path(), Limits::default()).unwrap();
        leaving.join().unwrap();
    }
}
