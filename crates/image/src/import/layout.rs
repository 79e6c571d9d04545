//! OCI image layouts (OCI image specification, "Image Layout").
//!
//! Runs on a blocking thread. Invariant: a blob is kept under the digest that its name in the layout claims only if
//! it has that digest.

use std::collections::HashSet;

use oci_spec::image::ImageIndex;

use super::archive::{Survey, extract};
use super::{ImportError, Store};
use crate::blob::BlobWriter;
use crate::digest::Digest;
use crate::manifest::{Descriptor, Document, ManifestError, Platform, choose};

const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Indexes within indexes that are followed.
const MAX_DEPTH: usize = 4;

/// Keeps the layout's blobs; says the digest of the manifest to use, and the name that the layout gives it.
pub(super) fn import(
    store: &Store,
    spool: &BlobWriter,
    survey: &Survey,
    name: &str,
) -> Result<(Digest, Option<String>), ImportError> {
    let bytes = survey.files.get("index.json").map(Vec::as_slice).unwrap_or_default();
    let index: ImageIndex =
        serde_json::from_slice(bytes).map_err(|source| ImportError::Json { file: "index.json", source })?;
    let mut there = HashSet::new();
    let wants = |member: &str| member.starts_with("blobs/sha256/");
    extract(spool, (store.blobs(), store.limits()), wants, |member, blob| {
        let claimed = member.trim_start_matches("blobs/sha256/");
        let digest = Digest::parse(&format!("sha256:{claimed}"))?;
        let size = blob.size();
        blob.keep_as(&digest, size)?;
        there.insert(digest);
        Ok(())
    })?;
    let (entry, own_name) = pick(&index, name)?;
    let digest = descend(store, entry, &there)?;
    Ok((digest, own_name))
}

/// The entry of `index.json` to use: the one that goes by `name` where there are several.
fn pick(index: &ImageIndex, name: &str) -> Result<(Descriptor, Option<String>), ImportError> {
    let own_name = |entry: &oci_spec::image::Descriptor| {
        entry.annotations().as_ref().and_then(|annotations| annotations.get(REF_NAME)).cloned()
    };
    let tag = name.rsplit(':').next();
    let named = index.manifests().iter().find(|entry| {
        own_name(entry).is_some_and(|own| !name.is_empty() && (own == name || Some(own.as_str()) == tag))
    });
    match (index.manifests().as_slice(), named) {
        ([entry], _) => Ok((descriptor(entry)?, own_name(entry))),
        (_, Some(entry)) => Ok((descriptor(entry)?, own_name(entry))),
        (_, None) => Ok((choose(index, &Platform::host())?, None)),
    }
}

fn descriptor(entry: &oci_spec::image::Descriptor) -> Result<Descriptor, ImportError> {
    Ok(Descriptor { digest: Digest::parse(entry.digest().as_ref())?, size: entry.size() })
}

/// Goes through indexes to the manifest for this host, and checks that all its blobs are there.
fn descend(store: &Store, entry: Descriptor, there: &HashSet<Digest>) -> Result<Digest, ImportError> {
    let missing = |digest: &Digest| {
        ImportError::Content(format!(
            "blob {digest} is missing from the archive: pack it again with all its blobs"
        ))
    };
    let mut digest = entry.digest;
    for _ in 0..MAX_DEPTH {
        if !there.contains(&digest) {
            return Err(missing(&digest));
        }
        let bytes = store.blobs().read(&digest, store.limits().max_manifest_bytes)?;
        match Document::parse(&bytes, store.limits())? {
            Document::Index(index) => digest = choose(&index, &Platform::host())?.digest,
            Document::Manifest(manifest) => {
                for blob in std::iter::once(&manifest.config).chain(&manifest.layers) {
                    let came = there.contains(&blob.digest) && store.blobs().has(&blob.digest, blob.size);
                    if !came && !store.may_reuse(&blob.digest, blob.size) {
                        return Err(missing(&blob.digest));
                    }
                }
                return Ok(digest);
            }
        }
    }
    let why = "indexes nested too deeply: pack the image on its own".to_owned();
    Err(ManifestError::Unsupported(why).into())
}
