//! Pulling images that must be signed: signatures that OpenSSL makes, in a real registry, in both of cosign's places.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fs;
use std::path::Path;

use hull_image::{Digest, Key, Limits, PullError, Store};
use hull_protocol::api::PullRequest;
use serde_json::{Value, json};
use support::{Layout, Registry, layer, shell};

/// A key pair in a directory of its own.
struct Signer(tempfile::TempDir);

impl Signer {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        shell(&format!(
            "cd {}; openssl ecparam -name prime256v1 -genkey -noout -out key; openssl ec -in key -pubout -out cosign.pub 2>/dev/null",
            dir.path().display()
        ));
        Self(dir)
    }

    fn key(&self) -> Key {
        Key::from_pem(&fs::read_to_string(self.0.path().join("cosign.pub")).unwrap()).unwrap()
    }

    fn sign(&self, message: &[u8]) -> String {
        let dir = self.0.path();
        fs::write(dir.join("message"), message).unwrap();
        shell(&format!("cd {}; openssl dgst -sha256 -sign key message | base64 -w0", dir.display()))
    }
}

/// A repository `app` in a registry, with an image in it.
struct Repository {
    registry: Registry,
    scratch: tempfile::TempDir,
}

impl Repository {
    fn new() -> Self {
        Self { registry: Registry::plain(), scratch: tempfile::tempdir().unwrap() }
    }

    /// Pushes an image; its digest.
    fn image(&self, tag: &str) -> Digest {
        let mut layout = Layout::new(&self.scratch.path().join(tag));
        let digest = layout.image(&[layer(&[("name", tag.as_bytes())])], "gzip -n", "amd64", tag);
        self.registry.push(&layout, tag, &format!("app:{tag}"));
        digest
    }

    /// Pushes two images under an index; its digest.
    fn index(&self, tag: &str) -> Digest {
        let dir = self.scratch.path().join(tag);
        let mut layout = Layout::new(&dir);
        layout.image(&[layer(&[("name", b"this")])], "gzip -n", "amd64", "this");
        layout.image(&[layer(&[("name", b"other")])], "gzip -n", "arm64", "other");
        layout.index(tag);
        self.registry.push(&layout, tag, &format!("app:{tag}"));
        let index: Value = serde_json::from_slice(&fs::read(dir.join("index.json")).unwrap()).unwrap();
        Digest::parse(index["manifests"][0]["digest"].as_str().unwrap()).unwrap()
    }

    fn put(&self, bytes: &[u8], script: &str) -> Digest {
        let digest = Digest::of(bytes);
        let file = self.scratch.path().join("upload");
        fs::write(&file, bytes).unwrap();
        shell(&format!(
            "base=http://{}/v2/app digest={digest} file={}\n{script}",
            self.registry.address,
            file.display()
        ));
        digest
    }

    fn blob(&self, bytes: &[u8]) -> Digest {
        self.put(
            bytes,
            "place=$(curl -fsS -X POST -D - -o /dev/null $base/blobs/uploads/ | tr -d '\\r' | sed -n 's/^[Ll]ocation: //p')
             curl -fsS -X PUT -H 'Content-Type: application/octet-stream' --data-binary @$file \"$place&digest=$digest\"",
        )
    }

    fn manifest(&self, tag: Option<&str>, kind: &str, manifest: &Value) -> Digest {
        let at = tag.unwrap_or("$digest");
        let script =
            format!("curl -fsS -X PUT -H 'Content-Type: {kind}' --data-binary @$file $base/manifests/{at}");
        self.put(manifest.to_string().as_bytes(), &script)
    }

    /// A manifest with these layers, as media type, content and annotations.
    fn artifact(&self, tag: Option<&str>, layers: &[(&str, &[u8], Value)]) -> (Digest, usize) {
        let layers: Vec<Value> = layers
            .iter()
            .map(|(kind, bytes, annotations)| {
                json!({"mediaType": kind, "digest": self.blob(bytes), "size": bytes.len(), "annotations": annotations})
            })
            .collect();
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({
            "schemaVersion": 2, "mediaType": kind, "layers": layers,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": self.blob(b"{}"), "size": 2},
        });
        (self.manifest(tag, kind, &manifest), manifest.to_string().len())
    }

    /// Signs as cosign 2 does.
    fn sign_simply(&self, image: &Digest, signers: &[&Signer]) {
        let text = json!({
            "critical": {"identity": {"docker-reference": format!("{}/app", self.registry.address)},
                         "image": {"docker-manifest-digest": image}, "type": "cosign container image signature"},
            "optional": null,
        });
        let text = text.to_string();
        let layers: Vec<_> = signers
            .iter()
            .map(|signer| {
                let signature = json!({"dev.cosignproject.cosign/signature": signer.sign(text.as_bytes())});
                ("application/vnd.dev.cosign.simplesigning.v1+json", text.as_bytes(), signature)
            })
            .collect();
        self.artifact(Some(&format!("sha256-{}.sig", image.hex())), &layers);
    }

    /// Signs as cosign 3 does in a registry that lists no referrers.
    fn sign_with_bundle(&self, image: &Digest, signer: &Signer) {
        let kind = "application/vnd.in-toto+json";
        let text = json!({
            "_type": "https://in-toto.io/Statement/v1", "predicateType": "https://sigstore.dev/cosign/sign/v1",
            "subject": [{"digest": {"sha256": image.hex()}}],
        });
        let text = text.to_string();
        let message = format!("DSSEv1 {} {kind} {} {text}", kind.len(), text.len());
        fs::write(self.scratch.path().join("text"), &text).unwrap();
        let payload = shell(&format!("base64 -w0 {}/text", self.scratch.path().display()));
        let media_type = "application/vnd.dev.sigstore.bundle.v0.3+json";
        let bundle = json!({
            "mediaType": media_type, "verificationMaterial": {"publicKey": {"hint": ""}},
            "dsseEnvelope": {"payload": payload, "payloadType": kind,
                             "signatures": [{"sig": signer.sign(message.as_bytes())}]},
        });
        let (digest, size) = self.artifact(None, &[(media_type, bundle.to_string().as_bytes(), json!({}))]);
        let kind = "application/vnd.oci.image.index.v1+json";
        let index = json!({
            "schemaVersion": 2, "mediaType": kind,
            "manifests": [{"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": size,
                           "artifactType": "application/vnd.oci.empty.v1+json"}],
        });
        self.manifest(Some(&format!("sha256-{}", image.hex())), kind, &index);
    }

    fn request(&self, tag: &str) -> PullRequest {
        let reference = format!("{}/app:{tag}", self.registry.address);
        PullRequest { reference, plain_http: true, ..PullRequest::default() }
    }
}

fn store(dir: &Path) -> Store {
    Store::open(dir, Limits::default()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_needs_the_signature_of_a_trusted_key() {
    let repository = Repository::new();
    let (ours, theirs) = (Signer::new(), Signer::new());
    let (image, other) = (repository.image("one"), repository.image("two"));
    let temp = tempfile::tempdir().unwrap();
    let store = store(temp.path());
    let keys = [ours.key()];
    let pull = async |tag: &str| store.pull_signed(&repository.request(tag), &keys, |_| ()).await;

    let refused = pull("one").await.unwrap_err();
    assert!(matches!(refused, PullError::Unsigned(_)), "{refused:?}");
    // A stranger's, and one of ours for another image in this one's place.
    repository.sign_simply(&image, &[&theirs]);
    assert!(matches!(pull("one").await, Err(PullError::Unsigned(_))));
    repository.sign_simply(&other, &[&theirs, &ours]);
    let script = "curl -fsS -H 'Accept: application/vnd.oci.image.manifest.v1+json' $base/manifests/sha256-OTHER.sig >$file.sig
        curl -fsS -X PUT -H 'Content-Type: application/vnd.oci.image.manifest.v1+json' --data-binary @$file.sig $base/manifests/sha256-IMAGE.sig";
    repository.put(b"", &script.replace("OTHER", other.hex()).replace("IMAGE", image.hex()));
    assert!(matches!(pull("one").await, Err(PullError::Unsigned(_))));
    assert!(store.list().is_empty(), "what is refused leaves nothing");

    assert_eq!(pull("two").await.unwrap().digest, other);
    repository.sign_simply(&image, &[&ours]);
    assert_eq!(pull("one").await.unwrap().digest, image);
    assert!(matches!(
        store.pull_signed(&repository.request("one"), &[], |_| ()).await,
        Err(PullError::Unsigned(_))
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_counts_as_well_and_so_does_the_signature_of_an_index() {
    let repository = Repository::new();
    let (ours, theirs) = (Signer::new(), Signer::new());
    let (image, index) = (repository.image("one"), repository.index("all"));
    let temp = tempfile::tempdir().unwrap();
    let store = store(temp.path());
    let keys = [ours.key()];
    let pull = async |tag: &str| store.pull_signed(&repository.request(tag), &keys, |_| ()).await;

    repository.sign_with_bundle(&image, &theirs);
    assert!(matches!(pull("one").await, Err(PullError::Unsigned(_))));
    repository.sign_with_bundle(&image, &ours);
    assert_eq!(pull("one").await.unwrap().digest, image);

    assert!(matches!(pull("all").await, Err(PullError::Unsigned(_))));
    repository.sign_simply(&index, &[&ours]);
    assert_eq!(pull("all").await.unwrap().platform, "linux/amd64");
}
