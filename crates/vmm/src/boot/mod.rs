//! Loading what the guest starts with: kernel, initial RAM disk, command line, boot parameters.
//!
//! Implements the Linux/x86 boot protocol's 64-bit entry (Documentation/arch/x86/boot.rst) for ELF kernels and
//! for bzImage. Owner: the machine, once, before the first instruction.

pub mod acpi;
pub mod elf;
pub mod linux;
