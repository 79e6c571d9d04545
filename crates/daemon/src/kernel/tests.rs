#![allow(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "a panic is a failed test"
)]

use std::collections::BTreeMap;
use std::io::{Cursor, Read};

use super::samples;
use super::*;

/// A store of bundles in a folder of its own, with an agent.
struct Place {
    folder: TempDir,
    bundles: Bundles,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("agent"), b"the first agent").unwrap();
        let bundles = Bundles::new(folder.path().join("kernels"), folder.path().join("agent")).unwrap();
        Self { folder, bundles }
    }

    fn import(
        &self,
        files: &[(String, Vec<u8>)],
        name: Option<&str>,
        default: bool,
    ) -> Result<api::Kernel, KernelError> {
        let source = ImportSource::Tar(Box::new(Cursor::new(samples::tar(files))));
        self.bundles.import(source, ImportOptions { name: name.map(str::to_owned), default })
    }

    /// Names of everything in the store's folder.
    fn entries(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path().join("kernels")).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// The files of a cpio archive, by name, and its entries' names in order.
fn unpack(mut file: &File) -> (BTreeMap<String, Vec<u8>>, Vec<String>) {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len() % 4096, 0);
    let (mut files, mut names, mut at) = (BTreeMap::new(), Vec::new(), 0);
    loop {
        let field = |index: usize| {
            let from = at + 6 + index * 8;
            usize::from_str_radix(std::str::from_utf8(&bytes[from..from + 8]).unwrap(), 16).unwrap()
        };
        assert_eq!(&bytes[at..at + 6], b"070701");
        let name_end = at + 110 + field(11) - 1;
        let name = String::from_utf8(bytes[at + 110..name_end].to_vec()).unwrap();
        let data = (name_end + 1).next_multiple_of(4);
        let end = data + field(6);
        if name == "TRAILER!!!" {
            assert!(bytes[end..].iter().all(|byte| *byte == 0));
            return (files, names);
        }
        files.insert(name.clone(), bytes[data..end].to_vec());
        names.push(name);
        at = end.next_multiple_of(4);
    }
}

#[test]
fn a_package_becomes_a_bundle_that_opens() {
    let place = Place::new();
    let deb = ImportSource::Deb(Box::new(Cursor::new(samples::deb(&samples::files()))));
    let kernel = place.bundles.import(deb, ImportOptions::default()).unwrap();
    assert_eq!((kernel.name.as_str(), kernel.release.as_str()), (samples::RELEASE, samples::RELEASE));
    assert!(kernel.default, "the first one is the default");
    let order =
        ["virtio", "virtio_mmio", "vsock", "vmw_vsock_virtio_transport", "virtio_blk", "crc32c_generic"];
    assert_eq!(kernel.modules[..6], order);
    assert_eq!(kernel.modules[6..], ["erofs", "overlay"]);

    let open = place.bundles.open(None).unwrap();
    assert_eq!(open.record, kernel);
    let mut vmlinux = Vec::new();
    (&open.kernel).read_to_end(&mut vmlinux).unwrap();
    assert!(vmlinux.starts_with(b"\x7fELF"));
    let (files, names) = unpack(&open.initrd);
    assert_eq!(names[..5], ["dev", "proc", "sys", "modules", "dev/console"]);
    assert_eq!(files["init"], b"the first agent");
    assert_eq!(files["modules/000-virtio.ko"], samples::modules()[1].1);
    assert_eq!(names.len(), 5 + kernel.modules.len() + 1);
}

#[test]
fn another_agent_replaces_the_one_in_the_bundle() {
    let place = Place::new();
    place.import(&samples::files(), None, false).unwrap();
    let before = unpack(&place.bundles.open(None).unwrap().initrd);
    fs::write(place.folder.path().join("agent"), b"a second, longer agent").unwrap();
    let after = unpack(&place.bundles.open(None).unwrap().initrd);
    assert_eq!(after.0["init"], b"a second, longer agent");
    assert_eq!(after.1, before.1);
    // Once written, it stays: the second time the file is the same one.
    let inode = |bundle: OpenBundle| std::os::unix::fs::MetadataExt::ino(&bundle.initrd.metadata().unwrap());
    let first = place.bundles.open(None).unwrap();
    assert_eq!(inode(first), inode(place.bundles.open(None).unwrap()));
    fs::remove_file(place.folder.path().join("agent")).unwrap();
    assert!(matches!(place.bundles.open(None), Err(KernelError::Agent(..))));
}

#[test]
fn names_defaults_and_removal_follow_the_rules() {
    let place = Place::new();
    place.import(&samples::files(), Some("one"), false).unwrap();
    assert!(!place.import(&samples::files(), Some("two"), false).unwrap().default);
    assert!(place.import(&samples::files(), Some("three"), true).unwrap().default);
    let shown = |bundles: &Bundles| {
        bundles.list().unwrap().into_iter().map(|kernel| (kernel.name, kernel.default)).collect::<Vec<_>>()
    };
    let expected = [("one", false), ("three", true), ("two", false)];
    assert_eq!(shown(&place.bundles), expected.map(|(name, default)| (name.to_owned(), default)));

    assert!(matches!(place.bundles.remove("three", true), Err(KernelError::InUse(_))));
    place.bundles.remove("three", false).unwrap();
    assert!(matches!(place.bundles.remove("three", false), Err(KernelError::NotFound(_))));
    assert!(matches!(place.bundles.open(Some("three")), Err(KernelError::NotFound(_))));
    assert_eq!(shown(&place.bundles).iter().filter(|(_, default)| *default).count(), 1);
    for name in ["", ".default", "../one", "a/b", "-x", "a b", &"x".repeat(101)] {
        assert!(matches!(place.bundles.open(Some(name)), Err(KernelError::BadName(_))), "{name}");
        assert!(matches!(place.bundles.remove(name, false), Err(KernelError::NotFound(_))), "{name}");
        assert!(matches!(place.import(&[], Some(name), false), Err(KernelError::BadName(_))), "{name}");
    }
    assert_eq!(place.entries(), [".default", "one", "two"]);
}

#[test]
fn a_bundle_is_replaced_as_a_whole_and_leftovers_go() {
    let place = Place::new();
    place.import(&samples::files(), Some("k"), false).unwrap();
    let old = place.bundles.open(Some("k")).unwrap();
    let mut files = samples::files();
    files.retain(|(path, _)| !path.contains("crc32c"));
    place.import(&files, Some("k"), false).unwrap();
    assert!(unpack(&old.initrd).0.contains_key("modules/005-crc32c_generic.ko"), "what is open stays");
    assert_eq!(place.bundles.list().unwrap()[0].modules.len(), 7);
    assert_eq!(place.entries(), [".default", "k"]);

    let store = place.folder.path().join("kernels");
    fs::create_dir(store.join(".import-dead")).unwrap();
    fs::write(store.join(".import-dead/vmlinux"), b"half").unwrap();
    Bundles::new(&store, place.folder.path().join("agent")).unwrap();
    assert_eq!(place.entries(), [".default", "k"]);
}

#[test]
fn a_refused_import_leaves_nothing_behind() {
    let place = Place::new();
    let without = |part: &str| {
        let mut files = samples::files();
        files.retain(|(path, _)| !path.contains(part));
        files
    };
    let said = |error: KernelError| error.to_string();
    assert!(matches!(place.import(&without("vmlinuz"), None, false), Err(KernelError::NoKernel)));
    assert!(said(place.import(&without("erofs"), None, false).unwrap_err()).contains("CONFIG_EROFS_FS=m"));
    assert!(said(place.import(&without("overlay"), None, false).unwrap_err()).contains("CONFIG_OVERLAY_FS"));
    let missing = place.import(&without("/virtio.ko"), None, false).unwrap_err();
    assert!(matches!(missing, KernelError::Order(OrderError::Missing { .. })), "{missing}");
    let mut twice = samples::files();
    twice.push(("./boot/vmlinuz-other".to_owned(), b"x".to_vec()));
    assert!(matches!(place.import(&twice, None, false), Err(KernelError::TwoKernels(_))));
    let mut config = samples::files();
    config[0].1 = samples::config().replace("CONFIG_DEVTMPFS=y\n", "").into_bytes();
    assert!(said(place.import(&config, None, false).unwrap_err()).contains("CONFIG_DEVTMPFS=y"));
    let mut other = samples::files();
    let overlay = other.iter_mut().find(|(path, _)| path.contains("overlay")).unwrap();
    overlay.1 = samples::module(&["depends=", "vermagic=5.10.0 SMP"]);
    assert!(matches!(place.import(&other, None, false), Err(KernelError::OtherRelease { .. })));
    let no_deb = ImportSource::Deb(Box::new(Cursor::new(b"no archive at all".to_vec())));
    assert!(matches!(place.bundles.import(no_deb, ImportOptions::default()), Err(KernelError::NotADeb(_))));
    assert_eq!(place.entries(), [""; 0]);
}

#[test]
fn damaged_bundles_are_told_apart_from_missing_ones() {
    let place = Place::new();
    place.import(&samples::files(), Some("k"), false).unwrap();
    let record = place.folder.path().join("kernels/k/record.json");
    fs::write(&record, b"{}").unwrap();
    assert!(matches!(place.bundles.open(Some("k")), Err(KernelError::Damaged(..))));
    assert!(place.bundles.list().unwrap().is_empty());
    place.import(&samples::files(), Some("k"), false).unwrap();
    assert!(place.bundles.open(Some("k")).is_ok());
}

/// A distribution's own package, where one is at hand: `HULL_TEST_DEB` is its path.
#[test]
fn a_real_package_becomes_a_bundle() {
    let Some(path) = std::env::var_os("HULL_TEST_DEB") else {
        return;
    };
    let place = Place::new();
    let source = ImportSource::Deb(Box::new(io::BufReader::new(File::open(path).unwrap())));
    let started = std::time::Instant::now();
    let kernel = place.bundles.import(source, ImportOptions::default()).unwrap();
    println!("{kernel:#?}\nimported in {:?}", started.elapsed());
    let at = |name: &str| kernel.modules.iter().position(|module| module == name).unwrap();
    assert!(at("virtio_ring") < at("virtio_mmio"));
    assert!(at("virtio_ring") < at("virtio_blk"));
    assert!(at("vsock") < at("vmw_vsock_virtio_transport_common"));
    assert!(at("vmw_vsock_virtio_transport_common") < at("vmw_vsock_virtio_transport"));
    let open = place.bundles.open(None).unwrap();
    let mut vmlinux = Vec::new();
    (&open.kernel).read_to_end(&mut vmlinux).unwrap();
    elf::Program::parse(&vmlinux).unwrap();
    assert_eq!(image::release(&vmlinux).unwrap(), kernel.release);
    let (files, names) = unpack(&open.initrd);
    // Every module stands after all it depends on.
    let modules: Vec<&String> = names.iter().filter(|name| name.starts_with("modules/")).collect();
    for (position, (path, name)) in modules.iter().zip(&kernel.modules).enumerate() {
        assert_eq!(**path, format!("modules/{position:03}-{name}.ko"));
        for needed in modinfo::Modinfo::parse(&files[*path]).unwrap().depends {
            assert!(at(&needed) < position, "{name} needs {needed}");
        }
    }
}
