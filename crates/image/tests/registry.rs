//! Pulling from real registries on the loopback, and from servers that lie, stall or never end.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use hull_image::{BlobError, Digest, FlattenError, InstallError, Limits, ManifestError, PullError, Store};
use hull_protocol::api::{Credentials, Progress, PullRequest};
use support::server::{Image, Server, answer};
use support::{Layout, Registry, layer, noise, unpack};

fn alice(password: &str) -> Option<Credentials> {
    Some(Credentials { username: "alice".to_owned(), password: password.to_owned() })
}

fn plain(reference: &str) -> PullRequest {
    PullRequest { reference: reference.to_owned(), plain_http: true, ..PullRequest::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_with_tls_and_credentials() {
    let temp = tempfile::tempdir().unwrap();
    let registry = Registry::guarded();
    let mut layout = Layout::new(&temp.path().join("layout"));
    let below =
        layer(&[("etc/", b""), ("etc/keep", b"kept"), ("etc/gone", b"gone"), ("data", &noise(1, 3_000_000))]);
    let above = layer(&[("etc/.wh.gone", b""), ("etc/new", b"new")]);
    let digest = layout.image(&[below, above], "gzip -n", "amd64", "one");
    let reference = registry.push(&layout, "one", "group/app:one");
    let store = Store::open(&temp.path().join("store"), Limits::default()).unwrap();
    let request = |password| PullRequest {
        reference: reference.clone(),
        credentials: alice(password),
        ca_pem: Some(registry.ca()),
        ..PullRequest::default()
    };

    let seen = Mutex::new(Vec::new());
    let image = store.pull(&request("secret"), |progress| seen.lock().unwrap().push(progress)).await.unwrap();
    assert_eq!(image.digest, digest);
    assert_eq!(image.names, std::slice::from_ref(&reference));
    assert_eq!(image.platform, "linux/amd64");
    assert_eq!(image.config.env, ["PATH=/bin", "A=b c"]);
    assert_eq!(image.config.cmd, ["/bin/sh", "-l"]);
    assert!(image.config.entrypoint.is_empty());
    assert_eq!((image.config.workdir.as_str(), image.config.user.as_str()), ("/srv", "7:8"));
    assert!(image.config.exposed_ports.contains("80/tcp") && image.config.volumes.contains("/data"));
    assert!(
        seen.lock()
            .unwrap()
            .iter()
            .any(|p| matches!(p, Progress::Blob { done, total, .. } if done == total && *total > 2_900_000))
    );
    let tree = unpack(&store, &image);
    assert_eq!(fs::read(tree.path().join("tree/etc/keep")).unwrap(), b"kept");
    assert_eq!(fs::read(tree.path().join("tree/etc/new")).unwrap(), b"new");
    assert_eq!(fs::read(tree.path().join("tree/data")).unwrap(), noise(1, 3_000_000));
    assert!(!tree.path().join("tree/etc/gone").exists());

    let by_digest = format!("{}/group/app@{digest}", registry.address);
    let again =
        store.pull(&PullRequest { reference: by_digest.clone(), ..request("secret") }, |_| ()).await.unwrap();
    assert_eq!(again.digest, digest);
    assert_eq!(again.names.len(), 2);
    assert_eq!(store.resolve(&by_digest).unwrap(), again);
    assert_eq!(store.resolve(&digest.hex()[..12]).unwrap(), again);

    let wrong = store.pull(&request("wrong"), |_| ()).await.unwrap_err();
    assert!(matches!(wrong, PullError::Unauthorized(_)), "{wrong:?}");
    let stranger = PullRequest { credentials: None, ..request("") };
    let stranger = store.pull(&stranger, |_| ()).await.unwrap_err();
    assert!(matches!(stranger, PullError::Unauthorized(_)), "{stranger:?}");
    let untrusted = PullRequest { ca_pem: None, ..request("secret") };
    let untrusted = store.pull(&untrusted, |_| ()).await.unwrap_err();
    assert!(matches!(untrusted, PullError::Registry { .. }), "{untrusted:?}");
    let absent =
        PullRequest { reference: format!("{}/group/app:two", registry.address), ..request("secret") };
    let absent = store.pull(&absent, |_| ()).await.unwrap_err();
    assert!(matches!(absent, PullError::NotFound(_)), "{absent:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn chooses_the_platform_from_an_index() {
    let temp = tempfile::tempdir().unwrap();
    let registry = Registry::plain();
    let mut layout = Layout::new(&temp.path().join("layout"));
    let amd64 = layout.image(&[layer(&[("which", b"amd64")])], "zstd -q", "amd64", "a");
    let arm64 = layout.image(&[layer(&[("which", b"arm64")])], "gzip -n", "arm64", "b");
    layout.index("both");
    let reference = registry.push(&layout, "both", "app");
    let store = Store::open(&temp.path().join("store"), Limits::default()).unwrap();
    let pull =
        |platform: Option<&str>| PullRequest { platform: platform.map(str::to_owned), ..plain(&reference) };

    assert_eq!(store.pull(&pull(None), |_| ()).await.unwrap().digest, amd64);
    let other = store.pull(&pull(Some("linux/arm64")), |_| ()).await.unwrap();
    assert_eq!((other.digest.clone(), other.platform.as_str()), (arm64, "linux/arm64"));
    // The name has moved on, the first image is still there by its digest.
    assert_eq!(store.resolve(&reference).unwrap().digest, other.digest);
    assert_eq!(store.resolve(&amd64.to_string()).unwrap().names, Vec::<String>::new());
    let error = store.pull(&pull(Some("linux/riscv64")), |_| ()).await.unwrap_err();
    assert!(
        matches!(&error, PullError::Manifest(ManifestError::NoPlatform { found, .. }) if found == "linux/amd64, linux/arm64"),
        "{error:?}"
    );
    let error = store.pull(&pull(Some("amd64")), |_| ()).await.unwrap_err();
    assert!(matches!(error, PullError::Manifest(ManifestError::BadPlatform(_))));
    let tls = PullRequest { plain_http: false, ..plain(&reference) };
    assert!(matches!(store.pull(&tls, |_| ()).await.unwrap_err(), PullError::Registry { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn shares_layers_and_collects_them_with_the_last_image() {
    let temp = tempfile::tempdir().unwrap();
    let registry = Registry::plain();
    let mut layout = Layout::new(&temp.path().join("layout"));
    let base = layer(&[("base", &noise(2, 500_000))]);
    layout.image(&[base.clone(), layer(&[("one", b"1")])], "gzip -n", "amd64", "one");
    layout.image(&[base.clone(), layer(&[("two", b"2")])], "gzip -n", "amd64", "two");
    let (one, two) = (registry.push(&layout, "one", "app:one"), registry.push(&layout, "two", "app:two"));
    let dir = temp.path().join("store");
    let store = Store::open(&dir, Limits::default()).unwrap();
    let first = store.pull(&plain(&one), |_| ()).await.unwrap();
    // A registry that has lost the shared layer can still serve the second image.
    let shared = support::filter("gzip -n", &base);
    fs::remove_file(registry.blob_path(&Digest::of(&shared))).unwrap();
    let second = store.pull(&plain(&two), |_| ()).await.unwrap();
    let blobs = || fs::read_dir(dir.join("blobs/sha256")).unwrap().count();
    assert_eq!(blobs(), 7); // a manifest, a configuration and a layer each, and the shared layer

    assert!(store.remove(&one, |digest| *digest == first.digest).is_err());
    let removed = store.remove(&one, |_| false).unwrap();
    assert_eq!((removed.deleted, removed.freed.files), (Some(first.digest), 4));
    assert_eq!(blobs(), 4);
    assert!(unpack(&store, &second).path().join("tree/base").exists());
    drop(store);
    let store = Store::open(&dir, Limits::default()).unwrap();
    assert_eq!(store.list(), [second]);
    store.remove(&two, |_| false).unwrap();
    assert_eq!((blobs(), fs::read_dir(dir.join("images")).unwrap().count()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_registry_is_noticed() {
    let temp = tempfile::tempdir().unwrap();
    let registry = Registry::plain();
    let mut layout = Layout::new(&temp.path().join("layout"));
    let content = layer(&[("file", &noise(3, 100_000))]);
    layout.image(std::slice::from_ref(&content), "cat", "amd64", "one");
    let reference = registry.push(&layout, "one", "app:one");
    let path = registry.blob_path(&Digest::of(&support::filter("cat", &content)));
    // skopeo compresses what it pushes, so that the damaged blob is looked for by size.
    let path = if path.exists() { path } else { largest(&registry) };
    let mut bytes = fs::read(&path).unwrap();
    bytes[50_000] ^= 1;
    fs::write(&path, bytes).unwrap();
    let dir = temp.path().join("store");
    let store = Store::open(&dir, Limits::default()).unwrap();
    let error = store.pull(&plain(&reference), |_| ()).await.unwrap_err();
    assert!(matches!(error, PullError::Blob(BlobError::Digest { .. })), "{error:?}");
    assert!(store.list().is_empty());
    // Blobs that were arriving beside it are dropped once their threads notice.
    let deadline = Instant::now() + Duration::from_secs(10);
    while fs::read_dir(dir.join("tmp")).unwrap().count() > 0 {
        assert!(Instant::now() < deadline, "a partial blob stays");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn largest(registry: &Registry) -> std::path::PathBuf {
    let root = registry.blob_path(&Digest::of(b"")).ancestors().nth(3).unwrap().to_owned();
    support::shell(&format!(
        "find {} -name data -printf '%s %p\\n' | sort -n | tail -1 | cut -d' ' -f2",
        root.display()
    ))
    .trim()
    .into()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_is_not_what_the_configuration_says_is_refused() {
    let temp = tempfile::tempdir().unwrap();
    let layer = layer(&[("file", b"content")]);
    let reference = misbehaving(layer, Digest::of(b"something else"), Behaviour::Honest);
    let store = Store::open(temp.path(), Limits::default()).unwrap();
    let error = store.pull(&plain(&reference), |_| ()).await.unwrap_err();
    assert!(
        matches!(error, PullError::Install(InstallError::Flatten(FlattenError::DiffId { .. }))),
        "{error:?}"
    );
    assert_eq!(fs::read_dir(temp.path().join("images")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(temp.path().join("tmp")).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_never_end_stall_or_break_off_are_bounded() {
    let limits = Limits { stall_seconds: 1, ..Limits::default() };
    let content = layer(&[("file", &noise(4, 2_000_000))]);
    let pull = async |behaviour| {
        let temp = tempfile::tempdir().unwrap();
        let reference = misbehaving(content.clone(), Digest::of(&content), behaviour);
        let store = Store::open(temp.path(), limits.clone()).unwrap();
        let begun = Instant::now();
        let result = store.pull(&plain(&reference), |_| ()).await;
        assert!(begun.elapsed() < Duration::from_secs(20));
        result.map(|image| unpack(&store, &image))
    };
    let endless = pull(Behaviour::Endless).await.unwrap_err();
    assert!(matches!(endless, PullError::Blob(BlobError::Size { .. })), "{endless:?}");
    let stalled = pull(Behaviour::Stall).await.unwrap_err();
    assert!(matches!(stalled, PullError::TooSlow(_)), "{stalled:?}");
    let resumed = pull(Behaviour::BreakOff).await.unwrap();
    assert_eq!(fs::read(resumed.path().join("tree/file")).unwrap(), noise(4, 2_000_000));
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Behaviour {
    Honest,
    /// More and more after the layer.
    Endless,
    /// Nothing after half of the layer.
    Stall,
    /// The connection closes after half of the layer, unless the other half is asked for.
    BreakOff,
}

/// A registry with one image of one layer that misbehaves; its reference.
fn misbehaving(layer: Vec<u8>, diff_id: Digest, behaviour: Behaviour) -> String {
    let image = Image::claiming(std::slice::from_ref(&layer), &[diff_id]);
    let server = Server::start(move |request, stream| {
        if image.blob(request).is_some_and(|blob| blob == layer) {
            serve(stream, &layer, request.from(), behaviour)
        } else {
            image.serve(request, stream)
        }
    });
    format!("{}/app:one", server.address)
}

fn serve(
    stream: &mut TcpStream,
    layer: &[u8],
    from: Option<usize>,
    behaviour: Behaviour,
) -> std::io::Result<()> {
    if let (Some(from), Behaviour::BreakOff) = (from, behaviour) {
        return answer(stream, "206 Partial Content", "", &layer[from..]);
    }
    match behaviour {
        Behaviour::Honest => answer(stream, "200 OK", "", layer),
        Behaviour::Endless => {
            write!(stream, "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n")?;
            loop {
                stream.write_all(layer)?;
            }
        }
        Behaviour::Stall | Behaviour::BreakOff => {
            write!(
                stream,
                "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
                layer.len()
            )?;
            stream.write_all(&layer[..layer.len() / 2])?;
            stream.flush()?;
            if behaviour == Behaviour::Stall {
                std::thread::sleep(Duration::from_secs(30));
            }
            Ok(())
        }
    }
}
