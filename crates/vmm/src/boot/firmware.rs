//! All the firmware there is: the instructions at the address where a PC's BIOS starts (Intel SDM volume 3, 9.1.4).
//!
//! Owner: the machine, once, before the first instruction. Linux on hardware-reduced ACPI restarts through EFI and,
//! there being none, by a jump in real mode to `f000:fff0`, past the ACPI reset register and the keyboard
//! controller. Without instructions there the guest would run through whatever memory holds, for ever.

use hull_virtio::device::Memory;
use vm_memory::{Bytes, GuestAddress};

use crate::boot::acpi::RESET_VALUE;
use crate::layout;
use crate::memory::MemoryError;
use crate::platform::RESET_PORT;

/// Writes the ACPI reset register, in 16-bit code.
const fn instructions() -> [u8; 9] {
    let [low, high] = RESET_PORT.to_le_bytes();
    [
        0xba,
        low,
        high, // mov dx, RESET_PORT
        0xb0,
        RESET_VALUE, // mov al, RESET_VALUE
        0xee,        // out dx, al
        0xf4,        // hlt
        0xeb,
        0xfd, // jmp to the hlt
    ]
}

/// Puts the instructions where a restart jumps to.
///
/// # Errors
/// When guest memory is too small.
pub fn write(memory: &Memory) -> Result<(), MemoryError> {
    memory
        .write_slice(&instructions(), GuestAddress(layout::RESET_VECTOR))
        .map_err(|_| MemoryError::TooSmall("the reset vector"))
}
