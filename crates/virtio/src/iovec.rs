//! Host system calls straight from and to guest memory: the one module with unsafe code.
//!
//! An [`IoVecs`] is a list of host buffers made from checked guest ranges. Devices build one per operation on the I/O
//! thread and drop it before they return. Invariant: each entry lies in a mapping that lives for `'a`, and no Rust
//! reference to it is ever made: the kernel alone touches the bytes, while the guest may change them.

#![allow(
    unsafe_code,
    reason = "iovec lists over guest memory have no safe form: slices would be references into it"
)]

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd};

use vm_memory::{GuestAddress, GuestMemoryBackend};

use crate::device::Memory;
use crate::fault::Fault;

/// The most buffers a system call takes (`IOV_MAX`).
const CALL_MAX: usize = 1024;
/// The most entries of a list that go into one frame: less the head and the byte beyond.
const FRAME_MAX: usize = CALL_MAX - 2;

/// A list of host buffers in guest memory.
#[derive(Debug)]
pub struct IoVecs<'a> {
    raw: Vec<libc::iovec>,
    /// Entries before this one are used up.
    first: usize,
    remaining: usize,
    memory: PhantomData<&'a Memory>,
}

impl<'a> IoVecs<'a> {
    /// An empty list.
    #[must_use]
    pub fn with_capacity(entries: usize) -> Self {
        Self { raw: Vec::with_capacity(entries), first: 0, remaining: 0, memory: PhantomData }
    }

    /// Appends a guest range. One that spans two regions becomes two entries.
    ///
    /// # Errors
    /// [`Fault::Memory`] if it is not in guest memory.
    pub fn push(&mut self, mem: &'a Memory, addr: GuestAddress, len: u32) -> Result<(), Fault> {
        let len = usize::try_from(len).map_err(|_| Fault::Length)?;
        for slice in GuestMemoryBackend::get_slices(mem, addr, len) {
            let slice = slice?;
            // A guest's memory is one plain mapping: the guard protects nothing beyond `'a` here.
            let base = slice.ptr_guard_mut().as_ptr();
            self.remaining = self.remaining.saturating_add(slice.len());
            // An entry that is used up must not grow: the new bytes would be taken for used.
            let fresh = self.first < self.raw.len();
            match self.raw.last_mut() {
                Some(last) if fresh && last.iov_base.cast::<u8>().wrapping_add(last.iov_len) == base => {
                    last.iov_len = last.iov_len.saturating_add(slice.len());
                }
                _ => self.raw.push(libc::iovec { iov_base: base.cast(), iov_len: slice.len() }),
            }
        }
        Ok(())
    }

    /// Bytes in the list.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.remaining
    }

    /// Drops the first `count` bytes, after a system call that moved that many.
    pub fn advance(&mut self, count: usize) {
        let mut count = count.min(self.remaining);
        self.remaining = self.remaining.saturating_sub(count);
        while count > 0 {
            let Some(entry) = self.raw.get_mut(self.first) else { return };
            if count < entry.iov_len {
                entry.iov_base = entry.iov_base.cast::<u8>().wrapping_add(count).cast();
                entry.iov_len = entry.iov_len.saturating_sub(count);
                return;
            }
            count = count.saturating_sub(entry.iov_len);
            self.first = self.first.saturating_add(1);
        }
    }

    /// The next entries one system call can take, as pointer and number.
    fn batch(&self) -> (*const libc::iovec, usize) {
        let rest = self.raw.get(self.first..).unwrap_or_default();
        (rest.as_ptr(), rest.len().min(CALL_MAX))
    }

    /// Reads from `file` at `offset` (bytes) into the list; returns the number of bytes, 0 at the end of the file.
    ///
    /// # Errors
    /// The host's, from `preadv`.
    pub fn read_at(&self, file: BorrowedFd<'_>, offset: u64) -> io::Result<usize> {
        let (entries, number) = self.batch();
        let (number, offset) = (call_len(number), file_offset(offset)?);
        // SAFETY: `entries` points to `number` initialised entries, each of which lies in a guest mapping that
        // outlives `self`; nothing in Rust refers to these bytes.
        retry(|| unsafe { libc::preadv(file.as_raw_fd(), entries, number, offset) })
    }

    /// Writes the list to `file` at `offset` (bytes); returns the number of bytes.
    ///
    /// # Errors
    /// The host's, from `pwritev`.
    pub fn write_at(&self, file: BorrowedFd<'_>, offset: u64) -> io::Result<usize> {
        let (entries, number) = self.batch();
        let (number, offset) = (call_len(number), file_offset(offset)?);
        // SAFETY: as in `read_at`; the kernel only reads here.
        retry(|| unsafe { libc::pwritev(file.as_raw_fd(), entries, number, offset) })
    }

    /// Receives from a socket without waiting; returns the number of bytes, 0 at the end of the stream.
    ///
    /// # Errors
    /// The host's, from `recvmsg`; `WouldBlock` if there is nothing yet.
    pub fn receive(&self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        let mut message = self.message();
        // SAFETY: `message` is initialised and lists entries as in `read_at`; it outlives the call.
        retry(|| unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) })
    }

    /// Sends to a socket without waiting and without `SIGPIPE`; returns the number of bytes.
    ///
    /// # Errors
    /// The host's, from `sendmsg`; `WouldBlock` if there is no room.
    pub fn send(&self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        let message = self.message();
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: as in `receive`; the kernel only reads here.
        retry(|| unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, flags) })
    }

    /// Whether one call of [`IoVecs::read_frame`] takes no more entries than there are.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.raw.len().saturating_sub(self.first) >= FRAME_MAX
    }

    /// Reads one datagram: its first bytes into `head`, the rest to where the list has them, as if `head` were the
    /// list's own beginning. Returns its length with `head`, or none if it is longer than the list.
    ///
    /// # Errors
    /// The host's, from `readv`; `WouldBlock` if there is no datagram.
    pub fn read_frame(&self, file: BorrowedFd<'_>, head: &mut [u8]) -> io::Result<Option<usize>> {
        let mut call = Vec::with_capacity(self.raw.len().saturating_add(2).min(CALL_MAX));
        call.push(libc::iovec { iov_base: head.as_mut_ptr().cast(), iov_len: head.len() });
        let (mut skip, mut room) = (head.len(), head.len());
        for entry in self.raw.get(self.first..).unwrap_or_default().iter().take(FRAME_MAX) {
            let behind = skip.min(entry.iov_len);
            skip = skip.saturating_sub(behind);
            let iov_len = entry.iov_len.saturating_sub(behind);
            if iov_len > 0 {
                let iov_base = entry.iov_base.cast::<u8>().wrapping_add(behind).cast();
                room = room.saturating_add(iov_len);
                call.push(libc::iovec { iov_base, iov_len });
            }
        }
        // A byte that is only written when the list was too short.
        let mut beyond = 0_u8;
        call.push(libc::iovec { iov_base: (&raw mut beyond).cast(), iov_len: 1 });
        // SAFETY: the entries are `head` and `beyond`, borrowed exclusively for the call, and pieces of guest
        // mappings as in `read_at`.
        let count = retry(|| unsafe { libc::readv(file.as_raw_fd(), call.as_ptr(), call_len(call.len())) })?;
        Ok(Some(count).filter(|count| *count <= room && skip == 0))
    }

    /// Writes one datagram: `head`, then the list; returns its length.
    ///
    /// # Errors
    /// The host's, from `writev`; `WouldBlock` if there is no room, `InvalidInput` if it is in too many pieces.
    pub fn write_frame(&self, file: BorrowedFd<'_>, head: &[u8]) -> io::Result<usize> {
        let rest = self.raw.get(self.first..).unwrap_or_default();
        let mut call = Vec::with_capacity(rest.len().saturating_add(1));
        call.push(libc::iovec { iov_base: head.as_ptr().cast_mut().cast(), iov_len: head.len() });
        call.extend_from_slice(rest);
        if call.len() > CALL_MAX {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // SAFETY: as in `read_at`; the kernel only reads, `head` as well as guest memory.
        retry(|| unsafe { libc::writev(file.as_raw_fd(), call.as_ptr(), call_len(call.len())) })
    }

    fn message(&self) -> libc::msghdr {
        let (entries, number) = self.batch();
        // SAFETY: `msghdr` is plain data for which all zeroes mean: no address, no control data, no flags.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = entries.cast_mut();
        message.msg_iovlen = number;
        message
    }

    /// Fills the list with random bytes from the host; returns the number of bytes, which may be fewer.
    ///
    /// # Errors
    /// The host's, from `getrandom`.
    pub fn fill_random(&self) -> io::Result<usize> {
        let mut filled = 0_usize;
        for entry in self.raw.get(self.first..).unwrap_or_default() {
            // SAFETY: the entry lies in a guest mapping that outlives `self`; nothing in Rust refers to its bytes.
            let count = retry(|| unsafe { libc::getrandom(entry.iov_base, entry.iov_len, 0) })?;
            filled = filled.saturating_add(count);
            if count < entry.iov_len {
                break;
            }
        }
        Ok(filled)
    }
}

fn call_len(number: usize) -> libc::c_int {
    libc::c_int::try_from(number).unwrap_or(libc::c_int::MAX)
}

fn file_offset(offset: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(offset).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}

/// Makes the call again as long as a signal interrupts it.
fn retry(mut call: impl FnMut() -> libc::ssize_t) -> io::Result<usize> {
    loop {
        if let Ok(count) = usize::try_from(call()) {
            return Ok(count);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}
