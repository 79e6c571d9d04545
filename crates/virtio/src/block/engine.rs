//! How a disk's bytes move: the seam between the block device and the host's file.
//!
//! Owner: the block device. Today each request is finished when the call returns.
#![allow(
    unsafe_code,
    reason = "vectored I/O on guest memory has no safe interface: a Rust slice must not alias it"
)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileTypeExt;

use rustix::fs::FallocateFlags;
use vm_memory::VolatileSlice;

/// What a block device asks of its disk. Offsets and lengths are in bytes and within the disk.
pub(super) trait Engine: Send {
    fn read(&mut self, at: u64, to: &[VolatileSlice<'_>]) -> io::Result<()>;
    fn write(&mut self, at: u64, from: &[VolatileSlice<'_>]) -> io::Result<()>;
    fn flush(&mut self) -> io::Result<()>;
    /// The bytes need not be kept.
    fn discard(&mut self, at: u64, length: u64) -> io::Result<()>;
    /// The bytes read as zero from now on; `unmap` allows to give their space back.
    fn zero(&mut self, at: u64, length: u64, unmap: bool) -> io::Result<()>;
}

/// A raw file or block device, by plain system calls.
pub(super) struct FileEngine {
    file: File,
    block_device: bool,
}

/// `preadv` or `pwritev`.
type Vectored = unsafe extern "C" fn(i32, *const libc::iovec, i32, i64) -> isize;

impl FileEngine {
    pub(super) fn new(file: File) -> io::Result<Self> {
        let kind = file.metadata()?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a disk is a regular file or a block device",
            ));
        }
        Ok(Self { file, block_device: kind.is_block_device() })
    }

    /// Size in bytes.
    pub(super) fn size(&self) -> io::Result<u64> {
        // Seeking to the end tells the size of files and of block devices alike.
        Ok(rustix::fs::seek(&self.file, rustix::fs::SeekFrom::End(0))?)
    }

    fn transfer(&self, call: Vectored, at: u64, slices: &[VolatileSlice<'_>]) -> io::Result<()> {
        let guards: Vec<_> = slices.iter().map(VolatileSlice::ptr_guard_mut).collect();
        let mut iovecs: Vec<libc::iovec> = guards
            .iter()
            .map(|guard| libc::iovec { iov_base: guard.as_ptr().cast(), iov_len: guard.len() })
            .collect();
        let mut rest = iovecs.as_mut_slice();
        let mut at = at;
        while !rest.is_empty() {
            let count = i32::try_from(rest.len().min(1024)).unwrap_or(1);
            let offset = i64::try_from(at).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
            // SAFETY: each iovec is a live piece of mapped guest memory, kept by `guards`, and the kernel
            // writes or reads no more than its length. The guest may change it meanwhile; nobody here reads it.
            let done = unsafe { call(self.file.as_raw_fd(), rest.as_ptr(), count, offset) };
            let moved = match usize::try_from(done) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(moved) => moved,
                Err(_) => match io::Error::last_os_error() {
                    again if again.kind() == io::ErrorKind::Interrupted => continue,
                    error => return Err(error),
                },
            };
            at = at.saturating_add(moved as u64);
            rest = advance(rest, moved);
        }
        Ok(())
    }

    fn allocate(&self, flags: FallocateFlags, at: u64, length: u64) -> io::Result<()> {
        Ok(rustix::fs::fallocate(&self.file, flags, at, length)?)
    }

    /// Where the file system cannot punch or zero, zeroes are written.
    fn write_zeroes(&self, at: u64, length: u64) -> io::Result<()> {
        use std::os::unix::fs::FileExt;
        let zeroes = [0u8; 64 << 10];
        let mut done = 0;
        while done < length {
            let part = usize::try_from(length - done).unwrap_or(usize::MAX).min(zeroes.len());
            self.file.write_all_at(zeroes.get(..part).unwrap_or_default(), at.saturating_add(done))?;
            done += part as u64;
        }
        Ok(())
    }
}

/// Drops `moved` bytes off the front.
fn advance(iovecs: &mut [libc::iovec], moved: usize) -> &mut [libc::iovec] {
    let mut moved = moved;
    let mut whole = 0;
    for iovec in iovecs.iter_mut() {
        if moved < iovec.iov_len {
            iovec.iov_base = iovec.iov_base.wrapping_byte_add(moved);
            iovec.iov_len -= moved;
            break;
        }
        moved -= iovec.iov_len;
        whole += 1;
    }
    iovecs.get_mut(whole..).unwrap_or_default()
}

impl Engine for FileEngine {
    fn read(&mut self, at: u64, to: &[VolatileSlice<'_>]) -> io::Result<()> {
        self.transfer(libc::preadv, at, to)
    }

    fn write(&mut self, at: u64, from: &[VolatileSlice<'_>]) -> io::Result<()> {
        self.transfer(libc::pwritev, at, from)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn discard(&mut self, at: u64, length: u64) -> io::Result<()> {
        // A discard is a hint: a host that cannot give space back has obeyed it all the same.
        match self.allocate(FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, at, length) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
            other => other,
        }
    }

    fn zero(&mut self, at: u64, length: u64, unmap: bool) -> io::Result<()> {
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let keep = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
        let flags = if unmap && !self.block_device { punch } else { keep };
        match self.allocate(flags, at, length) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => self.write_zeroes(at, length),
            other => other,
        }
    }
}
