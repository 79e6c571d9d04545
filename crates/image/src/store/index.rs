//! The index of images and names, one JSON file.
//!
//! Owned by the store, under its lock. Invariant: a name leads to one image.

use std::fs;
use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use super::{StoreError, at};
use crate::blob::persist;
use crate::digest::{Digest, is_hex};
use crate::record::ImageRecord;
use crate::reference;

/// Fewest digits of an id that are taken as one.
const MIN_PREFIX: usize = 4;

/// An image and the blobs it was made of.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct StoredImage {
    pub(super) record: ImageRecord,
    pub(super) blobs: Vec<Digest>,
}

/// All images, sorted by digest.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Index {
    version: u32,
    pub(super) images: Vec<StoredImage>,
}

/// An image that was looked for.
#[derive(Debug)]
pub(super) struct Found<'a> {
    pub(super) record: &'a ImageRecord,
    /// The name it was found by.
    pub(super) name: Option<String>,
}

impl Index {
    /// Reads the index, or begins one.
    pub(super) fn load(path: &Path) -> Result<Self, StoreError> {
        match fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|source| StoreError::Index { path: path.to_owned(), source }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Ok(Self { version: 1, images: Vec::new() })
            }
            Err(error) => Err(at(path)(error)),
        }
    }

    /// Replaces the index on disk.
    pub(super) fn save(&self, root: &Path) -> Result<(), StoreError> {
        let path = root.join("index.json");
        let write = || {
            let mut file = NamedTempFile::new_in(root.join("tmp"))?;
            serde_json::to_writer_pretty(&mut file, self)?;
            file.flush()?;
            persist(file, &path, root)
        };
        write().map_err(at(&path))
    }

    /// Looks for an image by name, digest or id.
    pub(super) fn find(&self, wanted: &str) -> Result<Found<'_>, StoreError> {
        let full = reference::parse(wanted).map(|reference| reference.whole()).ok();
        for name in [Some(wanted), full.as_deref()].into_iter().flatten() {
            let image = self.images.iter().find(|image| image.record.names.iter().any(|known| known == name));
            if let Some(image) = image {
                return Ok(Found { record: &image.record, name: Some(name.to_owned()) });
            }
        }
        let not_found = || StoreError::NotFound(wanted.chars().take(200).collect());
        let digits = wanted.strip_prefix("sha256:").unwrap_or(wanted);
        if digits.len() < MIN_PREFIX || !is_hex(digits) {
            return Err(not_found());
        }
        let mut fitting = self.images.iter().filter(|image| image.record.digest.hex().starts_with(digits));
        let image = fitting.next().ok_or_else(not_found)?;
        if fitting.next().is_some() {
            return Err(StoreError::Ambiguous(wanted.to_owned()));
        }
        Ok(Found { record: &image.record, name: None })
    }

    /// Takes names from whatever has them.
    pub(super) fn untag(&mut self, names: &[String]) {
        for image in &mut self.images {
            image.record.names.retain(|name| !names.contains(name));
        }
    }

    /// Puts an image in, or renews it, and gives it a name.
    pub(super) fn put(&mut self, mut image: StoredImage, name: &str) -> ImageRecord {
        self.untag(&[name.to_owned()]);
        if let Some(at) = self.images.iter().position(|known| known.record.digest == image.record.digest) {
            let known = self.images.remove(at);
            image.record.names = known.record.names;
            image.record.created_at = known.record.created_at;
        }
        image.record.names.push(name.to_owned());
        image.record.names.sort();
        let record = image.record.clone();
        let at = self.images.partition_point(|known| known.record.digest < record.digest);
        self.images.insert(at, image);
        record
    }
}
