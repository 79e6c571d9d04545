//! Guest memory: anonymous mappings handed to KVM, and files read into them.
//!
//! Owner: the machine; devices and boot code borrow it. Invariant: a mapping lives as long as the machine, so
//! KVM and devices never see it go.
#![allow(unsafe_code, reason = "guest memory is mapped and given to KVM by address")]

use std::fs::File;
use std::io::{self, Seek, SeekFrom};

use hull_virtio::device::Memory;
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use crate::layout::Layout;

/// Why guest memory could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The host gave no address space.
    #[error("the host has no room for the guest's memory: ask for less with --memory")]
    Map(#[source] vm_memory::mmap::FromRangesError),
    /// KVM refused a region.
    #[error("KVM refused the guest's memory")]
    Slot(#[source] kvm_ioctls::Error),
    /// A file could not be read into the guest.
    #[error("a file could not be read into the guest's memory")]
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

/// Reads `length` bytes of a file, from `offset` on, straight to a guest address.
///
/// # Errors
/// When they do not fit into RAM, or the file cannot be read.
pub fn place_file(
    memory: &Memory,
    at: u64,
    file: &File,
    (offset, length): (u64, u64),
    what: &'static str,
) -> Result<(), MemoryError> {
    let size = usize::try_from(length).map_err(|_| MemoryError::TooSmall(what))?;
    if !memory.check_range(GuestAddress(at), size) {
        return Err(MemoryError::TooSmall(what));
    }
    let mut file = file.try_clone().map_err(MemoryError::File)?;
    file.seek(SeekFrom::Start(offset)).map_err(MemoryError::File)?;
    memory
        .read_exact_volatile_from(GuestAddress(at), &mut file, size)
        .map_err(|error| MemoryError::File(io::Error::other(error)))
}
