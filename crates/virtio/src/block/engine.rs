//! What a disk's data is kept on.
//!
//! The seam between the block device, which speaks virtio, and the host's way of moving bytes. Owned by the device,
//! called on the I/O thread. Invariant: an engine is asked only for ranges below the capacity, and what it does not
//! do it says.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use rustix::fs::{FallocateFlags, fallocate, fdatasync};
use rustix::io::Errno;

use crate::iovec::IoVecs;

/// Moves the bytes of one disk. Offsets and lengths are in bytes.
pub trait Engine: Send {
    /// Reads into `vecs`; returns the number of bytes, which may be fewer, and 0 only at the end.
    ///
    /// # Errors
    /// The host's.
    fn read_at(&mut self, vecs: &IoVecs<'_>, offset: u64) -> io::Result<usize>;

    /// Writes `vecs`; returns the number of bytes, which may be fewer.
    ///
    /// # Errors
    /// The host's; a full disk among them.
    fn write_at(&mut self, vecs: &IoVecs<'_>, offset: u64) -> io::Result<usize>;

    /// Makes all that was written last.
    ///
    /// # Errors
    /// The host's.
    fn flush(&mut self) -> io::Result<()>;

    /// Gives a range up; what it reads as afterwards is undefined.
    ///
    /// # Errors
    /// The host's; `Unsupported` if it cannot.
    fn discard(&mut self, offset: u64, len: u64) -> io::Result<()>;

    /// Makes a range read as zeroes, giving it up if `unmap` allows that.
    ///
    /// # Errors
    /// The host's.
    fn write_zeroes(&mut self, offset: u64, len: u64, unmap: bool) -> io::Result<()>;
}

/// A raw file or block device, by system calls that wait.
#[derive(Debug)]
pub struct FileEngine {
    file: File,
}

impl FileEngine {
    /// An engine on an open file.
    #[must_use]
    pub fn new(file: File) -> Self {
        Self { file }
    }

    // On a block device the kernel turns these calls into what BLKDISCARD and BLKZEROOUT do, so that files and
    // devices need the same one system call.
    fn allocate(&self, flags: FallocateFlags, offset: u64, len: u64) -> io::Result<()> {
        loop {
            match fallocate(&self.file, flags, offset, len) {
                Err(Errno::INTR) => {}
                done => return Ok(done?),
            }
        }
    }
}

impl Engine for FileEngine {
    fn read_at(&mut self, vecs: &IoVecs<'_>, offset: u64) -> io::Result<usize> {
        vecs.read_at(self.file.as_fd(), offset)
    }

    fn write_at(&mut self, vecs: &IoVecs<'_>, offset: u64) -> io::Result<usize> {
        vecs.write_at(self.file.as_fd(), offset)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(fdatasync(&self.file)?)
    }

    fn discard(&mut self, offset: u64, len: u64) -> io::Result<()> {
        self.allocate(FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, len)
    }

    fn write_zeroes(&mut self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let zero = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
        let ways: &[FallocateFlags] = if unmap { &[hole, zero] } else { &[zero] };
        for &flags in ways {
            match self.allocate(flags, offset, len) {
                // A block device refuses ranges that are no whole blocks of its own.
                Err(error) if matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::InvalidInput) => {}
                done => return done,
            }
        }
        write_zero_bytes(&self.file, offset, len)
    }
}

/// The way that works everywhere.
fn write_zero_bytes(file: &File, offset: u64, len: u64) -> io::Result<()> {
    const ZEROES: &[u8] = &[0; 64 * 1024];
    let (mut offset, mut left) = (offset, len);
    while left > 0 {
        let count = usize::try_from(left).unwrap_or(usize::MAX).min(ZEROES.len());
        file.write_all_at(ZEROES.get(..count).unwrap_or(ZEROES), offset)?;
        let moved = u64::try_from(count).unwrap_or(left);
        offset = offset.saturating_add(moved);
        left = left.saturating_sub(moved);
    }
    Ok(())
}
