//! Importing every kind of archive, and the store's life around it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use hull_image::{
    BlobError, ImageRecord, ImportError, ImportKind, InstallError, LayerError, Limits, Store, StoreError,
    pack_directory,
};
use support::{Layout, filter, layer, noise, shell, unpack};

async fn import(
    store: &Store,
    bytes: &[u8],
    name: &str,
    kind: Option<ImportKind>,
) -> Result<ImageRecord, ImportError> {
    store.import(bytes, name, kind, |_| ()).await
}

fn open(dir: &Path) -> Store {
    Store::open(dir, Limits::default()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn imports_an_oci_archive_however_it_is_packed() {
    let temp = tempfile::tempdir().unwrap();
    let mut layout = Layout::new(&temp.path().join("layout"));
    let below = layer(&[("bin/", b""), ("bin/sh", b"#!"), ("old", b"old")]);
    let digest = layout.image(&[below, layer(&[(".wh.old", b"")])], "gzip -n", "amd64", "1.0");
    let archive = layout.archive();
    let store = open(&temp.path().join("store"));
    for packing in ["cat", "gzip -c", "zstd -q -c"] {
        let image = import(&store, &filter(packing, &archive), "mine", None).await.unwrap();
        assert_eq!(
            (image.digest.clone(), image.names.as_slice()),
            (digest.clone(), &["mine".to_owned()][..])
        );
        let tree = unpack(&store, &image);
        assert_eq!(fs::read(tree.path().join("tree/bin/sh")).unwrap(), b"#!");
        assert!(!tree.path().join("tree/old").exists());
    }
    assert_eq!(store.list().len(), 1);
    assert!(matches!(store.resolve("theirs"), Err(StoreError::NotFound(_))));
    let own = import(&store, &archive, "", Some(ImportKind::OciArchive)).await.unwrap();
    assert_eq!(own.names, ["1.0", "mine"]);
    let wrong = import(&store, &archive, "x", Some(ImportKind::DockerArchive)).await.unwrap_err();
    assert!(matches!(wrong, ImportError::Content(_)), "{wrong:?}");
    for bad in ["-x", "a b", "sha256:00", "é", "../x"] {
        assert!(matches!(import(&store, &archive, bad, None).await, Err(ImportError::Name(_))), "{bad}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn imports_what_docker_save_writes() {
    let temp = tempfile::tempdir().unwrap();
    let mut layout = Layout::new(&temp.path().join("layout"));
    layout.image(
        &[layer(&[("a", b"1")]), layer(&[("b", b"2")]), layer(&[("a", b"1")])],
        "gzip -n",
        "amd64",
        "one",
    );
    let archive = temp.path().join("docker.tar");
    shell(&format!(
        "skopeo copy -q oci:{}:one docker-archive:{}:app:one",
        layout.dir.display(),
        archive.display()
    ));
    let store = open(&temp.path().join("store"));
    let image = import(&store, &fs::read(&archive).unwrap(), "", None).await.unwrap();
    assert_eq!(image.names, ["docker.io/library/app:one"]);
    assert_eq!(store.resolve("app:one").unwrap(), image);
    let tree = unpack(&store, &image);
    assert_eq!(fs::read(tree.path().join("tree/a")).unwrap(), b"1");
    assert_eq!(fs::read(tree.path().join("tree/b")).unwrap(), b"2");
}

#[tokio::test(flavor = "multi_thread")]
async fn imports_a_packed_root_file_system_without_loss() {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path().join("root");
    let d = root.display();
    shell(&format!(
        "mkdir -p {d}/deep/$(printf 'd%.0s' $(seq 200))/$(printf 'e%.0s' $(seq 200)); cd {d}; printf hi >etc; ln etc hard; ln -s /etc link
        truncate -s 3G sparse; printf end >>sparse; printf x | dd of=sparse bs=1 seek=1000000 conv=notrunc status=none
        ln -s $(printf 'l%.0s' $(seq 300)) far; mkfifo pipe; mknod null c 1 3; printf x >'odd \n name'; touch -d 1950-01-01T00:00:00.5Z etc
        setfattr -n user.line -v 'a\nb' etc; chown 3000000:4000000 etc; chmod 6711 etc"
    ));
    let mut bytes = Vec::new();
    pack_directory(&root, &mut bytes).unwrap();
    assert!(bytes.len() < 1 << 20);
    fs::write(temp.path().join("packed.tar"), &bytes).unwrap();
    shell(&format!("tar -tf {}/packed.tar >/dev/null", temp.path().display()));
    let store = open(&temp.path().join("store"));
    let image = import(&store, &bytes, "rootfs", None).await.unwrap();
    assert!(image.size < 2 << 20, "{}", image.size);
    let file = temp.path().join("image");
    std::io::copy(&mut store.open_block_image(&image).unwrap(), &mut fs::File::create(&file).unwrap())
        .unwrap();
    let difference = shell(&format!(
        "cd {}; mkdir mnt; mount -o loop,ro -t erofs image mnt; trap 'umount mnt' EXIT
        list() {{ (cd $1; find . -printf '%p %y %m %U %G %T@ %n %l\\n' | grep -v ' d ' | LC_ALL=C sort; getfattr -h -d -e hex etc; stat -c '%s %t %T' sparse etc null; head -c 1000001 sparse | md5sum; tail -c 4 sparse | md5sum); }}
        list root >a; list mnt >b; test -s a; diff a b || true",
        temp.path().display()
    ));
    assert_eq!(difference, "");

    let cut = &bytes[..bytes.len() - 1024];
    let error = import(&store, cut, "cut", None).await.unwrap_err();
    assert!(matches!(&error, ImportError::Content(why) if why.contains("cut short")), "{error:?}");
    let error = import(&store, &[0; 1024], "empty", None).await.unwrap_err();
    assert!(matches!(&error, ImportError::Content(why) if why.contains("empty")), "{error:?}");
    let error = import(&store, &noise(5, 4096), "noise", None).await.unwrap_err();
    assert!(matches!(error, ImportError::Archive(LayerError::Malformed { .. })), "{error:?}");
    assert_eq!(store.list(), [image]);
    assert_eq!(fs::read_dir(temp.path().join("store/tmp")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(temp.path().join("store/blobs/sha256")).unwrap().count(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layout_that_lies_or_lacks_is_refused() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(&temp.path().join("store"));
    let content = layer(&[("file", b"content")]);
    let mut layout = Layout::new(&temp.path().join("layout"));
    layout.image(std::slice::from_ref(&content), "cat", "amd64", "one");
    let blob = layout.dir.join("blobs/sha256").join(hull_image::Digest::of(&content).hex());
    fs::write(&blob, layer(&[("file", b"tampered")])).unwrap();
    let error = import(&store, &layout.archive(), "one", None).await.unwrap_err();
    assert!(matches!(error, ImportError::Blob(BlobError::Digest { .. })), "{error:?}");
    fs::remove_file(&blob).unwrap();
    let error = import(&store, &layout.archive(), "one", None).await.unwrap_err();
    assert!(matches!(&error, ImportError::Content(why) if why.contains("missing")), "{error:?}");
    let mut foreign = Layout::new(&temp.path().join("foreign"));
    foreign.image(&[content], "cat", "s390x", "one");
    let error = import(&store, &foreign.archive(), "one", None).await.unwrap_err();
    assert!(error.to_string().contains("linux/s390x") || format!("{error:?}").contains("s390x"), "{error:?}");
    assert!(store.list().is_empty());
    assert_eq!(fs::read_dir(temp.path().join("store/blobs/sha256")).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_an_error_without_residue() {
    let temp = tempfile::tempdir().unwrap();
    let small = temp.path().join("small");
    shell(&format!("mkdir {0}; mount -t tmpfs -o size=8m tmpfs {0}", small.display()));
    struct Unmount(PathBuf);
    impl Drop for Unmount {
        fn drop(&mut self) {
            let _ = Command::new("umount").arg("-l").arg(&self.0).status();
        }
    }
    let _unmount = Unmount(small.clone());
    let store = open(&small);
    let free = rustix::fs::statvfs(&small).unwrap().f_bfree;
    let image = layer(&[("large", &noise(6, 5 << 20))]);
    let error = import(&store, &image, "large", None).await.unwrap_err();
    let text = format!("{error:?}");
    assert!(text.contains("StorageFull") || text.contains("No space"), "{text}");
    assert_eq!(fs::read_dir(small.join("tmp")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(small.join("blobs/sha256")).unwrap().count(), 0);
    // A command that another test starts holds all open files of this process until it is executed: what was removed
    // meanwhile takes space for so long.
    let mut patience = 0;
    while rustix::fs::statvfs(&small).unwrap().f_bfree < free {
        assert!(patience < 1000, "what was removed still takes space");
        patience += 1;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    import(&store, &layer(&[("small", b"fits")]), "small", None).await.unwrap();
}

#[test]
fn a_second_process_is_kept_out() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let output = Command::new(example()).arg(temp.path()).arg("list").output().unwrap();
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("Locked"));
    drop(store);
    assert!(Command::new(example()).arg(temp.path()).arg("list").status().unwrap().success());
}

/// The example program, which cargo builds beside the tests.
fn example() -> PathBuf {
    let path = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("examples/store");
    assert!(path.exists(), "{path:?} is not built: run all tests of the package, or add --examples");
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_killed_at_any_moment_opens_and_is_right() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("store");
    let archive = temp.path().join("archive.tar");
    let mut layout = Layout::new(&temp.path().join("layout"));
    let layers: Vec<Vec<u8>> =
        (0..4).map(|n| layer(&[(&format!("file{n}"), &noise(n + 10, 4 << 20))])).collect();
    let digest = layout.image(&layers, "gzip -1 -n", "amd64", "one");
    fs::write(&archive, layout.archive()).unwrap();
    let (mut whole, mut none) = (0, 0);
    for round in 0..24_u64 {
        let mut child = Command::new(example())
            .arg(&dir)
            .args(["import", "one"])
            .stdin(fs::File::open(&archive).unwrap())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(round * 40));
        let _ = child.kill();
        child.wait().unwrap();
        let store = open(&dir);
        assert_eq!(fs::read_dir(dir.join("tmp")).unwrap().count(), 0);
        for blob in fs::read_dir(dir.join("blobs/sha256")).unwrap() {
            let blob = blob.unwrap();
            let hex = hull_image::Digest::of(&fs::read(blob.path()).unwrap());
            assert_eq!(blob.file_name().to_str(), Some(hex.hex()));
        }
        match store.resolve("one") {
            Ok(image) => {
                whole += 1;
                assert_eq!(image.digest, digest);
                let tree = unpack(&store, &image);
                assert_eq!(fs::metadata(tree.path().join("tree/file3")).unwrap().size(), 4 << 20);
                store.remove("one", |_| false).unwrap();
                assert_eq!(fs::read_dir(dir.join("blobs/sha256")).unwrap().count(), 0);
            }
            Err(StoreError::NotFound(_)) => none += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(none > 0, "no import was killed before its end");
    println!("{whole} imports were whole, {none} were not there");
}

#[tokio::test(flavor = "multi_thread")]
async fn owners_share_content_and_nothing_else() {
    let temp = tempfile::tempdir().unwrap();
    let mut layout = Layout::new(&temp.path().join("layout"));
    let secret = layer(&[("secret", b"1")]);
    let digest = layout.image(std::slice::from_ref(&secret), "cat", "amd64", "1.0");
    let archive = layout.archive();
    let store = open(&temp.path().join("store"));
    let (host, one, two) = (store.of(""), store.of("one"), store.of("two"));
    let image = import(&one, &archive, "app", None).await.unwrap();
    assert_eq!((image.digest.clone(), image.names.as_slice()), (digest.clone(), &["app".to_owned()][..]));
    assert_eq!(one.resolve("app").unwrap(), image);
    // Another sees it neither by its name nor by its digest, however it is written.
    for wanted in ["app", "one|app", &digest.to_string(), digest.hex(), &digest.hex()[..12]] {
        for other in [&two, &host] {
            assert!(matches!(other.resolve(wanted), Err(StoreError::NotFound(_))), "{wanted}");
            assert!(other.remove(wanted, |_| false).is_err(), "{wanted}");
        }
    }
    assert!(two.list().is_empty() && host.list().is_empty());
    // Who knows the digest of a layer has not got the layer.
    let hex = layout.blob(&secret).hex().to_owned();
    fs::remove_file(layout.dir.join("blobs/sha256").join(hex)).unwrap();
    let without = layout.archive();
    assert!(import(&two, &without, "app", None).await.is_err());
    assert!(import(&one, &without, "again", None).await.is_ok());
    // The same name is another's own, and so is its end.
    let image = import(&two, &archive, "app", None).await.unwrap();
    assert_eq!(image.names, ["app"]);
    assert_eq!(one.resolve("app").unwrap().names, ["again", "app"]);
    let removed = one.remove(&digest.to_string(), |_| false).unwrap();
    assert_eq!((removed.untagged.len(), removed.deleted), (2, None));
    assert!(one.list().is_empty() && two.resolve("app").is_ok());
    // What others' microVMs need stays, without a name: the host's to remove.
    let removed = two.release("app", |_| false, |_| true).unwrap();
    assert_eq!((removed.deleted, two.list().len(), host.list().len()), (None, 0, 1));
    assert_eq!(store.resolve(&digest.to_string()).unwrap().digest, digest);
    assert_eq!(host.remove(&digest.to_string(), |_| false).unwrap().deleted, Some(digest));
    assert!(store.list().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owners_images_are_within_its_room() {
    let temp = tempfile::tempdir().unwrap();
    let archive = |name: &str, size: usize| {
        let mut layout = Layout::new(&temp.path().join(name));
        layout.image(&[layer(&[("file", &noise(1, size))])], "cat", "amd64", name);
        layout.archive()
    };
    let (large, small) = (archive("large", 400_000), archive("small", 100_000));
    let store = open(&temp.path().join("store"));
    let (one, two) = (store.of("one"), store.of("two"));
    let a = import(&one, &large, "large", None).await.unwrap().size;
    let b = import(&one, &small, "small", None).await.unwrap().size;
    one.remove("small", |_| false).unwrap();
    // What is there already is no more under another name.
    let tight = one.clone().within(a + b - 1);
    import(&tight, &large, "again", None).await.unwrap();
    let refused = import(&tight, &small, "small", None).await.unwrap_err();
    assert!(
        matches!(refused, ImportError::Install(InstallError::NoRoom { left, .. }) if left == b - 1),
        "{refused:?}"
    );
    assert!(one.resolve("small").is_err());
    let kept = fs::read_dir(temp.path().join("store/images")).unwrap().count();
    assert_eq!(kept, 1, "what was refused is still there");
    // Others' images are in nobody's way; what is larger than the room is not even taken.
    import(&two.clone().within(b.max(small.len() as u64)), &small, "small", None).await.unwrap();
    let refused = import(&two.within(1000), &small, "small", None).await.unwrap_err();
    assert!(matches!(refused, ImportError::Blob(BlobError::TooLarge { .. })), "{refused:?}");
    import(&one.within(a + b), &small, "small", None).await.unwrap();
}
