//! Disks: sparse files of a set size with an empty ext4 in them. A container's own is its quota; a volume's outlives it.
//!
//! Making a file system takes longer than copying an empty one, so there is one template for each size that containers
//! have.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use hull_protocol::units::Bytes;
use rustix::io::Errno;

/// The smallest disk, in bytes: its journal and tables leave about half of it.
pub const DISK_MIN: Bytes = Bytes::mib(16);
/// The largest disk.
pub const DISK_MAX: Bytes = Bytes::gib(16 << 10);

/// Why there is no disk.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// A size that no disk can have.
    #[error("a disk of {0} is not possible: give {DISK_MIN} to {DISK_MAX}")]
    Size(Bytes),
    /// `mke2fs` is missing.
    #[error("mke2fs could not be started: install e2fsprogs")]
    NoMke2fs(#[source] io::Error),
    /// `mke2fs` failed.
    #[error("mke2fs failed: {0}")]
    Mke2fs(String),
    /// The host refused.
    #[error("the disk {0} could not be made (is the host's disk full?)")]
    Io(PathBuf, #[source] io::Error),
}

/// Makes a new disk at `path` and returns it opened.
///
/// # Errors
/// When it cannot be made; nothing is left behind then.
pub fn create(templates: &Path, path: &Path, size: Bytes) -> Result<File, DiskError> {
    if size < DISK_MIN || size > DISK_MAX {
        return Err(DiskError::Size(size));
    }
    let template = template(templates, size)?;
    let made = copy_sparse(&template, path, size.get());
    made.map_err(|error| {
        let _nothing_was_made = fs::remove_file(path);
        DiskError::Io(path.to_owned(), error)
    })
}

fn template(directory: &Path, size: Bytes) -> Result<File, DiskError> {
    let place = directory.join(format!("ext4-{}.img", size.get()));
    if let Ok(file) = File::open(&place) {
        return Ok(file);
    }
    let io = |error| DiskError::Io(place.clone(), error);
    fs::create_dir_all(directory).map_err(io)?;
    let half = tempfile::NamedTempFile::new_in(directory).map_err(io)?;
    half.as_file().set_len(size.get()).map_err(io)?;
    make_file_system(half.path(), &["-L", "hull-data"])?;
    half.as_file().sync_all().map_err(io)?;
    // Two at a time make the same one twice, and the later one wins: they are alike.
    half.persist(&place).map_err(|error| io(error.error))
}

/// Makes a new disk at `path` that is to last and may grow, one of its own kind: with blocks of 4 KiB, whatever its
/// size, because a file system keeps those for ever.
///
/// # Errors
/// When it cannot be made; nothing is left behind then.
pub fn make(path: &Path, size: Bytes) -> Result<(), DiskError> {
    if size < DISK_MIN || size > DISK_MAX {
        return Err(DiskError::Size(size));
    }
    let made = make_new(path, size);
    made.inspect_err(|_| {
        let _nothing_was_made = fs::remove_file(path);
    })
}

fn make_new(path: &Path, size: Bytes) -> Result<(), DiskError> {
    let io = |error| DiskError::Io(path.to_owned(), error);
    let disk = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(io)?;
    disk.set_len(size.get()).map_err(io)?;
    make_file_system(path, &["-L", "hull-volume", "-b", "4096"])?;
    disk.sync_all().map_err(io)?;
    let directory = path.parent().unwrap_or(path);
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(io)
}

/// Makes a directory that is its owner's alone, with those above it.
pub fn private_directory(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn make_file_system(path: &Path, more: &[&str]) -> Result<(), DiskError> {
    let output = Command::new("mke2fs")
        .args(["-q", "-F", "-t", "ext4", "-m", "0", "-J", "size=4"])
        .args(more)
        .args(["-E", "nodiscard,lazy_itable_init=1,lazy_journal_init=1,root_owner=0:0"])
        .arg(path)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .output()
        .map_err(DiskError::NoMke2fs)?;
    if output.status.success() {
        return Ok(());
    }
    Err(DiskError::Mke2fs(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

fn copy_sparse(template: &File, path: &Path, size: u64) -> io::Result<File> {
    let disk = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
    // File systems that share blocks do it at once.
    if rustix::fs::ioctl_ficlone(&disk, template).is_ok() {
        return Ok(disk);
    }
    disk.set_len(size)?;
    let mut at = 0;
    loop {
        let start = match rustix::fs::seek(template, rustix::fs::SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => return Ok(disk),
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(template, rustix::fs::SeekFrom::Hole(start))?;
        let (mut source, mut sink) = (template, &disk);
        source.seek(SeekFrom::Start(start))?;
        sink.seek(SeekFrom::Start(start))?;
        io::copy(&mut source.take(end.saturating_sub(start)), &mut sink)?;
        sink.flush()?;
        at = end;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what it expects")]

    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_disk_is_sparse_sound_and_of_its_size() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a", "b"] {
            let path = dir.path().join(name);
            let disk = create(dir.path(), &path, Bytes::gib(10)).unwrap();
            let metadata = disk.metadata().unwrap();
            assert_eq!(metadata.len(), 10 << 30);
            assert!(metadata.blocks() * 512 < 64 << 20, "{} bytes in use", metadata.blocks() * 512);
            let checked = Command::new("e2fsck").args(["-fn"]).arg(&path).output().unwrap();
            assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
        }
    }

    #[test]
    fn sizes_that_cannot_be_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        for size in [Bytes(0), Bytes::mib(1), Bytes(u64::MAX)] {
            let refused = create(dir.path(), &dir.path().join("x"), size);
            assert!(matches!(refused, Err(DiskError::Size(_))));
        }
        assert!(!dir.path().join("x").exists());
    }
}
