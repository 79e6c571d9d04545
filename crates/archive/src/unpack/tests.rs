#![allow(clippy::unwrap_used, reason = "a test says what it expects")]

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use rustix::fs::open;

use super::*;
use crate::pack;

const PLAIN: Unpack = Unpack { keep_owner: false, devices: false, mode: 0o777, only: None };

fn opened(path: &Path) -> OwnedFd {
    open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap()
}

fn packed(path: &Path, name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    pack(&opened(path), name.as_bytes(), &mut bytes).unwrap();
    bytes
}

/// An archive of entries `(kind, name, target or content)`.
fn archive(entries: &[(u8, &str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (kind, name, text) in entries {
        let mut header = tar::Header::new_gnu();
        let gnu = header.as_gnu_mut().unwrap();
        gnu.name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(tar::EntryType::new(*kind));
        header.set_mode(0o4755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1);
        let content = if *kind == b'0' { text.as_bytes() } else { b"" };
        header.as_gnu_mut().unwrap().linkname[..text.len()].copy_from_slice(text.as_bytes());
        header.set_size(content.len() as u64);
        header.set_cksum();
        bytes.extend(header.as_bytes());
        bytes.extend(content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes
}

fn tree(root: &Path) {
    fs::create_dir_all(root.join("d/deep")).unwrap();
    fs::write(root.join("d/file"), "content").unwrap();
    fs::write(root.join("d/empty"), "").unwrap();
    fs::hard_link(root.join("d/file"), root.join("d/other-name")).unwrap();
    symlink("../nowhere/at all", root.join("d/link")).unwrap();
    let long = root.join("d/deep").join("l".repeat(200));
    fs::create_dir(&long).unwrap();
    fs::write(long.join("n".repeat(120)), vec![7; 70_000]).unwrap();
    symlink("t".repeat(300), root.join("d/long-link")).unwrap();
    let bytes: &[u8] = b"not utf-8 \xff";
    let odd: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(bytes);
    fs::write(root.join("d").join(odd), "x").unwrap();
    rustix::fs::mknodat(CWD, root.join("d/pipe"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    fs::set_permissions(root.join("d/file"), fs::Permissions::from_mode(0o751)).unwrap();
    fs::set_permissions(root.join("d/deep"), fs::Permissions::from_mode(0o500)).unwrap();
}

/// What is below a directory, a line each.
fn listed(root: &Path) -> Vec<String> {
    let command = "find . -printf '%P %y %m %s %n %l %Ts\\n' | sed 's/^\\([^ ]* d [^ ]*\\) [^ ]* /\\1 - /' | sort; \
                   find . -type f -exec md5sum '{}' + | sort";
    let output =
        Command::new("sh").args(["-c", command]).env("LC_ALL", "C").current_dir(root).output().unwrap();
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

#[test]
fn a_tree_comes_back_as_it_was_and_tar_reads_it_too() {
    let (from, to, by_tar) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    tree(from.path());
    let bytes = packed(&from.path().join("d"), "d");
    let how = Unpack { only: Some(b"d".to_vec()), ..PLAIN };
    let sum = how.run(&opened(to.path()), bytes.as_slice()).unwrap();
    assert_eq!(sum.left_out, 0);
    let expected = listed(&from.path().join("d"));
    assert!(expected.len() > 12, "{expected:?}");
    assert_eq!(listed(&to.path().join("d")), expected);
    let file = by_tar.path().join("archive");
    fs::write(&file, &bytes).unwrap();
    let tar = Command::new("tar").args(["xpf", "archive"]).current_dir(by_tar.path()).status();
    assert!(tar.expect("this test needs tar").success());
    assert_eq!(listed(&by_tar.path().join("d")), expected);
    // And the other way round, in the format that has the most headers.
    let status =
        Command::new("tar").args(["cf", "pax", "--format=pax", "d"]).current_dir(by_tar.path()).status();
    assert!(status.unwrap().success());
    let again = tempfile::tempdir().unwrap();
    how.run(&opened(again.path()), fs::File::open(by_tar.path().join("pax")).unwrap()).unwrap();
    assert_eq!(listed(&again.path().join("d")), expected);
}

#[test]
fn a_file_takes_a_files_place_and_nothing_else() {
    let to = tempfile::tempdir().unwrap();
    let at = |name: &str| to.path().join(name);
    fs::create_dir(at("dir")).unwrap();
    fs::set_permissions(at("dir"), fs::Permissions::from_mode(0o711)).unwrap();
    fs::write(at("old"), "old").unwrap();
    fs::write(at("target"), "untouched").unwrap();
    symlink("target", at("link")).unwrap();
    let run = |entries: &[(u8, &str, &str)]| PLAIN.run(&opened(to.path()), archive(entries).as_slice());
    run(&[(b'0', "old", "new"), (b'0', "link", "own"), (b'5', "dir", ""), (b'0', "dir/in/it", "x")]).unwrap();
    assert_eq!(fs::read_to_string(at("old")).unwrap(), "new");
    assert_eq!(fs::metadata(at("old")).unwrap().mode() & 0o7777, 0o755, "set-user-id is left out");
    assert_eq!(
        (fs::read_to_string(at("link")).unwrap(), fs::read_to_string(at("target")).unwrap()),
        ("own".into(), "untouched".into())
    );
    assert_eq!(fs::metadata(at("dir")).unwrap().mode() & 0o7777, 0o711, "what was there is as it was");
    assert!(at("dir/in/it").is_file());
    for entries in [[(b'0', "dir", "")], [(b'5', "old", "")], [(b'0', "old/below", "")], [(b'2', "dir", "x")]]
    {
        let error = run(&entries).unwrap_err();
        assert!(matches!(error, ArchiveError::InTheWay { .. }), "{error:?}");
    }
}

#[test]
fn nothing_is_written_outside() {
    let place = tempfile::tempdir().unwrap();
    let (to, outside) = (place.path().join("to"), place.path().join("outside"));
    fs::create_dir(&to).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "secret").unwrap();
    let absolute = outside.to_str().unwrap();
    let run = |how: &Unpack, entries: &[(u8, &str, &str)]| how.run(&opened(&to), archive(entries).as_slice());
    for entries in [
        &[(b'0', "../outside/x", "x")][..],
        &[(b'0', "a/../../outside/x", "x")],
        &[(b'2', "l", absolute), (b'0', "l/x", "x")],
        &[(b'2', "m", "../outside"), (b'5', "m/x", "")],
        &[(b'2', "n", absolute), (b'1', "hard", "n/secret")],
        &[(b'1', "hard", "../outside/secret")],
        &[(b'2', "o", "../outside"), (b'2', "o/x", "y")],
    ] {
        let error = run(&PLAIN, entries).unwrap_err();
        assert!(
            matches!(error, ArchiveError::Outside(_) | ArchiveError::InTheWay { .. }),
            "{entries:?}: {error:?}"
        );
    }
    // An absolute path is below the directory, as everywhere.
    run(&PLAIN, &[(b'0', "/etc/here", "x")]).unwrap();
    assert!(to.join("etc/here").is_file());
    let only = Unpack { only: Some(b"mine".to_vec()), ..PLAIN };
    run(&only, &[(b'0', "./mine", "x")]).unwrap();
    for name in ["yours", "mine2", "./yours/mine"] {
        assert!(matches!(run(&only, &[(b'0', name, "x")]), Err(ArchiveError::Outside(_))), "{name}");
    }
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    assert_eq!(fs::metadata(outside.join("secret")).unwrap().nlink(), 1);
}

#[test]
fn devices_and_owners_are_made_only_where_that_is_wanted() {
    assert!(rustix::process::getuid().is_root(), "this test makes devices: it needs root");
    let to = tempfile::tempdir().unwrap();
    let mut bytes = archive(&[(b'3', "null", ""), (b'6', "pipe", ""), (b'0', "file", "x")]);
    let mut header = tar::Header::from_byte_slice(&bytes[..512]).clone();
    header.set_device_major(1).unwrap();
    header.set_device_minor(3).unwrap();
    header.set_uid(1234);
    header.set_cksum();
    bytes[..512].copy_from_slice(header.as_bytes());
    let sum = PLAIN.run(&opened(to.path()), bytes.as_slice()).unwrap();
    assert_eq!((sum.written, sum.left_out), (2, 1));
    assert!(!to.path().join("null").exists());
    let all = Unpack { keep_owner: true, devices: true, mode: 0o7777, only: None };
    all.run(&opened(to.path()), bytes.as_slice()).unwrap();
    let made = fs::metadata(to.path().join("null")).unwrap();
    assert!(made.file_type().is_char_device());
    assert_eq!((made.rdev(), made.uid(), made.mode() & 0o7777), (makedev(1, 3), 1234, 0o4755));
    let mut again = Vec::new();
    pack(&opened(&to.path().join("null")), b"null", &mut again).unwrap();
    let entry = Entries::new(again.as_slice()).next_entry().unwrap().unwrap();
    assert_eq!((entry.kind, entry.device, entry.uid), (Kind::CharacterDevice, (1, 3), 1234));
}
