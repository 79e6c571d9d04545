//! Guest memory: anonymous mappings handed to KVM, with files mapped over parts of them.
//!
//! Owner: the machine; devices and boot code borrow it. Invariant: a mapping lives as long as the machine, so
//! KVM and devices never see it go.
#![allow(unsafe_code, reason = "guest memory is mapped and given to KVM by address")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use hull_virtio::Memory;
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use crate::layout::Layout;

const PAGE: u64 = 4096;

/// Why guest memory could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The host gave no address space.
    #[error("the host has no room for the guest's memory: ask for less with --memory")]
    Map(#[source] vm_memory::mmap::FromRangesError),
    /// KVM refused a region.
    #[error("KVM refused the guest's memory")]
    Slot(#[source] kvm_ioctls::Error),
    /// A file could not be mapped into the guest.
    #[error("a file could not be mapped into the guest's memory")]
    File(#[source] io::Error),
    /// Something to be loaded does not fit.
    #[error("{0} does not fit into the guest's memory: give it more with --memory")]
    TooSmall(&'static str),
}

/// Maps the guest's RAM. Nothing is touched: pages come when the guest uses them.
///
/// # Errors
/// When the host has no room.
pub fn allocate(layout: &Layout) -> Result<Memory, MemoryError> {
    let ranges: Vec<(GuestAddress, usize)> =
        layout.ram.iter().map(|(start, length)| (GuestAddress(*start), *length as usize)).collect();
    Memory::from_ranges(&ranges).map_err(MemoryError::Map)
}

/// Gives the guest's RAM to KVM.
///
/// # Errors
/// When KVM refuses a region.
pub fn register(vm: &VmFd, memory: &Memory) -> Result<(), MemoryError> {
    for (slot, region) in (0..).zip(memory.iter()) {
        let region = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: region.start_addr().0,
            memory_size: region.len(),
            userspace_addr: region.as_ptr() as u64,
        };
        // SAFETY: the region is mapped and stays so while the machine, which owns both, lives.
        unsafe { vm.set_user_memory_region(region) }.map_err(MemoryError::Slot)?;
    }
    Ok(())
}

/// Places `length` bytes of a file, from `offset` on, at a guest address. Where offset and address agree within
/// a page the file is mapped copy-on-write: nothing is read, and untouched pages are shared by all guests.
/// What the last page holds beyond `length` reads as zero.
///
/// # Errors
/// When it does not fit one RAM region, or the file cannot be mapped or read.
pub fn place_file(
    memory: &Memory,
    at: u64,
    file: &File,
    (offset, length): (u64, u64),
    what: &'static str,
) -> Result<(), MemoryError> {
    if length == 0 {
        return Ok(());
    }
    let too_small = || MemoryError::TooSmall(what);
    let size = usize::try_from(length).map_err(|_| too_small())?;
    if !at.is_multiple_of(PAGE) || !offset.is_multiple_of(PAGE) {
        return read_file(memory, at, file, (offset, size), what);
    }
    let whole = size.checked_next_multiple_of(PAGE as usize).ok_or_else(too_small)?;
    let tail = memory.get_slice(GuestAddress(at), whole).map_err(|_| too_small())?;
    let from = i64::try_from(offset).map_err(|_| too_small())?;
    // SAFETY: `tail` is a page-aligned part of one anonymous mapping that the machine owns; it is replaced in
    // place by a private mapping of the same size, so every address into it stays valid.
    let mapped = unsafe {
        libc::mmap(
            tail.ptr_guard_mut().as_ptr().cast(),
            whole,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_FIXED,
            file.as_raw_fd(),
            from,
        )
    };
    if mapped == libc::MAP_FAILED {
        return Err(MemoryError::File(io::Error::last_os_error()));
    }
    let beyond = [0u8; PAGE as usize];
    let rest = beyond.get(..whole - size).unwrap_or_default();
    memory.write_slice(rest, GuestAddress(at + length)).map_err(|_| too_small())
}

fn read_file(
    memory: &Memory,
    at: u64,
    file: &File,
    (offset, size): (u64, usize),
    what: &'static str,
) -> Result<(), MemoryError> {
    use std::os::unix::fs::FileExt;
    let mut chunk = vec![0; size.min(1 << 20)];
    let mut done = 0;
    while done < size {
        let part = chunk.get_mut(..(size - done).min(1 << 20)).unwrap_or_default();
        file.read_exact_at(part, offset + done as u64).map_err(MemoryError::File)?;
        memory.write_slice(part, GuestAddress(at + done as u64)).map_err(|_| MemoryError::TooSmall(what))?;
        done += part.len();
    }
    Ok(())
}
