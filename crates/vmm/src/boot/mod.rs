//! Loading what the guest starts with: kernel, initial RAM disk, command line, boot parameters.
//!
//! Implements the Linux/x86 boot protocol's 64-bit entry (Documentation/arch/x86/boot.rst) for ELF kernels and
//! for bzImage, and the PVH entry for ELF kernels. Owner: the machine, once, before the first instruction.

pub mod acpi;
pub mod elf;
pub mod firmware;
pub mod linux;
pub mod pvh;

/// Where the first processor starts, and in which mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// In long mode, with the boot parameters in `rsi`.
    Linux64(u64),
    /// In 32-bit mode without paging, with the start information in `ebx`.
    Pvh(u32),
}
