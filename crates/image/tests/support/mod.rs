//! What the black-box tests share: a shell, OCI layouts made from scratch, and real registries on the loopback.

#![allow(clippy::unwrap_used, dead_code, reason = "a test fails by panicking, and none uses all of this")]

pub mod server;

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hull_image::{Digest, ImageRecord, Store};
use serde_json::{Value, json};

/// Runs a script that must succeed; returns what it printed.
pub fn shell(script: &str) -> String {
    let output = Command::new("bash").args(["-euo", "pipefail", "-c", script]).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{script}\n{out}{err}");
    out.into_owned()
}

/// An OCI layout in a directory.
pub struct Layout {
    pub dir: PathBuf,
    manifests: Vec<Value>,
}

impl Layout {
    pub fn new(dir: &Path) -> Self {
        fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
        fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        Self { dir: dir.to_owned(), manifests: Vec::new() }
    }

    pub fn blob(&self, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        fs::write(self.dir.join("blobs/sha256").join(digest.hex()), bytes).unwrap();
        digest
    }

    /// Adds an image of plain tar layers, packed by a command such as `gzip -n` or `cat`; returns its digest.
    pub fn image(&mut self, layers: &[Vec<u8>], pack: &str, architecture: &str, tag: &str) -> Digest {
        let diff_ids: Vec<Digest> = layers.iter().map(|layer| Digest::of(layer)).collect();
        let suffix = if pack.starts_with("gzip") {
            "+gzip"
        } else if pack.starts_with("zstd") {
            "+zstd"
        } else {
            ""
        };
        let packed: Vec<Value> = layers
            .iter()
            .map(|layer| {
                let bytes = filter(pack, layer);
                json!({ "mediaType": format!("application/vnd.oci.image.layer.v1.tar{suffix}"), "digest": self.blob(&bytes), "size": bytes.len() })
            })
            .collect();
        let config = json!({
            "architecture": architecture, "os": "linux",
            "config": { "Env": ["PATH=/bin", "A=b c"], "Entrypoint": null, "Cmd": ["/bin/sh", "-l"], "WorkingDir": "/srv",
                        "User": "7:8", "ExposedPorts": { "80/tcp": {} }, "Volumes": { "/data": {} },
                        "StopSignal": "SIGINT", "Labels": { "key": "value" } },
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        })
        .to_string();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": self.blob(config.as_bytes()), "size": config.len() },
            "layers": packed,
        })
        .to_string();
        let digest = self.blob(manifest.as_bytes());
        self.manifests.push(json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": manifest.len(),
            "platform": { "os": "linux", "architecture": architecture },
            "annotations": { "org.opencontainers.image.ref.name": tag },
        }));
        self.write_index(self.manifests.clone());
        digest
    }

    /// Puts all images under one further index with a tag of its own.
    pub fn index(&mut self, tag: &str) {
        let index = json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": self.manifests }).to_string();
        let digest = self.blob(index.as_bytes());
        let entry = json!({
            "mediaType": "application/vnd.oci.image.index.v1+json", "digest": digest, "size": index.len(),
            "annotations": { "org.opencontainers.image.ref.name": tag },
        });
        self.write_index(vec![entry]);
    }

    fn write_index(&self, manifests: Vec<Value>) {
        fs::write(
            self.dir.join("index.json"),
            json!({ "schemaVersion": 2, "manifests": manifests }).to_string(),
        )
        .unwrap();
    }

    /// The layout as one tar.
    pub fn archive(&self) -> Vec<u8> {
        let mut out = Vec::new();
        hull_image::pack_directory(&self.dir, &mut out).unwrap();
        out
    }
}

/// Pipes bytes through a command.
pub fn filter(command: &str, bytes: &[u8]) -> Vec<u8> {
    let temp = tempfile::NamedTempFile::new().unwrap();
    fs::write(temp.path(), bytes).unwrap();
    let input = fs::File::open(temp.path()).unwrap();
    let output = Command::new("bash").args(["-c", command]).stdin(input).output().unwrap();
    assert!(output.status.success(), "{command}");
    output.stdout
}

/// A layer of files, given as paths and contents; a path that ends in `/` is a directory.
pub fn layer(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_600_000_000);
        header.set_size(content.len() as u64);
        if path.ends_with('/') {
            header.set_entry_type(tar::EntryType::Directory);
            header.set_mode(0o755);
        }
        builder.append_data(&mut header, path, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

/// Incompressible bytes, the same for the same seed.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    })
    .take(length)
    .collect()
}

/// Unpacks an image with EROFS's own tool, which checks it as it goes, and returns the directory.
pub fn unpack(store: &Store, image: &ImageRecord) -> tempfile::TempDir {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("image");
    std::io::copy(&mut store.open_block_image(image).unwrap(), &mut fs::File::create(&file).unwrap())
        .unwrap();
    shell(&format!(
        "cd {0}; fsck.erofs --extract=tree {1} >/dev/null",
        temp.path().display(),
        file.display()
    ));
    temp
}

/// A Debian `docker-registry` that ends with the test.
pub struct Registry {
    child: Child,
    pub address: String,
    dir: tempfile::TempDir,
}

impl Registry {
    /// Plain HTTP, open to all.
    pub fn plain() -> Self {
        Self::start(tempfile::tempdir().unwrap(), "")
    }

    /// TLS with an authority of its own, and the user `alice` with password `secret`.
    pub fn guarded() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let d = dir.path().display();
        shell(&format!("cd {d}; htpasswd -Bbn alice secret >htpasswd"));
        let extra =
            tls(dir.path()) + &format!("auth:\n  htpasswd:\n    realm: test\n    path: {d}/htpasswd\n");
        Self::start(dir, &extra)
    }

    /// Plain HTTP, and tokens of the server at `realm` that the owner of a certificate signed.
    pub fn with_tokens(realm: &str, certificate: &Path) -> Self {
        Self::start(tempfile::tempdir().unwrap(), &tokens(realm, certificate))
    }

    /// The same with TLS, and an authority of its own.
    pub fn with_tls_and_tokens(realm: &str, certificate: &Path) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let extra = tls(dir.path()) + &tokens(realm, certificate);
        Self::start(dir, &extra)
    }

    fn start(dir: tempfile::TempDir, extra: &str) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = format!("127.0.0.1:{port}");
        let config = dir.path().join("config.yml");
        let data = dir.path().join("data");
        fs::write(
            &config,
            format!(
                "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\n{extra}",
                data.display()
            ),
        )
        .unwrap();
        let log = fs::File::create(dir.path().join("log")).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("docker-registry must be installed");
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(&address).is_err() {
            assert!(Instant::now() < deadline, "docker-registry does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { child, address, dir }
    }

    /// The authority's certificate.
    pub fn ca(&self) -> String {
        fs::read_to_string(self.dir.path().join("ca.pem")).unwrap()
    }

    /// Pushes from a layout with skopeo; the registry's reference is returned.
    pub fn push(&self, layout: &Layout, tag: &str, name: &str) -> String {
        let options = if self.dir.path().join("ca.pem").exists() {
            format!("--dest-creds alice:secret --dest-cert-dir {}/certs", self.dir.path().display())
        } else {
            "--dest-creds alice:secret --dest-tls-verify=false".to_owned()
        };
        let target = format!("{}/{name}", self.address);
        shell(&format!(
            "skopeo copy -q --all {options} oci:{}:{tag} docker://{target}",
            layout.dir.display()
        ));
        target
    }

    /// Where the registry keeps a blob.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        let path = format!("data/docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]);
        self.dir.path().join(path)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Makes an authority and a certificate for the loopback; returns the part of a registry's configuration for them.
fn tls(dir: &Path) -> String {
    let d = dir.display();
    shell(&format!(
        "cd {d}; openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -subj /CN=authority -days 2 2>/dev/null
        openssl req -newkey rsa:2048 -nodes -keyout key.pem -out csr.pem -subj /CN=127.0.0.1 2>/dev/null
        printf 'subjectAltName=IP:127.0.0.1\\nbasicConstraints=CA:FALSE\\n' >ext
        openssl x509 -req -in csr.pem -CA ca.pem -CAkey ca.key -CAcreateserial -out cert.pem -days 2 -extfile ext 2>/dev/null
        mkdir certs; cp ca.pem certs/ca.crt"
    ));
    format!("  tls:\n    certificate: {d}/cert.pem\n    key: {d}/key.pem\n")
}

fn tokens(realm: &str, certificate: &Path) -> String {
    format!(
        "auth:\n  token:\n    realm: {realm}\n    service: hull-test\n    issuer: hull-test\n    rootcertbundle: {}\n",
        certificate.display()
    )
}

/// Signs tokens that a registry believes, with a key of its own.
pub struct Signer {
    dir: PathBuf,
}

impl Signer {
    pub fn new(dir: &Path) -> Self {
        shell(&format!(
            "cd {}; openssl req -x509 -newkey rsa:2048 -nodes -keyout sign.key -out sign.pem -subj /CN=tokens -days 2 2>/dev/null",
            dir.display()
        ));
        Self { dir: dir.to_owned() }
    }

    pub fn certificate(&self) -> PathBuf {
        self.dir.join("sign.pem")
    }

    /// A token for a scope, such as `repository:group/app:pull`.
    pub fn token(&self, scope: &str) -> String {
        let parts: Vec<&str> = scope.split(':').collect();
        let access = match parts.as_slice() {
            [kind, name, actions] => {
                json!([{ "type": kind, "name": name, "actions": actions.split(',').collect::<Vec<_>>() }])
            }
            _ => json!([]),
        };
        let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
        let claims = json!({
            "iss": "hull-test", "sub": "alice", "aud": "hull-test", "jti": "1",
            "iat": now, "nbf": now - 10, "exp": now + 300, "access": access,
        });
        shell(&format!(
            r#"cd {}; encode() {{ basenc --base64url -w0 | tr -d =; }}
            key=$(openssl x509 -in sign.pem -outform DER | base64 -w0)
            head=$(printf '{{"typ":"JWT","alg":"RS256","x5c":["%s"]}}' "$key" | encode)
            claims=$(printf %s '{claims}' | encode)
            sign=$(printf %s "$head.$claims" | openssl dgst -sha256 -sign sign.key | encode)
            printf %s "$head.$claims.$sign""#,
            self.dir.display()
        ))
    }
}
