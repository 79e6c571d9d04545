//! Where everything is in the guest's physical address space: a pure function of the plan.
//!
//! Owner: nobody; a value that every step of the build reads. Invariant: nothing overlaps, and every part
//! that is memory lies in a RAM region.

use std::fmt;

use hull_protocol::units::{Bytes, GIB, MIB};

/// Memory below this address; the rest of the low 4 GiB is for devices.
pub const LOW_MEMORY_END: u64 = 3 * GIB;
/// Where memory goes on above the devices.
pub const HIGH_MEMORY_START: u64 = 4 * GIB;
/// The first device window.
pub const DEVICES_START: u64 = 0xd000_0000;
/// The first interrupt of the devices; lower ones belong to the platform.
pub const FIRST_DEVICE_GSI: u32 = 6;
/// The last pin of the one IOAPIC.
pub const LAST_GSI: u32 = 23;
/// The interrupt of the serial port.
pub const SERIAL_GSI: u32 = 4;
/// The interrupt of the generic event device (power button).
pub const EVENT_GSI: u32 = 5;

/// Global descriptor table of the first instruction.
pub const GDT: u64 = 0x500;
/// Linux boot parameters ("zero page").
pub const ZERO_PAGE: u64 = 0x7000;
/// Identity page tables: one page each for levels 4, 3 and 2.
pub const PAGE_TABLES: u64 = 0x9000;
/// Stack of the first instruction, growing down.
pub const BOOT_STACK: u64 = 0x8ff0;
/// The kernel command line.
pub const CMDLINE: u64 = 0x2_0000;
/// Longest command line of x86 Linux, with its NUL.
pub const CMDLINE_MAX: usize = 2048;
/// End of the memory below the legacy video window.
pub const LOW_RAM_END: u64 = 0x9_fc00;
/// The ACPI tables, in the BIOS area.
pub const ACPI: u64 = 0xe_0000;
/// Where a processor starts in a PC's BIOS, and where kernels jump to for a restart.
pub const RESET_VECTOR: u64 = 0xf_fff0;
/// Memory from 1 MiB on.
pub const HIGH_RAM_START: u64 = MIB;
/// Where KVM keeps its task state segment, three pages, out of the guest's way.
pub const KVM_TSS: u64 = 0xfffb_d000;

/// One virtio device's window and interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceWindow {
    /// First address of the window, [`hull_virtio::window::WINDOW`] bytes long.
    pub base: u64,
    /// Its pin of the IOAPIC.
    pub gsi: u32,
}

/// What a range of memory is, numbered as in e820.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum MemoryKind {
    /// The guest's to use.
    Ram = 1,
    /// Not the guest's to use.
    Reserved = 2,
}

/// The address space of one microVM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// RAM as start and length, ascending.
    pub ram: Vec<(u64, u64)>,
    /// The devices, in the order of the plan.
    pub devices: Vec<DeviceWindow>,
}

/// Why a plan has no layout.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum LayoutError {
    /// More devices than interrupts.
    #[error("{0} devices are more than the {max} that one microVM can have: use fewer disks or networks", max = LAST_GSI - FIRST_DEVICE_GSI + 1)]
    TooManyDevices(usize),
}

impl Layout {
    /// Lays out `memory` and `devices` virtio devices.
    ///
    /// # Errors
    /// When there are more devices than interrupts.
    pub fn of(memory: Bytes, devices: usize) -> Result<Self, LayoutError> {
        let low = memory.get().min(LOW_MEMORY_END);
        let high = memory.get() - low;
        let mut ram = vec![(0, low)];
        if high > 0 {
            ram.push((HIGH_MEMORY_START, high));
        }
        let pins = FIRST_DEVICE_GSI..=LAST_GSI;
        if devices > pins.clone().count() {
            return Err(LayoutError::TooManyDevices(devices));
        }
        let windows = (DEVICES_START..).step_by(hull_virtio::window::WINDOW as usize);
        let devices = windows.zip(pins).take(devices).map(|(base, gsi)| DeviceWindow { base, gsi }).collect();
        Ok(Self { ram, devices })
    }

    /// What firmware would say of the memory: start, length and kind of each range, ascending.
    pub fn memory_map(&self) -> Vec<(u64, u64, MemoryKind)> {
        let mut map = vec![
            (0, LOW_RAM_END, MemoryKind::Ram),
            (ACPI, HIGH_RAM_START - ACPI, MemoryKind::Reserved),
            (HIGH_RAM_START, self.low_end() - HIGH_RAM_START, MemoryKind::Ram),
        ];
        map.extend(self.ram.iter().skip(1).map(|(start, length)| (*start, *length, MemoryKind::Ram)));
        map
    }

    /// The first address after the RAM below the devices.
    pub fn low_end(&self) -> u64 {
        self.ram.first().map_or(0, |(start, length)| start + length)
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (start, length) in &self.ram {
            writeln!(f, "{start:#014x} ram {}", Bytes(*length))?;
        }
        for device in &self.devices {
            writeln!(f, "{:#014x} virtio device, interrupt {}", device.base, device.gsi)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn nothing_overlaps(mib in 32..200_000u64, devices in 0..30usize) {
            let Ok(layout) = Layout::of(Bytes::mib(mib), devices) else {
                prop_assert!(devices > 18);
                return Ok(());
            };
            let mut ranges: Vec<(u64, u64)> = layout.ram.clone();
            ranges.extend(layout.devices.iter().map(|device| (device.base, hull_virtio::window::WINDOW)));
            ranges.push((0xfec0_0000, 0x1000));
            ranges.push((0xfee0_0000, 0x1000));
            ranges.push((KVM_TSS, 0x4000));
            ranges.sort_unstable();
            for pair in ranges.windows(2) {
                prop_assert!(pair[0].0 + pair[0].1 <= pair[1].0);
            }
            prop_assert_eq!(layout.ram.iter().map(|(_, length)| length).sum::<u64>(), mib * MIB);
        }
    }
}
