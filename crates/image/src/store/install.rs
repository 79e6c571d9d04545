//! The last step of a pull and of an import: from verified blobs to a flattened image in the index.
//!
//! Runs on a blocking thread of the runtime. Invariant: the index learns of an image after its file is on disk.

use super::index::StoredImage;
use super::{NamedTempFile, Store, StoreError, at, disk_bytes, image_path};
use crate::blob::{BlobError, persist};
use crate::digest::Digest;
use crate::flatten::{FlattenError, Layer, flatten};
use crate::manifest::{Document, Manifest, ManifestError, Platform};
use crate::record::{ConfigFile, ImageRecord, now};

/// Why verified blobs did not become an image.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The manifest cannot be used.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The configuration cannot be used.
    #[error("the image's configuration is broken: ask its publisher")]
    Config(#[source] serde_json::Error),
    /// Manifest and configuration disagree.
    #[error(
        "the image is broken: its manifest has {layers} layers, its configuration {diff_ids}; ask its publisher"
    )]
    LayerCount {
        /// In the manifest.
        layers: usize,
        /// In the configuration.
        diff_ids: usize,
    },
    /// It is more than its owner may have.
    #[error("the image has {size} bytes, and {left} are left for images: remove some")]
    NoRoom {
        /// What it has.
        size: u64,
        /// What its owner may have besides.
        left: u64,
    },
    /// A blob could not be read back.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// Flattening failed.
    #[error(transparent)]
    Flatten(#[from] FlattenError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Store {
    /// Flattens the image whose manifest and blobs are in the store, and names it.
    pub(crate) fn install(
        &self,
        digest: &Digest,
        name: &str,
        wanted: &Platform,
    ) -> Result<ImageRecord, InstallError> {
        let limits = self.limits();
        let bytes = self.blobs().read(digest, limits.max_manifest_bytes)?;
        let Document::Manifest(manifest) = Document::parse(&bytes, limits)? else {
            let why = "an index where an image was expected: name the image in it by its digest".to_owned();
            return Err(ManifestError::Unsupported(why).into());
        };
        let config = self.read_config(&manifest, wanted)?;
        let path = image_path(&self.inner.root, digest);
        if !path.is_file() {
            self.flatten(digest, &manifest, &config)?;
        }
        let platform = Platform::new(&config.os, &config.architecture, Some(&config.variant)).to_string();
        let record = ImageRecord {
            digest: digest.clone(),
            names: Vec::new(),
            created_at: now(),
            platform,
            size: disk_bytes(&path),
            config: config.into_config(),
        };
        let mut blobs = vec![digest.clone(), manifest.config.digest];
        blobs.extend(manifest.layers.into_iter().map(|layer| layer.digest));
        let mut state = self.inner.state();
        let mut index = state.index.clone();
        self.has_room(&index, &record)?;
        let record = index.put(StoredImage { record, blobs }, &self.kept(name));
        self.inner.save(&mut state, index)?;
        Ok(self.shown(record))
    }

    fn read_config(&self, manifest: &Manifest, wanted: &Platform) -> Result<ConfigFile, InstallError> {
        let bytes = self.blobs().read(&manifest.config.digest, self.limits().max_manifest_bytes)?;
        let config: ConfigFile = serde_json::from_slice(&bytes).map_err(InstallError::Config)?;
        let found = Platform::new(&config.os, &config.architecture, Some(&config.variant));
        if !found.serves(wanted) {
            let (wanted, found) = (wanted.to_string(), found.to_string());
            return Err(ManifestError::NoPlatform { wanted, found }.into());
        }
        let (layers, diff_ids) = (manifest.layers.len(), config.rootfs.diff_ids.len());
        if layers != diff_ids {
            return Err(InstallError::LayerCount { layers, diff_ids });
        }
        Ok(config)
    }

    fn flatten(&self, digest: &Digest, manifest: &Manifest, config: &ConfigFile) -> Result<(), InstallError> {
        let tmp = self.inner.root.join("tmp");
        let file = NamedTempFile::new_in(&tmp).map_err(at(&tmp))?;
        let layers = manifest.layers.iter().zip(&config.rootfs.diff_ids).map(|(layer, diff_id)| {
            let (digest, diff_id) = (layer.digest.clone(), diff_id.clone());
            Ok(Layer { raw: self.blobs().open(&digest)?, digest, diff_id })
        });
        flatten(layers, file.as_file(), digest.leading_bytes(), self.limits())?;
        let path = image_path(&self.inner.root, digest);
        let images = self.inner.root.join("images");
        persist(file, &path, &images).map_err(at(&path))?;
        Ok(())
    }
}
