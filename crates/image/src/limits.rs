//! How much one image may cost the host before it is refused.
//!
//! Owned by the [`Store`](crate::Store), read by every step of a pull and an import. Invariant: whatever length comes
//! from a registry or from an archive is compared with one of these before anything is allocated or written for it.

use serde::{Deserialize, Serialize};

/// Bounds for what an image may contain; all sizes in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Entries in all layers of an image together.
    pub max_entries: u64,
    /// Size of one layer once it is decompressed.
    pub max_layer_bytes: u64,
    /// Size of the flattened image.
    pub max_image_bytes: u64,
    /// How many times its own size a layer may unpack to, beyond the first 64 MiB.
    pub max_expansion_ratio: u64,
    /// Size of one blob as the registry or the archive has it.
    pub max_blob_bytes: u64,
    /// Size of a manifest, an index or a configuration.
    pub max_manifest_bytes: u64,
    /// Layers in one image.
    pub max_layers: usize,
    /// Length of an entry's path.
    pub max_path_len: usize,
    /// Names, link targets and extended attributes of one image together: what is held in memory.
    pub max_metadata_bytes: u64,
    /// Size of one file, holes included.
    pub max_file_bytes: u64,
    /// Longest silence of a registry, in seconds.
    pub stall_seconds: u64,
    /// Slowest average rate at which a blob may arrive, in bytes per second, after a grace of five minutes.
    pub min_bytes_per_second: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_entries: 2_000_000,
            max_layer_bytes: 64 << 30,
            max_image_bytes: 128 << 30,
            max_expansion_ratio: 200,
            max_blob_bytes: 32 << 30,
            max_manifest_bytes: 4 << 20,
            max_layers: 512,
            max_path_len: 4096,
            max_metadata_bytes: 512 << 20,
            max_file_bytes: 16 << 40,
            stall_seconds: 60,
            min_bytes_per_second: 16 << 10,
        }
    }
}

impl Limits {
    /// Unpacked bytes that every layer may have, however small it is: ratios of tiny layers say nothing.
    pub(crate) const FREE_EXPANSION: u64 = 64 << 20;
}
