//! Paths in a root whose links were made to lead out of it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use tempfile::TempDir;

use super::*;

/// A directory with a root in it, and a file beside the root.
fn tree() -> (TempDir, PathBuf, Root) {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("root");
    fs::create_dir(&path).unwrap();
    fs::write(place.path().join("secret"), "untouched").unwrap();
    let root = Root::open(&path).unwrap();
    (place, path, root)
}

/// Where a descriptor leads.
fn target(descriptor: &OwnedFd) -> PathBuf {
    fs::read_link(by_descriptor(descriptor)).unwrap()
}

#[test]
fn what_is_missing_is_made() {
    let (_place, path, root) = tree();
    assert_eq!(target(&root.file("/etc", "hosts").unwrap()), path.join("etc/hosts"));
    assert_eq!(target(&root.file("/etc", "hosts").unwrap()), path.join("etc/hosts"));
    assert_eq!(target(&root.directory("/a/b/c").unwrap()), path.join("a/b/c"));
    assert!(root.has("/a/b") && !root.has("/a/x"));
}

#[test]
fn links_stay_inside() {
    let (place, path, root) = tree();
    fs::create_dir(path.join("etc")).unwrap();
    symlink(place.path().join("secret"), path.join("etc/hosts")).unwrap();
    symlink("../../secret", path.join("etc/hostname")).unwrap();
    symlink("/proc/sysrq-trigger", path.join("etc/resolv.conf")).unwrap();
    symlink("../../../../..", path.join("up")).unwrap();
    symlink("/proc/self/root", path.join("magic")).unwrap();
    for name in ["hosts", "hostname", "resolv.conf"] {
        let file = target(&root.file("/etc", name).unwrap());
        assert_eq!(file, path.join("etc").join(name));
    }
    assert_eq!(target(&root.directory("/up").unwrap()), path);
    assert_eq!(target(&root.directory("/up/made").unwrap()), path.join("made"));
    assert!(!root.has("/magic/etc"));
    assert_eq!(fs::read_to_string(place.path().join("secret")).unwrap(), "untouched");
}

#[test]
fn a_link_to_a_place_inside_is_followed() {
    let (_place, path, root) = tree();
    fs::create_dir_all(path.join("private/etc")).unwrap();
    fs::write(path.join("private/etc/real"), "").unwrap();
    symlink("/private/etc", path.join("etc")).unwrap();
    symlink("real", path.join("private/etc/hosts")).unwrap();
    assert_eq!(target(&root.file("/etc", "hosts").unwrap()), path.join("private/etc/real"));
    assert_eq!(target(&root.file("/etc", "hostname").unwrap()), path.join("private/etc/hostname"));
}

#[test]
fn loops_and_files_for_directories_are_errors() {
    let (_place, path, root) = tree();
    symlink("loop", path.join("loop")).unwrap();
    fs::write(path.join("file"), "").unwrap();
    root.directory("/loop").unwrap_err();
    root.file("/loop", "hosts").unwrap_err();
    root.directory("/file/x").unwrap_err();
    root.directory(&"/x".repeat(DEPTH_MAX + 1)).unwrap_err();
}

#[test]
fn a_mount_point_behind_a_link_is_refused() {
    let (_place, path, root) = tree();
    fs::create_dir(path.join("tmp")).unwrap();
    symlink("tmp", path.join("dev")).unwrap();
    let error = root.mount("/dev", "tmpfs", MountFlags::empty(), "").unwrap_err();
    assert!(error.to_string().contains("link in /dev"), "{error}");
}
