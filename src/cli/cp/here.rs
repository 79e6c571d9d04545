//! The side of a copy that is here.

use std::io::{self, Read};
use std::os::fd::OwnedFd;

use anyhow::{Context, Result};
use hull_archive::Unpack;
use hull_protocol::transfer::FileKind;
use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};

fn open(path: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    openat(CWD, path, flags | OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
}

fn kind(opened: &OwnedFd) -> rustix::io::Result<FileKind> {
    Ok(match FileType::from_raw_mode(fstat(opened)?.st_mode) {
        FileType::RegularFile => FileKind::File,
        FileType::Directory => FileKind::Directory,
        FileType::Symlink => FileKind::Link,
        _ => FileKind::Special,
    })
}

/// What is at a destination; none where there is nothing.
pub(super) fn stat_here(path: &str) -> Result<Option<FileKind>> {
    match open(path, OFlags::empty()).and_then(|opened| kind(&opened)) {
        Ok(found) => Ok(Some(found)),
        Err(rustix::io::Errno::NOENT) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("looking at {path}")),
    }
}

/// Opens a source.
pub(super) fn pack_here(path: &str, follow: bool) -> Result<(OwnedFd, FileKind)> {
    let mut flags = OFlags::empty();
    flags.set(OFlags::NOFOLLOW, !follow);
    let opened = open(path, flags).with_context(|| format!("opening {path}"))?;
    let kind = kind(&opened).with_context(|| format!("looking at {path}"))?;
    Ok((opened, kind))
}

/// Writes an archive of one thing called `name`.
pub(super) fn unpack_here(directory: &str, name: &str, keep_owner: bool, archive: impl Read) -> Result<()> {
    let opened = open(directory, OFlags::DIRECTORY)
        .with_context(|| format!("'{directory}' is not a directory that things can be copied to"))?;
    // What a guest calls a device, or gives the rights of its root, is not taken at its word.
    let mode = if keep_owner { 0o7777 } else { 0o777 };
    let how = Unpack { keep_owner, devices: false, mode, only: Some(name.as_bytes().to_vec()) };
    let unpacked = how.run(&opened, io::BufReader::new(archive)).context("writing what the microVM sent")?;
    if unpacked.left_out > 0 {
        super::super::complain(&anyhow::anyhow!("{} devices were not copied", unpacked.left_out));
    }
    Ok(())
}
