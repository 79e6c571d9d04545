//! What the daemon reads of an image: manifests, names, layers and archives; and the copies in and out of containers.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;

use hull_archive::{Entries, Unpack};
use hull_image::{Digest, Limits, Store, fuzz};
use tar::{EntryType, Header};

use super::devices::file;
use crate::input::{Input, Script};

/// Bounds that an input of some KiB can reach.
fn limits() -> Limits {
    Limits {
        max_entries: 200,
        max_layer_bytes: 4 << 20,
        max_image_bytes: 8 << 20,
        max_layers: 8,
        max_metadata_bytes: 1 << 20,
        ..Limits::default()
    }
}

/// Manifests, indexes, configurations, names.
pub(crate) fn manifest(data: &[u8]) {
    let mut input = Input(data);
    match input.u8() % 3 {
        0 => {
            let platform = input.pick(&["linux/amd64", "linux/arm/v7", "linux", ""]);
            fuzz::manifest(input.0, platform, &Limits::default());
        }
        1 => {
            if let Some(config) = fuzz::config(input.0) {
                let again = serde_json::to_vec(&config).expect("plain data");
                assert_eq!(serde_json::from_slice(&again).ok(), Some(config), "a configuration is not kept");
            }
        }
        _ => {
            let text = String::from_utf8_lossy(input.0);
            fuzz::name(&text);
            if let Ok(named) = serde_json::from_slice::<String>(input.0) {
                fuzz::manifest(b"{}", &named, &Limits::default());
            }
        }
    }
}

/// What registries give.
pub(crate) fn manifest_seeds() -> Vec<Vec<u8>> {
    let digest = format!("sha256:{}", "a5".repeat(32));
    let blob = |kind: &str| serde_json::json!({"mediaType": kind, "digest": digest, "size": 512});
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob("application/vnd.oci.image.config.v1+json"),
        "layers": [blob("application/vnd.oci.image.layer.v1.tar+gzip")],
    });
    let index = serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": 9,
            "platform": {"os": "linux", "architecture": "arm", "variant": "v7"}}],
    });
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [digest]},
        "config": {"Env": ["PATH=/bin"], "Cmd": ["sh"], "Entrypoint": null, "User": "1000:1000",
            "ExposedPorts": {"80/tcp": {}}, "StopSignal": "SIGTERM",
            "Healthcheck": {"Test": ["CMD-SHELL", "true"], "Interval": 30_000_000_000_i64, "Retries": 3}},
    });
    let one = |kind: u8, bytes: &[u8]| Script::default().u8(kind).bytes(bytes).0;
    vec![
        one(0, &[&[0][..], manifest.to_string().as_bytes()].concat()),
        one(0, &[&[1][..], index.to_string().as_bytes()].concat()),
        one(1, config.to_string().as_bytes()),
        one(2, b"registry.example:5000/team/app:1.2"),
        one(2, format!("busybox@{digest}").as_bytes()),
    ]
}

/// Names that meet each other, and some that no archive should have.
const NAMES: [&[u8]; 16] = [
    b"a",
    b"a/b",
    b"a/b/c",
    b"./a",
    b"/a",
    b"../a",
    b"a/../../b",
    b".wh.a",
    b"a/.wh.b",
    b"a/.wh..wh..opq",
    b".wh.",
    b".wh...",
    b"link",
    b"link/b",
    b"a//b/",
    b"",
];

const KINDS: [u8; 12] = *b"0512364SxKLg";

/// One entry of a tar stream: whatever its fields say, its sum is right.
fn entry(input: &mut Input<'_>, tar: &mut Vec<u8>) {
    let mut header = Header::new_ustar();
    let kind = input.pick(&KINDS);
    let name = match input.u8() {
        255 => input.block(),
        which => NAMES[usize::from(which) % NAMES.len()],
    };
    let link = NAMES[usize::from(input.u8()) % NAMES.len()];
    let content = input.block();
    header.set_entry_type(EntryType::new(kind));
    header.set_mode(u32::from(input.u16()));
    header.set_uid(u64::from(input.u8()));
    header.set_gid(0);
    header.set_mtime(u64::from(input.u8()));
    header.set_size(content.len() as u64);
    if let Some(ustar) = header.as_ustar_mut() {
        ustar.name.iter_mut().zip(name).for_each(|(to, from)| *to = *from);
        ustar.linkname.iter_mut().zip(link).for_each(|(to, from)| *to = *from);
    }
    // A few bytes anywhere in the header, such as a size that is not the content's.
    let at = usize::from(input.u8()) * 2;
    let patch = usize::from(input.u8() % 16);
    let patch = input.bytes(patch);
    header.as_mut_bytes().iter_mut().skip(at).zip(patch).for_each(|(to, from)| *to = *from);
    append(tar, header, content);
}

/// Appends an entry, whose sum is right.
fn append(tar: &mut Vec<u8>, mut header: Header, content: &[u8]) {
    header.set_cksum();
    tar.extend(header.as_bytes());
    tar.extend(content);
    tar.resize(tar.len().next_multiple_of(512), 0);
}

/// Several tar streams.
fn layers(input: &mut Input<'_>) -> Vec<Vec<u8>> {
    let mut layers = vec![Vec::new()];
    while input.more() {
        if input.u8() >= 0xf0 && layers.len() < 8 {
            layers.push(Vec::new());
        } else if let Some(layer) = layers.last_mut() {
            entry(input, layer);
        }
    }
    layers.iter_mut().for_each(|layer| layer.extend([0; 1024]));
    layers
}

/// Merges layers; what they became.
fn merged(layers: &[&[u8]]) -> Option<Vec<u8>> {
    let mut out = file(&[]);
    if !fuzz::layers(layers, &out, &limits()) {
        return None;
    }
    let mut image = Vec::new();
    std::io::Seek::rewind(&mut out).and_then(|()| out.read_to_end(&mut image)).expect("a file in memory");
    assert!(image.len() as u64 <= limits().max_image_bytes, "an image of {} bytes", image.len());
    assert_eq!(image.get(1024..1028), Some(&0xE0F5_E1E2_u32.to_le_bytes()[..]), "no EROFS image");
    assert_eq!(image.len() % 4096, 0, "half a block");
    Some(image)
}

/// Layers with whiteouts, links and wrong names, merged; twice gives the same.
pub(crate) fn whiteouts(data: &[u8]) {
    let layers = layers(&mut Input(data));
    let layers: Vec<&[u8]> = layers.iter().map(Vec::as_slice).collect();
    assert_eq!(merged(&layers), merged(&layers), "the same layers, two images");
}

/// Entries over one another in two layers.
pub(crate) fn whiteouts_seeds() -> Vec<Vec<u8>> {
    let entry = |kind: u8, name: u8, link: u8, content: &[u8]| {
        let at =
            KINDS.iter().position(|known| *known == kind).and_then(|at| u8::try_from(at).ok()).unwrap_or(0);
        let script = Script::default().u8(0).u8(at).u8(name).u8(link).block(content).u16(0o755);
        script.u8(0).u8(1).u8(0).u8(0).0
    };
    let next = vec![0xf0];
    vec![
        [entry(b'5', 0, 0, b""), entry(b'0', 1, 0, b"text"), next.clone(), entry(b'0', 8, 0, b"")].concat(),
        [
            entry(b'5', 0, 0, b""),
            entry(b'0', 2, 0, &[7; 5000]),
            next.clone(),
            entry(b'0', 9, 0, b""),
            entry(b'1', 12, 2, b""),
        ]
        .concat(),
        [entry(b'2', 12, 0, b""), entry(b'0', 13, 0, b"below a link"), next, entry(b'5', 12, 0, b"")]
            .concat(),
        [
            entry(b'x', 0, 0, b"25 SCHILY.xattr.user.a=b\n"),
            entry(b'0', 0, 0, b"x"),
            entry(b'3', 1, 0, b""),
            entry(b'6', 2, 0, b""),
        ]
        .concat(),
        entry(b'0', 5, 0, b"outside"),
    ]
}

/// One layer as it comes, packed or not.
pub(crate) fn layer(data: &[u8]) {
    merged(&[data]);
}

fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, *content).expect("memory");
    }
    builder.into_inner().expect("memory")
}

/// A plain layer, and one in each packing, with long names.
pub(crate) fn layer_seeds() -> Vec<Vec<u8>> {
    let long = format!("{}/file", "directory".repeat(20));
    let plain = tar_of(&[("etc/passwd", b"root:x:0:0::/:/bin/sh\n"), (&long, b"long name")]);
    vec![super::samples::gzip(&plain), zstd::encode_all(plain.as_slice(), 3).expect("memory"), plain]
}

/// Members of archives that say what they are, and some besides.
const MEMBERS: [&str; 8] = [
    "manifest.json",
    "oci-layout",
    "index.json",
    "config.json",
    "layer/layer.tar",
    "./link",
    "../outside",
    "etc/passwd",
];
/// What stands for a member's place among the others: it goes by its digest.
const BY_DIGEST: u8 = 8;

/// One member of an archive: its text names those before it, `@1` by digest and `#1` by size, so that what names them
/// stays right when they change.
fn member(input: &mut Input<'_>, before: &mut Vec<(Digest, usize)>, tar: &mut Vec<u8>) {
    let (which, kind) = (input.u8() % (BY_DIGEST + 1), input.pick(b"00000125"));
    let link = MEMBERS[usize::from(input.u8()) % MEMBERS.len()];
    let packing = input.u8() % 4;
    let block = input.block();
    let content = match packing {
        0 => {
            let mut text = String::from_utf8_lossy(block).into_owned();
            for (number, (digest, size)) in before.iter().enumerate().take(10) {
                text = text.replace(&format!("@{number}"), &digest.to_string());
                text = text.replace(&format!("#{number}"), &size.to_string());
            }
            text.into_bytes()
        }
        1 => block.to_owned(),
        2 => layers(&mut Input(block)).swap_remove(0),
        _ => super::samples::gzip(&layers(&mut Input(block)).swap_remove(0)),
    };
    let digest = Digest::of(&content);
    let by_digest = format!("blobs/sha256/{}", digest.hex());
    let name = MEMBERS.get(usize::from(which)).copied().unwrap_or(&by_digest);
    before.push((digest, content.len()));
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::new(kind));
    if let Some(gnu) = header.as_gnu_mut() {
        gnu.name.iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from);
        gnu.linkname.iter_mut().zip(link.bytes()).for_each(|(to, from)| *to = from);
    }
    header.set_mode(0o644);
    header.set_size(content.len() as u64);
    append(tar, header, &content);
}

/// An archive to be imported.
pub(crate) fn archive(data: &[u8]) {
    imported(data);
}

/// Whether it became an image.
fn imported(data: &[u8]) -> bool {
    let (mut input, mut tar) = (Input(data), Vec::new());
    let name = input.pick(&["", "app", "a:1", "Not a name"]);
    let mut before = Vec::new();
    while input.more() && before.len() < 64 {
        member(&mut input, &mut before, &mut tar);
    }
    tar.extend([0; 1024]);
    let memory = Path::new("/dev/shm");
    let place = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    let place = place.expect("a directory");
    let store = Store::open(place.path(), limits()).expect("a store");
    fuzz::import(&store, &tar, name)
}

/// What `docker save` and others write.
pub(crate) fn archive_seeds() -> Vec<Vec<u8>> {
    let member = |which: u8, packing: u8, content: &[u8]| {
        Script::default().u8(which).u8(0).u8(0).u8(packing).block(content).0
    };
    let files = whiteouts_seeds().swap_remove(0);
    let config = br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["@0"]}}"#;
    let docker = br#"[{"Config":"config.json","RepoTags":["a:1"],"Layers":["layer/layer.tar"]}]"#;
    let manifest = br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
        "config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"@1","size":#1},
        "layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"@0","size":#0}]}"#;
    let index =
        br#"{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json",
        "digest":"@2","size":#2,"annotations":{"org.opencontainers.image.ref.name":"a:1"}}]}"#;
    let version = br#"{"imageLayoutVersion":"1.0.0"}"#;
    let name = |which: u8| vec![which];
    vec![
        [name(0), member(4, 2, &files), member(3, 0, config), member(0, 0, docker)].concat(),
        [
            name(1),
            member(BY_DIGEST, 2, &files),
            member(BY_DIGEST, 0, config),
            member(BY_DIGEST, 0, manifest),
            member(1, 0, version),
            member(2, 0, index),
        ]
        .concat(),
        [name(2), member(7, 1, b"root:x:0:0::/:/bin/sh\n")].concat(),
    ]
}

/// The entries of a stream that is copied in or out, as they come.
pub(crate) fn entries(data: &[u8]) {
    let mut entries = Entries::new(data);
    for _ in 0..10_000 {
        let Ok(Some(entry)) = entries.next_entry() else { return };
        assert!(entry.path.len() <= hull_archive::PATH_MAX, "a path of {} bytes", entry.path.len());
        let mut content = Vec::new();
        if entries.content().read_to_end(&mut content).is_ok() {
            assert!(content.len() as u64 <= entry.size, "more content than its size");
        }
    }
}

/// A tree written below a directory: nothing appears or changes beside it.
pub(crate) fn unpack(data: &[u8]) {
    let place = tempfile::tempdir().expect("a directory");
    let (inside, beside) = (place.path().join("inside"), place.path().join("a"));
    std::fs::create_dir(&inside).expect("a directory");
    std::fs::write(&beside, b"untouched").expect("a file");
    // What a container may have there: a way out.
    std::os::unix::fs::symlink("..", inside.join("link")).expect("a link");
    let mut input = Input(data);
    let how = Unpack { keep_owner: false, devices: false, mode: 0o777, only: None };
    let stream = layers(&mut input).concat();
    let root: OwnedFd = File::open(&inside).expect("a directory").into();
    let done = how.run(&root, stream.as_slice());
    drop(done);
    let names = |at: &std::path::Path| -> BTreeSet<_> {
        std::fs::read_dir(at)
            .expect("a directory")
            .filter_map(|entry| Some(entry.ok()?.file_name()))
            .collect()
    };
    assert_eq!(names(place.path()), ["a".into(), "inside".into()].into(), "something was written outside");
    assert_eq!(std::fs::read(&beside).expect("a file"), b"untouched", "a file outside was changed");
    // So that what has no permissions left goes too.
    let _ = std::fs::set_permissions(&inside, std::os::unix::fs::PermissionsExt::from_mode(0o755));
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_archives_to_begin_with_become_images() {
        for (number, seed) in super::archive_seeds().iter().enumerate() {
            assert!(super::imported(seed), "seed {number} does not");
        }
    }
}
