//! The ACPI tables (ACPI 6.5, hardware-reduced): RSDP, XSDT, FADT, MADT, DSDT.
//!
//! Owner: the machine, once, before the first instruction. A stock kernel finds every processor, virtio device,
//! the serial port, the power button, and how to sleep and reset in here.

use acpi_tables::Aml;
use acpi_tables::aml::{
    Arg, Device, EISAName, Equal, IO, If, Interrupt, Memory32Fixed, Method, Name, Notify, ONE, Package, Path,
    ResourceTemplate, ZERO,
};
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use hull_virtio::device::Memory;
use vm_memory::{Bytes, GuestAddress};

use crate::layout::{self, Layout};
use crate::memory::MemoryError;
use crate::platform::{PANIC_PORT, RESET_PORT, SLEEP_CONTROL_PORT, SLEEP_STATUS_PORT};

const OEM: [u8; 6] = *b"HULL  ";
const OEM_TABLE: [u8; 8] = *b"HULLVM  ";
const IOAPIC: u32 = 0xfec0_0000;
const LOCAL_APIC: u32 = 0xfee0_0000;
/// The sleep type that `_S5` names and the sleep control register is written with.
pub const SLEEP_TYPE_OFF: u8 = 5;
/// What the reset register is written with.
pub const RESET_VALUE: u8 = 1;

/// Writes all tables to their place.
///
/// # Errors
/// When they do not fit below the reset vector.
pub fn write(memory: &Memory, layout: &Layout, cpus: u8) -> Result<(), MemoryError> {
    let image = image(layout, cpus);
    if layout::ACPI + image.len() as u64 > layout::RESET_VECTOR {
        return Err(MemoryError::TooSmall("the ACPI tables"));
    }
    memory
        .write_slice(&image, GuestAddress(layout::ACPI))
        .map_err(|_| MemoryError::TooSmall("the ACPI tables"))
}

/// The tables as they lie in memory from [`layout::ACPI`] on: the RSDP first.
fn image(layout: &Layout, cpus: u8) -> Vec<u8> {
    let dsdt = dsdt(layout);
    let mut image = vec![0; 64];
    let dsdt_at = append(&mut image, &bytes(&dsdt));
    let fadt_at = append(&mut image, &bytes(&fadt(dsdt_at)));
    let madt_at = append(&mut image, &bytes(&madt(cpus)));
    let mut xsdt = XSDT::new(OEM, OEM_TABLE, 1);
    xsdt.add_entry(fadt_at);
    xsdt.add_entry(madt_at);
    let xsdt_at = append(&mut image, &bytes(&xsdt));
    let rsdp = bytes(&Rsdp::new(OEM, xsdt_at));
    image.iter_mut().zip(rsdp).for_each(|(to, from)| *to = from);
    image
}

/// Adds a table, aligned; returns its address.
fn append(image: &mut Vec<u8>, table: &[u8]) -> u64 {
    image.resize(image.len().next_multiple_of(16), 0);
    let at = layout::ACPI + image.len() as u64;
    image.extend(table);
    at
}

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut out = Vec::new();
    table.to_aml_bytes(&mut out);
    out
}

fn port(address: u16) -> GAS {
    GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, u64::from(address))
}

fn fadt(dsdt: u64) -> acpi_tables::fadt::FADT {
    let mut fadt = FADTBuilder::new(OEM, OEM_TABLE, 1)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton);
    fadt.reset_reg = port(RESET_PORT);
    fadt.reset_value = RESET_VALUE;
    fadt.sleep_control_reg = port(SLEEP_CONTROL_PORT);
    fadt.sleep_status_reg = port(SLEEP_STATUS_PORT);
    // IA-PC boot architecture: no VGA, no MSI, no PCIe ASPM, no CMOS clock; and no 8042, by its bit being clear.
    fadt.iapc_boot_arch = (1 << 2 | 1 << 3 | 1 << 4 | 1 << 5).into();
    fadt.finalize()
}

fn madt(cpus: u8) -> MADT {
    let mut madt = MADT::new(OEM, OEM_TABLE, 1, LocalInterruptController::Address(LOCAL_APIC));
    for cpu in 0..cpus {
        madt.add_structure(ProcessorLocalApic::new(cpu, cpu, EnabledStatus::Enabled));
    }
    madt.add_structure(IoApic::new(0, IOAPIC, 0));
    madt
}

fn dsdt(layout: &Layout) -> Sdt {
    let mut body = Vec::new();
    for (uid, window) in (0u32..).zip(&layout.devices) {
        let base = u32::try_from(window.base).unwrap_or(u32::MAX);
        let memory = Memory32Fixed::new(true, base, hull_virtio::window::WINDOW as u32);
        let interrupt = Interrupt::new(true, true, false, false, window.gsi);
        Device::new(
            Path::new(&format!("_SB_.V{uid:03X}")),
            vec![
                &Name::new(Path::new("_HID"), &"LNRO0005"),
                &Name::new(Path::new("_UID"), &uid),
                &Name::new(Path::new("_CCA"), &ONE),
                &Name::new(Path::new("_CRS"), &ResourceTemplate::new(vec![&memory, &interrupt])),
            ],
        )
        .to_aml_bytes(&mut body);
    }
    platform(&mut body);
    let mut dsdt = Sdt::new(*b"DSDT", 36, 6, OEM, OEM_TABLE, 1);
    dsdt.append_slice(&body);
    dsdt
}

/// Serial port, panic device, power button with its event device, and the off state.
fn platform(body: &mut Vec<u8>) {
    let serial_ports = IO::new(0x3f8, 0x3f8, 0, 8);
    let serial_line = Interrupt::new(true, true, false, false, layout::SERIAL_GSI);
    Device::new(
        Path::new("_SB_.COM1"),
        vec![
            &Name::new(Path::new("_HID"), &EISAName::new("PNP0501")),
            &Name::new(Path::new("_UID"), &ZERO),
            &Name::new(Path::new("_CRS"), &ResourceTemplate::new(vec![&serial_ports, &serial_line])),
        ],
    )
    .to_aml_bytes(body);
    let panic_port = IO::new(PANIC_PORT, PANIC_PORT, 1, 1);
    Device::new(
        Path::new("_SB_.PEVT"),
        vec![
            &Name::new(Path::new("_HID"), &"QEMU0001"),
            &Name::new(Path::new("_STA"), &0x0fu8),
            &Name::new(Path::new("_CRS"), &ResourceTemplate::new(vec![&panic_port])),
        ],
    )
    .to_aml_bytes(body);
    Device::new(Path::new("_SB_.PWRB"), vec![&Name::new(Path::new("_HID"), &EISAName::new("PNP0C0C"))])
        .to_aml_bytes(body);
    let event_line = Interrupt::new(true, true, false, false, layout::EVENT_GSI);
    let event = layout::EVENT_GSI;
    Device::new(
        Path::new("_SB_.GED_"),
        vec![
            &Name::new(Path::new("_HID"), &"ACPI0013"),
            &Name::new(Path::new("_CRS"), &ResourceTemplate::new(vec![&event_line])),
            &Method::new(
                Path::new("_EVT"),
                1,
                true,
                vec![&If::new(
                    &Equal::new(&Arg(0), &event),
                    vec![&Notify::new(&Path::new("\\_SB_.PWRB"), &0x80u8)],
                )],
            ),
        ],
    )
    .to_aml_bytes(body);
    Name::new(Path::new("_S5_"), &Package::new(vec![&SLEEP_TYPE_OFF])).to_aml_bytes(body);
}

#[cfg(test)]
mod tests;
