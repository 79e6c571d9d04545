//! Manifests and indexes: what an image consists of, and which one suits a platform (OCI image specification, "Image
//! Manifest" and "Image Index"; Docker's schema 2 is the same under other media types).
//!
//! Invariant: a [`Manifest`] names only blobs with SHA-256 digests and sizes within limits, and only layers that this
//! store can unpack.

use std::fmt;

use oci_spec::image::{ImageIndex, ImageManifest};
use serde::Deserialize;

use crate::digest::{Digest, DigestError};
use crate::limits::Limits;

/// Manifests that a registry is asked for.
pub(crate) const ACCEPTED: [&str; 4] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

/// Layers that can be unpacked; the content tells how it is compressed.
const LAYERS: [&str; 5] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
];

/// Why a manifest cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// It is not JSON, or not of the shape it should have.
    #[error("the manifest is broken: ask the image's publisher")]
    Parse(#[source] serde_json::Error),
    /// It is of a kind that is not supported.
    #[error("{0}")]
    Unsupported(String),
    /// A blob goes by a digest of another kind.
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// The platform is not written as one.
    #[error("{0:?} is no platform: write os/architecture or os/architecture/variant, such as linux/amd64")]
    BadPlatform(String),
    /// There is no image for the platform.
    #[error("no image for {wanted}: there is {found}; ask for one of these or pick another image")]
    NoPlatform {
        /// What was asked for.
        wanted: String,
        /// What there is.
        found: String,
    },
    /// More than the limits allow.
    #[error("it is too large: {what} (limit {limit}); raise {name} if you trust this image")]
    Limit {
        /// What was too much.
        what: String,
        /// The bound.
        limit: u64,
        /// The name of the limit in [`Limits`].
        name: &'static str,
    },
}

/// An operating system and processor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Platform {
    pub(crate) os: String,
    pub(crate) architecture: String,
    pub(crate) variant: Option<String>,
}

impl Platform {
    /// Reads `os/architecture[/variant]`; without a text, the host's.
    pub(crate) fn parse(text: Option<&str>) -> Result<Self, ManifestError> {
        let Some(text) = text else { return Ok(Self::host()) };
        let good = |part: &&str| {
            !part.is_empty()
                && part.len() <= 32
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.')
        };
        let parts: Vec<&str> = text.split('/').collect();
        if !parts.iter().all(good) {
            return Err(ManifestError::BadPlatform(text.chars().take(100).collect()));
        }
        match parts.as_slice() {
            [os, architecture] => Ok(Self::new(os, architecture, None)),
            [os, architecture, variant] => Ok(Self::new(os, architecture, Some(variant))),
            _ => Err(ManifestError::BadPlatform(text.chars().take(100).collect())),
        }
    }

    /// Linux on this processor.
    pub(crate) fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Self::new("linux", architecture, None)
    }

    /// From its parts; an empty variant is none.
    pub(crate) fn new(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        let variant = variant.filter(|variant| !variant.is_empty()).map(str::to_owned);
        Self { os: os.to_owned(), architecture: architecture.to_owned(), variant }
    }

    /// Whether an image for `self` serves where `wanted` was asked for.
    pub(crate) fn serves(&self, wanted: &Self) -> bool {
        self.os == wanted.os
            && self.architecture == wanted.architecture
            && (wanted.variant.is_none() || self.variant.is_none() || self.variant == wanted.variant)
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.iter().try_for_each(|variant| write!(f, "/{variant}"))
    }
}

/// A blob as something else names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Descriptor {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

/// The blobs of one image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
}

/// What a name or digest leads to.
#[derive(Debug)]
pub(crate) enum Document {
    Manifest(Manifest),
    Index(Box<ImageIndex>),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Probe {
    schema_version: u64,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    manifests: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    config: Option<serde::de::IgnoredAny>,
}

impl Document {
    /// Reads a manifest or an index.
    pub(crate) fn parse(bytes: &[u8], limits: &Limits) -> Result<Self, ManifestError> {
        let probe: Probe = serde_json::from_slice(bytes).map_err(ManifestError::Parse)?;
        if probe.schema_version != 2 {
            let version = probe.schema_version;
            return Err(ManifestError::Unsupported(format!(
                "manifest schema {version} is not supported: it carries no verifiable content; ask the publisher to push the image again with a current tool"
            )));
        }
        if let Some(kind) = probe.media_type.filter(|kind| !ACCEPTED.contains(&kind.as_str())) {
            let kind: String = kind.chars().take(100).collect();
            return Err(ManifestError::Unsupported(format!(
                "{kind:?} is not a container image: pick another reference"
            )));
        }
        match (probe.manifests, probe.config) {
            (Some(_), None) => serde_json::from_slice(bytes)
                .map(|index| Self::Index(Box::new(index)))
                .map_err(ManifestError::Parse),
            (None, Some(_)) => {
                let manifest: ImageManifest = serde_json::from_slice(bytes).map_err(ManifestError::Parse)?;
                check_manifest(&manifest, limits).map(Self::Manifest)
            }
            _ => Err(ManifestError::Unsupported(
                "it is neither an image manifest nor an index of them: pick another reference".to_owned(),
            )),
        }
    }
}

fn check_manifest(manifest: &ImageManifest, limits: &Limits) -> Result<Manifest, ManifestError> {
    let layers = manifest.layers();
    if layers.is_empty() {
        return Err(ManifestError::Unsupported(
            "the image has no layers, so there is nothing to run".to_owned(),
        ));
    }
    let limit = |what: String, limit: u64, name| Err(ManifestError::Limit { what, limit, name });
    if layers.len() > limits.max_layers {
        return limit(format!("{} layers", layers.len()), limits.max_layers as u64, "max_layers");
    }
    for layer in layers {
        let kind = layer.media_type().to_string();
        if !LAYERS.contains(&kind.as_str()) {
            let kind: String = kind.chars().take(100).collect();
            let why = if kind.contains("foreign") || kind.contains("nondistributable") {
                "its content is not in the registry; use an image whose layers are"
            } else {
                "it is not a file system layer this version can unpack; use an image with tar layers (plain, gzip or zstd)"
            };
            return Err(ManifestError::Unsupported(format!("a layer has media type {kind:?}: {why}")));
        }
        if layer.size() > limits.max_blob_bytes {
            return limit(
                format!("a layer of {} bytes", layer.size()),
                limits.max_blob_bytes,
                "max_blob_bytes",
            );
        }
    }
    if manifest.config().size() > limits.max_manifest_bytes {
        let size = manifest.config().size();
        return limit(
            format!("a configuration of {size} bytes"),
            limits.max_manifest_bytes,
            "max_manifest_bytes",
        );
    }
    Ok(Manifest {
        config: descriptor(manifest.config())?,
        layers: layers.iter().map(descriptor).collect::<Result<_, _>>()?,
    })
}

fn descriptor(descriptor: &oci_spec::image::Descriptor) -> Result<Descriptor, ManifestError> {
    Ok(Descriptor { digest: Digest::parse(descriptor.digest().as_ref())?, size: descriptor.size() })
}

/// The entry of an index that suits `wanted`. An entry of an OCI layout may not say its platform: a lone one is it.
pub(crate) fn choose(index: &ImageIndex, wanted: &Platform) -> Result<Descriptor, ManifestError> {
    let platforms: Vec<(Option<Platform>, &oci_spec::image::Descriptor)> = index
        .manifests()
        .iter()
        .map(|entry| {
            let platform = entry.platform().as_ref().map(|platform| {
                let (os, architecture) = (platform.os().to_string(), platform.architecture().to_string());
                Platform::new(&os, &architecture, platform.variant().as_deref())
            });
            (platform, entry)
        })
        .collect();
    if let [(None, entry)] = platforms.as_slice() {
        return descriptor(entry);
    }
    let serving =
        || platforms.iter().filter(|(platform, _)| platform.as_ref().is_some_and(|p| p.serves(wanted)));
    let exact =
        serving().find(|(platform, _)| platform.as_ref().is_some_and(|p| p.variant == wanted.variant));
    if let Some((_, entry)) = exact.or_else(|| serving().next()) {
        return descriptor(entry);
    }
    let mut found: Vec<String> = platforms
        .iter()
        .filter_map(|(platform, _)| platform.as_ref().filter(|p| p.os != "unknown").map(ToString::to_string))
        .take(32)
        .collect();
    found.sort();
    found.dedup();
    let found = if found.is_empty() { "no platform at all".to_owned() } else { found.join(", ") };
    Err(ManifestError::NoPlatform { wanted: wanted.to_string(), found })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_without_layers_is_refused() {
        let parse = |layers: &str| {
            let blob = |kind: &str| {
                let digest = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
                format!(
                    r#"{{"mediaType":"application/vnd.oci.image.{kind}","digest":"sha256:{digest}","size":2}}"#
                )
            };
            let (config, layer) = (blob("config.v1+json"), blob("layer.v1.tar"));
            let layers = layers.replace("LAYER", &layer);
            let text = format!(r#"{{"schemaVersion":2,"config":{config},"layers":{layers}}}"#);
            Document::parse(text.as_bytes(), &Limits::default())
        };
        assert!(matches!(parse("[LAYER]"), Ok(Document::Manifest(_))));
        assert!(matches!(parse("[]"), Err(ManifestError::Unsupported(_))));
    }
}
