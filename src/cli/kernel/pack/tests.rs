#![allow(clippy::unwrap_used, reason = "a test says what it expects")]

use super::*;

#[test]
fn a_kernels_release_is_in_its_name_or_its_folders() {
    let release = |path: &str| release(Path::new(path));
    assert_eq!(release("/boot/vmlinuz-6.1.0-40-cloud-amd64").as_deref(), Some("6.1.0-40-cloud-amd64"));
    assert_eq!(release("/lib/modules/6.12.1/vmlinuz").as_deref(), Some("6.12.1"));
    assert_eq!(release("/tmp/vmlinux"), None);
}

#[test]
fn kernel_configuration_and_modules_are_packed_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let file = |path: &str| {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, path.to_str().unwrap()).unwrap();
        path
    };
    let kernel = file("vmlinuz-1");
    let beside = file("config-1");
    for path in ["kernel/fs/b.ko.xz", "kernel/fs/a.ko", "modules.builtin", "modules.dep", "kernel/readme"] {
        file(&format!("m/{path}"));
    }
    let modules = dir.path().join("m");
    std::os::unix::fs::symlink("/", modules.join("build")).unwrap();
    assert_eq!(config(&kernel, Some("1"), Some(&modules)), Some(beside.clone()));
    let mut packed = Vec::new();
    pack(File::open(&kernel).unwrap(), Some(&beside), Some(&modules), &mut packed).unwrap();
    let mut archive = tar::Archive::new(&packed[..]);
    let names = archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().display().to_string());
    let expected = [
        "vmlinuz",
        "config",
        "modules/modules.builtin",
        "modules/kernel/fs/a.ko",
        "modules/kernel/fs/b.ko.xz",
    ];
    assert_eq!(names.collect::<Vec<_>>(), expected);
}

#[test]
fn what_is_no_package_is_not_sent_as_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    let source = || Source { path: None, deb: Some(path.clone()), modules: None };
    fs::write(&path, "plain").unwrap();
    assert!(source().open().is_err_and(|error| error.to_string().contains("not a Debian package")));
    fs::write(&path, "!<arch>\nrest").unwrap();
    assert!(source().open().is_ok_and(|(kind, _)| kind == "deb"));
    fs::remove_file(&path).unwrap();
    assert!(source().open().is_err_and(|error| error.to_string().contains("cannot be opened")));
}
