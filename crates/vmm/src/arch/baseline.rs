//! The named baselines x86-64-v2, v3 and v4 (x86-64 psABI, "micro-architecture levels"): a guest sees the features of
//! its level and no others, so that what it runs on one host runs on every host of the fleet.
//!
//! A pure function of the table that KVM supports. Invariant: every register that announces features is in [`ALLOWED`]
//! or cleared; a feature nobody has heard of yet is not shown. What belongs to the platform (interrupt controller,
//! clock) or protects the guest (supervisor-mode protection, speculation controls) stays as the host has it; no
//! program is compiled for it. Vendor, family, model and name stay the host's as well.

use kvm_bindings::kvm_cpuid_entry2;

use crate::arch::cpuid::CpuidError;

/// A level of the psABI: 2, 3 or 4.
pub type Level = u8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Register {
    Eax,
    Ebx,
    Ecx,
    Edx,
}

use Register::{Eax, Ebx, Ecx, Edx};

/// A feature that a level adds to the one below, and where it is: leaf, register, bit.
struct Feature {
    level: Level,
    name: &'static str,
    leaf: u32,
    register: Register,
    bit: u32,
}

const fn feature(level: Level, name: &'static str, leaf: u32, register: Register, bit: u32) -> Feature {
    Feature { level, name, leaf, register, bit }
}

const EXTENDED: u32 = 0x8000_0001;

/// Names are those of /proc/cpuinfo, but for sse3, which is pni there.
const FEATURES: [Feature; 21] = [
    feature(2, "sse3", 1, Ecx, 0),
    feature(2, "ssse3", 1, Ecx, 9),
    feature(2, "cx16", 1, Ecx, 13),
    feature(2, "sse4_1", 1, Ecx, 19),
    feature(2, "sse4_2", 1, Ecx, 20),
    feature(2, "popcnt", 1, Ecx, 23),
    feature(2, "lahf_lm", EXTENDED, Ecx, 0),
    feature(3, "fma", 1, Ecx, 12),
    feature(3, "movbe", 1, Ecx, 22),
    feature(3, "xsave", 1, Ecx, 26),
    feature(3, "avx", 1, Ecx, 28),
    feature(3, "f16c", 1, Ecx, 29),
    feature(3, "bmi1", 7, Ebx, 3),
    feature(3, "avx2", 7, Ebx, 5),
    feature(3, "bmi2", 7, Ebx, 8),
    feature(3, "abm", EXTENDED, Ecx, 5),
    feature(4, "avx512f", 7, Ebx, 16),
    feature(4, "avx512dq", 7, Ebx, 17),
    feature(4, "avx512cd", 7, Ebx, 28),
    feature(4, "avx512bw", 7, Ebx, 30),
    feature(4, "avx512vl", 7, Ebx, 31),
];

const fn bits<const N: usize>(list: [u32; N]) -> u32 {
    let (mut mask, mut index) = (0, 0);
    while index < N {
        mask |= 1 << list[index];
        index += 1;
    }
    mask
}

/// What every x86-64 processor has, in leaf 1's edx: from the FPU to SSE2.
const FIRST_LEVEL: u32 =
    bits([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 19, 23, 24, 25, 26, 28]);
/// The part of it that AMD repeats in leaf 0x80000001.
const REPEATED: u32 = FIRST_LEVEL & 0x0183_f3ff;

/// What is allowed on every level, beyond [`FEATURES`], in the registers that announce features. All other
/// registers of these leaves are no features and stay.
const ALLOWED: [(u32, Register, u32); 15] = [
    // x2APIC, TSC deadline timer, hypervisor.
    (1, Ecx, bits([21, 24, 31])),
    (1, Edx, FIRST_LEVEL),
    // SMEP, SMAP; UMIP; MD_CLEAR, IBRS, STIBP, L1D flush, ARCH_CAPABILITIES, SSBD.
    (7, Ebx, bits([7, 20])),
    (7, Ecx, bits([2])),
    (7, Edx, bits([10, 26, 27, 28, 29, 31])),
    // The performance counters have no level.
    (0xa, Eax, 0),
    (0xa, Ebx, 0),
    (0xa, Ecx, 0),
    (0xa, Edx, 0),
    // Which cores belong together.
    (EXTENDED, Ecx, bits([1, 22])),
    // SYSCALL, NX, RDTSCP, long mode.
    (EXTENDED, Edx, REPEATED | bits([11, 20, 27, 29])),
    // The TSC does not stop.
    (0x8000_0007, Edx, bits([8])),
    // IBPB, IBRS, STIBP, SSBD.
    (0x8000_0008, Ebx, bits([12, 14, 15, 24, 25])),
    // LFENCE serializes; null selectors clear their base.
    (0x8000_0021, Eax, bits([2, 6])),
    (0x8000_0021, Ebx, 0),
];

/// Leaves of features that no level has: SGX, tracing, tiles, AVX10, SVM, encryption.
const HIDDEN: [u32; 9] = [0x12, 0x14, 0x19, 0x1d, 0x1e, 0x24, 0x8000_000a, 0x8000_001b, 0x8000_001f];

const XSAVE_LEAF: u32 = 0xd;
/// The part of the save area that is always there: FPU, SSE and the header, in bytes.
const XSAVE_FIXED: u32 = 576;

/// The state components that a level's registers have (XCR0).
fn xsave_components(level: Level) -> u32 {
    match level {
        0..=2 => 0,
        3 => bits([0, 1, 2]),
        _ => bits([0, 1, 2, 5, 6, 7]),
    }
}

/// Masks a processor's table down to a level; `model` is its name.
///
/// # Errors
/// When the table lacks a feature of the level.
pub fn limit(table: &mut Vec<kvm_cpuid_entry2>, level: Level, model: &'static str) -> Result<(), CpuidError> {
    for feature in FEATURES.iter().filter(|feature| feature.level <= level) {
        let mut entries = table.iter_mut().filter(|entry| is(entry, feature.leaf));
        if !entries.any(|entry| *word(entry, feature.register) >> feature.bit & 1 == 1) {
            return Err(CpuidError::Lacks { feature: feature.name, model });
        }
    }
    // Leaf 7 has features in further subleaves, of which no level has any.
    table.retain(|entry| !HIDDEN.contains(&entry.function) && (entry.function != 7 || entry.index == 0));
    for entry in table.iter_mut() {
        for (leaf, register, always) in ALLOWED {
            if entry.function == leaf {
                *word(entry, register) &= always | of_level(level, leaf, register);
            }
        }
        if entry.function == 7 {
            entry.eax = 0; // no further subleaf
        }
    }
    limit_xsave(table, xsave_components(level));
    Ok(())
}

/// The bits that a level and those below it have in a register.
fn of_level(level: Level, leaf: u32, register: Register) -> u32 {
    FEATURES
        .iter()
        .filter(|feature| feature.level <= level && feature.leaf == leaf && feature.register == register)
        .fold(0, |mask, feature| mask | 1 << feature.bit)
}

/// Leaf 0xd, which says what XSAVE saves: the level's components in the standard format, nothing for the supervisor.
fn limit_xsave(table: &mut Vec<kvm_cpuid_entry2>, components: u32) {
    let has = |index: u32| components.checked_shr(index).unwrap_or(0) & 1 == 1;
    table.retain(|entry| {
        entry.function != XSAVE_LEAF || (components != 0 && (entry.index < 2 || has(entry.index)))
    });
    let end = table
        .iter()
        .filter(|entry| entry.function == XSAVE_LEAF && entry.index >= 2)
        .map(|entry| entry.eax.saturating_add(entry.ebx))
        .fold(XSAVE_FIXED, u32::max);
    for entry in table.iter_mut().filter(|entry| entry.function == XSAVE_LEAF) {
        match entry.index {
            0 => {
                entry.eax &= components;
                (entry.ebx, entry.ecx, entry.edx) = (XSAVE_FIXED, end, 0);
            }
            1 => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0),
            _ => {}
        }
    }
}

/// Whether an entry is a leaf's first.
fn is(entry: &kvm_cpuid_entry2, leaf: u32) -> bool {
    entry.function == leaf && entry.index == 0
}

fn word(entry: &mut kvm_cpuid_entry2, register: Register) -> &mut u32 {
    match register {
        Eax => &mut entry.eax,
        Ebx => &mut entry.ebx,
        Ecx => &mut entry.ecx,
        Edx => &mut entry.edx,
    }
}

#[cfg(test)]
mod tests;
