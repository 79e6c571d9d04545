//! Names of images, as Docker and the OCI distribution specification write them.
//!
//! Invariant: one image has one full name, `registry/repository:tag` or `registry/repository@digest`.

use oci_spec::distribution::{ParseError, Reference};

/// A text that does not name an image.
#[derive(Debug, thiserror::Error)]
#[error("{reference:?} is no image reference: write [REGISTRY/]NAME[:TAG] or NAME@sha256:DIGEST ({why})")]
pub struct ReferenceError {
    reference: String,
    why: String,
}

/// Reads a reference as Docker does: `busybox` is `docker.io/library/busybox:latest`.
///
/// # Errors
/// Whatever does not follow the grammar.
pub(crate) fn parse(text: &str) -> Result<Reference, ReferenceError> {
    text.parse().map_err(|error: ParseError| ReferenceError {
        reference: text.chars().take(200).collect(),
        why: error.to_string(),
    })
}

/// The registry and repository that a reference is of, such as `docker.io/library/busybox`; none: it is no reference.
pub fn repository_of(reference: &str) -> Option<String> {
    let reference = parse(reference).ok()?;
    Some(format!("{}/{}", reference.registry(), reference.repository()))
}

/// Checks the name that an imported image is to have: it is found again exactly as typed.
///
/// # Errors
/// Names that are empty, too long, look like a digest or hold anything but `a-zA-Z0-9._-/:@`.
pub(crate) fn check_imported(name: &str) -> Result<(), ReferenceError> {
    let refuse =
        |why: &str| Err(ReferenceError { reference: name.chars().take(200).collect(), why: why.to_owned() });
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/:@+".contains(&byte);
    if name.is_empty() || name.len() > 255 {
        return refuse("a name has 1 to 255 characters");
    }
    if !name.bytes().all(allowed) || !name.starts_with(|first: char| first.is_ascii_alphanumeric()) {
        return refuse("a name begins with a letter or digit and has only these and ._-/:@+");
    }
    if name.starts_with("sha256:") || (name.len() == 64 && crate::digest::is_hex(name)) {
        return refuse("that would read as a digest");
    }
    Ok(())
}
