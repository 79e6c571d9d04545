//! The PVH boot protocol: 32-bit entry without paging, and the start information that `ebx` points to
//! (Xen, public/arch-x86/hvm/start_info.h, version 1).
//!
//! Owner: the machine, once, before the first instruction.

use hull_virtio::device::Memory;
use vm_memory::{ByteValued, Bytes, GuestAddress};

use crate::layout::{self, Layout};
use crate::memory::MemoryError;

const MAGIC: u32 = 0x336e_c578;
/// The first version with a memory map.
const VERSION: u32 = 1;

/// `struct hvm_start_info`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct StartInfo {
    magic: u32,
    version: u32,
    flags: u32,
    modules: u32,
    module_list: u64,
    cmdline: u64,
    rsdp: u64,
    map: u64,
    map_entries: u32,
    reserved: u32,
}

/// `struct hvm_modlist_entry`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Module {
    address: u64,
    size: u64,
    cmdline: u64,
    reserved: u64,
}

/// `struct hvm_memmap_table_entry`; its types are those of e820.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct MapEntry {
    start: u64,
    size: u64,
    kind: u32,
    reserved: u32,
}

#[expect(unsafe_code, reason = "plain data written to guest memory")]
mod plain {
    use super::{ByteValued, MapEntry, Module, StartInfo};
    // SAFETY: integers only, no padding, any bits are valid.
    unsafe impl ByteValued for StartInfo {}
    // SAFETY: as above.
    unsafe impl ByteValued for Module {}
    // SAFETY: as above.
    unsafe impl ByteValued for MapEntry {}
}

/// Writes the start information to [`layout::ZERO_PAGE`], which the other protocol does not need then: the module
/// (the initial RAM disk as address and length) and the memory map behind it.
///
/// # Errors
/// When guest memory is too small.
pub fn write(memory: &Memory, layout: &Layout, initrd: Option<(u32, u32)>) -> Result<(), MemoryError> {
    let module_list = layout::ZERO_PAGE + size_of::<StartInfo>() as u64;
    let map = module_list + size_of::<Module>() as u64;
    let entries = layout.memory_map();
    let info = StartInfo {
        magic: MAGIC,
        version: VERSION,
        modules: u32::from(initrd.is_some()),
        module_list,
        cmdline: layout::CMDLINE,
        rsdp: layout::ACPI,
        map,
        map_entries: u32::try_from(entries.len()).unwrap_or(0),
        ..StartInfo::default()
    };
    let (address, size) = initrd.unwrap_or_default();
    let module = Module { address: address.into(), size: size.into(), ..Module::default() };
    let too_small = |_| MemoryError::TooSmall("the start information");
    memory.write_obj(info, GuestAddress(layout::ZERO_PAGE)).map_err(too_small)?;
    memory.write_obj(module, GuestAddress(module_list)).map_err(too_small)?;
    for (index, (start, size, kind)) in (0u64..).zip(entries) {
        let entry = MapEntry { start, size, kind: kind as u32, reserved: 0 };
        let at = map + index * size_of::<MapEntry>() as u64;
        memory.write_obj(entry, GuestAddress(at)).map_err(too_small)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what it expects")]
    use hull_protocol::units;

    use super::*;

    #[test]
    fn the_start_information_leads_to_its_parts() {
        let layout = Layout::of(units::Bytes::mib(5000), 2).unwrap();
        let memory = Memory::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        write(&memory, &layout, Some((0x1234_5000, 77))).unwrap();
        let info: StartInfo = memory.read_obj(GuestAddress(layout::ZERO_PAGE)).unwrap();
        assert_eq!((info.magic, info.version, info.modules), (MAGIC, 1, 1));
        assert_eq!((info.cmdline, info.rsdp), (layout::CMDLINE, layout::ACPI));
        let module: Module = memory.read_obj(GuestAddress(info.module_list)).unwrap();
        assert_eq!((module.address, module.size), (0x1234_5000, 77));
        let mut ram = 0;
        for index in 0..u64::from(info.map_entries) {
            let entry: MapEntry = memory.read_obj(GuestAddress(info.map + 24 * index)).unwrap();
            ram += if entry.kind == 1 { entry.size } else { 0 };
        }
        let lost_to_the_bios_area = layout::HIGH_RAM_START - layout::LOW_RAM_END;
        assert_eq!(ram, units::Bytes::mib(5000).get() - lost_to_the_bios_area);
    }
}
