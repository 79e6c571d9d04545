//! Loading a kernel: which it is, where its parts go, which entry it gets, and the Linux boot parameters that say so
//! (Documentation/arch/x86/boot.rst, 64-bit entry; struct boot_params). The other protocol is [`pvh`]'s.

use std::fs::File;
use std::io::{self, Seek};
use std::os::unix::fs::FileExt;

use hull_protocol::plan::EntryPlan;
use hull_virtio::device::Memory;
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params};
use linux_loader::loader::{BzImage, KernelLoader};
use vm_memory::{Bytes, GuestAddress};

use crate::boot::elf::{self, ElfError, Loaded};
use crate::boot::{Entry, pvh};
use crate::layout::{self, Layout};
use crate::memory::{self, MemoryError};

/// Where a bzImage's kernel goes: its preferred address.
const BZIMAGE_BASE: u64 = 0x100_0000;
/// The 64-bit entry, from the start of a bzImage's kernel.
const ENTRY_64: u64 = 0x200;

/// Why a guest cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The kernel file could not be read.
    #[error("the kernel file cannot be read")]
    Read(#[from] io::Error),
    /// It is neither ELF nor bzImage.
    #[error("the kernel file is neither an ELF vmlinux nor a bzImage")]
    Unknown,
    /// The ELF kernel cannot be loaded.
    #[error(transparent)]
    Elf(#[from] ElfError),
    /// The bzImage cannot be loaded.
    #[error("the bzImage cannot be loaded: is it damaged, or the guest's memory too small?")]
    BzImage(#[source] linux_loader::loader::Error),
    /// The bzImage has no 64-bit entry.
    #[error("the bzImage has no 64-bit entry: give a kernel for x86-64")]
    No64BitEntry,
    /// The kernel cannot be entered as asked.
    #[error("the kernel has no {0} entry: leave the choice to --entry auto, or give another kernel")]
    NoSuchEntry(&'static str),
    /// Something does not fit.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The command line is too long.
    #[error("the kernel command line has {0} bytes, more than the {max} that Linux takes", max = layout::CMDLINE_MAX - 1)]
    CmdlineTooLong(usize),
    /// The command line would end early.
    #[error("the kernel command line contains a NUL byte")]
    CmdlineNul,
}

/// What a guest starts with, as files and text.
#[derive(Clone, Copy, Debug)]
pub struct Kernel<'a> {
    /// An ELF file or a bzImage.
    pub image: &'a File,
    /// The initial RAM disk.
    pub initrd: Option<&'a File>,
    /// The command line.
    pub cmdline: &'a str,
    /// Which entry it is to have.
    pub entry: EntryPlan,
}

/// Loads a kernel and writes what its entry expects; returns where and how it starts.
///
/// # Errors
/// When the kernel is none, or something does not fit.
pub fn load(memory: &Memory, layout: &Layout, kernel: Kernel<'_>) -> Result<Entry, LoadError> {
    let mut params = boot_params::default();
    let loaded = load_kernel(memory, kernel.image, &mut params)?;
    let entry = choose(&loaded, kernel.entry)?;
    let initrd = kernel.initrd.map(|initrd| place_initrd(memory, layout, initrd, loaded.end)).transpose()?;
    write_cmdline(memory, kernel.cmdline)?;
    match entry {
        Entry::Linux64(_) => write_params(memory, layout, params, initrd)?,
        Entry::Pvh(_) => pvh::write(memory, layout, initrd)?,
    }
    Ok(entry)
}

/// The 64-bit entry is preferred: it is the shorter way in, a kernel's 32-bit code only leads to it.
fn choose(loaded: &Loaded, asked: EntryPlan) -> Result<Entry, LoadError> {
    let linux64 = loaded.linux64.map(Entry::Linux64);
    let pvh = loaded.pvh.map(Entry::Pvh);
    match asked {
        EntryPlan::Auto => linux64.or(pvh).ok_or(LoadError::NoSuchEntry("usable")),
        EntryPlan::Linux64 => linux64.ok_or(LoadError::NoSuchEntry("64-bit")),
        EntryPlan::Pvh => pvh.ok_or(LoadError::NoSuchEntry("PVH")),
    }
}

fn write_params(
    memory: &Memory,
    layout: &Layout,
    mut params: boot_params,
    initrd: Option<(u32, u32)>,
) -> Result<(), MemoryError> {
    (params.hdr.ramdisk_image, params.hdr.ramdisk_size) = initrd.unwrap_or_default();
    params.hdr.type_of_loader = 0xff;
    params.hdr.boot_flag = 0xaa55;
    params.hdr.header = 0x5372_6448;
    params.hdr.cmd_line_ptr = layout::CMDLINE as u32;
    params.hdr.cmdline_size = layout::CMDLINE_MAX as u32;
    params.hdr.kernel_alignment = 0x100_0000;
    params.acpi_rsdp_addr = layout::ACPI;
    fill_e820(layout, &mut params);
    memory
        .write_obj(params, GuestAddress(layout::ZERO_PAGE))
        .map_err(|_| MemoryError::TooSmall("the boot parameters"))
}

fn load_kernel(memory: &Memory, kernel: &File, params: &mut boot_params) -> Result<Loaded, LoadError> {
    let mut start = [0; 0x206];
    let got = kernel.read_at(&mut start, 0)?;
    if elf::is_elf(&start) {
        return Ok(elf::load(memory, kernel)?);
    }
    if got < start.len() || start.get(0x202..0x206) != Some(b"HdrS") {
        return Err(LoadError::Unknown);
    }
    let mut file = kernel.try_clone()?;
    file.rewind()?;
    let loaded = BzImage::load(memory, Some(GuestAddress(BZIMAGE_BASE)), &mut file, None)
        .map_err(LoadError::BzImage)?;
    let header = loaded.setup_header.unwrap_or_default();
    if header.xloadflags & 1 == 0 {
        return Err(LoadError::No64BitEntry);
    }
    params.hdr = header;
    // The kernel unpacks itself in place: keep everything else off the room it needs for that.
    let end = BZIMAGE_BASE.saturating_add(u64::from(header.init_size)).max(loaded.kernel_end);
    Ok(Loaded { linux64: Some(BZIMAGE_BASE + ENTRY_64), pvh: None, end })
}

/// Puts the initial RAM disk as high below the devices as it goes; returns address and length.
fn place_initrd(
    memory: &Memory,
    layout: &Layout,
    initrd: &File,
    kernel_end: u64,
) -> Result<(u32, u32), LoadError> {
    let length = initrd.metadata()?.len();
    let too_small = || MemoryError::TooSmall("the initial RAM disk");
    let room = length.checked_next_multiple_of(4096).ok_or_else(too_small)?;
    let at = layout.low_end().checked_sub(room).ok_or_else(too_small)? & !0xfff;
    if at < kernel_end {
        return Err(too_small().into());
    }
    memory::place_file(memory, at, initrd, (0, length), "the initial RAM disk")?;
    let narrow = |n: u64| u32::try_from(n).map_err(|_| too_small());
    Ok((narrow(at)?, narrow(length)?))
}

fn write_cmdline(memory: &Memory, cmdline: &str) -> Result<(), LoadError> {
    if cmdline.len() >= layout::CMDLINE_MAX {
        return Err(LoadError::CmdlineTooLong(cmdline.len()));
    }
    if cmdline.contains('\0') {
        return Err(LoadError::CmdlineNul);
    }
    let write = |data: &[u8], at: u64| {
        memory.write_slice(data, GuestAddress(at)).map_err(|_| MemoryError::TooSmall("the command line"))
    };
    write(cmdline.as_bytes(), layout::CMDLINE)?;
    Ok(write(&[0], layout::CMDLINE + cmdline.len() as u64)?)
}

fn fill_e820(layout: &Layout, params: &mut boot_params) {
    let map = layout.memory_map();
    for (to, (addr, size, kind)) in params.e820_table.iter_mut().zip(&map) {
        *to = boot_e820_entry { addr: *addr, size: *size, r#type: *kind as u32 };
    }
    params.e820_entries = u8::try_from(map.len()).unwrap_or(0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_64_bit_entry_is_taken_unless_it_is_missing_or_pvh_is_asked_for() {
        let loaded = |linux64, pvh| Loaded { linux64, pvh, end: 0 };
        let (both, only64, only_pvh) =
            (loaded(Some(1), Some(2)), loaded(Some(1), None), loaded(None, Some(2)));
        for (kernel, asked, entry) in [
            (both, EntryPlan::Auto, Some(Entry::Linux64(1))),
            (both, EntryPlan::Pvh, Some(Entry::Pvh(2))),
            (only64, EntryPlan::Auto, Some(Entry::Linux64(1))),
            (only64, EntryPlan::Pvh, None),
            (only_pvh, EntryPlan::Auto, Some(Entry::Pvh(2))),
            (only_pvh, EntryPlan::Linux64, None),
        ] {
            assert_eq!(choose(&kernel, asked).ok(), entry, "{kernel:?} {asked:?}");
        }
    }
}
