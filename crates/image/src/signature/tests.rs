#![allow(clippy::unwrap_used, reason = "a test says what it expects")]

use proptest::prelude::*;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::json;

use super::*;

struct Signer(EcdsaKeyPair);

impl Signer {
    fn new() -> Self {
        let algorithm = &ECDSA_P256_SHA256_ASN1_SIGNING;
        let pair = EcdsaKeyPair::generate_pkcs8(algorithm, &SystemRandom::new()).unwrap();
        Self(EcdsaKeyPair::from_pkcs8(algorithm, pair.as_ref(), &SystemRandom::new()).unwrap())
    }

    fn pem(&self) -> String {
        let der = [&P256, self.0.public_key().as_ref()].concat();
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(der))
    }

    fn key(&self) -> Key {
        Key::from_pem(&self.pem()).unwrap()
    }

    fn sign(&self, message: &[u8]) -> String {
        STANDARD.encode(self.0.sign(&SystemRandom::new(), message).unwrap())
    }

    fn simple(&self, kind: &str, image: &Digest) -> Evidence {
        let text = json!({
            "critical": {"identity": {"docker-reference": ""}, "image": {"docker-manifest-digest": image}, "type": kind},
            "optional": null,
        });
        let text = text.to_string().into_bytes();
        Evidence::Simple { signature: self.sign(&text), text }
    }

    fn bundle(&self, kind: &str, predicate: &str, image: &Digest) -> Evidence {
        let text = json!({
            "_type": "https://in-toto.io/Statement/v1", "predicateType": predicate, "predicate": {},
            "subject": [{"name": "", "digest": {"sha256": image.hex()}}],
        });
        let text = text.to_string().into_bytes();
        let signature = self.sign(&authenticated(kind, &text));
        let bundle = json!({
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "verificationMaterial": {"publicKey": {"hint": "x"}},
            "dsseEnvelope": {"payload": STANDARD.encode(&text), "payloadType": kind, "signatures": [{"sig": signature}]},
        });
        Evidence::Bundle(bundle.to_string().into_bytes())
    }
}

#[test]
fn both_forms_name_their_signer_and_nobody_else() {
    let (image, other) = (Digest::of(b"image"), Digest::of(b"other"));
    let (ours, theirs) = (Signer::new(), Signer::new());
    let keys = [theirs.key(), ours.key()];
    for evidence in [ours.simple(SIMPLE, &image), ours.bundle(STATEMENT, SIGNED, &image)] {
        assert_eq!(evidence.signer(&image, &keys).map(Key::id), Some(ours.key().id()));
        assert_eq!(evidence.signer(&other, &keys), None, "another image");
        assert_eq!(evidence.signer(&image, &[theirs.key()]), None, "another key");
        assert_eq!(evidence.signer(&image, &[]), None);
    }
}

#[test]
fn a_signature_under_something_else_is_none() {
    let image = Digest::of(b"image");
    let ours = Signer::new();
    let keys = [ours.key()];
    let evidence = [
        ours.simple("atomic container signature", &image),
        ours.bundle("text/plain", SIGNED, &image),
        // Statements about an image that are no word for it: a list of holes in it, for one.
        ours.bundle(STATEMENT, "https://cosign.sigstore.dev/attestation/vuln/v1", &image),
        Evidence::Simple { text: b"{}".to_vec(), signature: ours.sign(b"{}") },
        Evidence::Simple { text: b"{}".to_vec(), signature: "*".to_owned() },
        Evidence::Bundle(b"{}".to_vec()),
    ];
    for evidence in evidence {
        assert_eq!(evidence.signer(&image, &keys), None, "{evidence:?}");
    }
}

#[test]
fn a_changed_text_is_signed_by_nobody() {
    let (image, other) = (Digest::of(b"image"), Digest::of(b"other"));
    let ours = Signer::new();
    let Evidence::Simple { text, signature } = ours.simple(SIMPLE, &other) else { unreachable!() };
    let text = String::from_utf8(text).unwrap().replace(other.hex(), image.hex()).into_bytes();
    assert_eq!(Evidence::Simple { text, signature }.signer(&image, &[ours.key()]), None);
}

#[test]
fn other_keys_are_refused() {
    let pem = Signer::new().pem();
    assert!(Key::from_pem(&pem.replace("PUBLIC KEY", "PRIVATE KEY")).is_err());
    assert!(Key::from_pem("").is_err());
    let der = STANDARD.decode(pem.lines().nth(1).unwrap()).unwrap();
    let wrap = |der: &[u8]| {
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(der))
    };
    assert!(Key::from_pem(&wrap(&der)).is_ok());
    assert!(Key::from_pem(&wrap(&der[..der.len() - 1])).is_err());
    assert!(Key::from_pem(&wrap(&der[1..])).is_err());
}

proptest! {
    #[test]
    fn any_bytes_are_judged_without_panic(text in prop::collection::vec(any::<u8>(), 0..200), signature in ".{0,100}") {
        let image = Digest::of(b"image");
        let keys = [Key { id: image.clone(), point: text.clone() }];
        prop_assert_eq!(Evidence::Bundle(text.clone()).signer(&image, &keys), None);
        prop_assert_eq!(Evidence::Simple { text, signature }.signer(&image, &keys), None);
    }
}
