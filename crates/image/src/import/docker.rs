//! What `docker save` writes: `manifest.json`, a configuration and layers (Docker image specification v1.2).
//!
//! Runs on a blocking thread. Invariant: the layers are checked against the configuration's `diff_ids` like any.

use std::collections::{BTreeSet, HashMap};

use serde::Deserialize;

use super::archive::{Survey, extract};
use super::{ImportError, Store, put_manifest};
use crate::blob::{BlobError, BlobWriter};
use crate::digest::Digest;
use crate::layer::stream::Compression;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// Whether a `manifest.json` is one of `docker save`.
pub(super) fn looks_right(bytes: &[u8]) -> bool {
    serde_json::from_slice::<Vec<Entry>>(bytes).is_ok_and(|entries| !entries.is_empty())
}

/// Keeps the image's blobs and writes its manifest; says its digest, and the first tag that the archive gives it.
pub(super) fn import(
    store: &Store,
    spool: &BlobWriter,
    survey: &Survey,
    name: &str,
) -> Result<(Digest, Option<String>), ImportError> {
    let bytes = survey.files.get("manifest.json").map(Vec::as_slice).unwrap_or_default();
    let entries: Vec<Entry> = serde_json::from_slice(bytes)
        .map_err(|source| ImportError::Json { file: "manifest.json", source })?;
    let entry = pick(&entries, name)?;
    let limits = store.limits();
    if entry.layers.is_empty() || entry.layers.len() > limits.max_layers {
        let (count, most) = (entry.layers.len(), limits.max_layers);
        return Err(ImportError::Content(format!(
            "the image has {count} layers; 1 to {most} are supported (max_layers)"
        )));
    }
    let follow = |path: &String| survey.follow(path).ok_or_else(|| missing(path));
    let config = follow(&entry.config)?;
    let layers = entry.layers.iter().map(follow).collect::<Result<Vec<_>, _>>()?;
    let wanted: BTreeSet<&str> = layers.iter().chain([&config]).map(String::as_str).collect();
    let mut kept = HashMap::new();
    extract(
        spool,
        (store.blobs(), limits),
        |member| wanted.contains(member),
        |member, blob| {
            let size = blob.size();
            if member == config && size > limits.max_manifest_bytes {
                let limit = limits.max_manifest_bytes;
                return Err(BlobError::TooLarge { what: member, limit, name: "max_manifest_bytes" }.into());
            }
            kept.insert(member, (blob.keep()?, size));
            Ok(())
        },
    )?;
    let find = |member: &String| kept.get(member).cloned().ok_or_else(|| missing(member));
    let (config, config_size) = find(&config)?;
    let mut described = Vec::new();
    for layer in &layers {
        let (digest, size) = find(layer)?;
        let kind = layer_media_type(store, &digest)?;
        described.push((digest, size, kind));
    }
    let digest = put_manifest(store, (&config, config_size), &described)?;
    let tag = entry.repo_tags.as_ref().and_then(|tags| tags.first()).cloned();
    Ok((digest, tag))
}

fn missing(path: &str) -> ImportError {
    let path: String = path.chars().take(200).collect();
    ImportError::Content(format!(
        "{path:?}, which manifest.json names, is missing from the archive: save the image again"
    ))
}

/// The image to use: the one that is tagged `name` where there are several.
fn pick<'a>(entries: &'a [Entry], name: &str) -> Result<&'a Entry, ImportError> {
    if let [entry] = entries {
        return Ok(entry);
    }
    let tags = |entry: &'a Entry| entry.repo_tags.iter().flatten().map(String::as_str);
    let latest = format!("{name}:latest");
    entries.iter().find(|entry| tags(entry).any(|tag| tag == name || tag == latest)).ok_or_else(|| {
        let found: Vec<&str> = entries.iter().flat_map(tags).take(32).collect();
        ImportError::Content(format!(
            "the archive has {} images: import it under the tag of one of them ({})",
            entries.len(),
            found.join(", ")
        ))
    })
}

/// The media type of a layer, by its first bytes.
pub(super) fn layer_media_type(store: &Store, digest: &Digest) -> Result<&'static str, ImportError> {
    use std::io::Read;
    let mut start = Vec::new();
    let file = store.blobs().open(digest).map_err(BlobError::Write)?;
    file.take(4).read_to_end(&mut start).map_err(BlobError::Write)?;
    Ok(match Compression::of(&start) {
        Compression::Plain => "application/vnd.oci.image.layer.v1.tar",
        Compression::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
        Compression::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
    })
}
