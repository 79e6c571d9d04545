//! A root file system as an image of one layer: the archive itself, with a configuration that says nothing.
//!
//! Runs on a blocking thread. Invariant: the same archive makes the same image, so that nothing in it is a time.

use super::archive::Survey;
use super::docker::layer_media_type;
use super::{ImportError, Store, put_manifest};
use crate::blob::BlobWriter;
use crate::digest::Digest;
use crate::manifest::Platform;

/// Keeps the archive as a layer and writes its configuration and manifest; says the latter's digest.
pub(super) fn import(store: &Store, spool: BlobWriter, survey: &Survey) -> Result<Digest, ImportError> {
    if survey.entries == 0 {
        return Err(ImportError::Content("the archive is empty: there is nothing to run".to_owned()));
    }
    if !survey.complete {
        // Nothing else would tell: what is imported this way comes without a digest.
        let why = "the archive is cut short: its end is not marked by zeros; pack or send it again";
        return Err(ImportError::Content(why.to_owned()));
    }
    let platform = Platform::host();
    let config = serde_json::json!({
        "architecture": platform.architecture,
        "os": platform.os,
        "config": {},
        "rootfs": { "type": "layers", "diff_ids": [survey.unpacked] },
    });
    let config = config.to_string().into_bytes();
    let config_digest = store.blobs().put(&config)?;
    let size = spool.size();
    let layer = spool.keep()?;
    let kind = layer_media_type(store, &layer)?;
    put_manifest(store, (&config_digest, config.len() as u64), &[(layer, size, kind)])
}
