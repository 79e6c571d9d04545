//! Where a registry keeps what was signed about an image: at the tag `sha256-<hex>.sig`, cosign's older place, or among
//! the image's referrers (OCI distribution specification, "Listing Referrers" and "Referrers Tag Schema").
//!
//! Invariant: whatever the registry holds, so many documents of so many bytes are asked for, and no more.

use oci_spec::distribution::Reference;
use oci_spec::image::{Descriptor, ImageIndex, ImageManifest};

use super::PullError;
use super::registry::Registry;
use crate::digest::Digest;
use crate::signature::{Evidence, Key};

/// The layers of a manifest at `sha256-<hex>.sig`, and where a layer's signature is.
const SIMPLE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";

/// What the layer of a bundle's manifest is, up to its version.
const BUNDLE: &str = "application/vnd.dev.sigstore.bundle";
/// What an index calls such a manifest where it takes the type of its configuration for it.
const EMPTY: &str = "application/vnd.oci.empty.v1+json";

/// Signatures that are looked at, of each form.
const MOST: usize = 32;

/// The longest manifest, text or bundle that is read for one.
const LONGEST: u64 = 256 << 10;

/// Signatures of an image in its own repository.
pub(super) struct Signatures<'a> {
    pub(super) registry: &'a Registry,
    pub(super) reference: &'a Reference,
}

impl Signatures<'_> {
    /// The first of the keys whose owner signed one of these digests: an index, or the image in it.
    pub(super) async fn signer<'k>(
        &self,
        digests: impl IntoIterator<Item = &Digest>,
        keys: &'k [Key],
    ) -> Result<Option<&'k Key>, PullError> {
        for digest in digests {
            for blob in self.simple(digest).await? {
                let Some(signature) = blob.annotations().as_ref().and_then(|all| all.get(SIGNATURE)) else {
                    continue;
                };
                let evidence =
                    Evidence::Simple { text: self.blob(&blob).await?, signature: signature.clone() };
                if let Some(key) = evidence.signer(digest, keys) {
                    return Ok(Some(key));
                }
            }
            for blob in self.bundles(digest).await? {
                if let Some(key) = Evidence::Bundle(self.blob(&blob).await?).signer(digest, keys) {
                    return Ok(Some(key));
                }
            }
        }
        Ok(None)
    }

    async fn simple(&self, digest: &Digest) -> Result<Vec<Descriptor>, PullError> {
        let found = self.at(&format!("sha256-{}.sig", digest.hex())).await?;
        Ok(found.map_or_else(Vec::new, |bytes| layers(&bytes, |kind| kind == SIMPLE)))
    }

    async fn bundles(&self, digest: &Digest) -> Result<Vec<Descriptor>, PullError> {
        let listed = match self.registry.referrers(digest, LONGEST).await {
            Err(error) if is_missing(&error) => self.at(&format!("sha256-{}", digest.hex())).await?,
            listed => Some(listed?),
        };
        let index = listed.and_then(|bytes| serde_json::from_slice::<ImageIndex>(&bytes).ok());
        let mut found = Vec::new();
        for entry in
            index.iter().flat_map(ImageIndex::manifests).filter(|entry| may_be_bundle(entry)).take(MOST)
        {
            let named = self.reference.clone_with_digest(entry.digest().to_string());
            match self.registry.manifest(&named, LONGEST).await {
                Ok(bytes) => {
                    found.extend(layers(&bytes, |kind| kind.starts_with(BUNDLE)).into_iter().take(1))
                }
                Err(error) if is_missing(&error) => (),
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// The document at a tag, if there is one.
    async fn at(&self, tag: &str) -> Result<Option<Vec<u8>>, PullError> {
        let (registry, repository) = (self.reference.registry(), self.reference.repository());
        let named = Reference::with_tag(registry.to_owned(), repository.to_owned(), tag.to_owned());
        match self.registry.manifest(&named, LONGEST).await {
            Err(error) if is_missing(&error) => Ok(None),
            found => found.map(Some),
        }
    }

    async fn blob(&self, blob: &Descriptor) -> Result<Vec<u8>, PullError> {
        let digest = Digest::parse(blob.digest().as_ref()).map_err(crate::ManifestError::Digest)?;
        self.registry.small_blob(&digest, LONGEST).await
    }
}

fn may_be_bundle(entry: &Descriptor) -> bool {
    let kind = entry.artifact_type().as_ref().map(ToString::to_string);
    kind.is_none_or(|kind| kind.starts_with(BUNDLE) || kind == EMPTY)
}

fn layers(bytes: &[u8], wanted: impl Fn(&str) -> bool) -> Vec<Descriptor> {
    let Ok(manifest) = serde_json::from_slice::<ImageManifest>(bytes) else { return Vec::new() };
    let fits = |layer: &&Descriptor| wanted(layer.media_type().as_ref());
    manifest.layers().iter().filter(fits).take(MOST).cloned().collect()
}

/// Whether the registry answered that there is no such thing. It may not let a stranger know that: an image without a
/// signature in a private repository of such a registry is refused with the registry's own word.
fn is_missing(error: &PullError) -> bool {
    matches!(error, PullError::NotFound(_))
}
