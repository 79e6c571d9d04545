//! Guest memory: anonymous mappings handed to KVM, and files read into them.
//!
//! Owner: the machine; devices and boot code borrow it. Invariant: a mapping lives as long as the machine, so
//! KVM and devices never see it go.
#![allow(unsafe_code, reason = "guest memory is mapped and given to KVM by address")]

use std::fs::File;
use std::io::{self, Seek, SeekFrom};

use hull_virtio::device::Memory;
use hull_virtio::window::Windows;
use kvm_bindings::{KVM_MEM_READONLY, kvm_userspace_memory_region};
use kvm_ioctls::VmFd;
use rustix::mm::{Advice, MapFlags, ProtFlags};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion, GuestRegionMmap, MmapRegion};

use crate::layout::Layout;

/// A large page of x86-64.
const LARGE_PAGE: usize = 2 << 20;

/// Why guest memory could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The host gave no address space.
    #[error("the host has no room for the guest's memory: ask for less with --memory")]
    Map(#[source] io::Error),
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

/// Maps the guest's RAM, until the process ends. Nothing is touched: pages come when the guest uses them.
///
/// # Errors
/// When the host has no room.
pub fn allocate(layout: &Layout) -> Result<Memory, MemoryError> {
    let no_room = |error| MemoryError::Map(io::Error::other(error));
    let regions = layout
        .ram
        .iter()
        .map(|(start, length)| {
            let length = usize::try_from(*length).map_err(|_| MemoryError::TooSmall("the address space"))?;
            let at = map_aligned(length).map_err(|error| MemoryError::Map(error.into()))?;
            let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
            // SAFETY: the range was just mapped so, for this region alone, and is never unmapped.
            let mapping = unsafe { MmapRegion::build_raw(at, length, prot, flags) }
                .map_err(|error| no_room(error.to_string()))?;
            GuestRegionMmap::new(mapping, GuestAddress(*start))
                .ok_or(MemoryError::TooSmall("the address space"))
        })
        .collect::<Result<Vec<_>, _>>()?;
    Memory::from_regions(regions).map_err(|error| no_room(error.to_string()))
}

/// Maps anonymous memory at a multiple of the large page's size, so that a large page of the guest can be one of
/// the host's: the guest's start then costs some hundred page faults, not tens of thousands. What is left
/// of the reserve around it stays inaccessible.
fn map_aligned(length: usize) -> rustix::io::Result<*mut u8> {
    let reserve = length.checked_add(LARGE_PAGE).ok_or(rustix::io::Errno::NOMEM)?;
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
    // SAFETY: new mappings at a place of the kernel's choice, the second inside the first, which nobody uses; the
    // advice changes no content.
    unsafe {
        let start = rustix::mm::mmap_anonymous(std::ptr::null_mut(), reserve, ProtFlags::empty(), flags)?;
        let at = start.add(start.align_offset(LARGE_PAGE));
        let access = ProtFlags::READ | ProtFlags::WRITE;
        rustix::mm::mmap_anonymous(at, length, access, flags | MapFlags::FIXED)?;
        // A kernel without large pages refuses, and goes on with small ones.
        let _small_pages = rustix::mm::madvise(at, length, Advice::LinuxHugepage);
        Ok(at.cast())
    }
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

/// Lets the guest read the devices' windows; what it writes there is an exit. They stay until the process ends.
///
/// # Errors
/// When KVM refuses them.
pub fn register_windows(vm: &VmFd, layout: &Layout, windows: Windows) -> Result<(), MemoryError> {
    let (place, length) = windows.place();
    let Some(first) = layout.devices.first().filter(|_| length > 0) else { return Ok(()) };
    let region = kvm_userspace_memory_region {
        slot: u32::try_from(layout.ram.len()).unwrap_or(u32::MAX),
        flags: KVM_MEM_READONLY,
        guest_phys_addr: first.base,
        memory_size: length as u64,
        userspace_addr: place as u64,
    };
    std::mem::forget(windows);
    // SAFETY: the windows are never freed, as one of their owners was forgotten, and the guest cannot write them.
    unsafe { vm.set_user_memory_region(region) }.map_err(MemoryError::Slot)
}

/// Reads `length` bytes of a file, from `offset` on, straight to a guest address whose memory is still zero. What
/// the file does not store, its holes, is not read: it is zero too.
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
    let end = offset.checked_add(length).ok_or(MemoryError::TooSmall(what))?;
    if !memory.check_range(GuestAddress(at), size) {
        return Err(MemoryError::TooSmall(what));
    }
    let mut file = file.try_clone().map_err(MemoryError::File)?;
    let mut next = offset;
    while let Some((start, stop)) = data(&file, next, end).map_err(MemoryError::File)? {
        file.seek(SeekFrom::Start(start)).map_err(MemoryError::File)?;
        let to = GuestAddress(at + (start - offset));
        let count = usize::try_from(stop - start).map_err(|_| MemoryError::TooSmall(what))?;
        memory
            .read_exact_volatile_from(to, &mut file, count)
            .map_err(|error| MemoryError::File(io::Error::other(error)))?;
        next = stop;
    }
    Ok(())
}

/// The next part of a file that is stored, between two offsets; none when the rest is a hole. A file system that
/// does not tell has no holes.
fn data(file: &File, from: u64, end: u64) -> io::Result<Option<(u64, u64)>> {
    use rustix::fs::SeekFrom::{Data, Hole};
    use rustix::io::Errno;
    if from >= end {
        return Ok(None);
    }
    let start = match rustix::fs::seek(file, Data(from)) {
        Ok(start) => start,
        // There is no more data: the file ends in a hole, or is shorter than was thought.
        Err(Errno::NXIO) => {
            return if end <= file.metadata()?.len() { Ok(None) } else { Ok(Some((from, end))) };
        }
        Err(Errno::INVAL) => return Ok(Some((from, end))),
        Err(error) => return Err(error.into()),
    };
    if start >= end {
        return Ok(None);
    }
    let stop = rustix::fs::seek(file, Hole(start))?.min(end);
    // A file that shrinks meanwhile ends where it should not: the read says so.
    Ok(Some((start, if stop > start { stop } else { end })))
}

#[cfg(test)]
mod tests;
