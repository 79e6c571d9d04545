//! A virtual processor's registers at its first instruction: flat segments and long mode with an identity-mapped first
//! GiB, as the Linux 64-bit boot protocol demands, or 32-bit mode without paging, as PVH does (Intel SDM volume 3,
//! chapters 2, 3 and 11).

use hull_virtio::device::Memory;
use kvm_bindings::{Msrs, kvm_fpu, kvm_msr_entry, kvm_regs, kvm_segment};
use kvm_ioctls::VcpuFd;
use vm_memory::{Bytes, GuestAddress};

use crate::boot::Entry;
use crate::layout;

/// Why a processor cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// KVM refused.
    #[error("KVM refused the processor's {what}")]
    Kvm {
        /// Which registers.
        what: &'static str,
        /// What KVM said.
        #[source]
        source: kvm_ioctls::Error,
    },
    /// The tables do not fit.
    #[error("the boot tables do not fit into the guest's memory")]
    Memory(#[from] vm_memory::GuestMemoryError),
    /// The list of model-specific registers is too long.
    #[error("the list of model-specific registers is too long")]
    Msrs,
}

const CODE: u64 = 0x00af_9b00_0000_ffff;
const DATA: u64 = 0x00cf_9300_0000_ffff;
/// 32-bit code.
const CODE_32: u64 = 0x00cf_9b00_0000_ffff;
const TASK: u64 = 0x008f_8b00_0000_ffff;

const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;

const MSR_MISC_ENABLE: u32 = 0x1a0;
const MISC_ENABLE_FAST_STRING: u64 = 1;
const MSR_MTRR_DEF_TYPE: u32 = 0x2ff;
/// Enabled, write-back.
const MTRR_WRITE_BACK: u64 = 1 << 11 | 6;

/// Writes the descriptor and page tables that the first instruction runs on.
///
/// # Errors
/// When guest memory is too small.
pub fn write_tables(memory: &Memory) -> Result<(), RegisterError> {
    // The boot protocol's __BOOT_CS is 0x10 and its __BOOT_DS 0x18.
    for (index, entry) in (0u64..).zip([0, 0, CODE, DATA, TASK, CODE_32]) {
        memory.write_obj(entry, GuestAddress(layout::GDT + 8 * index))?;
    }
    let (level4, level3, level2) =
        (layout::PAGE_TABLES, layout::PAGE_TABLES + 0x1000, layout::PAGE_TABLES + 0x2000);
    memory.write_obj(level3 | 3, GuestAddress(level4))?;
    memory.write_obj(level2 | 3, GuestAddress(level3))?;
    let mut pages = [0; 4096];
    for (entry, page) in pages.chunks_exact_mut(8).zip(0u64..) {
        entry.copy_from_slice(&(page << 21 | 0x83).to_le_bytes());
    }
    Ok(memory.write_slice(&pages, GuestAddress(level2))?)
}

/// Sets up a processor: the first one to start at `entry`, the others to wait for their start-up interrupt.
///
/// # Errors
/// When KVM refuses.
pub fn set_up(vcpu: &VcpuFd, index: u8, entry: Entry) -> Result<(), RegisterError> {
    let refused = |what| move |source| RegisterError::Kvm { what, source };
    let entry_of = |index, data| kvm_msr_entry { index, data, ..Default::default() };
    let msrs = Msrs::from_entries(&[
        entry_of(MSR_MISC_ENABLE, MISC_ENABLE_FAST_STRING),
        entry_of(MSR_MTRR_DEF_TYPE, MTRR_WRITE_BACK),
    ])
    .map_err(|_| RegisterError::Msrs)?;
    vcpu.set_msrs(&msrs).map_err(refused("model-specific registers"))?;
    local_interrupts(vcpu)?;
    if index > 0 {
        return Ok(());
    }
    let fpu = kvm_fpu { fcw: 0x37f, mxcsr: 0x1f80, ..Default::default() };
    vcpu.set_fpu(&fpu).map_err(refused("floating point state"))?;
    vcpu.set_regs(&general(entry)).map_err(refused("general registers"))?;
    let mut special = vcpu.get_sregs().map_err(refused("special registers"))?;
    special.gdt.base = layout::GDT;
    special.gdt.limit = 8 * 6 - 1;
    special.idt.limit = 0;
    for data in [&mut special.ds, &mut special.es, &mut special.fs, &mut special.gs, &mut special.ss] {
        *data = segment(DATA, 0x18);
    }
    special.tr = segment(TASK, 0x20);
    match entry {
        Entry::Linux64(_) => {
            special.cs = segment(CODE, 0x10);
            special.cr0 |= CR0_PE | CR0_PG;
            special.cr3 = layout::PAGE_TABLES;
            special.cr4 |= CR4_PAE;
            special.efer |= EFER_LME | EFER_LMA;
        }
        Entry::Pvh(_) => {
            special.cs = segment(CODE_32, 0x28);
            (special.cr0, special.cr4, special.efer) = (CR0_PE | CR0_ET, 0, 0);
        }
    }
    vcpu.set_sregs(&special).map_err(refused("special registers"))
}

/// The general registers, with the pointer that the entry expects.
fn general(entry: Entry) -> kvm_regs {
    let rflags = 2;
    match entry {
        Entry::Linux64(rip) => kvm_regs {
            rip,
            rsi: layout::ZERO_PAGE,
            rsp: layout::BOOT_STACK,
            rbp: layout::BOOT_STACK,
            rflags,
            ..Default::default()
        },
        Entry::Pvh(rip) => kvm_regs { rip: rip.into(), rbx: layout::ZERO_PAGE, rflags, ..Default::default() },
    }
}

/// The local APIC's two lines: LINT0 takes the legacy controller's interrupts, LINT1 non-maskable ones.
fn local_interrupts(vcpu: &VcpuFd) -> Result<(), RegisterError> {
    const LINT0: usize = 0x350;
    const LINT1: usize = 0x360;
    const DELIVERY: std::ops::Range<usize> = 0..2;
    let refused = |source| RegisterError::Kvm { what: "local interrupt controller", source };
    let mut lapic = vcpu.get_lapic().map_err(refused)?;
    for (register, mode) in [(LINT0, 7i8), (LINT1, 4)] {
        if let Some(bytes) = lapic.regs.get_mut(register..)
            && let Some([_, mode_byte]) = bytes.get_mut(DELIVERY)
        {
            // Delivery mode: bits 8 to 10.
            *mode_byte = *mode_byte & !7 | mode;
        }
    }
    vcpu.set_lapic(&lapic).map_err(refused)
}

/// A segment register from its descriptor.
fn segment(descriptor: u64, selector: u16) -> kvm_segment {
    let bits = |shift: u32, mask: u64| u8::try_from(descriptor >> shift & mask).unwrap_or(0);
    kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        type_: bits(40, 0xf),
        s: bits(44, 1),
        dpl: bits(45, 3),
        present: bits(47, 1),
        avl: bits(52, 1),
        l: bits(53, 1),
        db: bits(54, 1),
        g: bits(55, 1),
        ..Default::default()
    }
}
