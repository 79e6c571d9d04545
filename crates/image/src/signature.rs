//! Signatures of images, as cosign makes them with a key of its user's: ECDSA over P-256 and SHA-256.
//!
//! Two forms are read. The older signs a small JSON text that names the image's digest ("simple signing"); the newer is a
//! bundle with a DSSE envelope around an in-toto statement about it. Keyless signatures, which rest on certificates of
//! the day, are not taken.
//!
//! Invariant: whoever holds a [`Key`] and is told `true` knows that the key's owner signed just this digest. The bytes
//! come from a registry that is not trusted; their readers bound them.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject;
use serde::Deserialize;

use crate::digest::Digest;

/// What every public key on P-256 begins with (RFC 5480, section 2): algorithm, curve, and how long its point is.
const P256: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// Bytes of a point that is not compressed.
const POINT: usize = 65;

/// What a simple signature says of itself.
const SIMPLE: &str = "cosign container image signature";

/// What is in the envelope of a bundle.
const STATEMENT: &str = "application/vnd.in-toto+json";

/// What a statement says that it says: that the image is signed, and nothing else of it.
const SIGNED: &str = "https://sigstore.dev/cosign/sign/v1";

/// A text that is no key to check signatures with.
#[derive(Debug, thiserror::Error)]
#[error("not a public key of cosign's: give a PEM file with BEGIN PUBLIC KEY, ECDSA on the curve P-256")]
pub struct KeyError;

/// The public half of a key that signs images.
#[derive(Clone, PartialEq, Eq)]
pub struct Key {
    id: Digest,
    point: Vec<u8>,
}

impl Key {
    /// Reads a key as `cosign generate-key-pair` writes it to `cosign.pub`.
    ///
    /// # Errors
    /// It is another kind of key, or none.
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        let key = SubjectPublicKeyInfoDer::from_pem_slice(text.as_bytes()).map_err(|_| KeyError)?;
        let point = key.strip_prefix(&P256).filter(|point| point.len() == POINT).ok_or(KeyError)?;
        Ok(Self { id: Digest::of(&key), point: point.to_vec() })
    }

    /// The SHA-256 of the key.
    #[must_use]
    pub fn id(&self) -> &Digest {
        &self.id
    }

    fn signed(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &self.point).verify(message, signature).is_ok()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.id)
    }
}

/// What a registry has to show for an image.
#[derive(Debug)]
pub(crate) enum Evidence {
    /// A text, and its signature in base64.
    Simple { text: Vec<u8>, signature: String },
    /// A bundle.
    Bundle(Vec<u8>),
}

impl Evidence {
    /// The first of the keys whose owner signed an image with this digest.
    pub(crate) fn signer<'k>(&self, image: &Digest, keys: &'k [Key]) -> Option<&'k Key> {
        match self {
            Self::Simple { text, signature } => {
                let signature = STANDARD.decode(signature).ok()?;
                // Who signed is looked at first: nobody else's text is worth reading.
                let key = keys.iter().find(|key| key.signed(text, &signature))?;
                simple(text, image).then_some(key)
            }
            Self::Bundle(bytes) => {
                let envelope = serde_json::from_slice::<Bundle>(bytes).ok()?.envelope;
                let text = STANDARD.decode(envelope.payload).ok()?;
                let message = authenticated(&envelope.payload_type, &text);
                let signatures: Vec<Vec<u8>> =
                    envelope.signatures.iter().filter_map(|made| STANDARD.decode(&made.sig).ok()).collect();
                let signed = |key: &&Key| signatures.iter().any(|signature| key.signed(&message, signature));
                let key = keys.iter().find(signed)?;
                (envelope.payload_type == STATEMENT && statement(&text, image)).then_some(key)
            }
        }
    }
}

/// What a DSSE envelope's signature is over ("Pre-Authentication Encoding").
fn authenticated(kind: &str, text: &[u8]) -> Vec<u8> {
    let mut message = format!("DSSEv1 {} {kind} {} ", kind.len(), text.len()).into_bytes();
    message.extend_from_slice(text);
    message
}

fn simple(text: &[u8], image: &Digest) -> bool {
    serde_json::from_slice::<Simple>(text)
        .is_ok_and(|said| said.critical.kind == SIMPLE && said.critical.image.digest == image.to_string())
}

fn statement(text: &[u8], image: &Digest) -> bool {
    serde_json::from_slice::<Statement>(text).is_ok_and(|said| {
        said.predicate_type == SIGNED
            && said.subject.iter().any(|subject| subject.digest.sha256 == image.hex())
    })
}

#[derive(Deserialize)]
struct Simple {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    #[serde(rename = "type")]
    kind: String,
    image: SignedImage,
}

#[derive(Deserialize)]
struct SignedImage {
    #[serde(rename = "docker-manifest-digest")]
    digest: String,
}

#[derive(Deserialize)]
struct Bundle {
    #[serde(rename = "dsseEnvelope")]
    envelope: Envelope,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    payload: String,
    payload_type: String,
    signatures: Vec<Made>,
}

#[derive(Deserialize)]
struct Made {
    sig: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Statement {
    predicate_type: String,
    subject: Vec<Subject>,
}

#[derive(Deserialize)]
struct Subject {
    digest: SubjectDigest,
}

#[derive(Deserialize)]
struct SubjectDigest {
    #[serde(default)]
    sha256: String,
}

#[cfg(test)]
mod tests;
