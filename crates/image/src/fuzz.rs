//! Doors for `tests/fuzz`: what reads bytes of a registry, an archive or a layer, and nothing else.

use std::fs::File;
use std::io::{self, Read};

use crate::digest::Digest;
use crate::flatten::{Layer, flatten};
use crate::import::ImportError;
use crate::layer::stream::LayerStream;
use crate::limits::Limits;
use crate::manifest::{Document, Platform, choose};
use crate::record::{ConfigFile, ImageConfig, ImageRecord};
use crate::reference;
use crate::store::Store;

/// A manifest or an index; whether it can be used.
pub fn manifest(bytes: &[u8], platform: &str, limits: &Limits) -> bool {
    let Ok(platform) = Platform::parse(Some(platform)) else { return false };
    match Document::parse(bytes, limits) {
        Ok(Document::Manifest(manifest)) => !manifest.layers.is_empty(),
        Ok(Document::Index(index)) => choose(&index, &platform).is_ok(),
        Err(_) => false,
    }
}

/// An image's configuration.
pub fn config(bytes: &[u8]) -> Option<ImageConfig> {
    serde_json::from_slice::<ConfigFile>(bytes).ok().map(ConfigFile::into_config)
}

/// A name of an image; whether it is one, for a pull and for an import.
pub fn name(text: &str) -> (bool, bool) {
    (reference::parse(text).is_ok(), reference::check_imported(text).is_ok())
}

/// Layers, compressed or not, merged into an EROFS image in the empty file `out`; whether they were.
pub fn layers(layers: &[&[u8]], out: &File, limits: &Limits) -> bool {
    let verified = layers.iter().map(|bytes| {
        let digest = Digest::of(bytes);
        let mut unpacked = Vec::new();
        // As the image's configuration would say, when the layer can be unpacked at all.
        let whole = LayerStream::new(*bytes, limits)
            .and_then(|stream| Ok(stream.take(limits.max_layer_bytes).read_to_end(&mut unpacked)?));
        let diff_id = if whole.is_ok() { Digest::of(&unpacked) } else { digest.clone() };
        io::Result::Ok(Layer { raw: *bytes, digest, diff_id })
    });
    flatten(verified, out, [7; 16], limits).is_ok()
}

/// Imports an archive into a store that has nothing, and removes what it became; whether it became anything.
///
/// # Panics
/// When the store is not afterwards as it was before.
pub fn import(store: &Store, archive: &[u8], name: &str) -> bool {
    let digest = import_archive(store, archive, name).ok().map(|image| image.digest);
    let images: Vec<_> = store.list().into_iter().map(|image| image.digest).collect();
    assert_eq!(images, Vec::from_iter(digest.clone()), "the store has other images than it says");
    if let Some(digest) = &digest {
        store
            .open_block_image(&store.resolve(&digest.to_string()).expect("it was imported"))
            .expect("its image");
        store.remove(&digest.to_string(), |_| false).expect("nobody uses it");
    }
    store.collect_garbage().expect("a store that can be written");
    let freed = store.collect_garbage().expect("a store that can be written");
    assert_eq!((freed.files, store.list().len()), (0, 0), "something stays");
    digest.is_some()
}

fn import_archive(store: &Store, archive: &[u8], name: &str) -> Result<ImageRecord, ImportError> {
    let mut spool = store.blobs().begin()?;
    spool.write(archive)?;
    store.import_spooled(spool, name, None)
}
