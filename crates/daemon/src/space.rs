//! Room on the disk that holds the daemon's data: without it, nothing new is begun.
//!
//! Asked before a microVM is made or started; what runs goes on. Invariant: the last [`RESERVE`] bytes are left to the
//! state and to what runs already.

use std::fs::File;
use std::path::{Path, PathBuf};

use hull_protocol::units::Bytes;
use rustix::fs::FallocateFlags;

/// What is left alone: room for the state's own writes and for some minutes of what runs.
const RESERVE: Bytes = Bytes::mib(64);

/// The disk is full.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "only {free} are free on the disk of {place}: nothing new is begun below {RESERVE}; make room ('hull system prune')"
)]
pub struct NoSpace {
    /// What is free.
    pub free: Bytes,
    /// Where.
    pub place: PathBuf,
}

/// What is free where `place` is.
///
/// # Errors
/// When the file system does not say.
pub fn free(place: &Path) -> std::io::Result<Bytes> {
    let found = rustix::fs::statvfs(place)?;
    Ok(Bytes(found.f_bavail.saturating_mul(found.f_frsize)))
}

/// Has the file system set room aside for the first bytes of a file, which a full disk then does not keep from growing so
/// far. What cannot be set aside is not: some file systems do not know how, and a full one has nothing.
pub fn set_aside(file: &File, bytes: Bytes) {
    if let Err(error) = rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, 0, bytes.get()) {
        tracing::debug!(%error, "no room can be set aside for the daemon's own writes");
    }
}

/// Whether what is written to `place` stays in memory.
pub fn in_memory(place: &Path) -> bool {
    // linux/magic.h
    const TMPFS_MAGIC: i64 = 0x0102_1994;
    const RAMFS_MAGIC: i64 = 0x8584_58f6;
    rustix::fs::statfs(place).is_ok_and(|found| matches!(found.f_type, TMPFS_MAGIC | RAMFS_MAGIC))
}

/// Whether something new may be begun.
///
/// # Errors
/// When there is too little room.
pub fn check(place: &Path) -> Result<(), NoSpace> {
    match free(place) {
        Ok(free) if free < RESERVE => Err(NoSpace { free, place: place.to_owned() }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_in_words() {
        // A file system that never has room.
        let full = check(Path::new("/proc"));
        assert!(full.is_err_and(|full| full.to_string().contains("0 B are free on the disk of /proc")));
        assert_eq!(check(Path::new("/nowhere/at/all")), Ok(()));
    }
}
